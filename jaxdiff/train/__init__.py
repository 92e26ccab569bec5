"""Training: one jit-compiled step, and a loop that survives what happens to machines.

`step` is the mathematics, `loop` what is done with it, from top to bottom. A run begins as
`setup` says and reports through `reporting` and `periodic`; `preemption` is how it is asked
to end, `goodput` where its time went, `profiling` a closer look at some of its steps.
"""

from jaxdiff.train.loop import NotFinite, fit, require_finite
from jaxdiff.train.periodic import examiner
from jaxdiff.train.preemption import Stopped
from jaxdiff.train.setup import initial_state
from jaxdiff.train.step import compiled_step, make_step, training, withhold

__all__ = [
    "NotFinite",
    "Stopped",
    "compiled_step",
    "examiner",
    "fit",
    "initial_state",
    "make_step",
    "require_finite",
    "training",
    "withhold",
]
