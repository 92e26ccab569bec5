"""Objectives: what training minimises.

`timesteps` has the distributions that t is drawn from, `weightings` the weight of the x0
error at each noise level, and `losses` the loss terms built from both.
"""

from jaxdiff.objectives import losses, timesteps, weightings

__all__ = ["losses", "timesteps", "weightings"]
