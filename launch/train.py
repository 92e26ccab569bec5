"""Trains a diffusion model; the same command again goes on where it stopped.

    python launch/train.py --config=configs/digits.py --workdir=runs/digits

Any field of the config can be changed: --config.batch_size=64 --config.times.std=1.4.
The folder --workdir receives checkpoints, metrics.jsonl, TensorBoard files and pictures.
Ctrl-C saves and stops.
"""

import shlex
import sys

import command
from absl import flags
from ml_collections import config_flags

from jaxdiff import pictures, train
from jaxdiff.config import from_config

CONFIG = config_flags.DEFINE_config_file("config", None, "A file of configs/.")
WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder, made if need be.")
flags.mark_flags_as_required(["config", "workdir"])
flags.declare_key_flag("cpu_devices")


def main() -> None:
    """Parses, trains, and says what to do next."""
    experiment, workdir = from_config(CONFIG.value), command.folder(WORKDIR)
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


if __name__ == "__main__":
    command.run(main)
