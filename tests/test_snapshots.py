"""Snapshots: what is written is read, and other widths are made of them."""

import dataclasses
import os
import pickle
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from jaxdiff import networks
from jaxdiff.config import Experiment
from jaxdiff.networks import UNet
from jaxdiff.optim import ema_profiles
from jaxdiff.runs import snapshots
from jaxdiff.runs.snapshots import Snapshot
from jaxdiff.runtime.files import place
from tests import buckets

BATCH = 4
NETWORK = UNet(
    model_channels=4, channel_mult=(1,), num_blocks=1, attn_resolutions=(),
    channels_per_head=4, logvar_channels=4,
)  # fmt: skip
EXPERIMENT = Experiment(batch_size=BATCH, network=NETWORK)
WEIGHT = "params/dec/8x8_block0/conv_res1/weight"
"""The array that differs from snapshot to snapshot, [3, 3, 4, 4]."""


def snapshot(step: int, std: float, weight: Any, **changed: Any) -> Snapshot:
    """One whose WEIGHT begins with these numbers; others are zero."""
    shapes = networks.shapes(NETWORK, EXPERIMENT.data.shape)
    flat = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    flat[WEIGHT].flat[: np.size(weight)] = np.ravel(weight)
    flat["constants/emb_fourier/freqs"][:2] = [step, 2.0]
    experiment = dataclasses.replace(EXPERIMENT, **changed)
    variables = traverse_util.unflatten_dict(flat, sep="/")
    return Snapshot(experiment, variables, std, step, step * BATCH)


def weight(of: Any, size: int = 50) -> np.ndarray:
    """What a snapshot, or a run that was restored from it, holds there."""
    return np.asarray(traverse_util.flatten_dict(of.variables, sep="/")[WEIGHT]).ravel()[
        :size
    ]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_what_is_written_is_read(dtype: str, tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=50).astype(np.float32)
    path = snapshots.write(tmp_path, snapshot(12, 0.0625, values), dtype)
    assert path.name == "0000012-0.0625.npz"
    restored = snapshots.read(path)
    assert weight(restored).dtype == np.float32
    expected = np.asarray(jnp.asarray(values).astype(dtype).astype(jnp.float32))
    np.testing.assert_array_equal(weight(restored), expected)
    assert (restored.std, restored.step, restored.images) == (0.0625, 12, 12 * BATCH)
    assert restored.experiment == EXPERIMENT
    assert snapshots.find(tmp_path.parent, 0.0625) is None


def test_numbers_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="weight of step 3 does not fit into float16"):
        snapshots.write(tmp_path, snapshot(3, 0.1, [1e6]))
    with pytest.raises(ValueError, match="not 'int8'"):
        snapshots.write(tmp_path, snapshot(3, 0.1, [1.0]), "int8")
    assert not list(tmp_path.iterdir())


def test_damage_is_one_line_and_pickles_are_not_run(tmp_path: Path) -> None:
    path = snapshots.write(tmp_path, snapshot(3, 0.1, np.ones(100)))
    whole = path.read_bytes()
    for damaged in (whole[:-30], whole[:200], b"", whole[:9000] + b"X" + whole[9001:]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="damaged, or no snapshot"):
            snapshots.read(path)

    class Run:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "run"),)

    np.savez(path, json=np.array([Run()], dtype=object))
    with pytest.raises(ValueError, match="damaged, or no snapshot"):
        snapshots.read(path)
    path.write_bytes(pickle.dumps(Run()))
    with pytest.raises(ValueError, match="damaged, or no snapshot"):
        snapshots.read(path)
    assert not (tmp_path / "run").exists()


def tracked(folder: Path, steps: int, every: int, stds: tuple[float, ...]) -> np.ndarray:
    """Snapshots of averages of a made-up training, by the definition; its parameters."""
    path = np.cumsum(np.random.default_rng(1).normal(size=(steps, 50)), axis=0)
    for step in range(every, steps + 1, every):
        for std in stds:
            mean = average(path[:step], std)
            snapshots.write(folder, snapshot(step, std, mean), "float32")
    return path


def average(path: np.ndarray, std: float) -> np.ndarray:
    """Weights tau^gamma integrated over each step's piece of (0, t], as the EMA gives."""
    edges = np.arange(len(path) + 1) / len(path)
    share = np.diff(edges ** (ema_profiles.std_to_exponent(std) + 1))
    return share @ path


