"""AdamW as a value against Optax's, its averages against their closed form."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdiff import optim, train
from jaxdiff.config import from_config, to_config
from jaxdiff.optim import AdamW
from jaxdiff.runs import snapshots
from jaxdiff.runs.state import ema_variables
from jaxdiff.train.periodic import save_averages
from tests.states import initial
from tests.test_train import TINY, batch

PARAMS = {"weight": 3 * jax.random.normal(jax.random.key(0), (4, 5)), "bias": jnp.ones(5)}


def trajectory(tx: Any, steps: int = 6) -> tuple[list[Any], Any]:
    """The parameters after each step along gradients that vary in size, and the state."""
    params, state, path = PARAMS, tx.init(PARAMS), []
    for n in range(steps):
        grads = jax.tree.map(lambda p, n=n: (n + 1) * jnp.cos(n + p), params)
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        path.append(params)
    return path, state


@pytest.mark.parametrize(
    ("value", "chain"),
    [
        (AdamW(1e-2), optax.adam(1e-2)),
        (
            AdamW(3e-2, b1=0.8, b2=0.95, eps=1e-3, weight_decay=0.3),
            optax.adamw(3e-2, b1=0.8, b2=0.95, eps=1e-3, weight_decay=0.3),
        ),
        (
            AdamW(1e-2, weight_decay=0.1, max_grad_norm=4.0, rampup_images=32.0),
            optax.chain(
                optax.clip_by_global_norm(4.0),
                optax.adamw(optax.linear_schedule(0.0, 1e-2, 4), weight_decay=0.1),
            ),
        ),
    ],
    ids=["adam", "decay", "clipped, with a ramp-up"],
)
def test_the_value_is_optax_s_chain_to_the_bit(value: AdamW, chain: Any) -> None:
    ours, _ = trajectory(value.transformation(batch_size=8))
    theirs, _ = trajectory(chain)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    moved = [float(jnp.abs(p["weight"] - PARAMS["weight"]).max()) for p in ours]
    assert moved[-1] > 1e-3


def test_clipping_matters() -> None:
    clipped, _ = trajectory(AdamW(1e-2, max_grad_norm=4.0).transformation(8))
    free, _ = trajectory(AdamW(1e-2).transformation(8))
    assert float(jnp.abs(clipped[-1]["weight"] - free[-1]["weight"]).max()) > 1e-5


def test_averages_have_a_constant_memory() -> None:
    decays = (0.5, 0.9, 0.9999)
    path, state = trajectory(AdamW(0.1, decays=decays).transformation(8), steps=40)
    trace = np.array([p["weight"] for p in [PARAMS, *path]], np.float64)
    age = np.arange(40)[::-1].reshape(-1, 1, 1)
    averages = optim.averages(state)
    assert len(averages) == len(decays)
    for decay, average in zip(decays, averages, strict=True):
        expected = decay**40 * trace[0] + (1 - decay) * np.sum(decay**age * trace[1:], 0)
        np.testing.assert_allclose(average["weight"], expected, rtol=2e-6, atol=1e-6)


def test_the_rate_follows_the_images_seen() -> None:
    rate = AdamW(1e-3, rampup_images=100.0).schedule(batch_size=10, more_images=20)
    seen = [20, 60, 100, 1000]
    expected = [2e-4, 6e-4, 1e-3, 1e-3]
    np.testing.assert_allclose([rate((n - 20) // 10) for n in seen], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"learning_rate": 0.0}, "learning_rate must be a number above 0"),
        ({"weight_decay": -1.0}, "weight_decay must be a number from 0"),
        ({"b2": 1.0}, "b2 must be a number .*below 1, got 1"),
        ({"decays": ()}, r"decays .*such as \(0.9999,\)"),
        ({"decays": (1.0,)}, "decays.0. must be a number above 0.288.*, below 1, got 1"),
        ({"decays": (0.1,)}, "got 0.1; it is what an average keeps in a step"),
        ({"decays": (0.9, 0.9)}, "decays has one twice"),
    ],
)
def test_what_is_out_of_range_is_refused(fields: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        AdamW(**fields)
    with pytest.raises(ValueError, match=r"decays must lie in \[0, 1\), got 1"):
        optim.constant_ema((1.0,))


def test_a_run_samples_from_the_average_of_a_decay(tmp_path: Path) -> None:
    optimizer = AdamW(1e-2, decays=(0.6, 0.9))
    sampling = dataclasses.replace(TINY.sampling, std=0.9)
    run = dataclasses.replace(TINY, optimizer=optimizer, sampling=sampling)
    assert from_config(to_config(run)) == run
    with pytest.raises(
        ValueError, match=r"std is 0.1, .* optimizer.lengths = \(0.6, 0.9\)"
    ):
        dataclasses.replace(run, sampling=TINY.sampling)
    start = initial(run)
    state, _ = jax.jit(train.make_step(run))(start, batch(0))
    for decay in optimizer.decays:
        jax.tree.map(
            lambda average, old, new, d=decay: np.testing.assert_allclose(
                average, d * old + (1 - d) * new, rtol=1e-5, atol=1e-6
            ),
            ema_variables(run, state, decay)["params"],
            start.params,
            state.params,
        )
    save_averages(tmp_path, run, state, images=8)
    assert [e.std for e in snapshots.entries(tmp_path / "snapshots")] == [0.6, 0.9]
    read = snapshots.read(snapshots.find(tmp_path))  # the one that samples
    assert (read.std, read.experiment) == (0.9, run)
    with pytest.raises(ValueError, match=r"constant memory alone \(0.9\): other lengths"):
        snapshots.reconstruct(tmp_path / "snapshots", [0.1])
