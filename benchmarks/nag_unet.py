"""Noise awareness guidance on digits: images and noise shift, over w, solvers and steps.

    jaxdiff train --config=digits_nag --workdir=runs/nag
    jaxdiff train --config=digits_nag:level --workdir=runs/level \\
        --config.init_from=runs/nag
    jaxdiff train --config=digits --workdir=runs/digits
    jaxdiff train --config=digits_nag:finetune \\
        --config.init_from=runs/digits --workdir=runs/finetune
    python benchmarks/nag_unet.py --runs=runs --out=docs/results

For each solver, number of steps, guidance by labels and weight w of noise awareness
guidance (at sigma <= 5) it draws blocks of 1,000 images and measures their quality, as
benchmarks/digits_judge.py says it, and the noise shift on the way, against forward states
of the 300 held-out digits. Images of a block have the same seeds everywhere, so differences
within a block are of pairs. Prints tables and writes nag_unet.png and .json.
"""

import dataclasses
import functools
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import digits_judge
import jax
import jax.numpy as jnp
import numpy as np
import study
from absl import flags
from tqdm import tqdm

from jaxdiff.analysis import plots
from jaxdiff.data import Digits, Pixels
from jaxdiff.evaluation import noise_shift
from jaxdiff.evaluation.noise_shift import of_run
from jaxdiff.runs import restoring
from jaxdiff.runtime import sharding
from jaxdiff.sampling import solvers
from jaxdiff.sampling.grids import Karras
from jaxdiff.sampling.guidance import without
from jaxdiff.types import Condition, NoiseLevel

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NUMBER = flags.DEFINE_integer("number", 1000, "Images a block.", lower_bound=20)


@dataclass(frozen=True)
class Cell:
    """One way to sample; noise awareness guidance is on at low < sigma <= high."""

    solver: str
    steps: int
    guidance: float = 0.0
    low: float = 0.0
    high: float = 5.0
    run: str = "nag"

    def __str__(self) -> str:
        text = f"{NAMES[self.solver]}, {self.steps} steps"
        text += f", CFG {self.guidance:g}" if self.guidance else ""
        text += f", {self.low:g} < σ" if self.low else ""
        text += f", σ ≤ {self.high:g}" if self.high != 5 else ""
        return text + (", fine-tuned" if self.run == "finetune" else "")


NAMES = {"EulerMaruyama": "Euler–Maruyama", "Heun": "Heun", "Euler": "Euler"}
EVERY = (0.0, 0.5, 1.0, 2.0)
PLAN = {
    Cell("EulerMaruyama", 10): (EVERY,),
    Cell("Heun", 9): (EVERY, EVERY),
    Cell("Euler", 10): (EVERY, EVERY),
    Cell("EulerMaruyama", 25): (EVERY, EVERY),
    Cell("EulerMaruyama", 25, high=1.0): ((0.5, 1.0, 2.0),),
    Cell("EulerMaruyama", 25, low=0.2): ((0.5, 1.0, 2.0),),
    Cell("Heun", 9, low=0.2): ((0.5, 1.0, 2.0),),
    Cell("EulerMaruyama", 25, guidance=0.5): ((0.0, 0.5, 1.0),),
    Cell("EulerMaruyama", 25, run="finetune"): ((0.0, 0.5, 1.0),),
    Cell("EulerMaruyama", 50): (EVERY,),
    Cell("Heun", 9, guidance=0.5): ((0.0, 0.5, 1.0),),
    Cell("Heun", 18): ((0.0, 0.5, 1.0),),
}
"""For each way to sample, the weights w of each block of images."""
SHOWN = Cell("EulerMaruyama", 25)
UNGUIDED = [cell for cell in PLAN if cell == Cell(cell.solver, cell.steps)]
SIGMAS = (5.0, 1.0, 0.3)
MULTIPLES, GAIN_SIGMAS = (0.8, 1.0, 1.2, 1.5), (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 4.0)
GRID = Karras(sigma_min=0.02, sigma_max=40.0)
"""That of configs/digits_nag.py."""


def main() -> None:
    """Measures what is missing, prints, draws."""
    folders = study.runs("configs/digits_nag.py", ("nag", "level", "finetune"))
    book, judge = study.book("nag_unet"), digits_judge.judge()
    runs = {name: restoring.restore(path) for name, path in folders.items()}
    measure_gains(book, runs)
    measure(book, runs, judge)
    print_tables(book)
    (accuracy, frechet), floor = judge.reference(), judge.floor(NUMBER.value)
    print(f"\n300 held-out real digits: accuracy {accuracy:.1%}, Frechet {frechet:.2f}")
    print(f"{NUMBER.value} draws of the real ones' Gaussian: Frechet {floor:.2f}")
    print(study.save(draw(book), "nag_unet"))


