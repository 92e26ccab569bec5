"""Bits/dim of a run on held-out images by the probability flow, beside the bound.

    python benchmarks/likelihood_flow.py --workdir=runs/digits

Prints a table: exact divergence against probes on a few images, fixed against adaptive
steps, then more images by probes, and the variational bound on the same images. A row has
the mean over images, its standard error over images, the part of that which the probes
explain, and evaluations of the denoiser an image.
"""

import dataclasses
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from jaxdiff import bits, checkpoint, likelihood, sharding
from jaxdiff.likelihood import RK4, Adaptive, Bits, Divergence, Exact, Hutchinson, Rule
from jaxdiff.posterior import LargeVariance
from jaxdiff.state import labelled, run_denoiser
from jaxdiff.types import NoiseLevel

sys.path.append(str(Path(__file__).parents[1] / "launch"))
import command

WORKDIR = flags.DEFINE_string("workdir", None, "The folder that launch/train.py wrote.")
FEW = flags.DEFINE_integer("few", 8, "Images with exact divergence.", lower_bound=2)
NUMBER = flags.DEFINE_integer("number", 96, "Images by probes.", lower_bound=2)
PROBES = flags.DEFINE_integer("probes", 4, "Probes an image.", lower_bound=2)
STEPS = flags.DEFINE_integer("steps", 16, "Fixed steps of order 4.", lower_bound=2)
TIMESTEPS = flags.DEFINE_integer("timesteps", 250, "Steps of the bound.", lower_bound=2)
flags.mark_flags_as_required(["workdir"])


class Flow:
    """The flow of a run on the first held-out images."""

    def __init__(self, run: checkpoint.Restored) -> None:
        self.run = run
        self.data = dataclasses.replace(run.experiment.data, split="test").load()

    def __call__(
        self, number: int, levels: NoiseLevel, rule: Rule, divergence: Divergence
    ) -> Bits:
        """Image i has its probes and its dequantisation from i alone."""
        rows = [self.data.source[i] for i in range(number)]
        image = np.stack([row["image"] for row in rows])
        label = jnp.asarray([row["label"] for row in rows], jnp.int32)
        keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(0), i))
        experiment, variables = self.run.experiment, self.run.variables
        solve = jax.jit(
            lambda variables, image, label, keys: likelihood.flow_bits_per_dim(
                run_denoiser(experiment, variables),
                labelled(experiment, label),
                image, keys, levels, rule, divergence,
            )
        )  # fmt: skip
        found = solve(variables, image, label, keys(np.arange(number)))
        return jax.tree.map(np.asarray, found)


def main() -> None:
    """Restores, measures, prints."""
    run = checkpoint.restore(command.folder(WORKDIR))
    flow, path, count = Flow(run), run.experiment.schedule, STEPS.value
    few, probes = FEW.value, Hutchinson(PROBES.value)
    coarse, fine = (likelihood.rising(path, n) for n in (count, 2 * count))
    low = float(coarse.sigma[0])
    print(f"step {run.step}, held-out images, flow from sigma = {low:.3g} of noise\n")
    print(
        "| images | divergence | steps | bits/dim | ± images | ± probes | NFE | seconds |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for number, levels, rule, divergence, name in (
        (few, coarse, RK4, Exact(), f"{count} RK4"),
        (few, coarse, RK4, probes, f"{count} RK4"),
        (few, fine, RK4, probes, f"{2 * count} RK4"),
        (few, coarse, Adaptive(1e-4, 1e-4), probes, "adaptive, 1e-4"),
        (NUMBER.value, coarse, RK4, probes, f"{count} RK4"),
    ):
        start = time.perf_counter()
        found = flow(number, levels, rule, divergence)
        seconds = time.perf_counter() - start
        mean, error = likelihood.mean_and_error(found.bits)
        of_probes = np.sqrt((found.error**2).sum()) / number
        nfe = f"{found.evaluations.mean():.0f}"
        print(
            f"| {number} | {divergence} | {name} | {mean:.4f} | {error:.4f} | "
            f"{of_probes:.4f} | {nfe} | {seconds:.0f} |",
            flush=True,
        )
    start = time.perf_counter()
    bound = bits.measure(
        bits.coster(run.experiment, LargeVariance(), clip=False),
        run.variables,
        flow.data,
        likelihood.process(path, TIMESTEPS.value),
        sharding.data_mesh(),
        number=NUMBER.value,
    )
    mean, error = likelihood.mean_and_error(bound.total)
    seconds = time.perf_counter() - start
    print(
        f"| {NUMBER.value} | bound, LargeVariance | {TIMESTEPS.value} | {mean:.4f} | "
        f"{error:.4f} |  | {TIMESTEPS.value} | {seconds:.0f} |"
    )


if __name__ == "__main__":
    command.run(main)
