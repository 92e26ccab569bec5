"""Checks results for NaN and infinity when they are fetched from the devices."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Inexact, Shaped

SAMPLING_ADVICE = (
    "try another solver, more steps, less guidance, or another checkpoint or average"
)
MODEL_ADVICE = "try another checkpoint or average, and look at the run's samples"

SHOWN = 8
"""Maximal number of rows that a message lists."""


class NotFiniteError(ValueError):
    """Results contain NaN or infinity; the message names them, and what to try."""


def require_finite(
    values: Inexact[np.ndarray, "N ..."],
    what: str,
    numbers: Sequence[int | str] | Shaped[np.ndarray, " N"] | None = None,
    *,
    unit: str = "seed",
    advice: str = SAMPLING_ADVICE,
) -> None:
    """Raises NotFiniteError unless all values are finite.

    Args:
        values: one row for each result, on the host.
        what: the results' name in the message, in the plural: "samples".
        numbers: [N], the number of each row in the message; by default 0 ... N - 1.
        unit: what `numbers` count.
        advice: what to try, at the end of the message.

    Raises:
        NotFiniteError: names the rows that are not finite.

    >>> require_finite(np.array([[0.0], [np.nan]]), "samples", [7, 8])
    Traceback (most recent call last):
    ...
    jaxdiff.runtime.finite.NotFiniteError: 1 of 2 samples are not finite (seed 8): try \
another solver, more steps, less guidance, or another checkpoint or average
    """
    values = np.asarray(values)
    bad = ~np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
    if not bad.any():
        return
    wrong = (np.arange(len(values)) if numbers is None else np.asarray(numbers))[bad]
    listed = ", ".join(map(str, wrong[:SHOWN]))
    more = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
    raise NotFiniteError(
        f"{len(wrong)} of {len(values)} {what} are not finite ({unit}"
        f"{'s' if len(wrong) > 1 else ''} {listed}{more}): {advice}"
    )
