"""What a schedule, a law of t, a weighting and a grid do, as numbers over logsnr.

Every choice of schedule, law, weighting and prediction is one function of logsnr, the
weight per nat on the squared eps error [KG]:

    loss = integral w(l) |eps - eps_hat|^2 dl,    w(l) = p(l) w_eps(l),
    p the density of l = logsnr(t) under the law of t,
    w_x0 = SNR w_eps,  w_v = w_x0 / (1 + SNR),  w_flow = w_x0 / (1 + sqrt(SNR))^2,

so that two recipes with one w, up to a factor, train the same thing whatever their t.

These functions are for people: they run on the host, in float64, take any value that
follows the protocols of `types`, and return frozen values of NumPy arrays. A density is
made of points of equal probability, weighted into triangles on the axis: the law's
quantiles at even u where it offers `quantile(u, schedule)`, which leaves no noise, and its
draws otherwise, which is what every law can do, one with a memory or one of your own.
2^21 draws leave an error of about 0.4 % where the density is 0.1 per nat. Where the levels
end within a triangle, its points are held against the part of it that has levels, so that a
density that ends in a jump, as that of a table does, is right up to the jump.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float64, PyTree

from jaxdiff.denoisers.parameterizations import X0, Eps, Flow, V
from jaxdiff.types import NoiseLevel, Schedule, Times, Weighting, reprs

Curve1 = Float64[np.ndarray, " n"]

POINTS = 2**21
"""Number of times t that a density is made of."""

FEW = 100
"""`effective` is nan where fewer of them than this lie near a node."""


@dataclass(frozen=True)
class Terminal:
    """What is left of the data at t = 1, where sampling assumes nothing is [ZTSNR tab. 1].

    The residual signal that is quoted in per cent is `amplitude`, alpha / r with
    r^2 = alpha^2 + sigma^2, so alpha itself where the path preserves variance, rather
    than its square, the `power`.
    """

    amplitude: float
    power: float
    alpha: float
    sigma: float
    snr: float
    logsnr: float


@dataclass(frozen=True, eq=False)
class Path:
    """A schedule as curves over t, all [n]."""

    __repr__ = reprs.fields

    t: Curve1
    alpha: Curve1
    sigma: Curve1
    logsnr: Curve1


@dataclass(frozen=True, eq=False)
class LogSNRDensity:
    """Density of logsnr per nat under a law of t, on an even axis [n].

    `drawn` is what training sees; `meant` is what the loss is an average over, drawn
    times the importance weight. They differ for a law that is an importance sampler.
    `count` is how many points each node rests on, inf for a closed form, `outside` the
    fraction of points beyond the axis, and `ends` the logsnr of the first and the last
    level that is drawn: beyond them the density is 0.
    """

    __repr__ = reprs.fields

    logsnr: Curve1
    drawn: Curve1
    meant: Curve1
    count: Curve1
    outside: float
    ends: tuple[float, float] = (-math.inf, math.inf)


@dataclass(frozen=True, eq=False)
class Effective:
    """Weight per nat of logsnr, law times weighting, on the error of each prediction [n].

    nan where the schedule never is, or too rarely for an estimate, and where the entries of
    a table lie further apart than the nodes of the axis: between two entries a table is
    interpolated, which is not a property of its process. v is v / r, so v itself on a path
    that preserves variance.
    """

    __repr__ = reprs.fields

    logsnr: Curve1
    x0: Curve1
    eps: Curve1
    v: Curve1
    flow: Curve1


@dataclass(frozen=True, eq=False)
class Steps:
    """What each of the N steps of a grid does, by the left-endpoint rule; all [N].

    In y = x / alpha it is y' = kept y + (1 - kept) D. An error in x that D answers to
    as that of data N(0, std^2 I) does is multiplied by `error`; the exact flow multiplies
    it by `exact`, so their ratio is what the step's length costs.
    """

    __repr__ = reprs.fields

    logsnr: Float64[np.ndarray, " nodes"]
    """The grid itself, [N + 1]."""
    h: Curve1
    """Half the step in logsnr, ln(alpha / sigma); inf from pure noise and onto data."""
    ratio: Curve1
    """sigma' / sigma."""
    kept: Curve1
    """exp(-h) = alpha sigma' / (alpha' sigma)."""
    error: Curve1
    exact: Curve1
    share: Curve1
    """Of the finite part of the grid's logsnr; 0 where h is infinite."""


