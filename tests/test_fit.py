"""The loop: what it compiles, keeps, skips, goes back to, and how it is stopped."""

import dataclasses
import json
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Key

import jaxdiff as jd
from jaxdiff.config import Experiment
from jaxdiff.runs import checkpoint, restoring
from jaxdiff.runs.state import TrainState
from jaxdiff.runtime import processes, sharding
from jaxdiff.schedules import corrupt
from jaxdiff.train import NotFinite, Stopped, compiled_step, fit, initial_state, make_step
from jaxdiff.train import loop as train_loop
from jaxdiff.train import step as train_step
from jaxdiff.train.goodput import Clock
from jaxdiff.types import Noised
from tests.extending import forgetting
from tests.test_train import PLAIN, Small, batch

QUIET = dataclasses.replace(
    PLAIN, batch_size=1, steps=12, log_every=2, checkpoint_every=4, sample_every=0,
)  # fmt: skip
"""One image a step, and so one device."""


@pytest.fixture(autouse=True, scope="module")
def known() -> Iterator[None]:
    """The network is registered, so that checkpoints may name it."""
    with forgetting():
        jd.register(Small)
        yield


def run(workdir: Path, **changes: Any) -> TrainState:
    return fit(dataclasses.replace(QUIET, **changes), workdir, progress=False)


def rows(workdir: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").open()]


def saved(workdir: Path) -> list[int]:
    return sorted(
        int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit()
    )


def run_key(experiment: Experiment) -> Key[Array, ""]:
    return jax.random.split(jax.random.key(experiment.seed))[1]


def noise_key(experiment: Experiment, step: int) -> np.ndarray:
    """That of the step after so many."""
    key = jax.random.fold_in(run_key(experiment), step)
    return np.asarray(jax.random.key_data(jax.random.split(key, 5)[1]))


def spoiling(bad: list[np.ndarray] | None) -> Callable[..., Noised]:
    """`corrupt`, whose states are nan for these keys, or for all."""

    def spoiled(key: Key[Array, ""], *arguments: Any) -> Noised:
        noised, mine = corrupt(key, *arguments), jax.random.key_data(key)
        hit = jnp.array([jnp.all(mine == one) for one in bad]).any() if bad else True
        return dataclasses.replace(noised, x=jnp.where(hit, jnp.nan, noised.x))

    return spoiled


def test_nothing_is_compiled_after_the_second_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled, counts, ahead = [], [], sharding.ahead

    def counting(*arguments: Any) -> Iterator[Any]:
        for images in ahead(*arguments):
            counts.append(len(compiled))
            yield images

    def heard(event: str, seconds: float, **_: Any) -> None:
        if event.endswith("backend_compile_duration"):
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(heard)
    monkeypatch.setattr(sharding, "ahead", counting)
    run(tmp_path, checkpoint_every=12)
    assert len(counts) == 12
    assert counts[2] > counts[0]  # the step itself was
    assert set(counts[3:]) == {counts[3]}  # after the log of step 2


def test_nothing_is_sent_to_a_device_unasked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharding, "ahead", lambda batches, mesh: batches)
    with pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed host-to-device"):
        run(tmp_path)


def test_the_metrics_tell_of_time(tmp_path: Path) -> None:
    run(tmp_path)
    metrics = rows(tmp_path)
    assert [row["step"] for row in metrics] == [2, 4, 6, 8, 10, 12]
    for row in metrics[1:]:
        assert row["seconds_per_step"] * row["images_per_s"] == pytest.approx(1)
        assert 0 <= row["data_wait"] < 1
        assert 0 < row["goodput"] < 1
    (start,) = [json.loads(line) for line in (tmp_path / "starts.jsonl").open()]
    assert (start["step"], start["jax"]) == (0, jax.__version__)


def test_goodput_is_what_is_left_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    clock = Clock()
    for name, seconds in (("data", 1.0), ("pictures", 4.0), ("pictures", 2.0)):
        with clock(name):
            now[0] += seconds
    now[0] += 3.0
    assert (clock.total, clock.steps, clock.goodput) == (10.0, 4.0, 0.4)
    assert "(25.0% of it waiting for data), pictures 6.0 s" in str(clock)


@pytest.mark.parametrize(("keep", "every", "left"), [(1, 8, [8, 12]), (2, 0, [10, 12])])
def test_which_checkpoints_are_kept(
    tmp_path: Path, keep: int, every: int, left: list[int]
) -> None:
    run(tmp_path, checkpoint_every=2, keep=keep, keep_every=every)
    assert saved(tmp_path) == left


