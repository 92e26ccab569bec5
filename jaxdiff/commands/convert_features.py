"""Converts the published weights of a feature extractor.

    jaxdiff convert_features --network=inception --out=weights \\
        --source=pt_inception-2015-12-05-6726825d.pth
    jaxdiff convert_features --network=dinov2_vitl14 --out=weights \\
        --source=dinov2_vitl14_pretrain.pth

The first is pytorch-fid's InceptionV3, the second a network from torch.hub, without
registers; you have to download both. Any file written by torch works: a state dict, alone
or inside a checkpoint (.pth, .pt, zip or legacy), or a TorchScript module. It is read as
data: nothing in it is run, and torch is not needed. It must have every tensor with its name
and shape, and no others. OUT is the new file, or a folder where it is called NETWORK.npz;
set JAXDIFF_WEIGHTS=OUT for the extractors.
"""

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
from absl import flags

from jaxdiff.commands import command
from jaxdiff.evaluation.extractors import dinov2, inception, weights
from jaxdiff.evaluation.extractors.weights import Shapes, Weights
from jaxdiff.interop import tensors
from jaxdiff.runtime.files import place

NETWORKS: Mapping[str, Callable[[], Shapes]] = {
    "inception": inception.shapes,
    **{name: partial(dinov2.shapes, net) for name, net in dinov2.NETWORKS.items()},
}
"""The networks that need weight files, and the names and shapes of their tensors."""

SOURCE = flags.DEFINE_string("source", "", "The published file.")
NETWORK = flags.DEFINE_enum("network", None, list(NETWORKS), "Whose weights it has.")
OUT = flags.DEFINE_string("out", "weights", "The folder, or the .npz, to write to.")


def main() -> None:
    """Reads, checks, writes."""
    if not SOURCE.value or not NETWORK.value:
        raise ValueError(
            "name the published file and the network, such as --network=inception "
            "--source=pt_inception-2015-12-05-6726825d.pth; --help says more"
        )
    out = command.folder(OUT)
    path = out if out.suffix == ".npz" else out / f"{NETWORK.value}.npz"
    command.writes(OUT, path)
    converted = convert(place(SOURCE.value), NETWORK.value, NETWORKS[NETWORK.value]())
    weights.save(path, converted)
    count = sum(a.size for a in converted.tensors.values())
    print(
        f"{converted.network}: {len(converted.tensors)} tensors, {count:,} numbers\n"
        f"sha256 {converted.sha256}  {SOURCE.value}\n"
        f"sha256 {weights.sha256(path)}  {path}\n"
        f"export JAXDIFF_WEIGHTS={path.parent}"
    )


def convert(source: Path, network: str, shapes: Shapes) -> Weights:
    """The weights of a network from a torch file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read, is not the file of its name, or holds other tensors.
    """
    stored = tensors.read(source)
    digest = weights.sha256(source)
    stated = re.search(r"-([0-9a-f]{8})$", source.stem)
    if stated and not digest.startswith(stated[1]):
        raise ValueError(
            f"{source} is damaged: its name says that its SHA-256 begins {stated[1]}, it "
            f"begins {digest[:8]}; download it again"
        )
    try:
        stored = own(stored, network, shapes)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    return Weights(network, stored, source.name, digest)


def own(
    stored: Mapping[str, np.ndarray], network: str, shapes: Shapes
) -> dict[str, np.ndarray]:
    """A network's tensors among all those of a file, wherever its state dict is.

    Batch counts may be missing, as in state dicts from before torch counted batches.

    Raises:
        ValueError: tensors that are missing, extra or of another shape; or two networks.
    """
    first = next(iter(shapes))
    inner = [n.removesuffix(first) for n in stored if n.endswith(f".{first}")]
    if len(inner) > 1 and first not in stored:
        raise ValueError(f"it has several networks: {', '.join(p[:40] for p in inner)}")
    prefix = "" if first in stored else "".join(inner)
    inside = {n.removeprefix(prefix): a for n, a in stored.items() if n.startswith(prefix)}
    counts = [n for n in shapes if n.endswith(".num_batches_tracked")]
    inside = {**dict.fromkeys(counts, np.zeros((), np.int64)), **inside}
    weights.require(network, {name: a.shape for name, a in inside.items()}, shapes)
    return {name: inside[name] for name in shapes}
