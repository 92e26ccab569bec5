"""The page itself: one HTML file that needs no server, no network and no other file."""

import base64
import hashlib
import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from jaxdiff.runtime.files import PathLike, Place, place, printable, write_atomically
from jaxdiff.train.report import charts, curves, pictures
from jaxdiff.train.report.charts import Chart
from jaxdiff.train.report.commands import going_on
from jaxdiff.train.report.contents import Contents, Row, number, read

NAME = "report.html"
"""The page's file, in the run's folder."""


def write_report(workdir: PathLike) -> Place:
    """Writes report.html in a run's folder from what lies there, and returns its path.

    One page with pictures over time, curves, scores, magnitudes, settings, versions and
    the commands that go on from the run. It opens from disk, loads nothing, and shows
    texts from data as text. Missing and damaged files are named in it.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     line = '{"step": 100, "loss": 0.5}\\n'
    ...     _ = (Path(folder) / "metrics.jsonl").write_text(line)
    ...     path = write_report(folder)
    ...     path.name, path.read_text()[:15]
    ('report.html', '<!DOCTYPE html>')

    Raises:
        FileNotFoundError: the folder holds no run.
        OSError: the page cannot be written.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     metrics = place(folder) / "metrics.jsonl"
    ...     _ = metrics.write_text('{"step": 1, "loss": 0.5}')
    ...     page = write_report(folder)
    ...     page.name, "<svg" in page.read_text()
    ('report.html', True)
    """
    contents = read(place(workdir))
    path = place(workdir) / NAME
    text = page(contents).encode()
    write_atomically(path, lambda file: file.write(text))
    return path


def page(contents: Contents) -> str:
    """The HTML of a run's page."""
    shown = pictures.chosen(len(contents.sheets))
    embedded, faults = pictures.embedded([contents.sheets[k] for k in shown])
    drawn = Drawn()
    sections = {
        "Pictures": _pictures(contents, embedded),
        "Training": drawn.cards(curves.of_training(contents)) + _thinned(contents),
        "Scores": _scores(contents, drawn),
        "EMA lengths and sweeps": _sweeps(contents, drawn),
        "Magnitudes": _magnitudes(contents, drawn),
        "Settings": _settings(contents),
        "Starts and versions": _starts(contents),
        "Go on": _commands(contents),
    }
    sections = {title: body for title, body in sections.items() if body}
    script, style = _file("page.js"), _file("page.css")
    policy = (
        f"default-src 'none'; img-src data:; script-src {_hash(script)}; "
        f"style-src {_hash(style)}"
    )
    name = _text(contents.workdir.name or contents.workdir)
    links = " ".join(f'<a href="#{_anchor(title)}">{title}</a>' for title in sections)
    body = "".join(
        f'<section id="{_anchor(title)}"><h2>{title}</h2>{text}</section>'
        for title, text in sections.items()
    )
    written = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{name}: jaxdiff</title><style>{style}</style></head>\n<body>"
        f"<header><h1>{name}</h1>{_summary(contents)}<nav>{links}</nav></header>"
        f"<main>{_notes([*contents.notes, *faults])}{body}</main>\n"
        f"<footer>Written by jaxdiff at {written} from the files in "
        f"<code>{_text(contents.workdir)}</code>.</footer>\n"
        f'<script type="application/json" id="numbers">{_json(drawn.numbers)}</script>\n'
        f"<script>{script}</script></body></html>\n"
    )


class Drawn:
    """The charts of a page in the order in which they are drawn, for its script."""

    def __init__(self) -> None:
        self.numbers: dict[str, list[Any]] = {"charts": []}

    def cards(self, drawn: Iterable[Chart]) -> str:
        """The charts side by side; "" if there are none."""
        cards = "".join(map(self._card, drawn))
        return f'<div class="cards">{cards}</div>' if cards else ""

    def _card(self, chart: Chart) -> str:
        index = len(self.numbers["charts"])
        self.numbers["charts"].append(charts.numbers(chart))
        names = "".join(
            f'<span><svg viewBox="0 0 18 8"><line {charts.look(s)} x1="0" x2="18" '
            f'y1="4" y2="4"/></svg>{_text(s.name)}</span>'
            for s in chart.series
        )
        legend = names if len(chart.series) > 1 else ""
        return (
            f'<figure class="card" data-chart="{index}"><h3>{_text(chart.title)}</h3>'
            f'<div class="legend">{legend}</div>{charts.svg(chart)}'
            '<div class="said"></div></figure>'
        )


