"""What commands write: said where it replaces a file, kept where something else fails."""

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jaxdiff import EDM, evaluation
from jaxdiff.evaluation import report
from jaxdiff.runs import snapshots
from tests import buckets, import_writer
from tests.cases.commands import run
from tests.test_nag_commands import ESTIMATES, LINEAR, untrained
from tests.test_snapshots import snapshot

SCORE = ("--number=8", "--blocks=1", "--extractors=pixels8")
COMMANDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "sample": ("generated.npz, generated.png", ("--number=4", "--steps=2")),
    "compare": ("compared.md, compared.png", ("--number=4", "--compare=Euler",
                                              "--compare_steps=2")),
    "edit": ("edited.npz, edited.png", ("--number=2", "--steps=2")),
    "evaluate": ("quality/quality.json, quality.md, quality.png", ("--steps=2", *SCORE)),
    "sweep": ("quality/sweep.md, sweep.json, sweep.png", ("--over=steps=2,3", *SCORE)),
    "likelihood": ("bits.json, bits.png", ("--by=bound", "--timesteps=2", "--number=2")),
    "noise_shift": ("noise_shift.json, noise_shift.png", ("--steps=3", "--number=8")),
}  # fmt: skip


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, and an estimator beside it."""
    folder = tmp_path_factory.mktemp("runs")
    untrained(folder / "level", ESTIMATES)
    return untrained(folder / "run", LINEAR)


def script(name: str, workdir: Path) -> list[str]:
    """The command of a name on a run."""
    flags = [f"--workdir={workdir}", *COMMANDS[name][1]]
    if name == "noise_shift":
        flags.append(f"--estimator={next((workdir.parents[1] / 'level').glob('*.npz'))}")
    return ["sample" if name == "compare" else name, *flags]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_second_time_says_what_it_replaces(name: str, workdir: Path) -> None:
    command, files = script(name, workdir), COMMANDS[name][0]
    first = run(*command)
    assert first.status == 0, first.err
    assert "replaced" not in first.err
    again = run(*command)
    assert again.status == 0, again.err
    line = rf"replaced .*/run/{re.escape(files)} \(written 20\d\d-\d\d-\d\d \d\d:\d\d\)\n"
    assert re.search(line, again.err), again.err
    for file in files.split(", "):
        assert Path(file).name in first.out  # each result is named at the end


def test_a_reference_that_is_there_is_said_too(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=np.zeros((8, 8, 8, 3), np.uint8))
    command = "reference", f"--images={tmp_path / 'x.npz'}", f"--out={tmp_path / 'ref.npz'}"
    command = (*command, "--extractors=pixels8")
    assert "replaced" not in run(*command).err
    assert f"replaced {tmp_path / 'ref.npz'} (written 20" in run(*command).err
    assert "replaced" not in run(*command, "--extractors=none").err  # nor was it


DAMAGED = ["", "{", "[]", "null", '{"step": 1}', '{"bits_per_dim": {"total": 3}}',
           '{"bits_per_dim": {"total": {"mean": "x", "error": 1.0}}, "each": [1.0]}',
           '{"bits_per_dim": {"total": {"mean": 3.0, "error": NaN}}, "each": [1.0]}',
           '{"bits_per_dim": {"total": {"mean": 3.0, "error": 1.0}}, "each": [Infinity]}',
           "[" * 100_000]  # fmt: skip


@pytest.mark.parametrize("text", DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_bound_beside_a_flow_costs_nothing(
    text: str, workdir: Path, tmp_path: Path
) -> None:
    (workdir.parent / "bits.json").write_text(text)
    flags = "--by=flow", "--number=2", "--steps=1", "--probes=1", f"--out={tmp_path / 'f'}"
    done = run("likelihood", f"--workdir={workdir}", *flags)
    assert done.status == 0, done.err
    assert "the bound is left out" in done.err
    assert len(json.loads((tmp_path / "f.json").read_text())["each"]["bits_per_dim"]) == 2
    assert (tmp_path / "f.png").exists()
    (workdir.parent / "bits.json").unlink()


def test_results_are_on_disk_before_anything_is_drawn(
    workdir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plot that fails, of whatever cause, costs the plot."""
    from matplotlib.figure import Figure

    from jaxdiff.analysis import image_grid

    def fails(*_: Any, **__: Any) -> None:
        raise ValueError("no plot today")

    monkeypatch.setattr(Figure, "savefig", fails)
    monkeypatch.setattr(image_grid, "save_grid", fails)
    results = {"sample": "npz", "compare": "md", "edit": "npz", "evaluate": "md",
               "sweep": "md", "likelihood": "json", "noise_shift": "json"}  # fmt: skip
    for name, suffix in results.items():
        done = run(*script(name, workdir), f"--out={tmp_path / name}")
        last = done.err.splitlines()[-1]  # which names this file, as one of the user's own
        assert (done.status, last.endswith("no plot today")) == (1, True), last
        assert (tmp_path / f"{name}.{suffix}").stat().st_size, name