def test_a_folder_may_be_named_from_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run(Path("here/run"), steps=4)
    assert saved(tmp_path / "here/run") == [4]
    assert restoring.restore("here/run").step == 4


def spoil(monkeypatch: pytest.MonkeyPatch, keys: list[np.ndarray] | None) -> None:
    """Makes some steps not finite, or all; their programs are not kept for other tests."""
    monkeypatch.setattr(train_step, "corrupt", spoiling(keys))
    monkeypatch.setattr(train_loop, "compiled_step", compiled_step.__wrapped__)


def test_a_step_is_skipped_as_if_it_had_not_been(monkeypatch: pytest.MonkeyPatch) -> None:
    e = dataclasses.replace(QUIET, on_nonfinite="skip")
    spoil(monkeypatch, [noise_key(e, 1)])
    step = jax.jit(make_step(e))
    one, good = step(initial_state(e, sharding.data_mesh(jax.devices()[:1])), batch(0))
    two, bad = step(one, batch(1))
    three, _ = step(two, batch(2))
    assert (good["skipped"], bad["skipped"], int(two.step), int(two.first_bad)) == (
        0,
        1,
        2,
        -1,
    )
    for name in ("params", "opt_state", "times"):
        chex.assert_trees_all_equal(getattr(two, name), getattr(one, name))
    leaf = lambda state: jax.tree.leaves(state.params)[-1]
    assert not np.array_equal(leaf(three), leaf(two))


def test_skipped_steps_are_counted_and_not_averaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = [noise_key(QUIET, step) for step in (4, 6, 7)]
    spoil(monkeypatch, bad)
    run(tmp_path, on_nonfinite="skip")
    by_step = {row["step"]: row for row in rows(tmp_path)}
    counts = [by_step[n].get("skipped_steps", 0) for n in (2, 4, 6, 8, 10, 12)]
    assert counts == [0, 0, 1, 2, 0, 0]
    assert np.isfinite(by_step[6]["loss"])
    assert "loss" not in by_step[8]
    assert saved(tmp_path) == [8, 12]


def test_a_run_does_not_skip_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, None)
    with pytest.raises(NotFinite, match="all of the 50 steps up to it were skipped"):
        run(tmp_path, on_nonfinite="skip", steps=200, log_every=10, checkpoint_every=200)


def test_a_run_goes_back_and_on_with_other_noise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, [noise_key(QUIET, 6)])
    with pytest.raises(NotFinite, match="not finite at step 7;"):
        run(tmp_path / "stop")
    assert saved(tmp_path / "stop") == [4]
    with pytest.warns(
        UserWarning, match=r"step 7: going back to step 4, .* \(1 of 3 times\)"
    ):
        ended = run(tmp_path / "back", on_nonfinite="roll_back")
    assert (int(ended.step), int(ended.first_bad)) == (12, -1)
    assert [row["step"] for row in rows(tmp_path / "back")] == [2, 4, 6, 8, 10, 12]
    shutil.rmtree(tmp_path / "back/checkpoints/12")  # a restart keeps to the other noise
    again = run(tmp_path / "back", on_nonfinite="roll_back")
    chex.assert_trees_all_equal(again.params, ended.params)
    keys = [jax.random.key_data(key) for key in (again.key, run_key(QUIET))]
    assert not np.array_equal(*keys)


@pytest.mark.filterwarnings("ignore:.*going back to step:UserWarning")
def test_a_run_does_not_go_back_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, None)
    with pytest.raises(NotFinite, match=r"not finite at step 1;.*rolled back 3 times"):
        run(tmp_path, on_nonfinite="roll_back")


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_has_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sign: signal.Signals
) -> None:
    before = signal.getsignal(sign)
    ahead = sharding.ahead

    def signalled(*arguments: Any) -> Iterator[Any]:
        for number, images in enumerate(ahead(*arguments), 1):
            if number == 6:
                signal.raise_signal(sign)
            yield images

    monkeypatch.setattr(sharding, "ahead", signalled)
    with pytest.raises(Stopped) as stopped:
        run(tmp_path)
    assert (stopped.value.step, stopped.value.signal) == (6, sign)
    assert saved(tmp_path) == [4, 6]
    assert signal.getsignal(sign) == before


def test_pictures_are_left_undone_for_a_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []

    def long(*_: Any) -> np.ndarray:
        signal.raise_signal(signal.SIGTERM)
        drawn.append("to the end")
        return np.zeros((4, 8, 8, 1), np.uint8)

    monkeypatch.setattr(train_loop, "show", long)
    with pytest.raises(Stopped) as stopped:
        run(tmp_path, sample_every=6)
    assert stopped.value.step == 7
    assert (saved(tmp_path), drawn) == ([4, 7], [])


