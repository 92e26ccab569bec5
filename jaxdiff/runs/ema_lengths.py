"""Quality against the length of the average, found after training [EDM2 sec. 3].

`snapshots.profile_errors` tells which widths the snapshots of a run reach.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from jaxdiff.optim.ema_profiles import profile_errors
from jaxdiff.runs import snapshots
from jaxdiff.runs.restoring import Restored, of_snapshot
from jaxdiff.runtime.files import PathLike, place

__all__ = ["Measure", "over_lengths", "profile_errors"]

Measure = Callable[[Restored], Mapping[str, Any]]
"""Any metric of a denoiser, as numbers by name."""


def over_lengths(
    workdir: PathLike,
    stds: Sequence[float],
    measure: Measure,
    step: int | None = None,
    *,
    together: int = 8,
    progress: bool = False,
) -> Iterator[dict[str, Any]]:
    """`measure` of a run's averages of any widths, a row each, as they are made.

    {"std", "step", "profile_error", ...what was measured}. The run's snapshots up to
    `step`, by default the last, are read once for every `together` widths; memory holds so
    many networks. `measure` compiles once, as all have the same shapes.

    Raises:
        ValueError: a width that no average has, no snapshots, or none of that step.
    """
    folder = place(workdir) / snapshots.TRACKED
    for first in range(0, len(stds), together):
        some = stds[first : first + together]
        made = snapshots.reconstruct(folder, some, step, progress=progress)
        errors = snapshots.profile_errors(folder, some, step)
        for snapshot, error in zip(made, errors, strict=True):
            row = {"std": snapshot.std, "step": snapshot.step, "profile_error": error}
            yield row | dict(measure(of_snapshot(snapshot)))
