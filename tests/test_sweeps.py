"""Sweeps: what an axis may be, what is measured again, and what a minimum is."""

import contextlib
import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jaxdiff.evaluation import sweep_report
from jaxdiff.evaluation.sweep_axes import Axis, Book, axis, points, verdict
from jaxdiff.runs import snapshots
from tests.cases import commands
from tests.cases.commands import Done
from tests.test_nag_commands import DRAWS, untrained


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("std=0.02, 0.1", ("0.02", "0.1")),
        ("guidance=-1,0,2e0", ("-1", "0", "2e0")),
        ("interval=0:inf,0.3:5", ("0:inf", "0.3:5")),
        ("solver=Heun,DDIM(eta=0.5)", ("Heun", "DDIM(eta=0.5)")),
        (
            "grid=Karras(rho=5.0, sigma_max=10.0),Listed((4.0, 1.0))",
            ("Karras(rho=5.0, sigma_max=10.0)", "Listed((4.0, 1.0))"),
        ),
    ],
)
def test_an_axis_is_a_name_and_values(text: str, values: tuple[str, ...]) -> None:
    assert axis(text) == Axis(text.split("=")[0], values)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("std", "'std' is not an axis: write NAME=VALUE"),
        ("width=1", "there is no axis 'width': give std, guidance"),
        ("steps=", "steps has no values"),
        ("steps=4,0", "steps are 1, 2, …; got 0"),
        ("steps=4.5", "steps are 1, 2, …; got 4.5"),
        ("guidance=1,x", "guidance has the value 'x', not a number"),
        ("guidance=nan", "'nan', not a finite number"),
        ("guidance=1:2", "'1:2', not a finite number"),
        ("std=0.3", r"std = 0.3 is not in \(0, 0.2887\)"),
        ("std=0.1,0.10", "std has the value 0.10 twice"),
        ("solver=Heun,Heun()", r"solver has the value Heun\(\) twice"),
        ("solver=Karras", "'Karras' is none of .*Heun"),
        ("interval=5", "write LOW:HIGH"),
        ("interval=5:0.3", "write LOW:HIGH"),
        ("interval=0:nan", "write LOW:HIGH"),
    ],
)
def test_what_is_no_axis_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        axis(text)


def test_axes_make_their_product_the_last_fastest() -> None:
    axes = [axis("std=0.2,0.1"), axis("steps=8,4")]
    assert points(axes) == [
        {"std": "0.2", "steps": "8"},
        {"std": "0.2", "steps": "4"},
        {"std": "0.1", "steps": "8"},
        {"std": "0.1", "steps": "4"},
    ]
    with pytest.raises(ValueError, match="an axis is given twice: std, std"):
        points([axis("std=0.1"), axis("std=0.2")])


# ------------------------------------------------------------------ the book


def test_a_row_is_found_by_all_that_made_it(tmp_path: Path) -> None:
    book = Book(tmp_path / "new" / "sweep.jsonl")
    made_by = {"std": 0.1, "sampling": {"interval": (0.0, math.inf)}, "seed": 0}
    assert book.find(made_by) is None
    book.write(made_by, {"blocks": [{"fd_x": 1.0}]})
    book.write({**made_by, "seed": 1}, {"blocks": [{"fd_x": 2.0}]})
    again = Book(book.path)
    assert again.find(made_by)["blocks"] == [{"fd_x": 1.0}]
    assert again.find({**made_by, "seed": 1})["blocks"] == [{"fd_x": 2.0}]
    for other in ({**made_by, "seed": 2}, {**made_by, "more": 1}, {"std": 0.1}):
        assert again.find(other) is None
    again.write(made_by, {"blocks": [{"fd_x": 3.0}]})
    assert book.find(made_by)["blocks"] == [{"fd_x": 3.0}]  # the last one holds


def test_what_a_kill_leaves_of_a_line_costs_that_row_alone(tmp_path: Path) -> None:
    book = Book(tmp_path / "sweep.jsonl")
    for seed in range(3):
        book.write({"seed": seed}, {"blocks": [{"fd_x": float(seed)}]})
    whole = book.path.read_bytes()
    for end in range(whole[:-1].rindex(b"\n") + 1, len(whole)):
        book.path.write_bytes(whole[:end])
        whole_rows = [seed for seed in range(3) if book.find({"seed": seed})]
        assert whole_rows in ([0, 1], [0, 1, 2])
        assert (2 in whole_rows) == (end == len(whole) - 1)  # the newline alone is lost
        book.write({"seed": 3}, {"blocks": [{"fd_x": 3.0}]})
        assert [s for s in range(4) if book.find({"seed": s})] == [*whole_rows, 3]


# ------------------------------------------------------------------ the verdict

