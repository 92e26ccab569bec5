"""Solvers and numbers of steps side by side, from one network and the same seeds.

Of each: NFE, the calls of the denoiser; seconds, after compiling; how far its images are
from those of the first row, the root mean square over pixels in [-1, 1]; and, where there
is a judge, its metrics against real images.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Array, Float, Int, PyTree, UInt8

from jaxdiff.analysis import image_grid
from jaxdiff.config import Experiment
from jaxdiff.data import encoder_of
from jaxdiff.evaluation import Judge, in_memory
from jaxdiff.runs import generate
from jaxdiff.runtime import sharding
from jaxdiff.runtime.files import PathLike
from jaxdiff.runtime.progress import doing
from jaxdiff.sampling import evaluations, normal, trajectory
from jaxdiff.sampling.solvers import Adaptive
from jaxdiff.types import Condition, Denoiser, Solver, reprs


@dataclass(frozen=True, eq=False)
class Row:
    """One solver at one number of steps."""

    __repr__ = reprs.fields

    solver: Solver
    steps: int
    images: UInt8[np.ndarray, "N H W C"]
    nfe: int
    seconds: float
    away: float
    """Root mean square difference to the first row's images."""
    quality: Mapping[str, float]
    """The metrics of the images; empty without a judge."""

    @property
    def name(self) -> str:
        """The solver with the fields that differ from its defaults, and its steps."""
        return f"{short(self.solver)}, {self.steps} steps"


def compare(
    experiment: Experiment,
    variables: PyTree,
    solvers: Sequence[Solver],
    steps: Sequence[int],
    seeds: Int[np.ndarray, " N"],
    label: Int[np.ndarray, " N"],
    batch: int = 256,
    judge: Judge | None = None,
    *,
    progress: bool = False,
) -> Iterator[Row]:
    """A row for each solver and number of steps, as it is measured.

    Raises:
        ValueError: a solver or grid that some number of steps does not fit, before any row.
    """
    experiments = []
    for solver in solvers:
        for count in steps:
            s = dataclasses.replace(experiment.sampling, solver=solver, steps=count)
            s.grid(experiment.schedule, count)
            experiments.append(dataclasses.replace(experiment, sampling=s))
    return _rows(experiments, variables, seeds, label, batch, judge, progress)


def _rows(
    experiments: Sequence[Experiment],
    variables: PyTree,
    seeds: Int[np.ndarray, " N"],
    label: Int[np.ndarray, " N"],
    batch: int,
    judge: Judge | None,
    progress: bool,
) -> Iterator[Row]:
    first = None
    for e in experiments:
        images, seconds = _timed(e, variables, seeds, label, batch, progress)
        first = images if first is None else first
        away = np.sqrt(np.mean((_flat(images) - _flat(first)) ** 2))
        quality = judge(in_memory(images))[0] if judge else {}
        nfe = calls(e, variables, seeds[:batch], label[:batch])
        s = e.sampling
        yield Row(s.solver, s.steps, images, nfe, seconds, float(away), quality)


def _timed(
    experiment: Experiment,
    variables: PyTree,
    seeds: Int[np.ndarray, " N"],
    label: Int[np.ndarray, " N"],
    batch: int,
    progress: bool,
) -> tuple[UInt8[np.ndarray, "N H W C"], float]:
    """The images, and the seconds they took once all was compiled."""
    draw, encoder = generate.sampler(experiment), encoder_of(experiment.data)
    fixed = draw, variables, encoder
    batch, mesh = min(batch, len(seeds)), sharding.data_mesh()
    name = f"{short(experiment.sampling.solver)}, {experiment.sampling.steps} steps"
    with doing(f"{name}: compiling", show=progress):
        generate.images(*fixed, seeds[:batch], label[:batch], mesh, batch)
    start = time.perf_counter()
    images = generate.images(*fixed, seeds, label, mesh, batch, progress=progress)
    seconds = time.perf_counter() - start
    return encoder.preview(images), seconds


def calls(
    experiment: Experiment,
    variables: PyTree,
    seeds: Int[np.ndarray, " N"],
    label: Int[np.ndarray, " N"],
) -> int:
    """NFE: the solver's, or the count of an adaptive one on these images."""
    s = experiment.sampling
    levels = s.grid(experiment.schedule, s.steps)
    if not isinstance(s.solver, Adaptive):
        return evaluations(s.solver, levels)

    count = generate.compiled(_counted, experiment)
    return int(count(variables, generate.image_keys(seeds), label))


def _counted(experiment: Experiment) -> Callable[..., Int[jax.Array, ""]]:
    """(denoise, cond, keys) -> the calls of an adaptive solver, which are its memory."""
    s, shape = experiment.sampling, experiment.data.shape
    levels = s.grid(experiment.schedule, s.steps)

    def count(denoise: Denoiser, cond: Condition, keys: Array) -> Int[jax.Array, ""]:
        x = levels.sigma[0] * normal(keys, shape)
        return trajectory(denoise, cond, keys, x, levels, s.solver).memory

    return count


def table(rows: Sequence[Row]) -> str:
    """The rows as a table in Markdown, with the Frechet distances of their quality."""
    metrics = [name for name in rows[0].quality if name.startswith(("fd_", "fid_"))]
    heads = ("solver", "steps", "NFE", "seconds", "away", *metrics)
    lines = ["| " + " | ".join(heads) + " |", "| --- |" + " ---: |" * (len(heads) - 1)]
    for row in rows:
        numbers = [f"{row.steps}", f"{row.nfe}", f"{row.seconds:.2f}", f"{row.away:.4f}"]
        numbers += [f"{row.quality[name]:.4g}" for name in metrics]
        lines.append(f"| {short(row.solver)} | {' | '.join(numbers)} |")
    return "\n".join(lines)


def save_sheet(
    path: PathLike,
    rows: Sequence[Row],
    columns: int = image_grid.COLUMNS,
    classes: Sequence[str] = (),
) -> None:
    """Draws a line of images for each row, with its name, as a PNG.

    `classes` are the names of the images' classes, one an image, above them.
    """
    images = [row.images[:columns] for row in rows]
    names = [f"{short(row.solver)}\n{row.steps} steps, NFE {row.nfe}" for row in rows]
    count, heads = len(images[0]), classes[:columns]
    image_grid.save_grid(path, np.concatenate(images), count, rows=names, heads=heads)


def short(value: object) -> str:
    """The repr of a value without the fields that have their defaults.

    >>> from jaxdiff.sampling.solvers import Heun
    >>> short(Heun(churn=4.0)), short(Heun())
    ('Heun(churn=4.0)', 'Heun')
    """
    return reprs.short(value).removesuffix("()")


def _flat(images: UInt8[np.ndarray, "N H W C"]) -> Float[np.ndarray, "N D"]:
    return images.reshape(len(images), -1) / 127.5 - 1
