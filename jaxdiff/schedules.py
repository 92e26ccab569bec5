"""Noise schedules: paths t -> (alpha, sigma) from data (t = 0) to noise (t = 1).

A closed form is a schedule of its own; a discrete process is `Table(betas)`. Since
samplers follow increments of (alpha, sigma), neither needs a derivative.

    path               alpha                 sigma                logsnr
    LogSigma           1                     exp(lerp ln sigma)   -2 ln sigma
    VPLinear           exp(-B(t) / 2)        sqrt(1 - exp(-B))    -ln expm1(B)
    Cosine             cos(pi t / 2)         sin(pi t / 2)        -2 ln tan(pi t / 2)
    RectifiedFlow      1 - t                 t                    2 ln((1 - t) / t)

with B(t) = beta_min t + (beta_max - beta_min) t^2 / 2.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64, PRNGKeyArray

from jaxdiff.types import Noised, NoiseLevel, Real, Schedule, Time


def corrupt(
    key: PRNGKeyArray, x0: Float[Array, "B ..."], t: Time, schedule: Schedule
) -> Noised:
    """The forward process: x = alpha(t) x0 + sigma(t) eps with eps ~ N(0, I).

    t is one number or broadcasts against x0; in training it has shape [B, 1, 1, 1].

    Raises:
        ValueError: t has another number of axes, as [B] would, and would broadcast
            along the image instead of the batch.
    """
    if jnp.ndim(t) not in (0, x0.ndim):
        raise ValueError(
            f"t of shape {jnp.shape(t)} does not go with x0 of shape {x0.shape}: give t "
            f"the shape {(x0.shape[0],) + (1,) * (x0.ndim - 1)}, one time an image"
        )
    at = schedule(t)
    eps = jax.random.normal(key, x0.shape, x0.dtype)
    return Noised(x0=x0, eps=eps, x=at.alpha * x0 + at.sigma * eps, t=t, at=at)


@dataclass(frozen=True)
class LogSigma:
    """EDM's variance-exploding path: alpha = 1, ln sigma linear in t [EDM].

    sigma is in units of the data. t = 0 is sigma_min rather than 0, and t outside of
    [0, 1] goes on along the same line, so that a normal law in ln sigma is not cut off.

    >>> LogSigma(sigma_min=0.01, sigma_max=100.0)(0.5).sigma.round(4)
    Array(1., dtype=float32, weak_type=True)
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    reaches_pure_noise = False

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max:
            raise ValueError(
                f"LogSigma needs 0 < sigma_min < sigma_max, got {self.sigma_min} and "
                f"{self.sigma_max}; EDM uses 0.002 and 80"
            )

    def __call__(self, t: Time) -> NoiseLevel:
        low, high = math.log(self.sigma_min), math.log(self.sigma_max)
        sigma = jnp.exp(low + (high - low) * jnp.asarray(t))
        return NoiseLevel(jnp.ones_like(sigma), sigma)

    def time(self, logsnr: Real) -> Time:
        low, high = math.log(self.sigma_min), math.log(self.sigma_max)
        return (-logsnr / 2 - low) / (high - low)


@dataclass(frozen=True)
class VPLinear:
    """The variance-preserving SDE with linear beta(t), the limit of DDPM's table.

    alpha(1) is 0.0066 by default: some signal remains in the noise [ZTSNR tab. 1].
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    reaches_pure_noise = False

    def __post_init__(self) -> None:
        if not 0 < self.beta_min <= self.beta_max:
            raise ValueError(
                f"VPLinear needs 0 < beta_min <= beta_max, got {self.beta_min} and "
                f"{self.beta_max}; DDPM's limit is 0.1 and 20"
            )

    def __call__(self, t: Time) -> NoiseLevel:
        t = jnp.asarray(t)
        integral = self.beta_min * t + (self.beta_max - self.beta_min) * t**2 / 2
        return NoiseLevel(jnp.exp(-integral / 2), jnp.sqrt(-jnp.expm1(-integral)))

    def time(self, logsnr: Real) -> Time:
        end = (self.beta_min + self.beta_max) / 2
        integral = jnp.minimum(jax.nn.softplus(-logsnr), end)
        slope = self.beta_max - self.beta_min
        root = jnp.sqrt(self.beta_min**2 + 2 * slope * integral)
        return 2 * integral / (self.beta_min + root)


@dataclass(frozen=True)
class Cosine:
    """The trigonometric path: the angle of (alpha, sigma) grows linearly with t.

    Improved DDPM's cosine schedule, with its offset and its cap, is
    `Table(CosineBetas())`; this is its limit without either.
    """

    reaches_pure_noise = True

    def __call__(self, t: Time) -> NoiseLevel:
        quarter = jnp.pi / 2
        t = jnp.asarray(t)
        return NoiseLevel(jnp.sin(quarter * (1 - t)), jnp.sin(quarter * t))

    def time(self, logsnr: Real) -> Time:
        return 2 / jnp.pi * jnp.arctan(jnp.exp(-logsnr / 2))


@dataclass(frozen=True)
class RectifiedFlow:
    """The straight path of rectified flow: x = (1 - t) x0 + t eps [RF]."""

    reaches_pure_noise = True

    def __call__(self, t: Time) -> NoiseLevel:
        t = jnp.asarray(t)
        return NoiseLevel(1 - t, t)

    def time(self, logsnr: Real) -> Time:
        return jax.nn.sigmoid(-logsnr / 2)


@runtime_checkable
class Betas(Protocol):
    """A discrete process: () -> the T variances beta_i, float64 on the host."""

    def __call__(self) -> Float64[np.ndarray, " T"]: ...


@dataclass(frozen=True)
class LinearBetas:
    """DDPM's betas, its end points scaled by 1000 / steps as [IDDPM] does."""

    steps: int = 1000
    start: float = 1e-4
    end: float = 0.02

    def __call__(self) -> Float64[np.ndarray, " T"]:
        scale = 1000 / self.steps
        return np.linspace(scale * self.start, scale * self.end, self.steps)


