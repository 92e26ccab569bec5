"""The reverse process: from noise to data along a grid of noise levels.

`sample` runs one scan over the steps of a grid; `grids` has the levels to visit, `solvers`
the steps between them, `guidance` combines denoisers, and `editing` starts from an image
instead of noise.
"""

from jaxdiff.sampling.sample import (
    Trajectory,
    evaluations,
    follow,
    normal,
    sample,
    trajectory,
)

__all__ = ["Trajectory", "evaluations", "follow", "normal", "sample", "trajectory"]
