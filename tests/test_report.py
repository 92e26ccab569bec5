"""report.html of a run: its numbers, its texts, its size, and how it looks in a browser."""

import dataclasses
import html
import json
import math
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jaxdiff as jd
from jaxdiff.analysis.plots import COLOURS
from jaxdiff.commands import main
from jaxdiff.config import from_file, to_dict
from jaxdiff.runtime.files import place
from jaxdiff.train import fit, levels, reporting, write_report
from jaxdiff.train.report import charts, curves, pictures
from jaxdiff.train.report.charts import Axis, Chart, Series
from tests import browser, buckets
from tests.cases import commands
from tests.extending import forgetting
from tests.test_train import PLAIN, Small

HOSTILE = "<script>document.title='run'</script>\"'&</pre><b>x"
"""A text that is markup where it is not escaped."""


class Page(HTMLParser):
    """The parts of a page that tests look at."""

    def __init__(self, path: Any) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.inside, self.scripts = "", []
        self.html = path.read_text()
        self.feed(self.html)
        self.text = " ".join(" ".join(self.texts).split())
        data = next(t for a, t in self.scripts if a.get("type") == "application/json")
        self.charts = {c["title"]: c for c in json.loads(data)["charts"]}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.inside = tag
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside == "script":
            self.scripts.append((self.tags[-1][1], data))
        elif self.inside != "style":
            self.texts.append(data)

    def attributes(self, name: str) -> list[str]:
        return [attributes[name] for _, attributes in self.tags if name in attributes]


def row(step: int, **more: float) -> dict[str, float]:
    """A line of metrics as training writes them, with numbers that no two steps share."""
    base = {"loss": 1 / step, "grad_norm": 3.0 * step, "learning_rate": 1e-3 / step}
    times = {"goodput": 0.5 + step / 1000, "images_per_s": 500.0 + step, "data_wait": 0.01}
    return {"step": step, **base, **times, "seconds_per_step": 0.25} | more


def write(path: Path, *rows: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(r)}\n" for r in rows))


