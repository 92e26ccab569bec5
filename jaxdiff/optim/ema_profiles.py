"""Power-function EMA profiles: what an average of training's parameters averages over.

The average with exponent gamma weighs the parameters of time tau <= t by tau^gamma. Its
name is the standard deviation of that profile relative to t, which the training length
does not change:

    std = sqrt( (gamma + 1) / ((gamma + 2)^2 (gamma + 3)) )       [EDM2 eq. 123]

from std = 12^(-1/2), gamma = 0, the plain mean of the run, down to 0, its last moment.

Averages of other widths than those tracked are made after training, as sums of snapshots
whose profile is nearest to the one asked for. With the inner product of two profiles,

    <a, b> = (ga + 1) (gb + 1) (ta / tb)^gb / ((ga + gb + 1) tb),   ta <= tb,

least squares is A x = b, A_ij = <i, j>, b_i = <i, target>        [EDM2 alg. 3]

and x / sum(x) makes it an average again. All in float64.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float64, PyTree, Real

Number = float | int | np.integer
Numbers = Sequence[Number] | Real[np.ndarray, " _"]

WIDEST = 12**-0.5
"""The std of a plain mean, which no average with gamma > 0 reaches."""


def std_to_exponent(std: float) -> float:
    """gamma > 0 of the profile with this relative width [EDM2 eq. 126].

    The one root gamma > -1 of (gamma + 2)^2 (gamma + 3) = (gamma + 1) / std^2.

    Raises: ValueError unless 0 < std < 12^(-1/2).

    >>> round(std_to_exponent(0.1), 4)
    6.9372
    """
    if not 0 < std < WIDEST:
        raise ValueError(
            f"std = {std} is not in (0, {WIDEST:.4f}): give the averaging length as a "
            f"fraction of training, such as 0.05 or 0.1"
        )
    peak = np.float64(std) ** -2
    return float(np.roots([1, 7, 16 - peak, 12 - peak]).real.max())


def exponent_to_std(gamma: float) -> float:
    """Relative width of the profile tau^gamma [EDM2 eq. 123], the inverse of the above.

    Raises: ValueError unless gamma > 0.

    >>> round(exponent_to_std(6.9372), 4)
    0.1
    """
    if not gamma > 0:
        raise ValueError(f"gamma = {gamma} is not positive: std = 0.1 has gamma = 6.94")
    gamma = np.float64(gamma)
    return float(np.sqrt((gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3))))


def profile(
    time: Float64[np.ndarray, "..."], end: Number, std: float
) -> Float64[np.ndarray, "..."]:
    """The density over training time of an average made at `end` [EDM2 eq. 121].

    (gamma + 1) time^gamma / end^(gamma + 1) up to `end`, 0 after it.
    """
    gamma, share = std_to_exponent(std), time / end
    return np.where(share <= 1, (gamma + 1) * np.minimum(share, 1) ** gamma / end, 0)


def inner_products(
    times_a: Numbers,
    stds_a: Numbers,
    times_b: Numbers,
    stds_b: Numbers,
) -> Float64[np.ndarray, "a b"]:
    """<a, b> of all pairs of profiles [EDM2 eq. 145], times in any one unit."""
    column = lambda values: np.asarray(values, np.float64)[:, None]
    ta, tb = column(times_a), column(times_b).T
    ga = column([std_to_exponent(s) for s in stds_a])
    gb = column([std_to_exponent(s) for s in stds_b]).T
    later, share = np.maximum(ta, tb), np.minimum(ta, tb) / np.maximum(ta, tb)
    power = np.where(ta <= tb, gb, ga)
    return (ga + 1) * (gb + 1) * share**power / ((ga + gb + 1) * later)


def coefficients(
    times: Numbers, stds: Numbers, end: Number, targets: Numbers
) -> Float64[np.ndarray, "snapshots targets"]:
    """How much of each snapshot makes the averages of widths `targets` at time `end`.

    Snapshot i is the average of width stds[i] at times[i] > 0. Columns sum to 1.

    >>> coefficients([1.0, 2.0], [0.1, 0.1], 2.0, [0.1]).round(6).tolist()
    [[0.0], [1.0]]
    """
    among = inner_products(times, stds, times, stds)
    ends = [end] * len(targets)
    raw = np.linalg.solve(among, inner_products(times, stds, ends, targets))
    return raw / raw.sum(axis=0)


def profile_errors(
    times: Numbers, stds: Numbers, end: Number, targets: Numbers
) -> Float64[np.ndarray, " targets"]:
    """|sum_i x_i p_i - p| / |p| for each target, x as `coefficients` gives it.

    What a sum of profiles p_i lacks of the profile p of another width, |a|^2 = <a, a>.

    >>> profile_errors([1.0, 2.0], [0.1, 0.1], 2.0, [0.1, 0.2]).round(3).tolist()
    [0.0, 0.734]
    """
    ends = [end] * len(targets)
    x = coefficients(times, stds, end, targets)
    among = inner_products(times, stds, times, stds)
    cross = inner_products(times, stds, ends, targets)
    own = np.diag(inner_products(ends, targets, ends, targets))
    lack = own - 2 * np.sum(x * cross, axis=0) + np.sum(x * (among @ x), axis=0)
    return np.sqrt(np.maximum(lack, 0) / own)


def combine(
    trees: Iterable[PyTree], share: Float64[np.ndarray, "snapshots targets"]
) -> list[Any]:
    """sum_i share[i, j] trees[i] for each target j, in float32.

    Takes one tree at a time, so memory holds one and the sums.
    """
    sums: list[Any] = []
    for tree, row in zip(trees, share, strict=True):
        wide = jax.tree.map(lambda a: np.asarray(a, np.float32), tree)
        if not sums:
            sums = [jax.tree.map(np.zeros_like, wide) for _ in row]
        for total, x in zip(sums, row, strict=True):
            jax.tree.map(lambda s, a, x=np.float32(x): np.add(s, x * a, out=s), total, wide)
    return sums


def parse_stds(text: str) -> tuple[float, ...]:
    """Widths as people write them; "a,b,...,c" goes on from b to c in steps of b - a.

    Raises:
        ValueError: a text is not a number or not a width, the steps do not meet c, or are
            more than `MOST`.

    >>> parse_stds("0.05,0.10,...,0.20")
    (0.05, 0.1, 0.15, 0.2)
    """
    words = [word.strip() for word in text.split(",")]
    stds: list[float] = []
    for i, word in enumerate(words):
        if word == "...":
            if not 2 <= i < len(words) - 1:
                raise ValueError(f"{text!r}: write two widths before ... and one after it")
            a, b, c = (_width(words[j], text) for j in (i - 2, i - 1, i + 1))
            count = (c - a) / (b - a) if b != a else 0
            if count < 2 or abs(count - round(count)) > 1e-4:
                raise ValueError(
                    f"{text!r}: steps of {b - a:g} from {a:g} do not meet {c:g}"
                )
            if count > MOST:
                raise ValueError(f"{text!r}: {count:.0f} widths; {MOST} are the most")
            stds += np.linspace(a, c, round(count) + 1).round(9).tolist()
        else:
            stds.append(_width(word, text))
    return tuple(sorted(set(stds)))


MOST = 1000
"""Widths that "..." may stand for."""


def _width(word: str, text: str) -> float:
    try:
        std = float(word)
    except ValueError:
        raise ValueError(
            f"{text!r}: {word!r} is not a width; write 0.05,0.10,...,0.25"
        ) from None
    std_to_exponent(std)
    return std
