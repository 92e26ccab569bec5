"""Samples from a run: writes a grid of images as PNG, and the images as NPZ.

    python launch/sample.py --workdir=runs/digits --number=100 --labels=3,5

No config file is needed. What is not given here is as in the checkpoint. Image i has
seed --seed + i and depends on that and its label alone, not on --batch or the devices.
The NPZ holds images [N, H, W, C] uint8, labels [N] and seeds [N].
"""

import dataclasses
from pathlib import Path

import command
import numpy as np
from absl import flags

from jaxdiff import checkpoint, generate, pictures, sharding, solvers
from jaxdiff.files import write_atomically

WORKDIR = flags.DEFINE_string("workdir", None, "The folder that launch/train.py wrote.")
NUMBER = flags.DEFINE_integer("number", 100, "How many images.", 1, 2**32)
LABELS = flags.DEFINE_list("labels", [], "Classes, in turn; all of them by default.")
SEED = flags.DEFINE_integer("seed", 0, "Seed of the first image.", 0, 2**32 - 1)
STEPS = flags.DEFINE_integer("steps", None, "Solver steps.", 1, 10_000)
SOLVER = flags.DEFINE_enum("solver", None, solvers.__all__, "Solver, as it is by default.")
GUIDANCE = flags.DEFINE_float("guidance", None, "w of D + w (D - D without label).")
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
    workdir = command.folder(WORKDIR)
    run = checkpoint.restore(workdir, STD.value, STEP.value)
    chosen = {
        "steps": STEPS.value,
        "solver": SOLVER.value and getattr(solvers, SOLVER.value)(),
        "guidance": GUIDANCE.value,
    }
    sampling = dataclasses.replace(
        run.experiment.sampling, **{k: v for k, v in chosen.items() if v is not None}
    )
    experiment = dataclasses.replace(run.experiment, sampling=sampling)
    seeds = SEED.value + np.arange(NUMBER.value)
    label = np.resize(_labels(experiment.network.label_dim), NUMBER.value)
    images = generate.images(
        generate.sampler(experiment),
        run.variables,
        seeds,
        label,
        sharding.data_mesh(),
        BATCH.value,
        progress=True,
    )
    out = Path(OUT.value) if OUT.value else workdir / "generated"
    out = out.with_suffix("") if out.suffix in (".png", ".npz") else out
    npz, png = out.with_name(f"{out.name}.npz"), out.with_name(f"{out.name}.png")
    arrays = {"images": images, "labels": label, "seeds": seeds}
    write_atomically(npz, lambda file: np.savez_compressed(file, **arrays))
    pictures.save_grid(png, images)
    print(f"{len(images)} images of step {run.step}: {png} and {npz}")


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
