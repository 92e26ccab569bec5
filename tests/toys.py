"""Closed-form problems: denoisers that are exact, and what solvers must make of them."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.integrate import solve_ivp

from jaxdiff import schedules as js
from jaxdiff.types import UNCONDITIONAL, Condition, Denoised, NoiseLevel

GOLDEN = Path(__file__).parent / "golden"
PROBLEMS = np.load(GOLDEN / "samplers" / "problems.npz")

SCHEDULES = {
    "log_sigma": js.LogSigma(),
    "vp_linear": js.VPLinear(),
    "cosine": js.Cosine(),
    "rectified_flow": js.RectifiedFlow(),
    "ddpm": js.Table(js.LinearBetas()),
    "stable_diffusion": js.Table(js.ScaledLinearBetas()),
    "iddpm": js.Table(js.CosineBetas()),
    "listed": js.Table(js.ListedBetas((0.05, 0.1, 0.3, 0.6, 0.9))),
    "zero_terminal": js.zero_terminal_snr(js.Table(js.ScaledLinearBetas())),
}
TABLES = {k: s for k, s in SCHEDULES.items() if isinstance(s, js.Table)}
PURE_NOISE = {"cosine", "rectified_flow", "zero_terminal"}
"""The schedules whose alpha(1) is 0, said here independently of the code."""


class Mixture:
    """E[x0 | x] for p0 = sum_k w_k N(mu_k, C_k), at any level; x is [B, d].

    With V_k = alpha^2 C_k + sigma^2 I and r_k the posterior probabilities of the parts,
    D = sum_k r_k (mu_k + alpha C_k V_k^-1 (x - alpha mu_k)). `xp` is jnp or np.
    """

    def __init__(self, law: str) -> None:
        self.w, self.mu = PROBLEMS[f"{law}/w"], PROBLEMS[f"{law}/mu"]
        self.values, self.axes = np.linalg.eigh(PROBLEMS[f"{law}/C"])

    def __call__(
        self, x: Any, at: NoiseLevel, cond: Condition = UNCONDITIONAL, xp: Any = jnp
    ) -> Denoised:
        alpha = xp.asarray(at.alpha).reshape(-1, 1, 1)
        sigma = xp.asarray(at.sigma).reshape(-1, 1, 1)
        variance = alpha**2 * self.values + sigma**2
        rest = xp.einsum("kde,bkd->bke", self.axes, x[:, None] - alpha * self.mu)
        score = xp.log(self.w) - (xp.log(variance) + rest**2 / variance).sum(-1) / 2
        r = xp.exp(score - score.max(1, keepdims=True))
        r = r / r.sum(1, keepdims=True)
        towards = alpha * self.values / variance * rest
        parts = self.mu + xp.einsum("kde,bke->bkd", self.axes, towards)
        return Denoised((r[..., None] * parts).sum(1))


@lru_cache(maxsize=32)
def mixture(law: str) -> Mixture:
    """The denoiser of one of the golden laws."""
    return Mixture(law)


def flow_map(
    law: str, x: np.ndarray, at: NoiseLevel, to: NoiseLevel, rtol: float = 1e-11
) -> np.ndarray:
    """The probability flow from one level to another, sigma > 0, by scipy's DOP853.

    Runs over the angle of (alpha, sigma) on the unit circle, where every path is one: a
    clock that no solver of ours has. NumPy and float64 alone.
    """
    denoise = mixture(law)
    r_at, r_to = np.hypot(at.alpha, at.sigma), np.hypot(to.alpha, to.sigma)

    def velocity(angle: float, flat: np.ndarray) -> np.ndarray:
        y, level = flat.reshape(x.shape), NoiseLevel(np.cos(angle), np.sin(angle))
        x0 = denoise(y, level, xp=np).x0
        eps = (y - level.alpha * x0) / level.sigma
        return (-level.sigma * x0 + level.alpha * eps).ravel()

    span = np.arctan2(at.sigma, at.alpha), np.arctan2(to.sigma, to.alpha)
    start = np.asarray(x, np.float64).ravel() / r_at
    out = solve_ivp(velocity, span, start, "DOP853", rtol=rtol, atol=rtol)
    return r_to * out.y[:, -1].reshape(x.shape)


def gaussian_flow_map(
    x: Any, at: NoiseLevel, to: NoiseLevel, mean: float, std: float
) -> Any:
    """The probability flow of N(mean, std^2): it keeps the standard score."""
    scale = lambda level: np.hypot(level.alpha * std, level.sigma)
    return to.alpha * mean + (x - at.alpha * mean) * scale(to) / scale(at)


@lru_cache(maxsize=64)
def _compiled(solver: Any, denoise: Any) -> Any:
    step = lambda x, memory, row, draws: solver.step(
        denoise, x, memory, row, lambda k: draws[k]
    )
    return jax.jit(step)


def _draws(noise: Any, x: Any) -> Any:
    """A step's draws [K, B, ...] from one, [B, ...], or several."""
    return jnp.reshape(jnp.asarray(noise, x.dtype), (-1, *x.shape))


