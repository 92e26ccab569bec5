"""Quality against the length of the average, found after training [EDM2 sec. 3].

A sum of the snapshots' profiles p_i meets the profile p of another width but nearly. What
it lacks, in the norm of the inner product that `posthoc` has,

    |sum_i x_i p_i - p| / |p|,      |a|^2 = <a, a>,

says which widths the snapshots of a run reach.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from jaxdiff import posthoc, snapshots
from jaxdiff.checkpoint import Restored, of_snapshot
from jaxdiff.posthoc import Number, Numbers

Measure = Callable[[Restored], Mapping[str, Any]]
"""Any metric: what a denoiser is worth, as numbers by name."""


def profile_errors(
    times: Numbers, stds: Numbers, end: Number, targets: Numbers
) -> Float64[np.ndarray, " targets"]:
    """|sum_i x_i p_i - p| / |p| for each target, x as `posthoc.coefficients` gives it.

    >>> profile_errors([1.0, 2.0], [0.1, 0.1], 2.0, [0.1, 0.2]).round(3).tolist()
    [0.0, 0.734]
    """
    ends = [end] * len(targets)
    x = posthoc.coefficients(times, stds, end, targets)
    among = posthoc.inner_products(times, stds, times, stds)
    cross = posthoc.inner_products(times, stds, ends, targets)
    own = np.diag(posthoc.inner_products(ends, targets, ends, targets))
    lack = own - 2 * np.sum(x * cross, axis=0) + np.sum(x * (among @ x), axis=0)
    return np.sqrt(np.maximum(lack, 0) / own)


def over_lengths(
    workdir: Path,
    stds: Sequence[float],
    measure: Measure,
    step: int | None = None,
    *,
    together: int = 8,
    progress: bool = False,
) -> Iterator[dict[str, Any]]:
    """What `measure` says of a run's averages of any widths, a row each, as they are made.

    {"std", "step", "profile_error", ...what was measured}. The run's snapshots up to
    `step`, by default the last, are read once for every `together` widths; memory holds so
    many networks. What `measure` compiles for one does for all, their shapes are the same.

    Raises:
        ValueError: a width that no average has, no snapshots, or none of that step.
    """
    folder = workdir / snapshots.TRACKED
    for first in range(0, len(stds), together):
        some = stds[first : first + together]
        made = snapshots.reconstruct(folder, some, step, progress=progress)
        end = made[0].step
        used = [e for e in snapshots.entries(folder) if 0 < e.step <= end]
        times, widths = [e.step for e in used], [e.std for e in used]
        errors = profile_errors(times, widths, end, some)
        for snapshot, error in zip(made, errors.tolist(), strict=True):
            row = {"std": snapshot.std, "step": end, "profile_error": error}
            yield row | dict(measure(of_snapshot(snapshot)))
