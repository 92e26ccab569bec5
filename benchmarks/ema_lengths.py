"""Averages made after training: are they those that were tracked, and which length is best?

    python launch/train.py --config=configs/digits.py --workdir=runs/lengths \\
        --config.snapshot_every=50
    python benchmarks/ema_lengths.py --runs=runs --out=docs/results

The run tracks averages of three widths, with snapshots in float16. Measured are

    weights   one of the three made of snapshots of the two others alone, by
              `snapshots.reconstruct`, against the tracked one in float32:
              |made - tracked| / |tracked| of all weights as one vector, and the largest of
              any tensor; of all snapshots, every 2nd, 4th and 8th; and, for scale, the
              distance of 0.10 from 0.20;
    images    1,000 drawn by the width 0.20 tracked and made of 0.05 and 0.10, of the same
              seeds: difference of their pixels, mean and largest, in levels of 255;
    quality   of averages of twelve widths, made of all snapshots, and of the last weights
              alone: what benchmarks/digits_judge.py says of 1,000 images, for two blocks of
              seeds, after half the training and at its end.

One compiled sampler does for all. Prints tables, and writes ema_lengths.png, .json and a
sheet of samples.
"""

import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import digits_judge
import jax
import numpy as np
import study
from absl import flags
from flax import traverse_util
from jaxtyping import PyTree, UInt8
from tqdm import tqdm

from jaxdiff import checkpoint, generate, lengths, pictures, sharding, snapshots
from jaxdiff.checkpoint import Restored
from jaxdiff.data import Pixels
from jaxdiff.state import run_denoiser

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NUMBER = flags.DEFINE_integer("number", 1000, "How many images.", lower_bound=20)

RUN = "lengths"
WIDTHS = (0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.10, 0.125, 0.15, 0.20, 0.25, 0.28)
LAST = 0.0
"""The width of no averaging: the limit of narrow profiles."""
BLOCKS = (1_000_000, 2_000_000)
CADENCES = (1, 2, 4, 8)
"""Of how many snapshots one is used."""
METRICS = {"frechet": "{:.3f}", "accuracy": "{:.1%}", "to_train": "{:.3f}"}
SHEET = 2
"""Rows of the sheet, of each of its three kinds."""
REACHED = 0.03
"""The profile error up to which a width counts as reached."""

Images = UInt8[np.ndarray, "N 8 8 1"]
Drawer = Callable[[PyTree, int], Images]


