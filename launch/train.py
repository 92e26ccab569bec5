"""Trains a diffusion model; the same command again goes on where it stopped.

python launch/train.py --config=configs/digits.py --workdir=runs/digits

Any field of the config can be changed: --config.batch_size=64 --config.times.std=1.4.
The folder --workdir receives checkpoints, metrics.jsonl, TensorBoard files and pictures.
Ctrl-C saves and stops.
"""

import sys
from pathlib import Path

from absl import flags
from ml_collections import config_flags

import command
from jaxdiff import pictures, train
from jaxdiff.checkpoint import checkpoints
from jaxdiff.config import from_config

CONFIG = config_flags.DEFINE_config_file("config", None, "A file of configs/.")
WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder, made if need be.")
flags.mark_flags_as_required(["config", "workdir"])


def main() -> None:
    """Parses, trains, and says what to do next."""
    experiment, workdir = from_config(CONFIG.value), Path(WORKDIR.value)
    again = f"python launch/train.py {' '.join(sys.argv[1:])}"
    try:
        train.fit(experiment, workdir)
    except KeyboardInterrupt:
        print(f"\nstopped and saved; to go on: {again}", file=sys.stderr)
        raise
    pictures.save_curves(workdir / "curves.png", workdir / "metrics.jsonl")
    print(f"done: {experiment.steps} steps; pictures: {workdir}/samples.png, curves.png")
    print(f"to sample: python launch/sample.py --workdir={workdir}")


if __name__ == "__main__":
    command.run(main)