def test_what_a_stop_left_undone_at_the_end_the_next_start_makes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []

    def stopped_once(*_: Any) -> np.ndarray:
        drawn.append("begun")
        if len(drawn) == 1:
            signal.raise_signal(signal.SIGTERM)
        return np.zeros((4, 8, 8, 1), np.uint8)

    monkeypatch.setattr(train_loop, "show", stopped_once)
    with pytest.raises(Stopped) as stopped:
        run(tmp_path, sample_every=100)
    assert stopped.value.step == 12
    assert not (tmp_path / "samples.png").exists()
    for _ in range(2):  # the second finds it there
        assert int(run(tmp_path, sample_every=100).step) == 12
    assert (tmp_path / "samples/0000012.png").exists()
    assert len(drawn) == 2


def test_averages_are_written_before_the_checkpoint_that_they_are_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(train_loop, "save_averages", killed)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, snapshot_every=8)
    assert saved(tmp_path) == [4]


def test_a_lost_process_is_no_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = "UNKNOWN: Gloo AllGather failed: Connection reset by peer"
    with checkpoint.checkpoints(tmp_path) as saved:
        with pytest.raises(OSError, match="cannot save"), saved._one_line_errors():
            raise RuntimeError(message)
        monkeypatch.setattr(processes, "several", lambda: True)
        with pytest.raises(RuntimeError, match="Gloo"), saved._one_line_errors():
            raise RuntimeError(message)
        with pytest.raises(OSError, match="cannot save"), saved._one_line_errors():
            raise RuntimeError("INVALID_ARGUMENT: no such thing")
        monkeypatch.undo()


def test_a_port_that_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"cannot listen at port {port}"):
            processes._reach(processes.Place(f"localhost:{port}", 2, 0))
        processes._reach(processes.Place(f"localhost:{port}", 2, 1))
    monkeypatch.setattr(processes, "PATIENCE", 0)
    with pytest.raises(ValueError, match=f"nobody listens at localhost:{port} after 0 s"):
        processes._reach(processes.Place(f"localhost:{port}", 2, 1))


def test_another_experiment_s_run_is_not_gone_on_with(tmp_path: Path) -> None:
    run(tmp_path, steps=4)
    with pytest.raises(
        ValueError, match=r"loss_scale: 1.0 there, 2.0 here.*set these back"
    ):
        run(tmp_path, loss_scale=2.0)


ADDRESS = {"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "4"}


@pytest.mark.parametrize(
    ("arguments", "environ", "expected"),
    [
        ((), {}, None),
        (("a:1", 2, 1), {}, ("a:1", 2, 1)),
        ((), ADDRESS | {"JAX_PROCESS_ID": "3"}, ("a:1", 4, 3)),
        ((), ADDRESS | {"JOB_COMPLETION_INDEX": "2"}, ("a:1", 4, 2)),
        (("b:2", 3, 0), ADDRESS | {"JAX_PROCESS_ID": "3"}, ("b:2", 3, 0)),
        (("", 1), ADDRESS, None),
        (("", 1), {"SLURM_STEP_NUM_TASKS": "8"}, None),
        ((), {"SLURM_STEP_NUM_TASKS": "8"}, ("", 0, -1)),
        ((), {"OMPI_COMM_WORLD_SIZE": "2"}, ("", 0, -1)),
        ((), {"SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "4"}, None),
    ],
)
def test_a_process_finds_its_place(
    arguments: tuple, environ: dict[str, str], expected: tuple[str, int, int] | None
) -> None:
    place = processes.place(*arguments, environ=environ)
    assert (place and dataclasses.astuple(place)) == expected


@pytest.mark.parametrize(
    ("arguments", "environ", "message"),
    [
        (("a:1",), {}, "got a:1, no processes, process none"),
        (("", 2, 0), {}, "got no coordinator, 2 processes, process 0"),
        (("a", 2, 0), {}, "--coordinator is 'a': give"),
        (("a:1", 2, 2), {}, "--process is 2 of 2 processes: number them from 0 to 1"),
        ((), {"JAX_NUM_PROCESSES": "many"}, "must be a whole number from 0 on, got 'many'"),
    ],
)
def test_a_place_that_is_none(
    arguments: tuple, environ: dict[str, str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        processes.place(*arguments, environ=environ)


def test_one_process_is_told_what_it_says() -> None:
    assert processes.from_first({"a": [1, None]}) == {"a": [1, None]}
    assert processes.first()
    assert not processes.several()
