"""Guided sampling of networks: by themselves, by another, within an interval."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff import checkpoint, generate, sharding, snapshots
from jaxdiff.data import Pixels
from jaxdiff.generate import image_keys
from jaxdiff.guidance import Interval
from jaxdiff.levels import Karras
from jaxdiff.state import init_state, run_denoiser
from tests.test_train import TINY

SAMPLED = dataclasses.replace(
    TINY, sampling=dataclasses.replace(TINY.sampling, steps=4, grid=Karras())
)
KEYS, LABEL = image_keys(np.arange(3)), np.arange(3, dtype=np.int32)
TOLERANCE = 1e-4
"""Rounding in float32 of steps that begin at sigma = 80."""


def variables(seed: int) -> dict[str, Any]:
    """Of a network whose output is not zero."""
    state = init_state(dataclasses.replace(TINY, seed=seed))
    loud = lambda p: p + 0.5 if p.ndim == 0 else p
    return {"params": jax.tree.map(loud, state.params), "constants": state.constants}


def drawn(main: Any, **changed: Any) -> np.ndarray:
    sampling = dataclasses.replace(SAMPLED.sampling, **changed)
    experiment = dataclasses.replace(SAMPLED, sampling=sampling)
    return np.asarray(generate.sampler(experiment)(main, KEYS, LABEL))


def test_a_guide_is_another_network() -> None:
    main, other = variables(0), variables(1)
    draw = generate.sampler(SAMPLED, SAMPLED, 0.7)
    d, g = (run_denoiser(SAMPLED, v) for v in (main, other))
    levels = SAMPLED.sampling.grid(SAMPLED.schedule, 4)
    cond = jd.Condition(label=jnp.asarray(LABEL))
    exact = jax.jit(
        lambda keys: jd.sample(
            jd.guide(d, (g, 0.7)), cond, keys, (8, 8, 1), levels, jd.Heun()
        )
    )(KEYS)
    np.testing.assert_allclose(draw((main, other), KEYS, LABEL), exact, atol=TOLERANCE)
    unguided = drawn(main)
    np.testing.assert_allclose(draw((main, main), KEYS, LABEL), unguided, atol=TOLERANCE)
    assert np.abs(exact - unguided).max() > 1e-2


def test_an_interval_guides_the_steps_that_start_in_it() -> None:
    main = variables(0)
    everywhere, nowhere = drawn(main, guidance=2.0), drawn(main)
    within = lambda *interval: drawn(main, guidance=2.0, interval=interval)
    np.testing.assert_allclose(within(0.0, 80.0), everywhere, atol=TOLERANCE)
    np.testing.assert_allclose(within(80.0, 99.0), nowhere, atol=TOLERANCE)
    levels = SAMPLED.sampling.grid(SAMPLED.schedule, 4)
    d = run_denoiser(SAMPLED, main)
    interval = Interval.of_steps(2.0, levels, 1, 2)
    guided = jd.guide(d, (jd.without(d, "label"), interval))
    cond = jd.Condition(label=jnp.asarray(LABEL))
    exact = jax.jit(
        lambda keys: jd.sample(guided, cond, keys, (8, 8, 1), levels, jd.Heun())
    )(KEYS)
    np.testing.assert_allclose(within(interval.low, interval.high), exact, atol=TOLERANCE)


def test_a_snapshot_is_restored_alone(tmp_path: Path) -> None:
    main = jax.device_get(variables(0))
    taken = snapshots.Snapshot(SAMPLED, main, 0.13, 40, 640)
    path = snapshots.write(tmp_path / "run" / snapshots.POSTHOC, taken, "float32")
    by_file, by_folder = (
        checkpoint.restore(path),
        checkpoint.restore(tmp_path / "run", 0.13),
    )
    for run in (by_file, by_folder):
        assert (run.step, run.experiment) == (40, SAMPLED)
        found = generate.sampler(run.experiment)(run.variables, KEYS, LABEL)
        np.testing.assert_allclose(found, drawn(main), atol=1e-6)
    with pytest.raises(FileNotFoundError, match="no such snapshot"):
        checkpoint.restore(tmp_path / "run", 0.2)


def test_an_image_depends_on_its_seed_alone() -> None:
    main, mesh = variables(0), sharding.data_mesh(jax.devices()[:1])
    draw = generate.sampler(SAMPLED)
    args = (draw, main, Pixels(), np.arange(3), LABEL, mesh)
    whole, split = generate.images(*args, 3), generate.images(*args, 2)
    assert whole.dtype == np.uint8
    np.testing.assert_allclose(whole.astype(int), split.astype(int), atol=1)