def _summary(contents: Contents) -> str:
    """What is trained, how far it is, and the last numbers."""
    e, last = contents.experiment, (contents.metrics or [{}])[-1]
    step, total = int(last.get("step", 0)), number(e.get("steps"))
    what = (_kind(e.get(part)) for part in ("network", "data", "schedule"))
    trained = ", ".join(_text(name) for name in what if name)
    config = f" · --config={_text(contents.config)}" if contents.config else ""
    part = min(1.0, step / total) if total > 0 else 0.0
    tiles = {"step": f"{step:,}" + (f" of {total:,.0f}" if total > 0 else "")}
    for name, form in TILES.items():
        value = number(last.get(name))
        tiles |= {form[0]: form[1](value)} if math.isfinite(value) else {}
    left = (total - step) * number(last.get("seconds_per_step"))
    if left > 0:
        tiles["time left"] = _duration(left)
    cells = "".join(f"<div><dt>{k}</dt><dd>{_text(v)}</dd></div>" for k, v in tiles.items())
    return (
        f'<p class="soft">{trained}{config}</p>'
        '<svg class="bar" viewBox="0 0 100 1" preserveAspectRatio="none" role="img" '
        f'aria-label="{part:.0%} of the steps"><rect class="all" width="100" height="1"/>'
        f'<rect class="done" width="{100 * part:g}" height="1"/></svg>'
        f'<dl class="tiles">{cells}</dl>'
    )


TILES = {
    "loss": ("loss", lambda v: f"{v:.4g}"),
    "images_per_s": ("throughput", lambda v: f"{v:,.0f} images/s"),
    "goodput": ("goodput: time in steps", lambda v: f"{v:.0%}"),
    "data_wait": ("waiting for data", lambda v: f"{v:.1%}"),
    "memory_mib": ("device memory, peak", lambda v: f"{v:,.0f} MiB"),
}
"""Of the last metrics: a name and a text for each."""


def _kind(value: Any) -> str:
    """The type of a part of an experiment, such as UNet."""
    kind = value.get("type") if isinstance(value, dict) else None
    return kind.rpartition(".")[2] if isinstance(kind, str) else ""


def _duration(seconds: float) -> str:
    """Hours and minutes, rounded up.

    8000 s are 133.3 minutes.

    >>> _duration(50.0), _duration(8000.0), _duration(3e5)
    ('1 min', '2 h 14 min', '83 h')
    """
    hours, minutes = divmod(math.ceil(seconds / 60), 60)
    if hours >= 48:
        return f"{hours:,} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def _notes(notes: Sequence[str]) -> str:
    lines = "".join(f"<li>{_text(note)}</li>" for note in notes)
    return f'<ul class="notes">{lines}</ul>' if notes else ""


def _pictures(contents: Contents, shown: Sequence[pictures.Picture]) -> str:
    """A large picture with a slider over time, and all of them side by side."""
    if not shown:
        return (
            '<p class="soft">No pictures yet: they are drawn every sample_every steps.</p>'
        )
    strip = "".join(
        f'<figure><img src="{p.uri}" alt="samples of step {p.step}">'
        f"<figcaption>step {p.step:,}</figcaption></figure>"
        for p in shown
    )
    left = max(0, len(contents.sheets) - pictures.MOST)
    told = [f"{left:,} of {len(contents.sheets):,} are left out, evenly over time."] * bool(
        left
    )
    told += ["Large ones are shrunk."] * any(p.shrunk for p in shown)
    told.append("All of them, in full size, are in the folder samples.")
    return (
        '<div class="pictures"><div class="card" id="viewer" hidden><img id="large" alt="">'
        f'<input type="range" id="slider" min="0" max="{len(shown) - 1}" '
        'aria-label="which step is shown"><div id="slider-label" class="soft"></div></div>'
        f'<div class="strip">{strip}</div></div><p class="soft">{" ".join(told)}</p>'
    )


def _thinned(contents: Contents) -> str:
    count, shown = len(contents.metrics), len(curves.thinned(contents.metrics))
    if count == shown:
        return ""
    return f'<p class="soft">{shown:,} of {count:,} lines of metrics.jsonl are drawn.</p>'


def _scores(contents: Contents, drawn: Drawn) -> str:
    """Scores over training, and each evaluation with the errors by noise level."""
    parts = [drawn.cards(curves.of_scores(contents))]
    for name, measured in contents.evaluations.items():
        title = f"{measured.get('title', '')} ({name})"
        notes = [n for n in measured.get("notes") or () if isinstance(n, str)]
        bins = measured.get("bins")
        levels = curves.of_levels(bins if isinstance(bins, list) else ())
        parts += [
            f'<div class="card"><h3>{_text(title)}</h3>{_metrics(measured)}',
            f"{_list(notes)}</div>",
            drawn.cards(levels),
        ]
    for name, measured in contents.bits.items():
        bits = measured.get("bits_per_dim")
        total = bits.get("total", bits) if isinstance(bits, dict) else None
        if isinstance(total, dict):
            mean, error = (number(total.get(key)) for key in ("mean", "error"))
            parts.append(f"<p>{_text(name)}: {mean:.4f} ± {error:.2g} bits/dim.</p>")
        if isinstance(bins := measured.get("bins"), list):
            parts.append(drawn.cards(curves.of_levels(bins)))
    return "".join(parts)


