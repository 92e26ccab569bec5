"""Variance-preserving paths defined by their signal power gamma = alpha^2.

    path              gamma                                                 of
    OffsetCosine      cos^2((t + s) / (1 + s) pi / 2) / cos^2(s / (1 + s) pi / 2)  [IDDPM]
    ChenSigmoid       (S(e / tau) - S(z / tau)) / (S(e / tau) - S(s / tau))        [Chen]
    ChenCosine        (C(e) - C(z)) / (C(e) - C(s)),  C(z) = cos(pi z / 2)^(2 tau) [Chen]
    BoundedCosine     sigmoid(logsnr), logsnr as [SimpleDiffusion] with fixed ends

with S the logistic function and z = s + t (e - s). gamma near the noise and 1 - gamma
near the data would each lose their digits in a difference, so both are computed as
products, u and w, and gamma = u / (u + w).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdiff.types import NoiseLevel, Real, Time
from jaxdiff.types.ranges import Fraction, LogSNR, Positive, Range, checked


def invert(
    f: Callable[[Float[Array, "..."]], Float[Array, "..."]], y: Real
) -> Float[Array, "..."]:
    """The t in [0, 1] with f(t) = y for a falling f; the ends beyond f's range.

    60 bisections, enough for any float, and one Newton step, which makes it
    differentiable: dt / dy = 1 / f'(t).
    """
    y = jnp.asarray(y)
    y = jnp.clip(y, f(jnp.ones_like(y)), f(jnp.zeros_like(y)))
    goal = jax.lax.stop_gradient(y)

    def halve(_: Any, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = (low + high) / 2
        above = f(middle) > goal
        return jnp.where(above, middle, low), jnp.where(above, high, middle)

    low, high = jax.lax.fori_loop(0, 60, halve, (jnp.zeros_like(y), jnp.ones_like(y)))
    t = jax.lax.stop_gradient((low + high) / 2)
    value, slope = jax.jvp(f, (t,), (jnp.ones_like(t),))
    return jnp.clip(t - (value - y) / slope, 0.0, 1.0)


@dataclass(frozen=True)
@checked
class OffsetCosine:
    """Improved DDPM's cosine schedule in continuous time, without the cap [IDDPM eq. 17].

    The offset keeps the first steps from being too small: sigma grows as sqrt(t).

    >>> at = OffsetCosine()(0.5)
    >>> round(float(at.alpha), 4), round(float(at.sigma), 4)
    (0.7027, 0.7114)
    """

    s: Annotated[float, Range(0, above=True, note="s = 0 is Cosine()")] = 0.008
    reaches_pure_noise = True

    def __call__(self, t: Time) -> NoiseLevel:
        t, c = jnp.clip(jnp.asarray(t), 0.0, 1.0), math.pi / 2 / (1 + self.s)
        u = jnp.sin((1 - t) * c) ** 2
        return _level(u, jnp.sin(t * c) * jnp.sin((2 - t) * c))

    def time(self, logsnr: Real) -> Time:
        # tan of the angle t c, in a form with no difference in it
        c = math.pi / 2 / (1 + self.s)
        sin, cos = math.sin(c), math.cos(c)
        alpha = jnp.sqrt(jax.nn.sigmoid(logsnr))
        sigma2 = jax.nn.sigmoid(-logsnr)
        q = jnp.sqrt(cos**2 + sin**2 * sigma2)
        angle = jnp.arctan2(sin * sigma2 / (q + cos * alpha), cos * q + sin**2 * alpha)
        return angle / c


@dataclass(frozen=True)
@checked
class ChenSigmoid:
    """A piece of the logistic function as the power alpha^2 [Chen].

    Not the same as `SigmoidBetas`. The published code holds alpha^2 above 1e-9; here
    the path ends on pure noise.

    >>> at = ChenSigmoid()(0.5)
    >>> round(float(at.alpha), 4), round(float(at.sigma), 4)
    (0.7071, 0.7071)
    """

    start: LogSNR = -3.0
    end: LogSNR = 3.0
    tau: Positive = 1.0
    reaches_pure_noise = True

    def __post_init__(self) -> None:
        if not 0 < (self.end - self.start) / self.tau <= 80:
            raise ValueError(
                "ChenSigmoid needs start < end and (end - start) / tau <= 80, "
                f"got {self.start}, {self.end} and tau {self.tau}; published: -3, 3 and 1"
            )

    def __call__(self, t: Time) -> NoiseLevel:
        # S(b) - S(a) = sinh((b - a) / 2) / (2 cosh(a / 2) cosh(b / 2))
        t = jnp.clip(jnp.asarray(t), 0.0, 1.0)
        half = (self.end - self.start) / (2 * self.tau)
        ratio = _log_cosh(self.start / self.tau / 2) - _log_cosh(self.end / self.tau / 2)
        u = jnp.exp(-t * half + ratio / 2) * -jnp.expm1(-2 * half * (1 - t))
        w = jnp.exp(-(1 - t) * half - ratio / 2) * -jnp.expm1(-2 * half * t)
        return _level(u, w)

    def time(self, logsnr: Real) -> Time:
        # S(z) = gamma S(s) + (1 - gamma) S(e), and the same of S(-z)
        gamma, rest = jax.nn.sigmoid(logsnr), jax.nn.sigmoid(-logsnr)
        s, e = self.start / self.tau, self.end / self.tau
        upper = gamma * _logistic(s) + rest * _logistic(e)
        lower = gamma * _logistic(-s) + rest * _logistic(-e)
        z = jnp.log(upper) - jnp.log(lower)
        return jnp.clip((z - s) / (e - s), 0.0, 1.0)


@dataclass(frozen=True)
@checked
class ChenCosine:
    """A piece of a power of the cosine as the power alpha^2 [Chen]; (0, 1, 1) is Cosine.

    >>> at = ChenCosine()(0.5)
    >>> round(float(at.alpha), 4), round(float(at.sigma), 4)
    (0.7071, 0.7071)
    """

    start: Fraction = 0.0
    end: Fraction = 1.0
    tau: Positive = 1.0
    reaches_pure_noise = True

    def __post_init__(self) -> None:
        if not self.start < self.end:
            raise ValueError(
                "ChenCosine needs start < end, got "
                f"{self.start}, {self.end} and tau {self.tau}; published: 0.2, 1 and 1"
            )

    def __call__(self, t: Time) -> NoiseLevel:
        t = jnp.clip(jnp.asarray(t), 0.0, 1.0)
        start, end = math.pi / 2 * self.start, math.pi / 2 * self.end
        passed, left = t * (end - start), (1 - t) * (end - start)
        fall = jnp.sin(passed) * jnp.sin(2 * start + passed) / math.cos(start) ** 2
        w = -jnp.expm1(self.tau * _log_rest(fall))  # 1 - C(z) / C(s)
        if self.end == 1:
            return _level((jnp.sin(left) / math.cos(start)) ** (2 * self.tau), w)
        rise = jnp.sin(left) * jnp.sin(2 * end - left) / math.cos(end) ** 2
        u = jnp.expm1(self.tau * jnp.log1p(rise))  # C(z) / C(e) - 1
        return _level(u * math.exp(self._log_ratio()), w)

    def time(self, logsnr: Real) -> Time:
        # C(z) / C(s) = gamma + (1 - gamma) C(e) / C(s)
        start, end = math.pi / 2 * self.start, math.pi / 2 * self.end
        log = jax.nn.log_sigmoid(logsnr)
        if self.end < 1:
            log = jnp.logaddexp(log, jax.nn.log_sigmoid(-logsnr) + self._log_ratio())
        log = log / self.tau  # of cos^2(z) / cos^2(s)
        cos2 = math.cos(start) ** 2 * jnp.exp(log)
        sin2 = math.sin(start) ** 2 - math.cos(start) ** 2 * jnp.expm1(log)
        z = jnp.arctan2(jnp.sqrt(sin2), jnp.sqrt(cos2))
        return jnp.clip((z - start) / (end - start), 0.0, 1.0)

    def _log_ratio(self) -> float:
        cos = [math.cos(math.pi / 2 * z) for z in (self.start, self.end)]
        return 2 * self.tau * (math.log(cos[1]) - math.log(cos[0]))


@dataclass(frozen=True)
@checked
class BoundedCosine:
    """The shifted cosine between two logsnr that the shift does not move.

    With k the factor by which `Shifted` would multiply sigma / alpha, at the data and at
    the noise, and L_k the cosine path's logsnr moved by -2 ln k and then cut and
    stretched over t so that it runs from logsnr_max to logsnr_min,

        logsnr(t) = (1 - t) L_shift_data(t) + t L_shift_noise(t).

    The interpolated schedule of [SimpleDiffusion] for images of side d has
    shift = d / noise_d, its `noise_d_low` at the noise and `noise_d_high` at the data;
    the listing in that paper lets the shift move the ends, `Shifted(BoundedCosine(), k)`.

    >>> at = BoundedCosine()(0.5)
    >>> round(float(at.alpha), 4), round(float(at.sigma), 4)
    (0.7071, 0.7071)
    """

    logsnr_min: LogSNR = -15.0
    logsnr_max: LogSNR = 15.0
    shift_data: Positive = 1.0
    shift_noise: Positive = 1.0
    reaches_pure_noise = False

    def __post_init__(self) -> None:
        if not self.logsnr_min < self.logsnr_max:
            raise ValueError(
                f"BoundedCosine needs logsnr_min < logsnr_max, got {self.logsnr_min} and "
                f"{self.logsnr_max}; published: -15 and 15"
            )
        if not self.shift_data <= self.shift_noise:
            raise ValueError(
                "BoundedCosine needs shift_data <= shift_noise, got "
                f"{self.shift_data} and {self.shift_noise}"
            )

    def __call__(self, t: Time) -> NoiseLevel:
        logsnr = self._logsnr(jnp.asarray(t))
        sigmoid = jax.nn.sigmoid
        return NoiseLevel(jnp.sqrt(sigmoid(logsnr)), jnp.sqrt(sigmoid(-logsnr)))

    def time(self, logsnr: Real) -> Time:
        return invert(self._logsnr, logsnr)

    def _logsnr(self, t: Float[Array, "..."]) -> Float[Array, "..."]:
        data, noise = self._shifted(t, self.shift_data), self._shifted(t, self.shift_noise)
        return (1 - t) * data + t * noise

    def _shifted(self, t: Float[Array, "..."], k: float) -> Float[Array, "..."]:
        shift = 2 * math.log(k)
        from_data = math.atan(math.exp(-(self.logsnr_max + shift) / 2))
        from_noise = math.atan(math.exp((self.logsnr_min + shift) / 2))
        span = math.pi / 2 - from_data - from_noise
        sin, cos = jnp.sin(from_data + t * span), jnp.sin(from_noise + (1 - t) * span)
        return 2 * (jnp.log(cos) - jnp.log(sin)) - shift


def _level(u: Float[Array, "..."], w: Float[Array, "..."]) -> NoiseLevel:
    """The level with alpha^2 : sigma^2 = u : w on the unit circle."""
    return NoiseLevel(jnp.sqrt(u / (u + w)), jnp.sqrt(w / (u + w)))


def _log_rest(q: Float[Array, "..."]) -> Float[Array, "..."]:
    """ln(1 - q); where rounding makes q = 1, q is one eps below."""
    return jnp.log1p(-jnp.minimum(q, 1 - jnp.finfo(q.dtype).eps))


def _log_cosh(x: float) -> float:
    return abs(x) + math.log1p(math.exp(-2 * abs(x))) - math.log(2)


def _logistic(x: float) -> float:
    return math.exp(min(x, 0)) / (1 + math.exp(-abs(x)))