def rows() -> Iterator[tuple[Cell, float, int]]:
    """What there is to measure: ways to sample, weights, blocks."""
    blocks = max(map(len, PLAN.values()))
    for block, (cell, weights) in itertools.product(range(blocks), PLAN.items()):
        if block < len(weights):
            yield from ((cell, w, block) for w in weights[block])


def key(cell: Cell, w: float, block: int) -> dict[str, Any]:
    """What a row is found by."""
    settings = {"w": w, "block": block, "images": NUMBER.value}
    return {**dataclasses.asdict(cell), **settings}


def measure(
    book: study.Book, runs: dict[str, restoring.Restored], judge: digits_judge.Judge
) -> None:
    """Draws and judges; one compiled sampler does for all w > 0 and blocks of a cell."""
    estimator, mesh, count = runs["level"], sharding.data_mesh(), NUMBER.value

    def experiment(cell: Cell, w: float = 0.0) -> Any:
        e = runs[cell.run].experiment
        sampling = dataclasses.replace(
            e.sampling,
            solver=getattr(solvers, cell.solver)(),
            steps=cell.steps,
            guidance=cell.guidance,
            noise_guidance=w,
            noise_interval=(cell.low, cell.high),
        )
        return dataclasses.replace(e, sampling=sampling)

    def watcher(cell: Cell, w: float) -> of_run.Watch:
        of_run.check(experiment(cell), estimator.experiment, aware=w > 0)
        return of_run.watcher(experiment(cell, w), estimator.experiment)

    @functools.cache
    def forward(steps: int) -> tuple[np.ndarray, np.ndarray]:
        levels = of_run.inner_levels(experiment(Cell("Heun", steps)))
        inputs = estimator.experiment, estimator.variables, Digits("test").load(), count
        return of_run.forward(*inputs, levels, mesh)

    missing = [row for row in rows() if not book.find(**key(*row))]
    for cell, w, block in tqdm(missing, desc="blocks of images", disable=None):
        start = time.perf_counter()
        ahead, label = forward(cell.steps)
        seeds = 1_000_000 * (1 + block) + np.arange(count)
        variables = runs[cell.run].variables, estimator.variables
        watch = watcher(cell, w)
        x0, sampled = of_run.sampled(watch, variables, seeds, label, mesh)
        shift = noise_shift.measure(noise_shift.Estimates(sampled, ahead))
        numbers = {f.name: getattr(shift, f.name) for f in dataclasses.fields(shift)}
        verdict = judge(Pixels().decode(x0), label)
        row = {**dataclasses.asdict(verdict), "seconds": time.perf_counter() - start}
        book.write(key(cell, w, block), {**row, **jax.tree.map(np.asarray, numbers)})


def measure_gains(book: study.Book, runs: dict[str, restoring.Restored]) -> None:
    """The share of a state's noise that guidance takes away at w = 1, at a wrong level.

    p = -<D - D_u, x - D> / |x - D|^2 for x = x0 + m sigma eps, D at sigma, D_u = D not
    told the level: it should be above 0 for m > 1, 0 for m = 1, below 0 for m < 1.
    """
    held, eps_key = Digits("test").load().source, jax.random.key(3)
    x0 = Pixels().encode(eps_key, np.asarray(held.image))
    eps, cond = jax.random.normal(eps_key, x0.shape), Condition(label=held.label)

    @functools.partial(jax.jit, static_argnums=0)
    def gain(name: str, sigma: float, m: float) -> jax.Array:
        x, at = x0 + m * sigma * eps, NoiseLevel(1.0, sigma)
        informed = runs[name].denoise(x, at, cond).x0
        other = without(runs[name].denoise, "noise")(x, at, cond).x0
        return -jnp.sum((informed - other) * (x - informed)) / jnp.sum((x - informed) ** 2)

    for name, sigma in itertools.product(("nag", "finetune"), GAIN_SIGMAS):
        if not book.find(gain_of=name, sigma=sigma):
            gains = [float(gain(name, sigma, m)) for m in MULTIPLES]
            book.write({"gain_of": name, "sigma": sigma}, {"gains": gains})


