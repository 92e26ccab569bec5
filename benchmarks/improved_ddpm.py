"""Improved DDPM: why L_vlb loses to L_hybrid on digits, and what gives it the lead.

    python benchmarks/improved_ddpm.py --runs=runs/improved_ddpm

Trains a small network on digits (8x8) under each objective of ARMS, three seeds each, in
folders ARM-SEED: one learning rate, as many steps of as many images. The suspect is the
last entry of the cosine table, whose beta is cut to 0.999: in its term of the bound a
squared error of eps has a weight of 500 nats, in the one before 1.5 and in most 0.01. So
L_vlb is trained as published, by importance or with t uniform, and

    warmed      the sampler waits for 50 losses of each entry, not 10
    left out    the last entry's term is 0
    held        x0 is held to [-1, 1] in the bound, as sampling and evaluation hold it
    linear      on DDPM's table, which ends on beta = 0.02

    hybrid      L_hybrid, with x0 as it is and held

Measures, with x0 held to [-1, 1], the bound on 300 held-out digits, at T = 1000, term by
term, and of four objectives over training; the last entry's term with x0 as it is; how
many of its draws the sampler spends there; the noise of minibatch gradients
(gradient_noise.py); and what holding x0 does to the pixels that are -1, the background.

Stopped and started again it goes on. Prints tables, and writes improved_ddpm.png and .json
to --out. For one core; see docs/results/improved_ddpm.md for what it took.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradient_noise
import jax
import jax.numpy as jnp
import numpy as np
import study
from jaxtyping import Array, Float, Float64
from small_network import ResidualMLP
from tqdm import tqdm

import jaxdiff as jd
from jaxdiff.analysis import plots
from jaxdiff.config import Experiment, Sampling
from jaxdiff.data import Digits
from jaxdiff.evaluation import likelihood
from jaxdiff.evaluation.likelihood import dataset_bound
from jaxdiff.objectives.timesteps import LossSecondMoment, UniformEntries
from jaxdiff.optim import AdamW
from jaxdiff.runs import checkpoint, restoring
from jaxdiff.runs.state import TrainState
from jaxdiff.runtime import provenance, sharding
from jaxdiff.schedules import LearnedVariance, corrupt
from jaxdiff.types import Denoised, LossTerm, Noised, Times

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


SEEDS = (0, 1, 2)
STEPS, BATCH, DECAY, IMAGES = 3000, 64, 0.997, 300
CHECKPOINTS = tuple(STEPS * third // 3 for third in (1, 2, 3))
GRADIENTS = 100
"""Minibatches of which the noise is measured."""
TABLES = {"linear": jd.Table(jd.LinearBetas()), "cosine": jd.Table(jd.CosineBetas())}
T = 1000
UNIFORM, IMPORTANCE = UniformEntries(), LossSecondMoment(T)


@jd.register(name="losses.LeftOut")
@dataclass(frozen=True)
class LeftOut:
    """A term that is 0 at t = 1, a table's last entry."""

    of: LossTerm

    def __call__(self, denoised: Denoised, noised: Noised) -> Float[Array, " B"]:
        before = jnp.reshape(jnp.asarray(noised.t), -1) < 1
        return jnp.where(before, self.of(denoised, noised), 0.0)


@dataclass(frozen=True)
class Arm:
    """One training: its table, objective and law of t."""

    name: str
    table: str
    loss: LossTerm
    times: Times = UNIFORM


SIMPLE = jd.WeightedError(jd.UniformOnNetwork(jd.Eps()))


def bound(table: str, stop_mean: bool = False, clip: bool = False) -> LossTerm:
    """One term of the bound."""
    return jd.VariationalBound(TABLES[table], stop_mean=stop_mean, clip=clip)


def hybrid(table: str, clip: bool = False) -> LossTerm:
    """L_simple + T / 1000 L_vlb, which trains the variance alone."""
    return jd.Total(((1.0, SIMPLE), (T / 1000, bound(table, stop_mean=True, clip=clip))))


def vlb(term: LossTerm) -> LossTerm:
    """L_vlb, of the mean over the entries of their terms."""
    return jd.Total(((float(T), term),))


