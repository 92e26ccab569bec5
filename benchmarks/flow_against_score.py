"""Flow or score: rectified flow, eps, v, x0 and EDM at equal compute, by ODE and by SDE.

    python benchmarks/flow_against_score.py --runs=runs/flow_against_score

Trains 15 runs, five recipes with three seeds each, in folders RECIPE-SEED: one network,
one data set (digits, 8x8), one optimiser, as many steps of as many images. A recipe is what
its papers bring together: path, law of t, a prediction with a uniform loss on it, grid.

    eps, v, x0   DDPM's linear table of 1000, t uniform over entries, trailing entries
    flow         the straight path, t logit-normal [SD3], uniform steps
    edm          alpha = 1, ln sigma normal, EDM's scaling [EDM], Karras's grid

Draws 1,000 images of each run, of the same seeds and labels everywhere, with 5 to 100
evaluations of the network, by Euler and Heun (the probability-flow ODE) and by ancestral
steps (the reverse SDE; DDIM with eta = 1), x0 held to [-1, 1], on the recipe's own grid. To
tell training from sampling, Euler also on one grid for all, Karras's with alpha = 1, of EDM
on flow's grid, with x0 not held, and of earlier checkpoints. All are judged by
digits_judge.py.

Stopped and started again it goes on. Prints tables, and writes flow_against_score.png and
.json to --out. For one core; see docs/results/flow_against_score.md for what it took.
"""

import dataclasses
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import digits_judge
import numpy as np
import study
from jaxtyping import Float64
from small_network import ResidualMLP
from tqdm import tqdm

import jaxdiff as jd
from jaxdiff.analysis import plots
from jaxdiff.config import Experiment, Sampling
from jaxdiff.data import Digits, Pixels
from jaxdiff.objectives.timesteps import LogitNormal, NormalLogSigma, UniformEntries
from jaxdiff.optim import AdamW
from jaxdiff.runs import generate, restoring
from jaxdiff.runtime import provenance, sharding
from jaxdiff.types import Grid, Parameterization, Schedule, Solver, Times

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


