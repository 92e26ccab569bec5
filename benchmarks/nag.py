"""Noise awareness guidance: does the measured shift say when it helps?

    python benchmarks/nag.py --runs=runs/nag

Two sets of images of 8x8 pixels, digits and emoji, and what the paper's two families of
models sample with, at the size of a residual MLP: a flow on the straight path as SiT, by
Euler-Maruyama with SiT's noise in 10 to 250 steps, Euler and Heun; and eps on DDPM's linear
table as DiT, by ancestral steps and DDIM's. Three seeds of each training:

    DATA-flow-SEED, DATA-ddpm-SEED   the level withheld from a tenth of the images
    digits-flow-plain-SEED           never withheld,
    digits-flow-tuned-SEED           and a quarter of that training more, with the level
                                     withheld from a tenth of the images [NAG]
    DATA-PATH-level                  an estimator of the level, one

Each way to sample draws 500 images with each weight w, of the same seeds and labels.
Each set has a Frechet distance and a KID to the training images, in pixels, and the noise
shift on the way, against forward states of held-out images. To know what a shift does when
nothing else is wrong, shifts of known size are also made: Heun's rule from states of
training images at sigma / alpha = 1 with m times the noise that is right there. Of two
samplers it also measures what guidance does to the variance of images.

Stopped and started again it goes on. Prints tables, and writes nag.png and nag.json to
--out. For one core. Needs `pip install -e ".[openmoji]"`, whose drawings are CC BY-SA 4.0.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import digits_judge
import jax
import jax.numpy as jnp
import numpy as np
import study
from jaxtyping import Array, Float, Float64, Int
from small_network import ResidualMLP
from tqdm import tqdm
from zero_terminal_snr import proportional

import jaxdiff as jd
from jaxdiff.analysis import plots
from jaxdiff.config import Experiment, Sampling
from jaxdiff.data import Digits, OpenMoji, Pixels
from jaxdiff.denoisers.parameterizations import Unscaled
from jaxdiff.evaluation import noise_shift
from jaxdiff.evaluation.distances import frechet, kid, moments
from jaxdiff.evaluation.noise_shift import of_run
from jaxdiff.networks import LevelEstimator
from jaxdiff.objectives.losses import LevelLikelihood
from jaxdiff.objectives.timesteps import LogUniformSigma, Uniform, UniformEntries
from jaxdiff.optim import AdamW
from jaxdiff.runs import restoring
from jaxdiff.runs.generate import image_keys
from jaxdiff.runs.guided_denoiser import guided
from jaxdiff.runs.state import labelled, run_denoiser
from jaxdiff.runtime import provenance
from jaxdiff.sampling import normal, trajectory
from jaxdiff.sampling.guidance import without
from jaxdiff.sampling.solvers.sde import SigmaW
from jaxdiff.types import NoiseLevel, Solver, Source

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SEEDS = (0, 1, 2)
STEPS, BATCH, DECAY, IMAGES = 2000, 64, 0.997, 500
WEIGHTS, FEWER = (0.0, 0.5, 1.0, 2.0), (0.0, 0.5, 1.0)
"""Of the guidance; fewer where there are 250 steps."""
HIGH, SCALE = 5.0, 0.5
"""Guidance acts at sigma / alpha <= 5; the weight of classifier-free guidance, where on."""
RATIOS = (5.0, 2.0, 1.0, 0.7, 0.5, 0.35, 0.25, 0.1)
"""The shift is measured at the levels of a grid next to these sigma / alpha."""
MULTIPLES = (0.9, 1.0, 1.05, 1.1, 1.2, 1.4)
SURE = 0.02
"""Changes of ln of a distance that count."""
UPON, GAIN_RATIOS = (0.8, 1.0, 1.2), (0.05, 0.1, 0.2, 0.35, 0.5, 1.0, 2.0, 4.0)

FLOW, TABLE = jd.RectifiedFlow(), jd.Table(jd.LinearBetas())
SOLVERS: dict[str, Solver] = {
    "Euler–Maruyama": jd.EulerMaruyama(
        SigmaW(), FLOW, tangent=True, limit=math.inf, last="mean"
    ),
    "Euler": jd.Euler(),
    "Heun": jd.Heun(),
    "Ancestral": jd.Ancestral(),
    "DDIM": jd.Euler(),
}
SOURCES: dict[str, Source] = {"digits": Digits(), "emoji": OpenMoji(size=8)}


@dataclass(frozen=True)
class Setting:
    """A way to sample: of which path, by what, from where; `kind` is of the training."""

    path: str
    solver: str
    steps: int
    guidance: float = 0.0
    low: float = 0.0
    kind: str = "scratch"
    m: float = 0.0
    """Start from states of training images at sigma / alpha = 1 with m times the noise
    that is right; 0: start from noise."""

    def __str__(self) -> str:
        text = f"{self.solver}, {self.steps} steps"
        text += f", CFG {self.guidance:g}" if self.guidance else ""
        text += f", {self.low:g} < σ/α" if self.low else ""
        return text + (", fine-tuned" if self.kind == "tuned" else "")


EM, ODE = "Euler–Maruyama", "Euler"
NOISY = EM, "Ancestral"
SAMPLERS = [
    *(Setting("flow", EM, steps) for steps in (10, 25, 50, 100)),
    *(Setting("flow", ODE, steps) for steps in (10, 50)),
    *(Setting("flow", "Heun", steps) for steps in (10, 25)),
    *(Setting("ddpm", "Ancestral", steps) for steps in (25, 50)),
    *(Setting("ddpm", "DDIM", steps) for steps in (10, 50)),
    *(Setting("flow", solver, 50, guidance=SCALE) for solver in (EM, ODE)),
    *(Setting("flow", solver, 50, kind="tuned") for solver in (EM, ODE)),
    Setting("flow", EM, 250),
    Setting("ddpm", "Ancestral", 250),
    Setting("ddpm", "Ancestral", 50, guidance=SCALE),
    Setting("flow", EM, 50, low=0.2),
]
TUNED = "digits", "flow", "tuned"
MADE = [Setting("flow", "Heun", 10, m=m) for m in MULTIPLES]
SPREAD = [Setting("flow", "Heun", 10, m=1.0), Setting("flow", ODE, 50)]
"""What guidance does to the variance of images is measured of these."""
LEADING = 0.8
"""The share of the variance that the leading directions of the training images have."""


def main() -> None:
    """Trains and measures what is missing, prints, draws."""
    book = study.book("nag")
    measure_gains(book)
    measure(book)
    measure_spread(book)
    for title, table in tables(book).items():
        print(f"{title}\n\n{table}\n")
    print(study.save(draw(book), "nag"))


def trainings() -> Iterator[tuple[str, Experiment]]:
    """Names and experiments of all runs."""
    for data, path in itertools.product(SOURCES, ("flow", "ddpm")):
        for seed in SEEDS:
            yield f"{data}-{path}-{seed}", denoiser(data, path, seed)
        yield f"{data}-{path}-level", estimator(data, path)
    data, path = "digits", "flow"
    plain = [f"{data}-{path}-plain-{seed}" for seed in SEEDS]
    for seed, name in zip(SEEDS, plain, strict=True):
        yield name, denoiser(data, path, seed, noise_dropout=0.0)
    for seed, name in zip(SEEDS, plain, strict=True):
        more = {"steps": STEPS // 4, "init_from": str(folder(name))}
        yield f"{data}-{path}-tuned-{seed}", denoiser(data, path, seed, **more)


def denoiser(data: str, path: str, seed: int, **changes: Any) -> Experiment:
    """One training of a denoiser."""
    flow = path == "flow"
    prediction = jd.Flow() if flow else jd.Eps()
    e = Experiment(
        data=SOURCES[data],
        network=ResidualMLP(label_dim=-1, width=192 if data == "digits" else 256),
        schedule=FLOW if flow else TABLE,
        times=Uniform() if flow else UniformEntries(),
        parameterization=prediction,
        loss=jd.WeightedError(jd.UniformOnNetwork(prediction)),
        optimizer=AdamW(learning_rate=1e-3, rampup_images=10_000.0, decays=(DECAY,)),
        sampling=Sampling(grid=jd.grids.Uniform(), std=DECAY),
        batch_size=BATCH,
        steps=STEPS,
        seed=seed,
        label_dropout=0.1,
        noise_dropout=0.1,
        log_every=500,
        sample_every=0,
        checkpoint_every=STEPS,
    )
    return dataclasses.replace(e, **changes)


def estimator(data: str, path: str) -> Experiment:
    """An estimator of the level, on the backbone of the first denoiser."""
    e = denoiser(data, path, seed=0, noise_dropout=0.0, label_dropout=0.0)
    return dataclasses.replace(
        e,
        network=LevelEstimator(e.network),
        times=LogUniformSigma(0.03, 20.0),
        parameterization=Unscaled(),
        loss=LevelLikelihood(),
        init_from=str(folder(f"{data}-{path}-0")),
        steps=STEPS // 2,
    )


def folder(name: str) -> Any:
    """Where a run lies."""
    return study.command.folder(study.RUNS) / name


@functools.lru_cache(64)
def restored(name: str) -> restoring.Restored:
    """A run, trained where it is missing, and first the one that it starts from."""
    experiment = dict(trainings())[name]
    if experiment.init_from:
        restored(Path(experiment.init_from).name)
    return restoring.restore(study.trained(name, experiment))


def run_of(data: str, setting: Setting, seed: int) -> str:
    """The name of the run that a setting samples from."""
    tuned = "-tuned" if setting.kind == "tuned" else ""
    return f"{data}-{setting.path}{tuned}-{seed}"


def levels_of(setting: Setting) -> NoiseLevel:
    """The levels that a setting passes, the last of them the data."""
    steps = setting.steps
    if setting.path == "ddpm":
        return jd.grids.Trailing()(TABLE, steps)
    if setting.m:
        return jd.grids.Uniform()(FLOW, 2 * steps)[steps:]
    return jd.grids.Uniform(last=0.04 if setting.solver == EM else 0.0)(FLOW, steps)


def watched(levels: NoiseLevel) -> tuple[int, ...]:
    """Which inner levels are watched: those next to `RATIOS`, and the last."""
    u = np.log(np.asarray(levels.sigma[1:-1]) / np.asarray(levels.alpha[1:-1]))
    near = {1 + int(np.abs(u - np.log(ratio)).argmin()) for ratio in RATIOS}
    return tuple(sorted(near | {len(u)}))


@functools.lru_cache(4)
def program(data: str, setting: Setting) -> Any:
    """(variables, estimator's, w, keys, labels, x) -> x0 and the estimates on the way."""
    e = restored(run_of(data, setting, 0)).experiment
    estimating = restored(f"{data}-{setting.path}-level").experiment
    sampling = Sampling(
        grid=jd.grids.Uniform(),
        guidance=setting.guidance,
        noise_guidance=1.0,
        noise_interval=(setting.low, HIGH),
        std=DECAY,
        clip=setting.path == "ddpm",
    )
    denoising = guided(dataclasses.replace(e, sampling=sampling))
    levels, solver = levels_of(setting), SOLVERS[setting.solver]

    @jax.jit
    def draw(
        variables: Any, estimator: Any, w: Array, keys: Array, label: Array, x: Array
    ) -> tuple[Array, Array]:
        weights = {"guidance": setting.guidance, "noise_guidance": w}
        denoise = denoising(variables, weights | {"classifier_guidance": 0.0})
        way = trajectory(denoise, labelled(e, label), keys, x, levels, solver).x
        mean = of_run.level_mean(estimating, estimator, label)
        return way[-1], jax.lax.map(mean, way[np.asarray(watched(levels))])

    return draw


@functools.cache
def images(data: str, split: str) -> tuple[Float[np.ndarray, "N H W C"], np.ndarray]:
    """The images of a split in [-1, 1] and their labels."""
    source = dataclasses.replace(SOURCES[data], split=split).load().source
    image = Pixels().encode(jax.random.key(3), np.asarray(source.image))
    return np.asarray(image), np.asarray(source.label, np.int32)


def some(data: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    """`IMAGES` of a split, again and again where it has fewer."""
    image, label = images(data, split)
    order = np.random.default_rng(0).permutation(max(len(image), IMAGES))[:IMAGES]
    return image[order % len(image)], label[order % len(image)]


@functools.lru_cache(4)
def forward(data: str, setting: Setting) -> Float[np.ndarray, "L N"]:
    """What the estimator says of forward states at the levels that a setting watches."""
    name = f"{data}-{setting.path}-level"
    x0, label = some(data, "train" if setting.m else "test")
    at = levels_of(setting)[np.asarray(watched(levels_of(setting)))]
    keys = jax.random.split(jax.random.key(5), len(at.sigma))

    @jax.jit
    def estimates(variables: Any) -> Array:
        mean = of_run.level_mean(restored(name).experiment, variables, label)
        return jax.lax.map(mean, noise_shift.forward(keys, x0, at))

    return np.asarray(estimates(restored(name).variables))


def sampled(
    data: str, setting: Setting, seed: int, w: float
) -> tuple[Float[np.ndarray, "N H W C"], Int[np.ndarray, " N"], noise_shift.Shift]:
    """Images, the labels that were asked for, and the shift at the watched levels."""
    run = restored(run_of(data, setting, seed))
    level = restored(f"{data}-{setting.path}-level")
    keys, at = image_keys(1_000_000 + np.arange(IMAGES)), levels_of(setting)[0]
    if setting.m:
        x0, label = some(data, "train")
        x = at.alpha * x0 + setting.m * at.sigma * normal(keys, run.shape)
    else:
        label = proportional(images(data, "train")[1], IMAGES)
        x = at.sigma * normal(keys, run.shape)
    inputs = run.variables, level.variables, w, keys, label, x
    x0, estimates = program(data, setting)(*inputs)
    both = noise_shift.Estimates(estimates, forward(data, setting))
    return np.asarray(x0), label, noise_shift.measure(both)


@functools.cache
def real(data: str) -> tuple[Float64[np.ndarray, "N D"], tuple[np.ndarray, np.ndarray]]:
    """The training images as points, with their mean and covariance."""
    image = images(data, "train")[0]
    points = image.reshape(len(image), -1).astype(np.float64)
    return points, moments(points)


@functools.cache
def classifier() -> digits_judge.Judge:
    """Who says whether a digit is the one asked for."""
    return digits_judge.judge()


def pixels(x0: np.ndarray) -> Float64[np.ndarray, "N D"]:
    """As points, of the 256 values that a file has."""
    shown = np.round(np.clip(x0, -1, 1) * 127.5 + 127.5) / 127.5 - 1
    return shown.reshape(len(x0), -1).astype(np.float64)


def judged(data: str, x0: np.ndarray, label: np.ndarray) -> dict[str, float]:
    """Frechet distance and KID x 1,000 to the training images; of digits, accuracy."""
    points = pixels(x0)
    train, gaussian = real(data)
    said = {
        "frechet": frechet(*moments(points), *gaussian),
        "kid": 1000 * kid(real=train, fake=points).value,
    }
    if data == "digits":
        predicted = classifier().classifier.predict(points)
        said["accuracy"] = float(np.mean(predicted == label))
    return said


def key(data: str, setting: Setting, seed: int, w: float) -> dict[str, Any]:
    """What a row is found by."""
    of = {"what": "quality", "data": data, **dataclasses.asdict(setting)}
    return {**of, "seed": seed, "w": w, "images": IMAGES}


def cells() -> Iterator[tuple[str, Setting, int, float]]:
    """All that there is to draw; of fine-tuned networks there are those of digits."""
    for setting, data in itertools.product(MADE + SAMPLERS, SOURCES):
        if setting.kind == "scratch" or data == "digits":
            every = itertools.product(SEEDS, weights(setting))
            yield from ((data, setting, *one) for one in every)


def measure(book: study.Book) -> None:
    """Draws and judges what is missing; one compiled sampler does for seeds and weights."""
    for data in SOURCES:
        if not book.find(what="real", data=data):
            drawn = np.random.default_rng(0).multivariate_normal(*real(data)[1], IMAGES)
            floor = frechet(*moments(drawn), *real(data)[1])
            held, label = images(data, "test")
            said = {"floor": floor, "held_out": len(held), **judged(data, held, label)}
            book.write({"what": "real", "data": data}, said)
    missing = [one for one in cells() if not book.find(**key(*one))]
    for data, setting, seed, w in tqdm(missing, desc="sets of images", disable=None):
        x0, label, shift = sampled(data, setting, seed, w)
        levels = levels_of(setting)[np.asarray(watched(levels_of(setting)))]
        row = {
            **judged(data, x0, label),
            "ratio": np.asarray(levels.sigma) / np.asarray(levels.alpha),
            "shift": np.asarray(shift.shift),
            "error": np.asarray(shift.error),
            "trained": study.commits(folder(run_of(data, setting, seed))),
            "measured": study.short(provenance.commit_of(__file__)),
        }
        book.write(key(data, setting, seed, w), row)


def measure_spread(book: study.Book) -> None:
    """What guidance of w = 1 does to the variance in leading directions and others."""
    every = itertools.product(SPREAD, SOURCES, SEEDS, (0.0, 1.0))
    for setting, data, seed, w in tqdm([*every], desc="spreads", disable=None):
        of = {**key(data, setting, seed, w), "what": "spread"}
        if not book.find(**of):
            row = {
                **variances(data, sampled(data, setting, seed, w)[0]),
                "trained": study.commits(folder(run_of(data, setting, seed))),
                "measured": study.short(provenance.commit_of(__file__)),
            }
            book.write(of, row)


def variances(data: str, x0: np.ndarray) -> dict[str, float]:
    """Variance over that of the training images, and the squared distance of means."""
    mean, cov = real(data)[1]
    values, vectors = np.linalg.eigh(cov)
    along = (pixels(x0) - mean) @ vectors[:, ::-1]
    own, should = along.var(0, ddof=1), values[::-1]
    leading = np.cumsum(should) <= LEADING * should.sum()
    share = lambda some: float(own[some].sum() / should[some].sum())
    between = float(np.sum(along.mean(0) ** 2))
    return {"leading": share(leading), "rest": share(~leading), "means": between}


def measure_gains(book: study.Book) -> None:
    """The share of a state's noise that guidance takes away at w = 1, at a wrong level.

    p = -<D - D_u, e> / |e|^2, e = x / alpha - D, for x = alpha x0 + m sigma eps of held-out
    images, where D is told the level: it should have the sign of m - 1.
    """
    runs = [(data, path, "scratch") for data in SOURCES for path in ("flow", "ddpm")]
    for (data, path, kind), seed in itertools.product([*runs, TUNED], SEEDS):
        of = {"what": "gain", "data": data, "path": path, "kind": kind, "seed": seed}
        if book.find(**of):
            continue
        run = restored(run_of(data, Setting(path, ODE, 1, kind=kind), seed))
        gain = gain_of(data, path)
        gains = [[float(gain(run.variables, r, m)) for m in UPON] for r in GAIN_RATIOS]
        book.write(of, {"ratio": list(GAIN_RATIOS), "gains": gains})


@functools.cache
def gain_of(data: str, path: str) -> Any:
    """(variables, sigma / alpha, m) -> p."""
    e, (x0, label) = restored(f"{data}-{path}-0").experiment, some(data, "test")
    eps = jax.random.normal(jax.random.key(7), x0.shape)

    @jax.jit
    def gain(variables: Any, ratio: float, m: float) -> Array:
        at = e.schedule(e.schedule.time(-2 * jnp.log(ratio)))
        x, denoise = at.alpha * x0 + m * at.sigma * eps, run_denoiser(e, variables)
        told = denoise(x, at, labelled(e, label)).x0
        other = without(denoise, "noise")(x, at, labelled(e, label)).x0
        rest = x / at.alpha - told
        return -jnp.sum((told - other) * rest) / jnp.sum(rest**2)

    return gain


def values(
    book: study.Book, data: str, setting: Setting, w: float, field: str = "frechet"
) -> Float64[np.ndarray, "seeds ..."]:
    """A field of the rows, an item a seed."""
    return np.array([book.find(**key(data, setting, s, w))[field] for s in SEEDS])


def weights(setting: Setting) -> tuple[float, ...]:
    """The weights that a way to sample is measured with."""
    return FEWER if setting.steps == 250 else WEIGHTS


def change(
    book: study.Book, data: str, setting: Setting, w: float, field: str = "frechet"
) -> Float64[np.ndarray, " seeds"]:
    """ln of the distance with guidance over that without, seed by seed: < 0 is better."""
    return np.log(values(book, data, setting, w, field)) - np.log(
        values(book, data, setting, 0.0, field)
    )


def best(book: study.Book, data: str, setting: Setting) -> float:
    """The weight > 0 of the least change, in the mean over seeds."""
    return min(weights(setting)[1:], key=lambda w: change(book, data, setting, w).mean())


def outcome(book: study.Book, data: str, setting: Setting) -> str:
    """What the best weight does: beyond `SURE`, and in every seed, or it is neither."""
    at_best = change(book, data, setting, best(book, data, setting))
    if at_best.mean() < -SURE and (at_best < 0).all():
        return "helps"
    return "hurts" if at_best.mean() > SURE and (at_best > 0).all() else "neither"


def shift(book: study.Book, data: str, setting: Setting) -> tuple[float, float]:
    """Without guidance, mean over seeds: at 0.2 < sigma / alpha <= 1, and the last."""
    ratio = values(book, data, setting, 0.0, "ratio")[0]
    by_level = values(book, data, setting, 0.0, "shift").mean(0)
    low, high = noise_shift.shift.USEFUL
    inside = (low < ratio) & (ratio <= high)
    return float(by_level[inside].mean()), float(by_level[-1])


def ways(book: study.Book, made: bool = False) -> list[tuple[str, Setting]]:
    """The ways to sample that are measured, those that start from noise or the others."""
    every = ((data, s) for data, s, *_ in cells() if bool(s.m) == made)
    whole = lambda data, s: all(
        book.find(**key(data, s, *one)) for one in itertools.product(SEEDS, weights(s))
    )
    pairs = [pair for pair in dict.fromkeys(every) if whole(*pair)]
    order = lambda s: (
        *(s.kind, s.guidance, s.low, list(SOLVERS).index(s.solver)),
        *(s.steps, s.m),
    )
    return sorted(pairs, key=lambda pair: (list(SOURCES).index(pair[0]), order(pair[1])))


def tables(book: study.Book) -> dict[str, str]:
    """By title: each way to sample, made shifts, gains, and rules."""
    said = {}
    every = [f"w = {w:g}" for w in WEIGHTS]
    head = "sampler", "shift", "last", *every, "best w", "change", "guidance"
    for data, path in itertools.product(SOURCES, ("flow", "ddpm")):
        rows = []
        for setting in (s for d, s in ways(book) if (d, s.path) == (data, path)):
            signed = (minus(f"{n:+.3f}") for n in shift(book, data, setting))
            distances = (
                spread(values(book, data, setting, w)) if w in weights(setting) else ""
                for w in WEIGHTS
            )
            w = best(book, data, setting)
            change_at_it = percent(change(book, data, setting, w))
            verdict = outcome(book, data, setting)
            rows.append(
                [str(setting), *signed, *distances, f"{w:g}", change_at_it, verdict]
            )
        said[f"{data}, {path}"] = study.table(head, rows)
    said["made shifts"] = made_table(book)
    said["gains"] = gain_table(book)
    said["variance"] = spread_table(book)
    said["rules"] = rule_table(book)
    return said


def made_table(book: study.Book) -> str:
    """What guidance does to shifts of known size."""
    rows = []
    for data, setting in ways(book, made=True):
        plain = spread(values(book, data, setting, 0.0), "{:.3f} ± {:.3f}")
        changes = (percent(change(book, data, setting, w)) for w in WEIGHTS[1:])
        shifts = math.log(setting.m), *shift(book, data, setting)
        texts = (minus(f"{one:+.3f}") for one in shifts)
        rows.append([data, f"{setting.m:g}", *texts, plain, *changes])
    head = "data", "m", "ln m", "shift", "last", "w = 0"
    return study.table([*head, *(f"w = {w:g}" for w in WEIGHTS[1:])], rows)


def gain_table(book: study.Book) -> str:
    """The share of the noise that guidance takes away, of states of m times the noise."""
    rows = []
    runs = [(data, path, "scratch") for data in SOURCES for path in ("flow", "ddpm")]
    for data, path, kind in [*runs, TUNED]:
        of = {"what": "gain", "data": data, "path": path, "kind": kind}
        gains = np.mean([book.find(**of, seed=seed)["gains"] for seed in SEEDS], axis=0)
        for m, row in zip(UPON, gains.T, strict=True):
            name = f"{data}, {path}" + (", fine-tuned" if kind == "tuned" else "")
            rows.append([name, f"{m:g}", *(minus(f"{g:+.2f}") for g in row)])
    return study.table(["network", "m", *(f"σ/α = {r:g}" for r in GAIN_RATIOS)], rows)


def spread_table(book: study.Book) -> str:
    """Variance of images over that of training images, without guidance and with w = 1."""
    rows, fields = [], ("leading", "rest", "means")
    for data, setting in itertools.product(SOURCES, SPREAD):
        cells = []
        for field, w in itertools.product(fields, (0.0, 1.0)):
            of = {**key(data, setting, 0, w), "what": "spread"}
            found = [book.find(**{**of, "seed": seed})[field] for seed in SEEDS]
            cells.append(spread(np.array(found)))
        name = f"{setting}, from m = {setting.m:g}" if setting.m else str(setting)
        rows.append([data, name, *cells])
    each = (f"{field}, w = {w}" for field in fields for w in (0, 1))
    return study.table(["data", "sampler", *each], rows)


RULES: dict[str, Callable[[Setting, float, float], bool]] = {
    "everywhere": lambda setting, way, last: True,
    "nowhere": lambda setting, way, last: False,
    "the shift is positive on the way": lambda setting, way, last: way > 0,
    "the shift is positive at the last level": lambda setting, way, last: last > 0,
    "the steps add noise": lambda setting, way, last: setting.solver in NOISY,
}
"""What says that images gain, by the setting and its `shift`."""


def rule_table(book: study.Book) -> str:
    """How often rules are right, with false alarms and misses in brackets."""
    groups = [[way for way in ways(book) if way[0] == data] for data in SOURCES]
    groups.append(ways(book, made=True))
    rows = [
        [name, *(counts(book, rule, of) for of in groups)] for name, rule in RULES.items()
    ]
    return study.table(["images gain where", *SOURCES, "shifts made by hand"], rows)


def counts(book: study.Book, rule: Any, of: list[tuple[str, Setting]]) -> str:
    """Of the ways to sample for which a rule is right; false alarms and misses."""
    says = [rule(setting, *shift(book, data, setting)) for data, setting in of]
    gains = [outcome(book, data, setting) == "helps" for data, setting in of]
    pairs = [*zip(says, gains, strict=True)]
    alarms, missed = pairs.count((True, False)), pairs.count((False, True))
    return f"{len(pairs) - alarms - missed} of {len(pairs)} ({alarms}, {missed})"


def percent(changes: Float64[np.ndarray, " seeds"]) -> str:
    """Changes of a logarithm, as percent."""
    return spread(100 * np.expm1(changes), "{:+.0f} ± {:.0f} %")


def minus(number: str) -> str:
    """With a sign as long as a plus."""
    return number.replace("-", "−")


def spread(values: Float64[np.ndarray, " seeds"], style: str = "{:.2f} ± {:.2f}") -> str:
    """Mean and standard deviation over seeds.

    >>> spread(np.array([-3.0, -2.0, -1.0]), "{:+.1f} ± {:.1f}")
    '−2.0 ± 1.0'
    """
    return minus(style.format(values.mean(), values.std(ddof=1)))


def draw(book: study.Book) -> "Figure":
    """Left, what the best weight does over the shift; right, both change with w."""
    title = "Noise awareness guidance: images gain with a noise shift and without"
    figure, (left, right) = plots.panels(title, 4.4, 1, 2)
    for axes in (left, right):
        axes.axhline(0, color=plots.INK, lw=0.8)
        axes.axvline(0, color=plots.INK, lw=0.8)
        axes.set_ylabel("change of the Fréchet distance   [%]")
    scatter(left, book)
    courses(right, book)
    bottom = min(axes.get_ylim()[0] for axes in (left, right))
    for axes in (left, right):
        axes.set_ylim(bottom, top=-0.62 * bottom)  # with room for the names
    return figure


def scatter(axes: "Axes", book: study.Book) -> None:
    """A mark for each way to sample, and lines through shifts of known size."""
    for colour, data in zip(plots.COLOURS, SOURCES, strict=False):
        at = [
            (shift(book, data, s)[0], at_best(book, data, s))
            for d, s in ways(book, made=True)
            if d == data
        ]
        look = {"color": colour, "lw": 1.2, "marker": "x", "ms": 5}
        axes.plot(*zip(*at, strict=True), label=f"{data}: shift made by hand", **look)
        for noisy, marker in ((True, "o"), (False, "s")):
            some = [s for d, s in ways(book) if d == data and (s.solver in NOISY) == noisy]
            at = [(shift(book, data, s)[0], at_best(book, data, s)) for s in some]
            look = {"color": colour, "marker": marker, "ls": "none", "ms": 6}
            kind = "steps that add noise" if noisy else "ODE"
            fill = colour if noisy else plots.PAPER
            axes.plot(*zip(*at, strict=True), label=f"{data}: {kind}", mfc=fill, **look)
    axes.set(title="At the best weight w, each a way to sample")
    axes.set(xlabel="shift at 0.2 < σ/α ≤ 1, without guidance   [nats]")
    plots.legend(axes, loc="upper right")


def at_best(book: study.Book, data: str, setting: Setting) -> float:
    """The mean change at the best weight, in percent."""
    changes = change(book, data, setting, best(book, data, setting))
    return float(100 * np.expm1(changes).mean())


def courses(axes: "Axes", book: study.Book) -> None:
    """Of samplers on digits: last shift and change as w grows from 0."""
    shown = [s for s in SAMPLERS if s == Setting(s.path, s.solver, s.steps)]
    shown = [s for s in shown if s.steps == (25 if s.solver == "Heun" else 50)]
    shown = [s for s in shown if ("digits", s) in ways(book)]
    for setting, look in zip(shown, plots.looks(map(str, shown)), strict=True):
        at = weights(setting)
        last = [values(book, "digits", setting, w, "shift")[:, -1].mean() for w in at]
        changes = [100 * np.expm1(change(book, "digits", setting, w)).mean() for w in at]
        axes.plot(last, changes, label=str(setting), marker=".", **look)
    axes.set(title="Digits: w from 0 to 2 along each line")
    axes.set_xlabel("shift at the last level   [nats]")
    plots.legend(axes, loc="upper left")


if __name__ == "__main__":
    study.run(main)
