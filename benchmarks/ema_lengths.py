"""Averages made after training: are they those that were tracked, and which length is best?

    jaxdiff train --config=digits --workdir=runs/lengths \\
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
              seeds; and of six widths after half the training.

One compiled sampler does for all. Prints tables, and writes ema_lengths.png, .json and a
sheet of samples.
"""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import digits_judge
import ema_made
import numpy as np
import study
from jaxtyping import Float64, PyTree
from tqdm import tqdm

from jaxdiff.analysis import plots
from jaxdiff.data import Pixels
from jaxdiff.runs import checkpoint, ema_lengths, generate, restoring, snapshots
from jaxdiff.runs.restoring import Restored
from jaxdiff.runs.state import run_denoiser
from jaxdiff.runtime import sharding

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RUN, NUMBER = "lengths", 1000
WIDTHS = (0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.10, 0.125, 0.15, 0.20, 0.25, 0.28)
FINE = np.linspace(0.01, 0.285, 111)
LAST = 0.0
"""The width of no averaging: the limit of narrow profiles."""
BLOCKS = (1_000_000, 2_000_000)
METRICS = {"frechet": "{:.3f}", "accuracy": "{:.1%}", "to_train": "{:.3f}"}
REACHED = 0.03
"""The profile error up to which a width counts as reached."""

Drawer = Callable[[PyTree, int], ema_made.Images]


def main() -> None:
    """Measures what is missing, prints, draws."""
    run = study.command.folder(study.RUNS) / RUN
    at_end, book = restoring.restore(run), study.book("ema_lengths")
    stds, draw = at_end.experiment.optimizer.stds, drawer(at_end)
    ema_made.measure_weights(book, run, stds)
    ema_made.measure_images(book, run, stds, lambda v: draw(v, BLOCKS[0]))
    for step, widths in swept(at_end).items():
        measure_quality(book, run, step, widths, draw)
    print_tables(book, at_end)
    print(study.save(figure(book, run, at_end), "ema_lengths"))