SEEDS = (0, 1, 2)
STEPS, BATCH, DECAY, IMAGES = 3000, 64, 0.997, 1000
CHECKPOINTS = tuple(STEPS * quarter // 4 for quarter in (1, 2, 3, 4))
TABLE = jd.Table(jd.LinearBetas())
KARRAS = jd.grids.Karras(sigma_min=0.02, sigma_max=40.0)
EDM = jd.EDM(sigma_data=0.75)


@dataclass(frozen=True)
class Recipe:
    """What belongs together: path, law of t, prediction, grid."""

    schedule: Schedule
    times: Times
    prediction: Parameterization
    grid: Grid


RECIPES = {
    "eps": Recipe(TABLE, UniformEntries(), jd.Eps(), jd.grids.Trailing()),
    "v": Recipe(TABLE, UniformEntries(), jd.V(), jd.grids.Trailing()),
    "x0": Recipe(TABLE, UniformEntries(), jd.X0(), jd.grids.Trailing()),
    "flow": Recipe(jd.RectifiedFlow(), LogitNormal(), jd.Flow(), jd.grids.Uniform()),
    "edm": Recipe(
        jd.LogSigma(sigma_min=0.02, sigma_max=40.0),
        NormalLogSigma(mean=-0.6, std=1.2),
        EDM,
        KARRAS,
    ),
}
NAMES = {"eps": "ε", "v": "v", "x0": "x₀", "flow": "rectified flow", "edm": "EDM"}
SOLVERS: dict[str, Solver] = {"Euler": jd.Euler(), "Heun": jd.Heun(), "SDE": jd.DDIM()}
TITLES = {"Euler": "ODE, Euler", "Heun": "ODE, Heun", "SDE": "SDE, ancestral steps"}
COUNTS = (5, 10, 20, 50, 100)
"""Evaluations; Heun, which makes 2 N - 1 in N steps, has one less where this is even."""


@dataclass(frozen=True)
class Setting:
    """How images are drawn, and from which checkpoint."""

    solver: str
    count: int
    grid: str = "own"
    clip: bool = True
    step: int = STEPS

    @property
    def steps(self) -> int:
        """Steps that make `count` evaluations, or one less."""
        return (self.count + 1) // 2 if self.solver == "Heun" else self.count


OWN = [Setting(solver, count) for solver in SOLVERS for count in COUNTS]
COMMON = [Setting("Euler", count, grid="common") for count in (10, 20)]
FLOWS = [Setting("Euler", count, grid="flow") for count in (10, 20)]
FREE = [Setting("Euler", 20, clip=False)]
OVER = [Setting("Euler", 20, step=step) for step in CHECKPOINTS[1:]]
FRECHET = (0.5, 0.7, 1, 1.5, 2, 3)
"""Ticks of the figure."""
CONTROLS = {
    "Euler": {
        "10, own grid": OWN[1],
        "10, common grid": COMMON[0],
        "20, own grid": OWN[2],
        "20, common grid": COMMON[1],
        "20, own grid, x₀ not held": FREE[0],
    },
    "training steps": {str(setting.step): setting for setting in OVER},
}
"""Tables of controls by title, columns by head."""


def main() -> None:
    """Trains and measures what is missing, prints, draws."""
    book = study.book("flow_against_score")
    measure(book)
    for title, table in tables(book).items():
        print(f"{title}\n\n{table}\n")
    print(study.save(draw(book), "flow_against_score"))


def experiment(recipe: str, seed: int) -> Experiment:
    """One training."""
    r = RECIPES[recipe]
    return Experiment(
        data=Digits(),
        network=ResidualMLP(label_dim=10),
        schedule=r.schedule,
        times=r.times,
        parameterization=r.prediction,
        loss=jd.WeightedError(jd.UniformOnNetwork(r.prediction)),
        optimizer=AdamW(learning_rate=1e-3, rampup_images=10_000.0, decays=(DECAY,)),
        sampling=Sampling(grid=r.grid, steps=20, std=DECAY, clip=True),
        batch_size=BATCH,
        steps=STEPS,
        seed=seed,
        log_every=250,
        sample_every=0,
        checkpoint_every=CHECKPOINTS[0],
        keep=len(CHECKPOINTS),
    )


def folder(recipe: str, seed: int) -> Path:
    """A run, trained where it is missing."""
    return study.trained(f"{recipe}-{seed}", experiment(recipe, seed))


def settings(recipe: str) -> list[Setting]:
    """All ways to draw of a recipe; EDM's own grid is the common one."""
    return [*OWN, *(FLOWS if recipe == "edm" else COMMON), *FREE, *OVER[:-1]]


def key(recipe: str, seed: int, setting: Setting) -> dict[str, Any]:
    """What a verdict is found by."""
    if recipe == "edm" and setting.grid == "common":
        setting = dataclasses.replace(setting, grid="own")
    of = {"recipe": recipe, "seed": seed, "images": IMAGES}
    return {"what": "quality", **of, **dataclasses.asdict(setting)}


def measure(book: study.Book) -> None:
    """Judges what is missing; runs of one recipe share each compiled sampler."""
    judge = digits_judge.judge()
    if not book.find(what="real digits"):
        accuracy, frechet = judge.reference()
        held = {"accuracy": accuracy, "frechet": frechet, "floor": judge.floor(IMAGES)}
        book.write({"what": "real digits", "images": IMAGES}, held)
    every = (
        (recipe, setting, seed)
        for recipe in RECIPES
        for setting in settings(recipe)
        for seed in SEEDS
    )
    missing = [(r, s, seed) for r, s, seed in every if not book.find(**key(r, seed, s))]
    for recipe, setting, seed in tqdm(missing, desc="sets of images", disable=None):
        made = {
            "trained": study.commits(folder(recipe, seed)),
            "measured": study.short(provenance.commit_of(__file__)),
        }
        images, label = drawn(recipe, seed, setting), labels()
        verdict = dataclasses.asdict(judge(images, label))
        book.write(key(recipe, seed, setting), {**verdict, **made})


def labels() -> np.ndarray:
    """All classes in turn."""
    return np.arange(IMAGES, dtype=np.int32) % 10


@functools.lru_cache(len(SEEDS) * len(CHECKPOINTS))
def restored(recipe: str, seed: int, step: int) -> restoring.Restored:
    """A run at a checkpoint."""
    return restoring.restore(folder(recipe, seed), step=step)


def grid_of(recipe: str, setting: Setting) -> Grid:
    """A setting's grid; flow's, uniform in sigma / (alpha + sigma), from KARRAS' start."""
    t = np.linspace(KARRAS.sigma_max / (1 + KARRAS.sigma_max), 0, setting.steps + 1)
    grids = {
        "own": RECIPES[recipe].grid,
        "common": KARRAS,
        "flow": jd.grids.Listed(tuple(t / (1 - t))),
    }
    return grids[setting.grid]


def drawn(recipe: str, seed: int, setting: Setting) -> np.ndarray:
    """A set of images, uint8."""
    run = restored(recipe, seed, setting.step)
    sampling = Sampling(
        grid=grid_of(recipe, setting),
        steps=setting.steps,
        solver=SOLVERS[setting.solver],
        std=DECAY,
        clip=setting.clip,
    )
    return generate.images(
        generate.sampler(dataclasses.replace(run.experiment, sampling=sampling)),
        run.variables,
        Pixels(),
        1_000_000 + np.arange(IMAGES),
        labels(),
        sharding.data_mesh(),
        IMAGES // 2,
    )


def values(
    book: study.Book, recipe: str, setting: Setting, field: str = "frechet"
) -> Float64[np.ndarray, " seeds"]:
    """A field of the verdicts, a number a seed."""
    rows = (book.find(**key(recipe, seed, setting)) for seed in _seeds(book))
    return np.array([row[field] for row in rows])


def _seeds(book: study.Book) -> list[int]:
    return sorted({row["seed"] for row in book.rows if row["what"] == "quality"})


def tables(book: study.Book) -> dict[str, str]:
    """By title: Frechet distances and accuracy on the own grids, and the controls."""
    said = {}
    for field, style in (("frechet", "{:.2f} ± {:.2f}"), ("accuracy", "{:.1%} ± {:.1%}")):
        rows = []
        for solver in SOLVERS:
            rows.append([f"*{TITLES[solver]}*", *[""] * len(COUNTS)])
            for recipe, name in NAMES.items():
                per_count = (
                    values(book, recipe, Setting(solver, n), field) for n in COUNTS
                )
                rows.append([name, *(spread(v, style) for v in per_count)])
        head = ["evaluations", *map(str, COUNTS)]
        said[field] = study.table(head, rows)
    for title, columns in CONTROLS.items():
        rows = [
            [name, *(spread(values(book, recipe, one)) for one in columns.values())]
            for recipe, name in NAMES.items()
        ]
        said[title] = study.table([title, *columns], rows)
    grids = {"own": OWN[1:3], "flow's": FLOWS}
    rows = [
        [f"EDM, {name} grid", *(spread(values(book, "edm", one)) for one in columns)]
        for name, columns in grids.items()
    ]
    said["grids"] = study.table(["Euler", "10", "20"], rows)
    return said


def spread(values: Float64[np.ndarray, " seeds"], style: str = "{:.2f} ± {:.2f}") -> str:
    """Mean and standard deviation over seeds.

    >>> spread(np.array([1.0, 2.0, 3.0]))
    '2.00 ± 1.00'
    """
    return style.format(values.mean(), values.std(ddof=1))


def draw(book: study.Book) -> "Figure":
    """Quality over evaluations for each solver, and over training."""
    title = "Flow or score? One network on digits, three trainings of each"
    figure, axes = plots.panels(title, 7.0, 2, 2)
    for panel, solver in zip(axes, SOLVERS, strict=False):
        curves(panel, book, [Setting(solver, count) for count in COUNTS], COUNTS)
        panel.set(title=TITLES[solver], xlabel="evaluations of the network", xscale="log")
        panel.set_xticks(COUNTS, map(str, COUNTS))
        panel.set_xticks([], minor=True)
    curves(axes[3], book, OVER, CHECKPOINTS[1:])
    axes[3].set(title="ODE, Euler, 20 evaluations", xlabel="training steps")
    axes[3].set_xticks(CHECKPOINTS[1:])
    for panel in axes:
        panel.set(ylabel="Fréchet distance in pixels   [1]", yscale="log", ylim=(0.45, 3))
        panel.set_yticks(FRECHET, map(str, FRECHET))
        panel.set_yticks([], minor=True)
    for panel, solver in zip(axes, SOLVERS, strict=False):
        for name, distance, count in beyond(book, solver):
            text = f"{name}: {distance:.0f}"
            panel.annotate(text, (count * 1.12, 2.7), color=plots.INK, va="center")
    plots.legend(axes[0])
    return figure


def beyond(book: study.Book, solver: str) -> list[tuple[str, float, int]]:
    """Recipes, distances and evaluations of what lies above the panels."""
    means = [
        (name, values(book, recipe, Setting(solver, count)).mean(), count)
        for recipe, name in NAMES.items()
        for count in COUNTS
    ]
    return [one for one in means if one[1] > FRECHET[-1]]


def curves(
    panel: "Axes", book: study.Book, over: list[Setting], at: tuple[int, ...]
) -> None:
    """A line for each recipe, with the standard deviation over seeds."""
    looks = plots.looks(NAMES.values())
    for (recipe, name), look in zip(NAMES.items(), looks, strict=True):
        seeds = np.array([values(book, recipe, setting) for setting in over])
        look |= {"label": name, "marker": "o", "ms": 4}
        panel.errorbar(at, seeds.mean(1), seeds.std(1, ddof=1), capsize=3, **look)


if __name__ == "__main__":
    study.run(main)
