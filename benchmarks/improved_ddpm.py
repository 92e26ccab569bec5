"""Improved DDPM on digits: variances, terms of the bound, gradient noise, bits/dim.

    for NAME in simple-linear simple-cosine hybrid-linear hybrid-cosine vlb-cosine; do
        jaxdiff train --config=digits_iddpm:$NAME \\
            --workdir=runs/iddpm/$NAME
    done
    python benchmarks/improved_ddpm.py --runs=runs/iddpm --out=docs/results

Measures
  the posterior's variance over the largest, beta-tilde / beta, over t [IDDPM fig. 1];
  bits/dim of every run on the 300 held-out digits, term by term, at T = 1000 with x0 held
      to [-1, 1]: with the learned variance, or with both fixed ones where there is none;
  the noise of minibatch gradients (128 images) of L_vlb with t uniform and drawn by
      importance, of L_hybrid and of L_simple, at the same parameters: those of vlb-cosine,
      with the losses that its sampler remembers, and those of hybrid-cosine, where the
      sampler is given ten losses of every entry.
Prints tables, and writes improved_ddpm.png and .json. Takes 28 minutes on 2 busy CPU cores.
"""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradient_noise
import jax
import numpy as np
import study
from absl import flags
from tqdm import tqdm

from jaxdiff.analysis import plots
from jaxdiff.config import Experiment
from jaxdiff.config.ready.digits_iddpm import SIMPLE, TABLES
from jaxdiff.data import Digits
from jaxdiff.evaluation import likelihood
from jaxdiff.evaluation.likelihood import dataset_bound
from jaxdiff.objectives.losses import Total, VariationalBound
from jaxdiff.objectives.timesteps import LossSecondMoment, UniformEntries
from jaxdiff.runs import checkpoint, restoring
from jaxdiff.runs.state import TrainState
from jaxdiff.runtime import sharding
from jaxdiff.schedules import CosineBetas, LinearBetas, Table
from jaxdiff.schedules.posterior import (
    LargeVariance,
    LearnedVariance,
    SmallVariance,
    Variance,
)
from jaxdiff.types import LossTerm, Times

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BATCHES = flags.DEFINE_integer("batches", 100, "Gradients a noise is of.", lower_bound=3)
NUMBER = flags.DEFINE_integer("number", 0, "Images for bits/dim; 0 = all.", lower_bound=0)

RUNS = ("simple-linear", "simple-cosine", "hybrid-linear", "hybrid-cosine", "vlb-cosine")
FIXED = (SmallVariance(), LargeVariance())
TERMS = ("total", "prior", "diffusion", "decoder")

COSINE = TABLES["cosine"]
VLB = Total(((float(COSINE.steps), VariationalBound(COSINE, stop_mean=False)),))
HYBRID = Total(((1.0, SIMPLE), (COSINE.steps / 1000, VariationalBound(COSINE))))
UNIFORM, IMPORTANCE = UniformEntries(), LossSecondMoment(COSINE.steps)
GRADIENTS: dict[str, tuple[LossTerm, Times]] = {
    "L_vlb, t uniform": (VLB, UNIFORM),
    "L_vlb, t by importance": (VLB, IMPORTANCE),
    "L_hybrid, t uniform": (HYBRID, UNIFORM),
    "L_simple, t uniform": (SIMPLE, UNIFORM),
}
AT = ("vlb-cosine", "hybrid-cosine")
"""Runs at whose parameters gradients are taken."""


T_AXIS = "t   [fraction of the path]"


def main() -> None:
    """Measures what is missing, prints, draws."""
    runs = study.runs("configs/digits_iddpm.py", RUNS)
    book = study.book("improved_ddpm")
    for name, folder in tqdm(runs.items(), desc="bits/dim", disable=None):
        measure_bits(book, name, folder)
    for name in tqdm(AT, desc="gradients", disable=None):
        measure_gradients(book, name, runs[name])
    print_tables(book)
    print(study.save(draw(book), "improved_ddpm"))


def bits_key(run: str, variance: Variance) -> dict[str, Any]:
    """What a row of bits/dim is found by."""
    settings = {"images": NUMBER.value or 300, "steps": 1000, "clip": True}
    return {"what": "bits/dim", "run": run, "variance": type(variance).__name__, **settings}


def gradient_key(run: str, name: str) -> dict[str, Any]:
    """What a row of gradient noise is found by."""
    settings = {"batch": gradient_noise.BATCH, "batches": BATCHES.value}
    return {"what": "gradient noise", "at": run, "of": name, **settings}


def variances(run: str) -> tuple[Variance, ...]:
    """Those that a run of this name is costed with."""
    return FIXED if run.startswith("simple") else (LearnedVariance(),)


def measure_bits(book: study.Book, name: str, folder: Path) -> None:
    """The bound of a run, mean and standard error over images."""
    for variance in variances(name):
        if book.find(**(key := bits_key(name, variance))):
            continue
        run = restoring.restore(folder)
        measured = dataset_bound.measure(
            dataset_bound.coster(run.experiment, variance, clip=True),
            run.variables,
            Digits("test").load(),
            likelihood.process(run.experiment.schedule, 1000),
            sharding.data_mesh(),
            number=NUMBER.value,
            batch=150,
            progress=True,
        )
        report = dataset_bound.report(measured)
        book.write(key, {**report["bits_per_dim"], "vb": report["terms"]["vb_mean"]})


