"""Why guide with a bad version of yourself? The 2-D toy of autoguidance, with its figure.

    python benchmarks/toy2d.py --out=docs/results/toy2d.png

Trains three small networks on a tree in the plane whose exact score is known, on the CPU
in minutes: the main one on class A, a guide on class A with half the width and an eighth of
the steps, and, for classifier-free guidance, that guide's twin on both classes, A and B, so
that the two ways differ in what the guide knows alone. Each way of sampling then follows
the same starting points down 32 steps of Heun, and is judged by
  ln p         median log-density of the samples under the truth, in nats;
  off          share of them below the 1 % quantile of true points: 1 % is right;
  far          share of them further than 0.03, a twig's length, from any true point;
  coverage     share of true points with a sample no further off than their 5th neighbour
               among as many true points: 97 % for fresh true points, 0 on a lost twig.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.patches import Rectangle
from sklearn.neighbors import NearestNeighbors

import jaxdiff as jd
from jaxdiff.analysis import plots
from jaxdiff.runtime.files import write_atomically
from jaxdiff.types import Denoiser, NoiseLevel

sys.path.insert(0, str(Path(__file__).parents[1]))
from examples import toy2d
from jaxdiff.commands import command

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OUT = flags.DEFINE_string("out", "docs/results/toy2d.png", "Where the figure goes, a PNG.")
STEPS = flags.DEFINE_integer(
    "steps", 4096, "Training steps of the main network, a multiple of 512.", lower_bound=512
)
BATCH = flags.DEFINE_integer("batch", 4096, "Points a training step.", lower_bound=1)
NUMBER = flags.DEFINE_integer("number", 8192, "How many samples.", lower_bound=100)
CFG = flags.DEFINE_float("cfg", 4.0, "Scale of classifier-free guidance, 1 = none.")
AUTO = flags.DEFINE_float("auto", 3.0, "Scale of autoguidance, 1 = none.")
SEED = flags.DEFINE_integer("seed", 0, "Seed of everything random.", lower_bound=0)

CLEAN = NoiseLevel(1.0, 0.0)
NEIGHBOURS = 5
FAR = 0.03


@dataclass(frozen=True)
class Panel:
    """Samples, which of them lie off the tree, and what they are worth."""

    x: Float[np.ndarray, "N 2"]
    off: Bool[np.ndarray, " N"]
    log_density: float
    far: float
    coverage: float


def main() -> None:
    """Trains, samples, judges, draws."""
    if STEPS.value % 512:
        raise ValueError(f"--steps must be a multiple of 512, got {STEPS.value}")
    train, draw = jax.random.split(jax.random.key(SEED.value))
    data = toy2d.fractal("A")
    panels = judged(data, sampled(data, trained(train), draw), draw)
    print(f"{'':24}{'ln p':>7}{'off':>9}{'far':>9}{'coverage':>10}")
    for name, p in panels.items():
        shares = f"{p.off.mean():9.1%}{p.far:9.1%}{p.coverage:10.1%}"
        print(f"{name:24}{p.log_density:7.2f}{shares}")
    figure = drawn(data, panels)
    path = Path(OUT.value)
    write_atomically(path, lambda file: figure.savefig(file, format="png"))
    print(f"wrote {path}")


def trained(key: jax.Array) -> Mapping[str, Denoiser]:
    """The three networks, of one key: they see points drawn by the same numbers."""
    recipes = {
        "main": ("A", 64, STEPS.value),
        "guide": ("A", 32, STEPS.value // 8),
        "both classes": ("AB", 32, STEPS.value // 8),
    }
    denoisers = {}
    for name, (classes, features, steps) in recipes.items():
        data, network = toy2d.fractal(classes), toy2d.EnergyMLP(features)
        params = toy2d.train(data, network, steps, key, BATCH.value, name)
        denoisers[name] = toy2d.learned(network, params)
    return denoisers


def sampled(
    data: toy2d.Mixture, denoisers: Mapping[str, Denoiser], key: jax.Array
) -> dict[str, Float[np.ndarray, "N 2"]]:
    """Every way of sampling, from the same points of p(x; sigma_max)."""
    d, weak, both = (denoisers[name] for name in ("main", "guide", "both classes"))
    x = toy2d.start(data, jax.random.fold_in(key, 0), NUMBER.value)
    ways = {
        "No guidance": d,
        "The guide alone": weak,
        f"CFG, scale {CFG.value:g}": jd.guide(d, (both, CFG.value - 1)),
        f"Autoguidance, scale {AUTO.value:g}": jd.guide(d, (weak, AUTO.value - 1)),
    }
    last = lambda way: jax.jit(lambda x: toy2d.follow(way, x)[-1])(x)
    truth = data.draw(jax.random.fold_in(key, 1), NUMBER.value)
    points = {"Ground truth": truth, **{name: last(way) for name, way in ways.items()}}
    return {name: np.asarray(x) for name, x in points.items()}


def judged(
    data: toy2d.Mixture, samples: Mapping[str, Float[np.ndarray, "N 2"]], key: jax.Array
) -> dict[str, Panel]:
    """What samples are worth, against true points of their own."""
    true = np.asarray(data.draw(jax.random.fold_in(key, 2), NUMBER.value))
    density = lambda x: np.asarray(data.log_density(jnp.asarray(x), CLEAN), np.float64)
    threshold = np.quantile(density(true), 0.01)  # about -1.9
    among = NearestNeighbors().fit(true)
    radius = among.kneighbors(true, NEIGHBOURS + 1)[0][:, -1]  # the first is itself
    panels = {}
    for name, x in samples.items():
        log_p = density(x)
        distance = NearestNeighbors().fit(x).kneighbors(true, 1)[0][:, 0]
        panels[name] = Panel(
            x=x,
            off=log_p < threshold,
            log_density=float(np.median(log_p)),
            far=float(np.mean(among.kneighbors(x, 1)[0] > FAR)),
            coverage=float(np.mean(distance <= radius)),
        )
    return panels


WHOLE = (-0.73, 1.53, -0.71, 1.55)
ZOOM = (0.76, 1.34, -0.07, 0.51)
GREYS = ListedColormap([plots.LINES, plots.PALE, plots.GREY])
OUTLINE = {"colors": plots.GREY, "linewidths": 0.5, "linestyles": "solid", "zorder": 1}


def drawn(data: toy2d.Mixture, panels: Mapping[str, Panel]) -> "Figure":
    """One column for each way of sampling: the whole tree, and a part of it below."""
    figure = plots.figure("", 5.0, dpi=160)
    rows = figure.subplots(2, len(panels), squeeze=False)
    for box, size, row in ((WHOLE, 0.5, rows[0]), (ZOOM, 4.0, rows[1])):
        contours = _log_density(data, box)
        for axes, panel in zip(row, panels.values(), strict=True):
            _tree(axes, *contours, box)
            for kind, colour in ((~panel.off, plots.BLUE), (panel.off, plots.VERMILION)):
                axes.scatter(*panel.x[kind].T, s=size, c=colour, lw=0, zorder=2)
    for axes, below, (name, panel) in zip(*rows, panels.items(), strict=True):
        axes.set_title(name, weight="bold", color=plots.INK)
        side = ZOOM[1] - ZOOM[0]
        axes.add_patch(Rectangle(ZOOM[::2], side, side, fc="none", ec=plots.INK, lw=0.9))
        text = f"{panel.off.mean():.0%} off · covers {panel.coverage:.0%}"
        below.set_xlabel(text, size=plots.SIZES["label"], color=plots.INK)
    return figure


def _log_density(
    data: toy2d.Mixture, box: tuple[float, ...], size: int = 360
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x, y and ln p on a grid."""
    x, y = np.linspace(*box[:2], size), np.linspace(*box[2:], size)
    grid = jnp.asarray(np.stack(np.meshgrid(x, y), -1).reshape(-1, 2), jnp.float32)
    return x, y, np.asarray(data.log_density(grid, CLEAN)).reshape(size, size)


def _tree(
    axes: Axes,
    x: np.ndarray,
    y: np.ndarray,
    log_p: np.ndarray,
    box: tuple[float, ...],
) -> None:
    """Contours of the true density, in greys, on a plain square."""
    axes.contourf(x, y, log_p, levels=[-1.9, 0.5, 1.8, 99], cmap=GREYS, zorder=0)
    axes.contour(x, y, log_p, levels=[-1.9], **OUTLINE)
    axes.set(xlim=box[:2], ylim=box[2:], aspect="equal", xticks=[], yticks=[])
    axes.spines[:].set(color=plots.PALE, lw=0.8)


if __name__ == "__main__":
    command.run(main)