def terminal(schedule: Schedule) -> Terminal:
    """What is left of the data at t = 1.

    >>> from jaxdiff.schedules import RectifiedFlow
    >>> terminal(RectifiedFlow()).amplitude
    0.0
    """
    at = path(schedule, points=2)
    alpha, sigma = float(at.alpha[-1]), float(at.sigma[-1])
    amplitude, snr = alpha / math.hypot(alpha, sigma), (alpha / sigma) ** 2
    return Terminal(amplitude, amplitude**2, alpha, sigma, snr, float(at.logsnr[-1]))


def path(schedule: Schedule, points: int = 1001) -> Path:
    """The schedule at evenly spaced t, both ends included."""
    t = np.linspace(0, 1, points)
    at = _level(schedule, t)
    return Path(t, at.alpha, at.sigma, _logsnr(at))


def density(
    schedule: Schedule,
    times: Times,
    low: float = -15.0,
    high: float = 15.0,
    points: int = 151,
    seed: int = 0,
    count: int = POINTS,
    memory: PyTree | None = None,
) -> LogSNRDensity:
    """The density of logsnr that a law of t gives on a schedule.

    `seed` and `memory` are for laws without quantiles: `memory` is the law's, as the
    train state has it; its initial one by default.

    Raises:
        ValueError: an empty axis.
    """
    if not (low < high and points > 1):
        raise ValueError(f"needs low < high and 2 points, got {low}, {high}, {points}")
    t, weight = _equally_likely(schedule, times, count, seed, memory)
    step = (high - low) / (points - 1)
    position = (_logsnr(_level(schedule, t)) - low) / step
    ends = float(position.min()), float(position.max())
    outside = float(1 - ((position >= 0) & (position <= points - 1)).mean())
    near = (position > -1) & (position < points)  # of some node's triangle
    position, weight = position[near], weight[near]
    area = count * step * _areas(*ends, points)
    near = _triangles(position, np.ones_like(position), points)
    per_nat = lambda total: np.divide(total, area, np.zeros(points), where=area > 0)
    return LogSNRDensity(
        logsnr=np.linspace(low, high, points),
        drawn=per_nat(near),
        meant=per_nat(_triangles(position, weight, points)),
        count=near,
        outside=outside,
        ends=(low + step * ends[0], low + step * ends[1]),
    )


def effective(schedule: Schedule, law: LogSNRDensity, weighting: Weighting) -> Effective:
    """Law times weighting, as a weight on the error of each prediction.

    The density comes from `density`, or is made of a closed form.
    """
    meant = np.where(law.count < FEW, math.nan, law.meant)
    meant = np.where(_between_entries(schedule, law.logsnr), math.nan, meant)
    at = _at_logsnr(schedule, law.logsnr)
    with jax.enable_x64(True):
        on_x0 = meant * np.float64(weighting(at))
        c_out = {p: np.float64(p(at).c_out) for p in (X0(), Eps(), V(), Flow())}
    on = {type(p).__name__: on_x0 * c**2 for p, c in c_out.items()}
    return Effective(law.logsnr, on["X0"], on["Eps"], on["V"], on["Flow"])


def weightings(loss: Any) -> tuple[tuple[float, Weighting], ...]:
    """The weightings inside a loss term, with the factors that sums give them.

    A learned uncertainty divides its term by the error expected at each level, which
    only a trained network knows; here it counts as 1.
    """
    if hasattr(loss, "weighting"):
        return ((1.0, loss.weighting),)
    if hasattr(loss, "terms"):
        return tuple((a * b, w) for a, term in loss.terms for b, w in weightings(term))
    inner = getattr(loss, "of", None)
    return weightings(inner) if dataclasses.is_dataclass(inner) else ()


