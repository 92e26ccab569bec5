"""Sampling and editing as a user does both: what is drawn, what is refused in a line."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxdiff.analysis import image_grid
from tests.cases import commands
from tests.cases.commands import Done
from tests.test_nag_commands import LINEAR, untrained


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained(tmp_path_factory.mktemp("runs") / "run", LINEAR)


def run(script: str, workdir: Path, *arguments: str) -> Done:
    return commands.run(script, f"--workdir={workdir}", "--steps=2", *arguments)


def test_a_box_is_drawn_anew_and_the_rest_kept(workdir: Path, tmp_path: Path) -> None:
    flags = "--box=0.5,0,1,1", "--number=3", f"--out={tmp_path / 'edit.png'}"
    done = run("edit", workdir, *flags)
    assert done.status == 0, done.err
    with np.load(tmp_path / "edit.npz") as arrays:
        images, originals = arrays["images"], arrays["originals"]
    assert images.shape == (3, 8, 8, 1)
    np.testing.assert_array_equal(images[:, :, :4], originals[:, :, :4])
    assert (images[:, :, 4:] != originals[:, :, 4:]).mean() > 0.5
    sheet = Image.open(tmp_path / "edit.png")
    bare = image_grid.grid(np.concatenate([originals, originals, images]), 3)
    height, width = bare.shape[:2]  # rows: the original, what is kept, the edit
    assert height < sheet.height < 4 / 3 * height  # and names beside and above them
    assert width < sheet.width


@pytest.mark.parametrize(
    ("script", "flags", "message"),
    [
        ("edit", ("--box=0,0,2,1",), "--box is LEFT,TOP,RIGHT,BOTTOM"),
        ("edit", ("--resample=4,5",), "--resample needs --mask or --box"),
        ("sample", ("--solver=",), "names 0 values"),
        ("sample", ("--compare=Heun", "--compare_steps="), "--compare_steps is 6,12,24"),
        ("sample", ("--rule=Sum()",), "--rule changes nothing without --guidance"),
        (
            "sample",
            ("--classifier_guidance=2",),
            "--classifier_guidance changes nothing without --classifier",
        ),
    ],
)
def test_a_mistake_is_one_line(
    script: str, flags: tuple[str, ...], message: str, workdir: Path
) -> None:
    done = run(script, workdir, *flags)
    assert done.status == 1
    assert message in done.err
    assert done.err.count("\n") == 1, done.err


def test_what_is_no_classifier_is_refused_in_a_line(workdir: Path) -> None:
    for flags, words in (
        ((), "--classifier needs --classifier_guidance"),
        (("--classifier_guidance=1",), "the classifier says x0 and no class"),
    ):
        done = run("sample", workdir, f"--classifier={workdir}", *flags)
        assert done.status == 1
        assert words in done.err
        assert done.err.count("\n") == 1, done.err


def test_a_run_is_scored_and_its_images_kept(workdir: Path, tmp_path: Path) -> None:
    flags = "--number=7", "--blocks=2", "--extractors=pixels8", f"--out={tmp_path}/scored"
    done = run("evaluate", workdir, *flags)
    assert done.status == 0, done.err
    scores = json.loads((tmp_path / "scored.json").read_text())
    assert (scores["images"], scores["as_many"], len(scores["blocks"])) == (14, 7, 2)
    assert scores["drawn"]["fd_pixels8"] == scores["blocks"][0]["fd_pixels8"]
    mean = np.mean([block["fd_pixels8"] for block in scores["blocks"]])
    assert scores["metrics"]["fd_pixels8"]["mean"] == pytest.approx(mean)
    assert "held out" in (tmp_path / "scored.md").read_text()
    assert Image.open(tmp_path / "scored.png").width > 500
    (kept,) = (workdir.parent if workdir.suffix else workdir).glob(
        "quality/images/*/0*.npz"
    )
    with np.load(kept) as file:
        assert file["image"].shape == (14, 8, 8, 1)
    again = run("evaluate", workdir, "--images=x.npz", "--reference=y.npz")
    assert again.err == (
        "error: give --workdir, a run to draw from, or --images, a folder or NPZ\n"
    )


@pytest.mark.parametrize("command", [("evaluate",), ("sweep", "--over=guidance=0,1")])
def test_a_wrong_path_leaves_nothing_behind(command: tuple, tmp_path: Path) -> None:
    name, *more = command  # and is reported before weights that are missing
    done = run(name, tmp_path / "none", *more, "--extractors=inception_tf")
    assert "holds no run" in done.err
    assert not list(tmp_path.iterdir())
