"""Solvers of dx = D d(alpha) + eps_hat d(sigma), each an (init, step) pair."""

from jaxdiff.solvers.ancestral import Ancestral
from jaxdiff.solvers.onestep import DDIM, Euler, Heun
from jaxdiff.solvers.sde import EulerMaruyama, StochasticHeun

__all__ = ["DDIM", "Ancestral", "Euler", "EulerMaruyama", "Heun", "StochasticHeun"]
