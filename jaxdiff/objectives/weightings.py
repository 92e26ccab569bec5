"""Loss weightings, each once, as a weight on the squared x0 error.

Since every prediction is affine in x0 at fixed x, a weight w_F on the error of a
network's output F is the weight w_F / c_out^2 on the x0 error, whatever F is. So

    a weighting published for   is the weight on x0
    eps                         SNR w_eps
    v (variance-preserving)     (SNR + 1) w_v
    F of EDM                    w_F (alpha^2 sigma_data^2 + sigma^2) / (sigma sigma_data)^2

and trains the same thing under every parameterization. SNR is held to
[e^-40, e^40] so that weight times error stays finite at both ends of every path.

    row                     weight on x0                        under other names
    UniformOnX0             1
    UniformOnNetwork(Eps)   SNR                                 L_simple, "snr" on EDM's F
    UniformOnNetwork(V)     SNR + 1                             "SNR + 1"
    UniformOnNetwork(EDM)   1 / sigma^2 + 1 / sigma_data^2      EDM's lambda, alpha = 1
    Debias                  SNR^(1/2)
    MinSNR                  min(SNR, gamma)
    SoftMinSNR              gamma SNR / (SNR + gamma)
    P2                      SNR / (k + SNR)^gamma
    TruncatedSNR            max(SNR, 1)
    ELBO                    -d SNR / dt / 2
    DiscreteELBO            T (SNR(t - 1 / T) - SNR(t)) / 2
    Sigmoid                 -d SNR / dt / 2 sigmoid(bias - logsnr)

An uncertainty that is learned per level is `losses.Uncertain`, for any of them.

Weights that are 0 at SNR = 0 leave the network untrained at pure noise, where sampling
starts: on a table with zero terminal SNR the last entry counts for nothing under V, X0,
Flow and EDM alike. Their field `zero_snr` is the weight there instead, on the x0 error and
so, at alpha = 0, on v's too; the code of [MinSNR] has 1.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdiff.types import NoiseLevel, Parameterization, Schedule, Weighting
from jaxdiff.types.ranges import LogSNR, NonNegative, Positive, Whole, checked

LIMIT = 40.0
"""Bound on |logsnr|, and on the logarithm of a weight, inside weightings, in nats."""


@dataclass(frozen=True)
@checked
class UniformOnNetwork:
    """Weight 1 on the network's own output: 1 / c_out^2.

    `UniformOnNetwork(EDM(0.5))` is EDM's lambda(sigma), `UniformOnNetwork(Eps())` is
    L_simple of [DDPM], `UniformOnNetwork(Flow())` the plain flow-matching loss.

    >>> from jaxdiff.denoisers.parameterizations import Eps
    >>> round(float(UniformOnNetwork(Eps())(NoiseLevel(0.6, 0.2))), 4)  # the SNR
    9.0
    """

    parameterization: Parameterization

    def __call__(self, at: NoiseLevel) -> Float[Array, "..."]:
        c_out = self.parameterization(at).c_out
        return 1 / jnp.maximum(c_out**2, jnp.exp(-LIMIT))


@dataclass(frozen=True)
@checked
class UniformOnX0:
    """Weight 1 on the x0 error.

    >>> float(UniformOnX0()(NoiseLevel(0.6, 0.2)))
    1.0
    """

    def __call__(self, at: NoiseLevel) -> Float[Array, "..."]:
        return jnp.ones_like(at.sigma)


@dataclass(frozen=True)
@checked
class Debias:
    """1 / sqrt(SNR) on the eps error, so sqrt(SNR) on the x0 error [Debias].

    `zero_snr` is the weight at SNR = 0.

    >>> round(float(Debias()(NoiseLevel(0.6, 0.2))), 4)  # the SNR is 9
    3.0
    """

    zero_snr: NonNegative = 0.0

    def __call__(self, at: NoiseLevel) -> Float[Array, "..."]:
        return _with_zero(self, jnp.sqrt(_snr(at)), at)


@dataclass(frozen=True)
@checked
class MinSNR:
    """min(SNR, gamma) on the x0 error [MinSNR]; `zero_snr` at SNR = 0, 1 in their code.

    >>> float(MinSNR(gamma=5.0)(NoiseLevel(0.6, 0.2)))  # the SNR is 9
    5.0
    """

    gamma: Positive = 5.0
    zero_snr: NonNegative = 0.0

    def __call__(self, at: NoiseLevel) -> Float[Array, "..."]:
        return _with_zero(self, jnp.minimum(_snr(at), self.gamma), at)


@dataclass(frozen=True)
@checked
class SoftMinSNR:
    """gamma SNR / (SNR + gamma) on the x0 error [HDiT].

    gamma = 1 / sigma_data^2 is, but for that factor, (sigma sigma_data)^2 /
    (sigma^2 + sigma_data^2)^2 on the error of EDM's F. `zero_snr` is the weight at SNR = 0.

    >>> round(float(SoftMinSNR(gamma=9.0)(NoiseLevel(0.6, 0.2))), 4)  # 9 x 9 / (9 + 9)
    4.5
    """

    gamma: Positive = 5.0
    zero_snr: NonNegative = 0.0

    def __call__(self, at: NoiseLevel) -> Float[Array, "..."]:
        snr = _snr(at)
        return _with_zero(self, self.gamma * (snr / (snr + self.gamma)), at)


@dataclass(frozen=True)
@checked
class P2:
    """(k + SNR)^-gamma on the eps error, so SNR (k + SNR)^-gamma on the x0 error [P2].

    gamma is 1 or 0.5 there; 0 is L_simple. `zero_snr` is the weight at SNR = 0.

    >>> round(float(P2(k=1.0, gamma=1.0)(NoiseLevel(0.6, 0.2))), 4)  # 9 / (1 + 9)
    0.9
    """

    k: Positive = 1.0
    gamma: NonNegative = 1.0
    zero_snr: NonNegative = 0.0

    def __call__(self, at: NoiseLevel) -> Float[Array, "..."]:
        snr = _snr(at)
        return _with_zero(self, snr * (self.k + snr) ** -self.gamma, at)


@dataclass(frozen=True)
@checked
class TruncatedSNR:
    """max(SNR, 1) on the x0 error [PD]: L_simple that does not forget pure noise.

    >>> float(TruncatedSNR()(NoiseLevel(0.2, 0.6)))  # the SNR is 1 / 9
    1.0
    """

    def __call__(self, at: NoiseLevel) -> Float[Array, "..."]:
        return jnp.maximum(_snr(at), 1.0)


@dataclass(frozen=True)
@checked
class ELBO:
    """The variational bound in continuous time: -d SNR / dt / 2 on the x0 error [VDM].

    With t uniform on `schedule` the mean loss is the bound's diffusion term, in nats per
    element; on eps it is -d logsnr / dt / 2. Where SNR(0) is infinite so is the term.

    >>> from jaxdiff.schedules import RectifiedFlow
    >>> path = RectifiedFlow()  # SNR = ((1 - t) / t)^2, whose slope is -8 at t = 1/2
    >>> round(float(ELBO(path)(path(0.5))), 3)
    4.0
    """

    schedule: Schedule

    def __call__(self, at: NoiseLevel) -> Float[Array, "..."]:
        # the slope of the inverse, which has no pole at the ends; a little inside of
        # them, since beyond them `time` stands still
        logsnr, inside = _logsnr(at), 1e-3
        low, high = (self.schedule(jnp.asarray(t)).logsnr for t in (1.0, 0.0))
        near = jnp.clip(logsnr, (low + inside).astype(logsnr.dtype), None)
        near = jnp.minimum(near, (high - inside).astype(logsnr.dtype))
        slope = jax.jvp(self.schedule.time, (near,), (jnp.ones_like(near),))[1]
        return jnp.minimum(-_snr(at) / slope, jnp.exp(LIMIT)) / 2


@dataclass(frozen=True)
@checked
class DiscreteELBO:
    """The bound of T steps: T (SNR(t - 1 / T) - SNR(t)) / 2 on the x0 error [VDM].

    T is the table's unless `steps` is set, and t is rounded up to a multiple
    of 1 / T. With t uniform over the entries T times the mean of a step, in nats per
    element, is the sum of the steps: the KL with the posterior's variance. Where SNR(0)
    is infinite the first step is the decoder's, which is not a squared error, and weighs 0.

    >>> from jaxdiff.schedules import RectifiedFlow
    >>> path = RectifiedFlow()  # the SNR is 1 at t = 1/2 and 0 at t = 1
    >>> round(float(DiscreteELBO(path, steps=2)(path(1.0))), 3)
    1.0
    """

    schedule: Schedule
    steps: Annotated[int, Whole(0, 10**6)] = 0

    def __post_init__(self) -> None:
        if not (self.steps or getattr(self.schedule, "steps", 0)):
            raise ValueError(
                f"DiscreteELBO needs a number of steps on {self.schedule}, got "
                f"{self.steps}: use steps=1000, or ELBO for continuous time"
            )

    def __call__(self, at: NoiseLevel) -> Float[Array, "..."]:
        steps = self.steps or self.schedule.steps
        t = self.schedule.time(_logsnr(at))
        entry = jnp.clip(jnp.ceil(t * steps - 0.1), 1, steps)  # 0.1: float32's rounding
        before, here = self.schedule((entry - 1) / steps), self.schedule(entry / steps)
        return jnp.where(before.sigma > 0, steps * (_snr(before) - _snr(here)) / 2, 0.0)


@dataclass(frozen=True)
@checked
class Sigmoid:
    """sigmoid(bias - logsnr) under the bound's integral over logsnr [KG].

    So -d logsnr / dt / 2 sigmoid(bias - logsnr) on the eps error with t uniform on
    `schedule`. On `Cosine()` bias = 0 is pi / 2 times `Debias()`.

    >>> from jaxdiff.schedules import RectifiedFlow
    >>> path = RectifiedFlow()
    >>> round(float(Sigmoid(path, bias=0.0)(path(0.5))), 3)  # half of the ELBO's
    2.0
    """

    schedule: Schedule
    bias: LogSNR = 0.0

    def __call__(self, at: NoiseLevel) -> Float[Array, "..."]:
        return ELBO(self.schedule)(at) * jax.nn.sigmoid(self.bias - _logsnr(at))


def weight_of_each(weighting: Weighting, at: NoiseLevel) -> Float[Array, "..."]:
    """The weight of each level, a number or shaped as the levels.

    Raises:
        ValueError: it has other dimensions, such as [B] for levels [B, 1, 1, 1], which
            would broadcast along the image instead of the batch.
    """
    weight = jnp.asarray(weighting(at))
    if weight.ndim not in (0, jnp.ndim(at.sigma)):
        raise ValueError(
            f"{weighting} is of shape {weight.shape} for levels of shape "
            f"{jnp.shape(at.sigma)}: return a weight of each level, so shaped"
        )
    return weight


def require_finite_mean(
    weighting: Weighting,
    parameterization: Parameterization,
    schedule: Schedule,
    times: object,
) -> None:
    """Raises ValueError for a weighting whose mean over a law of t is infinite at the data.

    There w c_out^2, the weight on the error of the network's output, times the density
    p(t) may grow as 1 / t or faster; at the noise every weight is finite. Laws without
    a density are not checked. Runs a small program on the device.

    Raises:
        ValueError: the mean is infinite; the message has the power and what to use.
    """
    if not hasattr(times, "density"):
        return

    @jax.jit
    def weight(t: Float[Array, " 2"]) -> Float[Array, " 2"]:
        at = schedule(t)
        c_out = parameterization(at).c_out
        return weight_of_each(weighting, at) * c_out**2 * times.density(t, schedule)

    near, far = (float(w) for w in weight(jnp.asarray([1e-5, 1e-4], jnp.float32)))
    power = jnp.log10(near / far) if near > 0 and far > 0 else 0.0
    if power > 0.95:
        raise ValueError(
            f"{weighting} does not go with {type(parameterization).__name__} on {schedule} "
            f"with {times}: on the network's output it is {near:.3g} at t = 1e-5 and grows "
            f"as t^-{power:.2g}, so the mean loss is infinite. Use weightings.MinSNR(), or "
            "a law that stays away from t = 0, such as times.Uniform(low=0.001)"
        )


FORGOTTEN = 1e-6
"""A weight at t = 1 below this share of its median over t does not train there."""


def warn_of_vanishing_weight(
    weightings: Sequence[tuple[float, Weighting]],
    parameterization: Parameterization,
    schedule: Schedule,
) -> None:
    """Warns if a sum of weightings, (factor, weighting), vanishes at t = 1.

    What counts is w c_out^2, the weight on the error of the network's output, beside its
    median over t: at t = 1 sampling starts. Runs a small program on the device.
    """

    @jax.jit
    def weigh(t: Float[Array, " n"]) -> Float[Array, " n"]:
        at = schedule(t)
        total = sum(factor * weight_of_each(each, at) for factor, each in weightings)
        return total * parameterization(at).c_out ** 2

    *some, last = weigh(jnp.linspace(0.0, 1.0, 129)[1:]).tolist()
    median = sorted(some)[len(some) // 2]
    if last >= FORGOTTEN * median:
        return
    names = " + ".join(str(weighting) for _, weighting in weightings)
    prediction = type(parameterization).__name__
    held = any(hasattr(weighting, "zero_snr") for _, weighting in weightings)
    settable = held and schedule.reaches_pure_noise and hasattr(schedule, "steps")
    field = "zero_snr = 1.0, as the authors of Min-SNR do, or " if settable else ""
    warnings.warn(
        f"{names} weighs the error of {prediction}'s output by {last:.1e} at t = 1, where "
        f"sampling starts, and by {median:.2g} at most t: the network is not trained at "
        f"pure noise. Use {field}weightings.TruncatedSNR() or "
        f"UniformOnNetwork({prediction}()), or sample on a grid that starts below t = 1",
        stacklevel=2,
    )


def _with_zero(
    weighting: "Debias | MinSNR | SoftMinSNR | P2",
    weight: Float[Array, "..."],
    at: NoiseLevel,
) -> Float[Array, "..."]:
    """The weight, and `zero_snr` where SNR = 0."""
    if not weighting.zero_snr:
        return weight
    zero = at.alpha <= at.sigma * math.exp(-LIMIT / 2)
    return jnp.where(zero, weighting.zero_snr, weight)


def _clipped(at: NoiseLevel) -> NoiseLevel:
    floor = jnp.exp(-LIMIT / 2)
    sigma = jnp.maximum(at.sigma, at.alpha * floor)
    alpha = jnp.maximum(at.alpha, at.sigma * floor)
    return NoiseLevel(alpha, sigma)


def _snr(at: NoiseLevel) -> Float[Array, "..."]:
    return _clipped(at).snr


def _logsnr(at: NoiseLevel) -> Float[Array, "..."]:
    return _clipped(at).logsnr
