"""Training: one jit-compiled step, and the fault-tolerant loop around it.

`step` is the mathematics, `loop` the main program, read from top to bottom. `setup` begins
or resumes a run; `reporting` and `periodic` write metrics, pictures and scores, and
`report` one page with all of them; `preemption` handles signals, `goodput` measures time,
`profiling` traces chosen steps.
"""

from jaxdiff.train.forecasting import Forecast, forecast
from jaxdiff.train.loop import NotFinite, fit, require_finite
from jaxdiff.train.periodic import examiner
from jaxdiff.train.preemption import Stopped
from jaxdiff.train.report import write_report
from jaxdiff.train.setup import initial_state
from jaxdiff.train.step import compiled_step, make_step, training, withhold

__all__ = [
    "Forecast",
    "NotFinite",
    "Stopped",
    "compiled_step",
    "examiner",
    "fit",
    "forecast",
    "initial_state",
    "make_step",
    "require_finite",
    "training",
    "withhold",
    "write_report",
]
