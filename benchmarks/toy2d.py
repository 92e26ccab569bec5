"""Why guide with a bad version of yourself? The 2-D toy of autoguidance, with its figure.

    python benchmarks/toy2d.py --runs=runs/toy2d

For each of three keys trains three small networks on a tree in the plane whose exact score
is known: the main one on class A, a guide on class A with half the width and an eighth of
the steps, and, for classifier-free guidance, that guide's twin on both classes, A and B, so
that the two ways differ in what the guide knows alone. Autoguidance is done twice, with the
guide of the main network's key and with that of the next. Each way of sampling follows the
same starting points down 32 steps of Heun, and is judged by

    ln p        median log-density of the samples under the truth, in nats
    off         share of them below the 1 % quantile of true points: 1 % is right
    far         share of them further than 0.03, a twig's length, from any true point
    coverage    share of true points with a sample no further off than their 5th neighbour
                among as many true points: 97 % for fresh true points, 0 on a lost twig

Networks are kept in --runs, NAME-SEED.msgpack: stopped and started again it goes on.
Prints a table, and writes toy2d.png, of the first key, and .json to --out.
"""

import functools
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import study
from flax import serialization
from jaxtyping import Array, Bool, Float
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.patches import Rectangle
from sklearn.neighbors import NearestNeighbors
from tqdm import tqdm

import jaxdiff as jd
from jaxdiff.analysis import plots
from jaxdiff.runtime import provenance
from jaxdiff.runtime.files import write_atomically
from jaxdiff.types import Denoiser, NoiseLevel

