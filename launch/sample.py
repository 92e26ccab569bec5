"""Samples from a run: writes a grid of images as PNG, and the images as NPZ.

    python launch/sample.py --workdir=runs/digits --number=100 --labels=3,5

    python launch/sample.py --workdir=runs/digits --guide=runs/small --guidance=1.1

    python launch/sample.py --workdir=runs/digits --solver="DPMSolverPP(order=3)" --steps=12

    python launch/sample.py --workdir=runs/digits --reference \\
        --compare="Heun, Euler, DPMSolverPP(order=3), UniPC" --compare_steps=6,12,24

--guide names another run, or a snapshot of one, that is weaker: smaller or trained for
less (autoguidance), or without labels. Solvers, grids and rules are written as Python
prints them, with the fields that differ from the default: "Karras(rho=5.0)",
"DDIM(eta=0.5)", "EulerMaruyama(SigmaW(), clock=RectifiedFlow())", "Projected(limit=2.5)"
(adaptive projected guidance), "Rescaled(Sum(), phi=0.7)". --compare draws the same seeds
with several solvers and numbers of steps, into one sheet and a table; name the most exact
one first, as images are compared with the first row's. No config file is needed. What is
not given here is as in the checkpoint. Image i has seed --seed + i and depends on that and
its label alone, not on --batch or the devices. The NPZ holds images [N, H, W, C] uint8
(latents of a VAE: float32), labels [N] and seeds [N].
"""

import dataclasses
import math
from pathlib import Path

import command
import numpy as np
from absl import flags
from jaxtyping import PyTree
from tqdm import tqdm

from jaxdiff import (
    checkpoint,
    comparison,
    expressions,
    generate,
    levels,
    pictures,
    presets,
    sharding,
    solvers,
)
from jaxdiff.config import Experiment
from jaxdiff.data import encoder_of
from jaxdiff.files import write_atomically
from jaxdiff.guidance import Rule
from jaxdiff.types import Grid, Solver

WORKDIR = flags.DEFINE_string("workdir", None, "The folder that launch/train.py wrote.")
NUMBER = flags.DEFINE_integer("number", 100, "How many images.", 1, 2**32)
LABELS = flags.DEFINE_list("labels", [], "Classes, in turn; all of them by default.")
SEED = flags.DEFINE_integer("seed", 0, "Seed of the first image.", 0, 2**32 - 1)
STEPS = flags.DEFINE_integer("steps", None, "Solver steps.", 1, 10_000)
SOLVER = flags.DEFINE_string(
    "solver", None, f"One of {', '.join(solvers.__all__)}, with fields or without."
)
GRID = flags.DEFINE_string(
    "grid", None, f"One of {', '.join(levels.__all__)}, with fields or without."
)
COMPARE = flags.DEFINE_string("compare", None, "Solvers to compare, Heun, UniPC, ….")
COMPARE_STEPS = flags.DEFINE_list("compare_steps", ["6", "12", "24"], "Steps of each.")
REFERENCE = flags.DEFINE_bool(
    "reference", False, "With --compare: also the distance to the run's own data."
)
GUIDANCE = flags.DEFINE_float(
    "guidance", None, "w of D + w (D - guide's D), or D without label."
)
PRESET = flags.DEFINE_enum(
    "preset", None, [*presets.SAMPLING], "Models, EMA widths, guide and guidance of EDM2, "
    "imported to WORKDIR/img512-s and the like by launch/import_edm2.py."
)  # fmt: skip
GUIDE = flags.DEFINE_string("guide", None, "Another run, to guide away from.")
GUIDE_STD = flags.DEFINE_float("guide_std", None, "Width of the guide's EMA.")
GUIDE_STEP = flags.DEFINE_integer("guide_checkpoint", None, "The guide's checkpoint.", 0)
INTERVAL = flags.DEFINE_list(
    "interval", None, "LOW,HIGH: guide the steps that start at sigma / alpha in between."
)
NOISE_GUIDANCE = flags.DEFINE_float(
    "noise_guidance", None, "w of D + w (D - D without noise level): noise awareness."
)
NOISE_INTERVAL = flags.DEFINE_list("noise_interval", None, "LOW,HIGH: likewise.")
ESTIMATOR = flags.DEFINE_string(
    "estimator", None, "A run of configs/digits_nag.py:level and the like, to guide by."
)
RULE = flags.DEFINE_string("rule", None, "How guidance is added: Projected(limit=2.5), ….")
PLUS_PLUS = flags.DEFINE_bool("plus_plus", None, "--guidance is CFG++'s scale, 0 to 1.")
THRESHOLD = flags.DEFINE_float("threshold", None, "Dynamic thresholding's quantile.")
STD = flags.DEFINE_float(
    "std", None, "Relative width of the EMA, tracked or reconstructed."
)
STEP = flags.DEFINE_integer("checkpoint", None, "Another checkpoint than the newest.", 0)
BATCH = flags.DEFINE_integer("batch", 256, "Images at a time.", lower_bound=1)
OUT = flags.DEFINE_string("out", None, "OUT.png and OUT.npz; default WORKDIR/generated.")
flags.mark_flags_as_required(["workdir"])
flags.declare_key_flag("cpu_devices")


