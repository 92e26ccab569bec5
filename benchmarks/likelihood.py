"""Bits/dim of held-out digits by the probability flow, beside the variational bound.

    python benchmarks/likelihood.py --runs=runs/likelihood

Trains the config `digits` in RUNS/digits, and measures it: exact divergence against probes
on a few images, fixed steps against more of them and adaptive ones, then more images by
probes, and on the same images the variational bound with few and with many steps.

A row has the mean over images in bits/dim, its standard error over images, what of that the
probes explain, and evaluations of the denoiser an image; of the bound the decoder's part.
Stopped and started again it goes on. Prints tables, and writes likelihood.png and .json to
--out.
"""

import dataclasses
import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import study

from jaxdiff.analysis import plots
from jaxdiff.evaluation import likelihood
from jaxdiff.evaluation.likelihood import (
    RK4,
    AdaptiveRule,
    Divergence,
    Exact,
    Hutchinson,
    dataset_bound,
    dataset_flow,
)
from jaxdiff.runs import restoring
from jaxdiff.runtime import provenance, sharding
from jaxdiff.schedules.posterior import LargeVariance

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FEW, NUMBER = 8, 96
"""Images."""
BOUNDS = (250, 1000)
"""Steps of the variational bound."""


@dataclass(frozen=True)
class Flow:
    """A way to integrate the density: images, fixed steps of order 4, None if adaptive."""

    images: int
    divergence: Divergence
    steps: int | None

    @property
    def key(self) -> dict[str, Any]:
        """What its row is found by."""
        name = "exact" if isinstance(self.divergence, Exact) else "4 probes"
        steps = self.steps or "adaptive, 1e-4"
        return {"what": "flow", "images": self.images, "divergence": name, "steps": steps}


PROBES = Hutchinson(4)
FLOWS = (
    Flow(FEW, Exact(), 16),
    Flow(FEW, PROBES, 16),
    Flow(FEW, PROBES, 32),
    Flow(FEW, PROBES, None),
    Flow(NUMBER, PROBES, 16),
)


def main() -> None:
    """Trains and measures what is missing, prints, draws."""
    book = study.book("likelihood")
    for flow in FLOWS:
        if not book.find(**flow.key):
            book.write(flow.key, {**by_flow(restored(), flow), **made()})
    for steps in BOUNDS:
        key = {"what": "bound", "images": NUMBER, "steps": steps}
        if not book.find(**key):
            book.write(key, {**by_bound(restored(), steps), **made()})
    for table in tables(book):
        print(f"{table}\n")
    print(study.save(draw(book), "likelihood"))


@functools.cache
def restored() -> restoring.Restored:
    """The run, trained if need be."""
    return restoring.restore(study.digits())


def made() -> dict[str, str]:
    """The commits of a row."""
    measured = study.short(provenance.commit_of(__file__))
    return {"trained": study.commits(study.digits()), "measured": measured}


def by_flow(run: restoring.Restored, flow: Flow) -> dict[str, Any]:
    """Bits/dim by the probability flow; the bins and the noise that it starts from."""
    schedule = run.experiment.schedule
    levels = likelihood.rising(schedule, flow.steps or 16)
    rule = RK4 if flow.steps else AdaptiveRule(1e-4, 1e-4)
    solve = dataset_flow.solver(run.experiment, levels, rule, flow.divergence)
    measured = dataset_flow.measure(
        solve, run.variables, held(run), sharding.data_mesh(), number=flow.images
    )
    found = dataset_flow.report(measured)
    more = {"evaluations": found["evaluations"], "sigma": float(levels.sigma[0])}
    return {**found["bits_per_dim"], **more}


def by_bound(run: restoring.Restored, steps: int) -> dict[str, Any]:
    """The bound, its decoder and all other terms, in bits/dim."""
    cost = dataset_bound.coster(run.experiment, LargeVariance(), clip=False)
    process = likelihood.process(run.experiment.schedule, steps)
    measured = dataset_bound.measure(
        cost, run.variables, held(run), process, sharding.data_mesh(), number=NUMBER
    )
    bits = dataset_bound.report(measured)["bits_per_dim"]
    rest = bits["diffusion"]["mean"] + bits["prior"]["mean"]
    return {**bits["total"], "decoder": bits["decoder"]["mean"], "others": rest}


def held(run: restoring.Restored) -> Any:
    """The held-out digits."""
    return dataclasses.replace(run.experiment.data, split="test").load()


def floor(sigma: float) -> float:
    """Bits/dim that a density of pixels with noise of `sigma` cannot go below, on average.

    Its largest density is that of the noise, 1 / (sigma sqrt(2 pi)); a bin is 2/255 wide.

    >>> round(floor(0.02), 2)
    2.68
    """
    return -math.log2(2 / 255 / (sigma * math.sqrt(2 * math.pi)))


def tables(book: study.Book) -> tuple[str, str]:
    """By the flow, and by the bound."""
    flows, bounds = [], []
    for flow in FLOWS:
        row = book.find(**flow.key)
        probes = f"{row['probes']:.4f}" if row["probes"] else ""
        cells = [f"{row['mean']:.4f}", f"{row['error']:.4f}", probes]
        cells.append(f"{row['evaluations']:.0f}")
        flows.append([str(flow.images), row["divergence"], str(row["steps"]), *cells])
    for steps in BOUNDS:
        row = book.find(what="bound", steps=steps)
        cells = (f"{row[name]:.2f}" for name in ("mean", "error", "decoder", "others"))
        bounds.append([str(row["images"]), str(steps), *cells])
    head = ["images", "divergence", "steps", "bits/dim", "± images", "± probes", "NFE"]
    names = ["images", "steps", "bits/dim", "± images", "decoder", "all other terms"]
    return study.table(head, flows), study.table(names, bounds)


def draw(book: study.Book) -> "Figure":
    """Every way with its standard error over images, and what none can go below."""
    figure, (panel,) = plots.panels("Bits/dim of held-out digits", 3.4)
    rows = [book.find(**flow.key) for flow in FLOWS]
    names = [f"flow, {r['divergence']}, {r['steps']} steps" for r in rows[:3]]
    names += ["flow, 4 probes, adaptive", "flow, 4 probes, 16 steps"]
    for steps in BOUNDS:
        rows.append(book.find(what="bound", steps=steps))
        names.append(f"bound, {steps:,} steps")
    labels = [f"{n}  ({r['images']} images)" for n, r in zip(names, rows, strict=True)]
    mean, error = ([row[name] for row in rows] for name in ("mean", "error"))
    (look,) = plots.looks(["bits/dim"])
    panel.errorbar(mean, labels, xerr=error, capsize=3, fmt="o", ms=4, color=look["color"])
    low = floor(rows[0]["sigma"])
    limit = f"{low:.2f}, below which no flow goes"
    panel.axvline(low, color=plots.GREY, lw=1, ls=":", label=limit)
    panel.invert_yaxis()
    panel.set(xlabel="bits/dim", xlim=(0, None))
    plots.legend(panel)
    return figure


if __name__ == "__main__":
    study.run(main)
