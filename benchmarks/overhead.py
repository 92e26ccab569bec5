"""What sampling costs beside the network: sample() against its network in a bare scan.

    python benchmarks/overhead.py

One device, the network of a config with random weights, `--batch` images, as many network
calls on both sides (NFE): the bare scan feeds the network its own output. Medians and
quartiles in milliseconds per call, the two taking turns. On 2 CPU cores that had other
work, jax 0.10.2, --rounds=16, the commit before this file's:

| solver | NFE | sample | network alone | ratio |
|---|---:|---:|---:|---:|
| Euler | 18 | 23.433 / 24.209 / 25.324 | 23.044 / 24.076 / 26.444 | 1.006 |
| Heun | 35 | 24.206 / 25.049 / 25.334 | 23.902 / 24.464 / 25.204 | 1.024 |
| DPMSolverPP(order=3) | 18 | 25.317 / 25.638 / 26.036 | 25.050 / 25.384 / 26.048 | 1.010 |
| UniPC | 18 | 23.986 / 24.788 / 25.414 | 24.165 / 24.841 / 25.628 | 0.998 |
| DDIM | 18 | 21.443 / 23.106 / 25.813 | 22.162 / 22.711 / 24.993 | 1.017 |
"""

import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jaxtyping import Array, Float
from ml_collections import config_flags

import jaxdiff as jd
from jaxdiff.commands import command
from jaxdiff.config import Experiment, expressions, from_config, resolve
from jaxdiff.evaluation.compare_solvers import short
from jaxdiff.runs.generate import image_keys
from jaxdiff.runs.state import init_state, labelled, run_denoiser
from jaxdiff.sampling import evaluations
from jaxdiff.types import Solver

CONFIG = config_flags.DEFINE_config_file("config", "configs/digits.py", "A configuration.")
BATCH = flags.DEFINE_integer("batch", 64, "Images.", 1)
STEPS = flags.DEFINE_integer("steps", 18, "Solver steps.", 1)
ROUNDS = flags.DEFINE_integer("rounds", 30, "Calls of each side.", 4)
SOLVERS = flags.DEFINE_string(
    "solvers", "Euler, Heun, DPMSolverPP(order=3), UniPC, DDIM", "Solvers, in a list."
)


def main() -> None:
    """Compiles both sides of each solver, times them in turns, prints."""
    experiment = from_config(CONFIG.value)
    experiment = resolve(experiment, experiment.data.load())
    print("| solver | NFE | sample | network alone | ratio |\n|---|---:|---:|---:|---:|")
    for solver in expressions.parse_all(SOLVERS.value, Solver):
        sides, nfe = both(experiment, solver)
        taken: tuple[list[float], list[float]] = ([], [])
        for side in sides:
            jax.block_until_ready(side())
        for _ in range(ROUNDS.value):
            for side, times in zip(sides, taken, strict=True):
                start = time.perf_counter()
                jax.block_until_ready(side())
                times.append(1e3 * (time.perf_counter() - start) / nfe)
        quartiles = [statistics.quantiles(times, n=4) for times in taken]
        cells = [" / ".join(f"{value:.3f}" for value in row) for row in quartiles]
        ratio = quartiles[0][1] / quartiles[1][1]
        cells = (short(solver), f"{nfe}", *cells, f"{ratio:.3f}")
        print(f"| {' | '.join(cells)} |", flush=True)


def both(experiment: Experiment, solver: Solver) -> tuple[tuple, int]:
    """sample(), and the network alone in a scan of as many calls; and how many."""
    e = experiment
    state = init_state(e)
    denoise = run_denoiser(e, {"params": state.params, "constants": state.constants})
    keys, shape = image_keys(np.arange(BATCH.value)), e.data.shape
    cond = labelled(e, jnp.zeros(BATCH.value, jnp.int32))
    levels = e.sampling.grid(e.schedule, STEPS.value)
    nfe = evaluations(solver, levels)

    @jax.jit
    def sampled() -> Float[Array, "B H W C"]:
        return jd.sample(denoise, cond, keys, shape, levels, solver)

    @jax.jit
    def alone() -> Float[Array, "B H W C"]:
        call = lambda x, _: (denoise(x, levels[0], cond).x0, None)
        return jax.lax.scan(call, jnp.ones((BATCH.value, *shape)), None, nfe)[0]

    return (sampled, alone), nfe


if __name__ == "__main__":
    command.run(main)
