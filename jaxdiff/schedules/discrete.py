"""Tables: a discrete process as a schedule, and tables made from tables.

With alpha_bar_i the product of 1 - beta up to entry i,

    Table(betas)            alpha^2 = alpha_bar_i at t = (i + 1) / T
    zero_terminal_snr(t)    sqrt(alpha_bar) moved and stretched to end on 0 [ZTSNR alg. 1]
    RespacedBetas(of, S)    beta'_i = 1 - alpha_bar_{S_i} / alpha_bar_{S_{i-1}}    [IDDPM]

A respaced table keeps the levels of the entries S and has its own betas, so that whatever
is made from betas, such as a learned variance between the posterior's bounds, fits it.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Annotated

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float64

from jaxdiff.schedules.betas import Betas
from jaxdiff.types import NoiseLevel, Real, Time
from jaxdiff.types.ranges import Items, Whole, checked


@dataclass(frozen=True)
@checked
class ZeroTerminalBetas:
    """Betas moved to sqrt(alpha_bar_T) = 0, sqrt(alpha_bar_1) kept [ZTSNR alg. 1].

    >>> from jaxdiff.schedules import LinearBetas
    >>> float(ZeroTerminalBetas(LinearBetas())()[-1])
    1.0
    """

    of: Betas

    def __call__(self) -> Float64[np.ndarray, " T"]:
        root = np.sqrt(np.cumprod(1 - self.of()))
        if root.size < 2:
            raise ValueError(
                "a table of 1 entry cannot end on pure noise and keep its first level"
            )
        root = (root - root[-1]) * root[0] / (root[0] - root[-1])
        return 1 - root**2 / np.r_[1.0, root[:-1] ** 2]


SOME = Items(1, note="ddim_spacing(1000, 50) is usual")


@dataclass(frozen=True)
@checked
class RespacedBetas:
    """The betas between the kept entries of a process [IDDPM].

    >>> from jaxdiff.schedules import ListedBetas
    >>> RespacedBetas(ListedBetas((0.5, 0.5, 0.5)), kept=(0, 2))()
    array([0.5 , 0.75])
    """

    of: Betas
    kept: Annotated[tuple[Annotated[int, Whole(0, 10**6)], ...], SOME]

    def __post_init__(self) -> None:
        if isinstance(self.of, Table):
            raise ValueError("RespacedBetas takes betas, got a Table: give table.betas")
        steps = self.of().size
        for entry in self.kept:
            if not 0 <= entry < steps:
                raise ValueError(
                    f"RespacedBetas keeps entry {entry}, but the table has 0 to {steps - 1}"
                )
        for a, b in pairwise(self.kept):
            if a >= b:
                raise ValueError(f"kept entries must increase, but {b} follows {a}")

    def __call__(self) -> Float64[np.ndarray, " T"]:
        alpha_bar = np.cumprod(1 - self.of())[list(self.kept)]
        return 1 - alpha_bar / np.r_[1.0, alpha_bar[:-1]]


def ddim_spacing(steps: int, n: int) -> tuple[int, ...]:
    """Entries 0, i, 2i, ... with the least stride i that gives n of them: "ddimN" [IDDPM].

    >>> ddim_spacing(1000, 4)
    (0, 250, 500, 750)

    Raises:
        ValueError: no stride gives n; the message names the nearest numbers that exist.
    """
    numbers = {-(-steps // stride): stride for stride in range(steps - 1, 0, -1)}
    if n not in numbers:
        below = max((m for m in numbers if m < n), default=None)
        above = min((m for m in numbers if m > n), default=None)
        near = " or ".join(str(m) for m in (below, above) if m is not None)
        other = f", or section_spacing({steps}, ({n},))" if 1 <= n <= steps else ""
        raise ValueError(
            f"no integer stride keeps {n} of {steps} entries; {near or 'none'} is "
            f"possible{other}"
        )
    return tuple(range(0, steps, numbers[n]))


def section_spacing(steps: int, counts: tuple[int, ...]) -> tuple[int, ...]:
    """counts[k] entries of the k-th of equal sections, its first and last among them.

    The first steps mod len(counts) sections are longer by one. Within a section positions
    are accumulated in floats and rounded half to even [IDDPM], which for 278 of the
    numbers up to 999 of 1000 is not what rounding equal spaces gives. One entry is a
    section's first; entries that meet are one.

    >>> section_spacing(10, (2, 3))
    (0, 4, 5, 7, 9)

    Raises:
        ValueError: a count exceeds its section's entries, or all counts are 0.
    """
    if not any(counts):
        raise ValueError(f"counts = {counts} keeps no entry: use for example (50,)")
    size, longer = divmod(steps, len(counts))
    kept, first = set(), 0
    for k, n in enumerate(counts):
        length = size + (k < longer)
        if not 0 <= n <= length:
            raise ValueError(
                f"counts[{k}] = {n}, but section {k} has {length} entries: use 0 to "
                f"{length}"
            )
        stride, position = (length - 1) / (n - 1) if n > 1 else 1.0, 0.0
        for _ in range(n):
            kept.add(first + round(position))
            position += stride
        first += length
    return tuple(sorted(kept))


@dataclass(frozen=True)
@checked
class Table:
    """A discrete variance-preserving process as a schedule.

    Entry i of T is t = (i + 1) / T, and t = 0 is the data. Between entries the angle
    atan2(sigma, alpha) is linear in t, which keeps alpha^2 + sigma^2 = 1 everywhere.

    >>> from jaxdiff.schedules import ListedBetas
    >>> Table(ListedBetas((0.36, 0.5)))(0.5)
    NoiseLevel(alpha=Array(0.8, dtype=float32), sigma=Array(0.6, dtype=float32))
    """

    betas: Betas

    def __post_init__(self) -> None:
        betas, name = self.betas(), type(self.betas).__name__
        if not betas.size:
            raise ValueError(f"{name} has no betas; a table needs at least one")
        bad = np.flatnonzero(~((1 - betas < 1) & (betas <= 1)))
        if bad.size:
            raise ValueError(
                f"betas must lie in (0, 1], so that noise increases, but {name} gives "
                f"beta[{bad[0]}] = {betas[bad[0]]:.6g} of {betas.size}"
            )
        if (betas[:-1] == 1).any():
            first = int(np.argmax(betas == 1))
            raise ValueError(
                f"only the last beta may be 1, but beta[{first}] of {betas.size} is: "
                "nothing is left after it"
            )

    @property
    def steps(self) -> int:
        """T, the number of entries."""
        return self.betas().size

    @property
    def reaches_pure_noise(self) -> bool:
        """Whether the last alpha is 0, or below 1e-15, whose square float32 may lose."""
        return bool(np.prod(1 - self.betas()) < 1e-30)

    def __call__(self, t: Time) -> NoiseLevel:
        entry = jnp.clip(_wide(t), 0.0, 1.0) * self.steps
        from_data, from_noise = (a.astype(entry.dtype) for a in _angles(self))
        nodes = np.arange(self.steps + 1, dtype=entry.dtype)
        return NoiseLevel(
            jnp.sin(jnp.interp(entry, nodes, from_noise)),
            jnp.sin(jnp.interp(entry, nodes, from_data)),
        )

    def time(self, logsnr: Real) -> Time:
        logsnr = _wide(logsnr)
        near_data = logsnr > 0
        angle = jnp.arctan(jnp.exp(-jnp.where(near_data, logsnr, -logsnr) / 2))
        from_data, from_noise = (a.astype(angle.dtype) for a in _angles(self))
        times = np.linspace(0, 1, from_data.size, dtype=angle.dtype)
        return jnp.where(
            near_data,
            jnp.interp(angle, from_data, times),
            jnp.interp(angle, from_noise[::-1], times[::-1]),
        )


def _wide(a: Real) -> Real:
    """At least float32: half precision cannot count the entries of a table."""
    return jnp.asarray(a, jnp.promote_types(jnp.result_type(a, float), jnp.float32))


def zero_terminal_snr(table: Table) -> Table:
    """The table with the same first level and no signal in its last [ZTSNR alg. 1].

    >>> from jaxdiff.schedules import LinearBetas
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
