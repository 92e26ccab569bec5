"""The optimiser of EDM2: Adam, power-function averages and forced weight normalisation.

`edm2` has the Optax transformations and their chain; `ema_profiles` the algebra of
power-function averages, from which averages of any length are made after training.
"""

from jaxdiff.optim import ema_profiles
from jaxdiff.optim.edm2 import (
    EDM2Optimizer,
    EmaState,
    averages,
    edm2_adam,
    forced_weight_norm,
    halflife_ema,
    inverse_sqrt_schedule,
    nan_to_zero,
    normalized,
    power_ema,
)

__all__ = [
    "EDM2Optimizer",
    "EmaState",
    "averages",
    "edm2_adam",
    "ema_profiles",
    "forced_weight_norm",
    "halflife_ema",
    "inverse_sqrt_schedule",
    "nan_to_zero",
    "normalized",
    "power_ema",
]
