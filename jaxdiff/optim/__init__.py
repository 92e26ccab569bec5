"""Optimisers as values: EDM2's, with forced weight normalisation, and AdamW.

`ema` and `weight_norm` have links of an Optax chain, of use in any other; `edm2` has EDM2's
chain, `adamw` that of DiT, SiT and ADM; `ema_profiles` the algebra of power-function
averages, from which averages of any length are made after training.
"""

from jaxdiff.optim import ema_profiles
from jaxdiff.optim.adamw import AdamW
from jaxdiff.optim.edm2 import EDM2Optimizer, edm2_adam, inverse_sqrt_schedule, nan_to_zero
from jaxdiff.optim.ema import EmaState, averages, constant_ema, halflife_ema, power_ema
from jaxdiff.optim.weight_norm import forced_weight_norm, normalized

__all__ = [
    "AdamW",
    "EDM2Optimizer",
    "EmaState",
    "averages",
    "constant_ema",
    "edm2_adam",
    "ema_profiles",
    "forced_weight_norm",
    "halflife_ema",
    "inverse_sqrt_schedule",
    "nan_to_zero",
    "normalized",
    "power_ema",
]