def _metrics(measured: Row) -> str:
    """An evaluation: over blocks, and of held-out images beside as many drawn ones."""
    heads = ["metric", "mean", "spread", "min", "max"]
    beside = {
        name: measured[name]
        for name in ("drawn", "held_out")
        if isinstance(measured.get(name), dict)
    }
    size = measured.get("as_many", "as many")
    heads += [f"{size} {name.replace('_', ' ')}" for name in beside]
    rows = []
    for metric, values in measured["metrics"].items():
        values = values if isinstance(values, dict) else {}
        cells = [number(values.get(key)) for key in heads[1:5]]
        cells += [number(other.get(metric)) for other in beside.values()]
        rows.append([metric, *(f"{v:.4g}" if math.isfinite(v) else "" for v in cells)])
    return _table(heads, rows, right=True)


def _sweeps(contents: Contents, drawn: Drawn) -> str:
    parts = []
    for name, sweep in contents.sweeps.items():
        cards = drawn.cards(curves.of_sweep(sweep))
        title = f"{sweep.get('title', '')} ({name})"
        band = "Mean over blocks of seeds, with a band from the least to the largest."
        parts += [f'<p class="soft">{_text(title)}. {band}</p>{cards}'] if cards else []
    return "".join(parts)


def _magnitudes(contents: Contents, drawn: Drawn) -> str:
    cards = drawn.cards(curves.of_magnitudes(contents))
    told = "Geometric means over layers, with bands from the smallest to the largest layer."
    return f'<p class="soft">{told}</p>{cards}' if cards else ""


def _settings(contents: Contents) -> str:
    """What differs from the ready config, the classes, and all settings."""
    changed, parts = contents.changed(), []
    name = f"<code>{_text(contents.config)}</code>"
    if changed:
        rows = [[path, _value(old), _value(new)] for path, old, new in changed]
        parts.append(f"<p>What differs from the ready config {name}:</p>")
        parts.append(_table(["field", str(contents.config), "this run"], rows))
    elif changed == []:
        parts.append(f"<p>All settings are those of the ready config {name}.</p>")
    elif contents.config:
        parts.append(f"<p>Started from {name}, which is not a ready config.</p>")
    if contents.classes:
        parts.append(f"<p>{len(contents.classes):,} classes: ")
        parts.append(_text(", ".join(contents.classes[:100])))
        parts.append(", …</p>" if len(contents.classes) > 100 else "</p>")
    if contents.experiment:
        text = json.dumps(contents.experiment, indent=1, ensure_ascii=False)
        lines = "\n".join(map(printable, text.split("\n")))
        parts.append(f"<details><summary>All settings</summary><pre>{escape(lines)}</pre>")
        parts.append("</details>")
    return "".join(parts)


def _value(value: Any) -> str:
    return "—" if value is None else json.dumps(value, ensure_ascii=False)


STARTED = ("jaxdiff", "commit", "jax", "flax", "python")
"""What the table of starts shows of each, beside when, where and why."""


def _starts(contents: Contents) -> str:
    rows = []
    for start in contents.starts:
        devices = f"{start.get('devices', '?')} × {start.get('device_kind', '?')}"
        known = [str(start.get(name, ""))[:12] for name in STARTED]
        notes = start.get("notes")
        told = "; ".join(map(str, notes)) if isinstance(notes, list) else ""
        when = str(start.get("time", ""))[:16].replace("T", " ")
        rows.append([when, str(start.get("step", "")), *known, devices, told])
    heads = ["time (UTC)", "from step", *STARTED, "devices", "notes"]
    return f'<div class="scroll">{_table(heads, rows)}</div>' if rows else ""


def _commands(contents: Contents) -> str:
    lines = "".join(
        f'{_text(what)}<pre class="command">{_text(line)}</pre>'
        for what, line in going_on(contents)
    )
    return f'<div class="card">{lines}</div>'


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], right: bool = False) -> str:
    """A table; with `right`, all columns but the first are numbers."""
    kind = lambda k: ' class="n"' if right and k else ""
    cells = lambda tag, row: "".join(
        f"<{tag}{kind(k)}>{_text(cell)}</{tag}>" for k, cell in enumerate(row)
    )
    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{cells("th", heads)}</tr>{body}</table></div>'


def _list(texts: Sequence[str]) -> str:
    lines = "".join(f"<li>{_text(text)}</li>" for text in texts)
    return f'<ul class="soft">{lines}</ul>' if texts else ""


def _text(value: object) -> str:
    """A text from data as HTML: no part of it is markup, and it is one line."""
    return escape(printable(value))


def _json(value: Mapping[str, Any]) -> str:
    """JSON that ends no HTML; NaN and infinities are texts, as JSON has no such numbers."""
    text = json.dumps(_finite(value), allow_nan=False, separators=(",", ":"))
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_finite(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")


def _file(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """The name of a script or style in the page's policy, which allows no others."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
