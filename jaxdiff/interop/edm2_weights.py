"""EDM2's published networks as `UNet`s, and their parameters as its variables.

A state dict names each tensor by its path, `unet.enc.8x8_block0.conv_res0.weight`; the
same path without `unet.` leads to it in UNet's variables. Weights change layout:

    convolution [out, in, h, w] <-> [h, w, in, out],      linear [out, in] <-> [in, out].
"""

import dataclasses
import reprlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jaxtyping import PyTree

from jaxdiff.interop.edm2_snapshot import Published
from jaxdiff.networks.edm2_unet import UNet
from jaxdiff.types import Condition

CONSTANTS = ("freqs", "phases")
"""The Fourier features' frequencies and phases, drawn once and never trained."""


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


def network(published: Published) -> UNet:
    """A published network as a `UNet`, which computes in float32.

    Raises:
        ValueError: a setting that `UNet` does not have, or a value that it rejects.
    """
    fields = {f.name: f.default for f in dataclasses.fields(UNet)}
    settings = {k: v for k, v in published.settings.items() if k not in NOT_THE_NETWORKS}
    for name in sorted(settings.keys() - set(NETWORKS)):
        raise ValueError(f"the network has a setting {name[:80]!r}, which EDM2's has not")
    return UNet(**{k: _as(fields[k], k, v) for k, v in settings.items()})


def variables(published: Published) -> dict[str, PyTree]:
    """{"params", "constants"} of `network(published)`, float32.

    Raises:
        ValueError: the tensors do not fit that network; names the first that differs.
    """
    net, x = network(published), jax.ShapeDtypeStruct((1, *published.shape), np.float32)
    _require_layers(net, published)
    expected = jax.eval_shape(net.init, jax.random.key(0), x, jnp.zeros(()), Condition())
    converted = from_state_dict(published.state_dict)
    there, here = (_shapes(tree) for tree in (converted, expected))
    for path in sorted(there.keys() | here.keys()):
        if there.get(path) != here.get(path):
            shape, wanted = there.get(path, "none"), here.get(path, "none")
            raise ValueError(
                f"{'.'.join(path[1:])} has shape {shape} in the file, and {wanted} in the "
                "network of the file's settings"
            )
    return jax.tree.map(lambda a: np.asarray(a, np.float32), converted)


NETWORKS = (
    *("label_dim", "model_channels", "channel_mult", "channel_mult_noise"),
    *("channel_mult_emb", "num_blocks", "attn_resolutions", "channels_per_head"),
    *("label_balance", "concat_balance", "res_balance", "attn_balance", "dropout"),
    *("clip_act", "resample_filter", "logvar_channels"),
)
"""Settings that `UNet` has under the same names."""
NOT_THE_NETWORKS = ("img_resolution", "img_channels", "sigma_data", "use_fp16")
"""Settings of the data or the denoiser."""


def _as(default: Any, name: str, value: Any) -> Any:
    """A setting in the type of UNet's field; None, "not at all", becomes 0.

    Raises:
        ValueError: another type, or an implausible size.
    """
    numbers = list(value) if type(value) in (list, tuple) else [value]
    if value is None and name in ("channel_mult_noise", "channel_mult_emb", "clip_act"):
        return type(default)(0)
    fits = all(type(n) in (int, float) and 0 <= n < 2**16 for n in numbers)
    many = len(numbers) > 16 or (name == "num_blocks" and fits and value > 64)
    fits = fits and (name != "resample_filter" or any(numbers))
    if many or not fits or isinstance(default, tuple) != isinstance(value, list | tuple):
        raise ValueError(f"UNet cannot take the setting {name} = {reprlib.repr(value)}")
    if type(default) is tuple:
        return tuple(map(type(default[0]), numbers))
    return type(default)(value)


def _require_layers(net: UNet, published: Published) -> None:
    """Rejects settings with too many layers, or another number than the file has.

    Raises:
        ValueError: the numbers of layers, before any is built.
    """
    levels = len(net.channel_mult)
    layers = {tuple(name.split(".")[1:3]) for name in published.state_dict}
    stored = sum(layer[0] in ("enc", "dec") for layer in layers)
    wanted = 2 * levels * net.num_blocks + 3 * levels + 1
    if stored != wanted or wanted > LAYERS:
        raise ValueError(
            f"enc and dec have {stored} layers in the file, and {wanted} in a network of "
            f"{levels} levels and num_blocks = {net.num_blocks}, of at most {LAYERS}"
        )


LAYERS = 200
"""Maximal number of layers; EDM2's networks have 37."""


def _shapes(tree: PyTree) -> dict[tuple[str, ...], tuple[int, ...]]:
    flat = traverse_util.flatten_dict(tree)
    return {path: tuple(np.shape(leaf)) for path, leaf in flat.items()}


_CHANNELS_FIRST = {2: (1, 0), 4: (3, 2, 0, 1)}
_CHANNELS_LAST = {2: (1, 0), 4: (2, 3, 1, 0)}


def _channels_last(name: str, value: np.ndarray) -> np.ndarray:
    if value.ndim not in _CHANNELS_LAST:
        raise ValueError(
            f"{name} has shape {value.shape}; a weight is [out, in] or [out, in, h, w]: "
            f"is this the state dict of an EDM2 network?"
        )
    return value.transpose(_CHANNELS_LAST[value.ndim])
