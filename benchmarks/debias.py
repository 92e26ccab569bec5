"""Debias against constant, P2 and min-SNR weights, on digits: errors and images.

    for SEED in 0 1 2; do for NAME in constant p2 min_snr debias; do
        jaxdiff train --config=digits_ddpm:$NAME \\
            --config.seed=$SEED --workdir=runs/debias/$NAME-$SEED
    done; done
    python benchmarks/debias.py --runs=runs/debias --out=docs/results

Measures, for each weighting and seed,
  the error of x0-hat, E |D(x_t) - x0|^2 an element, at 50 of the table's 1000 entries, on
      the 300 held-out digits, beside the weight on eps and on x0;
  the quality of 1,000 images of ten classes, as benchmarks/digits_judge.py says it, over
      training at 50 sampling steps, and over sampling steps at the last checkpoint.
Images have the same seeds everywhere, drawn by ancestral steps with x0 held to [-1, 1].
Prints tables, mean and standard deviation over seeds, in columns "training steps / sampling
steps", and writes debias.png and .json. Takes some 40 minutes on 2 busy CPU cores.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import digits_judge
import jax
import numpy as np
import study
from absl import flags
from jaxtyping import Float
from tqdm import tqdm

from jaxdiff import config
from jaxdiff.analysis import plots
from jaxdiff.config.ready.digits_ddpm import WEIGHTINGS, get_config
from jaxdiff.data import Digits, Pixels
from jaxdiff.evaluation import likelihood
from jaxdiff.evaluation.likelihood import dataset_bound
from jaxdiff.runs import generate, restoring
from jaxdiff.runtime import sharding
from jaxdiff.schedules.posterior import SmallVariance

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SEEDS = flags.DEFINE_integer("seeds", 3, "How many seeds: runs NAME-0 ...", lower_bound=2)
NUMBER = flags.DEFINE_integer("number", 1000, "How many images.", lower_bound=20)

NAMES = {"constant": "constant", "p2": "P2", "min_snr": "min-SNR", "debias": "Debias"}
STEPS, COUNTS = (250, 500, 750, 1000), (5, 10, 20, 50, 100)
OVER_TRAINING = [(step, 50) for step in STEPS]
OVER_SAMPLING = [(STEPS[-1], count) for count in COUNTS]
"""(training steps, sampling steps) at which images are judged."""
T = (np.arange(50) + 1) / 50
PICKED = (0, 4, 14, 24, 34, 44, 49)
"""Where errors are measured, and those of them that the table shows."""
EXPERIMENT = config.from_config(get_config())
"""All runs', but for the loss and the seed."""

Spread = tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."]]


def main() -> None:
    """Measures what is missing, prints, draws."""
    names = [f"{w}-{seed}" for seed in range(SEEDS.value) for w in WEIGHTINGS]
    runs = study.runs("configs/digits_ddpm.py", names, seeds=True)
    book, judge = study.book("debias"), digits_judge.judge()
    measure_errors(book, runs)
    measure_quality(book, runs, judge)
    print_tables(book)
    (accuracy, frechet), floor = judge.reference(), judge.floor(NUMBER.value)
    print(f"\n300 held-out real digits: accuracy {accuracy:.1%}, Frechet {frechet:.2f}")
    print(f"{NUMBER.value} draws of the real ones' Gaussian: Frechet {floor:.2f}")
    print(study.save(draw(book), "debias"))


def restore(folder: Path, step: int) -> restoring.Restored:
    """A run at a checkpoint.

    Raises:
        ValueError: it is of another experiment than the config's.
    """
    run = restoring.restore(folder, step=step)
    for line in config.differences(run.experiment, EXPERIMENT):
        if not line.startswith(("loss", "seed")):
            raise ValueError(f"{folder} is not a run of configs/digits_ddpm.py: {line}")
    return run


def error_key(run: str, clip: bool) -> dict[str, Any]:
    """What a row of errors is found by."""
    return {"what": "x0 error", "run": run, "clip": clip}


def quality_key(run: str, step: int, count: int) -> dict[str, Any]:
    """What a verdict is found by."""
    at = {"run": run, "step": step, "sampling_steps": count, "images": NUMBER.value}
    return {"what": "quality", **at}


def measure_errors(book: study.Book, runs: dict[str, Path]) -> None:
    """Errors of x0-hat, as the network says it and held to [-1, 1]."""
    held, mesh = Digits("test").load(), sharding.data_mesh()
    steps = likelihood.process(EXPERIMENT.schedule, len(T))
    cost = {c: dataset_bound.coster(EXPERIMENT, SmallVariance(), c) for c in (False, True)}
    every = itertools.product(runs, cost)
    missing = [item for item in every if not book.find(**error_key(*item))]
    for name, clip in tqdm(missing, desc="errors", disable=None):
        variables = restore(runs[name], STEPS[-1]).variables
        bound = dataset_bound.measure(cost[clip], variables, held, steps, mesh, batch=150)
        book.write(error_key(name, clip), {"t": T, "x0_mse": bound.x0_mse.mean(0)})


