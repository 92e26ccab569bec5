"""Pictures of what is estimated of states: kernel densities, of Scott's bandwidth."""

from typing import Any

import numpy as np
from jaxtyping import Float


def draw_densities(
    axes: Any, nominal: float, kinds: dict[str, Float[np.ndarray, " n"]]
) -> None:
    """On Matplotlib axes, the density of each kind's estimates and the nominal level.

    >>> from jaxdiff.analysis import plots
    >>> _, (axes,) = plots.panels("", 3.0)
    >>> kinds = {"forward": np.arange(-2.0, 3), "sampled": np.arange(-1.0, 4)}
    >>> draw_densities(axes, 0.0, kinds)
    >>> at, density = axes.lines[1].get_data()
    >>> axes.lines[1].get_label(), round(float(at[density.argmax()]), 1)  # their mean
    ('sampled', 1.0)
    """
    from scipy.stats import gaussian_kde

    from jaxdiff.analysis.plots import INK

    every = np.concatenate([*kinds.values()])
    margin = 0.1 * np.ptp(every)
    at = np.linspace(every.min() - margin, every.max() + margin, 200)
    for name, values in kinds.items():
        if np.ptp(values):
            axes.plot(at, gaussian_kde(values)(at), label=name)
        else:  # all are the same
            axes.axvline(values[0], label=name)
    axes.axvline(nominal, color=INK, lw=0.8, ls=":")
