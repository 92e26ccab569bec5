"""Metric writers: no step twice, in a folder, in a bucket and at Weights & Biases."""

import json
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from jaxdiff.runtime.files import Place, place
from jaxdiff.train import writers
from tests import buckets


def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (6, 4, 1)).astype(np.uint8)


# In a bucket


def test_metrics_in_a_bucket_are_those_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = buckets.in_memory(monkeypatch).sent
    for folder in (place("gs://bucket/run"), tmp_path):
        path = folder / "metrics.jsonl"
        log = writers.JSONL(path, 0)
        for step in range(1, 101):
            log.scalars(step, {"loss": 1 / step})
        log.close()
        path.write_bytes(path.read_bytes() + b'{"step": 101, "lo')  # killed here
        sent.clear()
        log = writers.JSONL(path, 98)
        log.scalars(99, {"loss": 9.0})
        log.close()
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        assert [row["step"] for row in rows] == list(range(1, 100))
        assert [row["loss"] for row in rows[-2:]] == [1 / 98, 9.0]
    assert not sent  # by the one on disk, which came last


def test_a_run_in_a_bucket_sends_few_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = buckets.in_memory(monkeypatch).sent
    log = writers.open_all(place("gs://bucket/run"), 0, False)
    for step in range(1, 1000):
        log.scalars(step, {"loss": 0.5})
    log.close()
    assert sent.count("run/metrics.jsonl") == 2  # the first line, and all of them
    assert len(sent) == 4


# TensorBoard


def crc32c(data: bytes) -> int:
    """CRC-32C, bit by bit [RFC 3720, section 12.1]."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ 0x82F63B78 * (crc & 1)
    return crc ^ 0xFFFFFFFF


def events(path: Place) -> list[Event]:
    """What an event file holds, its checksums verified as TensorFlow's format says."""

    def masked(part: bytes) -> int:
        crc = crc32c(part)
        return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF

    data, parsed = path.read_bytes(), []
    while data:
        size, check = struct.unpack("<QI", data[:12])
        body, data = data[12 : 12 + size], data[12 + size :]
        assert (check, *struct.unpack("<I", data[:4])) == (
            masked(struct.pack("<Q", size)),
            masked(body),
        )
        data = data[4:]
        parsed.append(Event.FromString(body))
    return parsed


@pytest.mark.parametrize("cloud", [False, True])
def test_event_files_are_tensorboards(
    cloud: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert crc32c(b"123456789") == 0xE3069283  # the check value of the catalogues
    buckets.in_memory(monkeypatch)
    folder = place("gs://bucket/run/tensorboard") if cloud else tmp_path
    board = writers.TensorBoard(folder, 6)
    board.scalars(7, {"loss": 0.5, "rate": 0.25})
    board.image(7, "samples", picture())
    board.close()
    (path,) = folder.iterdir()
    version, began, loss, rate, image = events(path)
    assert version.file_version == "brain.Event:2"
    assert (began.step, began.session_log.status) == (7, SessionLog.START)
    values = [event.summary.value[0] for event in (loss, rate)]
    assert [(v.tag, v.simple_value) for v in values] == [("loss", 0.5), ("rate", 0.25)]
    assert {event.step for event in (loss, rate, image)} == {7}
    stored = image.summary.value[0].image
    assert (stored.height, stored.width, stored.colorspace) == (6, 4, 3)
    assert stored.encoded_image_string.startswith(b"\x89PNG")


def test_a_long_run_has_several_event_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writers, "EVENTS", 300)
    board = writers.TensorBoard(tmp_path, 0)
    for step in range(1, 40):
        board.scalars(step, {"loss": 0.5})
    board.close()
    files = [events(path) for path in sorted(tmp_path.iterdir())]
    assert len(files) > 3
    assert all(file[0].file_version == "brain.Event:2" for file in files)
    steps = [event.step for file in files for event in file if event.HasField("summary")]
    assert steps == list(range(1, 40))


