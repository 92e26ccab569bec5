"""Solvers that add noise on the way: the probability flow with Langevin steps on top.

Any w >= 0 leaves the marginals of a path as they are [SiT]. Backwards in t, h = t - t',

    x' = x + D d(alpha) + eps d(sigma) - (w h / 2) eps / sigma + sqrt(w h) noise

since score = -eps / sigma. w = 0 is `Euler`; w = eta g^2 with

    g^2 dt = -sigma^2 d(logsnr) = 2 sigma (d(sigma) - sigma d(alpha) / alpha)

is eta times the noise of the forward process, eta = 1 the reverse SDE, and needs no clock:
g^2 h is linear in the step's increments of (alpha, sigma), as everything above. A w that
is a function of t (SiT's choices) needs one, the `clock`: t is where that schedule has the
logsnr of the level. Then the step is made on the clock's own path, y = x / k, and scaled
to the grid's, x' = k' y': levels of one logsnr on any path give the same images.

A Langevin step of length a = w h / (2 sigma^2) turns noise of variance 1 into
(1 - a)^2 + 2 a = 1 + a^2. Since any w will do, a is held to `limit`, which keeps the
pole of g^2 at alpha = 0, and coarse grids near it, from blowing up.
"""

import functools
import math
import warnings
from dataclasses import dataclass
from typing import Annotated, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from jaxdiff.sampling.signature import Coefficient, Denoise, Noise, State, Step
from jaxdiff.sampling.solvers.euler_heun_ddim import StepLevels
from jaxdiff.sampling.solvers.rows import cast, made_in_float64, traced
from jaxdiff.types import Leaf, NoiseLevel, Schedule, pytree
from jaxdiff.types.ranges import Choice, Limit, NonNegative, checked

LAST = ("tweedie", "mean", "euler")
"""What a step onto the data may do, never with noise: return D; the whole drift; the
probability flow's part of it, which is D unless `tangent`."""


@pytree
class End:
    """All N steps as seen from one of their ends; every field is [N]."""

    t: Leaf
    """The clock there; nan without a clock."""
    h: Leaf
    """How far the clock goes back, h > 0."""
    at: NoiseLevel
    """The level there, on the clock's path."""
    d: NoiseLevel
    """What the step adds to (alpha, sigma)."""


@runtime_checkable
class Diffusion(Protocol):
    """How much noise each of the N steps adds: `End` -> w h [N]."""

    @property
    def needs_clock(self) -> bool:
        """Whether it reads t or h, rather than levels alone."""
        ...

    def __call__(self, end: End) -> Float[Array, " N"]:
        """w h of each step [N], not negative, from the step's end."""
        ...


@dataclass(frozen=True)
@checked
class Proportional:
    """w = eta g^2: eta times the noise of the forward process, any path."""

    eta: NonNegative = 1.0
    needs_clock = False

    def __call__(self, end: End) -> Float[Array, " N"]:
        if self.eta == 0:
            return jnp.zeros_like(end.at.sigma)
        sigma = end.at.sigma
        return self.eta * 2 * sigma * (sigma * end.d.alpha / end.at.alpha - end.d.sigma)


@dataclass(frozen=True)
@checked
class ConstantW:
    """w = 2 norm, twice what SiT's code calls w, as in all of these."""

    norm: NonNegative = 1.0
    needs_clock = True

    def __call__(self, end: End) -> Float[Array, " N"]:
        return 2 * self.norm * end.h


@dataclass(frozen=True)
@checked
class SigmaW:
    """w = 2 norm sigma, SiT's default."""

    norm: NonNegative = 1.0
    needs_clock = True

    def __call__(self, end: End) -> Float[Array, " N"]:
        return 2 * self.norm * end.at.sigma * end.h


@dataclass(frozen=True)
@checked
class LinearW:
    """w = 2 norm t."""

    norm: NonNegative = 1.0
    needs_clock = True

    def __call__(self, end: End) -> Float[Array, " N"]:
        return 2 * self.norm * end.t * end.h


