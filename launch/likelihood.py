"""Bits/dim of a run on its data, by the variational bound, and loss by logSNR.

    python launch/likelihood.py --workdir=runs/digits --split=test

No config file is needed. The bound has --timesteps steps, at t = 1/T ... 1 of the run's
schedule: a table's entries by default, 1000 steps of a closed form. Image i's noise
depends on --seed and i alone, not on --batch or the devices. Writes OUT.json, with every
term, and OUT.png.
"""

import dataclasses
import json
from pathlib import Path

import command
from absl import flags

from jaxdiff import bits, checkpoint, likelihood, posterior, sharding
from jaxdiff.config import Experiment
from jaxdiff.files import write_atomically

VARIANCES = ("SmallVariance", "LargeVariance", "LearnedVariance")

WORKDIR = flags.DEFINE_string("workdir", None, "The folder that launch/train.py wrote.")
SPLIT = flags.DEFINE_string("split", None, "Split of the run's data; test if there is one.")
TIMESTEPS = flags.DEFINE_integer("timesteps", None, "Steps T of the bound.", lower_bound=1)
VARIANCE = flags.DEFINE_enum(
    "variance", None, VARIANCES, "The model's variance; by default LearnedVariance for a "
    "network with that head, else LargeVariance."
)  # fmt: skip
CLIP = flags.DEFINE_bool("clip", True, "Hold x0 to [-1, 1], where the data are.")
NUMBER = flags.DEFINE_integer("number", 0, "How many images; 0 = all.", lower_bound=0)
SEED = flags.DEFINE_integer("seed", 0, "Seed of the noise.", 0, 2**32 - 1)
STD = flags.DEFINE_float(
    "std", None, "Relative width of the EMA, tracked or reconstructed."
)
STEP = flags.DEFINE_integer("checkpoint", None, "Another checkpoint than the newest.", 0)
BATCH = flags.DEFINE_integer("batch", 256, "Images at a time.", lower_bound=1)
BINS = flags.DEFINE_integer("bins", 20, "Bins of logSNR.", lower_bound=1)
OUT = flags.DEFINE_string("out", None, "OUT.json and OUT.png; default WORKDIR/bits.")
flags.mark_flags_as_required(["workdir"])
flags.declare_key_flag("cpu_devices")


def main() -> None:
    """Restores, measures, prints, writes."""
    workdir = command.folder(WORKDIR)
    run = checkpoint.restore(workdir, STD.value, STEP.value)
    experiment = run.experiment
    data = _split(experiment)
    count = TIMESTEPS.value or getattr(experiment.schedule, "steps", 1000)
    head = experiment.network.learned_variance
    rule = VARIANCE.value or ("LearnedVariance" if head else "LargeVariance")
    measured = bits.measure(
        bits.coster(
            experiment,
            getattr(posterior, rule)(),
            CLIP.value,
        ),
        run.variables,
        data.load(),
        likelihood.process(experiment.schedule, count),
        sharding.data_mesh(),
        number=NUMBER.value,
        batch=BATCH.value,
        seed=SEED.value,
        progress=True,
    )
    found = bits.report(measured, BINS.value)
    if head := bits.uncertainty(experiment, run.variables, measured):
        found["uncertainty"] = head
    asked = {"step": run.step, "data": str(data), "variance": rule, "clip": CLIP.value}
    out = Path(OUT.value) if OUT.value else workdir / "bits"
    text = json.dumps({**asked, **found}, indent=2).encode()
    written = out.with_name(f"{out.name}.json"), out.with_name(f"{out.name}.png")
    write_atomically(written[0], lambda file: file.write(text))
    bits.save_plot(written[1], found)
    print(bits.table(found))
    print(f"\n{data}, {found['images']} images, {count} steps, {rule}, step {run.step}")
    print(f"{written[0]} and {written[1]}")


def _split(experiment: Experiment) -> object:
    """The data asked for: another split of the run's own."""
    data = experiment.data
    if not any(field.name == "split" for field in dataclasses.fields(data)):
        if SPLIT.value:
            raise ValueError(
                f"--split: {type(data).__name__} has no splits; leave --split out to "
                "evaluate on all of it"
            )
        return data
    return dataclasses.replace(data, split=SPLIT.value or "test")


if __name__ == "__main__":
    command.run(main)
