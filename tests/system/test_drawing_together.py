"""Several processes draw, score and encode as one; what is killed goes on."""

import json
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from jaxdiff.data.formats import shards
from tests.model_goldens import vae_folder
from tests.system.commands import Command, command, run, start, train
from tests.system.test_latents_decoded import photos

SCORED = ("--number=600", "--blocks=1", "--extractors=pixels8", "--batch=100")
"""In two files, of 512 images and of 88."""


@contextmanager
def started(
    count: int, environment: dict[str, str], name: str, *arguments: object
) -> Iterator[list[Command]]:
    """The command in each of several processes, two devices in all if that is possible."""
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    together = (f"--coordinator=localhost:{port}", f"--processes={count}")
    own = lambda i: (*together, f"--process={i}", f"--cpu_devices={max(1, 2 // count)}")
    running = [
        start(command(name, *arguments, *own(i)), environment, together=True)
        for i in range(count)
    ]
    try:
        yield running
    finally:
        for process in running:
            process.kill()
            process.ended()


def complete(
    count: int, environment: dict[str, str], name: str, *arguments: object
) -> list[str]:
    with started(count, environment, name, *arguments) as running:
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
    with started(2, environment, "evaluate", *how) as running:
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
    for name, value in one["blocks"][0].items():
        assert ours["blocks"][0][name] == pytest.approx(value, rel=1e-6), name


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
    for (ours,), (theirs,) in zip(again, rows, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-6)
    assert not [*trained.glob("quality/sweep/*")]
    real = "--config=tests/system/tiny.py", "--extractors=pixels8", "--moments"
    alone(environment, "reference", *real, f"--out={tmp_path / 'one.npz'}")
    complete(2, environment, "reference", *real, f"--out={tmp_path / 'two.npz'}")
    with np.load(tmp_path / "one.npz") as one, np.load(tmp_path / "two.npz") as two:
        for name in ("mean", "scatter", "count"):
            a, b = (arrays[f"pixels8/{name}"] for arrays in (one, two))
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6 * np.abs(a).max())


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


def test_a_folder_that_is_not_shared_is_refused(
    trained: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    running = []
    for i, workdir in enumerate((trained, tmp_path / "elsewhere")):
        own = f"--coordinator=localhost:{port}", "--processes=2", f"--process={i}"
        line = command("sample", f"--workdir={workdir}", "--number=2", *own)
        running.append(start([*line, "--cpu_devices=1"], environment, together=True))
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
