"""The state before the first step, drawn by one program instead of one an operation."""

import jax

from jaxdiff.runs.state import init_state

initial = jax.jit(init_state, static_argnums=0)
