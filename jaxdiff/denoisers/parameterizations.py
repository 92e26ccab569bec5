"""What a network's output means, and the one place where predictions are converted.

A row gives D(x) = c_skip x + c_out F(c_in x; c_noise) [EDM eq. 7] for every level of
every path. With r^2 = alpha^2 + sigma^2 and r_d^2 = alpha^2 sigma_data^2 + sigma^2:

    row     F is trained to be  c_skip                     c_out                  c_in
    X0      x0                  0                          1                      1/r
    Eps     eps                 1/alpha                    -sigma/alpha           1/r
    V       v / r               alpha/r^2                  -sigma/r               1/r
    Flow    eps - x0            1/(alpha+sigma)            -sigma/(alpha+sigma)   -> c_skip
    Score   r score             1/alpha                    sigma^2/(alpha r)      1/r
    EDM     unit variance       alpha sigma_data^2/r_d^2   sigma sigma_data/r_d   1/r_d

v = alpha eps - sigma x0 [PD], score = -eps / sigma. A uniform loss on F weighs the
squared x0 error by 1 / c_out^2.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdiff.types import NoiseLevel, Scaling, Schedule
from jaxdiff.types.ranges import Finite, Limit, Positive, checked


@runtime_checkable
class NoiseLabel(Protocol):
    """How the network sees the noise level: NoiseLevel -> c_noise, shaped as the level."""

    def __call__(self, at: NoiseLevel) -> Float[Array, "..."]:
        """c_noise of each level."""
        ...


@dataclass(frozen=True)
@checked
class LogSigmaLabel:
    """ln(sigma / alpha) / 4 = -logsnr / 8 [EDM tab. 1], with |logsnr| held to `limit`.

    >>> round(float(LogSigmaLabel()(NoiseLevel(1.0, jnp.e))), 4)
    0.25
    """

    limit: Limit = 20.0

    def __call__(self, at: NoiseLevel) -> Float[Array, "..."]:
        floor = jnp.exp(-self.limit / 2)
        sigma = jnp.maximum(at.sigma, at.alpha * floor)
        alpha = jnp.maximum(at.alpha, at.sigma * floor)
        return (jnp.log(sigma) - jnp.log(alpha)) / 4


@dataclass(frozen=True)
@checked
class AngleLabel:
    """(2 / pi) atan2(sigma, alpha), in [0, 1]; exact at both ends of any path.

    >>> float(AngleLabel()(NoiseLevel(0.0, 1.0))), float(AngleLabel()(NoiseLevel(1.0, 1.0)))
    (1.0, 0.5)
    """

    def __call__(self, at: NoiseLevel) -> Float[Array, "..."]:
        return 2 / jnp.pi * jnp.arctan2(at.sigma, at.alpha)


@dataclass(frozen=True)
@checked
class TimeLabel:
    """scale t + offset, t the time at which a schedule has the level's logsnr.

    A network that counts the entries 0 ... T - 1 of a table takes scale = T, offset = -1;
    SiT's, whose time runs from noise to data, RectifiedFlow(), scale = -1, offset = 1.

    >>> from jaxdiff.schedules import RectifiedFlow
    >>> float(TimeLabel(RectifiedFlow(), -1.0, 1.0)(NoiseLevel(jnp.ones(()), jnp.ones(()))))
    0.5
    """

    schedule: Schedule
    scale: Finite = 1.0
    offset: Finite = 0.0

    def __call__(self, at: NoiseLevel) -> Float[Array, "..."]:
        return self.scale * self.schedule.time(at.logsnr) + self.offset


@dataclass(frozen=True)
@checked
class X0:
    """The network predicts the data.

    >>> scale = X0()(NoiseLevel(0.6, 0.8))
    >>> round(float(scale.c_skip), 4), round(float(scale.c_out), 4)
    (0.0, 1.0)
    """

    label: NoiseLabel = LogSigmaLabel()
    has_pole_at_pure_noise = False

    def __call__(self, at: NoiseLevel) -> Scaling:
        one = jnp.ones_like(at.sigma)
        return Scaling(0 * one, one, 1 / _norm(at), self.label(at))


@dataclass(frozen=True)
@checked
class Eps:
    """The network predicts the noise [DDPM]; undefined at alpha = 0.

    >>> scale = Eps()(NoiseLevel(0.5, 1.0))
    >>> round(float(scale.c_skip), 4), round(float(scale.c_out), 4)
    (2.0, -2.0)
    """

    label: NoiseLabel = LogSigmaLabel()
    has_pole_at_pure_noise = True

    def __call__(self, at: NoiseLevel) -> Scaling:
        return Scaling(1 / at.alpha, -at.sigma / at.alpha, 1 / _norm(at), self.label(at))


@dataclass(frozen=True)
@checked
class V:
    """The network predicts v / r; v itself where the path preserves variance [PD].

    >>> scale = V()(NoiseLevel(0.6, 0.8))
    >>> round(float(scale.c_skip), 4), round(float(scale.c_out), 4)
    (0.6, -0.8)
    """

    label: NoiseLabel = LogSigmaLabel()
    has_pole_at_pure_noise = False

    def __call__(self, at: NoiseLevel) -> Scaling:
        r = _norm(at)
        return Scaling(at.alpha / r**2, -at.sigma / r, 1 / r, self.label(at))


@dataclass(frozen=True)
@checked
class Flow:
    """The network predicts eps - x0, the velocity of the rectified flow, on any path.

    >>> scale = Flow()(NoiseLevel(0.25, 0.75))
    >>> round(float(scale.c_skip), 4), round(float(scale.c_out), 4)
    (1.0, -0.75)
    """

    label: NoiseLabel = LogSigmaLabel()
    has_pole_at_pure_noise = False

    def __call__(self, at: NoiseLevel) -> Scaling:
        total = at.alpha + at.sigma
        return Scaling(1 / total, -at.sigma / total, 1 / total, self.label(at))


@dataclass(frozen=True)
@checked
class Score:
    """The network predicts r score, the score at unit scale; undefined at alpha = 0.

    >>> scale = Score()(NoiseLevel(0.6, 0.8))
    >>> round(float(scale.c_skip), 4), round(float(scale.c_out), 4)
    (1.6667, 1.0667)
    """

    label: NoiseLabel = LogSigmaLabel()
    has_pole_at_pure_noise = True

    def __call__(self, at: NoiseLevel) -> Scaling:
        r = _norm(at)
        return Scaling(1 / at.alpha, at.sigma**2 / (at.alpha * r), 1 / r, self.label(at))


@dataclass(frozen=True)
@checked
class EDM:
    """Unit variance in, unit variance out, on any path [EDM eq. 7, tab. 1].

    sigma_data is the standard deviation of the data, 0.5 for images in [-1, 1].

    >>> scale = EDM(sigma_data=0.5)(NoiseLevel(1.0, 0.5))
    >>> round(float(scale.c_skip), 4), round(float(scale.c_out), 4)
    (0.5, 0.3536)
    """

    sigma_data: Positive = 0.5
    label: NoiseLabel = LogSigmaLabel()
    has_pole_at_pure_noise = False

    def __call__(self, at: NoiseLevel) -> Scaling:
        r = jnp.sqrt(at.alpha**2 * self.sigma_data**2 + at.sigma**2)
        return Scaling(
            c_skip=at.alpha * self.sigma_data**2 / r**2,
            c_out=at.sigma * self.sigma_data / r,
            c_in=1 / r,
            c_noise=self.label(at),
        )


@dataclass(frozen=True)
@checked
class Unscaled:
    """The network sees x itself, and no level: for `networks.LevelEstimator`.

    c_in of every other row follows the level, which an estimator would read off it.

    >>> scale = Unscaled()(NoiseLevel(1.0, 3.0))
    >>> float(scale.c_in), float(scale.c_noise)
    (1.0, 0.0)
    """

    has_pole_at_pure_noise = False

    def __call__(self, at: NoiseLevel) -> Scaling:
        one = jnp.ones_like(at.sigma)
        return Scaling(0 * one, one, one, 0 * one)


def eps_from_x0(
    x: Float[Array, "..."], x0: Float[Array, "..."], at: NoiseLevel
) -> Float[Array, "..."]:
    """The noise that x holds if the data was x0: (x - alpha x0) / sigma, sigma > 0."""
    return (x - at.alpha * x0) / at.sigma


def _norm(at: NoiseLevel) -> Float[Array, "..."]:
    return jnp.sqrt(at.alpha**2 + at.sigma**2)
