"""A run that exists goes on with other settings, exactly, and keeps what they were."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import chex
import numpy as np
import pytest

from jaxdiff.config import changes, differences
from jaxdiff.data import Folder
from jaxdiff.data.batches import Dataset, Memory, Stream, batches, order
from jaxdiff.networks import LevelEstimator
from jaxdiff.optim import inverse_sqrt_schedule
from jaxdiff.runs import checkpoint, snapshots
from jaxdiff.runs.state import TrainState
from jaxdiff.train import fit
from jaxdiff.train import loop as train_loop
from jaxdiff.train.step import compiled_step
from tests.test_train import PLAIN, TINY

RUN = dataclasses.replace(
    PLAIN, batch_size=2, steps=4, log_every=2, checkpoint_every=4, sample_every=0
)


def run(workdir: Path, **changed: Any) -> TrainState:
    return fit(dataclasses.replace(RUN, **changed), workdir, progress=False)


def equal(one: TrainState, other: TrainState) -> None:
    chex.assert_trees_all_equal(one.params, other.params)
    chex.assert_trees_all_equal(one.opt_state, other.opt_state)


def test_which_settings_may_change() -> None:
    optimizer = dataclasses.replace(TINY.optimizer, learning_rate=0.5, ref_batches=3.0)
    changed = dataclasses.replace(
        TINY,
        batch_size=8,
        accumulation=2,
        optimizer=optimizer,
        network=TINY.network.clone(remat=True, dtype="bfloat16"),
    )
    assert differences(TINY, changed) == []
    assert sorted(changes(TINY, changed)) == [
        "accumulation 1 -> 2",
        "batch_size 16 -> 8",
        "network.dtype float32 -> bfloat16",
        "network.remat False -> True",
        "optimizer.learning_rate 0.01 -> 0.5",
        "optimizer.ref_batches 10.0 -> 3.0",
    ]
    estimators = [
        dataclasses.replace(TINY, network=LevelEstimator(network))
        for network in (TINY.network, changed.network)
    ]
    assert differences(*estimators) == []
    assert len(changes(*estimators)) == 2
    assert changes(TINY, dataclasses.replace(TINY, steps=7)) == []


def test_what_a_step_sees_is_said_when_it_changes() -> None:
    """Remedies decide what a step computes of numbers or images that are not right."""
    before = dataclasses.replace(TINY, data=Folder("images", 8), fsdp=1)
    after = dataclasses.replace(
        before, data=Folder("images", 8, on_error="skip"), fsdp=2, on_nonfinite="skip"
    )
    assert differences(before, after) == []
    assert sorted(changes(before, after)) == [
        "data.on_error stop -> skip",
        "fsdp 1 -> 2",
        "on_nonfinite stop -> skip",
    ]


@pytest.mark.parametrize(
    "changed",
    [
        {"network": TINY.network.clone(model_channels=16)},
        {"network": TINY.network.clone(dropout=0.0)},
        {"optimizer": dataclasses.replace(TINY.optimizer, b2=0.9)},
        {"optimizer": dataclasses.replace(TINY.optimizer, stds=(0.1, 0.2))},
        {"seed": 1},
        {"loss_scale": 2.0},
    ],
)
def test_what_changes_the_state_s_meaning_is_refused(changed: dict[str, Any]) -> None:
    assert len(differences(TINY, dataclasses.replace(TINY, **changed))) == 1


def test_a_refusal_says_what_can_be_done_and_not_to_delete(tmp_path: Path) -> None:
    run(tmp_path, steps=2)
    with pytest.raises(ValueError, match=r"loss_scale: 1.0 there, 2.0 here") as refused:
        run(tmp_path, loss_scale=2.0)
    assert "choose another --workdir" in str(refused.value)
    assert f"--config.init_from={tmp_path}" in str(refused.value)
    assert "delete" not in str(refused.value)


def positions(size: int, first: int, count: int, more: int) -> list[int]:
    """Numbers of the images in batches of so many steps, in order."""
    label = np.arange(1000, dtype=np.int32)
    source = Memory(np.zeros((1000, 1, 1, 1), np.uint8), label)
    read = batches(Dataset(source), size, seed=3, start_step=first, more_images=more)
    return [int(n) for _ in range(count) for n in next(read)["label"]]


def test_batches_of_another_size_go_on_at_the_next_image() -> None:
    whole = positions(1, 0, 1504, 0)  # more than an epoch
    before = positions(16, 0, 60, 0)
    smaller = positions(8, 60, 20, 60 * (16 - 8))
    larger = positions(32, 80, 12, 60 * 16 + 20 * 8 - 80 * 32)
    assert before + smaller + larger == whole
    with pytest.raises(ValueError, match="more_images"):
        positions(16, 1, 1, -17)


def test_the_learning_rate_follows_the_images_seen() -> None:
    """Ramp-up by images; after it, the rate of a run whose batches all had this size."""
    rate = inverse_sqrt_schedule(1.0, 10, 64, batch_size=8, more_images=16)
    np.testing.assert_allclose([rate(n) for n in (0, 2, 4)], [16 / 64, 32 / 64, 48 / 64])
    whole = inverse_sqrt_schedule(1.0, 10, 64, batch_size=8)
    for step in range(0, 80, 7):
        np.testing.assert_allclose(rate(step), whole(step + 2), rtol=1e-6)


def test_a_changed_batch_size_is_kept_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is changed and stopped ends as one that is changed and not stopped."""
    seen, read = {}, Stream.indices

    def watched(stream: Stream, step: int) -> np.ndarray:
        seen[step] = tuple(read(stream, step).tolist())
        return read(stream, step)

    for name in ("whole", "pieces"):
        run(tmp_path / name)
    monkeypatch.setattr(Stream, "indices", watched)
    whole = run(tmp_path / "whole", batch_size=4, steps=8)
    monkeypatch.undo()
    run(tmp_path / "pieces", batch_size=4, steps=6)
    equal(run(tmp_path / "pieces", batch_size=4, steps=8), whole)
    numbers = order(len(RUN.data.load()), RUN.seed, 0)
    assert seen[4] == tuple(numbers[8:12].tolist())  # after 4 steps of 2 images
    assert seen[7] == tuple(numbers[20:24].tolist())
    with checkpoint.checkpoints(tmp_path / "pieces") as saved:
        assert [saved.record(s).images(s) for s in saved.steps()] == [24, 16]


