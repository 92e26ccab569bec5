"""Published VAEs of latent diffusion as `AutoencoderKL`s, and their parameters.

A folder has config.json, and diffusion_pytorch_model.safetensors or .bin. Attention has one
of two sets of names, and weights [C, C] or [C, C, 1, 1].
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxdiff.interop import weights
from jaxdiff.interop.sources import Path, Source, Tensors, layer, shapes, variables
from jaxdiff.networks.autoencoder import AutoencoderKL
from jaxdiff.runtime import jsontext
from jaxdiff.runtime.files import PathLike, place

CONFIG = "config.json"
FILES = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
"""Names of weight files in a folder; the first that exists is read."""
CONFIG_BYTES = 2**20
FAMILY = "VAE"

FACTOR, SHIFT = 0.18215, 0.0
"""The scaling of latents in [LDM], the default if a config lacks it."""
NUMBERS = {
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
}
"""Integer fields of a config, and their defaults."""
SWITCHES = ("use_quant_conv", "use_post_quant_conv", "mid_block_add_attention")
"""Boolean fields of a config, true by default."""
ONLY = {
    "_class_name": "AutoencoderKL",
    "act_fn": "silu",
    "down_block_types": "DownEncoderBlock2D",
    "up_block_types": "UpDecoderBlock2D",
    "latents_mean": None,
    "latents_std": None,
}
"""The values that these fields may have, for a list each of its entries."""
IGNORED = ("_diffusers_version", "_name_or_path", "sample_size", "force_upcast")
"""Fields that have no effect here."""


@dataclass(frozen=True)
class Config:
    """A VAE, and the scaling of its latents: x0 = (latent - shift) factor."""

    network: AutoencoderKL
    factor: float = FACTOR
    shift: float = SHIFT


def config(settings: Mapping[str, Any]) -> Config:
    """The VAE that a config.json describes.

    Raises:
        ValueError: a field that this VAE does not have, or a value it does not support.
    """
    numbers = {k: settings.get(k, default) for k, default in NUMBERS.items()}
    channels = settings.get("block_out_channels", [128, 256, 512, 512])
    many = channels if type(channels) is list and 0 < len(channels) <= 10 else [None]
    for name, value in [*numbers.items(), *(("block_out_channels", c) for c in many)]:
        if type(value) is not int or not 0 < value < 2**16:
            raise ValueError(
                f"{name} must be whole numbers above 0, got {settings.get(name)!r}"
            )
    switches = {name: settings.get(name, True) for name in SWITCHES}
    for name, value in switches.items():
        if type(value) is not bool:
            raise ValueError(f"{name} must be true or false, got {value!r}")
    for name, value in settings.items():
        _require_known(name, value)
    if numbers["in_channels"] != numbers["out_channels"]:
        raise ValueError(f"in_channels and out_channels must be equal, got {numbers}")
    net = AutoencoderKL(
        channels=tuple(channels),
        num_blocks=numbers["layers_per_block"],
        latent_channels=numbers["latent_channels"],
        image_channels=numbers["in_channels"],
        groups=numbers["norm_num_groups"],
        attention=switches["mid_block_add_attention"],
        quant_conv=switches["use_quant_conv"],
        post_quant_conv=switches["use_post_quant_conv"],
    )
    factor = _real(settings, "scaling_factor", FACTOR)
    if not factor > 0:
        raise ValueError(f"scaling_factor must be above 0, got {factor}")
    return Config(net, factor, _real(settings, "shift_factor", SHIFT))


def sources(net: AutoencoderKL) -> dict[Path, Source]:
    """The source of every variable."""
    side = 2 * net.factor
    sizes = shapes(net, (side, side, net.image_channels))
    return {path: _source(net, path, shape) for path, shape in sizes.items()}


def imported(tensors: Tensors, net: AutoencoderKL) -> dict[str, Any]:
    """The variables of a VAE in float32.

    Raises:
        ValueError: the tensors are not those of this VAE; one line.
    """
    return variables(sources(net), tensors, FAMILY)


def read(folder: PathLike) -> tuple[Config, dict[str, Any]]:
    """The VAE in a folder, and its variables in float32. Nothing in it is run.

    Raises:
        FileNotFoundError: the folder lacks a file.
        ValueError: a file is invalid; one line with its path.
    """
    folder = place(folder)
    path = folder / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}: name a folder with {CONFIG}")
    try:
        described = config(_json(path))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    path = next((folder / name for name in FILES if (folder / name).is_file()), None)
    if path is None:
        raise FileNotFoundError(f"{folder} has no weights: it needs {' or '.join(FILES)}")
    try:
        return described, imported(weights.read(path).tensors, described.network)
    except ValueError as error:
        text = str(error)
        named = text if text.startswith(str(path)) else f"{path}: {text}"
        raise ValueError(named) from error


MIDDLE = {
    "mid_block0": "mid_block.resnets.0",
    "mid_block1": "mid_block.resnets.1",
    "mid_attention": "mid_block.attentions.0",
}
LAYERS = {
    "conv_in": "conv_in",
    "conv_out": "conv_out",
    "norm_out": "conv_norm_out",
    "norm1": "norm1",
    "norm2": "norm2",
    "conv1": "conv1",
    "conv2": "conv2",
    "conv_skip": "conv_shortcut",
}
ATTENTION = {
    "norm": ("group_norm",),
    "q": ("to_q", "query"),
    "k": ("to_k", "key"),
    "v": ("to_v", "value"),
    "out": ("to_out.0", "proj_attn"),
}
"""Names of the attention layers in files, newest first."""


def _source(net: AutoencoderKL, path: Path, shape: tuple[int, ...]) -> Source:
    *modules, leaf = path[1:]
    if modules[0] in ("quant", "post_quant"):
        return layer(f"{modules[0]}_conv", leaf, shape)
    way, module = modules[0], modules[1]
    if len(modules) == 2 and module in LAYERS:
        return layer(f"{way}.{LAYERS[module]}", leaf, shape)
    if module == "mid_attention":
        name, *older = (f"{way}.{MIDDLE[module]}.{n}" for n in ATTENTION[modules[2]])
        names = tuple(layer(n, leaf, shape).name for n in older)
        return layer(name, leaf, shape, older=names, flat=leaf == "kernel")
    place = MIDDLE.get(module) or _place(net, way, module)
    inner = f".{LAYERS[modules[2]]}" if len(modules) == 3 else ""
    return layer(f"{way}.{place}{inner}", leaf, shape)


def _place(net: AutoencoderKL, way: str, module: str) -> str:
    """The file's name of a level's block or resampling; the decoder's run in its order."""
    level, _, part = module.removeprefix("level").partition("_")
    if way == "decoder":
        level = str(len(net.channels) - 1 - int(level))
    blocks = "down_blocks" if way == "encoder" else "up_blocks"
    resampling = {"down": "downsamplers.0.conv", "up": "upsamplers.0.conv"}
    inner = resampling.get(part) or f"resnets.{part.removeprefix('block')}"
    return f"{blocks}.{level}.{inner}"


def _json(path: Any) -> dict[str, Any]:
    if path.stat().st_size > CONFIG_BYTES:
        raise ValueError(f"{path.stat().st_size:,} bytes are more than any config has")
    return jsontext.loads(path.read_bytes(), "it")


def _require_known(name: str, value: Any) -> None:
    values = value if type(value) is list else [value]
    if name in ONLY:
        if any(v != ONLY[name] for v in values):
            raise ValueError(f"{name} must be {ONLY[name]!r}, got {value!r}"[:200])
    elif name not in (*NUMBERS, *SWITCHES, *IGNORED, "block_out_channels",
                      "scaling_factor", "shift_factor"):  # fmt: skip
        raise ValueError(f"it has a field {name[:80]!r}, which this VAE does not have")


def _real(settings: Mapping[str, Any], name: str, default: float) -> float:
    value = settings.get(name)
    value = default if value is None else value
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError(f"{name} must be a number, got {value!r}")
    return float(value)
