"""Power-function EMA profiles: what an average of training's parameters averages over.

The average with exponent gamma weighs the parameters of time tau <= t by tau^gamma. Its
name is the standard deviation of that profile relative to t, which the training length
does not change:

    std = sqrt( (gamma + 1) / ((gamma + 2)^2 (gamma + 3)) )       [EDM2 eq. 123]

from std = 12^(-1/2), gamma = 0, the plain mean of the run, down to 0, its last moment.
"""

import numpy as np

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