NOISE = np.array([0.0, 3.0, -2.0])
"""What three blocks have in common at all points."""
OWN = 0.1 * np.array([[1, -1, 0], [0, 1, -1], [-1, 0, 1], [1, 0, -1]])
NUMBERS = np.array([1.0, 2.0, 3.0, 4.0])


@pytest.mark.parametrize(
    ("curve", "at", "best"),
    [
        ([3.0, 1.0, 1.5, 2.0], "inside", 2),
        ([1.0, 1.5, 2.0, 3.0], "low end", 1),
        ([3.0, 2.0, 1.5, 1.0], "high end", 4),
        ([1.1, 1.0, 2.0, 3.0], "low end", 2),  # the least is inside, but by chance
        ([2.0, 2.0, 1.0, 1.1], "high end", 3),
        ([1.0, 1.1, 0.9, 1.0], "flat", 3),
    ],
)
def test_a_minimum_is_inside_where_both_ends_are_told(
    curve: list[float], at: str, best: float
) -> None:
    """Blocks share an offset far above what sets points apart, and differ by 0.1."""
    values = np.array(curve)[:, None] + NOISE + OWN
    judged = verdict(NUMBERS, values, -1)
    assert (judged.at, judged.best) == (at, best)
    i = NUMBERS.tolist().index(best)
    np.testing.assert_allclose(judged.low[0], curve[0] - curve[i], atol=1e-12)
    d = values[3] - values[i]
    np.testing.assert_allclose(judged.high, (d.mean(), np.std(d, ddof=1)), atol=1e-12)
    upside_down = verdict(NUMBERS, -values, 1)
    assert upside_down == judged
    order = [2, 0, 3, 1]
    shuffled = verdict(NUMBERS[order], values[order], -1)
    assert shuffled == judged


def test_one_block_does_not_judge() -> None:
    assert verdict(NUMBERS[:3], np.array([[3.0], [1.0], [3.0]]), -1).at == "unknown"


def test_how_often_noise_makes_a_minimum() -> None:
    """Two points without difference: 2 P(t_2 > 2 sqrt(3)) = 1 - sqrt(6/7)."""
    draws = np.random.default_rng(1).normal(size=(5000, 2, 3))
    places = [verdict(NUMBERS[:2], values, -1).at for values in draws]
    expected = 1 - math.sqrt(6 / 7)
    assert expected / 2 == pytest.approx(1 / 27, rel=0.01)  # as `SURE` says
    share = np.mean([at != "flat" for at in places])
    assert abs(share - expected) < 4 * math.sqrt(expected / len(draws))


def rows(axes: list[Axis], metric: Any) -> list[dict[str, Any]]:
    """Rows of made-up metrics: fd_x is metric(point), recall_x its opposite."""
    rows_made = []
    for point in points(axes):
        value = metric(**{name: float(text) for name, text in point.items()})
        blocks = [
            {"fd_x": value + n, "recall_x": -value - n, "brightness": 0.0}
            for n in (0.0, 1.0)
        ]
        rows_made.append({"point": point, "blocks": blocks})
    return rows_made


def test_a_plane_is_judged_along_both_lines_through_its_best_point() -> None:
    axes = [axis("guidance=0,1,2"), axis("std=0.2,0.05,0.1")]
    metric = lambda guidance, std: (guidance - 1) ** 2 + (20 * std - guidance) ** 2
    verdicts = list(sweep_report.verdicts(axes, rows(axes, metric)))
    assert [(f["metric"], f["axis"]) for f in verdicts] == [
        ("fd_x", "guidance"),
        ("fd_x", "std"),
        ("recall_x", "guidance"),
        ("recall_x", "std"),
    ]
    # the best is guidance 1, std 0.05, where guidance's ends are worse by 2 and 2
    for one in verdicts:
        across = one["axis"] == "guidance"
        assert one["at"] == ("inside" if across else "low end")
        assert one["best"] == (1.0 if across else 0.05)
        assert one["others"] == ({"std": "0.05"} if across else {"guidance": "1"})
    np.testing.assert_allclose((verdicts[0]["low"][0], verdicts[0]["high"][0]), (2, 2))
    sentence = sweep_report.sentence(verdicts[0])
    assert sentence.startswith("fd_x: least at guidance 1, std 0.05; 0 is worse by 2 ± ")
    assert sentence.endswith("the best is inside")
    text = sweep_report.tables(axes, rows(axes, metric))
    (bold,) = (line for line in text.splitlines() if "**" in line)
    assert bold == "| 1 | 0.05 | **0.5 ± 0.71** | **-0.5 ± 0.71** |"