def test_a_width_that_was_not_tracked_is_made_of_two_that_were(tmp_path: Path) -> None:
    """A random walk is harder than training: its steps do not shrink."""
    path = tracked(tmp_path, 640, 40, (0.05, 0.10))
    targets = (0.05, 0.07, 0.15, 0.20)
    for made in snapshots.reconstruct(tmp_path, targets):
        exact = average(path, made.std)
        error = np.linalg.norm(weight(made) - exact) / np.linalg.norm(exact)
        assert error < (1e-6 if made.std == 0.05 else 5e-3), (made.std, error)
        assert made.step == 640
        assert made.images == 640 * BATCH
        freqs = made.variables["constants"]["emb_fourier"]["freqs"]
        np.testing.assert_array_equal(freqs, [640, 2, 0, 0])
    (half,) = snapshots.reconstruct(tmp_path, (0.12,), step=320)
    exact = average(path[:320], 0.12)
    assert np.linalg.norm(weight(half) - exact) < 5e-3 * np.linalg.norm(exact)


def test_what_cannot_be_reconstructed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"no snapshots: train with --config\.snapshot_every"
    ):
        snapshots.reconstruct(tmp_path, (0.1,))
    tracked(tmp_path, 80, 40, (0.05,))
    with pytest.raises(ValueError, match=r"no snapshot of step 50 .* there are \[40, 80\]"):
        snapshots.reconstruct(tmp_path, (0.1,), step=50)
    other = snapshot(60, 0.05, np.zeros(50), seed=3)
    snapshots.write(tmp_path, other)
    with pytest.raises(ValueError, match="different runs: seed"):
        snapshots.reconstruct(tmp_path, (0.1,))


def test_without_a_width_it_is_the_one_that_the_run_samples_with(tmp_path: Path) -> None:
    folder = tmp_path / snapshots.TRACKED
    snapshots.write(folder, snapshot(100, 0.2, [1.0]))
    assert snapshots.find(tmp_path).name == "0000100-0.2.npz"  # there is no other
    for std in (0.05, 0.10):
        snapshots.write(folder, snapshot(100, std, [1.0]))
    assert EXPERIMENT.sampling.std == 0.10
    for step in (None, 100):
        assert snapshots.find(tmp_path, None, step).name == "0000100-0.1.npz"
    snapshots.write(folder, snapshot(50, 0.05, [1.0]))
    (folder / "0000100-0.1.npz").unlink()
    with pytest.raises(ValueError, match=r"of std 0.1, .*say --std; there are 0.05, 0.2"):
        snapshots.find(tmp_path)
    assert snapshots.find(tmp_path, None, 50).name == "0000050-0.05.npz"


def test_narrow_averages_are_found_and_no_width_is_passed_over(tmp_path: Path) -> None:
    folder = tmp_path / snapshots.POSTHOC
    path = snapshots.write(folder, snapshot(2000, 1e-9, [1.0]))
    assert path.name == "0002000-0.000000001.npz"
    old = path.with_name("0002000-1e-05.npz")
    old.write_bytes(path.read_bytes())
    for name in ("0", "1", "nan", "inf", "-0.1", "x"):
        path.with_name(f"0002000-{name}.npz").write_bytes(path.read_bytes())
    assert [e.std for e in snapshots.entries(folder)] == [1e-9, 1e-5]
    assert snapshots.find(tmp_path, 1e-9) == path
    assert snapshots.find(tmp_path, 1e-5) == old


def test_a_snapshot_with_other_tensors_is_named(tmp_path: Path) -> None:
    """One of shape [1] would be broadcast, and a lost one was told in JAX's words."""
    tracked(tmp_path, 80, 20, (0.05,))
    for damaged in ({"weight": np.ones(1, np.float32)}, {"bias": np.ones(1, np.float32)}):
        one = snapshot(40, 0.05, np.ones(1))
        one.variables["params"]["dec"]["8x8_block0"]["conv_res1"] = damaged
        snapshots.write(tmp_path, one)
        with pytest.raises(ValueError, match=r"0000040-0.05.npz is damaged, .*params/dec"):
            snapshots.reconstruct(tmp_path, (0.1,))


def test_snapshots_in_a_bucket_are_as_those_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = buckets.in_memory(monkeypatch).sent
    there = place("gs://bucket/run")
    assert snapshots.find(there) is None
    for folder in (there, tmp_path):
        for step in (10, 20):
            snapshots.write(folder / snapshots.TRACKED, snapshot(step, 0.1, [step / 64]))
    assert sent == ["run/snapshots/0000010-0.1.npz", "run/snapshots/0000020-0.1.npz"]
    newest = snapshots.find(there)
    assert str(newest) == "gs://bucket/run/snapshots/0000020-0.1.npz"
    assert weight(snapshots.read(newest), 1) == 20 / 64
    made = [
        snapshots.reconstruct(folder / snapshots.TRACKED, (0.12,))[0]
        for folder in (there, tmp_path)
    ]
    np.testing.assert_array_equal(weight(made[0]), weight(made[1]))
    with pytest.raises(FileNotFoundError, match=r"no snapshot gs://bucket/run/none.npz"):
        snapshots.read(there / "none.npz")
    (there / "bad.npz").write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"gs://bucket/run/bad.npz is damaged"):
        snapshots.read(there / "bad.npz")