def sheet(path: Path, side: int = 40, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    Image.fromarray(noise).save(path)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder with everything that a page shows."""
    folder = tmp_path / "mine"
    write(folder / "metrics.jsonl", *(row(n) for n in range(10, 90, 10)))
    for_levels = lambda n: {"loss": {"-1": 2.0 * n, "3": 1.0}, "images": {"-1": n, "3": 9}}
    losses = ({"step": n} | for_levels(n) for n in (10, 20, 30))
    write(folder / "loss_by_logsnr.jsonl", *losses)
    layers = lambda n: {"enc/a": 1.0 * n, "enc/b": 4.0 * n, "dec/a": 2.0}
    kinds = ("activations", "weights", "updates")
    drifts = ({"step": n} | dict.fromkeys(kinds, layers(n)) for n in (10, 20))
    write(folder / "magnitudes.jsonl", *drifts)
    experiment = to_dict(from_file("digits")) | {"batch_size": 64, "steps": 100}
    (folder / "config.json").write_text(json.dumps(experiment))
    (folder / "classes.json").write_text(json.dumps(["zero", HOSTILE]))
    start = {"time": "2026-01-02T03:04:05+00:00", "step": 0, "jaxdiff": "0.2.0"}
    start |= {"commit": "0123456789abcdef", "devices": 2, "device_kind": "cpu"}
    arguments = ["--config=digits", f"--workdir={folder}", "--config.batch_size=64"]
    start |= {"notes": [], "arguments": arguments, "experiment": experiment}
    write(folder / "starts.jsonl", start, start | {"step": 40})
    for n in (20, 40, 60, 80):
        sheet(folder / f"samples/{n:07d}.png", seed=n)
    scores = {"mean": 3.5, "spread": 0.25, "min": 3.0, "max": 4.0}
    error = {"mean": 0.5, "error": 0.1}
    bins = [{"logsnr": [k, k + 1], "x0_mse": error, "eps_mse": error} for k in range(3)]
    evaluated = {"title": "mine, step 80", "metrics": {"fd_pixels8": scores}, "bins": bins}
    evaluated |= {"as_many": 100, "held_out": {"fd_pixels8": 1.5}, "notes": ["2 x 100"]}
    write(folder / "quality/quality.json", evaluated)
    points = zip(("0.05", "0.1", "0.2"), (3.0, 2.0, 4.0), strict=True)
    blocks = lambda v: [{"fd_pixels8": v}, {"fd_pixels8": v + 1}]
    swept = [{"point": {"std": std}, "blocks": blocks(v)} for std, v in points]
    write(folder / "quality/sweep.json", {"title": "mine", "rows": swept})
    return folder


def series(page: Page, title: str, k: int = 0) -> tuple[list[float], list[float]]:
    one = page.charts[title]["series"][k]
    return list(map(float, one["x"])), list(map(float, one["y"]))


def test_the_numbers_of_the_page_are_those_of_the_files(run: Path) -> None:
    page = Page(write_report(run))
    rows = [json.loads(line) for line in (run / "metrics.jsonl").open()]
    steps = [float(r["step"]) for r in rows]
    for name, (title, _, _) in curves.KNOWN.items():
        if name in rows[0]:
            assert series(page, title) == (steps, [r[name] for r in rows])
    shares = [100 * r["goodput"] for r in rows], [100 * r["data_wait"] for r in rows]
    assert [series(page, "Where the time goes", k)[1] for k in (0, 1)] == [*shares]
    by_level = page.charts["Loss by noise level"]["series"]
    assert [one["name"] for one in by_level] == ["to step 10", "to step 20", "to step 30"]
    assert [one["y"] for one in by_level] == [["NaN", "NaN"], [40.0, "NaN"], [60.0, "NaN"]]
    assert series(page, "Activations", 0) == ([10.0, 20.0], pytest.approx([20.0, 40.0]))
    assert series(page, "Weights", 1) == ([10.0, 20.0], pytest.approx([2.0, 2.0]))
    assert series(page, "fd_pixels8 over EMA length") == ([0.05, 0.1, 0.2], [3.5, 2.5, 4.5])
    assert series(page, "Error by noise level") == ([0.5, 1.5, 2.5], [0.5, 0.5, 0.5])
    assert "step 80 of 100" in page.text
    assert "fd_pixels8 3.5 0.25 3 4 1.5" in page.text


def test_curves_are_drawn_where_their_numbers_are(run: Path) -> None:
    page = Page(write_report(run))
    drawn = re.findall(r'data-chart="\d+">.*?</figure>', page.html, re.DOTALL)
    for chart, figure in zip(page.charts.values(), drawn, strict=True):
        x, y = (Axis(*ends) for ends in chart["axes"])
        paths = re.findall(r'<path class="c\d[^>]*?" d="([^"]*)"', figure)
        for one, path in zip(chart["series"], paths, strict=True):
            at = [tuple(map(float, p.split())) for p in re.findall(r"[\d.]+ [\d.]+", path)]
            both = zip(one["x"], one["y"], strict=True)
            made = [(x(a), y(b)) for a, b in both if b != "NaN"]
            assert len(at) == len(made)
            np.testing.assert_allclose(at, made, atol=0.051)  # a tenth of a pixel


def test_an_axis_maps_its_ends_and_is_even_in_the_logarithm() -> None:
    line, decades = Axis(-1.0, 3.0, 50.0, 350.0, False), Axis(0.01, 100.0, 200.0, 0.0, True)
    assert [line(v) for v in (-1.0, 0.0, 3.0)] == [50, 125, 350]
    assert [decades(v) for v in (0.01, 1.0, 100.0)] == pytest.approx([200, 100, 0])
    assert [text for _, text in decades.ticks()] == ["0.01", "0.1", "1", "10", "100"]
    for low, high in ((0.0, 1e-12), (-5e8, 7e9), (0.999, 1.001), (3.0, 3.5)):
        ticks = [v for v, _ in Axis(low, high, 0.0, 1.0, False).ticks()]
        assert 3 <= len(ticks) <= 11
        assert low - 1e-9 * abs(low) <= ticks[0] < ticks[-1] <= high * (1 + 1e-9)


def test_texts_from_data_are_texts(run: Path) -> None:
    plain = Page(write_report(run))
    named = json.loads((run / "config.json").read_text())
    named["data"] = {"type": HOSTILE, "path": HOSTILE, HOSTILE: HOSTILE}
    (run / "config.json").write_text(json.dumps(named))
    write(run / "metrics.jsonl", row(10, **{HOSTILE: 1.0}), {"step": 10, HOSTILE: 2.0})
    start = {"time": HOSTILE, "step": 0, "commit": HOSTILE, "notes": [HOSTILE]}
    start |= {"arguments": [f"--config={HOSTILE}"], "device_kind": HOSTILE, "jax": HOSTILE}
    write(run / "starts.jsonl", start)
    scores = {HOSTILE: dict.fromkeys(("mean", "spread", "min", "max"), 1.0)}
    judged = {"title": HOSTILE, "metrics": scores, "notes": [HOSTILE], "as_many": HOSTILE}
    write(run / "quality/quality.json", judged | {"drawn": {}})
    write(run / f"quality/<img src=x>{'&'}.json", {"metrics": {}, "title": HOSTILE})
    (run / "classes.json").write_text(json.dumps([HOSTILE, "\x1b[31m", "\ud800"]))
    folder = run.rename(run.parent / "<b>&")
    page = Page(write_report(folder))
    assert {tag for tag, _ in page.tags} <= {tag for tag, _ in plain.tags}
    assert [a.get("id") for tag, a in page.tags if tag == "script"] == ["numbers", None]
    assert page.text.count(HOSTILE) >= 9
    assert HOSTILE in page.charts
    assert "\x1b" not in page.html


def test_the_page_loads_nothing(run: Path) -> None:
    page = Page(write_report(run))
    sources = page.attributes("src") + page.attributes("href") + page.attributes("action")
    assert sources
    assert all(s.startswith(("data:image/", "#")) for s in sources)
    rest = re.sub(r"data:image/png;base64,[\w+/=]*", "", page.html)
    assert not re.search(r"https?:|//[a-z]|@import|url\(|\bimport\b|fetch", rest)
    assert not page.attributes("style")
    policy = next(a["content"] for t, a in page.tags if a.get("http-equiv"))
    assert policy.startswith("default-src 'none'; img-src data:; script-src 'sha256-")
    assert "unsafe" not in policy


def test_settings_starts_and_commands(run: Path) -> None:
    page = Page(write_report(run))
    assert "field digits this run" in page.text
    assert "batch_size 128 64" in page.text
    steps = from_file("digits").steps
    assert f"steps {steps} 100" in page.text
    assert "seed 0" not in page.text.partition("All settings")[0]
    assert "0123456789ab" in page.text
    lines = re.findall(r'<pre class="command">(.*?)</pre>', page.html)
    resume = f"jaxdiff train --config=digits --workdir={run} --config.batch_size=64"
    assert lines[0] == resume
    names = [line.split()[1] for line in lines]
    assert set(names) <= set(main.names())
    assert {"sample", "evaluate", "likelihood", "magnitudes", "report"} <= set(names)
    assert page.html.count("resumed at step 40") == page.html.count('class="mark"') > 5


def test_pictures_are_few_small_and_even_over_time(run: Path) -> None:
    for n in range(100, 200):
        sheet(run / f"samples/{n:07d}.png", 300, n)  # 270 kB each
    (run / "samples/0000199.png").write_bytes(b"cut")
    page = Page(path := write_report(run))
    assert path.stat().st_size < 3e6
    shown = [int(n) for n in re.findall(r"<figcaption>step (\d+)", page.html)]
    assert len(shown) == pictures.MOST - 1
    assert shown[0] == 20
    assert np.ptp(np.diff(shown[4:])) <= 1
    assert "80 of 104 are left out" in page.text
    assert "0000199.png is not a picture that can be read" in page.text


def test_long_runs_are_thinned(run: Path) -> None:
    write(run / "metrics.jsonl", *(row(n) for n in range(1, 5002)))
    page = Page(path := write_report(run))
    steps, _ = series(page, "Learning rate")
    assert (steps[0], steps[1], steps[-1]) == (1, 7, 5001)
    assert len(steps) <= curves.MOST
    assert path.stat().st_size < 1e6
    assert "835 of 5,001 lines" in page.text


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "No metrics yet"),
        ([row(10)], "There is one line of metrics so far"),
        ([row(10), row(20, loss=math.nan), row(30)], "The loss is not finite in 1 of 3"),
        ([row(10), row(20), row(10, loss=7.0)], "1 lines of metrics.jsonl repeat a step"),
        ([row(10), [1]], "1 line is not readable in metrics.jsonl"),
        ([row(10, loss="x"), row(20, loss=math.inf)], "The loss is not finite in 2 of 2"),
    ],
)
def test_the_page_says_what_is_odd(rows: list, said: str, tmp_path: Path) -> None:
    write(tmp_path / "metrics.jsonl", *rows)
    page = Page(write_report(tmp_path))
    assert said in page.text
    assert "No pictures yet" in page.text
    assert not re.search(r"nan|inf(?!o)", "".join(page.attributes("d")))


def test_not_finite_values_are_gaps_and_stay_what_they_are(tmp_path: Path) -> None:
    losses = [1.0, math.nan, math.inf, 2.0, 3.0]
    write(tmp_path / "metrics.jsonl", *(row(n + 1, loss=v) for n, v in enumerate(losses)))
    page = Page(write_report(tmp_path))
    np.testing.assert_array_equal(series(page, "Loss")[1], losses)
    figure = page.html.partition("<h3>Loss</h3>")[2].partition("</figure>")[0]
    path = re.search(r'<path class="c0" d="([^"]*)"', figure)[1]
    assert re.sub(r"[\d. ]", "", path) == "MML"
    assert figure.count("<circle") == 3


def test_of_lines_for_one_step_the_last_counts(tmp_path: Path) -> None:
    rows = row(10), row(20), {"step": 20, "fd_pixels8": 5.0}, row(20, loss=7.0), row(30)
    write(tmp_path / "metrics.jsonl", *rows)
    page = Page(write_report(tmp_path))
    assert series(page, "Loss") == ([10, 20, 30], [0.1, 7.0, 1 / 30])
    assert series(page, "fd_pixels8") == ([20], [5.0])


def test_no_file_of_a_run_stops_the_page(run: Path) -> None:
    names = [p for p in run.rglob("*.json*")]
    for content in (
        "",
        "[]",
        "{",
        '{"metrics": 3, "rows": 4}',
        '{"rows": [1, {}]}',
        "\x00",
    ):
        for path in names:
            path.write_text(content)
        if any(path.name == "metrics.jsonl" for path in names):
            Page(write_report(run))
    odd = {
        "metrics": {"a": 1, "b": []},
        "rows": [{"point": {"std": []}, "blocks": [{"fd": 1}]}],
    }
    odd |= {"title": [], "notes": [1], "bins": [{"logsnr": []}, 3, {"logsnr": ["x"]}]}
    for path in names:
        path.write_text(json.dumps(odd))
    Page(write_report(run))


def test_a_folder_without_a_run_is_one_line(tmp_path: Path) -> None:
    done = commands.run("report", f"--workdir={tmp_path}")
    assert done.status == 1
    assert re.fullmatch(r"error: .* holds no run \(.*\): name the folder .*\n", done.err)


def test_the_command_writes_the_page(run: Path) -> None:
    done = commands.run("report", f"--workdir={run}")
    assert done == (0, f"{run}/report.html: open it in a browser\n", "")
    assert Page(run / "report.html").charts


def test_a_run_in_a_bucket_has_a_page(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    buckets.in_memory(monkeypatch)
    there = place("gs://bucket/mine")
    for path in run.rglob("*"):
        if path.is_file():
            (there / str(path.relative_to(run))).write_bytes(path.read_bytes())
    page, local = Page(write_report("gs://bucket/mine")), Page(write_report(run))
    assert page.charts == local.charts
    assert page.attributes("src") == local.attributes("src")


def test_a_table_of_points_is_read_as_numbers() -> None:
    chart = Chart("t", [Series("s", [1.0], [2.0])], "y")
    assert charts.svg(chart).count("<circle") == 1
    assert "No finite value" in charts.svg(
        Chart("t", [Series("s", [1.0], [math.nan])], "y")
    )


def test_values_that_differ_by_rounding_look_equal() -> None:
    chart = Chart("t", [Series("s", [1.0, 2.0], [0.9999, 0.9999001])], "y")
    _, y = charts.axes(chart)
    assert abs(y(0.9999) - y(0.9999001)) < 0.1
    texts = [text for _, text in y.ticks()]
    assert len({*texts}) == len(texts) > 2


SHORT = dataclasses.replace(
    PLAIN, batch_size=1, steps=4, log_every=1, checkpoint_every=4, sample_every=2,
    sampling=dataclasses.replace(PLAIN.sampling, steps=2, images=1),
)  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def known() -> Iterator[None]:
    """The network is registered, so that checkpoints may name it."""
    with forgetting():
        jd.register(Small)
        yield


def test_training_writes_the_page_at_each_picture_and_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def look(workdir: Path) -> Any:
        path = write_report(workdir)
        seen.append(series(Page(path), "Loss")[0])
        return path

    monkeypatch.setattr(reporting, "write_report", look)
    fit(SHORT, tmp_path, progress=False, arguments=("--config=mine.py",))
    assert [steps[:2] for steps in seen] == [[1, 2], [1, 2]]
    assert seen[-1] == [1, 2, 3, 4]
    page = Page(tmp_path / "report.html")
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
    assert series(page, "Loss")[1] == [r["loss"] for r in rows]
    by_level = [json.loads(line) for line in (tmp_path / "loss_by_logsnr.jsonl").open()]
    means = [list(r["loss"].values()) for r in by_level]  # a step here has one image
    np.testing.assert_allclose(means, [[r["loss"]] for r in rows], rtol=1e-6)
    assert "jaxdiff train --config=mine.py" in page.text
    assert "Started from mine.py , which is not a ready config" in page.text


def test_losses_are_summed_by_noise_level() -> None:
    losses, logsnr = np.random.default_rng(0).normal(0, (1, 9), (500, 2)).T.astype("f")
    at = jd.NoiseLevel(
        *(np.exp(sign * logsnr / 4).reshape(-1, 1, 1, 1) for sign in (1, -1))
    )
    at = jax.tree.map(jnp.asarray, at)
    sums, counts = levels.by_logsnr(jnp.asarray(losses), at)
    edges = np.r_[-np.inf, np.arange(-18, 19, 2), np.inf]
    np.testing.assert_array_equal(counts, np.histogram(logsnr, edges)[0])
    exact = np.histogram(logsnr, edges, weights=losses)[0]
    np.testing.assert_allclose(sums, exact, rtol=1e-5, atol=1e-5)
    ends = jd.NoiseLevel(jnp.array([0.0, 1.0]), jnp.array([1.0, 0.0]))  # noise, and data
    _, counts = levels.by_logsnr(jnp.ones(2), ends)
    assert (counts[0], counts[-1]) == (1, 1)


def test_a_page_that_fails_does_not_stop_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(workdir: Path) -> None:
        raise KeyError("a fault")

    monkeypatch.setattr(reporting, "write_report", fails)
    with pytest.warns(UserWarning, match=r"^no report.html: 'a fault'$"):
        state = fit(SHORT, tmp_path, progress=False)
    assert int(state.step) == 4


CLICKS = """
<iframe src="mine/report.html" width="{width}" height="4000"></iframe><output></output>
<script>
const frame = document.querySelector("iframe");
frame.addEventListener("load", () => {{
  const page = frame.contentDocument, at = (name) => page.querySelector(name);
  const seen = {{title: page.title, wide: page.documentElement.scrollWidth}};
  seen.last = at("#slider-label").textContent;
  const slider = at("#slider");
  slider.value = 1;
  slider.dispatchEvent(new Event("input"));
  seen.second = [at("#slider-label").textContent, at("#large").naturalWidth];
  const svg = at("figure[data-chart] svg"), box = svg.getBoundingClientRect();
  const where = {{clientX: box.left + box.width, clientY: box.top + 9, bubbles: true}};
  svg.dispatchEvent(new PointerEvent("pointermove", where));
  seen.said = at(".said").textContent;
  document.querySelector("output").textContent = JSON.stringify(seen);
}});
</script>
"""
"""A page that looks at the report as a user would, at a width."""


@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_shows_the_page_at_the_width_of_a_phone_and_of_a_desk(
    run: Path, width: int
) -> None:
    write(run / "quality/quality.json", {"title": HOSTILE, "metrics": {}})
    write_report(run)
    outer = run.parent / "outer.html"
    outer.write_text(CLICKS.format(width=width))
    text = browser.opened(outer, run.parent / "profile", "--dump-dom")
    seen = json.loads(html.unescape(re.search(r"<output>(.*?)</output>", text)[1]))
    assert seen["title"] == "mine: jaxdiff"  # no text of the data was run
    assert seen["wide"] <= width
    assert (seen["last"], seen["second"]) == ("step 80", ["step 40", 40])
    assert seen["said"] == "step 80: 0.0125"


def test_a_screenshot_has_the_curves_in_their_colours(run: Path) -> None:
    path, shot = write_report(run), run.parent / "shot.png"
    size = "--window-size=1280,2400"
    browser.opened(path, run.parent / "profile", size, f"--screenshot={shot}")
    with Image.open(shot) as picture:
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    for colour in COLOURS[:2]:
        exact = [int(colour[k : k + 2], 16) for k in (1, 3, 5)]
        assert (np.abs(pixels.astype(int) - exact).max(1) <= 2).sum() > 50
