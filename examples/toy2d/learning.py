"""Trains a small network on the exact denoiser of the toy, and samples with it.

    sigma = exp(1.5 N(0, 1) - 2.3),    loss = sigma^2 mean (score - score*)^2

with score* exact, so the network's errors come from its capacity, not from noisy targets
[AG]. In terms of x0 the loss is (D - D*)^2 / sigma^2, which is
`WeightedError(UniformOnNetwork(Eps()))` with D* instead of x0.
"""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from examples.toy2d.energy_mlp import EnergyMLP
from examples.toy2d.fractal import Mixture
from jaxdiff.denoisers import denoiser
from jaxdiff.denoisers.parameterizations import EDM, Eps
from jaxdiff.objectives.losses import WeightedError
from jaxdiff.objectives.timesteps import NormalLogSigma
from jaxdiff.objectives.weightings import UniformOnNetwork
from jaxdiff.optim import EDM2Optimizer, averages, normalized
from jaxdiff.runtime import progress
from jaxdiff.sampling import trajectory
from jaxdiff.sampling.grids import Karras
from jaxdiff.sampling.solvers import Heun
from jaxdiff.schedules import LogSigma, corrupt
from jaxdiff.types import UNCONDITIONAL, Denoiser, Noised, Solver

TIMES = NormalLogSigma(mean=-2.3, std=1.5)
LOSS = WeightedError(UniformOnNetwork(Eps()))
OPTIMIZER = EDM2Optimizer(
    learning_rate=0.01, ref_batches=512.0, rampup_images=0.0, stds=(0.010,)
)
GRID = Karras(sigma_min=0.002, sigma_max=5.0)
SCHEDULE = LogSigma(GRID.sigma_min, GRID.sigma_max)
CHUNK = 64
"""Training steps per compiled call."""

Carry = tuple[PyTree, Any]
"""The carry of a scan over steps."""


def learned(network: EnergyMLP, params: PyTree) -> Denoiser:
    """The denoiser of a network with these parameters."""
    return denoiser(network.apply, params, EDM(network.sigma_data))


def loss(
    network: EnergyMLP, params: PyTree, data: Mixture, noised: Noised
) -> Float[Array, " B"]:
    """sigma^2 (score - score*)^2 of each point, with the data's exact score*."""
    exact = replace(noised, x0=data(noised.x, noised.at).x0)
    return LOSS(learned(network, params)(noised.x, noised.at), exact)


def train(
    data: Mixture,
    network: EnergyMLP,
    steps: int,
    key: PRNGKeyArray,
    batch: int = 4096,
    name: str | None = None,
) -> PyTree:
    """The averaged parameters after `steps` steps; with a name, shows a progress bar.

    Raises:
        ValueError: `steps` is not a multiple of CHUNK.
    """
    if steps < 1 or steps % CHUNK:
        raise ValueError(f"steps are made {CHUNK} at a time: use a multiple, not {steps}")
    tx = OPTIMIZER.transformation(batch)
    start, key = jax.random.split(key)

    @jax.jit
    def begin(key: PRNGKeyArray) -> Carry:
        params = normalized(network.init(key, jnp.zeros((1, 2)), jnp.zeros(())))
        return params, tx.init(params)

    def step(carry: Carry, number: Array) -> tuple[Carry, Array]:
        params, state = carry
        points, when, noise = jax.random.split(jax.random.fold_in(key, number), 3)
        t, _ = TIMES.draw((), when, (batch, 1), SCHEDULE)
        noised = corrupt(noise, data.draw(points, batch), t, SCHEDULE)
        mean = lambda params: loss(network, params, data, noised).mean()
        value, gradient = jax.value_and_grad(mean)(params)
        updates, state = tx.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), value

    chunk = jax.jit(lambda carry, numbers: jax.lax.scan(step, carry, numbers))
    carry = begin(start)
    show = name is not None
    with progress.bar(total=steps, unit="step", desc=name or "", show=show) as bar:
        for first in range(0, steps, CHUNK):
            carry, values = chunk(carry, jnp.arange(first, first + CHUNK))
            bar.set_postfix(loss=f"{float(values.mean()):.4f}")
            bar.update(CHUNK)
    return averages(carry[1])[0]


def start(data: Mixture, key: PRNGKeyArray, count: int) -> Float[Array, "count 2"]:
    """Points of p(x; sigma_max), where sampling starts."""
    points, noise = jax.random.split(key)
    eps = jax.random.normal(noise, (count, 2))
    return data.draw(points, count) + GRID.sigma_max * eps


def follow(
    denoise: Denoiser,
    x: Float[Array, "B 2"],
    steps: int = 32,
    solver: Solver = Heun(),
) -> Float[Array, "N B 2"]:
    """All steps + 1 states on the path from x, at sigma_max, to the data."""
    levels = GRID(None, steps)
    return trajectory(denoise, UNCONDITIONAL, None, x, levels, solver).x