def measure_quality(
    book: study.Book, runs: dict[str, Path], judge: digits_judge.Judge
) -> None:
    """Judges images; one compiled sampler for each number of steps does for all runs."""
    every = ((r, *p) for r in runs for p in dict.fromkeys(OVER_TRAINING + OVER_SAMPLING))
    missing = [item for item in every if not book.find(**quality_key(*item))]
    of = lambda count: dataclasses.replace(EXPERIMENT.sampling, steps=count)
    sampler = functools.cache(
        lambda count: generate.sampler(dataclasses.replace(EXPERIMENT, sampling=of(count)))
    )
    at = functools.lru_cache(1)(lambda name, step: restore(runs[name], step).variables)
    seeds = 1_000_000 + np.arange(NUMBER.value)
    label, mesh = np.arange(NUMBER.value) % 10, sharding.data_mesh()
    total = NUMBER.value * sum(count for *_, count in missing)
    with tqdm(total=total, desc="image steps", unit_scale=True, disable=None) as bar:
        for name, step, count in missing:
            parts = []
            for part in np.array_split(np.arange(NUMBER.value), -(-NUMBER.value // 250)):
                inputs = (at(name, step), Pixels(), seeds[part], label[part], mesh, 250)
                parts.append(generate.images(sampler(count), *inputs))
                bar.update(len(part) * count)
            verdict = dataclasses.asdict(judge(np.concatenate(parts), label))
            book.write(quality_key(name, step, count), verdict)


def over_seeds(weighting: str, find: Callable[[str], Any]) -> Spread:
    """Mean and standard deviation of what each run of a weighting gives."""
    values = np.array([find(f"{weighting}-{seed}") for seed in range(SEEDS.value)])
    return values.mean(0), values.std(0, ddof=1)


def x0_error(book: study.Book, weighting: str, clip: bool) -> Spread:
    """The error of x0-hat at T."""
    return over_seeds(weighting, lambda run: book.find(**error_key(run, clip))["x0_mse"])


def quality(
    book: study.Book, weighting: str, field: str, step: int, count: int, less: str = ""
) -> Spread:
    """A field of the verdicts over seeds; less that of another weighting, seed by seed."""

    value = lambda run: book.find(**quality_key(run, step, count))[field]
    other = lambda run: value(run.replace(weighting, less)) if less else 0.0
    return over_seeds(weighting, lambda run: value(run) - other(run))


def print_tables(book: study.Book) -> None:
    """Quality over training and over sampling, less constant's seed by seed, and errors."""
    for field, style, less in (
        ("frechet", "{:.2f} ± {:.2f}", ""),
        ("frechet", "{:+.2f} ± {:.2f}", "constant"),
        ("accuracy", "{:.1%} ± {:.1%}", ""),
    ):
        for points in (OVER_TRAINING, OVER_SAMPLING):
            rows = []
            for w in (w for w in WEIGHTINGS if w != less):
                pairs = (quality(book, w, field, *point, less) for point in points)
                rows.append([NAMES[w], *(style.format(*pair) for pair in pairs)])
            title = field + (f", less that of {less}" if less else "")
            head = (title, *("{} / {}".format(*point) for point in points))
            print(study.table(head, rows), end="\n\n")
    for clip in (False, True):
        rows = []
        for weighting, name in NAMES.items():
            mean, std = x0_error(book, weighting, clip)
            rows.append([name, *(f"{mean[i]:.3g} ± {std[i]:.1g}" for i in PICKED)])
        head = f"error of x0-hat{', held to [-1, 1]' if clip else ''}"
        print(study.table([head, *(f"t = {T[i]:g}" for i in PICKED)], rows), end="\n\n")


def draw(book: study.Book) -> "Figure":
    """Weights, errors, and quality over training and over sampling steps."""
    figure, axes = plots.panels("DDPM on digits under four weightings", 7.5, 2, 2)
    weights, errors, training, sampling = axes
    t = (np.arange(1000) + 1) / 1000
    level = EXPERIMENT.schedule(t)
    for name, weighting in WEIGHTINGS.items():
        (look,) = plots.looks([NAMES[name]])
        colour, look = look["color"], look | {"label": NAMES[name]}
        on_x0 = np.asarray(jax.jit(weighting)(level))
        weights.plot(t, on_x0 / np.asarray(level.snr), **look)
        weights.plot(t, on_x0, color=colour, lw=1.2, ls=(0, (4, 2)))
        for clip, dash in ((False, "-"), (True, (0, (4, 2)))):
            mean, std = x0_error(book, name, clip)
            errors.plot(T, mean, **{**look, "ls": dash, "lw": 1.2 if clip else 1.8})
            if not clip:
                errors.fill_between(T, mean - std, mean + std, color=colour, alpha=0.15)
        for panel, points, at in (
            (training, OVER_TRAINING, STEPS),
            (sampling, OVER_SAMPLING, COUNTS),
        ):
            mean, std = np.transpose([quality(book, name, "frechet", *p) for p in points])
            panel.errorbar(at, mean, std, marker="o", ms=4, capsize=3, **look)
    weights.set(
        yscale="log",
        ylim=(1e-3, 1e4),
        xlabel="t   [fraction of the path]",
        ylabel="weight   [1]",
    )
    weights.set_title("Weight: on ε (solid), on x₀ (dashed)")
    errors.set(
        yscale="log",
        xlabel="t   [fraction of the path]",
        ylabel="mean squared error   [data units²]",
    )
    errors.set_title("Error of x̂₀ on held-out digits (dashed: held to [−1, 1])")
    training.set(xlabel="training steps", title="Quality over training, 50 sampling steps")
    sampling.set(xlabel="sampling steps", xscale="log", title="Quality over sampling steps")
    training.set_xticks(STEPS)
    sampling.set_xticks(COUNTS, map(str, COUNTS))
    sampling.set_xticks([], minor=True)
    for panel in (training, sampling):
        panel.set(ylabel="Fréchet distance in pixels   [1]", yscale="log")
        panel.yaxis.set_major_formatter("{x:g}")
        panel.yaxis.set_minor_formatter("{x:g}")
    plots.legend(training)
    return figure


if __name__ == "__main__":
    study.run(main)
