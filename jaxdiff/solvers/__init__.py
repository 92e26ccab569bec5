"""Solvers of dx = D d(alpha) + eps_hat d(sigma), each an (init, step) pair.

`onestep` has the rules that remember nothing, `ancestral` and `sde` those of random steps,
`singlestep` and `rungekutta` those that look ahead within a step, `exponential` and `adams`
those that remember earlier evaluations, `adaptive` the one that chooses its own steps.
"""

from jaxdiff.solvers.adams import DEIS, LMS
from jaxdiff.solvers.adaptive import Adaptive
from jaxdiff.solvers.ancestral import Ancestral
from jaxdiff.solvers.exponential import DPMSolverPP, UniPC
from jaxdiff.solvers.onestep import DDIM, Euler, Heun
from jaxdiff.solvers.rungekutta import RungeKutta
from jaxdiff.solvers.sde import EulerMaruyama, StochasticHeun
from jaxdiff.solvers.singlestep import DPMSolverPP2S, Midpoint

__all__ = [
    "DDIM",
    "DEIS",
    "LMS",
    "Adaptive",
    "Ancestral",
    "DPMSolverPP",
    "DPMSolverPP2S",
    "Euler",
    "EulerMaruyama",
    "Heun",
    "Midpoint",
    "RungeKutta",
    "StochasticHeun",
    "UniPC",
]
