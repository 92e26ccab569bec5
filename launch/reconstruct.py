"""Averages of any width, made after training from a run's snapshots [EDM2 sec. 3].

    python launch/train.py --config=configs/digits.py --workdir=runs/lengths \\
        --config.snapshot_every=100
    python launch/reconstruct.py --workdir=runs/lengths --std=0.03,0.05,...,0.25
    python launch/sample.py --workdir=runs/lengths --std=0.07

The width of an average is its standard deviation as a fraction of training. Of
twenty snapshots of widths 0.05 and 0.10 the profile of any from 0.03 to 0.20 comes out
within 3 %, that of 0.02 or 0.25 within 9 %: more snapshots reach further. They are read
once for every eight widths, and each result is a file in WORKDIR/posthoc.
"""

import command
from absl import flags

from jaxdiff import posthoc, snapshots

WORKDIR = flags.DEFINE_string("workdir", None, "The folder that launch/train.py wrote.")
STD = flags.DEFINE_string("std", None, 'Widths, as in "0.05,0.10,...,0.25".')
STEP = flags.DEFINE_integer("step", None, "The step they are of; the last by default.", 1)
DTYPE = flags.DEFINE_string("dtype", "float16", "What they are saved in, or float32.")
TOGETHER = flags.DEFINE_integer(
    "together", 8, "Widths made in one reading; memory holds so many networks.", 1
)
flags.mark_flags_as_required(["workdir", "std"])


def main() -> None:
    """Solves, reads, writes."""
    workdir, stds = command.folder(WORKDIR), posthoc.parse_stds(STD.value)
    for first in range(0, len(stds), TOGETHER.value):
        made = snapshots.reconstruct(
            workdir / snapshots.TRACKED,
            stds[first : first + TOGETHER.value],
            STEP.value,
            progress=True,
        )
        for snapshot in made:
            print(snapshots.write(workdir / snapshots.POSTHOC, snapshot, DTYPE.value))


if __name__ == "__main__":
    command.run(main)