def main() -> None:
    """Restores, samples, writes."""
    _refuse_unread()
    run, guide, w = _models()
    preset = presets.SAMPLING.get(PRESET.value)
    chosen = {
        "steps": STEPS.value,
        "solver": SOLVER.value and expressions.read(SOLVER.value, Solver),
        "grid": GRID.value and expressions.read(GRID.value, Grid),
        "guidance": None if guide else GUIDANCE.value,
        "interval": _interval(INTERVAL) if INTERVAL.value else preset and preset.interval,
        "noise_guidance": None if ESTIMATOR.value else NOISE_GUIDANCE.value,
        "noise_interval": NOISE_INTERVAL.value and _interval(NOISE_INTERVAL),
        "rule": RULE.value and expressions.read(RULE.value, Rule),
        "plus_plus": PLUS_PLUS.value,
        "threshold": THRESHOLD.value,
    }
    sampling = dataclasses.replace(
        run.experiment.sampling, **{k: v for k, v in chosen.items() if v is not None}
    )
    experiment = dataclasses.replace(run.experiment, sampling=sampling)
    if INTERVAL.value and not (guide or sampling.guidance):
        raise ValueError("--interval needs --guidance, or a guided --preset")
    if NOISE_INTERVAL.value and not (ESTIMATOR.value or sampling.noise_guidance):
        raise ValueError("--noise_interval needs --noise_guidance")
    encoder = encoder_of(experiment.data)
    seeds = SEED.value + np.arange(NUMBER.value)
    label = np.resize(_labels(experiment.network.label_dim), NUMBER.value)
    if COMPARE.value:
        return _compare(experiment, run.variables, seeds, label)
    draw, variables = _sampler(experiment, run.variables, guide, w)
    images = generate.images(
        draw,
        variables,
        encoder,
        seeds,
        label,
        sharding.data_mesh(),
        BATCH.value,
        progress=True,
    )
    out = Path(OUT.value) if OUT.value else _beside(command.folder(WORKDIR))
    out = out.with_suffix("") if out.suffix in (".png", ".npz") else out
    npz, png = out.with_name(f"{out.name}.npz"), out.with_name(f"{out.name}.png")
    arrays = {"images": images, "labels": label, "seeds": seeds}
    write_atomically(npz, lambda file: np.savez_compressed(file, **arrays))
    pictures.save_grid(png, encoder.preview(images))
    print(f"{len(images)} images of step {run.step}: {png} and {npz}")


def _models() -> tuple[checkpoint.Restored, checkpoint.Restored | None, float]:
    """What to sample, another run to guide it, if any, and the weight."""
    folder, restore = command.folder(WORKDIR), checkpoint.restore
    if PRESET.value:
        preset = presets.SAMPLING[PRESET.value]
        main, guide = (
            model and _published(folder / model.network, model)
            for model in (preset.main, preset.guide)
        )
        return main, guide and _fitting(main, guide), preset.weight
    run = restore(folder, STD.value, STEP.value)
    if not GUIDE.value:
        return run, None, 0.0
    if GUIDANCE.value is None or not math.isfinite(GUIDANCE.value):
        raise ValueError("--guide needs --guidance, such as 1.1 for a scale of 2.1")
    guide = restore(GUIDE.value, GUIDE_STD.value, GUIDE_STEP.value)
    return run, _fitting(run, guide), GUIDANCE.value


def _published(folder: Path, model: presets.Model) -> checkpoint.Restored:
    """A preset's model, as it was imported or reconstructed."""
    try:
        return checkpoint.restore(folder, model.std, model.step)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{folder} has no average of std {model.std:g} at step {model.step}: import "
            f"{model.file} with launch/import_edm2.py to {folder}, or make it with "
            f"launch/reconstruct.py --workdir={folder} --std={model.std:g}"
        ) from error


