"""Is one batch of conditional and unconditional images faster than two calls?

    python benchmarks/guidance.py

One guided evaluation of a config's network with random weights, medians and quartiles in
milliseconds over calls that take turns; the results are compared first. On 2 CPU cores
that had other work too, commit afce1a4, jax 0.10.2, network of configs/digits.py:

| images | one batch | two calls | ratio |
|---:|---:|---:|---:|
| 1 | 0.98 / 1.02 / 1.06 | 1.10 / 1.13 / 1.22 | 0.90 |
| 4 | 3.01 / 3.33 / 5.10 | 3.20 / 3.40 / 4.46 | 0.98 |
| 16 | 10.83 / 11.21 / 11.62 | 10.36 / 10.98 / 11.47 | 1.02 |
| 64 | 38.93 / 40.70 / 44.59 | 30.53 / 31.72 / 36.02 | 1.28 |
| 256 | 171.71 / 182.11 / 187.67 | 126.04 / 130.28 / 137.56 | 1.40 |

So there one batch is the faster for a few images, and large batches outgrow the caches.
"""

import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from ml_collections import config_flags

import jaxdiff as jd
from jaxdiff.commands import command
from jaxdiff.config import from_config, resolve
from jaxdiff.runs.state import ema_variables, init_state, run_denoiser
from jaxdiff.types import Condition, NoiseLevel

CONFIG = config_flags.DEFINE_config_file("config", "configs/digits.py", "A configuration.")
TURNS = flags.DEFINE_integer("turns", 40, "Calls of each kind.", lower_bound=3)
BATCHES = flags.DEFINE_list("batches", ["1", "4", "16", "64", "256"], "Images a call.")


def main() -> None:
    """Measures, and prints a table."""
    experiment = from_config(CONFIG.value)
    experiment = resolve(experiment, experiment.data.load())
    state = init_state(experiment)
    variables = ema_variables(experiment, state, experiment.sampling.std)
    denoise = run_denoiser(experiment, variables)
    other = lambda x, at, cond: denoise(x, at, cond)  # to `guide`, another network
    kinds = {
        "one batch": jd.guide(denoise, (jd.without(denoise, "label"), 0.5)),
        "two calls": jd.guide(denoise, (jd.without(other, "label"), 0.5)),
    }
    device = jax.devices()[0].device_kind
    print(f"jax {jax.__version__}, {device}, {CONFIG.value.network.type}")
    print("| images | " + " | ".join(kinds) + " | ratio |\n|---:|---:|---:|---:|")
    for batch in map(int, BATCHES.value):
        x = jax.random.normal(jax.random.key(0), (batch, *experiment.data.shape))
        cond = Condition(label=jnp.arange(batch) % experiment.network.label_dim)
        calls = {
            n: jax.jit(lambda x, k=k, cond=cond: k(x, AT, cond).x0)
            for n, k in kinds.items()
        }
        one, two = (np.asarray(call(x)) for call in calls.values())
        np.testing.assert_allclose(one, two, atol=1e-5)
        taken = _alternating(calls, x)
        cells = [" / ".join(f"{q:.2f}" for q in _quartiles(t)) for t in taken.values()]
        one, two = map(statistics.median, taken.values())
        print(f"| {batch} | " + " | ".join(cells) + f" | {one / two:.2f} |", flush=True)


AT = NoiseLevel(1.0, 0.7)


def _alternating(calls: dict[str, Callable], x: jax.Array) -> dict[str, list[float]]:
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(TURNS.value):
        for name, call in calls.items():
            start = time.perf_counter()
            call(x).block_until_ready()
            taken[name].append(1000 * (time.perf_counter() - start))
    return taken


def _quartiles(taken: list[float]) -> list[float]:
    return statistics.quantiles(taken, n=4)


if __name__ == "__main__":
    command.run(main)
