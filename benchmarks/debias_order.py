"""Debias: on what does the order of weightings depend? Size, table, start, measure.

    python benchmarks/debias_order.py --runs=runs/debias_order

The study of debias.py has Debias last on digits of 8x8; its paper has it first, on 256x256.
The same table leaves far more of the coarse image at the same t if the image is large:
averaged to d x d pixels an image of D x D has 2 ln(D / d) more log SNR. So this study
changes the size of the images, and that for which the table is: d x d pixels "as at D" are
trained and drawn on the table with logsnr + 2 ln(D / d) [Simple Diffusion].

Emoji, rendered at 32x32 and averaged to 8x8 in grey, and to 4x4 in colour, which is as many
numbers; a residual MLP, eps, as many steps of as many images for each, three seeds, in
folders ARM-SEED:

    weightings  four, on the table as it is and as at 256, grey and in colour
    rates       those in grey, at three times the learning rate, and at a third on the table
                as it is
    sizes       constant and Debias in grey as at 16, 64 and 128, and on digits of 8x8

Draws 1,000 images of each run by ancestral steps, x0 held to [-1, 1], of the same seeds and
of labels in the data's proportions, and compares them with the training images: Frechet
distances of pixels and of lite0's features, and the mean of each channel.
So it does with a perfect network, E[x0 | x, label] over the training images, which has what
the table does and nothing of the weighting. Also measured are the error of x0-hat over
levels, on held-out images, and without any training the share of each weighting on the
levels at which the 8x8 image is decided.

Stopped and started again it goes on. Prints tables, and writes debias_order.png and .json
to --out. Needs `pip install -e ".[openmoji,lite0]"`; drawings are CC BY-SA 4.0.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import study
from jaxtyping import Array, Float, Float64, Key, PyTree, UInt8
from scipy.stats import wasserstein_distance
from small_network import ResidualMLP
from tqdm import tqdm
from zero_terminal_snr import proportional

import jaxdiff as jd
from jaxdiff.analysis import plots
from jaxdiff.config import Experiment, Sampling
from jaxdiff.config.ready.digits_ddpm import WEIGHTINGS
from jaxdiff.data import Dataset, Digits, Memory, OpenMoji, Pixels
from jaxdiff.data.sources.openmoji import GROUPS
from jaxdiff.evaluation import distances, in_memory, observe
from jaxdiff.evaluation.extractors.extractor import extractor
from jaxdiff.objectives.timesteps import UniformEntries
from jaxdiff.optim import AdamW
from jaxdiff.runs import generate, restoring
from jaxdiff.runtime import provenance, sharding
from jaxdiff.types import Denoiser, NoiseLevel, Source, implements
from jaxdiff.types.ranges import Choice, checked

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SEEDS = (0, 1, 2)
STEPS, BATCH, DECAY, RATE = 1500, 64, 0.997, 1e-3
IMAGES, COUNTS = 1000, (5, 20, 50, 100)
PAPER = 256
"""Pixels of the paper's images."""
NAMES = {"constant": "constant", "p2": "P2", "min_snr": "min-SNR", "debias": "Debias"}
TWO = ("constant", "debias")
MAIN = {"count": 50, "start": "noise"}
"""Sampling steps, and what sampling starts from."""
OVER = [{**MAIN, "count": count} for count in COUNTS]
NOISED = {**MAIN, "start": "data"}
LIKES = (8, 16, 32, 64, 128, PAPER)
LOGSNR = (-3.0, -1.0, 1.0, 3.0)
"""Where errors are shown."""
LEVELS, DRAWS = 25, 4
"""Of the errors: entries of the table, and draws of the noise for each image."""


@jd.register
@implements(Source)
@dataclass(frozen=True)
@checked
class Emoji:
    """OpenMoji at 32x32, averaged to `size` pixels, in grey or in colour."""

    size: Annotated[int, Choice(4, 8)] = 8
    split: str = "train"
    grey: bool = True

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        return (self.size, self.size, 1 if self.grey else 3)

    @functools.cache  # noqa: B019, a frozen value
    def load(self) -> Dataset:
        """Renders, averages, rounds."""
        source = OpenMoji(size=32, split=self.split).load().source
        image = averaged(source.image.astype(np.float64), self.size)
        image = image.mean(-1, keepdims=True) if self.grey else image
        return Dataset(Memory(np.round(image).astype(np.uint8), source.label), GROUPS)