def test_a_full_disk_is_heard_of(monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = buckets.in_memory(monkeypatch)
    board = writers.TensorBoard(place("gs://bucket/run"), 0)
    bucket.broken = True
    board.scalars(1, {"loss": 0.5})
    with pytest.raises(OSError, match=r"cannot write gs://bucket/run/events"):
        board.close()


# Weights & Biases


class Standin(ModuleType):
    """A wandb that records what it is told, as a server would keep it."""

    Error = type("Error", (Exception,), {})

    def __init__(self) -> None:
        super().__init__("wandb")
        self.rows: dict[str, list[tuple[int, dict[str, Any]]]] = {}
        self.opened: list[dict[str, Any]] = []
        self.finished: list[int] = []
        self.resumed, self.starting_step = False, 0  # as offline

    def init(self, **how: Any) -> "Standin":
        self.opened.append(how)
        return self

    def log(self, values: dict[str, Any], step: int) -> None:
        self.rows.setdefault(self.opened[-1]["id"], []).append((step, values))

    def finish(self, exit_code: int) -> None:
        self.finished.append(exit_code)

    def Image(self, pixels: np.ndarray) -> tuple[str, tuple[int, ...]]:
        return ("picture", pixels.shape)


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Standin:
    module = Standin()
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def test_a_resumed_run_goes_on_at_wandb(wandb: Standin, tmp_path: Path) -> None:
    run = tmp_path / "my run"
    for start, end in ((0, 3), (1, 5)):
        log = writers.open_all(run, start, False, "project", {"steps": end})
        for step in range(start + 1, end + 1):
            log.scalars(step, {"loss": float(step)})
        log.image(end, "samples", picture())
        log.scalars(end, {"fid": 1.0})
        log.close()
    first, second = wandb.opened
    assert first["id"] == second["id"]
    assert first["id"].startswith("my-run-")
    assert (first["project"], first["name"], first["resume"]) == (
        "project",
        "my run",
        "allow",
    )
    assert [opened["config"] for opened in wandb.opened] == [{"steps": 3}, {"steps": 5}]
    assert wandb.finished == [0, 0]
    rows = wandb.rows[first["id"]]
    losses = [(step, values["loss"]) for step, values in rows if "loss" in values]
    assert losses == [(step, float(step)) for step in range(1, 6)]
    pictures = [(step, values) for step, values in rows if "samples" in values]
    assert pictures == [(end, {"samples": ("picture", (6, 4, 1))}) for end in (3, 5)]
    assert [step for step, values in rows if "fid" in values] == [3, 5]


def test_what_a_kill_took_from_wandb_is_told_again(wandb: Standin, tmp_path: Path) -> None:
    log = writers.open_all(tmp_path, 0, False, "project")
    for step in (10, 20, 30):
        log.scalars(step, {"loss": float(step)})
    (run_id,) = wandb.rows
    wandb.rows.clear()  # offline and killed here: all is lost
    log = writers.open_all(tmp_path, 20, False, "project")
    log.scalars(30, {"loss": 31.0})
    log.close()
    assert wandb.rows == {
        run_id: [(10, {"loss": 10.0}), (20, {"loss": 20.0}), (30, {"loss": 31.0})]
    }


@pytest.mark.parametrize(("has", "sent"), [(19, [20, 30]), (20, [30]), (30, [])])
def test_what_the_server_has_is_not_told_again(
    has: int, sent: list[int], wandb: Standin, tmp_path: Path
) -> None:
    log = writers.open_all(tmp_path, 0, False, "project")
    log.scalars(10, {"loss": 10.0})
    log.scalars(20, {"loss": 20.0})
    log.close()
    wandb.rows.clear()
    wandb.resumed, wandb.starting_step = True, has + 1  # of what was sent before a kill
    log = writers.open_all(tmp_path, 20, False, "project")
    log.scalars(30, {"loss": 30.0})
    rows = [row for rows in wandb.rows.values() for row in rows]
    assert rows == [(step, {"loss": float(step)}) for step in sent]


def test_a_run_that_fails_has_failed_at_wandb(wandb: Standin, tmp_path: Path) -> None:
    @contextmanager
    def reporting() -> Iterator[None]:
        log = writers.open_all(tmp_path, 0, False, "project")
        try:
            yield
        finally:
            log.close()

    with pytest.raises(ValueError, match="not finite"), reporting():
        raise ValueError("not finite")
    with reporting():
        pass
    assert wandb.finished == [1, 0]


def test_two_folders_of_one_name_are_two_runs(wandb: Standin, tmp_path: Path) -> None:
    for folder in (tmp_path / "a" / "run", tmp_path / "b" / "run"):
        writers.WandB(folder, 0, "project", {}).close()
    assert wandb.opened[0]["id"] != wandb.opened[1]["id"]


def test_a_run_in_a_bucket_has_its_wandb_files_here(
    wandb: Standin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    buckets.in_memory(monkeypatch)
    monkeypatch.setenv("JAXDIFF_CACHE", str(tmp_path / "cache"))
    for _ in range(2):
        log = writers.WandB(place("gs://bucket/run"), 0, "project", {})
        log.scalars(5, {"loss": 1.0})
        log.close()
    assert [opened["dir"] for opened in wandb.opened] == [str(tmp_path / "cache")] * 2
    assert len(wandb.rows[wandb.opened[1]["id"]]) == 1


def test_what_wandb_needs_is_one_line(
    wandb: Standin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**how: Any) -> None:
        raise wandb.Error("No API key\nand a page more")

    wandb.init = refuse
    with pytest.raises(
        ValueError, match=r"\(No API key\): `wandb login`.*=offline"
    ) as raised:
        writers.open_all(tmp_path, 0, False, "project")
    assert "\n" not in str(raised.value)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ImportError, match=r"pip install wandb$"):
        writers.open_all(tmp_path, 0, False, "project")
    writers.open_all(tmp_path, 0, False).close()  # who names no project needs none


# All of them


def test_all_writers_close_whatever_becomes_of_one() -> None:
    closed = []

    class Closing(writers.Terminal):
        def __init__(self, name: str) -> None:
            self.name = name

        def close(self) -> None:
            closed.append(self.name)
            if self.name == "b":
                raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        writers.All([Closing(name) for name in "abc"]).close()
    assert sorted(closed) == ["a", "b", "c"]
