"""Reconstructs averages of any width from a run's snapshots [EDM2 sec. 3].

    jaxdiff train --config=digits --workdir=runs/lengths \\
        --config.snapshot_every=100
    jaxdiff reconstruct --workdir=runs/lengths --std=0.03,0.05,...,0.25
    jaxdiff sample --workdir=runs/lengths --std=0.07

The width of an average is its standard deviation as a fraction of training. From twenty
snapshots of widths 0.05 and 0.10, the profile of any width from 0.03 to 0.20 is matched
within 3 %, that of 0.02 or 0.25 within 9 %; more snapshots extend the range. The error of
each profile is printed; above 3 % there is a warning, and above 50 % nothing is written.
Snapshots are read once for every eight widths; each result is a file in WORKDIR/posthoc.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from jaxdiff.commands import command
from jaxdiff.optim import ema_profiles
from jaxdiff.runs import snapshots

WORKDIR = flags.DEFINE_string("workdir", None, "The folder that jaxdiff train wrote.")
STD = flags.DEFINE_string("std", None, 'Widths, as in "0.05,0.10,...,0.25".')
STEP = flags.DEFINE_integer("step", None, "The step they are of; the last by default.", 1)
DTYPE = flags.DEFINE_string("dtype", "float16", "What they are saved in, or float32.")
TOGETHER = flags.DEFINE_integer(
    "together", 8, "Widths made in one reading; memory holds so many networks.", 1
)
flags.mark_flags_as_required(["workdir", "std"])

WORTH_SAYING, USELESS = 3.0, 50.0
"""Percent error of a profile above which a warning is printed, and nothing is written."""


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
    """Percent error of each width's profile, reconstructed from the snapshots."""
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