def measure_gradients(book: study.Book, name: str, folder: Path) -> None:
    """The noise of each gradient at a run's parameters, raw ones as training has them."""
    missing = [g for g in GRADIENTS if not book.find(**gradient_key(name, g))]
    share = {"what": "draws of the last entry", "at": name}
    if not missing and book.find(**share):
        return
    experiment, state = trained(folder)
    data, memory = experiment.data.load(), state.times
    if experiment.times != IMPORTANCE:
        memory = gradient_noise.filled(experiment, state, VLB, IMPORTANCE, data)
    if not book.find(**share):
        book.write(share, {"share": float(IMPORTANCE.probabilities(memory)[-1])})
    for gradient in tqdm(missing, desc=name, disable=None, leave=False):
        loss, law = GRADIENTS[gradient]
        own = memory if law == IMPORTANCE else law.init()
        inputs = (experiment, state, loss, law, own, data, BATCHES.value)
        noise = gradient_noise.noise(gradient_noise.gram(*inputs))
        book.write(gradient_key(name, gradient), dataclasses.asdict(noise))


def trained(folder: Path) -> tuple[Experiment, TrainState]:
    """A run's experiment and newest state."""
    mesh = sharding.data_mesh(jax.devices()[:1])
    with checkpoint.checkpoints(folder) as saved:
        state, record = saved.restore(mesh)
    experiment = record.experiment
    return experiment, state


def print_tables(book: study.Book) -> None:
    """Bits/dim and gradient noise, in Markdown."""
    rows = []
    for run in RUNS:
        for variance in variances(run):
            row = book.find(**bits_key(run, variance))
            terms = (f"{row[t]['mean']:.5f} ± {row[t]['error']:.5f}" for t in TERMS)
            rows.append([run, type(variance).__name__, *terms])
    print(study.table(["run", "variance", *TERMS], rows), end="\n\n")
    rows = []
    for run in AT:
        for gradient in GRADIENTS:
            g = book.find(**gradient_key(run, gradient))
            ratio = f"{g['ratio']:.3g} ± {g['error']:.2g}"
            scale = f"{gradient_noise.BATCH * g['ratio']:.3g}"
            moments = (f"{g[name]:.3g}" for name in ("mean2", "trace"))
            rows.append([run, gradient, *moments, ratio, scale])
    head = ["at", "gradient of", "G²", "tr C", "tr C / G²", "noise scale [images]"]
    print(study.table(head, rows), end="\n\n")
    for run in AT:
        share = book.find(what="draws of the last entry", at=run)["share"]
        print(f"by importance at {run}, the last entry has {share:.1%} of the draws")


def draw(book: study.Book) -> "Figure":
    """Variances, terms of the bound, bits/dim by term, gradient noise."""
    figure, axes = plots.panels("Improved DDPM on digits", 7.5, 2, 2)
    ratio, terms, cumulative, noise = axes
    draw_ratio(ratio)
    styles = {"linear": (0, (4, 2)), "cosine": "-"}
    for run in RUNS:
        objective, _, table = run.partition("-")
        (look,) = plots.looks([objective])
        for variance in variances(run)[-1:]:
            vb = np.array(book.find(**bits_key(run, variance))["vb"])
            look |= {"ls": styles[table], "lw": 1.4, "label": run}
            t = (np.arange(len(vb)) + 1) / len(vb)
            terms.plot(t, vb, **look)
            cumulative.plot(t, np.cumsum(vb), **look)
    terms.set(xscale="log", yscale="log", xlabel=T_AXIS, ylabel="term   [bits/dim]")
    terms.set_title("Terms of the bound (L_simple: LargeVariance)")
    cumulative.set(xscale="log", xlabel=T_AXIS, ylabel="sum   [bits/dim]", ylim=(0, None))
    cumulative.set_title("Sum of the terms up to t")
    plots.legend(cumulative)
    draw_noise(noise, book)
    return figure


def draw_ratio(axes: "Axes") -> None:
    """beta-tilde / beta over t, from the second entry: the first has no posterior."""
    for i, count in enumerate((100, 1000, 4000)):
        for betas, dash in ((LinearBetas, (0, (4, 2))), (CosineBetas, "-")):
            steps = likelihood.process(Table(betas(count)), count).between
            t = (np.arange(count) + 1) / count
            label = f"T = {count}" if dash == "-" else None
            share = (steps.small / steps.large)[1:]
            axes.plot(t[1:], share, color=plots.COLOURS[i], ls=dash, lw=1.4, label=label)
    axes.set(xscale="log", xlabel=T_AXIS, ylabel="β̃ / β   [1]")
    axes.set_title("Smaller over larger variance (cosine solid, linear dashed)")
    plots.legend(axes)


def draw_noise(axes: "Axes", book: study.Book) -> None:
    """tr C / |G|^2 as bars."""
    for i, run in enumerate(AT):
        rows = [book.find(**gradient_key(run, gradient)) for gradient in GRADIENTS]
        place = np.arange(len(rows)) + 0.36 * (i - 0.5)
        error = [f["error"] for f in rows]
        look = {"color": plots.COLOURS[i], "label": f"at {run}", "height": 0.34}
        axes.barh(place, [f["ratio"] for f in rows], xerr=error, capsize=2, **look)
    axes.set_yticks(np.arange(len(GRADIENTS)), list(GRADIENTS))
    axes.invert_yaxis()
    axes.set(
        xscale="log", xlabel="tr C / |G|²   [1]", title="Relative variance of a gradient"
    )
    plots.legend(axes)


if __name__ == "__main__":
    study.command.run(main)
