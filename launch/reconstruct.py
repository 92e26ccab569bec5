"""Averages of any width, made after training from a run's snapshots [EDM2 sec. 3].

    python launch/train.py --config=configs/digits.py --workdir=runs/lengths \\
        --config.snapshot_every=100
    python launch/reconstruct.py --workdir=runs/lengths --std=0.03,0.05,...,0.25
    python launch/sample.py --workdir=runs/lengths --std=0.07

The width of an average is its standard deviation as a fraction of training. Of
twenty snapshots of widths 0.05 and 0.10 the profile of any from 0.03 to 0.20 comes out
within 3 %, that of 0.02 or 0.25 within 9 %: more snapshots reach further. What the
profile of each lacks is printed, above 3 % with a warning, and above 50 % none is made.
They are read once for every eight widths, and each result is a file in WORKDIR/posthoc.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path

import command
from absl import flags

from jaxdiff.optim import ema_profiles
from jaxdiff.runs import snapshots

WORKDIR = flags.DEFINE_string("workdir", None, "The folder that launch/train.py wrote.")
STD = flags.DEFINE_string("std", None, 'Widths, as in "0.05,0.10,...,0.25".')
STEP = flags.DEFINE_integer("step", None, "The step they are of; the last by default.", 1)
DTYPE = flags.DEFINE_string("dtype", "float16", "What they are saved in, or float32.")
TOGETHER = flags.DEFINE_integer(
    "together", 8, "Widths made in one reading; memory holds so many networks.", 1
)
flags.mark_flags_as_required(["workdir", "std"])

WORTH_SAYING, USELESS = 3.0, 50.0
"""Percent of a profile that an average may lack before a warning, and at all."""


def main() -> None:
    """Checks, solves, reads, writes."""
    workdir, stds = command.folder(WORKDIR), ema_profiles.parse_stds(STD.value)
    lacks = _checked(workdir, stds)
    for first in range(0, len(stds), TOGETHER.value):
        made = snapshots.reconstruct(
            workdir / snapshots.TRACKED,
            stds[first : first + TOGETHER.value],
            STEP.value,
            progress=True,
        )
        for snapshot in made:
            folder = workdir / snapshots.POSTHOC
            command.writes(WORKDIR, snapshots.path_of(folder, snapshot))
            path = snapshots.write(folder, snapshot, DTYPE.value)
            print(f"{path}: its profile lacks {lacks[snapshot.std]:.2g} %")


def _checked(workdir: Path, stds: Sequence[float]) -> dict[float, float]:
    """Percent of each width's profile that the snapshots cannot make."""
    errors = snapshots.profile_errors(workdir / snapshots.TRACKED, stds, STEP.value)
    lacks = {std: 100 * error for std, error in zip(stds, errors, strict=True)}
    listed = lambda least: ", ".join(
        f"{std:g} (lacks {lack:.3g} %)" for std, lack in lacks.items() if lack > least
    )
    if far := listed(USELESS):
        raise ValueError(
            f"--std: the snapshots do not reach {far}: leave them "
            "out, or train with a smaller --config.snapshot_every"
        )
    if off := listed(WORTH_SAYING):
        warnings.warn(f"the snapshots hardly reach {off}", stacklevel=2)
    return lacks


if __name__ == "__main__":
    command.run(main)