@dataclass(frozen=True)
@checked
class DecreasingW:
    """w = (1 - norm cos(pi t))^2 / 2, falling towards the data."""

    norm: NonNegative = 1.0
    needs_clock = True

    def __call__(self, end: End) -> Float[Array, " N"]:
        return (1 - self.norm * jnp.cos(jnp.pi * end.t)) ** 2 / 2 * end.h


@dataclass(frozen=True)
@checked
class SineW:
    """w = 2 norm sin^2(pi t), nothing at both ends."""

    norm: NonNegative = 1.0
    needs_clock = True

    def __call__(self, end: End) -> Float[Array, " N"]:
        return 2 * self.norm * jnp.sin(jnp.pi * end.t) ** 2 * end.h


@dataclass(frozen=True)
@checked
class EulerMaruyama:
    """The left endpoint of drift and noise, weak order 1, N evaluations.

    `clock` is the schedule whose t and h `diffusion` reads, where it reads any. With
    `tangent`, d(alpha) and d(sigma) are the clock's derivatives times -h, as SiT steps,
    instead of its increments; on the straight path both are one. `limit` bounds
    w h / (2 sigma^2), `last` is the rule of a step onto the data, one of `LAST`.
    SiT's sampler is tangent=True, limit=inf, last="mean".

    >>> from jaxdiff.sampling import evaluations
    >>> from jaxdiff.sampling.grids import Karras
    >>> evaluations(EulerMaruyama(), Karras()(None, 32))
    32
    """

    diffusion: Diffusion = Proportional()
    clock: Schedule | None = None
    tangent: bool = False
    limit: Limit = 1.0
    last: Annotated[str, Choice(*LAST)] = "tweedie"

    def __post_init__(self) -> None:
        _check(self)

    def evaluations(self, lands: bool) -> int:
        return 1

    def init(self, x: State, levels: NoiseLevel) -> tuple[PyTree, "LinearRow"]:
        return (), _rows(self, levels)[0]

    def step(
        self, denoise: Denoise, x: State, memory: PyTree, row: "LinearRow", noise: Noise
    ) -> Step:
        first = denoise(x, row.levels.at)
        return row.x * x + row.x0 * first.x0 + row.noise * noise(0), memory, first


@dataclass(frozen=True)
@checked
class StochasticHeun:
    """Noise first, then the trapezoid of the drift: weak order 1, 2 N - 1 evaluations.

    x^ = x + sqrt(w h) noise, and x' = x^ + (k(x^, t) + k(x^ + k(x^, t), t')) / 2 for the
    drift k [SiT]. The fields are those of `EulerMaruyama`. Without noise it is `Heun`.

    >>> from jaxdiff.sampling import evaluations
    >>> from jaxdiff.sampling.grids import Karras
    >>> evaluations(StochasticHeun(), Karras()(None, 32))
    63
    """

    diffusion: Diffusion = Proportional()
    clock: Schedule | None = None
    tangent: bool = False
    limit: Limit = 1.0
    last: Annotated[str, Choice(*LAST)] = "tweedie"

    def __post_init__(self) -> None:
        _check(self)

    def evaluations(self, lands: bool) -> int:
        return 1 if lands else 2

    def init(self, x: State, levels: NoiseLevel) -> tuple[PyTree, "HeunRows"]:
        return (), _rows(self, levels)

    def step(
        self, denoise: Denoise, x: State, memory: PyTree, row: "HeunRows", noise: Noise
    ) -> Step:
        left, right, scale = row
        x = x + left.noise / scale * noise(0)
        first = denoise(x, left.levels.at)
        y = left.x * x + left.x0 * first.x0

        def corrected() -> State:
            onward = right.x * y + right.x0 * denoise(y, right.levels.to).x0
            return (scale * x + onward) / 2

        x = jax.lax.cond(left.levels.to.sigma > 0, corrected, lambda: y)
        return x, memory, first


@pytree
class LinearRow:
    """The rule as numbers: `x` x + `x0` D + `noise` noise."""

    levels: StepLevels
    x: Leaf
    x0: Leaf
    noise: Leaf


HeunRows = tuple[LinearRow, LinearRow, Coefficient]
"""The rule with the drift of the left end, with that of the right end, and k' / k."""

Langevin = EulerMaruyama | StochasticHeun


