"""Closed-form paths t -> (alpha, sigma), and the forward process along any path.

    path               alpha                 sigma                logsnr
    LogSigma           1                     exp(lerp ln sigma)   -2 ln sigma
    VPLinear           exp(-B(t) / 2)        sqrt(1 - exp(-B))    -ln expm1(B)
    Cosine             cos(pi t / 2)         sin(pi t / 2)        -2 ln tan(pi t / 2)
    TrigFlow           cos(pi t / 2)         s sin(pi t / 2)      -2 ln (s tan(pi t / 2))
    RectifiedFlow      1 - t                 t                    2 ln((1 - t) / t)
    Shifted(of, k)     on the ray of (alpha, k sigma)             logsnr - 2 ln k

with B(t) = beta_min t + (beta_max - beta_min) t^2 / 2 and s = sigma_data.
"""

import math
from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxdiff.types import Noised, NoiseLevel, Real, Schedule, Time
from jaxdiff.types.arguments import require_data, require_schedule
from jaxdiff.types.ranges import Positive, Range, checked


def corrupt(
    key: PRNGKeyArray, x0: Float[Array, "B ..."], t: Time, schedule: Schedule
) -> Noised:
    """The forward process: x = alpha(t) x0 + sigma(t) eps with eps ~ N(0, I).

    t is one number or broadcasts against x0; in training it has shape [B, 1, 1, 1].

    >>> noised = corrupt(jax.random.key(0), jnp.ones((2, 4)), 0.25, RectifiedFlow())
    >>> bool(jnp.allclose(noised.x, 0.75 * noised.x0 + 0.25 * noised.eps))
    True

    Raises:
        ValueError: t has another number of axes than x0, such as [B], which would
            broadcast along the image instead of the batch; or x0 holds integers or values
            of 0 ... 255.
    """
    require_data(x0)
    require_schedule(schedule)
    if jnp.ndim(t) not in (0, x0.ndim):
        raise ValueError(
            f"t of shape {jnp.shape(t)} does not go with x0 of shape {x0.shape}: give t "
            f"the shape {(x0.shape[0],) + (1,) * (x0.ndim - 1)}, one time per image"
        )
    at = schedule(t)
    eps = jax.random.normal(key, x0.shape, x0.dtype)
    return Noised(x0=x0, eps=eps, x=at.alpha * x0 + at.sigma * eps, t=t, at=at)


def logsnr_slope(schedule: Schedule, t: Time) -> Float[Array, "..."]:
    """d logsnr / dt, negative, in nats; 0 < t < 1, since most paths have a pole at an end.

    >>> logsnr_slope(RectifiedFlow(), 0.5)
    Array(-8., dtype=float32, weak_type=True)
    """
    t = jnp.asarray(t)
    return jax.jvp(lambda t: schedule(t).logsnr, (t,), (jnp.ones_like(t),))[1]


