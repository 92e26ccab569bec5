"""Plots magnitudes of activations, weights and updates, layer by layer.

    jaxdiff train --config=digits --workdir=runs/digits \\
        --config.magnitudes_every=50
    jaxdiff magnitudes --workdirs=runs/digits,runs/other --out=magnitudes.png

One row of panels per run [EDM2 fig. 3], and a table of how much each quantity changed: its
geometric mean over layers at the first and the last row, their ratio, and the span of that
mean, largest over smallest; the extremes over all layers and rows; and the largest growth
of a layer, last over first, with that layer's name.
"""

from pathlib import Path
from typing import Any

from absl import flags

from jaxdiff.commands import command
from jaxdiff.runtime import jsontext
from jaxdiff.runtime.files import place, write_atomically
from jaxdiff.train import magnitudes
from jaxdiff.types.ranges import NonNegative

WORKDIRS = flags.DEFINE_list("workdirs", None, "Runs with --config.magnitudes_every.")
OUT = flags.DEFINE_string("out", "magnitudes.png", "The picture.")
flags.mark_flags_as_required(["workdirs"])


def main() -> None:
    """Reads, draws, prints."""
    workdirs = command.names(WORKDIRS, "runs/mine")
    out = command.folder(OUT)
    command.writes(OUT, out)
    folders = [place(w) for w in workdirs]
    last = [folder.name for folder in folders]
    names = last if len({*last}) == len(last) else workdirs
    runs = {
        name: _rows(folder / "magnitudes.jsonl")
        for name, folder in zip(names, folders, strict=True)
    }
    figure = magnitudes.plot(runs)
    write_atomically(out, lambda f: figure.savefig(f, format="png"))
    head = ("first", "last", "last/first", "span", "smallest", "largest", "growth")
    print(f"{'run':>12} {'':>12} " + " ".join(f"{name:>10}" for name in head))
    for name, rows in runs.items():
        for kind in magnitudes.KINDS:
            d = magnitudes.drift(rows, kind)
            numbers = (d.first, d.last, d.ratio, d.span, d.smallest, d.largest, d.growth)
            columns = " ".join(f"{v:10.6g}" for v in numbers)
            print(f"{name:>12} {kind:>12} {columns} {d.layer}")
    print(f"{len(runs)} runs drawn: {OUT.value}")


def _rows(path: Path) -> list[dict[str, Any]]:
    if not path.is_file() or not path.read_text().strip():
        raise FileNotFoundError(f"{path} is empty: train with --config.magnitudes_every=50")
    lines, rows = path.read_text().split("\n"), []
    for n, line in enumerate(lines, 1):
        try:
            rows.append(_row(line))
        except ValueError as error:
            if n < len(lines):  # an incomplete last line is still being written
                raise ValueError(f"{path}, line {n}: {error}") from error
    return rows


def _row(line: str) -> dict[str, Any]:
    """A line of the file, checked."""
    row = jsontext.loads(line, "it")
    kinds = dict.fromkeys(magnitudes.KINDS, dict)
    jsontext.fields(row, "it", step=jsontext.Step, **kinds)
    for kind in kinds:
        if not row[kind]:
            raise ValueError(f"{kind!r} holds no layers")
        jsontext.fields(row[kind], kind, **dict.fromkeys(row[kind], NonNegative))
    return row