ARMS = {
    "hybrid": Arm("L_hybrid", "cosine", hybrid("cosine")),
    "vlb": Arm("L_vlb", "cosine", vlb(bound("cosine")), IMPORTANCE),
    "out": Arm(
        "L_vlb, last entry left out", "cosine", vlb(LeftOut(bound("cosine"))), IMPORTANCE
    ),
    "held": Arm("L_vlb, x₀ held", "cosine", vlb(bound("cosine", clip=True)), IMPORTANCE),
    "hybrid-held": Arm("L_hybrid, x₀ held", "cosine", hybrid("cosine", clip=True)),
    "warmed": Arm(
        "L_vlb, longer warm-up",
        "cosine",
        vlb(bound("cosine")),
        LossSecondMoment(T, length=50),
    ),
    "uniform": Arm("L_vlb, t uniform", "cosine", vlb(bound("cosine"))),
    "hybrid-linear": Arm("L_hybrid, linear", "linear", hybrid("linear")),
    "vlb-linear": Arm("L_vlb, linear", "linear", vlb(bound("linear")), IMPORTANCE),
}


EDGES = np.r_[0, np.unique(np.geomspace(1, T, 31).round().astype(int))]
"""Of the bins of entries over which the bound's terms are summed."""
FIRST = 10
"""Entries near the data whose share of the draws is told."""
NOISES: dict[str, tuple[LossTerm, Times]] = {
    "L_vlb, t uniform": (ARMS["vlb"].loss, UNIFORM),
    "L_vlb, t by importance": (ARMS["vlb"].loss, IMPORTANCE),
    "last entry left out, t uniform": (ARMS["out"].loss, UNIFORM),
    "last entry left out, t by importance": (ARMS["out"].loss, IMPORTANCE),
    "x₀ held, t uniform": (ARMS["held"].loss, UNIFORM),
    "x₀ held, t by importance": (ARMS["held"].loss, IMPORTANCE),
    "L_hybrid, t uniform": (ARMS["hybrid"].loss, UNIFORM),
}
"""Gradients by name, on the cosine table."""
AT = ("hybrid", "held")
"""Arms at whose parameters gradients are taken."""
LEVELS, SHOWN = (0.03, 0.1, 0.3, 0.9), (0.03, 0.3)
"""The t at which the background's pixels are looked at, and those in the table."""


def main() -> None:
    """Trains and measures what is missing, prints, draws."""
    book = study.book("improved_ddpm")
    runs = [(arm, seed) for arm in ARMS for seed in SEEDS]
    for arm, seed in tqdm(runs, desc="bounds", disable=None):
        measure_bound(book, arm, seed, STEPS)
    for arm, seed in tqdm(runs, desc="draws", disable=None):
        measure_draws(book, arm, seed)
        measure_pixels(book, arm, seed)
    earlier = itertools.product(CHECKPOINTS[:-1], LINES, SEEDS)
    for step, arm, seed in tqdm(list(earlier), desc="over training", disable=None):
        measure_bound(book, arm, seed, step)
    places = [(arm, seed) for arm in AT for seed in SEEDS]
    for arm, seed in tqdm(places, desc="gradients", disable=None):
        measure_gradients(book, arm, seed)
    for title, table in tables(book).items():
        print(f"{title}\n\n{table}\n")
    print(study.save(draw(book), "improved_ddpm"))


def experiment(arm: str, seed: int) -> Experiment:
    """One training."""
    a = ARMS[arm]
    return Experiment(
        data=Digits(),
        network=ResidualMLP(label_dim=10, learned_variance=True),
        schedule=TABLES[a.table],
        times=a.times,
        parameterization=jd.Eps(),
        loss=a.loss,
        optimizer=AdamW(learning_rate=1e-3, rampup_images=10_000.0, decays=(DECAY,)),
        sampling=Sampling(
            grid=jd.grids.Trailing(), steps=100, solver=jd.DDIM(), std=DECAY, clip=True
        ),
        batch_size=BATCH,
        steps=STEPS,
        seed=seed,
        log_every=250,
        sample_every=0,
        checkpoint_every=CHECKPOINTS[0],
        keep=2 * len(CHECKPOINTS),  # those of stops, too
    )


def folder(arm: str, seed: int) -> Path:
    """A run, trained where it is missing."""
    return study.trained(f"{arm}-{seed}", experiment(arm, seed))


def made(arm: str, seed: int) -> dict[str, str]:
    """The commits of a row."""
    measured = study.short(provenance.commit_of(__file__))
    return {"trained": study.commits(folder(arm, seed)), "measured": measured}


def bound_key(arm: str, seed: int, step: int = STEPS) -> dict[str, Any]:
    """What a row of the bound is found by."""
    of = {"arm": arm, "seed": seed, "split": "test", "step": step}
    return {"what": "bound", **of, "images": IMAGES}


