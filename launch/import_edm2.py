"""Makes a published EDM2 model one of jaxdiff's: a snapshot that samples and evaluates.

    python launch/import_edm2.py edm2-img512-s-2147483-0.130.pkl runs/edm2-s
    python launch/sample.py --workdir=runs/edm2-s/snapshots/1048576-0.13.npz

The pickle is read as data: the source code in it is not run, nothing that it names is
imported, and torch is not needed. OUT/snapshots/ gets the averaged network with its
experiment, EMA length and image count; several snapshots of one training may share an
OUT, and other EMA lengths can then be reconstructed from them. The file's name says the
EMA length and the image count; where it does not, say --std and --images.
"""

import dataclasses
import itertools
import sys
from pathlib import Path

import command
from absl import flags

from jaxdiff import data
from jaxdiff.config import Experiment, Images, Sampling, edm2_presets
from jaxdiff.denoisers.parameterizations import EDM
from jaxdiff.interop import edm2_snapshot, edm2_weights
from jaxdiff.interop.edm2_snapshot import Published
from jaxdiff.objectives.losses import Uncertain, WeightedError
from jaxdiff.objectives.timesteps import NormalLogSigma
from jaxdiff.objectives.weightings import UniformOnNetwork
from jaxdiff.optim import EDM2Optimizer
from jaxdiff.optim.ema_profiles import std_to_exponent
from jaxdiff.runs import snapshots
from jaxdiff.runs.run_folder import describe
from jaxdiff.runs.snapshots import Snapshot
from jaxdiff.runtime.files import place
from jaxdiff.schedules import LogSigma

PICKLE = flags.DEFINE_string("pickle", "", "The published file; or the first argument.")
OUT = flags.DEFINE_string("out", "", "The folder to write to; or the second argument.")
STD = flags.DEFINE_float("std", None, "EMA length, where the file's name has none.")
IMAGES = flags.DEFINE_integer("images", None, "Images seen, where the name has none.", 1)
DATA = flags.DEFINE_string("data", "", "Where the images or latents are, to train on.")
DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16", "float16"],
    "What the network computes in from now on.")  # fmt: skip

MOST = 2**40
"""More images than any training has seen."""


def main() -> None:
    """Reads, checks, writes."""
    if not PICKLE.value or not OUT.value:
        raise ValueError(
            "name the published file and the folder to write to, such as "
            "edm2-img512-s-2147483-0.130.pkl runs/edm2-s"
        )
    pickle = place(PICKLE.value)
    model = edm2_snapshot.read(pickle)
    model = dataclasses.replace(
        model,
        std=model.std if STD.value is None else STD.value,
        images=model.images if IMAGES.value is None else IMAGES.value,
    )
    if model.std is None or model.images is None:
        raise ValueError(
            f"the name {pickle.name} does not say how long the network was trained and "
            "averaged: add --images=2147483648 --std=0.130, as they are"
        )
    std_to_exponent(model.std)  # refuses what is no width
    if not edm2_presets.BATCH <= model.images <= MOST:
        raise ValueError(
            f"images = {model.images} is not in [{edm2_presets.BATCH}, {MOST}], one "
            "batch to 2^40: say how many images were seen, such as --images=2147483648"
        )
    path = save(model, place(OUT.value))
    count = sum(a.size for a in model.state_dict.values())
    print(
        f"{count:,} numbers, EMA length {model.std:g}, {model.images:,} images: {path}\n"
        f"python launch/sample.py --workdir={path} --out={OUT.value}/generated"
    )


def save(model: Published, out: Path) -> Path:
    """Writes a published model as the snapshot of a run in the folder `out`."""
    run = experiment(model)
    narrow = all(a.dtype.name == "float16" for a in model.state_dict.values())
    step = max(model.images // run.batch_size, 1)
    snapshot = Snapshot(run, edm2_weights.variables(model), model.std, step, model.images)
    dtype = "float16" if narrow else "float32"  # no digit of the file is lost
    folder = out / snapshots.TRACKED
    command.writes(OUT, snapshots.path_of(folder, snapshot))
    path = snapshots.write(folder, snapshot, dtype)
    describe(out, run)
    return path


def experiment(model: Published) -> Experiment:
    """The training that made a published model, as far as its file and [EDM2] say."""
    edm, side = EDM(sigma_data=model.sigma_data), model.shape[0]
    family = {"StabilityVAEEncoder": "img512-", "StandardRGBEncoder": "img64-"}
    network = edm2_weights.network(model).clone(dtype=DTYPE.value)
    known = [
        preset
        for name, preset in edm2_presets.TRAINING.items()
        if name.startswith(family.get(model.encoder, "?"))
        and (side, preset.model_channels) == (64, network.model_channels)
    ]
    optimizer = EDM2Optimizer(stds=(0.05, 0.10))
    for preset in known:
        rates = {n: getattr(preset, n) for n in ("learning_rate", "ref_batches")}
        optimizer = dataclasses.replace(optimizer, **rates)
    return Experiment(
        data=_data(model),
        network=network,
        schedule=LogSigma(),
        times=NormalLogSigma(
            float(model.loss.get("P_mean", -0.4)), float(model.loss.get("P_std", 1.0))
        ),
        parameterization=edm,
        loss=Uncertain(WeightedError(UniformOnNetwork(edm))),
        optimizer=optimizer,
        sampling=Sampling(steps=32, std=0.10, images=64),
        batch_size=edm2_presets.BATCH,
        steps=max(model.images // edm2_presets.BATCH, 1),
    )


def _data(model: Published) -> Images:
    """What the model was trained on, by its encoder and its shape."""
    side, channels = model.shape[1:]
    if (model.encoder, channels) == ("StabilityVAEEncoder", 4):
        return data.Latents(DATA.value or "imagenet512.npz", side)
    if (model.encoder, channels) == ("StandardRGBEncoder", 3):
        return data.Folder(DATA.value or "imagenet64", side)
    raise ValueError(
        f"the model has {channels} channels and the encoder {model.encoder!r}: jaxdiff has "
        "data for StandardRGBEncoder with 3 and StabilityVAEEncoder with 4"
    )


def named(argv: list[str]) -> list[str]:
    """The command line with --pickle= and --out= before its first two bare arguments."""
    names, found = iter(("--pickle=", "--out=")), argv[:1]
    for before, argument in itertools.pairwise(argv):
        value = before.startswith("--") and "=" not in before
        bare = not argument.startswith("-") and not value
        found.append(next(names, "") + argument if bare else argument)
    return found


if __name__ == "__main__":
    sys.argv = named(sys.argv)
    command.run(main)
