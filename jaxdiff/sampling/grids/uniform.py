"""Grids along a schedule's path: uniform in t, and uniform in logsnr."""

from dataclasses import dataclass

import numpy as np

from jaxdiff.sampling.float64 import in_float64
from jaxdiff.types import NoiseLevel, Real, Schedule
from jaxdiff.types.arguments import require_schedule
from jaxdiff.types.ranges import FractionBelowOne, LogSNR, checked


@dataclass(frozen=True)
@checked
class Uniform:
    """t = 1, 1 - 1/N, ..., 1/N, then the data.

    With end > 0, N + 1 times from 1 to end instead: the grid stops before the data. With
    last > 0, N times from 1 to last, then the data.

    >>> from jaxdiff.schedules import RectifiedFlow, Shifted
    >>> Uniform()(Shifted(RectifiedFlow(), 3.0), 2).sigma.tolist()
    [1.0, 0.75, 0.0]
    """

    end: FractionBelowOne = 0.0
    last: FractionBelowOne = 0.0

    def __post_init__(self) -> None:
        if self.end and self.last:
            raise ValueError(
                f"a grid has an end before the data or a last time before it, got {self}"
            )

    def __call__(self, schedule: Schedule, steps: int) -> NoiseLevel:
        require_steps(steps)
        if self.last:
            return then_data(on_path(self, schedule, np.linspace(1.0, self.last, steps)))
        t = np.linspace(1.0, self.end, steps + 1)
        return (
            on_path(self, schedule, t)
            if self.end
            else then_data(on_path(self, schedule, t[:-1]))
        )


@dataclass(frozen=True)
@checked
class UniformLogSNR:
    """N levels of evenly spaced logsnr, on the schedule's path, then the data.

    A path that begins above `logsnr_min` is followed from its beginning. Without `lands`,
    N + 1 levels instead: the grid stops before the data.

    >>> from jaxdiff.schedules import RectifiedFlow
    >>> UniformLogSNR(-4.0, 4.0)(RectifiedFlow(), 3).logsnr.round(3).tolist()
    [-4.0, 0.0, 4.0, inf]
    """

    logsnr_min: LogSNR = -8.0
    logsnr_max: LogSNR = 12.0
    lands: bool = True

    def __post_init__(self) -> None:
        if not self.logsnr_min < self.logsnr_max:
            raise ValueError(
                "UniformLogSNR needs logsnr_min < logsnr_max, in nats, got "
                f"{self.logsnr_min} and {self.logsnr_max}"
            )

    def __call__(self, schedule: Schedule, steps: int) -> NoiseLevel:
        require_steps(steps)
        require_schedule(schedule)
        start = max(self.logsnr_min, float(in_float64(lambda: schedule(1.0).logsnr)))
        if start >= self.logsnr_max:
            raise ValueError(
                f"{schedule} begins at a logsnr of {start:.4g}, above logsnr_max = "
                f"{self.logsnr_max}: set that higher"
            )
        nodes = steps if self.lands else steps + 1
        logsnr = np.linspace(start, self.logsnr_max, nodes)
        levels = on_path(self, schedule, in_float64(lambda: schedule.time(logsnr)))
        return then_data(levels) if self.lands else levels


def on_path(grid: object, schedule: Schedule, t: Real) -> NoiseLevel:
    """The path's levels at t, float64 on the host: a solver reads their differences."""
    require_schedule(schedule)
    return falling(grid, in_float64(lambda: schedule(t)))


def falling(grid: object, levels: NoiseLevel) -> NoiseLevel:
    """The levels, if each has less noise than the one before.

    Raises:
        ValueError: two are the same in float64, or noise rises.
    """
    at, to = levels[:-1], levels[1:]
    stuck = np.flatnonzero(~(at.sigma * to.alpha > to.sigma * at.alpha))
    if stuck.size:
        i = int(stuck[0])
        ratio = at.sigma[i] / max(at.alpha[i], 1e-300)
        raise ValueError(
            f"{grid} repeats a level, {len(stuck)} times in {len(at.sigma)} steps, first "
            f"sigma / alpha = {ratio:.6g} at levels {i} and {i + 1}: use fewer steps, or "
            "other parameters"
        )
    return levels


def then_data(levels: NoiseLevel) -> NoiseLevel:
    """The levels, and the data after them."""
    return NoiseLevel(np.append(levels.alpha, 1.0), np.append(levels.sigma, 0.0))


def require_steps(steps: int) -> None:
    """Raises ValueError for less than one step."""
    if steps < 1:
        raise ValueError(f"a sampler needs at least 1 step, got {steps}")
