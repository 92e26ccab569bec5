"""--labels takes names and numbers, and says which there are."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from jaxdiff.data import Folder
from tests.cases.commands import Done, run
from tests.cases.sources import archive, png
from tests.test_nag_commands import LINEAR, untrained

CAN_DROP = dataclasses.replace(LINEAR, label_dropout=0.1)


@pytest.fixture(scope="module")
def animals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a ZIP file of cats and dogs."""
    folder = tmp_path_factory.mktemp("animals")
    network = LINEAR.network.clone(label_dim=2)
    data = archive(folder)
    return untrained(
        folder / "run", dataclasses.replace(CAN_DROP, network=network, data=data)
    )


def drawn(workdir: Path, out: Path, labels: str) -> tuple[Done, list[int]]:
    """What sample said, and the labels of four images."""
    flags = "--number=4", "--steps=2", f"--labels={labels}", f"--out={out / 'x'}"
    done = run("sample", f"--workdir={workdir}", *flags)
    if done.status:
        return done, []
    with np.load(out / "x.npz") as file:
        return done, file["labels"].tolist()


@pytest.mark.parametrize(
    ("labels", "numbers"),
    [
        ("dog", [1, 1, 1, 1]),
        ("dog,cat", [1, 0, 1, 0]),
        ("Dog, 0", [1, 0, 1, 0]),
        ("1", [1, 1, 1, 1]),
        ("none", [-1, -1, -1, -1]),
        ("-1,cat", [-1, 0, -1, 0]),
        ("", [0, 1, 0, 1]),
    ],
)
def test_names_and_numbers(
    labels: str, numbers: list[int], animals: Path, tmp_path: Path
) -> None:
    done, label = drawn(animals, tmp_path, labels)
    assert done.status == 0, done.err
    assert label == numbers


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ("cta", "'cta' is not a class of this run (did you mean 'cat'?); there are 0 "
         "'cat', 1 'dog', and none for images without a label"),
        ("2", "'2' is not a class of this run; there are 0 'cat', 1 'dog'"),
        ("-2", "'-2' is not a class of this run; there are"),
    ],
)  # fmt: skip
def test_what_is_no_class_is_refused_with_those_that_are(
    labels: str, words: str, animals: Path, tmp_path: Path
) -> None:
    done, _ = drawn(animals, tmp_path, labels)
    assert done.status == 1
    assert words in done.err
    assert done.err.count("\n") == 1


def test_images_without_a_label_need_a_run_that_has_seen_some(tmp_path: Path) -> None:
    run_ = untrained(tmp_path / "run", dataclasses.replace(LINEAR, label_dropout=0.0))
    done, _ = drawn(run_, tmp_path, "none")
    assert done.status == 1
    assert "this run has label_dropout 0" in done.err


def test_a_number_that_is_the_name_of_another_class_is_said(tmp_path: Path) -> None:
    for name in ("1", "a"):  # label 0 is called "1"
        (tmp_path / "photos" / name).mkdir(parents=True)
        (tmp_path / "photos" / name / "a.png").write_bytes(png(0))
    data = Folder(str(tmp_path / "photos"), 8)
    network = LINEAR.network.clone(label_dim=2)
    experiment = dataclasses.replace(CAN_DROP, network=network, data=data)
    done, label = drawn(untrained(tmp_path / "run", experiment), tmp_path, "1")
    assert label == [1] * 4
    assert "--labels=1 is label 1, 'a'; the class with that name is label 0" in done.err


def test_edit_and_evaluate_take_names_too(animals: Path, tmp_path: Path) -> None:
    out = f"--out={tmp_path / 'x'}"
    flags = "--number=2", "--steps=2", "--labels=dog", out
    assert run("edit", f"--workdir={animals}", *flags).status == 0
    with np.load(tmp_path / "x.npz") as file:
        assert file["labels"].tolist() == [1, 1]
    flags = "--number=8", "--blocks=1", "--steps=2", "--extractors=pixels8", out
    done = run("evaluate", f"--workdir={animals}", "--labels=bird", *flags)
    assert done.status == 1
    assert "there are 0 'cat', 1 'dog'" in done.err.splitlines()[-1]
