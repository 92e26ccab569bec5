"""What a schedule, a weighting and a grid do, as arrays and as pictures; sheets of images.

curves           paths, densities of noise levels, effective weightings, steps, as arrays
plots            those as figures
image_grid       sheets of images with labels: `grid`, `save_grid`, `show`
training_curves  `save_curves`, of a run
"""

from etils import epy

with epy.lazy_api_imports(globals()):
    from jaxdiff.analysis import curves, image_grid, plots
    from jaxdiff.analysis.image_grid import grid, save_grid, show
    from jaxdiff.analysis.training_curves import save_curves

__all__ = ["curves", "grid", "image_grid", "plots", "save_curves", "save_grid", "show"]
