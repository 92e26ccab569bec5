"""Statistics of a data set are kept in the cache, never among somebody's pictures."""

import json
import os
from pathlib import Path

import pytest
from PIL import Image

from jaxdiff.data import Folder, statistics


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("JAXDIFF_CACHE", str(tmp_path / "cache"))
    (tmp_path / "photos").mkdir()
    for i in range(3):
        Image.new("RGB", (8, 8), (40 * i,) * 3).save(tmp_path / "photos" / f"{i}.png")
    return tmp_path / "photos"


def test_nothing_is_written_beside_pictures_or_archives(photos: Path) -> None:
    before = sorted(os.listdir(photos))
    measured = statistics.measured(Folder(photos, 8))
    assert sorted(os.listdir(photos)) == before
    assert statistics.stored(Folder(photos, 8)) == measured
    assert statistics.stored(Folder(photos, 4)) is None


def test_changed_pictures_are_measured_again(photos: Path) -> None:
    first = statistics.measured(Folder(photos, 8))
    Image.new("RGB", (8, 8), "white").save(photos / "0.png")
    assert statistics.stored(Folder(photos, 8)) is None
    assert statistics.measured(Folder(photos, 8)).mean > first.mean


def test_the_line_says_whether_they_are_kept(photos: Path) -> None:
    data = Folder(photos, 8)
    dataset = data.load()
    measured = statistics.measure(dataset, data.encoder)
    line = statistics.try_to_keep(data, measured, dataset)
    assert line == f"kept in {statistics.file_of(data)}"
    assert statistics.stored(data) == measured


def test_the_line_says_why_they_are_not(photos: Path) -> None:
    (photos.parent / "cache").write_text("a file in the way")
    data = Folder(photos, 8)
    dataset = data.load()
    measured = statistics.measure(dataset, data.encoder)
    line = statistics.try_to_keep(data, measured, dataset)
    assert line.startswith("not kept, as the cache folder cannot be written to: ")
    with pytest.warns(UserWarning, match="are not kept"):
        assert statistics.measured(data) == measured


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"count": -5}, "count must be"),
        ({"count": 2.5}, "count must be"),
        ({"std": [-3.0, 0.0, 0.0]}, r"std\[0\] must be"),
        ({"std": []}, "3 means and 0 stds"),
        ({"mean": [], "std": []}, "0 means and 0 stds"),
        ({"mean": "12"}, "mean must be a tuple"),
        ({"mean": [0.0, 0.0, float("nan")]}, r"mean\[2\] must be"),
        ({"mean": None}, "mean must be a tuple"),
    ],
)
def test_damaged_files_are_measured_again(change: dict, line: str, photos: Path) -> None:
    data = Folder(photos, 8)
    first = statistics.measured(data)
    path = statistics.file_of(data)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.warns(UserWarning, match=f"is damaged .*{line}.*: measuring again"):
        assert statistics.measured(data) == first
