"""What commands write: said where it replaces a file, kept where something else fails."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jaxdiff import EDM, evaluation
from jaxdiff.evaluation import report
from tests.cases.commands import run
from tests.test_nag_commands import DRAWS, ESTIMATES, untrained

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
    return untrained(folder / "run", DRAWS)


def script(name: str, workdir: Path) -> list[str]:
    """The command of a name on a run."""
    flags = [f"--workdir={workdir}", *COMMANDS[name][1]]
    if name == "noise_shift":
        flags.append(f"--estimator={next((workdir.parents[1] / 'level').glob('*.npz'))}")
    return ["sample" if name == "compare" else name, *flags]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_second_time_says_what_it_replaces(name: str, workdir: Path) -> None:
    asked, files = script(name, workdir), COMMANDS[name][0]
    first = run(*asked)
    assert first.status == 0, first.err
    assert "replaced" not in first.err
    again = run(*asked)
    assert again.status == 0, again.err
    said = rf"replaced those of 20\d\d-\d\d-\d\d \d\d:\d\d: .*/run/{re.escape(files)}\n"
    assert re.search(said, again.err), again.err
    for file in files.split(", "):
        assert Path(file).name in first.out  # each result is named at the end


def test_a_reference_that_is_there_is_said_too(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=np.zeros((8, 8, 8, 3), np.uint8))
    asked = "reference", f"--images={tmp_path / 'x.npz'}", f"--out={tmp_path / 'ref.npz'}"
    asked = (*asked, "--extractors=pixels8")
    assert "replaced" not in run(*asked).err
    assert run(*asked).err.endswith(f": {tmp_path / 'ref.npz'}\n")
    assert "replaced" not in run(*asked, "--extractors=none").err  # nor was it


DAMAGED = ["", "{", "[]", "null", '{"step": 1}', '{"bits_per_dim": {"total": 3}}',
           '{"bits_per_dim": {"total": {"mean": "x", "error": 1.0}}, "each": [1.0]}',
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
        assert (done.status, done.err.splitlines()[-1]) == (1, "error: no plot today")
        assert (tmp_path / f"{name}.{suffix}").stat().st_size, name


@pytest.mark.parametrize("text", [r"$\frac{$", "$x^{", "a|b\x1b[31m\n# c <b>", "$$"])
def test_texts_of_data_are_no_markup(text: str, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "x.npz", images=images)
    asked = "reference", f"--images={tmp_path / 'x.npz'}", f"--out={tmp_path / 'ref.npz'}"
    assert run(*asked, "--extractors=pixels8").status == 0
    told = dataclasses.replace(evaluation.load(tmp_path / "ref.npz"), source=text)
    evaluation.save(tmp_path / "ref.npz", told)
    of = f"--images={tmp_path / 'x.npz'}", f"--reference={tmp_path / 'ref.npz'}"
    done = run("evaluate", *of, "--extractors=pixels8", f"--out={tmp_path / 'q'}")
    assert done.status == 0, done.err
    assert "\x1b" not in done.out + (tmp_path / "q.md").read_text()
    assert "\n# c" not in (tmp_path / "q.md").read_text()
    assert Image.open(tmp_path / "q.png").size == (1100, 800)
    assert report.markdown("<b>|") == r"\<b\>\|"


def test_a_workdir_with_dollars_is_a_title(workdir: Path, tmp_path: Path) -> None:
    other = untrained(tmp_path / "$a{ $b", DRAWS)
    for name in ("evaluate", "sweep"):
        done = run(*script(name, other))
        assert done.status == 0, done.err


def test_rows_of_a_sweep_that_are_damaged_are_measured_again(
    workdir: Path, tmp_path: Path
) -> None:
    at = untrained(tmp_path / "run", DRAWS)
    assert run(*script("sweep", at)).status == 0
    book = tmp_path / "run" / "quality" / "sweep.jsonl"
    rows = [json.loads(line) for line in book.read_text().splitlines()]
    for blocks in (None, [], [3], [{}], [{"fd_pixels8": "x"}]):
        book.write_text(
            "".join(json.dumps(row | {"blocks": blocks}) + "\n" for row in rows)
        )
        done = run(*script("sweep", at))
        assert done.status == 0, done.err


def test_more_bits_than_bytes_have_are_warned_of(workdir: Path, tmp_path: Path) -> None:
    """On EDM's path the default is the flow, whose numbers make sense."""
    assert isinstance(DRAWS.parameterization, EDM)
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
