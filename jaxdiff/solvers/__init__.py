"""Solvers of dx = D d(alpha) + eps_hat d(sigma), each an (init, step) pair."""

from jaxdiff.solvers.ancestral import Ancestral
from jaxdiff.solvers.onestep import DDIM, Euler, Heun

__all__ = ["DDIM", "Ancestral", "Euler", "Heun"]
