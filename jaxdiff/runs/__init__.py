"""What a run leaves: its state, checkpoints and snapshots, and images drawn from it.

`state` is everything that the next step depends on; `checkpoint` saves it with the `record`
of what it is, and `restoring` makes a denoiser of it again; `snapshots` keeps averaged
weights, and `ema_lengths` measures quality against the length of the average. `generate`
draws images and `edits` edits them with the `guided_denoiser` of an experiment.
"""

from etils import epy

with epy.lazy_api_imports(globals()):
    from jaxdiff.runs import (
        checkpoint,
        edits,
        ema_lengths,
        generate,
        guided_denoiser,
        orbax_files,
        record,
        restoring,
        run_folder,
        snapshots,
        state,
        state_parts,
    )

__all__ = [
    "checkpoint",
    "edits",
    "ema_lengths",
    "generate",
    "guided_denoiser",
    "orbax_files",
    "record",
    "restoring",
    "run_folder",
    "snapshots",
    "state",
    "state_parts",
]
