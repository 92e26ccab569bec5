"""Classifier guidance against classifier-free guidance on digits, over w.

    jaxdiff train --config=digits --workdir=runs/cg/digits
    jaxdiff train --config=digits_classifier \\
        --workdir=runs/cg/classifier
    python benchmarks/classifier_guidance.py --runs=runs/cg --out=docs/results

Sets of images of the same seeds and labels, drawn by

    free         D + w (D - D without label)                    classifier-free guidance
    classifier   D + w (sigma^2 / alpha) grad ln p(label | x)   of the same D
    alone        the same, of D without label: only the classifier knows the class

and judged by benchmarks/digits_judge.py. Writes classifier_guidance.json set by set, so
that it goes on where it stopped, and classifier_guidance.md.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import digits_judge
import jax
import numpy as np
import study
from absl import flags
from jaxtyping import Array, Float, PyTree
from tqdm import tqdm

from jaxdiff.data import encoder_of
from jaxdiff.runs import generate, restoring
from jaxdiff.runs.restoring import Restored
from jaxdiff.runs.state import labelled, run_denoiser
from jaxdiff.runtime import provenance, sharding
from jaxdiff.runtime.files import write_atomically
from jaxdiff.sampling import sample
from jaxdiff.sampling.guidance import class_log_prob, guide, less_likely, without

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
    """Draws and judges what is missing, and writes the table."""
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
    text = report(book, judge, runs)
    path = study.command.folder(study.OUT) / "classifier_guidance.md"
    write_atomically(path, lambda file: file.write(text.encode()))
    print(text)


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


def report(book: study.Book, judge: digits_judge.Judge, runs: dict[str, Restored]) -> str:
    """The page of results, in Markdown."""
    rows, commits = [], []
    for way, weights in WEIGHTS.items():
        for w in weights:
            row = book.find(**key_of(way, w, runs))
            numbers = (f.format(row[name]) for f, name in zip(FORMATS, FIELDS, strict=True))
            rows.append([way, f"{w:g}", *numbers])
            commits.append((row["commit"] or "no clone")[:7])
    accuracy, frechet = judge.reference()
    floor, count = judge.floor(NUMBER.value), NUMBER.value
    rows.append(["300 held-out digits", "", f"{accuracy:.1%}", *[""] * 3, f"{frechet:.3f}"])
    rows.append(["their Gaussian", "", *[""] * 4, f"{floor:.3f}"])
    table = study.table(["guidance", "w", *FIELDS], rows)
    digits, classifier = (runs[name].step for name in ("digits", "classifier"))
    return (
        "# Classifier guidance and classifier-free guidance on digits\n\n"
        "`python benchmarks/classifier_guidance.py --runs=…`, whose head has the commands "
        "that train the runs.\n\n"
        f"{count} images of each set, seeds from {SEED.value}, from step {digits} of "
        f"`configs/digits.py` and step {classifier} of `configs/digits_classifier.py` "
        f"(commit {', '.join(dict.fromkeys(commits))}).\n\n"
        "* free: D + w (D − D without label)\n"
        "* classifier: D + w (σ²/α) ∇ ln p(label | x)\n"
        "* alone: the same from D without label, so that only the classifier knows the "
        f"class\n\n{table}\n\n"
        "`benchmarks/digits_judge.py` says what the columns are: accuracy, copies and "
        "distances to the nearest training digit and among the images, which are 1 where "
        "they are those of held-out digits; frechet is 0 where mean and covariance are "
        f"the training digits', and {floor:.3f} for {count} draws of their Gaussian.\n"
    )


if __name__ == "__main__":
    study.command.run(main)