def averaged(image: Any, size: int) -> Any:
    """The mean of each of size x size parts, [N, H, W, C] to [N, size, size, C].

    >>> averaged(np.arange(4.0).reshape(1, 2, 2, 1), 1).ravel()
    array([1.5])
    """
    count, height, _, channels = image.shape
    part = height // size
    return image.reshape(count, size, part, size, part, channels).mean((2, 4))


def shifted(factor: float) -> jd.Table:
    """DDPM's linear table with logsnr - 2 ln `factor` in every entry, as `jd.Shifted`.

    >>> round(float(shifted(0.5)(1.0).logsnr - shifted(1.0)(1.0).logsnr), 4)  # 2 ln 2
    1.3863
    """
    alpha_bar = np.cumprod(1 - jd.LinearBetas()())
    alpha_bar = alpha_bar / (alpha_bar + factor**2 * (1 - alpha_bar))
    betas = 1 - alpha_bar / np.r_[1.0, alpha_bar[:-1]]
    return jd.Table(jd.schedules.ListedBetas(tuple(map(float, betas))))


DATA: dict[str, Source] = {
    "emoji8": Emoji(8),
    "colour4": Emoji(4, grey=False),
    "digits": Digits(),
}
TITLES = {
    "emoji8": "emoji, 8×8",
    "colour4": "emoji in colour, 4×4",
    "digits": "digits, 8×8",
}


@dataclass(frozen=True)
class Arm:
    """A training but for its seed: data, the size whose SNR they get, weighting, rate."""

    data: str
    like: int
    weighting: str
    rate: float = RATE

    @property
    def size(self) -> int:
        """Pixels of a side."""
        return DATA[self.data].shape[0]

    @property
    def schedule(self) -> jd.Table:
        """The table: averages to `size` have its SNR on images of `like` pixels."""
        return shifted(self.size / self.like)

    @property
    def name(self) -> str:
        """Of the folder."""
        return f"{self.data}-as{self.like}-{self.weighting}-{self.rate:g}"


def arms(data: str, likes: tuple[int, ...], weightings: tuple[str, ...]) -> list[Arm]:
    """All pairs."""
    return [Arm(data, like, weighting) for like in likes for weighting in weightings]


FOUR, RATES = tuple(WEIGHTINGS), (RATE / 3, RATE, 3 * RATE)
JUDGED = "emoji8", "colour4"
"""Data on which all four are compared in every setting."""
BASE = [arm for data in JUDGED for arm in arms(data, (8, PAPER), FOUR)]
RATED = [
    dataclasses.replace(arm, rate=rate)
    for rate, likes in ((RATES[2], (8, PAPER)), (RATES[0], (8,)))
    for arm in arms("emoji8", likes, FOUR)
]
"""All four at other rates."""
COMPARED = [("emoji8", n) for n in (8, 16, 64, 128, PAPER)]
COMPARED += [("digits", n) for n in (8, PAPER)]
"""Data and sizes at which constant and Debias are compared."""
PAIRS = [arm for data, like in COMPARED for arm in arms(data, (like,), TWO)]
EXPLAINED = ("digits", "emoji8")
"""Data of 8x8, whose shares and features are shown."""
CHANNELS = ("red", "green", "blue")
EARLY = f"{MAIN['count']} steps, half of the training"
FRECHET = (0.5, 1, 2, 4)
"""Ticks of the figure."""
PARTS = ("noisier", "decided", "clearer")


def main() -> None:
    """Trains and measures what is missing, prints, draws."""
    book = study.book("debias_order")
    for data in DATA:
        weigh(book, data)
    for data, like in itertools.product(JUDGED, (8, PAPER)):
        imagine(book, data, like)
    every = [(arm, seed) for arm in (*BASE, *RATED, *PAIRS) for seed in SEEDS]
    for arm, seed in tqdm(every, desc="runs", disable=None):
        measure(book, arm, seed)
    for title, table in tables(book).items():
        print(f"{title}\n\n{table}\n")
    print(study.save(draw(book), "debias_order"))