def swept(at_end: Restored) -> dict[int, tuple[float, ...]]:
    """Widths by step: all at the end, every second half-way."""
    return {at_end.step: WIDTHS, at_end.step // 2: WIDTHS[1::2]}


def drawer(run: Restored) -> Drawer:
    """(variables, first seed) -> images of ten classes, by one compiled sampler."""
    compiled, mesh = generate.sampler(run.experiment), sharding.data_mesh()
    label, numbers = np.arange(NUMBER) % 10, np.arange(NUMBER)
    inputs = lambda seed: (Pixels(), seed + numbers, label, mesh, 250)
    return lambda variables, seed: generate.images(compiled, variables, *inputs(seed))


@cache
def judge() -> digits_judge.Judge:
    """The one judge, made when first asked for."""
    return digits_judge.judge()


def quality_key(step: int, std: float) -> dict[str, Any]:
    """What a row of verdicts is found by."""
    return {"what": "quality", "step": step, "std": std}


def measure_quality(
    book: study.Book, run: Path, step: int, widths: Sequence[float], draw: Drawer
) -> None:
    """Verdicts on averages, and on the last weights where a checkpoint has them."""

    def measure(run: Restored) -> dict[str, list[float]]:
        label = np.arange(NUMBER) % 10
        judged = [judge()(draw(run.variables, seed), label) for seed in BLOCKS]
        return {name: [getattr(one, name) for one in judged] for name in METRICS}

    missing = [std for std in widths if not book.find(**quality_key(step, std))]
    made = ema_lengths.over_lengths(run, missing, measure, step)
    for row in tqdm(made, f"step {step}", len(missing), disable=None):
        book.write(quality_key(step, row["std"]), row)
    if not book.find(**quality_key(step, LAST)) and (last := last_weights(run, step)):
        book.write(quality_key(step, LAST), measure(last))


def last_weights(run: Path, step: int) -> Restored | None:
    """The network as a step left it, nothing averaged; None without its checkpoint."""
    with checkpoint.checkpoints(run) as saved:
        if step not in saved.steps():
            return None
        state, record = saved.restore(sharding.data_mesh(), [step])
    experiment = record.experiment
    variables = {"params": state.params, "constants": state.constants}
    return Restored(run_denoiser(experiment, variables), experiment, variables, step)


def print_tables(book: study.Book, at_end: Restored) -> None:
    """Weights and pixels beside the tracked ones', and quality."""
    ema_made.print_tables(book, at_end.experiment.optimizer.stds)
    for step, widths in swept(at_end).items():
        rows = []
        for width in (LAST, *widths):
            if row := book.find(**quality_key(step, width)):
                two = lambda name, row=row: " ".join(map(METRICS[name].format, row[name]))
                error = f"{row['profile_error']:.2%}" if width else ""
                name = f"{width:g}" if width else "last weights"
                rows.append([name, error, *map(two, METRICS)])
        print(f"\n{study.table([f'step {step}', 'profile error', *METRICS], rows)}")
    accuracy, frechet = judge().reference()
    print(f"\n300 held-out real digits: accuracy {accuracy:.1%}, Frechet {frechet:.2f}")
    floor = judge().floor(NUMBER)
    print(f"{NUMBER} draws of the real ones' Gaussian: Frechet {floor:.2f}")


def figure(book: study.Book, run: Path, at_end: Restored) -> "Figure":
    """Quality over width, and what profiles lack."""
    title = "One run on digits, averaged over any length after training"
    whole, (frechet, accuracy, lack) = plots.panels(title, 3.2, 1, 3)
    stds = at_end.experiment.optimizer.stds
    for (step, widths), colour in zip(swept(at_end).items(), plots.COLOURS, strict=False):
        rows = [book.find(**quality_key(step, std)) for std in widths]
        reached = np.array([row["profile_error"] <= REACHED for row in rows])
        for panel, name in ((frechet, "frechet"), (accuracy, "accuracy")):
            values = np.array([row[name] for row in rows])
            mean = values.mean(1)
            panel.plot(widths, mean, color=colour, lw=1.8, label=f"after {step} steps")
            panel.fill_between(widths, *values.T, color=colour, alpha=0.2, lw=0)
            face = np.where(reached, colour, plots.PAPER)
            panel.scatter(widths, mean, c=face, edgecolors=colour, s=22, zorder=3)
            if last := book.find(**quality_key(step, LAST)):
                look = {"color": colour, "lw": 1.2, "ls": (0, (4, 2))}
                panel.axhline(np.mean(last[name]), **look, label="its last weights alone")
        for of, dash in ((stds, "-"), (stds[:-1], (0, (4, 2)))):
            label = f"of {', '.join(map('{:g}'.format, of))} after {step} steps"
            look = {"color": colour, "lw": 1.5, "ls": dash, "label": label}
            lack.plot(FINE, lacking(run, step, of), **look)
    lack.axhline(REACHED, color=plots.INK, lw=0.8)
    frechet.set(title="Fréchet distance in pixels of 1,000 images")
    accuracy.yaxis.set_major_formatter(lambda value, _: f"{value:.1%}")
    accuracy.set(title="Accuracy of a classifier of real digits")
    lack.set(
        yscale="log", ylim=(1e-6, 1e2), title="What the profile made of snapshots lacks"
    )
    for panel in (frechet, accuracy, lack):
        panel.set(xlabel="length of the average: std as a fraction of training")
    for panel, where in ((accuracy, "lower left"), (lack, "upper center")):
        plots.legend(panel, loc=where)
    return whole


def lacking(run: Path, step: int, stds: Sequence[float]) -> Float64[np.ndarray, " widths"]:
    """The profile errors of FINE, of snapshots of some widths up to a step."""
    entries = snapshots.entries(run / snapshots.TRACKED)
    entries = [e for e in entries if e.std in stds and e.step <= step]
    times, widths = [e.step for e in entries], [e.std for e in entries]
    return ema_lengths.profile_errors(times, widths, step, FINE)


if __name__ == "__main__":
    study.run(main)