def _rows(solver: Langevin, levels: NoiseLevel) -> HeunRows:
    """The rule with the drift of each step's left end and of its right end, and k' / k."""
    rows = made_in_float64(functools.partial(_table, solver), levels)
    if not traced(levels):
        _warn_if_unstable(solver, levels, rows)
    return cast(rows, levels)


DATA_STD = 0.5
"""The standard deviation that data are taken to have, that of images in [-1, 1]."""

TOO_LARGE = 2.0
"""The std at the end beside the right one, above which a grid is called too coarse."""


def excess(solver: Langevin, levels: NoiseLevel, rows: HeunRows) -> float:
    """The std at the last level beside the right one, for Gaussian data.

    For N(0, s^2) with s = `DATA_STD` the denoiser is linear, D = d x, and so is a step,

        x' = A (x + b noise),    A = a_x + a_x0 d                          EulerMaruyama
                                 A = (k + (c_x + c_x0 d') (a_x + a_x0 d)) / 2

    by the drift a of the left end and c of the right. inf where it is not finite.
    """
    left, right, scale = rows
    r2 = (levels.alpha * DATA_STD) ** 2 + levels.sigma**2
    d = levels.alpha * DATA_STD**2 / r2
    along, added = left.x + left.x0 * d[:-1], left.noise
    if isinstance(solver, StochasticHeun):
        after = right.x + right.x0 * d[1:]
        along, added = (
            (scale + after * along) / 2,
            added / scale * (scale + after * along) / 2,
        )
    variance = r2[0]
    with np.errstate(over="ignore", invalid="ignore"):
        for a, b in zip(along, added, strict=True):
            variance = a**2 * variance + b**2
    return math.sqrt(variance / r2[-1]) if math.isfinite(variance) else math.inf


def stable_ratio(solver: Langevin) -> float:
    """The least sigma' / sigma of a step, far above the data, whose errors do not grow.

    There D stays, and an error of eps is multiplied by A while the level falls by r, so a
    long grid is stable where |A| < r: with w = eta g^2, and a = min(eta (1 - r), limit),

        A = r - a                                                   EulerMaruyama
        A = (1 + (r - a) (2 - 1 / r - min(a / r, limit))) / 2       StochasticHeun

    For eta = 1 that is r > 1/3 and r > 1/2. Laws of w beside `Proportional` count as that.

    >>> round(stable_ratio(EulerMaruyama()), 2), round(stable_ratio(StochasticHeun()), 2)
    (0.33, 0.5)
    """
    eta, r = getattr(solver.diffusion, "eta", 1.0), np.linspace(0.001, 1, 1000)
    along = r - np.minimum(eta * (1 - r), solver.limit)
    if isinstance(solver, StochasticHeun):
        along = (1 + along * (2 - 1 / r - np.minimum(eta * (1 - r) / r, solver.limit))) / 2
    unstable = np.abs(along) > r + 1e-9
    return float(r[unstable].max(initial=0.001))


def _warn_if_unstable(solver: Langevin, levels: NoiseLevel, rows: HeunRows) -> None:
    """Warns of steps too long for the noise they add, with a number of steps that works."""
    levels = jax.tree.map(np.float64, levels)
    if (levels.sigma[1:] * levels.alpha[:-1] > levels.sigma[:-1] * levels.alpha[1:]).any():
        return  # a grid that rises: other rules are between these steps
    lands = int(levels.sigma[-1] == 0)  # onto the data no noise is added
    count = len(levels.sigma) - lands
    ratio = excess(solver, levels[:count], jax.tree.map(lambda a: a[: count - 1], rows))
    if ratio <= TOO_LARGE or not rows[0].noise.any():
        return
    name, steps, least = type(solver).__name__, len(levels.sigma) - 1, stable_ratio(solver)
    if math.isinf(solver.limit) and not math.isfinite(ratio):
        advice = "give it a finite limit, such as limit=1.0"
    else:
        with np.errstate(divide="ignore"):
            s = levels.sigma[:count] / levels.alpha[:count]
        inside = (s[:-1] < math.inf) & (s[1:] > DATA_STD / 2)
        longest = float(np.log(s[:-1] / s[1:])[inside].max(initial=0))
        enough = max(math.ceil(steps * longest / -math.log(least)), steps + 1)
        advice = (
            f"take about {enough} steps, so that none leaves less than {least:.2g} of "
            "sigma / alpha, or a solver without noise, such as Heun()"
        )
    warnings.warn(
        f"{name} is unstable on this grid of {steps} steps: its noise ends {ratio:.3g} "
        f"times as large as it should (on data of std {DATA_STD:g}): {advice}",
        stacklevel=2,
    )