def measure_bound(book: study.Book, arm: str, seed: int, step: int) -> None:
    """The bound of a run at a checkpoint, on 300 held-out digits."""
    key = bound_key(arm, seed, step)
    if book.find(**key):
        return
    run = restoring.restore(folder(arm, seed), step=step)
    steps = likelihood.process(run.experiment.schedule, T)
    cost = functools.partial(dataset_bound.coster, run.experiment, LearnedVariance())
    held, last = (
        dataset_bound.measure(
            cost(clip),
            run.variables,
            Digits("test").load(),
            some,
            sharding.data_mesh(),
            number=IMAGES,
            batch=IMAGES,
        )
        for clip, some in ((True, steps), (False, steps[T - 1 :]))
    )
    parts = dataset_bound.report(held)["bits_per_dim"]
    terms = held.vb.mean(0)
    results = {
        **{name: part["mean"] for name, part in parts.items()},
        "error": parts["total"]["error"],
        "last entry, x0 as it is": last.vb.mean(),
        "bins": np.add.reduceat(terms, EDGES[:-1]),
    }
    book.write(key, {**results, **made(arm, seed)})


def state_of(arm: str, seed: int, step: int) -> tuple[Experiment, TrainState]:
    """A run's experiment and its state at a checkpoint."""
    mesh = sharding.data_mesh(jax.devices()[:1])
    with checkpoint.checkpoints(folder(arm, seed)) as saved:
        state, record = saved.restore(mesh, [step])
    return record.experiment, state


def measure_draws(book: study.Book, arm: str, seed: int) -> None:
    """On which entries a run's sampler spends its draws, over training."""
    law = ARMS[arm].times
    if not isinstance(law, LossSecondMoment):
        return
    for step in CHECKPOINTS:
        key = {"what": "draws", "arm": arm, "seed": seed, "step": step}
        if not book.find(**key):
            _, state = state_of(arm, seed, step)
            p = np.asarray(law.probabilities(state.times), np.float64)
            warm = bool((np.asarray(state.times.counts) == law.length).all())
            shares = {"last": p[-1], "first": p[:FIRST].sum(), "warm": warm}
            book.write(key, {**shares, **made(arm, seed)})


def gradient_key(arm: str, seed: int, name: str) -> dict[str, Any]:
    """What a row of gradient noise is found by."""
    count = {"batch": gradient_noise.BATCH, "batches": GRADIENTS}
    return {"what": "gradient noise", "at": arm, "seed": seed, "of": name, **count}


def measure_gradients(book: study.Book, arm: str, seed: int) -> None:
    """The noise of each gradient at a run's parameters, the raw ones of training.

    The sampler is given ten losses of every entry there.
    """
    missing = [g for g in NOISES if not book.find(**gradient_key(arm, seed, g))]
    if not missing:
        return
    experiment, state = state_of(arm, seed, STEPS)
    data = experiment.data.load()
    for name in missing:
        loss, law = NOISES[name]
        memory = law.init()
        if law == IMPORTANCE:
            memory = gradient_noise.filled(experiment, state, loss, law, data)
        inputs = (experiment, state, loss, law, memory, data, GRADIENTS)
        noise = gradient_noise.noise(gradient_noise.gram(*inputs))
        results = dataclasses.asdict(noise)
        book.write(gradient_key(arm, seed, name), {**results, **made(arm, seed)})


def measure_pixels(book: study.Book, arm: str, seed: int) -> None:
    """What x0 is where a held-out digit is -1, and its error there and elsewhere.

    At each t: the share of those pixels at which x0 is -1 or less, so that holding it makes
    it exact, and the mean squared error of x0 held to [-1, 1] on them and on the others.
    """
    key = {"what": "pixels", "arm": arm, "seed": seed, "images": IMAGES}
    if book.find(**key):
        return
    run = restoring.restore(folder(arm, seed), step=STEPS)
    held_out = Digits("test").load().source.take(np.arange(IMAGES))
    x0 = np.float32(held_out["image"] / 127.5 - 1)
    background = x0 == -1
    cond = jd.Condition(label=jnp.asarray(held_out["label"]))
    at_least, on_background, elsewhere = [], [], []
    for t in LEVELS:
        level = jnp.full((len(x0), 1, 1, 1), t)
        noised = corrupt(jax.random.key(0), jnp.asarray(x0), level, run.experiment.schedule)
        said = np.asarray(run.denoise(noised.x, noised.at, cond).x0, np.float64)
        squared = (said.clip(-1, 1) - x0) ** 2
        at_least.append((said[background] <= -1).mean())
        on_background.append(squared[background].mean())
        elsewhere.append(squared[~background].mean())
    results = {"t": LEVELS, "background": background.mean(), "exact": at_least}
    errors = {"error on background": on_background, "error elsewhere": elsewhere}
    book.write(key, {**results, **errors, **made(arm, seed)})