def test_a_picture_has_a_line_for_each_value_of_the_second_axis(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.axes import Axes

    drawn = []
    errorbar = Axes.errorbar
    monkeypatch.setattr(
        Axes,
        "errorbar",
        lambda self, x, y, e, **k: (
            drawn.append((self.get_title(), k["label"], *map(list, (x, y, e))))
            or errorbar(self, x, y, e, **k)
        ),
    )
    axes = [axis("std=0.2,0.05"), axis("guidance=0,1")]
    metric = lambda std, guidance: 10 * std + guidance
    sweep_report.save_picture(tmp_path / "x.png", axes, rows(axes, metric), "title")
    assert (tmp_path / "x.png").stat().st_size > 1000
    assert len(drawn) == 2 * 2  # metrics x values of the second
    _, label, x, y, bars = drawn[1]
    assert (label, x) == ("1", [0.05, 0.2])
    np.testing.assert_allclose(y, [0.5 + 1 + 0.5, 2 + 1 + 0.5])
    np.testing.assert_allclose(bars, math.sqrt(0.5))
    with pytest.raises(ValueError, match="one axis or two, not 3"):
        sweep_report.save_picture(tmp_path / "y.png", [*axes, axis("steps=1")], [], "")


# ------------------------------------------------------------------ the command


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of snapshots alone, whose weights are the same at all times."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    folder.mkdir()
    first = untrained(folder / snapshots.TRACKED, DRAWS)
    snapshot = dataclasses.replace(snapshots.read(first), step=2, images=2)
    snapshots.write(folder / snapshots.TRACKED, snapshot, "float32")
    first.unlink()
    return folder


def run(workdir: Path, *arguments: str) -> Done:
    how = "--number=8", "--blocks=2", "--extractors=pixels8", "--cpu_devices=1"
    return commands.run("sweep", f"--workdir={workdir}", *how, *arguments)


@contextlib.contextmanager
def compiling() -> Iterator[list[str]]:
    """The names of the programs that are compiled meanwhile."""
    names: list[str] = []

    def listen(event: str, _: float, **about: Any) -> None:
        if "backend_compile" in event:
            names.append(about["fun_name"])

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield names
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def test_a_wider_sweep_measures_what_is_new_alone(workdir: Path, tmp_path: Path) -> None:
    out = f"--out={tmp_path / 'found'}"
    steps = "--steps=2", "--noise_interval=0.3,inf"
    with compiling() as programs:
        done = run(workdir, *steps, "--over=noise_guidance=0,1,2", out)
    assert done.status == 0, done.err
    book = workdir / "quality" / "sweep.jsonl"
    first = book.read_text()
    assert first.count("\n") == 3
    assert (
        programs.count("jit(program)") == 2
    )  # without guidance and with it, of any weight
    assert not list((workdir / "quality").glob("*/*.npz"))  # images are not kept
    wider = "--over=noise_guidance=2,4", "--over=std=0.1,0.05", "--keep"
    with compiling() as programs:
        done = run(workdir, *steps, *wider, out)
    assert done.status == 0, done.err
    assert book.read_text().startswith(first)
    assert book.read_text().count("\n") == 3 + 3
    assert programs.count("jit(program)") == 0  # for all averages: the one before is kept
    written = json.loads((tmp_path / "found.json").read_text())
    assert [row["point"] for row in written["rows"]] == [
        {"noise_guidance": w, "std": s} for w in "24" for s in ("0.1", "0.05")
    ]
    values = [[b["fd_pixels8"] for b in row["blocks"]] for row in written["rows"]]
    assert values[0] == [
        b["fd_pixels8"] for b in json.loads(first.splitlines()[2])["blocks"]
    ]
    # one snapshot has a share of 1, so that of all widths the same is made
    assert values[0] == values[1]
    assert values[2] == values[3]
    assert abs(values[0][0] / values[2][0] - 1) > 0.01
    assert len(list((workdir / "quality" / "images").glob("*/*.npz"))) == 2
    assert "| 2 | 0.1 |" in (tmp_path / "found.md").read_text()
    assert (tmp_path / "found.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--steps=2", "--over=steps=2,3"),
            "--steps and --over=steps=… both set it",
        ),
        (("--over=guidance=0,1",), "sampling.guidance is 1.0, which needs a network"),
        (("--over=threshold=0.5,2",), "threshold must be a number from 0 to 1, got 2.0"),
        (("--over=steps=4,20000",), "--over=steps=…: flag --steps=20000: "),
        (("--over=std=0.1,0.2", "--checkpoint=1"), "and no such snapshot"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: tuple[str, ...], message: str, workdir: Path
) -> None:
    done = run(workdir, *arguments)
    assert done.status == 1
    assert message in done.err
    assert done.err.count("\n") == 1, done.err


def test_a_width_needs_snapshots(workdir: Path, tmp_path: Path) -> None:
    (only,) = (workdir / snapshots.TRACKED).glob("*.npz")
    done = run(only, "--over=std=0.1,0.05")
    assert done.status == 1
    assert "holds no snapshots: train with --config.snapshot_every" in done.err
    assert done.err.count("\n") == 1, done.err