def _fitting(run: checkpoint.Restored, guide: checkpoint.Restored) -> checkpoint.Restored:
    """The guide, if it denoises the same images with the same classes or none."""
    if guide.shape != run.shape:
        raise ValueError(
            f"the guide's images are {guide.shape}, the run's {run.shape}: guide by a run "
            "on the same data"
        )
    its, ours = (getattr(r.experiment.network, "label_dim", 0) for r in (guide, run))
    if its not in (0, ours):
        raise ValueError(
            f"the guide knows {its} classes, the run {ours}: guide by a run with as many, "
            "or with none"
        )
    return guide


def _refuse_unread() -> None:
    """Flags that another flag makes meaningless, or that need another."""
    preset = presets.SAMPLING.get(PRESET.value)
    fixed = (STD, STEP, GUIDE, GUIDE_STD, GUIDE_STEP) if preset else ()
    for flag in (*fixed, *((GUIDANCE,) if preset and preset.guide else ())):
        if flag.value is not None:
            raise ValueError(f"--preset={PRESET.value} says it: leave out --{flag.name}")
    needs = (
        (GUIDE_STD, GUIDE),
        (GUIDE_STEP, GUIDE),
        (COMPARE_STEPS, COMPARE),
        (REFERENCE, COMPARE),
    )
    for flag, other in needs:
        if flag.present and not other.value:
            raise ValueError(f"--{flag.name} needs --{other.name}")


def _sampler(
    experiment: Experiment, variables: PyTree, guide: checkpoint.Restored | None, w: float
) -> tuple[generate.Draw, PyTree]:
    """The sampler, and the variables of all networks that it uses."""
    estimator = ESTIMATOR.value and checkpoint.restore(ESTIMATOR.value)
    if estimator and not math.isfinite(NOISE_GUIDANCE.value or math.nan):
        raise ValueError("--estimator needs --noise_guidance, such as 1.0")
    others = [other for other in (guide, estimator) if other]
    draw = generate.sampler(
        experiment,
        guide.experiment if guide else None,
        w,
        estimator.experiment if estimator else None,
        NOISE_GUIDANCE.value or 0.0,
    )
    return draw, (variables, *(o.variables for o in others)) if others else variables


def _compare(
    experiment: Experiment, variables: PyTree, seeds: np.ndarray, label: np.ndarray
) -> None:
    """Draws and measures all, and writes the sheet and the table."""
    chosen = expressions.read_all(COMPARE.value, Solver)
    if any(not text.isdigit() or not int(text) for text in COMPARE_STEPS.value):
        raise ValueError(f"--compare_steps is 6,12,24, got {','.join(COMPARE_STEPS.value)}")
    if GUIDE.value or ESTIMATOR.value or PRESET.value:
        raise ValueError("--compare takes one network: no --guide, --estimator or --preset")
    steps = [int(text) for text in COMPARE_STEPS.value]
    real = None
    if REFERENCE.value:
        real = encoder_of(experiment.data).preview(experiment.data.load().source.image[:])
    rows = []
    with tqdm(total=len(chosen) * len(steps), unit="row", disable=None) as bar:
        for row in comparison.compare(
            experiment, variables, chosen, steps, seeds, label, BATCH.value, real
        ):
            rows.append(row)
            bar.update()
    out = Path(OUT.value or _beside(command.folder(WORKDIR)).with_name("compared"))
    comparison.save_sheet(out.with_suffix(".png"), rows)
    text = comparison.table(rows)
    write_atomically(out.with_suffix(".md"), lambda file: file.write(f"{text}\n".encode()))
    print(f"{text}\n\n{len(seeds)} images each; {out.with_suffix('.png')}")


def _beside(workdir: Path) -> Path:
    """Where images go by default: into the run's folder, or beside its snapshot."""
    folder = workdir.parent if workdir.suffix == ".npz" else workdir
    return folder / (PRESET.value or "generated")


def _interval(flag: flags.FlagHolder) -> tuple[float, float]:
    try:
        low, high = map(float, flag.value)
    except ValueError:
        text = f"--{flag.name} is LOW,HIGH, got {','.join(flag.value)}"
        raise ValueError(text) from None
    return low, high


def _labels(classes: int) -> list[int]:
    """The classes asked for, checked."""
    if not LABELS.value:
        return list(range(max(classes, 1)))
    for text in LABELS.value:
        if not text.lstrip("-").isdigit() or not 0 <= int(text) < classes:
            raise ValueError(f"--labels: {text!r} is no class of this run's {classes}")
    return [int(text) for text in LABELS.value]


if __name__ == "__main__":
    command.run(main)