Seeds = Float64[np.ndarray, " seeds"]


def bounded(book: study.Book, arms: Iterable[str] = ARMS, step: int = STEPS) -> list[str]:
    """Those of the arms whose bound was measured in all seeds."""
    has = lambda arm: all(book.find(**bound_key(arm, seed, step)) for seed in SEEDS)
    return list(filter(has, arms))


def values(book: study.Book, arm: str, field: str = "total", **where: Any) -> Seeds:
    """A field of the bound, a number a seed."""
    rows = (book.find(**bound_key(arm, seed, **where)) for seed in SEEDS)
    return np.array([row[field] for row in rows])


def tables(book: study.Book) -> dict[str, str]:
    """By title: the bound, over training, the sampler's draws, gradient noise, pixels.

    Each of the arms that were measured in all seeds.
    """
    return {
        "bound": table_of_bounds(book),
        "training": table_over_training(book),
        "draws": table_of_draws(book),
        "gradients": table_of_gradients(book),
        "pixels": table_of_pixels(book),
    }


def table_of_bounds(book: study.Book) -> str:
    """Bits/dim of each arm, its lag behind L_hybrid, and its parts."""
    rows = []
    for arm in bounded(book):
        a = ARMS[arm]
        of = functools.partial(values, book, arm)
        lag = of() - values(book, hybrid_of(arm))
        cells = [spread(of()), "" if arm == hybrid_of(arm) else spread(lag, SIGNED)]
        cells += [spread(of(field)) for field in ("diffusion", "decoder")]
        last = of("last entry, x0 as it is").mean()
        rows.append([a.name, *cells, rounded(last, 3)])
    head = "objective", "bits/dim", "less L_hybrid", "diffusion", "decoder"
    return study.table([*head, "last entry, x₀ as it is"], rows)


def hybrid_of(arm: str) -> str:
    """L_hybrid on an arm's table."""
    return "hybrid-linear" if ARMS[arm].table == "linear" else "hybrid"


def followed(book: study.Book) -> list[str]:
    """Arms that are drawn and whose bound was measured at all checkpoints, in all seeds."""
    every = lambda arm: all(bounded(book, [arm], step) for step in CHECKPOINTS)
    return list(filter(every, LINES))


def table_over_training(book: study.Book) -> str:
    """Bits/dim at the checkpoints."""
    rows = [
        [ARMS[arm].name, *(spread(values(book, arm, step=step)) for step in CHECKPOINTS)]
        for arm in followed(book)
    ]
    return study.table(["training steps", *map(str, CHECKPOINTS)], rows)


def shares(book: study.Book, arm: str, step: int, field: str) -> Seeds:
    """A share of a sampler's draws, a number a seed."""
    key = {"what": "draws", "arm": arm, "step": step}
    return np.array([book.find(seed=seed, **key)[field] for seed in SEEDS])


def sampled(book: study.Book) -> list[str]:
    """Arms whose draws of t were measured in all seeds."""
    key = {"what": "draws", "step": STEPS}
    has = lambda arm: all(book.find(arm=arm, seed=seed, **key) for seed in SEEDS)
    return list(filter(has, ARMS))


def table_of_draws(book: study.Book) -> str:
    """Shares of the last entry's draws over training, and of the first ones at its end."""
    rows = []
    for arm in sampled(book):
        last = (shares(book, arm, step, "last").mean() for step in CHECKPOINTS)
        first = shares(book, arm, STEPS, "first").mean()
        of_last = (f"{share:.1%}" for share in last)
        rows.append([ARMS[arm].name, *of_last, f"{first:.1%}"])
    head = ["training steps", *map(str, CHECKPOINTS), f"first {FIRST}, at {STEPS}"]
    return study.table(head, rows)


def table_of_gradients(book: study.Book) -> str:
    """Signal and noise, medians over seeds."""
    rows = []
    for arm, name in itertools.product(AT, NOISES):
        found = [book.find(**gradient_key(arm, seed, name)) for seed in SEEDS]
        if None in found:
            continue
        ratios = np.array([row["ratio"] for row in found])
        mean2 = np.array([row["mean2"] for row in found])
        span = " to ".join(rounded(end) for end in (ratios.min(), ratios.max()))
        numbers = (rounded(np.median(some)) for some in (mean2, ratios))
        rows.append([ARMS[arm].name, name, *numbers, span])
    return study.table(["at", "gradient of", "G²", "tr C / G²", "its span"], rows)


