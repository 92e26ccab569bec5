"""Zero terminal SNR: is it the table or the prediction that mends the brightness?

    python benchmarks/table_or_prediction.py --runs=runs/table_or_prediction

The study of docs/results/zero_terminal_snr.md changes both at once, from eps on Stable
Diffusion's table to v on that table with zero terminal SNR, where eps is not defined. This
one has the missing control, v on Stable Diffusion's table: nine runs, three trainings with
three seeds each, in folders NAME-SEED, on emoji of 8x8 pixels. No result is published yet.

Draws 512 images of each run, of the same seeds and of labels in the data's proportions, in
50 Euler steps (DDIM with eta = 0), on three grids of the table's entries [ZTSNR tab. 2]:
leading with offset 1 as Stable Diffusion's sampler, linspace, and trailing. Measured is the
brightness, an image's mean over pixels and channels in [-1, 1], beside that of the training
images and of what a perfect network would draw, which depends on the first level alone and
not on the prediction (`predicted` of zero_terminal_snr.py).

Stopped and started again it goes on. Prints tables, and writes table_or_prediction.png and
.json to --out. Needs `pip install -e ".[openmoji]"`, whose drawings are CC BY-SA 4.0.
"""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import study
from jaxtyping import Float64
from scipy.stats import wasserstein_distance
from small_network import ResidualMLP
from tqdm import tqdm
from zero_terminal_snr import Brightness, brightness, predicted, proportional

import jaxdiff as jd
from jaxdiff.analysis import plots
from jaxdiff.config import Experiment, Sampling
from jaxdiff.data import OpenMoji, Pixels
from jaxdiff.objectives.timesteps import UniformEntries
from jaxdiff.optim import AdamW
from jaxdiff.runs import generate, restoring
from jaxdiff.runtime import provenance, sharding
from jaxdiff.types import NoiseLevel

if TYPE_CHECKING:
    from matplotlib.figure import Figure


SEEDS = (0, 1, 2)
TRAINING_STEPS, BATCH, DECAY = 3000, 64, 0.997
SIZE, IMAGES, STEPS = 8, 512, 50
ORDINARY = jd.Table(jd.ScaledLinearBetas())
TRAININGS = {
    "eps": (ORDINARY, jd.Eps()),
    "v": (ORDINARY, jd.V()),
    "v-zero": (jd.zero_terminal_snr(ORDINARY), jd.V()),
}
NAMES = {"eps": "ε, SD's table", "v": "v, SD's table", "v-zero": "v, zero terminal SNR"}
GRIDS = {
    "leading": jd.grids.Leading(offset=1),
    "linspace": jd.grids.Linspace(),
    "trailing": jd.grids.Trailing(),
}
BINS = np.linspace(-0.25, 1, 51)
"""Of the histograms; brightness outside counts for the bins at the ends."""


def main() -> None:
    """Trains and measures what is missing, prints, draws."""
    book = study.book("table_or_prediction")
    measure(book)
    for title, table in tables(book).items():
        print(f"{title}\n\n{table}\n")
    print(study.save(draw(book), "table_or_prediction"))


def experiment(name: str, seed: int) -> Experiment:
    """One training."""
    table, prediction = TRAININGS[name]
    return Experiment(
        data=OpenMoji(size=SIZE),
        network=ResidualMLP(label_dim=-1, width=256),
        schedule=table,
        times=UniformEntries(),
        parameterization=prediction,
        loss=jd.WeightedError(jd.UniformOnNetwork(prediction)),
        optimizer=AdamW(learning_rate=1e-3, rampup_images=10_000.0, decays=(DECAY,)),
        sampling=Sampling(
            grid=jd.grids.Trailing(), steps=STEPS, solver=jd.Euler(), std=DECAY
        ),
        batch_size=BATCH,
        steps=TRAINING_STEPS,
        seed=seed,
        log_every=250,
        sample_every=0,
        checkpoint_every=500,
    )


def folder(name: str, seed: int) -> Path:
    """A run, trained where it is missing."""
    return study.trained(f"{name}-{seed}", experiment(name, seed))


def key(name: str, seed: int, grid: str) -> dict[str, Any]:
    """What a row is found by."""
    at = {"training": name, "seed": seed, "grid": grid}
    return {"what": "brightness", **at, "steps": STEPS, "images": IMAGES}


def measure(book: study.Book) -> None:
    """The data's brightness, and that of each run on each grid, where missing."""
    real = brightness(OpenMoji(size=SIZE).load().source.image)
    if not book.find(what="data"):
        held = brightness(OpenMoji(size=SIZE, split="test").load().source.image)
        for split, some in (("train", real), ("test", held)):
            book.write({"what": "data", "split": split}, summary(some, real))
    every = [(name, grid, seed) for name in TRAININGS for grid in GRIDS for seed in SEEDS]
    for name, grid, seed in tqdm(every, desc="sets of images", disable=None):
        if book.find(**key(name, seed, grid)):
            continue
        start = GRIDS[grid](TRAININGS[name][0], STEPS)[0]
        made = {
            "trained": study.commits(folder(name, seed)),
            "measured": study.short(provenance.commit_of(__file__)),
        }
        level = {"alpha": float(start.alpha), "sigma": float(start.sigma)}
        some = brightness(drawn(name, seed, grid))
        book.write(key(name, seed, grid), {**level, **summary(some, real), **made})


