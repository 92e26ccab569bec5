"""Zero terminal SNR on emoji: is what is drawn as bright as the data?

    for NAME in eps v; do
        jaxdiff train --config=openmoji_ztsnr:$NAME \\
            --workdir=runs/ztsnr/$NAME
    done
    python benchmarks/zero_terminal_snr.py --runs=runs/ztsnr --out=docs/results

Draws 512 images, of the same seeds and of labels in the data's proportions, in 50 Euler
steps (DDIM with eta = 0): with eps on Stable Diffusion's table by its own leading entries,
offset 1; with eps by trailing entries; and with v on the table with zero terminal SNR by
trailing entries. Compares their brightness, an image's mean over pixels and channels in
[-1, 1], with that of the training images, and with what a perfect network would give:

In noise of std sigma the brightness of x, an average of d elements, is alpha b + n with
n ~ N(0, sigma^2 / d). Were the data's b ~ N(m, s^2) and independent of the rest, the
probability-flow ODE would map its marginal N(alpha m, alpha^2 s^2 + sigma^2 / d) onto
N(m, s^2) by a straight line. A sampler that starts with sigma N(0, I) lacks alpha m, so

    b = m - s alpha m / r + N(0, s^2 sigma^2 / (d r^2)),   r^2 = alpha^2 s^2 + sigma^2 / d

Prints a table, and writes zero_terminal_snr.png, .json and a sheet of samples for each.
Takes some 10 minutes on 2 busy CPU cores. Needs `pip install -e ".[openmoji]"`, whose
drawings are CC BY-SA 4.0.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import study
from absl import flags
from jaxtyping import Float64, Int, UInt8
from scipy.stats import wasserstein_distance
from tqdm import tqdm

from jaxdiff.analysis import image_grid, plots
from jaxdiff.config import Sampling
from jaxdiff.data import Dataset, OpenMoji, Pixels
from jaxdiff.runs import generate, restoring
from jaxdiff.runtime import sharding
from jaxdiff.sampling.grids import Leading, Trailing
from jaxdiff.types import Grid, NoiseLevel

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NUMBER = flags.DEFINE_integer("number", 512, "How many images.", lower_bound=2)

STEPS, SHEET, SIZE = 50, 64, 32
Brightness = Float64[np.ndarray, " N"]


@dataclass(frozen=True)
class Recipe:
    """A run, and the grid that samples it."""

    run: str
    grid: Grid
    title: str


RECIPES = {
    "eps-leading": Recipe("eps", Leading(offset=1), "ε, SD's table, leading steps"),
    "eps-trailing": Recipe("eps", Trailing(), "ε, SD's table, trailing steps"),
    "v-trailing": Recipe("v", Trailing(), "v, zero terminal SNR, trailing steps"),
}


def main() -> None:
    """Draws what is missing, prints, draws the figure."""
    runs = study.runs("configs/openmoji_ztsnr.py", ("eps", "v"))
    book, data = study.book("zero_terminal_snr"), OpenMoji(size=SIZE).load()
    for name in tqdm(RECIPES, desc="samplers", disable=None):
        measure(book, name, runs[RECIPES[name].run], data)
    real = brightness(data.source.image)
    held = brightness(OpenMoji(size=SIZE, split="test").load().source.image)
    print_tables(book, real, held)
    study.save(draw(book, real), "zero_terminal_snr")
    image_grid.save_grid(sheet("data"), data.source.image[:: len(data) // SHEET][:SHEET])


def brightness(images: UInt8[np.ndarray, "N H W C"]) -> Brightness:
    """Mean over pixels and channels of each image, black -1 and white 1."""
    return images.reshape(len(images), -1).mean(1, dtype=np.float64) / 127.5 - 1


def proportional(label: Int[np.ndarray, " N"], number: int) -> Int[np.ndarray, " n"]:
    """`number` labels in the proportions of these, in an order that is always the same."""
    middle = ((np.arange(number) + 0.5) / number * len(label)).astype(int)
    return np.random.default_rng(0).permutation(np.sort(label)[middle])


def predicted(
    at: NoiseLevel, mean: float, std: float, elements: int
) -> tuple[float, float]:
    """Mean and std of the brightness drawn from sigma N(0, I) at a level; see the top.

    >>> predicted(NoiseLevel(0.0, 1.0), 0.5, 0.1, 3072)
    (0.5, 0.1)
    """
    signal, noise = float(at.alpha) * std, float(at.sigma) / np.sqrt(elements)
    r = float(np.hypot(signal, noise))
    return float(mean - std * float(at.alpha) * mean / r), float(std * noise / r)


def key(name: str) -> dict[str, Any]:
    """What a row is found by."""
    return {"sampler": name, "steps": STEPS, "images": NUMBER.value}


def sheet(name: str) -> Path:
    """The file of a sheet of samples."""
    return study.command.folder(study.OUT) / f"zero_terminal_snr_{name}.png"


def measure(book: study.Book, name: str, folder: Path, data: Dataset) -> None:
    """Draws, keeps every image's brightness, and writes the sheet."""
    if book.find(**key(name)) and sheet(name).exists():
        return
    run, recipe = restoring.restore(folder), RECIPES[name]
    sampling: Sampling = dataclasses.replace(
        run.experiment.sampling, grid=recipe.grid, steps=STEPS
    )
    experiment = dataclasses.replace(run.experiment, sampling=sampling)
    images = generate.images(
        generate.sampler(experiment),
        run.variables,
        Pixels(),
        np.arange(NUMBER.value),
        proportional(data.source.label, NUMBER.value),
        sharding.data_mesh(),
        64,
        progress=True,
    )
    image_grid.save_grid(sheet(name), images[:SHEET])
    start = recipe.grid(run.experiment.schedule, STEPS)[0]
    row = {"alpha": float(start.alpha), "sigma": float(start.sigma)}
    book.write(key(name), {**row, "brightness": np.round(brightness(images), 4)})