def steps(levels: NoiseLevel, std: float = 0.5) -> Steps:
    """What each step of a grid does; `std` is the data's, 0.5 for images in [-1, 1].

    >>> from jaxdiff.sampling.grids import Karras
    >>> steps(Karras(sigma_min=1.0, sigma_max=9.0, rho=2.0)(None, 3)).ratio.tolist()
    [0.4444444444444444, 0.25, 0.0]
    """
    if not std > 0:
        raise ValueError(f"std must be above 0, got {std}")
    levels = jax.tree.map(np.float64, levels)
    at, to, logsnr = levels[:-1], levels[1:], _logsnr(levels)
    ratio, kept = to.sigma / at.sigma, at.alpha * to.sigma / (to.alpha * at.sigma)
    slope = at.alpha * std**2 / (at.alpha**2 * std**2 + at.sigma**2)
    spread = np.hypot(levels.alpha * std, levels.sigma)
    h = np.diff(logsnr) / 2
    finite = np.where(np.isfinite(h), h, 0)
    return Steps(
        logsnr=logsnr,
        h=h,
        ratio=ratio,
        kept=kept,
        error=ratio + (to.alpha - at.alpha * ratio) * slope,
        exact=spread[1:] / spread[:-1],
        share=finite / (finite.sum() or 1),
    )


def _equally_likely(
    schedule: Schedule, times: Times, count: int, seed: int, memory: PyTree | None
) -> tuple[Curve1, Curve1]:
    """Times that are equally likely to be drawn, and their importance weights."""
    with jax.enable_x64(True):
        if hasattr(times, "quantile"):
            u = (np.arange(count) + 0.5) / count
            return np.float64(times.quantile(u, schedule)), np.ones(count)
        memory = times.init() if memory is None else memory
        t, weight = times.draw(memory, jax.random.key(seed), (count,), schedule)
        return np.float64(t), np.broadcast_to(np.float64(weight), (count,))


def _triangles(
    position: Float64[np.ndarray, " m"], weight: Float64[np.ndarray, " m"], points: int
) -> Curve1:
    """Each draw, from -1 to `points`, shared between the nodes at its left and right."""
    node = np.floor(position).astype(int)
    right = position - node
    total = np.bincount(node + 1, weight * (1 - right), points + 2)
    total += np.bincount(node + 2, weight * right, points + 2)
    return total[1:-1]


def _areas(first: float, last: float, points: int) -> Curve1:
    """Of each node's triangle, the area between two positions; 0 of nodes beyond them."""
    node = np.arange(points)
    below = lambda x: np.where(x < 0, (1 + x) ** 2 / 2, 1 - (1 - x) ** 2 / 2)
    area = below(np.clip(last - node, -1, 1)) - below(np.clip(first - node, -1, 1))
    return np.where((node >= first) & (node <= last), area, 0.0)


def _between_entries(schedule: Schedule, logsnr: Curve1) -> Bool[np.ndarray, " n"]:
    """Where two entries of a table lie further apart than nodes; nowhere on other paths."""
    if not hasattr(schedule, "steps"):
        return np.zeros(logsnr.shape, bool)
    entries = _logsnr(_level(schedule, np.arange(schedule.steps + 1) / schedule.steps))
    entries = entries[::-1]  # rising, from noise to the data
    gap = np.diff(entries)[np.clip(np.searchsorted(entries, logsnr) - 1, 0, None)]
    return gap > logsnr[1] - logsnr[0]


def _level(schedule: Schedule, t: Curve1) -> NoiseLevel:
    with jax.enable_x64(True):
        return jax.tree.map(np.float64, schedule(t))


def _at_logsnr(schedule: Schedule, logsnr: Curve1) -> NoiseLevel:
    """The schedule's levels with these logsnr, nan where it has none."""
    with jax.enable_x64(True):
        t = np.float64(schedule.time(logsnr))
        at = jax.tree.map(np.float64, schedule(t))
    beyond = ~np.isclose(_logsnr(at), logsnr, rtol=0, atol=1e-6)
    blank = lambda a: np.where(beyond, math.nan, a)
    return NoiseLevel(blank(at.alpha), blank(at.sigma))


def _logsnr(at: NoiseLevel) -> Curve1:
    """2 ln(alpha / sigma), infinite at the ends without a warning."""
    with np.errstate(divide="ignore"):
        return 2 * (np.log(at.alpha) - np.log(at.sigma))