def _table(solver: Langevin, levels: NoiseLevel) -> HeunRows:
    lands = levels.sigma[1:] == 0
    left, right, path = _ends(solver, levels, lands)
    k = jnp.hypot(levels.alpha, levels.sigma) / jnp.hypot(path.alpha, path.sigma)
    scale, interval = k[1:] / k[:-1], StepLevels(levels[:-1], levels[1:])
    noise = _noise(solver, left)
    x, x0 = _drift(left, noise)
    ends = {
        "tweedie": (jnp.zeros_like(x), path.alpha[1:]),
        "mean": (x, x0),
        "euler": _drift(left, jnp.zeros_like(noise)),
    }[solver.last]
    x, x0 = jnp.where(lands, ends[0], x), jnp.where(lands, ends[1], x0)
    added = jnp.where(lands, 0, jnp.sqrt(noise))
    x_right, x0_right = _drift(right, _noise(solver, right))
    return (
        LinearRow(interval, scale * x, k[1:] * x0, k[1:] * added),
        LinearRow(interval, x_right, k[1:] * x0_right, jnp.zeros_like(added)),
        scale,
    )


def _ends(
    solver: Langevin, levels: NoiseLevel, lands: Float[Array, " N"] | Array
) -> tuple[End, End, NoiseLevel]:
    """Each step from its left and its right end, and all levels on the clock's path."""
    if solver.clock is None:
        t, path = jnp.full_like(levels.sigma, jnp.nan), levels
    else:
        t = jnp.clip(solver.clock.time(levels.logsnr), 0, 1)
        t = t.astype(levels.sigma.dtype)
        path = solver.clock(t)
        data = levels.sigma == 0
        path = NoiseLevel(jnp.where(data, 1, path.alpha), jnp.where(data, 0, path.sigma))
    h = t[:-1] - t[1:]
    if solver.tangent:
        safe = t.at[1:].set(jnp.where(lands, t[:-1], t[1:]))
        rate = jax.jvp(solver.clock, (safe,), (jnp.ones_like(t),))[1]
        before, after = (jax.tree.map(lambda r: -h * r, rate[s]) for s in _HALVES)
    else:
        before = after = jax.tree.map(jnp.diff, path)
    to = path[1:]  # where a step lands, the right end is not used: any level will do
    to = NoiseLevel(to.alpha, jnp.where(lands, 1, to.sigma))
    return End(t[:-1], h, path[:-1], before), End(t[1:], h, to, after), path


_HALVES = (slice(None, -1), slice(1, None))


def _noise(solver: Langevin, end: End) -> Float[Array, " N"]:
    """w h, held to limit 2 sigma^2."""
    return jnp.minimum(solver.diffusion(end), solver.limit * 2 * end.at.sigma**2)


def _drift(
    end: End, noise: Float[Array, " N"]
) -> tuple[Float[Array, " N"], Float[Array, " N"]]:
    """Coefficients of x and D in x + D d(alpha) + eps (d(sigma) - w h / (2 sigma))."""
    sigma = end.at.sigma
    of_x = (end.d.sigma - noise / (2 * sigma)) / sigma
    return 1 + of_x, end.d.alpha - end.at.alpha * of_x


def _check(solver: Langevin) -> None:
    name = type(solver).__name__
    reads = f"{type(solver.diffusion).__name__} reads t" * solver.diffusion.needs_clock
    if solver.clock is None and (reads or solver.tangent):
        raise ValueError(
            f"{name}: {reads or 'tangent needs a clock'}: give it one, such as "
            "clock=RectifiedFlow(), or use Proportional(eta)"
        )
