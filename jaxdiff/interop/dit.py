"""DiT's and SiT's published networks as `DiT`s, and their parameters as its variables.

Both share one architecture, with the same names and shapes, so the caller names the kind.
DiT predicts eps, and v in the second half of its channels. SiT predicts the velocity from
noise to data, x0 - eps, and does not use that half: it is dropped here, and the sign of the
last layer is flipped, so that the network predicts `Flow`'s eps - x0.
"""

from typing import Any, Literal

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
from jaxdiff.networks.dit import SIZES, DiT

Kind = Literal["dit", "sit"]
Shape = tuple[int, int, int]
"""Height, width and channels of what the network denoises."""

LAYERS = {
    "patch": "x_embedder.proj",
    "emb_noise": "t_embedder.mlp.0",
    "emb_hidden": "t_embedder.mlp.2",
    "emb_label": "y_embedder.embedding_table.weight",
    "positions": "pos_embed",
    "attn_qkv": "attn.qkv",
    "attn_proj": "attn.proj",
    "mlp_hidden": "mlp.fc1",
    "mlp_out": "mlp.fc2",
    "modulation": "adaLN_modulation.1",
    "out_modulation": "final_layer.adaLN_modulation.1",
    "out_linear": "final_layer.linear",
}
"""Our layers' names in the file; those of a block are under `blocks.N`."""
NAME: dict[str, str] = {"dit": "DiT", "sit": "SiT"}


def network(tensors: Tensors, kind: Kind, heads: int = 0) -> tuple[DiT, Shape]:
    """The network that a state dict belongs to, and the shape of its images.

    Files do not hold the number of heads: it is known for the published widths.

    Raises:
        ValueError: a tensor is missing or has another shape, or the number of heads is
            unknown.
    """
    model = NAME[kind]
    width, channels, patch, _ = shape_of(tensors, "x_embedder.proj.weight", 4, model)
    _, tokens, _ = shape_of(tensors, "pos_embed", 3, model)
    hidden, _ = shape_of(tensors, "blocks.0.mlp.fc1.weight", 2, model)
    outputs = _outputs(tensors, patch, model)
    if outputs not in (channels, 2 * channels):
        raise ValueError(
            f"not a {model}: {outputs} output channels for images of {channels}"
        )
    side = round(tokens**0.5)
    if side**2 != tokens:
        raise ValueError(f"not a {model}: {tokens} positions are not a square of patches")
    known = {size["width"]: size["heads"] for size in SIZES.values()}
    if not heads and width not in known:
        raise ValueError(
            f"a {model} of width {width} is not one of the published sizes, and no file "
            "has the number of heads: give it, as --heads=16"
        )
    net = DiT(
        label_dim=_classes(tensors, model),
        patch=patch,
        width=width,
        depth=numbered(tensors, "blocks"),
        heads=heads or known[width],
        mlp_ratio=hidden / width,
        learned_variance=kind == "dit" and outputs == 2 * channels,
    )
    return net, (side * patch, side * patch, channels)


def sources(net: DiT, shape: Shape, kind: Kind, outputs: int) -> dict[Path, Source]:
    """The source of every variable, in a file whose last layer has `outputs` channels."""
    return {path: _source(net, path, size, kind, outputs)
            for path, size in shapes(net, shape).items()}  # fmt: skip


def opened(
    tensors: Tensors, kind: Kind, heads: int = 0
) -> tuple[DiT, Shape, dict[str, Any]]:
    """The network, the shape of its images, and its variables, each read from the
    file when `np.asarray` is called on it.

    Raises:
        ValueError: the tensors are not those of such a network; one line.
    """
    net, shape = network(tensors, kind, heads)
    outputs = _outputs(tensors, net.patch, NAME[kind])
    made = sources(net, shape, kind, outputs)
    return net, shape, converted(made, tensors, NAME[kind])


def imported(
    tensors: Tensors, kind: Kind, heads: int = 0
) -> tuple[DiT, Shape, dict[str, Any]]:
    """The same as `opened`, with the variables read as float32 arrays.

    Raises:
        ValueError: as `opened`, or numbers that are not finite; one line.
    """
    net, shape, made = opened(tensors, kind, heads)
    return net, shape, jax.tree.map(np.asarray, made)


def _classes(tensors: Tensors, model: str) -> int:
    rows, _ = shape_of(tensors, LAYERS["emb_label"], 2, model)
    return rows - 1


def _outputs(tensors: Tensors, patch: int, model: str) -> int:
    """Channels of the last layer."""
    rows, _ = shape_of(tensors, "final_layer.linear.weight", 2, model)
    return rows // patch**2


def _source(
    net: DiT, path: Path, shape: tuple[int, ...], kind: Kind, outputs: int
) -> Source:
    *modules, leaf = path[1:]
    if not modules:
        if leaf == "positions":
            return Source(LAYERS[leaf], (1, *shape), lambda a: a[0])
        return Source(LAYERS[leaf], shape)
    name = ".".join(_module(module) for module in modules)
    if modules == ["patch"] and leaf == "kernel":
        inputs, width = shape
        cut = lambda a: a.transpose(2, 3, 1, 0).reshape(shape)
        side = (net.patch, net.patch)
        return Source(f"{name}.weight", (width, inputs // net.patch**2, *side), cut)
    source = layer(name, leaf, shape)
    if modules == ["out_linear"] and kind == "sit":
        return output(source, net.patch**2 * outputs, lambda a: _velocity(a, source, net))
    return source


def _velocity(a: np.ndarray, source: Source, net: DiT) -> np.ndarray:
    """The half of each pixel's channels that is used, with the sign of `Flow`."""
    rows, *rest = source.shape
    pixels = net.patch**2
    return -a.reshape(pixels, -1, *rest)[:, : rows // pixels].reshape(source.shape)


def _module(name: str) -> str:
    block = name.removeprefix("block")
    return f"blocks.{block}" if block.isdecimal() else LAYERS[name]