@pytest.mark.parametrize("text", [r"$\frac{$", "$x^{", "a|b\x1b[31m\n# c <b>", "$$"])
def test_texts_of_data_are_no_markup(text: str, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "x.npz", images=images)
    command = "reference", f"--images={tmp_path / 'x.npz'}", f"--out={tmp_path / 'ref.npz'}"
    assert run(*command, "--extractors=pixels8").status == 0
    reference = dataclasses.replace(evaluation.load(tmp_path / "ref.npz"), source=text)
    evaluation.save(tmp_path / "ref.npz", reference)
    of = f"--images={tmp_path / 'x.npz'}", f"--reference={tmp_path / 'ref.npz'}"
    done = run("evaluate", *of, "--extractors=pixels8", f"--out={tmp_path / 'q'}")
    assert done.status == 0, done.err
    assert "\x1b" not in done.out + (tmp_path / "q.md").read_text()
    assert "\n# c" not in (tmp_path / "q.md").read_text()
    assert Image.open(tmp_path / "q.png").size == (1104, 864)
    assert report.markdown("<b>|") == r"\<b\>\|"


def test_a_workdir_with_dollars_is_a_title(workdir: Path, tmp_path: Path) -> None:
    other = untrained(tmp_path / "$a{ $b", LINEAR)
    for name in ("evaluate", "sweep"):
        done = run(*script(name, other))
        assert done.status == 0, done.err


def test_rows_of_a_sweep_that_are_damaged_are_measured_again(
    workdir: Path, tmp_path: Path
) -> None:
    at = untrained(tmp_path / "run", LINEAR)
    assert run(*script("sweep", at)).status == 0
    book = tmp_path / "run" / "quality" / "sweep.jsonl"
    rows = [json.loads(line) for line in book.read_text().splitlines()]
    point = lambda row: {k: row[k] for k in row.keys() - {"blocks", "seconds"}}
    assert point(rows[0]) != point(rows[1])
    rotten = [None, [], [3], [{}], [{"fd_pixels8": "x"}], [{"fd_pixels8": math.nan}]]
    rotten += [[{"fd_pixels8": -math.inf}], "x"]
    for i in range(0, len(rotten), len(rows)):  # one in each row
        pairs = list(zip(rows, rotten[i : i + len(rows)], strict=True))
        book.write_text("".join(json.dumps(r | {"blocks": b}) + "\n" for r, b in pairs))
        done = run(*script("sweep", at))
        assert done.status == 0, done.err
        new = [json.loads(line) for line in book.read_text().splitlines()[-len(rows) :]]
        assert [point(row) for row in new] == [point(row) for row in rows]
        for row in new:
            assert math.isfinite(row["blocks"][0]["fd_pixels8"])


def test_more_bits_than_bytes_have_are_warned_of(workdir: Path, tmp_path: Path) -> None:
    """On EDM's path the default is the flow, whose numbers make sense."""
    assert isinstance(LINEAR.parameterization, EDM)
    out = f"--out={tmp_path / 'b'}"
    flags = f"--workdir={workdir}", "--number=2", out
    done = run("likelihood", *flags, "--by=bound", "--timesteps=20")
    assert done.status == 0, done.err
    total = json.loads((tmp_path / "b.json").read_text())["bits_per_dim"]["total"]["mean"]
    assert total > 8
    assert f"warning: {total:.2f} bits/dim are more than the 8 that" in done.err
    assert "--by=flow" in done.err
    done = run("likelihood", *flags, "--steps=1", "--probes=1")
    assert "flow" in done.out
    done = run("likelihood", *flags, "--timesteps=2", "--steps=1")
    assert done.status == 1
    assert "leave it out, or add --by=" in done.err


def analyzed(folder: Path) -> tuple[list[str], str]:
    every = "schedules.png, densities.png, weightings.png, grids.png, terminal.csv, "
    flags = "--config=configs/digits.py", "--steps=3", f"--out={folder}"
    return ["analyze", *flags], f"{folder}/{every}terminal.json"


def reconstructed(folder: Path) -> tuple[list[str], str]:
    for step in (5, 10):
        for std in (0.05, 0.1):
            snapshots.write(folder / "snapshots", snapshot(step, std, [1.0]))
    flags = f"--workdir={folder}", "--std=0.08"
    return ["reconstruct", *flags], f"{folder}/posthoc/0000010-0.08.npz"


def imported(folder: Path) -> tuple[list[str], str]:
    z = np.load(Path(__file__).parents[1] / "golden/edm2/net_c_micro.npz")
    tensors = {k.removeprefix("sd/"): z[k] for k in z.files if k.startswith("sd/")}
    path = folder / "network-snapshot-0008388-0.100.pkl"
    path.write_bytes(import_writer.snapshot(tensors, json.loads(str(z["config"]))))
    flags = f"--file={path}", f"--out={folder}"
    return ["import_model", *flags], f"{folder}/snapshots/0004096-0.1.npz"