def table_of_pixels(book: study.Book) -> str:
    """Shares of the background that holding makes exact, and errors; means over seeds."""
    rows = []
    for arm, a in ARMS.items():
        found = [book.find(what="pixels", arm=arm, seed=seed) for seed in SEEDS]
        if None in found:
            continue
        cells = []
        for i in map(LEVELS.index, SHOWN):
            mean = lambda field, i=i, found=found: np.mean([r[field][i] for r in found])
            errors = mean("error on background"), mean("error elsewhere")
            cells += [f"{mean('exact'):.0%}", *(f"{error:.5f}" for error in errors)]
        rows.append([a.name, *cells])
    heads = [(f"exact, t = {t:g}", "error there", "elsewhere") for t in SHOWN]
    return study.table(["objective", *itertools.chain(*heads)], rows)


def rounded(value: float, digits: int = 2) -> str:
    """A number to a few digits, as prose has it.

    >>> rounded(51216.5), rounded(0.0123)
    ('51,000', '0.012')
    """
    return f"{float(f'{value:.{digits}g}'):,.9g}"


SIGNED = "{:+.3f} ± {:.3f}"


def spread(values: Seeds, style: str = "{:.3f} ± {:.3f}") -> str:
    """Mean and standard deviation over seeds.

    >>> spread(np.array([-3.0, -2.0, -1.0]), "{:+.1f} ± {:.1f}")
    '−2.0 ± 1.0'
    """
    return style.format(values.mean(), values.std(ddof=1)).replace("-", "−")


LINES = {
    "hybrid": plots.VERMILION,
    "vlb": plots.GREEN,
    "out": plots.BLUE,
    "held": plots.PURPLE,
}
"""Colours of the arms that are drawn over training and over the entries."""
BITS = "bound   [bits/dim]"


def draw(book: study.Book) -> "Figure":
    """Bits/dim of each arm, by entry, over training, and the draws of the last entry."""
    title = "Improved DDPM on digits: what keeps L_vlb behind, three trainings of each"
    figure, (bits, entries, training, draws) = plots.panels(title, 7.4, 2, 2)
    draw_bits(bits, book)
    look = lambda arm: {"color": LINES[arm], "lw": 1.8}
    for arm in bounded(book, LINES):
        of = functools.partial(values, book, arm, "bins")
        less = (of() - values(book, "hybrid", "bins")).mean(0)
        entries.plot(EDGES[1:] / T, np.cumsum(less), **look(arm))
    for arm in followed(book):
        seen = np.array([values(book, arm, step=step) for step in CHECKPOINTS])
        error = {"yerr": seen.std(1, ddof=1), "capsize": 3}
        training.errorbar(CHECKPOINTS, seen.mean(1), **error, **look(arm))
    for arm in filter(LINES.__contains__, sampled(book)):
        share = [shares(book, arm, step, "last").mean() for step in CHECKPOINTS]
        more = {"marker": "o", "ms": 4, "label": ARMS[arm].name}
        draws.plot(CHECKPOINTS, share, **look(arm), **more)
    training.set(title="Over training", ylabel=BITS)
    entries.set(title="Sum of the terms up to t, less that of L_hybrid", xscale="log")
    entries.set(xlabel="t   [fraction of the path]", ylabel="difference   [bits/dim]")
    draws.set(title="Draws that the last entry gets", ylabel="share   [1]")
    for axes in (training, draws):
        axes.set_xticks(CHECKPOINTS)
        axes.set(xlabel="training steps")
    plots.legend(draws)
    return figure


def draw_bits(axes: "Axes", book: study.Book) -> None:
    """Bits/dim of each arm, a dot a seed; the names have the colours of the lines."""
    arms = bounded(book)
    axes.set_yticks(range(len(arms)), [ARMS[arm].name for arm in arms])
    for place, (arm, label) in enumerate(zip(arms, axes.get_yticklabels(), strict=True)):
        colour = LINES.get(arm, plots.GREY)
        seen = values(book, arm)
        axes.plot(seen, [place] * len(seen), "o", ms=6, alpha=0.7, color=colour)
        label.set_color(LINES.get(arm, plots.INK))
        if arm == hybrid_of(arm):
            axes.axvline(seen.mean(), color=colour, lw=1, zorder=0)
    axes.invert_yaxis()
    axes.set(title="Held-out digits; lines at L_hybrid's means", xlabel=BITS)


if __name__ == "__main__":
    study.run(main)
