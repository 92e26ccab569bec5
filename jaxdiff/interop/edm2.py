"""Parameters of EDM2's published networks, to and from the variables of `UNet`.

A state dict names each tensor by its path, `unet.enc.8x8_block0.conv_res0.weight`; the
same path without `unet.` leads to it in UNet's variables. Weights change layout:

    convolution [out, in, h, w] <-> [h, w, in, out],      linear [out, in] <-> [in, out].
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import traverse_util

CONSTANTS = ("freqs", "phases")
"""What is drawn once and never trained: the Fourier features' frequencies and phases."""


def from_state_dict(sd: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """{"params": ..., "constants": ...} of nested dicts, in the state dict's own dtype.

    Raises: ValueError on a weight that is neither a matrix nor a convolution's.

    >>> sd = {"unet.out_gain": np.ones([]), "unet.emb_fourier.freqs": np.ones([4])}
    >>> from_state_dict(sd)["params"]
    {'out_gain': array(1.)}
    """
    params, constants = {}, {}
    for name, value in sd.items():
        path = tuple(name.removeprefix("unet.").split("."))
        if path[-1] in CONSTANTS:
            constants[path] = np.asarray(value)
        elif path[-1] == "weight":
            params[path] = _channels_last(name, np.asarray(value))
        else:
            params[path] = np.asarray(value)
    return {
        "params": traverse_util.unflatten_dict(params),
        "constants": traverse_util.unflatten_dict(constants),
    }


def to_state_dict(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The inverse of `from_state_dict`: tensors by name, as NumPy arrays."""
    sd = {}
    for collection in ("params", "constants"):
        for path, value in traverse_util.flatten_dict(dict(variables[collection])).items():
            prefix = "" if path[0].startswith("logvar_") else "unet."
            value = np.asarray(value)
            if path[-1] == "weight":
                value = value.transpose(_CHANNELS_FIRST[value.ndim])
            sd[prefix + ".".join(path)] = value
    return sd


_CHANNELS_FIRST = {2: (1, 0), 4: (3, 2, 0, 1)}
_CHANNELS_LAST = {2: (1, 0), 4: (2, 3, 1, 0)}


def _channels_last(name: str, value: np.ndarray) -> np.ndarray:
    if value.ndim not in _CHANNELS_LAST:
        raise ValueError(
            f"{name} has shape {value.shape}; a weight is [out, in] or [out, in, h, w]: "
            f"is this the state dict of an EDM2 network?"
        )
    return value.transpose(_CHANNELS_LAST[value.ndim])
