"""TensorFlow Datasets, prepared here, read without TensorFlow."""

import dataclasses
import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxdiff.data import TFDS, Dataset, batches, split_of

tfds = pytest.importorskip(
    "tensorflow_datasets", reason='needs pip install "jaxdiff[tfds]"'
)
ROOT = Path(__file__).parents[1]


class TinyPhotos(tfds.core.GeneratorBasedBuilder):
    """Greys, as image files of 9 x 7 and as arrays of 4 x 4."""

    VERSION = tfds.core.Version("1.0.0")
    __module__ = "__main__"  # tfds looks for files beside a builder that is in a package

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "array": tfds.features.Tensor(shape=(4, 4, 1), dtype=np.uint8),
            "label": tfds.features.ClassLabel(names=["even", "odd", "never"]),
            "number": tfds.features.Scalar(dtype=np.int64),
        }
        features = tfds.features.FeaturesDict(features)
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, _: object) -> dict:
        return {"train": self._generate_examples(6), "test": self._generate_examples(2)}

    def _generate_examples(self, count: int) -> Iterator[tuple[int, dict]]:
        for i in range(count):
            file = io.BytesIO()
            Image.new("RGB", (9, 7), (10 * i,) * 3).save(file, "PNG")
            file.seek(0)
            array = np.full((4, 4, 1), i, np.uint8)
            yield i, {"image": file, "array": array, "label": i % 2, "number": i}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> TFDS:
    folder = str(tmp_path_factory.mktemp("tfds"))
    TinyPhotos(data_dir=folder, file_format="array_record").download_and_prepare()
    return TFDS("tiny_photos", data_dir=folder, size=4)


def seen(dataset: Dataset) -> list[tuple[int, int]]:
    """Grey and label of each image, in the order of greys."""
    rows = dataset.take(np.arange(len(dataset)))
    greys = rows["image"][:, 0, 0, 0]
    assert (rows["image"] == greys[:, None, None, None]).all()
    pairs = zip(greys, rows["label"], strict=True)
    return sorted((int(grey), int(label)) for grey, label in pairs)


def test_images_and_labels(photos: TFDS) -> None:
    dataset = photos.load()
    assert dataset.source[0]["image"].shape == photos.shape == (4, 4, 3)
    assert seen(dataset) == [(10 * i, i % 2) for i in range(6)]
    assert dataset.classes == photos.classes == ("even", "odd", "never")
    assert len(split_of(photos).load()) == 2
    assert len(dataclasses.replace(photos, split="train[:3]").load()) == 3
    assert next(batches(dataset, 6, 0))["label"].sum() == 3


def test_arrays_as_they_are_and_resized(photos: TFDS) -> None:
    array = dataclasses.replace(photos, image="array", channels=1, label="")
    assert seen(array.load()) == [(i, -1) for i in range(6)]
    assert array.load().classes == ()
    smaller = dataclasses.replace(array, size=3).load()
    assert smaller.source[0]["image"].shape == (3, 3, 1)
    with pytest.raises(ValueError, match=r"uint8 \(4, 4, 1\), not uint8 \[H, W, 3\]"):
        dataclasses.replace(array, channels=3).load().source[0]


def test_without_its_builder_and_without_tensorflow(photos: TFDS) -> None:
    code = (
        "import sys; from jaxdiff.data import TFDS; "
        f"d = {photos!r}.load(); print(len(d), d.source[0]['image'].shape, "
        "'tensorflow' in sys.modules)"
    )
    run = [sys.executable, "-c", code]
    done = subprocess.run(run, capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split("\n")[-2] == "6 (4, 4, 3) False"
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"split": "valid"},
            "split 'valid': Unknown split 'valid'. Should be one of .*test",
        ),
        ({"image": "picture"}, "no feature 'picture'; it has array, image, label, number"),
        ({"label": "number"}, "'number' is not a class label: name one .* or set it to ''"),
        ({"name": "tiny_photo"}, "TFDS 'tiny_photo': Dataset tiny_photo not found"),
    ],
    ids=str,
)
def test_what_is_not_in_it(photos: TFDS, change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        dataclasses.replace(photos, **change).load()
    assert "\n" not in str(caught.value)


def test_what_is_not_prepared_says_how_to(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is not prepared in") as caught:
        TFDS("cifar10", data_dir=str(tmp_path)).load()
    text = str(caught.value)
    assert "\n" not in text
    code = text.partition('python -c "')[2].rpartition('"')[0]
    compile(code, "command", "exec")
    for part in ("array_record", str(tmp_path), "'cifar10'"):
        assert part in code


@pytest.mark.parametrize(
    "wrong", [{"name": ""}, {"size": 0}, {"channels": 2}, {"on_error": "x"}], ids=str
)
def test_constructor_refuses(wrong: dict) -> None:
    with pytest.raises(ValueError, match="must be"):
        TFDS(**wrong)