@pytest.mark.parametrize("prepared", [analyzed, reconstructed, imported])
def test_what_other_commands_replace_is_said(prepared: Any, tmp_path: Path) -> None:
    command, files = prepared(tmp_path)
    first = run(*command)
    assert first.status == 0, first.err
    assert "replaced" not in first.err
    again = run(*command)
    assert f"replaced {files} (written 20" in again.err, again.err


def test_objects_of_a_bucket_are_replaced_too(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = buckets.in_memory(monkeypatch)
    now = iter(range(1_700_000_000, 1_800_000_000))
    plain = store.info
    monkeypatch.setattr(store, "info", lambda path: plain(path) | {"mtime": next(now)})
    command = script("sample", workdir)
    for first in (True, False):
        done = run(*command, "--out=gs://bucket/a")
        assert done.status == 0, done.err
        assert ("replaced gs://bucket/a.npz, a.png (written 2023" in done.err) != first


def test_a_noise_shift_says_which_curve_is_which(
    workdir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.figure import Figure

    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    done = run(*script("noise_shift", workdir), f"--out={tmp_path / 'n'}")
    assert done.status == 0, done.err
    assert [bool(axes.get_legend()) for axes in drawn[0].axes][:2] == [True, False]


def test_a_sweep_against_another_reference_is_another(
    workdir: Path, tmp_path: Path
) -> None:
    """By what the file holds, and not by its name."""
    at, images = untrained(tmp_path / "run", LINEAR), tmp_path / "x.npz"
    command = "reference", f"--images={images}", f"--out={tmp_path / 'ref.npz'}"
    swept = [*script("sweep", at), f"--reference={tmp_path / 'ref.npz'}"]
    rows = []
    for seed in (0, 0, 1):
        numbers = np.random.default_rng(seed).integers(0, 256, (8, *LINEAR.data.shape))
        np.savez(images, images=numbers.astype(np.uint8))
        assert run(*command, "--extractors=pixels8").status == 0
        done = run(*swept)
        assert done.status == 0, done.err
        rows.append(len((at.parent / "quality/sweep.jsonl").read_text().splitlines()))
    assert rows == [2, 2, 4]


@pytest.mark.parametrize(
    ("command", "line"),
    [
        (("sample", f"--seed={2**32 - 2}", "--number=4"), "seeds must lie in 0"),
        (("sample", f"--number={10**7 + 1}"), "upper bound|at most|in the range"),
        (("evaluate", "--number=200000", "--blocks=100"), "20,000,000 images: give fewer"),
        (("evaluate", f"--seed={2**32 - 2}"), "seeds must lie in 0"),
        (("sweep", "--over=steps=2,3", f"--seed={2**32 - 2}"), "seeds must lie in 0"),
        (("noise_shift", f"--seed={2**32}"), "--seed"),
    ],
)
def test_more_seeds_than_there_are_cost_nothing(
    command: tuple[str, ...], line: str, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jaxdiff.runs import generate

    monkeypatch.setattr(generate, "image_keys", lambda *_: pytest.fail("drawn"))
    monkeypatch.setattr(evaluation, "judge_of", lambda *_, **__: pytest.fail("read"))
    done = run(
        *command, f"--workdir={workdir}", *(["--batch=1"] * (command[0] == "sample"))
    )
    assert done.status in (1, 2)
    assert re.search(line, done.err), done.err


def test_lines_of_a_warning_stay_apart(capsys: pytest.CaptureFixture) -> None:
    from tests.cases.commands import _fresh

    with _fresh():
        from jaxdiff.commands import command

        command._warn("two\nlines\x1b[31m")
    assert capsys.readouterr().err == "warning: two\nlines\\x1b[31m\n"


@pytest.mark.parametrize(
    ("command", "line"),
    [
        (("sample", f"--labels={'9' * 5000}"), "is not a class of this run"),
        (("sample", "--compare=Euler", f"--compare_steps={'9' * 5000}"), "each at most"),
        (("sample", "--compare=Euler", "--compare_steps=10001"), "each at most 10,000"),
        (("edit", "--box=0,0.5,1,1", f"--resample={'9' * 5000},1"), "each at most"),
        (("noise_shift", "--noise_guidance=1", "--noise_interval=1"), "is LOW,HIGH, such"),
    ],
)
def test_numbers_of_flags_are_no_pythons_words(
    command: tuple[str, ...], line: str, workdir: Path
) -> None:
    name, *flags = command
    start = script(name, workdir) if name == "noise_shift" else (name,)
    done = run(*start, *flags, f"--workdir={workdir}")
    assert done.status == 1
    assert line in done.err
    assert len(done.err) < 1000