def experiment(arm: Arm, seed: int) -> Experiment:
    """One training."""
    return Experiment(
        data=DATA[arm.data],
        network=ResidualMLP(label_dim=10, width=192, inner=256),
        schedule=arm.schedule,
        times=UniformEntries(),
        parameterization=jd.Eps(),
        loss=jd.WeightedError(WEIGHTINGS[arm.weighting]),
        optimizer=AdamW(learning_rate=arm.rate, rampup_images=10_000.0, decays=(DECAY,)),
        sampling=Sampling(
            grid=jd.grids.Trailing(),
            steps=MAIN["count"],
            solver=jd.Ancestral(),
            std=DECAY,
            clip=True,
        ),
        batch_size=BATCH,
        steps=STEPS,
        seed=seed,
        log_every=500,
        sample_every=0,
        checkpoint_every=STEPS // 2,
        keep=2,
    )


def measure(book: study.Book, arm: Arm, seed: int) -> None:
    """Judges the images of a run, and its errors, where missing."""
    of = {**dataclasses.asdict(arm), "seed": seed}
    settings = [*OVER, {**MAIN, "step": STEPS // 2}] if arm in BASE else [MAIN]
    noised = arm.like == PAPER and arm.rate == RATE
    for setting in [*settings, NOISED] if noised else settings:
        key = {"what": "quality", **of, "step": STEPS, **setting, "images": IMAGES}
        if not book.find(**key):
            images = drawn(arm, restored(arm, seed, key["step"]).variables, setting)
            verdict = judged(arm.data, images, arm.rate == RATE and setting == MAIN)
            book.write(key, {**verdict, **made(arm, seed)})
    if arm in BASE and not book.find(what="errors", **of):
        found = errors(restored(arm, seed, STEPS))
        book.write({"what": "errors", **of}, {**found, **made(arm, seed)})


def trained(arm: Arm, seed: int) -> Path:
    """The folder of a run, trained if need be."""
    return study.trained(f"{arm.name}-{seed}", experiment(arm, seed))


def made(arm: Arm, seed: int) -> dict[str, str]:
    """The commits of a row."""
    measured = study.short(provenance.commit_of(__file__))
    return {"trained": study.commits(trained(arm, seed)), "measured": measured}


def imagine(book: study.Book, data: str, like: int) -> None:
    """Judges the images of a perfect network, where missing."""
    for setting in (*OVER, NOISED):
        key = {**ideal(data, like), **setting, "images": IMAGES}
        if not book.find(**key):
            images = drawn(Arm(data, like, "constant"), None, setting)
            book.write(key, judged(data, images, setting == MAIN))


def ideal(data: str, like: int) -> dict[str, Any]:
    """What the rows of a perfect network are found by."""
    return {"what": "perfect network", "data": data, "like": like}


def perfect(data: Source) -> Denoiser:
    """E[x0 | x, label] over the training images, at which the loss has its minimum."""
    source = data.load().source
    points = jnp.asarray(source.image / 127.5 - 1, jnp.float32)
    points = points.reshape(len(points), -1)
    half = (points**2).sum(1) / 2

    def denoise(x: Array, at: NoiseLevel, cond: jd.Condition) -> jd.Denoised:
        near = x.reshape(len(x), -1) @ points.T - at.alpha * half
        own = cond.label[:, None] == source.label
        share = jax.nn.softmax(jnp.where(own, at.alpha / at.sigma**2 * near, -jnp.inf))
        return jd.Denoised((share @ points).reshape(x.shape))

    return denoise


@functools.lru_cache(2)
def restored(arm: Arm, seed: int, step: int) -> restoring.Restored:
    """A run at a checkpoint."""
    return restoring.restore(trained(arm, seed), step=step)


def drawn(
    arm: Arm, variables: PyTree, setting: dict[str, Any]
) -> UInt8[np.ndarray, "N H W C"]:
    """Images of a network, a perfect one if there are no variables.

    They start from noise alone, or from training images in the first noise. One program
    serves all weightings, rates and seeds, of which sampling knows nothing.
    """
    plain = experiment(Arm(arm.data, arm.like, "constant"), 0)
    sampling = dataclasses.replace(plain.sampling, steps=setting["count"])
    plain = dataclasses.replace(plain, sampling=sampling)
    source = plain.data.load().source
    label, more, make = proportional(source.label, IMAGES), (), generate.from_noise
    if setting["start"] == "data":
        some = np.random.default_rng(0).permutation(len(source.label))[:IMAGES]
        label, make = source.label[some], from_images
        more = (np.asarray(source.image[some] / 127.5 - 1, np.float32),)
    if variables is None:
        run, denoise = make(plain), perfect(plain.data)
        of = lambda label: jd.Condition(label=label)
        sampler = jax.jit(
            lambda _, keys, label, *more: run(denoise, of(label), keys, *more)
        )
    else:
        sampler = generate.compiled(make, plain)
    seeds, batch = 1_000_000 + np.arange(IMAGES), IMAGES // 2
    inputs = (variables, Pixels(), seeds, label, sharding.data_mesh(), batch)
    return generate.images(sampler, *inputs, more=more)


def from_images(experiment: Experiment) -> Callable[..., Float[Array, "B H W C"]]:
    """(denoise, cond, keys, x0) -> x0, from its noised state at the first level."""
    sampling = experiment.sampling
    levels = sampling.grid(experiment.schedule, sampling.steps)

    def run(
        denoise: Denoiser, cond: jd.Condition, keys: Key[Array, " B"], x0: Array
    ) -> Array:
        noise = levels.sigma[0] * jd.sampling.normal(keys, x0.shape[1:])
        x = levels.alpha[0] * x0 + noise
        return jd.sampling.follow(denoise, cond, keys, x, levels, sampling.solver)

    return run


def judged(
    data: str, images: UInt8[np.ndarray, "N H W C"], features: bool
) -> dict[str, Any]:
    """Distances to the training images, and the brightness of each channel."""
    found, real = colours(images), reference(data, colours)
    verdict = {
        "frechet": gaussian(images).frechet(reference(data, gaussian)),
        "mean": found.mean(0).tolist(),
        "std": found.std(0).tolist(),
        "w1": [*map(wasserstein_distance, found.T, real.T)],
    }
    if features and data in EXPLAINED:
        verdict["lite0"] = seen(images).frechet(reference(data, seen))
    return verdict


@functools.cache
def reference(data: str, of: Callable[..., Any]) -> Any:
    """What `of` says of the training images."""
    return of(DATA[data].load().source.image)


def gaussian(images: UInt8[np.ndarray, "N H W C"]) -> distances.Gaussian:
    """Of pixels in [-1, 1]."""
    return distances.Gaussian.of(images.reshape(len(images), -1) / 127.5 - 1)


def seen(images: UInt8[np.ndarray, "N H W C"]) -> distances.Gaussian:
    """Of lite0's features."""
    looks = [extractor("lite0")]
    return observe(in_memory(images), looks, sharding.data_mesh()).seen["lite0"].gaussian


def colours(images: UInt8[np.ndarray, "N H W C"]) -> Float64[np.ndarray, "N C"]:
    """The mean of each channel of each image, in [-1, 1]."""
    return images.mean((1, 2), dtype=np.float64) / 127.5 - 1


def errors(run: restoring.Restored) -> dict[str, Any]:
    """Error of x0-hat over levels, on held-out images.

    Squared, the mean over elements, images and draws of the noise; x0-hat as the network
    says it and held to [-1, 1].
    """
    schedule = run.experiment.schedule
    levels = jax.tree.map(jnp.float32, schedule(np.arange(LEVELS, 0, -1) / LEVELS))
    source = dataclasses.replace(run.experiment.data, split="test").load().source
    x0 = jnp.asarray(np.repeat(source.image, DRAWS, 0) / 127.5 - 1, jnp.float32)
    label = jnp.repeat(jnp.asarray(source.label), DRAWS)
    found = error_of(run.experiment.network)(run.variables, x0, label, levels)
    free, held = map(np.asarray, found)
    return {"logsnr": np.asarray(levels.logsnr), "x0_mse": free, "x0_mse_held": held}


@functools.cache
def error_of(network: ResidualMLP) -> Callable[..., Any]:
    """(variables, x0, label, levels) -> both errors at each level."""

    @jax.jit
    def of_levels(
        variables: PyTree, x0: Array, label: Array, levels: NoiseLevel
    ) -> tuple[Array, Array]:
        denoise = jd.denoiser(network.apply, variables, jd.Eps())

        def of(level: tuple[Array, NoiseLevel]) -> tuple[Array, Array]:
            key, at = level
            x = at.alpha * x0 + at.sigma * jax.random.normal(key, x0.shape)
            said = denoise(x, at, jd.Condition(label=label)).x0
            gap = lambda one: jnp.mean((one - x0) ** 2)
            return gap(said), gap(jnp.clip(said, -1, 1))

        keys = jax.random.split(jax.random.key(0), LEVELS)
        return jax.lax.map(of, (keys, levels))

    return of_levels


def weigh(book: study.Book, data: str) -> None:
    """The data, and the share of each weighting, where missing."""
    if not book.find(what="data", data=data):
        source = DATA[data]
        held = dataclasses.replace(source, split="test").load().source.image
        train, own = source.load().source.image, judged(data, held, features=True)
        real, (noisy, clear) = colours(train), band(train)
        book.write({"what": "held-out images", "data": data}, own)
        sizes = {"train": len(train), "held": len(held)}
        moments = {"mean": real.mean(0).tolist(), "std": real.std(0).tolist()}
        levels = {"noisy": noisy, "clear": clear}
        book.write({"what": "data", "data": data}, {**sizes, **moments, **levels})
    row = book.find(what="data", data=data)
    for arm in arms(data, LIKES if data in EXPLAINED else (), FOUR):
        key = {
            "what": "share",
            **{n: getattr(arm, n) for n in ("data", "like", "weighting")},
        }
        if not book.find(**key):
            book.write(key, shares(arm, row))


def band(images: UInt8[np.ndarray, "N H W C"]) -> tuple[float, float]:
    """The log SNR between which the images are decided.

    Were they Gaussian, s the eigenvalues of their covariance, the best denoiser's error
    would be the mean of s / (1 + SNR s): there, 90 % and 10 % of the mean of s.
    """
    s = gaussian(images).factor
    s = np.linalg.svd(s, compute_uv=False) ** 2
    logsnr = np.linspace(-20, 20, 40_001)
    left = (s / (1 + np.exp(logsnr)[:, None] * s)).sum(1) / s.sum()
    return tuple(float(np.interp(-part, -left, logsnr)) for part in (0.9, 0.1))


def shares(arm: Arm, row: dict[str, Any]) -> dict[str, float]:
    """Shares of the weight on eps, over the table's entries: noisier, decided, clearer."""
    at = arm.schedule((np.arange(1000) + 1) / 1000)
    logsnr = np.asarray(at.logsnr, np.float64)
    on_eps = np.asarray(WEIGHTINGS[arm.weighting](at), np.float64) / np.exp(logsnr)
    noisier, clearer = logsnr < row["noisy"], logsnr > row["clear"]
    part = lambda where: float(on_eps[where].sum() / on_eps.sum())
    decided = part(~noisier & ~clearer)
    return {"noisier": part(noisier), "decided": decided, "clearer": part(clearer)}


def values(
    book: study.Book, arm: Arm, field: str = "frechet", channel: Any = ..., **setting: Any
) -> Float64[np.ndarray, " seeds"]:
    """A field of the verdicts, a number a seed; of channels one, or their mean."""
    of = {**dataclasses.asdict(arm), "step": STEPS, **MAIN, **setting}
    of["images"] = IMAGES
    rows = (book.find(what="quality", **of, seed=seed) for seed in SEEDS)
    return np.array([np.mean(np.atleast_1d(row[field])[channel]) for row in rows if row])


def spread(values: Float64[np.ndarray, " seeds"], style: str = "{:.2f} ± {:.2f}") -> str:
    """Mean and standard deviation over seeds.

    >>> spread(np.array([-3.0, -2.0, -1.0]), "{:+.1f} ± {:.1f}")
    '−2.0 ± 1.0'
    """
    return style.format(values.mean(), values.std(ddof=1)).replace("-", "−")


def tables(book: study.Book) -> dict[str, str]:
    """All tables of the page, by title."""
    return {
        "shares": by_share(book),
        "sizes": by_size(book),
        "starts": by_start(book),
        "weightings": by_weighting(book),
        "errors": by_error(book),
        **{f"means, {TITLES[data]}": by_mean(book, data) for data in JUDGED},
        "rates": by_rate(book),
    }


def twins(data: str, like: int) -> tuple[Arm, Arm]:
    """The arms of constant and of Debias."""
    constant, debias = arms(data, (like,), TWO)
    return constant, debias


def by_size(book: study.Book) -> str:
    """Constant, Debias, and the one less the other, by pixels and by features."""
    rows = []
    for data, like in COMPARED:
        line = [TITLES[data], str(like)]
        for field, style in (("frechet", "{:.2f}"), ("lite0", "{:.0f}")):
            constant, debias = (values(book, arm, field) for arm in twins(data, like))
            both = f"{style} ± {style}"
            less = f"{style.replace(':', ':+')} ± {style}"
            line += [spread(constant, both), spread(debias, both)]
            line.append(spread(debias - constant, less))
        rows.append(line)
    of = ("constant", "Debias", "Debias less constant")
    head = ["images", "as at", *of, *(f"{name}, features" for name in of)]
    return study.table(head, rows)


def by_start(book: study.Book) -> str:
    """The distances where sampling starts from training images in noise."""
    rows = []
    for data in JUDGED:
        constant, debias = (values(book, arm, **NOISED) for arm in twins(data, PAPER))
        cells = [spread(constant), spread(debias)]
        cells.append(spread(debias - constant, "{:+.2f} ± {:.2f}"))
        best = book.find(**ideal(data, PAPER), **NOISED)["frechet"]
        rows.append([TITLES[data], *cells, f"{best:.2f}"])
    names = "constant", "Debias", "Debias less constant", "a perfect network"
    return study.table(["images", *names], rows)


def by_weighting(book: study.Book) -> str:
    """A perfect network and four weightings, over sampling steps and over training."""
    rows = []
    for data, like in itertools.product(JUDGED, (8, PAPER)):
        looked = data in EXPLAINED
        best = [book.find(**ideal(data, like), **one) for one in OVER]
        cells = [*(f"{row['frechet']:.2f}" for row in best), ""]
        cells.append(f"{best[OVER.index(MAIN)]['lite0']:.0f}" if looked else "")
        rows.append([TITLES[data], str(like), "a perfect network", *cells])
        for arm in arms(data, (like,), FOUR):
            over = [*OVER, {"step": STEPS // 2}]
            cells = [spread(values(book, arm, **one)) for one in over]
            lite0 = values(book, arm, "lite0") if looked else ()
            cells.append(spread(lite0, "{:.0f} ± {:.0f}") if looked else "")
            rows.append([TITLES[data], str(like), NAMES[arm.weighting], *cells])
    over = [f"{count} steps" for count in COUNTS]
    head = ["images", "as at", "weighting", *over, EARLY, "features"]
    return study.table(head, rows)


def by_rate(book: study.Book) -> str:
    """Four weightings at 8 pixels over learning rates; the best of each is bold."""
    rows = []
    for arm in arms("emoji8", (8, PAPER), FOUR):
        over = [values(book, dataclasses.replace(arm, rate=rate)) for rate in RATES]
        cells = [spread(one) if len(one) else "" for one in over]
        best = np.argmin([one.mean() if len(one) else np.inf for one in over])
        cells[best] = f"**{cells[best]}**"
        rows.append([str(arm.like), NAMES[arm.weighting], *cells])
    return study.table(["as at", "learning rate", *(f"{r:.2g}" for r in RATES)], rows)


def by_error(book: study.Book) -> str:
    """Errors of x0-hat at 8 pixels at some log SNR, linear between the measured ones."""
    rows = []
    for like in (8, PAPER):
        for arm in arms("emoji8", (like,), FOUR):
            of = {"what": "errors", **dataclasses.asdict(arm)}
            found = [book.find(**of, seed=seed) for seed in SEEDS]
            at = lambda x, rows=found: np.array(
                [np.interp(x, row["logsnr"], row["x0_mse"]) for row in rows if row]
            )
            cells = (spread(at(x), "{:.4f} ± {:.4f}") for x in LOGSNR)
            rows.append([str(like), NAMES[arm.weighting], *cells])
    heads = (f"log SNR {x:g}".replace("-", "−") for x in LOGSNR)
    return study.table(["as at", "weighting", *heads], rows)


def by_mean(book: study.Book, data: str) -> str:
    """The mean of each channel, and its distance to the data's, the mean over channels."""
    fine, real = "{:.3f} ± {:.3f}", book.find(what="data", data=data)["mean"]
    means, end = [f"{mean:.3f}" for mean in real], [""] * (len(COUNTS) + 1)
    rows = [["training images", "", *means, *end]]
    for like in (8, PAPER):
        best = [book.find(**ideal(data, like), **one) for one in OVER]
        drawn = best[OVER.index(MAIN)]["mean"]
        cells = [*drawn, *(np.mean(row["w1"]) for row in best)]
        cells = [f"{number:.3f}" for number in cells]
        rows.append(["a perfect network", str(like), *cells, ""])
        for arm in arms(data, (like,), FOUR):
            half = {"step": STEPS // 2}
            w1 = [values(book, arm, "w1", **one) for one in (*OVER, half)]
            mean = [values(book, arm, "mean", channel=n) for n in range(len(real))]
            cells = (spread(one, fine) for one in (*mean, *w1))
            rows.append([NAMES[arm.weighting], str(like), *cells])
    names = CHANNELS if len(real) == len(CHANNELS) else ["brightness"]
    head = ["", "as at", *names, *(f"W₁, {count} steps" for count in COUNTS)]
    return study.table([*head, f"W₁, {EARLY}"], rows)


def by_share(book: study.Book) -> str:
    """Where the weight is: on noisier levels, where images are decided, on clearer ones."""
    rows = []
    for data in EXPLAINED:
        for like in LIKES:
            found = (share(book, data, like, name) for name in FOUR)
            cells = [" / ".join(f"{100 * row[p]:.0f}" for p in PARTS) for row in found]
            rows.append([TITLES[data], str(like), *cells])
    return study.table(["images", "as at", *(NAMES[name] for name in FOUR)], rows)


def share(book: study.Book, data: str, like: int, weighting: str) -> dict[str, Any]:
    """A row of shares."""
    return book.find(what="share", data=data, like=like, weighting=weighting)


def draw(book: study.Book) -> "Figure":
    """Distances and the shift of colour over tables, and the shares that foretell them."""
    title = "Which weighting is first depends on the size for which the table is"
    figure, (result, colour, cause) = plots.panels(title, 4.1, 1, 3)
    for weighting, look in zip(FOUR, plots.looks(NAMES.values()), strict=True):
        look = {**look, "ls": "-", "marker": "o", "ms": 4}
        for panel, data, field in (
            (result, "emoji8", "frechet"),
            (colour, "colour4", "w1"),
        ):
            over = [(n, values(book, Arm(data, n, weighting), field)) for n in LIKES]
            over = [(like, seeds) for like, seeds in over if len(seeds) == len(SEEDS)]
            likes, seeds = map(list, zip(*over, strict=True))
            mean, std = np.mean(seeds, 1), np.std(seeds, 1, ddof=1)
            panel.errorbar(likes, mean, std, capsize=3, label=NAMES[weighting], **look)
        part = [100 * share(book, "emoji8", like, weighting)["decided"] for like in LIKES]
        cause.plot(LIKES, part, **look)
    best = [np.mean(book.find(**ideal("colour4", n), **MAIN)["w1"]) for n in (8, PAPER)]
    look = {"color": plots.GREY, "ls": (0, (4, 2)), "label": "a perfect network"}
    colour.plot((8, PAPER), best, **look)
    result.set(title="Fréchet distance, 8×8", ylabel="distance   [1]", yscale="log")
    result.set_yticks(FRECHET, map(str, FRECHET))
    result.set_yticks([], minor=True)
    colour.set(title="Shift of colour, 4×4", ylabel="W₁ of a channel's mean   [1]")
    colour.set_ylim(bottom=0)
    cause.set(title="Weight that decides 8×8", ylabel="share   [%]")
    for panel in (result, colour, cause):
        panel.set(xlabel="size the table is for   [pixels]", xscale="log")
        panel.set_xticks(LIKES, map(str, LIKES))
        panel.set_xticks([], minor=True)
    plots.legend(colour)
    return figure


if __name__ == "__main__":
    study.run(main)