sys.path.insert(0, str(Path(__file__).parents[1]))
from examples import toy2d

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SEEDS = (0, 1, 2)
STEPS, BATCH, NUMBER = 4096, 4096, 8192
RECIPES = {
    "main": ("A", 64, STEPS),
    "guide": ("A", 32, STEPS // 8),
    "both": ("AB", 32, STEPS // 8),
}
"""Classes, features and training steps of each network."""
CFG, AUTO = 4.0, 3.0
"""Scales, 1 = none."""
WAYS = {
    "true": "true points",
    "none": "main network, unguided",
    "weak": "guide alone",
    "cfg": f"classifier-free guidance, scale {CFG:g}",
    "auto": f"autoguidance, scale {AUTO:g}",
    "other": "autoguidance, a guide of another key",
}
DRAWN = {
    "true": "Ground truth",
    "none": "No guidance",
    "weak": "The guide alone",
    "cfg": f"CFG, scale {CFG:g}",
    "auto": f"Autoguidance, scale {AUTO:g}",
}
FIELDS = {
    "log_density": ("median ln p", "{:.2f} ± {:.2f}"),
    "off": ("off", "{:.1%} ± {:.1%}"),
    "far": ("far", "{:.1%} ± {:.1%}"),
    "coverage": ("coverage", "{:.1%} ± {:.1%}"),
}
CLEAN = NoiseLevel(1.0, 0.0)
NEIGHBOURS = 5
FAR = 0.03


def main() -> None:
    """Trains and measures what is missing, prints, draws."""
    book, data = study.book("toy2d"), toy2d.fractal("A")
    made = {"measured": study.short(provenance.commit_of(__file__))}
    for seed in tqdm(SEEDS, desc="keys", disable=None):
        for way in WAYS:
            key = {"way": way, "seed": seed, "number": NUMBER}
            if not book.find(**key):
                log_p, far, covers = judged(data, sampled(way, seed), seed)
                verdict = {"log_density": float(np.median(log_p))}
                verdict["off"] = float(np.mean(log_p < threshold(data, seed)))
                book.write(key, {**verdict, "far": far, "coverage": covers, **made})
    print(table(book))
    print(study.save(draw(book, data), "toy2d"))


def keys(seed: int) -> tuple[Array, Array]:
    """Of training, the same for the networks of a seed, and of what is drawn."""
    train, draw = jax.random.split(jax.random.key(seed))
    return train, draw


@functools.cache
def trained(name: str, seed: int) -> Denoiser:
    """A network, from --runs or trained and saved there.

    Those of one seed have one key: they see points drawn by the same numbers.
    """
    classes, features, steps = RECIPES[name]
    data, network = toy2d.fractal(classes), toy2d.EnergyMLP(features)
    path = study.command.folder(study.RUNS) / f"{name}-{seed}.msgpack"
    if path.exists():
        init = lambda: network.init(jax.random.key(0), jnp.zeros((1, 2)), jnp.zeros(()))
        params = serialization.from_bytes(jax.eval_shape(init), path.read_bytes())
    else:
        train, _ = keys(seed)
        params = toy2d.train(data, network, steps, train, BATCH, f"{name}-{seed}")
        write_atomically(path, lambda file: file.write(serialization.to_bytes(params)))
    return toy2d.learned(network, params)


@functools.cache
def sampled(way: str, seed: int) -> Float[np.ndarray, "N 2"]:
    """Samples, of all ways from the same points of p(x; sigma_max)."""
    data, (_, key) = toy2d.fractal("A"), keys(seed)
    if way == "true":
        return np.asarray(data.draw(jax.random.fold_in(key, 1), NUMBER))
    x = toy2d.start(data, jax.random.fold_in(key, 0), NUMBER)
    denoise = guided(way, seed)
    return np.asarray(jax.jit(lambda x: toy2d.follow(denoise, x)[-1])(x))


def guided(way: str, seed: int) -> Denoiser:
    """What is followed."""
    main = trained("main", seed)
    if way == "none":
        return main
    if way == "weak":
        return trained("guide", seed)
    if way == "cfg":
        return jd.guide(main, (trained("both", seed), CFG - 1))
    other = SEEDS[(SEEDS.index(seed) + 1) % len(SEEDS)]
    return jd.guide(main, (trained("guide", seed if way == "auto" else other), AUTO - 1))


@functools.cache
def true_points(seed: int) -> Float[np.ndarray, "N 2"]:
    """Those that samples are held against."""
    _, key = keys(seed)
    return np.asarray(toy2d.fractal("A").draw(jax.random.fold_in(key, 2), NUMBER))


def density(data: toy2d.Mixture, x: Float[np.ndarray, "N 2"]) -> Float[np.ndarray, " N"]:
    """ln p of the truth."""
    return np.asarray(data.log_density(jnp.asarray(x), CLEAN), np.float64)


def threshold(data: toy2d.Mixture, seed: int) -> float:
    """The 1 % quantile of ln p of true points, about -1.9."""
    return float(np.quantile(density(data, true_points(seed)), 0.01))


def judged(
    data: toy2d.Mixture, x: Float[np.ndarray, "N 2"], seed: int
) -> tuple[Float[np.ndarray, " N"], float, float]:
    """ln p of samples, the share that is far off, and the share of the tree they cover.

    A sample that is not finite is far off, and covers nothing.
    """
    true, finite = true_points(seed), np.isfinite(x).all(1)
    among = NearestNeighbors().fit(true)
    radius = among.kneighbors(true, NEIGHBOURS + 1)[0][:, -1]  # the first is itself
    distance = NearestNeighbors().fit(x[finite]).kneighbors(true, 1)[0][:, 0]
    near = among.kneighbors(x[finite], 1)[0] <= FAR
    log_p = np.where(finite, density(data, np.where(finite[:, None], x, 0.0)), -np.inf)
    return log_p, 1 - float(near.sum()) / len(x), float(np.mean(distance <= radius))


def values(book: study.Book, way: str, field: str) -> Float[np.ndarray, " seeds"]:
    """A number a key."""
    rows = (book.find(way=way, seed=seed, number=NUMBER) for seed in SEEDS)
    return np.array([row[field] for row in rows if row])


def table(book: study.Book) -> str:
    """Mean and standard deviation over keys."""
    rows = []
    for way, name in WAYS.items():
        cells = []
        for field, (_, style) in FIELDS.items():
            seeds = values(book, way, field)
            cells.append(style.format(seeds.mean(), seeds.std(ddof=1)))
        rows.append([name, *(cell.replace("-", "−").replace("%", " %") for cell in cells)])
    return study.table(["", *(head for head, _ in FIELDS.values())], rows)


WHOLE = (-0.73, 1.53, -0.71, 1.55)
ZOOM = (0.76, 1.34, -0.07, 0.51)
GREYS = ListedColormap([plots.LINES, plots.PALE, plots.GREY])
OUTLINE = {"colors": plots.GREY, "linewidths": 0.5, "linestyles": "solid", "zorder": 1}


def draw(book: study.Book, data: toy2d.Mixture) -> "Figure":
    """One column for each way of sampling: the whole tree, and a part of it below."""
    figure, seed = plots.figure("", 5.0, dpi=160), SEEDS[0]
    samples = {way: sampled(way, seed) for way in DRAWN}
    off = {way: density(data, x) < threshold(data, seed) for way, x in samples.items()}
    rows = figure.subplots(2, len(DRAWN), squeeze=False)
    for box, size, row in ((WHOLE, 0.5, rows[0]), (ZOOM, 4.0, rows[1])):
        contours = _log_density(data, box)
        for axes, way in zip(row, DRAWN, strict=True):
            _tree(axes, *contours, box)
            _points(axes, samples[way], off[way], size)
    for axes, below, (way, name) in zip(*rows, DRAWN.items(), strict=True):
        axes.set_title(name, weight="bold", color=plots.INK)
        side = ZOOM[1] - ZOOM[0]
        axes.add_patch(Rectangle(ZOOM[::2], side, side, fc="none", ec=plots.INK, lw=0.9))
        row: Mapping[str, Any] = book.find(way=way, seed=seed)
        text = f"{row['off']:.0%} off · covers {row['coverage']:.0%}"
        below.set_xlabel(text, size=plots.SIZES["label"], color=plots.INK)
    return figure


def _points(
    axes: Axes, x: Float[np.ndarray, "N 2"], off: Bool[np.ndarray, " N"], size: float
) -> None:
    """Samples, those off the tree in another colour."""
    for kind, colour in ((~off, plots.BLUE), (off, plots.VERMILION)):
        axes.scatter(*x[kind].T, s=size, c=colour, lw=0, zorder=2)


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
    study.run(main)
