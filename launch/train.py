"""Trains a diffusion model; the same command again goes on where it stopped.

    python launch/train.py --config=configs/digits.py --workdir=runs/digits

Any field of the config can be changed: --config.batch_size=64 --config.times.std=1.4.
The folder --workdir receives checkpoints, metrics.jsonl, TensorBoard files and pictures.
Ctrl-C saves and stops. --dry_run trains nothing, and says what a step holds and moves on
each device, from shapes alone:

    python launch/train.py --config=configs/edm2_img512.py:s --dry_run --cpu_devices=8 \\
        --config.batch_size=64 --config.fsdp=8
"""

import shlex
import sys

import command
from absl import flags
from ml_collections import config_flags

from jaxdiff import footprint, pictures, sharding, train
from jaxdiff.config import Experiment, from_config, resolve

CONFIG = config_flags.DEFINE_config_file("config", None, "A file of configs/.")
WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder, made if need be.")
DRY_RUN = flags.DEFINE_bool("dry_run", False, "Only say what a step needs.")
flags.mark_flags_as_required(["config"])
flags.register_multi_flags_validator(
    ["workdir", "dry_run"],
    lambda given: given["dry_run"] or given["workdir"] is not None,
    "--workdir is missing; see --help",
)
flags.declare_key_flag("cpu_devices")


def main() -> None:
    """Parses, trains, and says what to do next."""
    experiment = from_config(CONFIG.value)
    if DRY_RUN.value:
        return _dry_run(experiment)
    workdir = command.folder(WORKDIR)
    state = train.fit(experiment, workdir)
    step = int(state.step)
    if step < experiment.steps:
        print(f"\nstopped at step {step} and saved it. To go on:")
        print(f"  {shlex.join([sys.executable, *sys.argv])}")
        sys.exit(130)
    pictures.save_curves(workdir / "curves.png", workdir / "metrics.jsonl")
    more = f" (it has {step})" if step > experiment.steps else ""
    print(f"{workdir} has all its {experiment.steps} steps{more}; see samples.png there")
    if not experiment.sample_every:  # as an estimator, which draws nothing
        return
    sample = [sys.executable, "launch/sample.py", f"--workdir={workdir}"]
    print(f"To sample:\n  {shlex.join(sample)}")


def _dry_run(experiment: Experiment) -> None:
    """Prints what a step needs, line by line."""
    if experiment.network.label_dim == -1:  # as many as the data have
        experiment = resolve(experiment, experiment.data.load())
    part = experiment.batch_size // experiment.accumulation
    for line in footprint.table(experiment, sharding.mesh_for(part, experiment.fsdp)):
        print(line, flush=True)


if __name__ == "__main__":
    command.run(main)