def drawn(name: str, seed: int, grid: str) -> np.ndarray:
    """A set of images, uint8."""
    run = restoring.restore(folder(name, seed))
    sampling = dataclasses.replace(run.experiment.sampling, grid=GRIDS[grid])
    return generate.images(
        generate.sampler(dataclasses.replace(run.experiment, sampling=sampling)),
        run.variables,
        Pixels(),
        1_000_000 + np.arange(IMAGES),
        proportional(OpenMoji(size=SIZE).load().source.label, IMAGES),
        sharding.data_mesh(),
        IMAGES,
    )


def summary(some: Brightness, real: Brightness) -> dict[str, Any]:
    """Number, mean, std, Wasserstein-1 distance to the training images, histogram."""
    return {
        "number": len(some),
        "mean": some.mean(),
        "std": some.std(),
        "w1": wasserstein_distance(some, real),
        "histogram": np.histogram(np.clip(some, BINS[0], BINS[-1]), BINS)[0].tolist(),
    }


def values(
    book: study.Book, name: str, grid: str, field: str
) -> Float64[np.ndarray, " seeds"]:
    """A field, a number a seed."""
    seeds = sorted({row["seed"] for row in book.rows if row["what"] == "brightness"})
    return np.array([book.find(**key(name, seed, grid))[field] for seed in seeds])


def theory(book: study.Book, name: str, grid: str) -> tuple[float, float]:
    """Mean and std of the brightness that a perfect network draws."""
    data = book.find(what="data", split="train")
    row = book.find(**key(name, 0, grid))
    start = NoiseLevel(row["alpha"], row["sigma"])
    return predicted(start, data["mean"], data["std"], 3 * SIZE**2)


def tables(book: study.Book) -> dict[str, str]:
    """By title: brightness of each training on each grid; the shares of the effect."""
    rows = []
    for split, title in (("train", "training images"), ("test", "held-out images")):
        data = book.find(what="data", split=split)
        numbers = (f"{data[field]:.3f}" for field in ("mean", "std", "w1"))
        rows.append([f"{title} ({data['number']:,})", "", "", *numbers, "", ""])
    for name, title in NAMES.items():
        for grid in GRIDS:
            alpha = values(book, name, grid, "alpha")[0]
            fields = ("mean", "std", "w1")
            cells = (spread(values(book, name, grid, field)) for field in fields)
            expected = (f"{number:.3f}" for number in theory(book, name, grid))
            rows.append([title, grid, f"{alpha:.4f}", *cells, *expected])
    head = "training", "grid", "α at the start", "mean", "std", "W₁", "mean in theory"
    said = {"brightness": study.table([*head, "std in theory"], rows)}
    rows = []
    for grid in GRIDS:
        mean = {name: values(book, name, grid, "mean") for name in TRAININGS}
        expected = {name: theory(book, name, grid)[0] for name in TRAININGS}
        shares = ("eps", "v"), ("v", "v-zero"), ("eps", "v-zero")
        cells = (spread(mean[to] - mean[at], "{:+.3f} ± {:.3f}") for at, to in shares)
        rows.append([grid, *cells, f"{expected['v-zero'] - expected['v']:+.3f}"])
    head = "grid", "prediction: ε to v", "table: v to zero SNR", "both", "table, in theory"
    said["shares"] = study.table(head, rows)
    return said


def spread(values: Float64[np.ndarray, " seeds"], style: str = "{:.3f} ± {:.3f}") -> str:
    """Mean and standard deviation over seeds.

    >>> spread(np.array([-3.0, -2.0, -1.0]), "{:+.1f} ± {:.1f}")
    '−2.0 ± 1.0'
    """
    return style.format(values.mean(), values.std(ddof=1)).replace("-", "−")


def draw(book: study.Book) -> "Figure":
    """Histograms of brightness, a panel for each training, a line for each grid."""
    title = "Brightness of emoji: three trainings, three grids, three seeds of each"
    figure, axes = plots.panels(title, 3.3, 1, 3)
    data = book.find(what="data", split="train")
    density = lambda counts: np.asarray(counts) / np.sum(counts) / np.diff(BINS)
    for panel, (name, title) in zip(axes, NAMES.items(), strict=True):
        panel.stairs(
            density(data["histogram"]), BINS, fill=True, color=plots.PALE, label="data"
        )
        for grid, look in zip(GRIDS, plots.looks(GRIDS), strict=True):
            counts = values(book, name, grid, "histogram").sum(0)
            label = f"{grid}: mean {values(book, name, grid, 'mean').mean():.2f}"
            panel.stairs(density(counts), BINS, **look, label=label)
        panel.axvline(data["mean"], color=plots.GREY, lw=1)
        panel.set(title=title, xlabel="mean of an image   [black −1, white 1]")
        panel.set_ylim(top=1.6 * panel.get_ylim()[1])
        plots.legend(panel, loc="upper left")
    axes[0].set(ylabel="density   [1]")
    return figure


if __name__ == "__main__":
    study.run(main)
