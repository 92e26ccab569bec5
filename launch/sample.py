"""Samples from a run: writes a grid of images as PNG, and the images as NPZ.

    python launch/sample.py --workdir=runs/digits --number=100 --labels=3,5

    python launch/sample.py --workdir=runs/digits --guide=runs/small --guidance=1.1

--guide names another run, or a snapshot of one, that is weaker: smaller or trained for
less (autoguidance), or without labels. No config file is needed. What is not given here
is as in the checkpoint. Image i has seed --seed + i and depends on that and its label
alone, not on --batch or the devices. The NPZ holds images [N, H, W, C] uint8 (latents of
a VAE: float32), labels [N] and seeds [N].
"""

import dataclasses
from pathlib import Path

import command
import numpy as np
from absl import flags

from jaxdiff import checkpoint, generate, pictures, presets, sharding, solvers
from jaxdiff.data import encoder_of
from jaxdiff.files import write_atomically

WORKDIR = flags.DEFINE_string("workdir", None, "The folder that launch/train.py wrote.")
NUMBER = flags.DEFINE_integer("number", 100, "How many images.", 1, 2**32)
LABELS = flags.DEFINE_list("labels", [], "Classes, in turn; all of them by default.")
SEED = flags.DEFINE_integer("seed", 0, "Seed of the first image.", 0, 2**32 - 1)
STEPS = flags.DEFINE_integer("steps", None, "Solver steps.", 1, 10_000)
SOLVER = flags.DEFINE_enum("solver", None, solvers.__all__, "Solver, as it is by default.")
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
    run, guide, w = _models()
    chosen = {
        "steps": STEPS.value,
        "solver": SOLVER.value and getattr(solvers, SOLVER.value)(),
        "guidance": None if guide else GUIDANCE.value,
        "interval": INTERVAL.value and _interval(),
    }
    sampling = dataclasses.replace(
        run.experiment.sampling, **{k: v for k, v in chosen.items() if v is not None}
    )
    experiment = dataclasses.replace(run.experiment, sampling=sampling)
    encoder = encoder_of(experiment.data)
    seeds = SEED.value + np.arange(NUMBER.value)
    label = np.resize(_labels(experiment.network.label_dim), NUMBER.value)
    draw, variables = generate.sampler(experiment), run.variables
    if guide:
        draw = generate.sampler(experiment, guide.experiment, w)
        variables = (variables, guide.variables)
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
            model and restore(folder / model.network, model.std, model.step)
            for model in (preset.main, preset.guide)
        )
        return main, guide, preset.weight
    run = restore(folder, STD.value, STEP.value)
    if not GUIDE.value:
        return run, None, 0.0
    if not GUIDANCE.value:
        raise ValueError("--guide needs --guidance, such as 1.1 for a scale of 2.1")
    guide = restore(GUIDE.value, GUIDE_STD.value, GUIDE_STEP.value)
    return run, guide, GUIDANCE.value


def _beside(workdir: Path) -> Path:
    """Where images go by default: into the run's folder, or beside its snapshot."""
    folder = workdir.parent if workdir.suffix == ".npz" else workdir
    return folder / (PRESET.value or "generated")


def _interval() -> tuple[float, float]:
    try:
        low, high = map(float, INTERVAL.value)
    except ValueError:
        raise ValueError(
            f"--interval is LOW,HIGH, got {','.join(INTERVAL.value)}"
        ) from None
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
