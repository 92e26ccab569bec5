"""Imports a published model as a run: a folder that `restore` reads.

OUT gets the averaged network as a snapshot with its experiment, config.json, and
LICENCE.txt, the licence of the weights.
"""

import math
from dataclasses import dataclass

from jaxdiff import networks
from jaxdiff.config import Experiment, differences, edm2_presets, published
from jaxdiff.interop import published as files
from jaxdiff.interop.published import Choices, Model
from jaxdiff.optim.ema_profiles import WIDEST, std_to_exponent
from jaxdiff.runs import snapshots
from jaxdiff.runs.run_folder import describe
from jaxdiff.runs.snapshots import Snapshot
from jaxdiff.runtime.files import PathLike, Place, place, write_atomically

MOST = 2**40
"""Upper bound on the images seen in training."""
LICENCE = "LICENCE.txt"


@dataclass(frozen=True, eq=False)
class Import:
    """A model that was read, and the snapshot to write from it."""

    model: Model
    snapshot: Snapshot
    path: Place
    """Where the snapshot is written."""
    licence: str
    """The licence of the family's published weights."""

    @property
    def lines(self) -> list[str]:
        """Lines for the user: what the file is, and what is written."""
        s, net = self.snapshot, self.model.network
        sizes = networks.shapes(net, self.model.shape).values()
        count = sum(map(math.prod, sizes))
        kind = "length" if s.std < WIDEST else "decay"
        seen = f"{s.images:,} images" if s.images else "images seen unknown"
        size = " x ".join(map(str, self.model.shape))
        classes = f"{net.label_dim} classes" if net.label_dim else "no classes"
        return [
            *self.model.lines,
            f"{self.model.name or self.model.family}: {size}, {classes}",
            f"licence of the published weights: {self.licence}",
            f"{count:,} numbers, EMA {kind} {s.std:g}, {seen}: {self.path}",
        ]

    def write(self) -> Place:
        """Writes the run's folder, and returns the snapshot's path.

        Raises:
            ValueError: the network contains NaN or infinity; nothing is written.
        """
        out = self.path.parent.parent
        path = snapshots.write(self.path.parent, self.snapshot, self.model.dtype)
        describe(out, self.snapshot.experiment)
        text = f"The weights in this folder: {self.licence}\n"
        write_atomically(out / LICENCE, lambda file: file.write(text.encode()))
        return path


def load(
    file: PathLike,
    out: PathLike,
    name: str = "",
    choices: Choices = Choices(),
    data: str = "",
    dtype: str = "float32",
    vae: str = "",
) -> Import:
    """The model in a published file, to be written to the folder `out`.

    `name` and `choices` are as for `interop.published.read`; `data` leads to the images or
    latents to train on, `dtype` is the type that the network computes in, and `vae` the
    folder of the VAE that decodes latents.

    Raises:
        FileNotFoundError: the file or the VAE does not exist.
        ValueError: the file or the VAE is invalid, or `out` holds a trained run or another
            model.
    """
    folder = place(out)
    if (folder / "checkpoints").is_dir():
        raise ValueError(f"{folder} holds a run that was trained here: name another folder")
    model = files.read(file, name, choices)
    if model.family == "edm2":
        _require_training(model)
    run = published.experiment(model, data, dtype, vae)
    if vae and not run.data.encoder.image_shape(model.shape):
        raise FileNotFoundError(f"there is no VAE at {vae!r}: name the folder of one")
    snapshot = _snapshot(model, run)
    path = snapshots.path_of(folder / snapshots.TRACKED, snapshot)
    _require_one(path, run)
    return Import(model, snapshot, path, published.LICENCES[model.family])


def _require_one(path: Place, run: Experiment) -> None:
    """Rejects a folder with snapshots of other models than the one to be written."""
    for entry in snapshots.entries(path.parent):
        if entry.path == path:  # this one is replaced
            continue
        if lines := differences(snapshots.experiment_of(entry.path), run):
            raise ValueError(
                f"{entry.path} is there, which is of another model ({lines[0]}): name "
                "another folder"
            )


def _snapshot(model: Model, run: Experiment) -> Snapshot:
    if held := model.snapshot:
        step = max(held.images // run.batch_size, 1)
        return Snapshot(run, model.variables, held.std, step, held.images)
    step = published.STEPS.get(model.name, 0)
    images = step * run.batch_size
    return Snapshot(run, model.variables, run.sampling.std, step, images)


def _require_training(model: Model) -> None:
    """Rejects an averaging length or a number of images that is out of range."""
    held = model.snapshot
    std_to_exponent(held.std)  # rejects an invalid width
    if not edm2_presets.BATCH <= held.images <= MOST:
        raise ValueError(
            f"images = {held.images} is not in [{edm2_presets.BATCH}, {MOST}], one "
            "batch to 2^40: say how many images were seen, such as --images=2147483648"
        )
