"""Bits/dim of a run by the probability flow, image by image.

The density is that of data with the noise of `levels[0]`, at which the run's schedule
starts, so it is no bound on the bits of the data alone; see `likelihood.flow`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Key, PyTree

from jaxdiff.analysis import plots
from jaxdiff.config import Experiment
from jaxdiff.data import Dataset
from jaxdiff.evaluation import likelihood
from jaxdiff.evaluation.likelihood import (
    RK4,
    Bits,
    Divergence,
    Hutchinson,
    IntegrationRule,
    dataset_images,
)
from jaxdiff.runs.programs import kept
from jaxdiff.runs.state import labelled, run_denoiser
from jaxdiff.runtime.files import PathLike, write_atomically
from jaxdiff.runtime.finite import require_finite
from jaxdiff.runtime.progress import bar, compiling
from jaxdiff.types import NoiseLevel

Solve = Callable[[PyTree, Key[Array, " B"], Array, Array], Bits]
"""(variables, keys, images uint8, labels) -> their bits/dim [B]."""


@kept(4)
def solver(
    experiment: Experiment,
    levels: NoiseLevel,
    rule: IntegrationRule = RK4,
    divergence: Divergence = Hutchinson(4),
) -> Solve:
    """The compiled function that solves the flow of a batch up the levels.

    Raises:
        ValueError: the data are not pixels, or the network denoises nothing.
    """
    dataset_images.check(experiment)

    @jax.jit
    def solve(
        variables: PyTree, keys: Key[Array, " B"], image: Array, label: Array
    ) -> Bits:
        denoise, cond = run_denoiser(experiment, variables), labelled(experiment, label)
        return likelihood.flow_bits_per_dim(
            denoise, cond, image, keys, levels, rule, divergence
        )

    return solve


def measure(
    solve: Solve,
    variables: PyTree,
    dataset: Dataset,
    mesh: Mesh,
    *,
    number: int = 0,
    batch: int = 64,
    seed: int = 0,
    progress: bool = False,
) -> Bits:
    """The first `number` images (0: all), `batch` at a time: NumPy arrays [N].

    Image i has its probes and its dequantisation from `seed` and i alone.

    Raises:
        ValueError: fewer than two images.
        NotFiniteError: a likelihood is NaN or infinite; says of which images.
    """
    measured, count = [], dataset_images.count_of(dataset, number)
    with bar(total=count, unit="images", desc="measuring", show=progress) as done:
        for part in dataset_images.parts(dataset, mesh, number, batch, seed):
            with compiling(done, first=not measured):
                solved = solve(variables, part.keys, part.image, part.label)
            solved = jax.device_get(solved)
            some = jax.tree.map(lambda a, n=part.count: np.float64(a[:n]), solved)
            require_finite(
                some.bits, "likelihoods", part.numbers, unit="image", advice=ADVICE
            )
            measured.append(some)
            done.update(part.count)
    return jax.tree.map(lambda *a: np.concatenate(a), *measured)


ADVICE = "loosen an adaptive tolerance, or take fixed steps, and look at the run's samples"


def report(measured: Bits) -> dict[str, Any]:
    """The mean over images in bits/dim, its standard error, and what of that is probes'.

    probes = sqrt(sum of error^2) / N, None where one probe cannot say. `each` has the
    images' own numbers.
    """
    mean, error = likelihood.mean_and_error(measured.bits)
    probes = math.sqrt(np.sum(measured.error**2)) / len(measured.bits)
    return {
        "images": len(measured.bits),
        "bits_per_dim": {"mean": mean, "error": error, "probes": _known(probes)},
        "evaluations": float(np.mean(measured.evaluations)),
        "each": {
            "bits_per_dim": measured.bits.tolist(),
            "probes": [_known(e) for e in measured.error.tolist()],
            "evaluations": measured.evaluations.tolist(),
        },
    }


def table(results: Mapping[str, Any]) -> str:
    """The report as lines for people, with a line for a `bound` on the same images."""
    bits, bound = results["bits_per_dim"], results.get("bound")
    probes = "unknown" if bits["probes"] is None else f"{bits['probes']:.5f}"
    row = "{:>12} {mean:12.5f} {error:12.5f}".format
    lines = [
        f"{'bits/dim':>12} {'mean':>12} {'std. error':>12} {'of probes':>12}",
        f"{row('flow', **bits)} {probes:>12}",
        *([row("bound", **bound)] if bound else []),
    ]
    return "\n".join(lines)


def save_plot(
    path: PathLike, results: Mapping[str, Any], bound: Sequence[float] | None = None
) -> None:
    """Bits/dim an image as a histogram, beside the bound of the same images, as a PNG."""
    ways = {"flow": results["each"]["bits_per_dim"]}
    if bound is not None:
        ways["variational bound"] = bound
    bins = int(np.clip(results["images"] // 3, 8, 40))
    edges = np.histogram_bin_edges(np.concatenate([*ways.values()]), bins)
    figure, (axes,) = plots.panels("", 3.4, width=6.0)
    for (name, values), look in zip(ways.items(), plots.looks(ways), strict=True):
        colour = look["color"]
        axes.hist(values, edges, color=colour, alpha=0.6, label=name)
        axes.axvline(np.mean(values), color=colour, lw=1)
    axes.set(xlabel="bits/dim", ylabel="images", title="{images} images".format(**results))
    plots.legend(axes)
    write_atomically(path, lambda f: figure.savefig(f, format="png"))


def _known(value: float) -> float | None:
    """A number as JSON has it, which knows no nan."""
    return float(value) if math.isfinite(value) else None
