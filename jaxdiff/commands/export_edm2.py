"""Exports a network as NPZ, with the names and layout of the EDM2 code.

    jaxdiff export_edm2 --workdir=runs/mine --std=0.05 --out=mine.npz

The NPZ holds one array for each tensor of a state dict, `unet.enc.64x64_conv.weight` and
so on: convolutions [out, in, h, w], linear layers [out, in], float32. In torch, pass
{name: torch.from_numpy(array)} to load_state_dict. --workdir may also be the file of a
snapshot, runs/edm2-s/snapshots/1048576-0.13.npz.
"""

from collections.abc import Mapping

import numpy as np
from absl import flags

from jaxdiff.commands import command
from jaxdiff.interop.edm2_weights import to_state_dict
from jaxdiff.networks import UNet
from jaxdiff.runs import restoring
from jaxdiff.runtime.files import place, write_atomically

WORKDIR = flags.DEFINE_string("workdir", None, "A run's folder, or one snapshot's file.")
OUT = flags.DEFINE_string("out", "", "The NPZ to write.")
STD = flags.DEFINE_float("std", None, "EMA length; by default the one the run samples.")
STEP = flags.DEFINE_integer("checkpoint", None, "Another step than the newest.", 0)
flags.mark_flags_as_required(["workdir"])

CONFIG_G: Mapping[str, bool] = {
    "fixed_magnitudes": True,
    "weight_norm": True,
    "group_norm": False,
    "uncertainty": True,
    "learned_variance": False,
}
"""The fields of UNet that are fixed in the published networks."""


def main() -> None:
    """Restores, renames, writes."""
    if not OUT.value:
        raise ValueError("--out is empty: name a file, such as --out=network.npz")
    run = restoring.restore(command.folder(WORKDIR), STD.value, STEP.value)
    network = run.experiment.network
    if not isinstance(network, UNet):
        raise ValueError(
            f"the run's network is a {type(network).__name__}; only a UNet has the names "
            "of EDM2's published networks"
        )
    for name, needed in CONFIG_G.items():
        if (own := getattr(network, name)) != needed:
            raise ValueError(
                f"the run's network has {name} = {own}; EDM2's published networks are of "
                f"config G, with {name} = {needed}"
            )
    tensors = to_state_dict(run.variables)
    path = place(OUT.value)
    path = path if path.suffix == ".npz" else path.with_name(f"{path.name}.npz")
    command.writes(OUT, path)
    write_atomically(path, lambda file: np.savez(file, **tensors))
    count = sum(a.size for a in tensors.values())
    print(f"{len(tensors)} tensors, {count:,} numbers, of step {run.step}: {path}")
