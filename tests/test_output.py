"""Pictures, metric writers, and the claim on a run's folder."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxdiff.analysis import image_grid
from jaxdiff.runs.restoring import restore
from jaxdiff.runtime.files import write_atomically
from jaxdiff.train import writers


def test_a_grid_shows_every_image_in_its_place(tmp_path: Path) -> None:
    values = np.arange(10, 80, 10, dtype=np.uint8)
    images = np.broadcast_to(values[:, None, None, None], (7, 64, 64, 3))
    picture = image_grid.save_grid(tmp_path / "deep/grid.png", images, columns=3)
    side = 64 + image_grid.GAP
    assert picture.shape == (3 * side + image_grid.GAP, 3 * side + image_grid.GAP, 3)
    for i, value in enumerate(values):
        row, column = divmod(i, 3)
        corner = picture[row * side + image_grid.GAP, column * side + image_grid.GAP]
        assert corner.tolist() == [value] * 3
    assert (picture[-40, -40] == 255).all()
    np.testing.assert_array_equal(
        np.asarray(Image.open(tmp_path / "deep/grid.png")), picture
    )


def test_small_images_are_enlarged() -> None:
    images = np.zeros((4, 8, 8, 1), np.uint8)
    assert image_grid.grid(images).shape == (2 * 50 + 2, 2 * 50 + 2, 1)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail(file: object) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, fail)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "old"


def test_metrics_of_a_resumed_run_have_no_step_twice(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = writers.JSONL(path, 0)
    for step in (1, 2, 3):
        log.scalars(step, {"loss": 1.0 / step})
    log.close()
    path.write_text(path.read_text() + '{"step": 4, "lo')  # killed here
    log = writers.JSONL(path, 2)
    log.scalars(3, {"loss": 9.0})
    log.close()
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert rows[-1]["loss"] == 9.0


def test_a_metrics_file_without_loose_ends_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n')
    before = path.stat().st_ino
    writers.JSONL(path, 2).close()
    assert path.stat().st_ino == before


def test_tensorboard_files_hold_scalars_and_pictures(tmp_path: Path) -> None:
    board = writers.TensorBoard(tmp_path, 0)
    board.scalars(7, {"loss": 0.5})
    board.image(7, "samples", np.zeros((8, 8, 1), np.uint8))
    board.close()
    (events,) = tmp_path.iterdir()
    data = events.read_bytes()
    assert b"loss" in data
    assert b"samples" in data


def test_restoring_nothing_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no run"):
        restore(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(FileNotFoundError, match="no checkpoint yet"):
        restore(tmp_path)
