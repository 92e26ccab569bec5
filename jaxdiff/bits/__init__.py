"""Bits/dim of a run on a data set: `bound` by the variational bound, `flow` by densities.

Both have `measure`, which goes through the images, and `report`, `table` and `save_plot`
for what it found; `images` is the way through the images, batch by batch.
"""

from jaxdiff.bits import bound, flow, images

__all__ = ["bound", "flow", "images"]