def print_tables(book: study.Book, real: Brightness, held: Brightness) -> None:
    """Brightness and its distance to the data's, beside the theory's."""
    rows = [
        [f"training images ({len(real)})", "", *_summary(real, real), "", ""],
        [f"held-out images ({len(held)})", "", *_summary(held, real), "", ""],
    ]
    for name, recipe in RECIPES.items():
        row = book.find(**key(name))
        start = NoiseLevel(row["alpha"], row["sigma"])
        theory = predicted(start, real.mean(), real.std(), 3 * SIZE**2)
        measured = _summary(np.array(row["brightness"]), real)
        expected = (f"{number:.3f}" for number in theory)
        rows.append([recipe.title, f"{start.alpha:.4f}", *measured, *expected])
    head = ("images", "α at the start", "mean", "std", "W₁", "mean in theory", "std")
    print(study.table(head, rows))


def _summary(some: Brightness, real: Brightness) -> list[str]:
    """Mean, standard deviation, and Wasserstein-1 distance to the training images."""
    distance = wasserstein_distance(some, real)
    return [f"{number:.3f}" for number in (some.mean(), some.std(), distance)]


def draw(book: study.Book, real: Brightness) -> "Figure":
    """The histogram of each sampler over that of the data."""
    figure, axes = plots.panels("Brightness of emoji, drawn and real", 3.3, 1, 3)
    bins = np.linspace(-1, 1, 41)
    for panel, (name, recipe) in zip(axes, RECIPES.items(), strict=True):
        (look,) = plots.looks([name.partition("-")[2]])
        colour = look["color"]
        drawn = np.array(book.find(**key(name))["brightness"])
        panel.hist(real, bins, density=True, color=plots.PALE, label="training images")
        look = {"histtype": "step", "color": colour, "lw": 1.8}
        panel.hist(drawn, bins, density=True, label="samples", **look)
        panel.axvline(real.mean(), color=plots.GREY, lw=1)
        panel.axvline(drawn.mean(), color=colour, lw=1, ls=(0, (4, 2)))
        distance = wasserstein_distance(drawn, real)
        panel.set_title(f"{recipe.title}\nW₁ = {distance:.3f}")
        panel.set(xlabel="mean of an image   [black −1, white 1]", xlim=(-0.25, 1))
        panel.set_ylim(top=1.35 * panel.get_ylim()[1])
        plots.legend(panel, loc="upper left")
    axes[0].set(ylabel="density   [1]")
    return figure


if __name__ == "__main__":
    study.run(main)
