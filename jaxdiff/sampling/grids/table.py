"""Grids of a table's entries, as the samplers of discrete processes count them."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from jaxdiff.sampling.grids.uniform import Uniform, on_path, require_steps, then_data
from jaxdiff.types import NoiseLevel, Schedule
from jaxdiff.types.arguments import require_schedule
from jaxdiff.types.ranges import Whole, checked


@dataclass(frozen=True)
@checked
class Leading:
    """Entries (N - 1) s + offset, ..., s + offset, offset, s = floor(T / N), then the data.

    As DDPM's and Stable Diffusion's samplers count (offset 0 and 1), entry 0 being one
    step of noise. It starts below the last entry, by s or more: sampling begins with pure
    noise where the network knows a trace of an image [ZTSNR tab. 2]. For comparison.

    >>> from jaxdiff.schedules import ListedBetas, Table
    >>> table = Table(ListedBetas((0.5, 0.5, 0.5, 0.5)))  # alpha^2 is 1/2, 1/4, 1/8, 1/16
    >>> (Leading()(table, 2).alpha ** 2).round(6).tolist()
    [0.125, 0.5, 1.0]
    """

    offset: Annotated[int, Whole(0, 10**6)] = 0

    def __call__(self, schedule: Schedule, steps: int) -> NoiseLevel:
        total = _entries(self, schedule, steps)
        entry = np.arange(steps)[::-1] * (total // steps) + self.offset
        if entry[0] >= total:
            raise ValueError(
                f"offset = {self.offset} leads to entry {entry[0]} of {total}: use at most "
                f"{total - 1 - entry[0] + self.offset}"
            )
        return then_data(on_path(self, schedule, (entry + 1) / total))


@dataclass(frozen=True)
@checked
class Linspace:
    """N of a table's T entries, evenly from the last to the first, then the data.

    Halves round to even [ZTSNR tab. 2]. One step starts, and ends, on the first entry.

    >>> from jaxdiff.schedules import ListedBetas, Table
    >>> table = Table(ListedBetas((0.5, 0.5, 0.5, 0.5)))  # alpha^2 is 1/2, 1/4, 1/8, 1/16
    >>> (Linspace()(table, 2).alpha ** 2).round(6).tolist()
    [0.0625, 0.5, 1.0]
    """

    def __call__(self, schedule: Schedule, steps: int) -> NoiseLevel:
        total = _entries(self, schedule, steps)
        entry = np.round(np.linspace(0, total - 1, steps))[::-1]
        return then_data(on_path(self, schedule, (entry + 1) / total))


@dataclass(frozen=True)
@checked
class Trailing:
    """N of a table's T entries, round(T - k T / N) for k = 0 ... N - 1, then the data.

    It starts on the last entry, as sampling from pure noise must [ZTSNR tab. 2]. Halves
    round to even; on a closed-form schedule it is `Uniform`.

    >>> from jaxdiff.schedules import ListedBetas, Table
    >>> table = Table(ListedBetas((0.5, 0.5, 0.5, 0.5)))  # alpha^2 is 1/2, 1/4, 1/8, 1/16
    >>> (Trailing()(table, 2).alpha ** 2).round(6).tolist()
    [0.0625, 0.25, 1.0]
    """

    def __call__(self, schedule: Schedule, steps: int) -> NoiseLevel:
        if not hasattr(schedule, "steps"):
            return Uniform()(schedule, steps)
        total = _entries(self, schedule, steps)
        entry = np.round(total - np.arange(steps) * total / steps) - 1
        return then_data(on_path(self, schedule, (entry + 1) / total))


def _entries(grid: object, schedule: Schedule, steps: int) -> int:
    """T, the number of the table's entries, at least `steps`."""
    require_steps(steps)
    require_schedule(schedule)
    total = getattr(schedule, "steps", 0)
    if not total:
        raise ValueError(f"{grid} picks a table's entries; for {schedule} use Uniform()")
    if total < steps:
        raise ValueError(
            f"a table of {total} entries makes at most {total} steps, got {steps}"
        )
    return total
