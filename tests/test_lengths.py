"""Quality over lengths of the average: what widths are reached, and what is measured."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.config import Experiment
from jaxdiff.networks import UNet
from jaxdiff.optim import ema_profiles
from jaxdiff.runs import ema_lengths, snapshots
from jaxdiff.runs.restoring import Restored
from jaxdiff.runs.snapshots import Snapshot
from jaxdiff.runs.state import init_state, run_denoiser
from tests.test_snapshots import average, tracked, weight


def test_what_a_profile_lacks_is_an_integral() -> None:
    """By the midpoint rule, and least squares over its points, without inner products."""
    times, stds, end = [1.0, 1.0, 2.0, 2.0, 3.0, 3.0], [0.05, 0.1] * 3, 3.0
    time = (np.arange(100_000) + 0.5) * end / 100_000
    basis = [ema_profiles.profile(time, t, s) for t, s in zip(times, stds, strict=True)]
    targets = (0.03, 0.07, 0.2, 0.28)
    errors = ema_lengths.profile_errors(times, stds, end, targets)
    for std, error in zip(targets, errors, strict=True):
        p = ema_profiles.profile(time, end, std)
        x = np.linalg.lstsq(np.transpose(basis), p, rcond=None)[0]
        lack = x / x.sum() @ basis - p
        assert error == pytest.approx(np.linalg.norm(lack) / np.linalg.norm(p), rel=1e-3)


def test_a_snapshot_s_own_profile_lacks_nothing() -> None:
    """But for rounding, of which the root of a difference of 1e-16 leaves 1e-8."""
    errors = ema_lengths.profile_errors([1, 2, 2], [0.1, 0.1, 0.05], 2, [0.05, 0.1])
    np.testing.assert_allclose(errors, 0, atol=1e-7)


def test_each_width_is_measured_on_its_own_average(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tracked(tmp_path / snapshots.TRACKED, 320, 20, (0.05, 0.10))
    reads, read = [], snapshots.read
    monkeypatch.setattr(snapshots, "read", lambda p: reads.append(p) or read(p))
    stds = (0.15, 0.05, 0.08)
    seen: list[Restored] = []
    measure = lambda run: {"number": seen.append(run) or len(seen)}
    made = ema_lengths.over_lengths(tmp_path, stds, measure, together=2)
    rows = [next(made)]
    assert len(seen) == 1  # measured as it is asked for
    rows += made
    assert [row["std"] for row in rows] == [*stds]
    assert [row["number"] for row in rows] == [1, 2, 3]
    for std, run in zip(stds, seen, strict=True):
        exact = average(path, std)
        assert np.linalg.norm(weight(run) - exact) < 5e-3 * np.linalg.norm(exact)
        assert run.step == 320
    assert len(reads) == 2 * (32 + 1)  # two passes, and the last snapshot's experiment
    times = np.repeat(np.arange(20, 321, 20), 2)
    expected = ema_lengths.profile_errors(times, [0.05, 0.10] * 16, 320, stds)
    errors = [row["profile_error"] for row in rows]
    # the root of a rounding of 1e-16
    np.testing.assert_allclose(errors, expected, rtol=1e-6, atol=1e-7)


def test_an_earlier_step_is_measured_on_what_was_there(tmp_path: Path) -> None:
    path = tracked(tmp_path / snapshots.TRACKED, 320, 20, (0.05, 0.10))
    (row,) = ema_lengths.over_lengths(
        tmp_path, (0.12,), lambda run: {"weight": weight(run)}, step=160
    )
    exact = average(path[:160], 0.12)
    assert np.linalg.norm(row["weight"] - exact) < 5e-3 * np.linalg.norm(exact)
    assert row["step"] == 160
    times = np.repeat(np.arange(20, 161, 20), 2)
    error = ema_lengths.profile_errors(times, [0.05, 0.10] * 8, 160, [0.12])
    assert row["profile_error"] == error


def test_what_is_measured_is_the_network_s_denoiser(tmp_path: Path) -> None:
    network = UNet(label_dim=10, model_channels=8, channel_mult=(1,), num_blocks=1)
    e = Experiment(network=network, schedule=jd.LogSigma(0.02, 40.0))
    state = jax.jit(init_state, static_argnums=0)(e)
    leaves, tree = jax.tree.flatten(state.params)
    rng = np.random.default_rng(0)  # out_gain starts at 0
    params = tree.unflatten([np.float32(rng.normal(size=a.shape)) for a in leaves])
    params = jax.device_put(params)
    variables = {"params": params, "constants": state.constants}
    for step in (10, 20):
        snapshot = Snapshot(e, variables, 0.1, step, step * e.batch_size)
        snapshots.write(tmp_path / snapshots.TRACKED, snapshot, "float32")
    x = jnp.float32(rng.normal(size=(2, *e.data.shape)))
    cond = jd.Condition(label=jnp.array([3, 7]))
    x0 = lambda d: np.asarray(jax.jit(d)(x, jd.NoiseLevel(1.0, 0.7), cond).x0)
    (row,) = ema_lengths.over_lengths(tmp_path, (0.2,), lambda run: {"x0": x0(run.denoise)})
    # any average of equal weights is these weights; sums of two shares round in float32
    expected = x0(run_denoiser(e, variables))
    assert np.abs(expected).std() > 0.1
    np.testing.assert_allclose(row["x0"], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("std", "step", "message"),
    [(0.3, None, r"not in \(0, 0.2887\)"), (0.1, 30, "no snapshot of step 30")],
)
def test_what_cannot_be_averaged_is_refused(
    std: float, step: int | None, message: str, tmp_path: Path
) -> None:
    tracked(tmp_path / snapshots.TRACKED, 80, 40, (0.05,))

    def measure(run: Restored) -> dict[str, Any]:
        raise AssertionError("was measured")

    with pytest.raises(ValueError, match=message):
        next(ema_lengths.over_lengths(tmp_path, (0.1, std), measure, step))
