"""The state before the first step, drawn by one program instead of one an operation."""

from pathlib import Path

import jax

from jaxdiff.config import from_config
from jaxdiff.runs import snapshots
from jaxdiff.runs.state import init_state
from tests.system import tiny

initial = jax.jit(init_state, static_argnums=0)


def untrained_run(folder: Path) -> str:
    """Makes `folder` that of a tiny run, whose average is of its first weights."""
    e = from_config(tiny.get_config())
    state = initial(e)
    variables = {"params": state.params, "constants": state.constants}
    snapshot = snapshots.Snapshot(e, variables, 0.1, 40, 640)
    snapshots.write(folder / snapshots.TRACKED, snapshot)
    return str(folder)
