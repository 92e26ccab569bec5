"""Solvers of dx = D d(alpha) + eps_hat d(sigma), each an (init, step) pair.

`euler_heun_ddim` has the single-step rules, `ancestral` and `sde` those with
random steps, `midpoint` and `runge_kutta` those that look ahead within a step, `dpm_solver`
and `deis_lms` those that remember earlier evaluations, `adaptive` the one that chooses its
own steps.
"""

from jaxdiff.sampling.solvers.adaptive import Adaptive
from jaxdiff.sampling.solvers.ancestral import Ancestral
from jaxdiff.sampling.solvers.deis_lms import DEIS, LMS
from jaxdiff.sampling.solvers.dpm_solver import DPMSolverPP, UniPC
from jaxdiff.sampling.solvers.euler_heun_ddim import DDIM, Euler, Heun
from jaxdiff.sampling.solvers.midpoint import DPMSolverPP2S, Midpoint
from jaxdiff.sampling.solvers.runge_kutta import RungeKutta
from jaxdiff.sampling.solvers.sde import EulerMaruyama, StochasticHeun

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