def main() -> None:
    """Measures what is missing, prints, draws."""
    run = study.command.folder(study.RUNS) / RUN
    at_end, book = checkpoint.restore(run), study.book("ema_lengths")
    measure_weights(book, run, at_end)
    draw = drawer(at_end)
    measure_images(book, run, at_end, draw)
    for step in (at_end.step // 2, at_end.step):
        measure_quality(book, run, step, draw)
    print_tables(book, at_end)
    print(study.save(figure(book, at_end), "ema_lengths"))


def drawer(run: Restored) -> Drawer:
    """(variables, first seed) -> images of ten classes, by one compiled sampler."""
    compiled, mesh = generate.sampler(run.experiment), sharding.data_mesh()
    label, numbers = np.arange(NUMBER.value) % 10, np.arange(NUMBER.value)
    asked = lambda seed: (Pixels(), seed + numbers, label, mesh, 250)
    return lambda variables, seed: generate.images(compiled, variables, *asked(seed))


@cache
def judge() -> digits_judge.Judge:
    """The one judge, made when first asked for."""
    return digits_judge.judge()


def made_of(
    run: Path, stds: Sequence[float], every: int, target: float
) -> tuple[snapshots.Snapshot, float]:
    """An average made of every n-th snapshot of some widths, and its profile's error."""
    found = [e for e in snapshots.entries(run / snapshots.TRACKED) if e.std in stds]
    steps = sorted({e.step for e in found})[::-1][::every]
    found = [e for e in found if e.step in steps]
    times, widths = [e.step for e in found], [e.std for e in found]
    with tempfile.TemporaryDirectory() as folder:
        for entry in found:
            (Path(folder) / entry.path.name).symlink_to(entry.path.absolute())
        (made,) = snapshots.reconstruct(Path(folder), [target])
    return made, float(lengths.profile_errors(times, widths, made.step, [target])[0])


def differences(made: PyTree, exact: PyTree) -> dict[str, Any]:
    """|made - exact| / |exact| of all arrays together, and the largest of any one.

    >>> differences({"a": np.ones(3), "b": np.ones(1)}, {"a": np.ones(3), "b": -np.ones(1)})
    {'whole': 1.0, 'largest': 2.0, 'tensor': 'b'}
    """
    flat = lambda tree: traverse_util.flatten_dict(tree, sep="/")
    made, exact = flat(made), flat(exact)
    square = lambda a: float(np.sum(np.square(np.asarray(a, np.float64))))
    lack = {k: square(np.asarray(made[k], np.float64) - exact[k]) for k in exact}
    own = {k: square(exact[k]) for k in exact}
    of = {k: (lack[k] / own[k]) ** 0.5 for k in exact if own[k]}
    worst = max(of, key=of.__getitem__)
    whole = (sum(lack.values()) / sum(own.values())) ** 0.5
    return {"whole": whole, "largest": of[worst], "tensor": worst}


def weights_key(target: float, stds: Sequence[float], every: int) -> dict[str, Any]:
    """What a row of weights is found by; every = 0 is a tracked width as it is."""
    return {"what": "weights", "std": target, "of": [*stds], "every": every}


def weights_rows(stds: Sequence[float]) -> list[tuple[float, list[float], int]]:
    """(width, the widths it is made of, cadence); the last for scale."""
    others = lambda std: [other for other in stds if other != std]
    rows = [(std, others(std), every) for std in stds[::-1] for every in CADENCES]
    return [*rows, (stds[-1], [stds[-2]], 0)]


def tracked(run: Path, std: float) -> PyTree:
    """A tracked average at the end of the run, float32."""
    return jax.device_get(checkpoint.restore(run, std=std).variables)


def measure_weights(book: study.Book, run: Path, at_end: Restored) -> None:
    """Errors of weights made of others."""
    rows = weights_rows(at_end.experiment.optimizer.stds)
    missing = [row for row in rows if not book.find(**weights_key(*row))]
    for std, of, every in tqdm(missing, desc="weights", disable=None):
        if every:
            made, error = made_of(run, of, every, std)
            params, found = made.variables["params"], {"profile_error": error}
        else:
            params, found = tracked(run, of[0])["params"], {}
        found |= differences(params, tracked(run, std)["params"])
        book.write(weights_key(std, of, every), found)


def measure_images(book: study.Book, run: Path, at_end: Restored, draw: Drawer) -> None:
    """Differences of pixels, and a sheet: tracked, made, and for scale another width."""
    *narrow, std = at_end.experiment.optimizer.stds
    key = {"what": "images", "std": std, "images": NUMBER.value}
    if book.find(**key):
        return
    made, _ = made_of(run, narrow, CADENCES[0], std)
    sources = (tracked(run, std), made.variables, tracked(run, narrow[-1]))
    exact, *others = (draw(variables, BLOCKS[0]) for variables in sources)
    found = {}
    for name, images in zip(("made", "other"), others, strict=True):
        apart = np.abs(images.astype(int) - exact)
        found[name] = {
            "mean": float(apart.mean()),
            "largest": int(apart.max()),
            "beyond_8": float(np.mean(apart > 8)),
        }
    rows = (slice(10 * i, 10 * i + 10) for i in range(SHEET))
    sheet = np.concatenate([images[row] for row in rows for images in (exact, *others)])
    path = study.command.folder(study.OUT) / "ema_lengths_samples.png"
    pictures.save_grid(path, sheet, columns=10)
    book.write(key, found)


def quality_key(step: int, std: float) -> dict[str, Any]:
    """What a row of verdicts is found by."""
    return {"what": "quality", "step": step, "std": std, "images": NUMBER.value}


def measure_quality(book: study.Book, run: Path, step: int, draw: Drawer) -> None:
    """Verdicts on all widths, and on the last weights where a checkpoint has them."""

    def measure(run: Restored) -> dict[str, list[float]]:
        label = np.arange(NUMBER.value) % 10
        found = [judge()(draw(run.variables, seed), label) for seed in BLOCKS]
        return {name: [getattr(one, name) for one in found] for name in METRICS}

    missing = [std for std in WIDTHS if not book.find(**quality_key(step, std))]
    made = lengths.over_lengths(run, missing, measure, step)
    for row in tqdm(made, f"step {step}", len(missing), disable=None):
        book.write(quality_key(step, row["std"]), row)
    if not book.find(**quality_key(step, LAST)) and (last := last_weights(run, step)):
        book.write(quality_key(step, LAST), measure(last))


def last_weights(run: Path, step: int) -> Restored | None:
    """The network as a step left it, nothing averaged; None without its checkpoint."""
    with checkpoint.checkpoints(run) as saved:
        if step not in saved.steps():
            return None
        everywhere = sharding.replicated(sharding.data_mesh())
        state, experiment = saved.restore(everywhere, [step])
    variables = {"params": state.params, "constants": state.constants}
    return Restored(run_denoiser(experiment, variables), experiment, variables, step)


def print_tables(book: study.Book, at_end: Restored) -> None:
    """Weights, pixels, quality."""
    print_weights(book, at_end.experiment.optimizer.stds)
    std = at_end.experiment.optimizer.stds[-1]
    found = book.find(what="images", std=std, images=NUMBER.value)
    for name in ("made", "other"):
        print(
            f"pixels, {name}: " + ", ".join(f"{k} {v:.3g}" for k, v in found[name].items())
        )
    for step in (at_end.step // 2, at_end.step):
        rows = []
        for width in (LAST, *WIDTHS):
            if row := book.find(**quality_key(step, width)):
                two = lambda name, row=row: " ".join(map(METRICS[name].format, row[name]))
                error = f"{row['profile_error']:.2%}" if width else ""
                name = f"{width:g}" if width else "last weights"
                rows.append([name, error, *map(two, METRICS)])
        print(f"\n{study.table([f'step {step}', 'profile error', *METRICS], rows)}")
    accuracy, frechet = judge().reference()
    print(f"\n300 held-out real digits: accuracy {accuracy:.1%}, Frechet {frechet:.2f}")
    floor = judge().floor(NUMBER.value)
    print(f"{NUMBER.value} draws of the real ones' Gaussian: Frechet {floor:.2f}")


def print_weights(book: study.Book, stds: Sequence[float]) -> None:
    """Errors of weights, by cadence: of all weights, and of the profile."""
    rows = []
    for std in stds[::-1]:
        of = [other for other in stds if other != std]
        found = [book.find(**weights_key(std, of, every)) for every in CADENCES]
        for name in ("whole", "largest", "profile_error"):
            cells = [f"{row[name]:.3%}" for row in found]
            rows.append([f"{std:g} of {of[0]:g} and {of[1]:g}: {name}", *cells])
    print(study.table(["of every n-th snapshot, n =", *map(str, CADENCES)], rows))
    scale = book.find(**weights_key(stds[-1], [stds[-2]], 0))
    print(f"\n{stds[-2]:g} from {stds[-1]:g}: {scale['whole']:.2%}")


def figure(book: study.Book, at_end: Restored) -> "Figure":
    """Quality over width, and what profiles lack."""
    title = "One run on digits, averaged over any length after training"
    whole, (frechet, accuracy, lack) = study.panels(title, 13, 4, 1, 3)
    ends = {at_end.step: study.COLOURS[0], at_end.step // 2: study.COLOURS[1]}
    for step, colour in ends.items():
        rows = [book.find(**quality_key(step, std)) for std in WIDTHS]
        errors = np.array([row["profile_error"] for row in rows])
        for panel, name in ((frechet, "frechet"), (accuracy, "accuracy")):
            values = np.array([row[name] for row in rows])
            mean = values.mean(1)
            panel.plot(WIDTHS, mean, color=colour, lw=1.8, label=f"after {step} steps")
            panel.fill_between(WIDTHS, *values.T, color=colour, alpha=0.2, lw=0)
            face = np.where(errors <= REACHED, colour, "white")
            panel.scatter(WIDTHS, mean, c=face, edgecolors=colour, s=22, zorder=3)
            if last := book.find(**quality_key(step, LAST)):
                look = {"color": colour, "lw": 1.2, "ls": (0, (4, 2))}
                panel.axhline(np.mean(last[name]), **look, label="its last weights alone")
        lack.plot(WIDTHS, np.maximum(errors, 1e-6), "o-", color=colour, ms=4, lw=1.8)
    lack.axhline(REACHED, color=study.INK, lw=0.8, ls=(0, (4, 2)))
    frechet.set(yscale="log", title="Fréchet distance in pixels of 1,000 images")
    frechet.yaxis.set_major_formatter("{x:g}")
    frechet.yaxis.set_minor_formatter("{x:g}")
    accuracy.yaxis.set_major_formatter(lambda value, _: f"{value:.1%}")
    accuracy.set(title="Accuracy of a classifier of real digits")
    lack.set(yscale="log", title="What the profile made of snapshots lacks")
    for panel in (frechet, accuracy, lack):
        panel.set(xlabel="length of the average: std as a fraction of training")
    frechet.legend(frameon=False, labelcolor=study.INK)
    return whole


if __name__ == "__main__":
    study.command.run(main)
