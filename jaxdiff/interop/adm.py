"""ADM's and Improved DDPM's published networks as `ADM`s, and their parameters.

Their files number the blocks of the encoder, the middle and the decoder: input_blocks.N.M,
middle_block.M, output_blocks.N.M. Files do not hold the image resolution, the number of
heads, or the order of the qkv channels; these are known for the published networks. With
`heads_first` the order is (head, q k v, channel), as in Improved DDPM and most of ADM;
otherwise it is (q k v, head, channel), as in our network.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import jax
import numpy as np

from jaxdiff.interop.sources import (
    Path,
    Source,
    Tensors,
    converted,
    layer,
    numbered,
    output,
    shape_of,
    shapes,
)
from jaxdiff.networks.adm import ADM


@dataclass(frozen=True)
class Settings:
    """Settings that a network's file does not hold."""

    side: int
    """Height and width of images, in pixels."""
    heads: int = 0
    """The number of heads; 0 = channels / channels_per_head."""
    channels_per_head: int = 64
    heads_first: bool = True


@dataclass(frozen=True)
class Known:
    """A published network, and the settings that its file does not hold."""

    settings: Settings
    network: ADM


def _adm(side: int, **fields: Any) -> ADM:
    shared = {"uncertainty": False, "learned_variance": True, "channel_mult_emb": 4}
    attention = tuple(r for r in (32, 16, 8) if r <= side)
    return ADM(**{**shared, "attn_resolutions": attention, **fields})


def _iddpm(**fields: Any) -> ADM:
    shared = {"model_channels": 128, "num_blocks": 3, "heads": 4, "resample_blocks": False}
    return _adm(side=64, attn_resolutions=(16, 8), **shared, **fields)


_WIDE = {"model_channels": 256, "num_blocks": 2}
_256 = {**_WIDE, "channel_mult": (1, 1, 2, 2, 4, 4)}
_512 = {"model_channels": 128, "num_blocks": 2, "channel_mult": (1, 2, 2, 4, 4, 8, 8),
        "channel_mult_noise": 2, "channel_mult_emb": 8}  # fmt: skip

PUBLISHED: Mapping[str, Known] = MappingProxyType(
    {
        "iddpm-cifar10": Known(Settings(32, 4), _iddpm(channel_mult=(1, 2, 2, 2))),
        "iddpm-64": Known(Settings(64, 4), _iddpm(channel_mult=(1, 2, 3, 4))),
        "adm-64": Known(
            Settings(64, heads_first=False),
            _adm(64, label_dim=1000, model_channels=192, num_blocks=3),
        ),
        "adm-128": Known(
            Settings(128, 4),
            _adm(128, label_dim=1000, heads=4, channel_mult=(1, 1, 2, 3, 4), **_WIDE),
        ),
        "adm-256": Known(Settings(256), _adm(256, label_dim=1000, **_256)),
        "adm-256-uncond": Known(Settings(256), _adm(256, **_256)),
        "adm-512": Known(Settings(512), _adm(512, label_dim=1000, **_512)),
    }
)
"""The published networks, by our names for them."""

TOP = {
    "emb_noise": "time_embed.0",
    "emb_hidden": "time_embed.2",
    "emb_label": "label_emb.weight",
    "out_norm": "out.0",
    "out_conv": "out.2",
    "variance_conv": "out.2",
}
RESIDUAL = {
    "norm_res0": "in_layers.0",
    "conv_res0": "in_layers.2",
    "emb_linear": "emb_layers.1",
    "norm_res1": "out_layers.0",
    "conv_res1": "out_layers.3",
    "conv_skip": "skip_connection",
}
ATTENTION = {"attn_norm": "norm", "attn_qkv": "qkv", "attn_proj": "proj_out"}
FAMILY = "network of ADM or Improved DDPM"


