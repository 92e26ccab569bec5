"""Several processes draw, score and encode as one; what is killed goes on."""

import dataclasses
import json
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from jaxdiff.data.formats import shards
from tests.model_goldens import vae_folder
from tests.system.commands import command, run, side_by_side, train
from tests.system.test_latents_decoded import photos

SCORED = ("--number=600", "--blocks=1", "--extractors=pixels8", "--batch=100")
"""In two files, of 512 images and of 88."""


def complete(
    count: int, environment: dict[str, str], name: str, *arguments: object
) -> list[str]:
    """What each of several processes says of the command, which ends well."""
    line = command(name, *arguments)
    with side_by_side(count, environment, lambda _: line) as running:
        ends = [process.ended() for process in running]
    assert [end.returncode for end in ends] == [0] * count, ends
    return [end.stdout for end in ends]


def alone(environment: dict[str, str], name: str, *arguments: object) -> None:
    done = run(command(name, *arguments, "--cpu_devices=2"), environment)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def trained(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("trained") / "run"
    few = ("--config.steps=2", "--config.sample_every=0", "--config.eval_every=0")
    done = run(train(workdir, *few), environment)
    assert done.returncode == 0, done.stderr
    return workdir


def images(out: Path) -> np.ndarray:
    with np.load(out.with_suffix(".npz")) as arrays:
        assert arrays["seeds"].tolist() == list(range(10))
        return arrays["images"].astype(int)


def test_processes_draw_the_images_of_one(
    trained: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    """Bit for bit where each device draws as many; else to rounding, of 256 levels."""
    how = f"--workdir={trained}", "--number=10"
    alone(environment, "sample", *how, f"--out={tmp_path / 'one'}")
    for count, most in ((2, 0), (4, 1)):
        out = tmp_path / str(count)
        first, *others = complete(count, environment, "sample", *how, f"--out={out}")
        assert np.abs(images(out) - images(tmp_path / "one")).max() <= most
        assert f"10 images of step 2: {out}.png" in first
        assert not any("drawing" in text or "images of" in text for text in others)
    assert images(out).std() > 1


def test_scores_are_those_of_one_after_a_kill(
    trained: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    how = f"--workdir={trained}", *SCORED
    line = command("evaluate", *how)
    with side_by_side(2, environment, lambda _: line) as running:
        deadline = time.monotonic() + 240
        while not (parts := [*trained.glob("quality/images/*/*.npz")]):
            assert time.monotonic() < deadline
            time.sleep(0.005)
        running[1].kill()
        ends = [process.ended() for process in running]
    assert ends[1].returncode == -signal.SIGKILL
    assert ends[0].returncode in (75, -signal.SIGABRT), ends[0]
    assert "Traceback" not in ends[0].stdout
    assert not (trained / "quality" / "quality.json").exists()
    drawn = {path: path.stat().st_mtime_ns for path in parts}
    complete(2, environment, "evaluate", *how)
    assert {path: path.stat().st_mtime_ns for path in parts} == drawn
    assert len([*trained.glob("quality/images/*/*.npz")]) == 2
    ours = json.loads((trained / "quality" / "quality.json").read_text())
    for path in trained.glob("quality/images/*/*.npz"):
        path.unlink()
    alone(environment, "evaluate", *how, f"--out={tmp_path / 'one'}")
    one = json.loads((tmp_path / "one.json").read_text())
    assert ours.keys() == one.keys()
    assert ours["blocks"] == one["blocks"]  # bit for bit: of as many devices


def test_a_sweep_and_a_reference_are_those_of_one(
    trained: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    over = f"--workdir={trained}", "--over=steps=2,3", "--number=10", "--blocks=1"
    over += "--extractors=pixels8", "--batch=10"
    alone(environment, "sweep", *over, f"--out={tmp_path / 'one'}")
    book = trained / "quality" / "sweep.jsonl"
    rows = [json.loads(line)["blocks"] for line in book.read_text().splitlines()]
    book.unlink()
    complete(2, environment, "sweep", *over, f"--out={tmp_path / 'two'}")
    again = [json.loads(line)["blocks"] for line in book.read_text().splitlines()]
    assert len(rows) == 2
    assert again == rows
    assert not [*trained.glob("quality/sweep/*")]
    real = "--config=tests/system/tiny.py", "--extractors=pixels8", "--moments"
    alone(environment, "reference", *real, f"--out={tmp_path / 'one.npz'}")
    complete(2, environment, "reference", *real, f"--out={tmp_path / 'two.npz'}")
    with np.load(tmp_path / "one.npz") as one, np.load(tmp_path / "two.npz") as two:
        for name in ("mean", "scatter", "count"):
            a, b = (arrays[f"pixels8/{name}"] for arrays in (one, two))
            np.testing.assert_array_equal(a, b)


def test_latents_are_the_bytes_of_one(environment: dict[str, str], tmp_path: Path) -> None:
    """Three shards by two processes: of the last round one has nothing to do."""
    pytest.importorskip("array_record", reason='needs pip install "jaxdiff[records]"')
    how = f"--images={photos(tmp_path / 'photos', 20)}", "--size=16", "--shard_size=8"
    how += f"--vae={vae_folder(tmp_path / 'vae')}", "--batch=2"
    alone(environment, "encode", *how, f"--out={tmp_path / 'one'}")
    first, other = complete(2, environment, "encode", *how, f"--out={tmp_path / 'two'}")
    one, two = (shards.read_header(tmp_path / name) for name in ("one", "two"))
    assert two.shards == one.shards
    assert [shard.count for shard in two.shards] == [8, 8, 4]
    assert "20 records of 2 classes in 3 shards (0 were there)" in first
    assert "records of" not in other
    killed = dataclasses.replace(two, shards=two.shards[:1])  # what a kill leaves
    (tmp_path / "two" / shards.HEADER).write_bytes(shards.dumps(killed))
    first, _ = complete(2, environment, "encode", *how, f"--out={tmp_path / 'two'}")
    assert "in 3 shards (1 were there)" in first
    assert shards.read_header(tmp_path / "two").shards == one.shards


def test_a_folder_that_is_not_shared_is_refused(
    trained: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    folders = trained, tmp_path / "elsewhere"
    line_of = lambda i: command("sample", f"--workdir={folders[i]}", "--number=2")
    with side_by_side(2, environment, line_of) as running:
        ends = [process.ended() for process in running]
    for end in ends:
        assert end.returncode in (1, 75, -signal.SIGABRT)
    assert any("not all processes see the same folder" in end.stdout for end in ends)
    assert "Traceback" not in "".join(end.stdout for end in ends)


def test_a_command_of_one_process_refuses_to_be_one_of_several(
    environment: dict[str, str],
) -> None:
    line = command("likelihood", "--workdir=runs/none", "--processes=2", "--process=0")
    done = run(line, environment)
    assert done.returncode == 1
    assert done.stderr == "error: this command runs in one process: leave out --processes\n"
