"""Bits/dim of a run by the variational bound, step by step.

The levels are the run's schedule at t = 1/T ... 1, so any model has a bound: a table's own
entries where T is its length, a discretisation of a closed form otherwise.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Key, PyTree

from jaxdiff.analysis import curves, plots
from jaxdiff.config import Experiment, parts
from jaxdiff.data import Dataset, Pixels
from jaxdiff.denoisers import Clipped
from jaxdiff.evaluation import likelihood
from jaxdiff.evaluation.likelihood import (
    Bin,
    Process,
    Terms,
    dataset_images,
    mean_and_error,
    per_bin,
)
from jaxdiff.objectives import losses
from jaxdiff.runs.programs import kept
from jaxdiff.runs.state import labelled, run_denoiser
from jaxdiff.runtime import processes
from jaxdiff.runtime.files import PathLike, write_atomically
from jaxdiff.runtime.finite import MODEL_ADVICE, require_finite
from jaxdiff.runtime.progress import bar, compiling
from jaxdiff.schedules.posterior import LearnedVariance, Variance
from jaxdiff.types import UNCONDITIONAL, Denoised, Real, reprs

Cost = Callable[[PyTree, Key[Array, " B"], Array, Array, Process], Terms]
"""(variables, keys, images uint8, labels, some steps) -> their terms [n, B]."""

LIMIT = 20.0
"""Bound on |logSNR| in tables and plots, in nats."""

CHUNK = 50
"""Steps of the bound in one call, at most: what the progress bar advances by."""


@dataclass(frozen=True)
class Measured:
    """What N images cost: terms [N, T] and prior [N] in bits/dim, entry 0 the decoder's."""

    __repr__ = reprs.fields

    steps: Process
    vb: Float[np.ndarray, "N T"]
    x0_mse: Float[np.ndarray, "N T"]
    prior: Float[np.ndarray, " N"]

    @property
    def total(self) -> Float[np.ndarray, " N"]:
        """The bound of each image, in bits/dim."""
        return self.vb.sum(1) + self.prior


@kept(4)
def coster(experiment: Experiment, variance: Variance, clip: bool) -> Cost:
    """The compiled function that costs a batch; `clip` holds x0 to [-1, 1] [IDDPM].

    Raises:
        ValueError: the data are not pixels, or the network denoises nothing.
    """
    dataset_images.check(experiment)
    if isinstance(variance, LearnedVariance) and not experiment.network.learned_variance:
        raise ValueError(
            "LearnedVariance needs a network with a variance head: set "
            "network.learned_variance = True, or use SmallVariance or LargeVariance"
        )

    @jax.jit
    def cost(
        variables: PyTree,
        keys: Key[Array, " B"],
        image: Array,
        label: Array,
        steps: Process,
    ) -> Terms:
        denoise = run_denoiser(experiment, variables)
        denoise = Clipped(denoise) if clip else denoise
        x0 = Pixels().encode(keys[0], image)
        cond = labelled(experiment, label)
        return likelihood.terms(denoise, cond, x0, keys, steps, variance)

    return cost


def measure(
    cost: Cost,
    variables: PyTree,
    dataset: Dataset,
    steps: Process,
    mesh: Mesh,
    *,
    number: int = 0,
    batch: int = 256,
    seed: int = 0,
    progress: bool = False,
) -> Measured:
    """The first `number` images (0: all) through all steps, `batch` at a time.

    Image i has its noise from key `seed` and i alone: neither the batch nor the devices
    change a number. Batches are filled up with images that are thrown away.

    Raises:
        ValueError: fewer than two images, which have no standard error.
        NotFiniteError: a term is NaN or infinite; says of which images.
    """
    count, measured = dataset_images.count_of(dataset, number), []
    total = count * len(steps.entry)
    with bar(total=total, unit="terms", desc="measuring", show=progress) as done:
        for part in dataset_images.parts(dataset, mesh, number, batch, seed):
            costs = []
            for some in _chunks(steps):
                inputs = part.keys, part.image, part.label, some
                with compiling(done, first=not measured and not costs):
                    made = cost(variables, *inputs)
                costs.append(processes.on_host(made))
                done.update(part.count * len(some.entry))
            whole = jax.tree.map(lambda *a: np.concatenate(a).T, *costs)
            prior = processes.on_host(likelihood.prior(part.image, steps.at[-1]))
            columns = (whole.vb, whole.x0_mse, prior)
            columns = [np.float64(a[: part.count]) for a in columns]
            for column in columns:
                require_finite(
                    column, "bounds", part.numbers, unit="image", advice=MODEL_ADVICE
                )
            measured.append(columns)
    return Measured(steps, *(np.concatenate(a) for a in zip(*measured, strict=True)))


def _chunks(steps: Process) -> Iterator[Process]:
    """Equal runs of the steps, so that one compiled function does for all."""
    total = len(steps.entry)
    size = next(c for c in range(min(CHUNK, total), 0, -1) if total % c == 0)
    for first in range(0, total, size):
        yield jax.tree.map(jnp.asarray, steps[first : first + size])