def measured(book: study.Book, cell: Cell, w: float, field: str) -> list[Any]:
    """A field of each block of images; without guidance any interval is as good."""
    blocks = range(len(PLAN[cell]))
    cell = cell if w else dataclasses.replace(cell, low=0.0, high=5.0)
    every = (book.find(**key(cell, w, block)) for block in blocks)
    return [row[field] for row in every if row]


def mean_shift(book: study.Book, cell: Cell, w: float) -> tuple[np.ndarray, np.ndarray]:
    """ln sigma of the inner levels, from most noise to least, and the shift there."""
    sigma = np.asarray(GRID(None, cell.steps).sigma)[1:-1]
    return np.log(sigma), np.mean(measured(book, cell, w, "shift"), axis=0)


def print_tables(book: study.Book) -> None:
    """Over w: quality, block by block, then the shift at three levels and at the last."""
    for field, form in (
        ("frechet", "{:.3f}"),
        ("accuracy", "{:.1%}"),
        ("to_train", "{:.3f}"),
    ):
        rows = []
        for cell in PLAN:
            blocks = (measured(book, cell, w, field) for w in EVERY)
            rows.append([str(cell), *(" / ".join(map(form.format, b)) for b in blocks)])
        print(study.table([field, *(f"w = {w:g}" for w in EVERY)], rows), end="\n\n")
    rows = []
    for cell, w in itertools.product(PLAN, EVERY):
        if not measured(book, cell, w, "shift"):
            continue
        u, shift = mean_shift(book, cell, w)
        at = [np.interp(np.log(sigma), u[::-1], shift[::-1]) for sigma in SIGMAS]
        columns = (f.name for f in dataclasses.fields(noise_shift.Shift))
        first = (np.array(measured(book, cell, w, name)[0]) for name in columns)
        levels = NoiseLevel(np.ones(len(u)), np.exp(u))
        verdict = noise_shift.Shift(*first).verdict(levels).split()[0]
        values = (f"{value:+.3f}" for value in (*at, shift[-1]))
        rows.append([f"{cell}, w = {w:g}", *values, verdict])
    head = ("shift at σ =", *map(str, SIGMAS), "last level", "verdict")
    print(study.table(head, rows), end="\n\n")
    rows = []
    for name, sigma in itertools.product(("nag", "finetune"), GAIN_SIGMAS):
        gains = book.find(gain_of=name, sigma=sigma)["gains"]
        rows.append([f"{name}, σ = {sigma:g}", *map("{:+.2f}".format, gains)])
    print(study.table(("gain", *(f"m = {m:g}" for m in MULTIPLES)), rows))


def draw(book: study.Book) -> "Figure":
    """Quality over w, the shift of the solvers, and what w does to one of them."""
    title = "Noise awareness guidance on digits"
    figure, (quality, key, plain, guided) = plots.panels(title, 8.4, 2, 2)
    for cell, look in zip(PLAN, plots.looks(map(str, PLAN)), strict=True):
        ws = [w for w in EVERY if measured(book, cell, w, "frechet")]
        values = [np.mean(measured(book, cell, w, "frechet")) for w in ws]
        quality.plot(ws, values, marker="o", ms=4, label=str(cell), **look)
        if cell in UNGUIDED:
            plain.plot(*mean_shift(book, cell, 0.0), marker=".", label=str(cell), **look)
    for colour, w in zip(plots.COLOURS, EVERY, strict=False):
        way = mean_shift(book, SHOWN, w)
        guided.plot(*way, ".-", color=colour, label=f"w = {w:g}")
    quality.set(
        xlabel="weight w of the guidance   [1]",
        ylabel="Fréchet distance in pixels   [1]",
        yscale="log",
    )
    quality.set(title="Quality of 1,000 images over w", ylim=(0.1, 5))
    quality.yaxis.set_major_formatter("{x:g}")
    quality.yaxis.set_minor_formatter("")
    quality.set_yticks([0.1, 0.2, 0.5, 1, 2, 5])
    plain.set(title="Shift without NAG", ylim=(-0.1, 0.7))
    guided.set(title=f"Shift with NAG: {SHOWN}")
    for panel in (plain, guided):
        panel.axhline(0, color=plots.INK, lw=0.8)
        panel.set(xlabel="ln σ   [nats]", ylabel="shift of the estimated ln σ   [nats]")
        panel.invert_xaxis()
    key.axis("off")
    plots.legend(key, handles=quality.lines, loc="center left", handlelength=3.5)
    plots.legend(guided)
    return figure


if __name__ == "__main__":
    study.run(main)
