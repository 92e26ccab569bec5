"""What the start of a run says of its data, and what a resumed run compares."""

import json

import numpy as np
import pytest

from jaxdiff.data import Dataset, LeftOut, Synthetic, describe, differences, identity
from jaxdiff.data.batches import Memory


def dataset(classes: tuple[str, ...], labels: list[int]) -> Dataset:
    image = np.zeros([len(labels), 4, 5, 3], np.uint8)
    return Dataset(Memory(image, np.array(labels, np.int32)), classes)


def test_counts_of_classes_are_those_of_the_labels() -> None:
    lines = describe(dataset(("cat", "dog", "eel"), [1, 1, 0, -1]))
    assert lines == [
        "4 images, 4 x 5 x 3",
        "3 classes: 'cat' (1), 'dog' (2), 'eel' (0)",
        "1 of the classes have no image, such as 'eel'",
        "1 of the images have no label",
    ]


def test_a_thousand_classes_are_one_short_line() -> None:
    names = tuple(f"class {i}" for i in range(1000))
    lines = describe(dataset(names, [*range(1000), 7]))
    assert lines[1].startswith("1,000 classes: 'class 0' (1), 'class 1' (1)")
    assert lines[1].endswith("..., 'class 999' (1)")
    assert lines[2] == "images of a class: 1 to 2"
    assert all(len(line) < 200 for line in lines)


def test_names_of_files_cannot_write_to_the_terminal() -> None:
    data = dataset(("\x1b[2J",), [0])
    data = Dataset(data.source, data.classes, {"hidden files": LeftOut(2, "a/\x1b]0;.x")})
    assert not any("\x1b" in line for line in describe(data))
    assert describe(data)[-1] == r"left out: hidden files (2, such as 'a/\x1b]0;.x')"


def test_labels_that_only_the_images_have_are_not_counted() -> None:
    lines = describe(Synthetic((8, 8, 1), labels=2, count=10).load())
    assert lines == ["10 images, 8 x 8 x 1", "2 classes: '0', '1'"]
    assert "unconditional" in describe(Synthetic((8, 8, 1), 0, 1).load())[1]


@pytest.mark.parametrize(
    ("now", "line"),
    [
        (dataset(("cat", "dog"), [0, 1]), ""),
        (dataset(("bird", "dog"), [0, 1]), "label 0 was 'cat', now 'bird'"),
        (dataset(("cat", "eel"), [0, 1, 1]), "label 1 was 'dog', now 'eel'; there were 2"),
        (dataset((), [-1, -1]), "there were 2 classes, now 0"),
        (Synthetic((4, 5, 1), 2, 2).load(), "an image was 4 x 5 x 3, now 4 x 5 x 1"),
    ],
)
def test_identities_differ_in_words(now: Dataset, line: str) -> None:
    before = identity(dataset(("cat", "dog"), [0, 1]))
    kept = json.loads(json.dumps(before))
    assert kept == before
    text = differences(kept, identity(now))
    assert "\n" not in text
    assert line in text
    assert bool(text) == bool(line)
