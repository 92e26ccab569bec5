"""Images per second in training and sampling, for any config; compile time apart.

    python benchmarks/throughput.py --config=configs/digits.py

Data stay on the device, so this is the speed of the compiled programs alone. The peak of
the machine is measured in the same run, as a matrix product, and the steps' own FLOPs, as
XLA counts them, are given as a share of it: machines differ, and shared ones from minute
to minute.
"""

import functools
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jax.sharding import Mesh
from ml_collections import config_flags

from jaxdiff import train
from jaxdiff.commands import command
from jaxdiff.config import Experiment, from_config, resolve
from jaxdiff.runs import generate
from jaxdiff.runs.state import TrainState, ema_variables
from jaxdiff.runtime import sharding

CONFIG = config_flags.DEFINE_config_file("config", None, "A file of configs/.")
SECONDS = flags.DEFINE_float("seconds", 10.0, "How long to measure each, about.")
flags.mark_flags_as_required(["config"])


Measured = tuple[Callable[[jax.stages.Compiled], jax.Array], int, jax.stages.Lowered]
"""A call of the compiled program, the images it makes, and the program."""


def main() -> None:
    """Measures, and prints a table."""
    jax.config.update("jax_compilation_cache_dir", None)  # compile time is measured
    experiment = from_config(CONFIG.value)
    experiment = resolve(experiment, experiment.data.load())
    mesh = sharding.mesh_for(experiment.batch_size, experiment.fsdp)
    print(f"jax {jax.__version__}, {mesh.size} x {jax.devices()[0].device_kind}")
    print(f"{'':10} {'compile s':>10} {'images/s':>10} {'s a call':>10} {'of peak':>8}")
    peak = _peak(mesh)
    state = train.initial_state(experiment, mesh)
    for name, build in (("sampling", _sampling), ("training", _training)):
        call, images, lowered = build(experiment, state, mesh)
        start = time.perf_counter()
        compiled = lowered.compile()
        compile_s = time.perf_counter() - start
        seconds = _seconds(functools.partial(call, compiled))
        flops = compiled.cost_analysis().get("flops", float("nan")) * mesh.size
        share = flops / seconds / peak if name == "training" else float("nan")
        row = f"{name:10} {compile_s:10.1f} {images / seconds:10.1f} {seconds:10.4f}"
        print(f"{row} {share:8.1%}" if share == share else row)


def _training(experiment: Experiment, state: TrainState, mesh: Mesh) -> Measured:
    size = experiment.batch_size
    pixels = np.random.default_rng(0).integers(0, 256, (size, *experiment.data.shape))
    label = np.arange(size, dtype=np.int32) % max(experiment.network.label_dim, 1)
    batch = {"image": pixels.astype(np.uint8), "label": label}
    batch = sharding.put_batch(batch, mesh)
    step = train.compiled_step(experiment, mesh)
    held = [state]

    def call(compiled: jax.stages.Compiled) -> jax.Array:
        held[0], metrics = compiled(held[0], batch)
        return metrics["loss"]

    return call, size, step.lower(state, batch)


def _sampling(experiment: Experiment, state: TrainState, mesh: Mesh) -> Measured:
    draw = jax.jit(generate.sampler(experiment))
    size = experiment.sampling.images
    size += -size % mesh.size
    label = jnp.arange(size) % max(experiment.network.label_dim, 1)
    inputs = (generate.image_keys(np.arange(size)), label)
    inputs = jax.device_put(inputs, sharding.split(mesh))
    args = (ema_variables(experiment, state, experiment.sampling.std), *inputs)
    return lambda compiled: compiled(*args), size, draw.lower(*args)


def _seconds(call: Callable[[], jax.Array]) -> float:
    """The median time of a call, the first (which may compile) left out."""
    jax.block_until_ready(call())
    times, until = [], time.perf_counter() + SECONDS.value
    while len(times) < 3 or time.perf_counter() < until:
        start = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def _peak(mesh: Mesh, n: int = 2048) -> float:
    """FLOP/s of float32 matrix products, one on every device at once."""
    a = jax.device_put(jnp.ones((mesh.size, n, n)), sharding.split(mesh))
    product = jax.jit(lambda a: a @ a)
    return 2 * mesh.size * n**3 / _seconds(lambda: product(a))


if __name__ == "__main__":
    command.run(main)
