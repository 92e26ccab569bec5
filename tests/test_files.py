"""Files that are whole or not at all, on this machine and in a bucket."""

import os
import sys
from pathlib import Path

import pytest
from etils import epath

from jaxdiff.runtime.files import (
    RESEND,
    Place,
    Resent,
    append,
    lines,
    place,
    write_atomically,
)
from tests import buckets


@pytest.fixture(params=["here", "in a bucket"])
def folder(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Place:
    if request.param == "here":
        return place(str(tmp_path / "deep" / "run"))
    buckets.in_memory(monkeypatch)
    return place("gs://bucket/deep/run")


def test_text_names_a_path_of_one_of_two_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    assert place("runs/mine") == Path("runs/mine") == place(Path("runs/mine"))
    assert isinstance(place(epath.Path("runs/mine")), Path)
    buckets.in_memory(monkeypatch)
    there = place("gs://bucket/runs/mine")
    assert str(there / "a.txt") == "gs://bucket/runs/mine/a.txt"
    assert place(there) == there
    assert (there.name, str(there.parent)) == ("mine", "gs://bucket/runs")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("s3://bucket/run", "in s3://: use gs://BUCKET/FOLDER, or mount it"),
        ("gs:///run", "not a valid bucket name"),
        ("gs://B/run", "not a valid bucket name"),
        (Path("gs://bucket/run"), "gs:/bucket/run has lost a slash"),
    ],
)
def test_other_clouds_are_refused(
    text: str | Path, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    buckets.in_memory(monkeypatch)
    with pytest.raises(ValueError, match=message):
        place(text)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    find = lambda name: None if name == "gcsfs" else sys.modules[name].__spec__
    monkeypatch.setattr("importlib.util.find_spec", find)
    with pytest.raises(ImportError, match=r"gs://bucket/run needs .*pip install gcsfs$"):
        place("gs://bucket/run")


def test_a_file_is_written_whole_or_not_at_all(folder: Place) -> None:
    path = folder / "file"
    write_atomically(path, lambda file: file.write(b"old"))

    def fail(file: object) -> None:
        file.write(b"new")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, fail)
    assert path.read_bytes() == b"old"
    assert [p.name for p in folder.iterdir()] == ["file"]


def test_files_grow_across_openings(folder: Place) -> None:
    path = folder / "log"
    assert lines(path) == []
    for more in (b"one\n", b"two\nth"):
        file = append(path)
        file.write(more)
        file.close()
    assert lines(path) == ["one\n", "two\n", "th"]


def test_a_growing_object_is_sent_seldom_and_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    bucket, now = buckets.in_memory(monkeypatch), [1000.0]
    path = place("gs://bucket/log")
    file = Resent(path, lambda: now[0])
    written = b""
    for second in range(70):
        now[0] = 1000.0 + second
        written += b"%d\n" % second
        file.write(b"%d\n" % second)
        file.flush()
        due = {0: 1, 30: 2, 60: 3}  # at once, then every half minute
        if second in due:
            assert len(bucket.sent) == due[second]
            assert path.read_bytes() == written
    assert len(bucket.sent) == 1 + 60 // RESEND
    file.close()
    assert path.read_bytes() == written
    file.close()
    assert len(bucket.sent) == 4  # nothing new, nothing sent


def test_a_cloud_that_fails_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    buckets.in_memory(monkeypatch).broken = True
    with pytest.raises(
        OSError, match=r"write gs://bucket/a: 503 the bucket is out. Does"
    ) as e:
        write_atomically(place("gs://bucket/a"), lambda file: file.write(b"x"))
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(("mask", "mode"), [(0o077, 0o600), (0o022, 0o644)])
def test_a_file_has_the_rights_that_the_umask_leaves(
    mask: int, mode: int, tmp_path: Path
) -> None:
    before = os.umask(mask)
    try:
        write_atomically(tmp_path / "a", lambda file: file.write(b"x"))
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == mode
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
