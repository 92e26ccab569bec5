"""What a run leaves: its state, checkpoints and snapshots, and images drawn from it.

`state` is everything that the next step depends on; `checkpoint` saves and restores it with
the `record` of what it is; `snapshots` keeps averaged weights; `generate` draws images, and
`ema_lengths` measures quality against the length of the average.
"""

from etils import epy

with epy.lazy_api_imports(globals()):
    from jaxdiff.runs import (
        checkpoint,
        ema_lengths,
        generate,
        orbax_files,
        record,
        snapshots,
        state,
    )

__all__ = [
    "checkpoint",
    "ema_lengths",
    "generate",
    "orbax_files",
    "record",
    "snapshots",
    "state",
]
