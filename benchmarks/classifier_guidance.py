"""Classifier guidance against classifier-free guidance on digits, over w.

    jaxdiff train --config=digits --workdir=runs/cg/digits
    jaxdiff train --config=digits_classifier \\
        --workdir=runs/cg/classifier
    python benchmarks/classifier_guidance.py --runs=runs/cg --out=docs/results

Sets of images of the same seeds and labels, drawn by

    free         D + w (D - D without label)                    classifier-free guidance
    classifier   D + w (sigma^2 / alpha) grad ln p(label | x)   of the same D
    alone        the same, of D without label: only the classifier knows the class

and judged by benchmarks/digits_judge.py. Stopped and started again it goes on. Prints a
table, and writes classifier_guidance.png and .json to --out.
"""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import digits_judge
import jax
import numpy as np
import study
from absl import flags
from jaxtyping import Array, Float, PyTree
from tqdm import tqdm

from jaxdiff.analysis import plots
from jaxdiff.data import encoder_of
from jaxdiff.runs import generate, restoring
from jaxdiff.runs.restoring import Restored
from jaxdiff.runs.state import labelled, run_denoiser
from jaxdiff.runtime import provenance, sharding
from jaxdiff.sampling import sample
from jaxdiff.sampling.guidance import class_log_prob, guide, less_likely, without

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NUMBER = flags.DEFINE_integer("number", 1000, "Images of a set.", lower_bound=20)
SEED = flags.DEFINE_integer("seed", 1_000_000, "Seed of the first image.", lower_bound=0)

WEIGHTS = {
    "free": (0.0, 0.5, 1.0, 2.0, 4.0),
    "classifier": (0.5, 1.0, 2.0, 4.0),
    "alone": (0.0, 1.0, 2.0, 4.0),
}
"""Of each way to guide; with w = 0 the first two are the same."""
PAIRS: dict[str, Callable[[float], tuple[float, float]]] = {
    "free": lambda w: (w, 0.0),
    "classifier": lambda w: (0.0, w),
    "alone": lambda w: (-1.0, w),  # D - (D - D without label)
}
"""The weights against D without label and of the classifier, of one program for all."""
FIELDS = ("accuracy", "to_train", "among", "copies", "frechet")
FORMATS = ("{:.1%}", "{:.3f}", "{:.3f}", "{:.1%}", "{:.3f}")


def main() -> None:
    """Draws and judges what is missing, prints, plots."""
    folders = study.runs("configs/digits.py", ("digits", "classifier"))
    runs = {name: restoring.restore(path) for name, path in folders.items()}
    book, judge = study.book("classifier_guidance"), digits_judge.judge()
    sets = [(way, w) for way, weights in WEIGHTS.items() for w in weights]
    draw = sampler(runs)
    for way, w in tqdm(sets, desc="sets of images", disable=None):
        if not book.find(**(key := key_of(way, w, runs))):
            judged = judge(drawn(draw, PAIRS[way](w), runs), labels())
            commit = {"commit": provenance.commit_of(__file__)}
            book.write(key, {**dataclasses.asdict(judged), **commit})
    print(table(book, judge))
    print(study.save(figure(book), "classifier_guidance"))


def labels() -> np.ndarray:
    """All classes in turn."""
    return np.arange(NUMBER.value, dtype=np.int32) % 10


def key_of(way: str, w: float, runs: dict[str, Restored]) -> dict[str, Any]:
    """What a row is found by."""
    steps = {f"{name}_step": run.step for name, run in runs.items()}
    return {"way": way, "w": w, "images": NUMBER.value, "seed": SEED.value, **steps}


def sampler(runs: dict[str, Restored]) -> Callable[..., Float[Array, "B H W C"]]:
    """(variables of both, keys, labels, two weights) -> x0, as the run samples."""
    run, classifier = (runs[name].experiment for name in ("digits", "classifier"))
    s = run.sampling
    levels = s.grid(run.schedule, s.steps)

    @jax.jit
    def draw(variables: PyTree, keys: Array, label: Array, w: PyTree) -> Array:
        denoise, classify = map(run_denoiser, (run, classifier), variables)
        log_prob = class_log_prob(lambda x, at: classify(x, at).logits)
        weaker = without(denoise, "label"), less_likely(log_prob)
        guided = guide(denoise, *zip(weaker, w, strict=True))
        cond = labelled(run, label)
        return sample(guided, cond, keys, run.data.shape, levels, s.solver)

    return draw


def drawn(
    draw: Callable[..., Array], w: tuple[float, float], runs: dict[str, Restored]
) -> np.ndarray:
    """A set of images, uint8."""
    variables = tuple(runs[name].variables for name in ("digits", "classifier"))
    return generate.images(
        lambda variables, keys, label: draw(variables, keys, label, np.float32(w)),
        variables,
        encoder_of(runs["digits"].experiment.data),
        SEED.value + np.arange(NUMBER.value),
        labels(),
        sharding.data_mesh(),
        250,
        progress=True,
    )


def table(book: study.Book, judge: digits_judge.Judge) -> str:
    """All sets, and the held-out digits, in Markdown."""
    rows = []
    for way, w in [(way, w) for way, weights in WEIGHTS.items() for w in weights]:
        row = book.find(way=way, w=w)
        numbers = (f.format(row[name]) for f, name in zip(FORMATS, FIELDS, strict=True))
        rows.append([way, f"{w:g}", *numbers])
    accuracy, frechet = judge.reference()
    floor = judge.floor(NUMBER.value)
    rows.append(["300 held-out digits", "", f"{accuracy:.1%}", *[""] * 3, f"{frechet:.3f}"])
    rows.append(["their Gaussian", "", *[""] * 4, f"{floor:.3f}"])
    return study.table(["guidance", "w", *FIELDS], rows)


def figure(book: study.Book) -> "Figure":
    """Accuracy, variety and distance over w, a line for each way; w = 0 is one for two."""
    title = "Two ways to guide digits to their class"
    whole, axes = plots.panels(title, 3.3, 1, len(PANELS))
    for panel, (field, (name, unit)) in zip(axes, PANELS.items(), strict=True):
        for way, look in zip(NAMES, plots.looks(NAMES.values()), strict=True):
            weights = sorted({0.0, *WEIGHTS[way]})
            rows = [book.find(way=way, w=w) or book.find(way="free", w=w) for w in weights]
            values = [row[field] for row in rows]
            panel.plot(weights, values, marker="o", ms=4, label=NAMES[way], **look)
        panel.set(title=name, xlabel="weight w   [1]", ylabel=unit)
    axes[0].yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    plots.legend(axes[0], loc="lower right")
    return whole


NAMES = {"free": "classifier-free", "classifier": "classifier", "alone": "classifier alone"}
PANELS = {
    "accuracy": ("Accuracy", "share seen as its class"),
    "among": ("Variety", "distance among images   [real: 1]"),
    "frechet": ("Distance to the data", "Fréchet, in pixels   [1]"),
}


if __name__ == "__main__":
    study.run(main)