@dataclass(frozen=True)
class ScaledLinearBetas:
    """Stable Diffusion's betas: linear in sqrt(beta). Its own configs say "linear"."""

    steps: int = 1000
    start: float = 0.00085
    end: float = 0.012

    def __call__(self) -> Float64[np.ndarray, " T"]:
        return np.linspace(self.start**0.5, self.end**0.5, self.steps) ** 2


@dataclass(frozen=True)
class CosineBetas:
    """alpha_bar = cos^2((u + s) / (1 + s) pi / 2), u = i / T, capped [IDDPM eq. 17]."""

    steps: int = 1000
    s: float = 0.008
    max_beta: float = 0.999

    def __call__(self) -> Float64[np.ndarray, " T"]:
        u = np.arange(self.steps + 1) / self.steps
        alpha_bar = np.cos((u + self.s) / (1 + self.s) * np.pi / 2) ** 2
        return np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], self.max_beta)


@dataclass(frozen=True)
class ListedBetas:
    """Any betas, written out."""

    betas: tuple[float, ...]

    def __call__(self) -> Float64[np.ndarray, " T"]:
        return np.asarray(self.betas, np.float64)


@dataclass(frozen=True)
class ZeroTerminalBetas:
    """Betas moved to sqrt(alpha_bar_T) = 0, sqrt(alpha_bar_1) kept [ZTSNR alg. 1]."""

    of: Betas

    def __call__(self) -> Float64[np.ndarray, " T"]:
        root = np.sqrt(np.cumprod(1 - self.of()))
        root = (root - root[-1]) * root[0] / (root[0] - root[-1])
        return 1 - root**2 / np.r_[1.0, root[:-1] ** 2]


@dataclass(frozen=True)
class Table:
    """A discrete variance-preserving process as a schedule.

    Entry i of T is t = (i + 1) / T, and t = 0 is the data. Between entries the angle
    atan2(sigma, alpha) is linear in t, which keeps alpha^2 + sigma^2 = 1 everywhere.

    >>> Table(ListedBetas((0.36, 0.5)))(0.5)
    NoiseLevel(alpha=Array(0.8, dtype=float32), sigma=Array(0.6, dtype=float32))
    """

    betas: Betas

    def __post_init__(self) -> None:
        betas = self.betas()
        bad = np.flatnonzero(~((betas > 0) & (betas <= 1)))
        if bad.size:
            raise ValueError(
                f"betas must lie in (0, 1], but {type(self.betas).__name__} gives "
                f"beta[{bad[0]}] = {betas[bad[0]]:.6g} of {betas.size}"
            )
        if (betas[:-1] == 1).any():
            raise ValueError("only the last beta may be 1: nothing is left after it")

    @property
    def steps(self) -> int:
        """T, the number of entries."""
        return self.betas().size

    @property
    def reaches_pure_noise(self) -> bool:
        """Whether the last beta is 1."""
        return bool(self.betas()[-1] == 1)

    def __call__(self, t: Time) -> NoiseLevel:
        entry = jnp.clip(jnp.asarray(t), 0.0, 1.0) * self.steps
        from_data, from_noise = (a.astype(entry.dtype) for a in _angles(self))
        nodes = np.arange(self.steps + 1, dtype=entry.dtype)
        return NoiseLevel(
            jnp.sin(jnp.interp(entry, nodes, from_noise)),
            jnp.sin(jnp.interp(entry, nodes, from_data)),
        )

    def time(self, logsnr: Real) -> Time:
        angle = jnp.arctan(jnp.exp(-logsnr / 2))
        from_data = _angles(self)[0].astype(angle.dtype)
        return jnp.interp(
            angle, from_data, np.linspace(0, 1, from_data.size, dtype=angle.dtype)
        )


def zero_terminal_snr(table: Table) -> Table:
    """The table with the same first level and no signal in its last [ZTSNR alg. 1].

    >>> float(zero_terminal_snr(Table(LinearBetas()))(1.0).alpha)
    0.0
    """
    return Table(ZeroTerminalBetas(table.betas))


@lru_cache(maxsize=64)
def _angles(
    table: Table,
) -> tuple[Float64[np.ndarray, " nodes"], Float64[np.ndarray, " nodes"]]:
    """Angles of (alpha, sigma) from the data axis and from the noise axis.

    Two tables, because pi/2 - angle would not be exact near pure noise.
    """
    alpha_bar = np.r_[1.0, np.cumprod(1 - table.betas())]
    alpha, sigma = np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar)
    return np.arctan2(sigma, alpha), np.arctan2(alpha, sigma)
