"""Grids: the noise levels that a sampler visits, N + 1 levels for N steps.

A grid is an array of levels, and any solver takes any grid. Levels are host-side numbers:
N is a Python integer. A grid that ends on the data (sigma = 0) makes the solver end on
the denoiser's x0; one that stops before it leaves the rest of the noise in.
"""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from jaxdiff.types import NoiseLevel, Schedule


@dataclass(frozen=True)
class Karras:
    """sigma^(1/rho) linear from sigma_max to sigma_min, then 0, alpha = 1 [EDM eq. 5].

    The path is EDM's own, whatever the network was trained on: a denoiser is a function
    on rays (alpha, sigma), so it samples on every path.

    >>> Karras(sigma_min=1.0, sigma_max=9.0, rho=2.0)(None, 3).sigma.tolist()
    [9.0, 4.0, 1.0, 0.0]
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0

    def __post_init__(self) -> None:
        if not (0 < self.sigma_min < self.sigma_max and self.rho > 0):
            raise ValueError(f"Karras needs 0 < sigma_min < sigma_max, rho > 0: {self}")

    def __call__(self, schedule: Schedule | None, steps: int) -> NoiseLevel:
        _require_steps(steps)
        high, low = self.sigma_max ** (1 / self.rho), self.sigma_min ** (1 / self.rho)
        sigma = np.linspace(high, low, steps) ** self.rho
        sigma[0] = self.sigma_max
        if steps > 1:
            sigma[-1] = self.sigma_min
        return NoiseLevel(jnp.ones(steps + 1), jnp.asarray(np.r_[sigma, 0.0]))


@dataclass(frozen=True)
class Uniform:
    """t = 1, 1 - 1/N, ..., 1/N, then the data.

    With end > 0, N + 1 times from 1 to end instead: the grid stops before the data.
    """

    end: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.end < 1:
            raise ValueError(f"Uniform needs 0 <= end < 1, got {self.end}")

    def __call__(self, schedule: Schedule, steps: int) -> NoiseLevel:
        _require_steps(steps)
        t = np.linspace(1.0, self.end, steps + 1)
        return schedule(t) if self.end else _then_data(schedule(t[:-1]))


@dataclass(frozen=True)
class Leading:
    """Entries (N - 1) s + offset, ..., s + offset, offset, s = floor(T / N), then the data.

    As DDPM's and Stable Diffusion's samplers count (offset 0 and 1), entry 0 being one
    step of noise. It starts below the last entry, by s or more: sampling begins with pure
    noise where the network knows a trace of an image [ZTSNR tab. 2]. For comparison.
    """

    offset: int = 0

    def __post_init__(self) -> None:
        if self.offset < 0:
            raise ValueError(f"offset must not be negative, got {self.offset}")

    def __call__(self, schedule: Schedule, steps: int) -> NoiseLevel:
        total = _entries(self, schedule, steps)
        entry = np.arange(steps)[::-1] * (total // steps) + self.offset
        if entry[0] >= total:
            raise ValueError(
                f"offset = {self.offset} leads to entry {entry[0]} of {total}: use at most "
                f"{total - 1 - entry[0] + self.offset}"
            )
        return _then_data(schedule((entry + 1) / total))


@dataclass(frozen=True)
class Linspace:
    """N of a table's T entries, evenly from the last to the first, then the data.

    Halves round to even [ZTSNR tab. 2]. One step starts, and ends, on the first entry.
    """

    def __call__(self, schedule: Schedule, steps: int) -> NoiseLevel:
        total = _entries(self, schedule, steps)
        entry = np.round(np.linspace(0, total - 1, steps))[::-1]
        return _then_data(schedule((entry + 1) / total))


@dataclass(frozen=True)
class Trailing:
    """N of a table's T entries, round(T - k T / N) for k = 0 ... N - 1, then the data.

    It starts on the last entry, as sampling from pure noise must [ZTSNR tab. 2]. Halves
    round to even; on a closed-form schedule it is `Uniform`.
    """

    def __call__(self, schedule: Schedule, steps: int) -> NoiseLevel:
        if not hasattr(schedule, "steps"):
            return Uniform()(schedule, steps)
        total = _entries(self, schedule, steps)
        entry = np.round(total - np.arange(steps) * total / steps) - 1
        return _then_data(schedule((entry + 1) / total))


def _then_data(levels: NoiseLevel) -> NoiseLevel:
    return NoiseLevel(jnp.append(levels.alpha, 1.0), jnp.append(levels.sigma, 0.0))


def _entries(grid: object, schedule: Schedule, steps: int) -> int:
    """T of a table that has so many steps."""
    _require_steps(steps)
    total = getattr(schedule, "steps", 0)
    if not total:
        raise ValueError(f"{grid} picks a table's entries; for {schedule} use Uniform()")
    if total < steps:
        raise ValueError(
            f"a table of {total} entries has no {steps} steps; ask for at most {total}"
        )
    return total


def _require_steps(steps: int) -> None:
    if steps < 1:
        raise ValueError(f"a sampler needs at least 1 step, got {steps}")
