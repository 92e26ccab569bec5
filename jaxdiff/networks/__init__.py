"""Networks: Flax modules (x, c_noise, Condition) -> Output that know no noise level.

`AutoencoderKL` is of another kind: images <-> latents.
"""

from jaxdiff.networks.adm import ADM
from jaxdiff.networks.autoencoder import AutoencoderKL
from jaxdiff.networks.dit import DiT
from jaxdiff.networks.edm2_unet import UNet
from jaxdiff.networks.estimators import Classifier, LevelEstimator
from jaxdiff.networks.unet_skeleton import require_labels
from jaxdiff.networks.variables import initial, require_shapes, shapes

__all__ = [
    "ADM",
    "AutoencoderKL",
    "Classifier",
    "DiT",
    "LevelEstimator",
    "UNet",
    "initial",
    "require_labels",
    "require_shapes",
    "shapes",
]
