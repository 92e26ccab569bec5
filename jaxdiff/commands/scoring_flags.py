"""Flags for the number of scored images and the extractors, shared by the commands.

`image_settings` and `draw` handle the run's images, `judge` the real ones. The flags of
sampling_flags set how the images are drawn.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from jaxtyping import Int

from jaxdiff import evaluation
from jaxdiff.commands import command, sampling_flags
from jaxdiff.commands.sampling_flags import Model
from jaxdiff.config import to_dict
from jaxdiff.data import Pixels, VAELatents, encoder_of
from jaxdiff.evaluation import Judge
from jaxdiff.evaluation.extractors.extractor import Extractor, extractor
from jaxdiff.evaluation.sample_cache import Parts
from jaxdiff.runs import generate
from jaxdiff.runs.restoring import Restored
from jaxdiff.runtime import processes, sharding
from jaxdiff.runtime.files import place

REFERENCE = flags.DEFINE_string(
    "reference", None, "A file of jaxdiff reference; by default the run's own data."
)
EXTRACTORS = flags.DEFINE_list("extractors", ["lite0", "pixels8"], "What looks at images.")
WEIGHTS = flags.DEFINE_string("weights", None, "Folder of weights; or JAXDIFF_WEIGHTS.")
NUMBER = flags.DEFINE_integer("number", 1000, "Images in a block.", 6, sampling_flags.MOST)
BLOCKS = flags.DEFINE_integer("blocks", 3, "Blocks of seeds.", 1, 100)
SEED = flags.DEFINE_integer("seed", 0, "Seed of the first image.", 0, 2**32 - 1)
BATCH = flags.DEFINE_integer("batch", 256, "Images at a time.", lower_bound=1)


def extractors() -> list[Extractor]:
    """The extractors in --extractors, with their weights.

    Raises:
        ValueError: none is named, or an unknown one.
    """
    return [extractor(name, WEIGHTS.value) for name in command.names(EXTRACTORS)]


def reference() -> evaluation.Observed:
    """The contents of --reference."""
    return evaluation.load(place(REFERENCE.value))


def judge(data: Any, by: Sequence[Extractor], kept: Path) -> Judge:
    """The judge with a run's data, and with --reference if it is given.

    Raises:
        ValueError: the run's images cannot be compared with the reference.
    """
    mesh, against = sharding.data_mesh(), reference() if REFERENCE.value else None
    if against:
        evaluation.require_pixels(data)
        shape, pixels = (
            encoder_of(data).image_shape(data.shape),
            encoder_of(data) == Pixels(),
        )
        alone = Judge(
            tuple(by), against, mesh, batch=BATCH.value, progress=processes.first()
        )
        alone.check(shape, NUMBER.value)
        if not pixels:  # decoding all of the data would take longer than sampling
            return alone
    show = processes.first()
    own = evaluation.judge_of(data, by, mesh, kept, batch=BATCH.value, progress=show)
    return dataclasses.replace(own, reference=against) if against else own


def number() -> int:
    """The number of images in all blocks.

    Raises:
        ValueError: too many, or one of their seeds is too large.
    """
    count = NUMBER.value * BLOCKS.value
    if count > sampling_flags.MOST:
        raise ValueError(
            f"--number={NUMBER.value} in each of --blocks={BLOCKS.value} are {count:,} "
            f"images: give fewer, at most {sampling_flags.MOST:,} in all"
        )
    generate.require_seeds(SEED.value + np.array([0, count - 1]))
    return count


def label(run: Restored) -> Int[np.ndarray, " N"]:
    """The label of each image in all blocks: --labels in turn, or as in the data."""
    count = number()
    if sampling_flags.LABELS.value:
        return np.resize(sampling_flags.labels(run), count)
    if run.experiment.network.label_dim:
        return evaluation.labels_like(
            run.experiment.data.load(), count, SEED.value, progress=processes.first()
        )
    return np.full(count, -1, np.int32)


def image_settings(model: Model, weights: str | None = None) -> dict[str, Any]:
    """Everything that an image depends on except seed and label, as values for JSON."""
    encoder = encoder_of(model.experiment.data)
    vae = encoder.opened() if isinstance(encoder, VAELatents) else None
    return {
        "step": model.run.step,
        "sampling": to_dict(model.experiment.sampling),
        "weights": weights or evaluation.digest(model.variables),
        "guides": {"w": model.guidance, "noise_w": model.noise_guidance},
        **({"vae": vae.digest} if vae else {}),
    }


def draw(
    model: Model,
    sampler: generate.Draw,
    folder: Path,
) -> Parts:
    """The images of all blocks; draws those that are not in the folder yet."""
    encoder, mesh = encoder_of(model.experiment.data), sharding.data_mesh()
    make = lambda seeds, label: generate.images(
        sampler, model.variables, encoder, seeds, label, mesh, BATCH.value
    )
    labels = label(model.run)
    seeds = SEED.value + np.arange(len(labels))
    settings = image_settings(model)
    show = processes.first()
    return evaluation.draw(folder, settings, make, seeds, labels, progress=show)