@dataclass(frozen=True)
@checked
class LogSigma:
    """EDM's variance-exploding path: alpha = 1, ln sigma linear in t [EDM].

    sigma is in units of the data. t = 0 is sigma_min rather than 0, and t outside of
    [0, 1] goes on along the same line, so that a normal law in ln sigma is not cut off.

    >>> LogSigma(sigma_min=0.01, sigma_max=100.0)(0.5).sigma.round(4)
    Array(1., dtype=float32, weak_type=True)
    """

    sigma_min: Positive = 0.002
    sigma_max: Positive = 80.0
    reaches_pure_noise = False

    def __post_init__(self) -> None:
        if not self.sigma_min < self.sigma_max:
            raise ValueError(
                f"LogSigma needs sigma_min < sigma_max, got {self.sigma_min} and "
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
@checked
class VPLinear:
    """The variance-preserving SDE with linear beta(t), the limit of DDPM's table.

    alpha(1) is 0.0066 by default: some signal remains in the noise [ZTSNR tab. 1].

    >>> at = VPLinear()(0.5)
    >>> round(float(at.alpha), 4), round(float(at.sigma), 4)
    (0.2812, 0.9597)
    """

    beta_min: Annotated[float, Range(0, 160, above=True)] = 0.1
    beta_max: Annotated[float, Range(0, 160, above=True)] = 20.0
    reaches_pure_noise = False

    def __post_init__(self) -> None:
        if not self.beta_min <= self.beta_max:
            raise ValueError(
                f"VPLinear needs beta_min <= beta_max, got {self.beta_min} and "
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
@checked
class Cosine:
    """The trigonometric path: the angle of (alpha, sigma) grows linearly with t.

    Improved DDPM's cosine schedule has an offset, `OffsetCosine`, and in discrete time
    a cap as well, `Table(CosineBetas())`; this is the limit without either. The shifted
    cosine of simple diffusion is `Shifted(Cosine(), image_d / noise_d)`.

    >>> at = Cosine()(0.5)
    >>> round(float(at.alpha), 4), round(float(at.sigma), 4)
    (0.7071, 0.7071)
    """

    reaches_pure_noise = True

    def __call__(self, t: Time) -> NoiseLevel:
        quarter = jnp.pi / 2
        t = jnp.asarray(t)
        return NoiseLevel(jnp.sin(quarter * (1 - t)), jnp.sin(quarter * t))

    def time(self, logsnr: Real) -> Time:
        return 2 / jnp.pi * jnp.arctan(jnp.exp(-logsnr / 2))


@dataclass(frozen=True)
@checked
class TrigFlow:
    """The quarter ellipse cos(phi) x0 + sigma_data sin(phi) eps, phi = pi t / 2 [sCM].

    With `EDM(sigma_data)` for parameterization it is TrigFlow, the network's sign apart:
    D = cos(phi) x - sigma_data sin(phi) F(x / sigma_data) there, + here.

    >>> at = TrigFlow(sigma_data=0.5)(0.5)
    >>> round(float(at.alpha), 4), round(float(at.sigma), 4)
    (0.7071, 0.3536)
    """

    sigma_data: Positive = 0.5
    reaches_pure_noise = True

    def __call__(self, t: Time) -> NoiseLevel:
        circle = Cosine()(t)
        return NoiseLevel(circle.alpha, self.sigma_data * circle.sigma)

    def time(self, logsnr: Real) -> Time:
        return Cosine().time(logsnr + 2 * math.log(self.sigma_data))


@dataclass(frozen=True)
@checked
class RectifiedFlow:
    """The straight path of rectified flow: x = (1 - t) x0 + t eps [RF].

    >>> at = RectifiedFlow()(0.25)
    >>> round(float(at.alpha), 4), round(float(at.sigma), 4)
    (0.75, 0.25)
    """

    reaches_pure_noise = True

    def __call__(self, t: Time) -> NoiseLevel:
        t = jnp.asarray(t)
        return NoiseLevel(1 - t, t)

    def time(self, logsnr: Real) -> Time:
        # sigmoid(-logsnr / 2), with a slope that is exact at both ends: not s (1 - s)
        logsnr = jnp.asarray(logsnr)
        noisy = logsnr < 0
        u = jnp.exp(jnp.where(noisy, logsnr, -logsnr) / 2)
        return jnp.where(noisy, 1, u) / (1 + u)


@dataclass(frozen=True)
@checked
class Shifted:
    """The resolution shift of any path: sigma / alpha times `factor`, logsnr - 2 ln k.

    The pair is scaled back to keep alpha + sigma on `RectifiedFlow`, where this is
    t' = k t / (1 + (k - 1) t) [SD3 eq. 23], and alpha^2 + sigma^2 on any other path, so
    that a variance-preserving path remains one. For images of n times the side, k = n
    keeps the noise in what averaging to the old size leaves; SD3 uses 3 at 1024^2.

    >>> float(Shifted(RectifiedFlow(), 3.0)(0.25).sigma)
    0.5
    """

    of: Schedule
    factor: Positive

    @property
    def reaches_pure_noise(self) -> bool:
        """Whether the path that is shifted does."""
        return self.of.reaches_pure_noise

    def __call__(self, t: Time) -> NoiseLevel:
        at = self.of(t)
        sigma = self.factor * at.sigma
        size = _sum if isinstance(self.of, RectifiedFlow) else _norm
        scale = size(at.alpha, at.sigma) / size(at.alpha, sigma)
        return NoiseLevel(scale * at.alpha, scale * sigma)

    def time(self, logsnr: Real) -> Time:
        return self.of.time(logsnr + 2 * math.log(self.factor))


def _sum(alpha: Float[Array, "..."], sigma: Float[Array, "..."]) -> Float[Array, "..."]:
    return alpha + sigma


def _norm(alpha: Float[Array, "..."], sigma: Float[Array, "..."]) -> Float[Array, "..."]:
    return jnp.sqrt(alpha**2 + sigma**2)