def test_the_history_of_settings_is_kept_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run(tmp_path)
    optimizer = dataclasses.replace(RUN.optimizer, learning_rate=0.005)
    changed = dataclasses.replace(RUN, optimizer=optimizer, steps=6, accumulation=2)
    fit(changed, tmp_path)
    line = "from step 4 on: optimizer.learning_rate 0.01 -> 0.005"
    assert line in capsys.readouterr().err.splitlines()
    starts = [json.loads(row) for row in (tmp_path / "starts.jsonl").open()]
    assert [start["step"] for start in starts] == [0, 4]
    assert starts[0]["notes"] == []
    assert line in starts[1]["notes"]
    assert "from step 4 on: accumulation 1 -> 2" in starts[1]["notes"]
    rates = [s["experiment"]["optimizer"]["learning_rate"] for s in starts]
    assert rates == [0.01, 0.005]
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["optimizer"]["learning_rate"] == 0.005
    fit(changed, tmp_path)
    assert "from step" not in capsys.readouterr().err  # said once, at the change


def test_going_back_past_a_change_counts_the_images_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path, checkpoint_every=2)
    e = dataclasses.replace(
        RUN, batch_size=4, steps=6, checkpoint_every=2, on_nonfinite="roll_back"
    )
    built = []

    def compiled(*args: Any) -> Any:
        built.append(args[-1])
        return compiled_step(*args)

    monkeypatch.setattr(train_loop, "compiled_step", compiled)
    with checkpoint.checkpoints(tmp_path, 2) as saved:
        made, _ = train_loop.prepared(e, tmp_path, saved, False)
        assert made.more_images == 4 * 2 - 4 * 4
        monkeypatch.setattr(saved, "_damaged", {4})
        monkeypatch.setattr(saved, "steps", lambda: [2])
        with pytest.warns(UserWarning, match="going back to step 2"):
            back, state = train_loop.rolled_back(made, train_loop.NotFinite("bad"), 1)
    assert (int(state.step), back.images(2)) == (2, 4)
    assert built == [-8, -4]


def test_snapshots_count_the_images_seen(tmp_path: Path) -> None:
    run(tmp_path, snapshot_every=4)
    run(tmp_path, snapshot_every=4, batch_size=4, steps=8)
    written = [snapshots.read(e.path) for e in snapshots.entries(tmp_path / "snapshots")]
    assert [s.images for s in written] == [8, 24]
    snapshots.reconstruct(tmp_path / "snapshots", [0.08])  # one run, whatever its batches
