"""Samples from a run: a grid of images as PNG, and all as NPZ.

    jaxdiff sample --workdir=runs/digits --number=100 --labels=3,5

    jaxdiff sample --workdir=runs/digits --guide=runs/small --guidance=1.1

    jaxdiff sample --workdir=runs/digits \\
        --classifier=runs/classifier --classifier_guidance=2

    jaxdiff sample --workdir=runs/digits --solver="DPMSolverPP(order=3)" --steps=12

    jaxdiff sample --workdir=runs/digits --reference \\
        --compare="Heun, Euler, DPMSolverPP(order=3), UniPC" --compare_steps=6,12,24

--guide names another run, or a snapshot of one, that is weaker: smaller or less trained
(autoguidance), or without labels. --classifier names a run that classifies noisy images
(--config=digits_classifier), with the scale --classifier_guidance.
Solvers, grids and rules are written as Python prints them, with the fields that differ from
the default: "Karras(rho=5.0)",
"DDIM(eta=0.5)", "EulerMaruyama(SigmaW(), clock=RectifiedFlow())", "Projected(limit=2.5)"
(adaptive projected guidance), "Rescaled(Sum(), phi=0.7)". --compare draws the same seeds
with several solvers and numbers of steps, into one sheet and a table; put the most accurate
one first, since all images are compared with the first row's. No config file is needed.
Settings that are not given come from the checkpoint. Image i has seed --seed + i and
depends only on that and its label, not on --batch or the devices. The NPZ holds images
[N, H, W, C] uint8 (latents of a VAE: float32), labels [N] and seeds [N].
"""

import numpy as np
from absl import flags

from jaxdiff import evaluation
from jaxdiff.analysis import image_grid
from jaxdiff.commands import command, sampling_flags
from jaxdiff.config import expressions
from jaxdiff.data import encoder_of
from jaxdiff.evaluation import compare_solvers
from jaxdiff.evaluation.extractors.extractor import extractor
from jaxdiff.runs import generate
from jaxdiff.runtime import processes, sharding
from jaxdiff.runtime.files import write_atomically
from jaxdiff.runtime.progress import bar
from jaxdiff.types import Solver

MOST_STEPS = 10_000
NUMBER = flags.DEFINE_integer("number", 100, "How many images.", 1, sampling_flags.MOST)
SEED = flags.DEFINE_integer("seed", 0, "Seed of the first image.", 0, 2**32 - 1)
COMPARE = flags.DEFINE_string("compare", None, "Solvers to compare, Heun, UniPC, ….")
COMPARE_STEPS = flags.DEFINE_list("compare_steps", ["6", "12", "24"], "Steps of each.")
REFERENCE = flags.DEFINE_bool(
    "reference", False, "With --compare: also distances to the run's own data."
)
EXTRACTORS = flags.DEFINE_list("extractors", ["lite0", "pixels8"], "What they are of.")
BATCH = flags.DEFINE_integer("batch", 256, "Images at a time.", lower_bound=1)
OUT = flags.DEFINE_string("out", None, "OUT.png and OUT.npz; default WORKDIR/generated.")
flags.mark_flags_as_required(["workdir"])
flags.declare_key_flag("cpu_devices")
flags.adopt_module_key_flags(sampling_flags)
SEVERAL_PROCESSES = True
"""All draw; process 0 writes."""


def main() -> None:
    """Restores, samples, writes."""
    command.need((COMPARE_STEPS, COMPARE), (REFERENCE, COMPARE), (EXTRACTORS, REFERENCE))
    model = sampling_flags.model_from_flags()
    experiment = model.experiment
    seeds = SEED.value + np.arange(NUMBER.value)
    label = np.resize(sampling_flags.labels(model.run), NUMBER.value)
    if COMPARE.value is not None:
        return _compare(model, seeds, label)
    encoder = encoder_of(experiment.data)
    name = sampling_flags.PRESET.value or "generated"
    npz, png = command.output(OUT, sampling_flags.beside() / name, "npz", "png").values()
    images = generate.images(
        model.sampler,
        model.variables,
        encoder,
        seeds,
        label,
        sharding.data_mesh(),
        BATCH.value,
        progress=processes.first(),
    )
    if not processes.first():
        return
    arrays = {"images": images, "labels": label, "seeds": seeds}
    write_atomically(npz, lambda file: np.savez_compressed(file, **arrays))
    preview = encoder.preview(images[: image_grid.MOST])
    by = label[: len(preview)] if experiment.network.label_dim else None
    image_grid.save_grid(png, preview, labels=by, classes=sampling_flags.classes(model.run))
    few = f" (the first {len(preview)})" if len(preview) < len(images) else ""
    print(f"{len(images)} images of step {model.run.step}: {png}{few} and {npz}")


def _compare(model: sampling_flags.Model, seeds: np.ndarray, label: np.ndarray) -> None:
    """Draws and compares all solvers, and writes the sheet and the table."""
    chosen = expressions.parse_all(COMPARE.value, Solver)
    texts = COMPARE_STEPS.value
    if not texts or not all(command.whole(t, MOST_STEPS) and int(t) for t in texts):
        raise ValueError(
            f"--compare_steps is 6,12,24, each at most {MOST_STEPS:,}; got "
            f"{','.join(texts)!r}"
        )
    if not chosen:
        raise ValueError("--compare is empty: name solvers, such as Heun, UniPC")
    if any(model.guides.networks):
        raise ValueError(
            "--compare takes one network: no --guide, --estimator, --classifier or --preset"
        )
    out = command.output(OUT, sampling_flags.beside() / "compared", "md", "png")
    judge = None
    if REFERENCE.value:
        if len(seeds) <= evaluation.NEIGHBOURS:
            raise ValueError(
                f"--reference needs --number of more than {evaluation.NEIGHBOURS}: metrics "
                "compare sets of images"
            )
        judge = evaluation.judge_of(
            model.experiment.data,
            [extractor(name) for name in command.names(EXTRACTORS)],
            sharding.data_mesh(),
            sampling_flags.beside() / "quality",
            progress=processes.first(),
        )
    steps, rows = [int(text) for text in texts], []
    show = processes.first()
    with bar(
        total=len(chosen) * len(steps), unit="row", desc="comparing", show=show
    ) as done:
        for row in compare_solvers.compare(
            model.experiment,
            model.run.variables,
            chosen,
            steps,
            seeds,
            label,
            BATCH.value,
            judge,
            progress=show,
        ):
            rows.append(row)
            done.update()
    if not show:
        return
    text = compare_solvers.table(rows)
    write_atomically(out["md"], lambda file: file.write(f"{text}\n".encode()))
    away = "away: root mean square difference to the first row's images, pixels in [-1, 1]"
    print(f"{text}\n\n{away}")
    known = model.experiment.network.label_dim > 0
    heads = image_grid.names(label, sampling_flags.classes(model.run)) if known else ()
    compare_solvers.save_sheet(out["png"], rows, classes=heads)
    print(f"{len(seeds)} images each: {out['png']} and {out['md']}")
