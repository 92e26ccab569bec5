"""Bits/dim of a run on held-out images by the probability flow, beside the bound.

    python benchmarks/likelihood_flow.py --workdir=runs/digits

Prints a table: exact divergence against probes on a few images, fixed against adaptive
steps, then more images by probes, and the variational bound on the same images. A row has
the mean over images, its standard error over images, the part of that which the probes
explain, and evaluations of the denoiser an image.
"""

import dataclasses
import time

from absl import flags

from jaxdiff.commands import command
from jaxdiff.evaluation import likelihood
from jaxdiff.evaluation.likelihood import (
    RK4,
    AdaptiveRule,
    Exact,
    Hutchinson,
    dataset_bound,
    dataset_flow,
)
from jaxdiff.runs import restoring
from jaxdiff.runtime import sharding
from jaxdiff.schedules.posterior import LargeVariance

WORKDIR = flags.DEFINE_string("workdir", None, "The folder that jaxdiff train wrote.")
FEW = flags.DEFINE_integer("few", 8, "Images with exact divergence.", lower_bound=2)
NUMBER = flags.DEFINE_integer("number", 96, "Images by probes.", lower_bound=2)
PROBES = flags.DEFINE_integer("probes", 4, "Probes an image.", lower_bound=2)
STEPS = flags.DEFINE_integer("steps", 16, "Fixed steps of order 4.", lower_bound=2)
TIMESTEPS = flags.DEFINE_integer("timesteps", 250, "Steps of the bound.", lower_bound=2)
flags.mark_flags_as_required(["workdir"])


def main() -> None:
    """Restores, measures, prints."""
    run = restoring.restore(command.folder(WORKDIR))
    experiment, mesh = run.experiment, sharding.data_mesh()
    data = dataclasses.replace(experiment.data, split="test").load()
    path, count, number = experiment.schedule, STEPS.value, NUMBER.value
    few, probes = FEW.value, Hutchinson(PROBES.value)
    coarse, fine = (likelihood.rising(path, n) for n in (count, 2 * count))
    low = float(coarse.sigma[0])
    print(f"step {run.step}, held-out images, flow from sigma = {low:.3g} of noise\n")
    print(
        "| images | divergence | steps | bits/dim | ± images | ± probes | NFE | seconds |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for images, levels, rule, divergence, name in (
        (few, coarse, RK4, Exact(), f"{count} RK4"),
        (few, coarse, RK4, probes, f"{count} RK4"),
        (few, fine, RK4, probes, f"{2 * count} RK4"),
        (few, coarse, AdaptiveRule(1e-4, 1e-4), probes, "adaptive, 1e-4"),
        (number, coarse, RK4, probes, f"{count} RK4"),
    ):
        start = time.perf_counter()
        solve = dataset_flow.solver(experiment, levels, rule, divergence)
        report = dataset_flow.report(
            dataset_flow.measure(solve, run.variables, data, mesh, number=images)
        )
        seconds = time.perf_counter() - start
        bits = "{mean:.4f} | {error:.4f} | {probes:.4f}".format(**report["bits_per_dim"])
        cost = f"{report['evaluations']:.0f} | {seconds:.0f}"
        print(f"| {images} | {divergence} | {name} | {bits} | {cost} |", flush=True)
    start = time.perf_counter()
    cost = dataset_bound.coster(experiment, LargeVariance(), clip=False)
    steps = likelihood.process(path, TIMESTEPS.value)
    measured = dataset_bound.measure(cost, run.variables, data, steps, mesh, number=number)
    mean, error = likelihood.mean_and_error(measured.total)
    seconds = time.perf_counter() - start
    print(
        f"| {number} | bound, LargeVariance | {TIMESTEPS.value} | {mean:.4f} | "
        f"{error:.4f} |  | {TIMESTEPS.value} | {seconds:.0f} |"
    )


if __name__ == "__main__":
    command.run(main)