def follow(
    solver: Any, denoise: Any, x: Any, levels: NoiseLevel, noise: Any = None
) -> list[np.ndarray]:
    """All N + 1 states of a solver, step by step, with the noise it is given.

    Noise is [N, B, ...], or [N, K, B, ...] for solvers that draw K times a step.
    """
    levels = jax.tree.map(jnp.asarray, levels)
    x = jnp.asarray(x)
    memory, rows = solver.init(x, levels)
    rows = jax.tree.map(np.asarray, rows)
    states = [x]
    for i in range(levels.sigma.shape[0] - 1):
        row = jax.tree.map(lambda a, i=i: a[i], rows)
        draws = jnp.zeros((2, *x.shape)) if noise is None else _draws(noise[i], x)
        x, memory, _ = _compiled(solver, denoise)(x, memory, row, draws)
        states.append(x)
    return [np.asarray(s) for s in states]


LONGEST = 512


@lru_cache(maxsize=128)
def _loop(solver: Any, denoise: Any) -> Any:
    def loop(count: Any, x: Any, memory: Any, rows: Any, noise: Any) -> Any:
        def step(i: Any, carry: Any) -> Any:
            row = jax.tree.map(lambda a: a[i], rows)
            *carry, _ = solver.step(denoise, *carry, row, lambda k: noise[i, k])
            return tuple(carry)

        return jax.lax.fori_loop(0, count, step, (x, memory))[0]

    return jax.jit(loop)


def last(solver: Any, denoise: Any, x: Any, levels: NoiseLevel, noise: Any = None) -> Any:
    """The last state: one compiled loop for every number of steps up to `LONGEST`.

    Noise is [N, B, ...], or [N, K, B, ...] for solvers that draw K times a step.
    """
    levels, x = jax.tree.map(jnp.asarray, levels), jnp.asarray(x)
    count = levels.sigma.shape[0] - 1
    memory, rows = solver.init(x, levels)
    draws = np.zeros((1, 2, *x.shape), x.dtype)
    if noise is not None:
        noise = np.asarray(noise, x.dtype)[:count]
        noise = noise if noise.ndim > x.ndim + 1 else np.stack([noise] * 2, 1)
        draws = np.zeros((LONGEST, 2, *x.shape), x.dtype)
        draws[:count] = noise

    def longer(a: Any) -> np.ndarray:
        a = np.asarray(a)
        return np.concatenate([a, np.zeros((LONGEST - count, *a.shape[1:]), a.dtype)])

    rows = jax.tree.map(longer, rows)
    return np.asarray(_loop(solver, denoise)(count, x, memory, rows, draws))


def edm(sigmas: Any) -> NoiseLevel:
    """Levels of the variance-exploding path."""
    sigmas = np.asarray(sigmas, np.float64)
    return NoiseLevel(np.ones_like(sigmas), sigmas)


def on_host(level: NoiseLevel) -> NoiseLevel:
    """The same level or levels as float64 NumPy."""
    return jax.tree.map(lambda a: np.asarray(a, np.float64), level)