def network(tensors: Tensors, settings: Settings) -> ADM:
    """The network that a state dict belongs to.

    Raises:
        ValueError: names or shapes of another network, or settings that do not fit them.
    """
    first, channels, *_ = shape_of(tensors, "input_blocks.0.0.weight", 4, FAMILY)
    emb, noise = shape_of(tensors, "time_embed.0.weight", 2, FAMILY)
    outputs, *_ = shape_of(tensors, "out.2.weight", 4, FAMILY)
    if channels == 6:
        raise ValueError(
            "a super-resolution network of ADM, which sees a small image beside x (6 input "
            "channels): jaxdiff has no such network"
        )
    if outputs not in (channels, 2 * channels):
        raise ValueError(
            f"not a {FAMILY}: {outputs} output channels for images of {channels}"
        )
    blocks = _blocks_a_level(tensors)
    starts = range(1, numbered(tensors, "input_blocks"), blocks + 1)
    widths = [shape_of(tensors, f"input_blocks.{i}.0.in_layers.2.weight", 4, FAMILY)[0]
              for i in starts]  # fmt: skip
    step, side = 2 ** (len(widths) - 1), settings.side
    if side < step or side % step:
        raise ValueError(f"images of {side} pixels do not halve {len(widths) - 1} times")
    attends = [f"input_blocks.{i}.1.qkv.weight" in tensors for i in starts]
    resolutions = [side >> level for level, on in enumerate(attends) if on]
    unit = math.gcd(first, emb, noise, *widths)
    scaled, _ = shape_of(tensors, "input_blocks.1.0.emb_layers.1.weight", 2, FAMILY)
    return ADM(
        label_dim=_classes(tensors),
        model_channels=unit,
        channel_mult=tuple(width // unit for width in widths),
        num_blocks=blocks,
        attn_resolutions=tuple(resolutions),
        channels_per_head=settings.channels_per_head,
        channel_mult_noise=noise // unit,
        channel_mult_emb=emb // unit,
        heads=settings.heads,
        scale_shift=scaled == 2 * widths[0],
        resample_blocks=not any(".op." in name for name in tensors),
        uncertainty=False,
        learned_variance=outputs == 2 * channels,
    )


def recognised(tensors: Tensors) -> str | None:
    """The name of the published network that a state dict belongs to; None if of another.

    Raises:
        ValueError: the tensors are not those of any ADM.
    """
    for name, known in PUBLISHED.items():
        try:
            net = network(tensors, known.settings)
        except ValueError as error:
            if "do not halve" in str(error):
                continue
            raise
        if net == known.network:
            return name
    return None


def sources(net: ADM, side: int, channels: int, heads_first: bool) -> dict[Path, Source]:
    """The source of every variable of a network of images [side, side, channels]."""
    places = dict(_places(net, side))
    outputs = (1 + net.learned_variance) * channels

    def source(path: Path, shape: tuple[int, ...]) -> Source:
        *modules, leaf = path[1:]
        if not modules:
            return Source(TOP[leaf], shape)
        if modules[0] in TOP:
            made = layer(TOP[modules[0]], leaf, shape)
            if "_conv" not in modules[0]:
                return made
            last = (
                slice(channels, None) if modules[0] == "variance_conv" else slice(channels)
            )
            return output(made, outputs, lambda a: a[last])
        prefix, attention = places[".".join(modules[:2])]
        if len(modules) == 2:  # the first convolution
            return layer(prefix, leaf, shape)
        if modules[2] == "conv":
            return layer(
                f"{prefix}.{'op' if '_down' in modules[1] else 'conv'}", leaf, shape
            )
        if modules[2] in RESIDUAL:
            return layer(f"{prefix}.{RESIDUAL[modules[2]]}", leaf, shape)
        made = _one_dimensional(f"{attention}.{ATTENTION[modules[2]]}", leaf, shape)
        if modules[2] == "attn_qkv" and heads_first:
            heads = net.heads or shape[-1] // 3 // net.channels_per_head
            return output(made, shape[-1], lambda a: _qkv_first(a, heads))
        return made

    return {path: source(path, shape)
            for path, shape in shapes(net, (side, side, channels)).items()}  # fmt: skip


def opened(
    tensors: Tensors, settings: Settings
) -> tuple[ADM, tuple[int, int, int], dict[str, Any]]:
    """The network, the shape of its images, and its variables, each read from the
    file when `np.asarray` is called on it.

    Raises:
        ValueError: the tensors are not those of such a network; one line.
    """
    net = network(tensors, settings)
    channels = tensors["input_blocks.0.0.weight"].shape[1]
    made = sources(net, settings.side, channels, settings.heads_first)
    shape = (settings.side, settings.side, channels)
    return net, shape, converted(made, tensors, FAMILY)


def imported(
    tensors: Tensors, settings: Settings
) -> tuple[ADM, tuple[int, int, int], dict[str, Any]]:
    """The same as `opened`, with the variables read as float32 arrays.

    Raises:
        ValueError: as `opened`, or numbers that are not finite; one line.
    """
    net, shape, made = opened(tensors, settings)
    return net, shape, jax.tree.map(np.asarray, made)


def _places(net: ADM, side: int) -> Iterator[tuple[str, tuple[str, str]]]:
    """Our blocks' names, and the names of their residual and attention parts in a file."""
    levels, blocks = len(net.channel_mult), net.num_blocks
    count = 0
    for level in range(levels):
        r = side >> level
        names = [f"{r}x{r}_down" if level else f"{r}x{r}_conv"]
        for name in names + [f"{r}x{r}_block{i}" for i in range(blocks)]:
            yield f"enc.{name}", (f"input_blocks.{count}.0", f"input_blocks.{count}.1")
            count += 1
    r, count = side >> (levels - 1), 0
    yield f"dec.{r}x{r}_in0", ("middle_block.0", "middle_block.1")
    yield f"dec.{r}x{r}_in1", ("middle_block.2", "")
    for level in reversed(range(levels)):
        r = side >> level
        for i in range(blocks + 1):
            part = f"output_blocks.{count}"
            yield f"dec.{r}x{r}_block{i}", (f"{part}.0", f"{part}.1")
            count += 1
        if level:  # the upsampling is part of the level's last block
            place = f"output_blocks.{count - 1}.{1 + (r in net.attn_resolutions)}"
            yield f"dec.{2 * r}x{2 * r}_up", (place, "")


def _blocks_a_level(tensors: Tensors) -> int:
    """num_blocks, from the first decoder block with an upsampling, which ends a level.

    Raises:
        ValueError: the blocks do not make whole levels.
    """
    down, up = (numbered(tensors, f"{way}_blocks") for way in ("input", "output"))
    doubles = (
        i for i in range(up) for m in (1, 2)
        if f"output_blocks.{i}.{m}.conv.weight" in tensors
        or f"output_blocks.{i}.{m}.in_layers.0.weight" in tensors
    )  # fmt: skip
    level = next(doubles, up - 1) + 1
    if down != up or level < 2 or down % level:
        raise ValueError(
            f"not a {FAMILY}: {down} blocks on the way down and {up} up, {level} a level"
        )
    return level - 1


def _classes(tensors: Tensors) -> int:
    if "label_emb.weight" not in tensors:
        return 0
    return shape_of(tensors, "label_emb.weight", 2, FAMILY)[0]


def _one_dimensional(name: str, leaf: str, shape: tuple[int, ...]) -> Source:
    """The source of a layer that the file stores as a 1-D convolution, [out, in, 1]."""
    if leaf != "kernel":
        return layer(name, leaf, shape)
    inputs, outputs = shape[-2:]
    convert = lambda a: a.reshape(outputs, inputs).T.reshape(shape)
    return Source(f"{name}.weight", (outputs, inputs, 1), convert, flat=True)


def _qkv_first(a: np.ndarray, heads: int) -> np.ndarray:
    """Reorders channels (head, q k v, c) to (q k v, head, c)."""
    return a.reshape(heads, 3, -1, *a.shape[1:]).swapaxes(0, 1).reshape(a.shape)