def report(measured: Measured, bins: int = 20) -> dict[str, Any]:
    """Means and standard errors over images, as plain numbers.

    total, prior, decoder (entry 0) and diffusion (the rest) in bits/dim; `each`, the total
    of each image; `terms`, one row an entry; `bins`, losses by logSNR (nats). eps_mse is
    SNR x0_mse, the error of the noise that D leaves.
    """
    vb, snr = measured.vb, np.asarray(measured.steps.at.snr)
    logsnr = np.clip(np.log(np.maximum(snr, 1e-30)), -LIMIT, LIMIT)
    losses = {"x0_mse": measured.x0_mse, "eps_mse": snr * measured.x0_mse, "vb": vb}
    edges = np.linspace(logsnr.min(), logsnr.max(), bins + 1)
    parts = {
        "total": measured.total,
        "prior": measured.prior,
        "diffusion": vb[:, 1:].sum(1),
        "decoder": vb[:, 0],
    }
    binned = zip(*(per_bin(logsnr, a, edges) for a in losses.values()), strict=True)
    return {
        "images": len(vb),
        "steps": vb.shape[1],
        "bits_per_dim": {name: _pair(*mean_and_error(a)) for name, a in parts.items()},
        "each": measured.total.tolist(),
        "bins": [_row(dict(zip(losses, rows, strict=True))) for rows in binned],
        "terms": {
            "logsnr": logsnr.tolist(),
            **{f"{name}_mean": a.mean(0).tolist() for name, a in losses.items()},
            "vb_error": np.asarray(mean_and_error(vb)[1]).tolist(),
        },
    }


def uncertainty(
    experiment: Experiment, variables: PyTree, measured: Measured
) -> dict[str, list[float]]:
    """What the uncertainty head learned, per level; {} for a run without one.

    `learned` is u, and `best` the u that the loss w x0_mse / exp(u) + u asks for where the
    error is as measured: ln(w x0_mse), the mean over images [EDM2 eq. 21].
    """
    heads = [*parts(experiment.loss, losses.Uncertain)]
    if not heads:
        return {}
    denoise = _denoiser(experiment)
    levels, shape = measured.steps.at, experiment.data.shape
    learned = []
    for first in range(0, len(levels.alpha), CHUNK):
        part = levels[first : first + CHUNK]
        at = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32).reshape(-1, 1, 1, 1), part)
        output = denoise(variables, jnp.zeros((len(part.alpha), *shape)), at, UNCONDITIONAL)
        some = np.asarray(output.uncertainty).reshape(-1)
        require_finite(some, "uncertainties", unit="level", advice=MODEL_ADVICE)
        learned += some.tolist()
    factors = curves.weightings(heads[0].of)
    with jax.enable_x64(True):
        weight = sum(factor * np.asarray(w(levels)) for factor, w in factors)
    best = np.log(np.maximum(weight * measured.x0_mse.mean(0), 1e-30))
    return {"learned": learned, "best": best.tolist()}


@kept(4)
def _denoiser(experiment: Experiment) -> Callable[..., Denoised]:
    """`run_denoiser`, compiled: (variables, x, at, cond) -> its output."""
    return jax.jit(lambda variables, *state: run_denoiser(experiment, variables)(*state))


def table(results: Mapping[str, Any]) -> str:
    """The report as lines for people."""
    bits = results["bits_per_dim"]
    lines = [f"{'bits/dim':>12} {'mean':>12} {'std. error':>12}"]
    for name, pair in bits.items():
        lines.append(f"{name:>12} {pair['mean']:12.5f} {pair['error']:12.5f}")
    lines += ["", "by logSNR (nats), mean and standard error over images"]
    lines += [f"{'from':>8} {'to':>8} {'levels':>7} {'x0 mse':>21} {'eps mse':>21}"]
    for row in results["bins"]:
        low, high = row["logsnr"]
        errors = " ".join(
            f"{row[name]['mean']:11.3e} ±{row[name]['error']:8.1e}"
            for name in ("x0_mse", "eps_mse")
        )
        lines.append(f"{low:8.2f} {high:8.2f} {row['levels']:7d} {errors}")
    return "\n".join(lines)


def save_plot(path: PathLike, results: Mapping[str, Any]) -> None:
    """Loss per bin of logSNR, the bound's terms, and what `uncertainty` found, as a PNG."""
    head = results.get("uncertainty")
    figure, panels = plots.panels("", 6.2 if head else 3.4, 2 if head else 1, 2)
    error, bound, *more = panels
    for axes in more[1:]:
        axes.remove()
    middle = [np.mean(row["logsnr"]) for row in results["bins"]]
    for name, look in zip(("x0_mse", "eps_mse"), plots.looks(["x0", "eps"]), strict=True):
        mean = np.array([row[name]["mean"] for row in results["bins"]])
        spread = np.array([row[name]["error"] for row in results["bins"]])
        look |= {"label": name.removesuffix("_mse"), "marker": "o", "ms": 3}
        error.errorbar(middle, mean, spread, **look)
    error.set(yscale="log", title="mean squared error", ylabel="error   [data units²]")
    plots.legend(error)
    terms = results["terms"]
    bound.plot(terms["logsnr"], terms["vb_mean"], color=plots.GREEN, lw=1)
    total = "{mean:.3f} ± {error:.3f}".format(**results["bits_per_dim"]["total"])
    title = f"terms of the bound, {total} bits/dim"
    bound.set(yscale="log", title=title, ylabel="term   [bits/dim]")
    for axes in more[:1]:
        axes.plot(terms["logsnr"], head["best"], color=plots.GREY, label="ln(w x0 mse)")
        axes.plot(
            terms["logsnr"], head["learned"], color=plots.VERMILION, label="learned u"
        )
        axes.set(title="log-variance of the weighted error", ylabel="u   [nats]")
        plots.legend(axes)
    for axes in (error, bound, *more[:1]):
        plots.logsnr_axis(axes)
    write_atomically(path, lambda f: figure.savefig(f, format="png"))


def _row(rows: Mapping[str, Bin]) -> dict[str, Any]:
    """One bin of all losses."""
    one = next(iter(rows.values()))
    row = {"logsnr": [one.low, one.high], "levels": one.levels}
    return row | {name: _pair(b.mean, b.error) for name, b in rows.items()}


def _pair(mean: Real, error: Real) -> dict[str, float]:
    return {"mean": float(mean), "error": float(error)}
