"""What one device holds during a training step, from shapes alone: nothing is allocated.

    python benchmarks/memory.py --config=configs/edm2_img512.py:s --devices=8 --batch=64

Compiles the training step of any config for a mesh of --devices CPU devices, with the
batch split over them and the state on each, and prints what a device has to hold: the
parameters, Adam's moments and the averages, as their shapes say, and the rest as XLA's
plan says; `kept` is what the traced program hands from the forward pass to the gradient,
whatever the compiler. Another accelerator's compiler plans otherwise, and the CPU's
computes some of what is bfloat16 in float32. Machine code is not optimised (--nofast to do
so), which is faster and alters no shape. --lower stops before the compiler.
"""

import math
import os
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
from absl import flags
from jax.sharding import Mesh
from jaxtyping import PyTree
from ml_collections import config_flags

from jaxdiff import optim, sharding, train
from jaxdiff.config import Experiment, from_config, resolve
from jaxdiff.data import encoder_of
from jaxdiff.state import TrainState, init_state, labelled

sys.path.append(str(Path(__file__).parents[1] / "launch"))
import command

CONFIG = config_flags.DEFINE_config_file("config", None, "A file of configs/.")
DEVICES = flags.DEFINE_integer("devices", 8, "Devices of the mesh.", lower_bound=1)
BATCH = flags.DEFINE_integer("batch", None, "Images of a step; the config's.", 1)
FAST = flags.DEFINE_bool("fast", True, "Do not optimise the machine code.")
LOWER = flags.DEFINE_bool("lower", False, "Do not compile.")
flags.mark_flags_as_required(["config"])


def main() -> None:
    """Traces, lowers, compiles, prints."""
    jax.config.update("jax_compilation_cache_dir", None)  # compile time is measured
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", DEVICES.value)
    if FAST.value:
        flag = " --xla_backend_optimization_level=0"
        os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + flag
    experiment = from_config(CONFIG.value)
    if experiment.network.label_dim == -1:  # as many as the data have
        experiment = resolve(experiment, experiment.data.load())
    batch = BATCH.value or experiment.batch_size
    if batch % DEVICES.value:
        raise ValueError(f"--batch={batch} does not split over {DEVICES.value} devices")
    mesh = sharding.data_mesh()
    state, images = (
        abstract_state(experiment, mesh),
        abstract_batch(experiment, batch, mesh),
    )
    print(
        f"{mesh.size} x {jax.devices()[0].device_kind}, {batch // mesh.size} images each\n"
    )
    row("parameters", held(state.params), f"{count(state.params):,}")
    averages = optim.averages(state.opt_state)
    row("averages", held(averages), f"{len(averages)} of the parameters")
    row("Adam", held(state.opt_state) - held(averages), "two moments")
    row("batch", held(images), f"{batch // mesh.size} of {batch} images")
    row("kept", kept(experiment, batch // mesh.size), "for the gradient, as traced")
    began = time.perf_counter()
    everywhere = sharding.replicated(mesh)
    step = jax.jit(train.make_step(experiment), donate_argnums=0, out_shardings=everywhere)
    lowered = step.lower(state, images)
    lower_s = time.perf_counter() - began
    if LOWER.value:
        print(f"\nlowered in {lower_s:.0f} s")
        return
    began = time.perf_counter()
    plan = lowered.compile().memory_analysis()
    compile_s = time.perf_counter() - began
    row("arguments", plan.argument_size_in_bytes, "state and batch, by XLA's plan")
    row("temporary", plan.temp_size_in_bytes, "gradients and activations")
    gradients = held(state.params)
    row("activations", plan.temp_size_in_bytes - gradients, "temporary less the gradients")
    new = plan.output_size_in_bytes - plan.alias_size_in_bytes
    total = plan.argument_size_in_bytes + plan.temp_size_in_bytes + new
    row("total", total, "the state is donated, so it counts once")
    print(f"\nlowered in {lower_s:.0f} s, compiled in {compile_s:.0f} s")


def abstract_state(experiment: Experiment, mesh: Mesh) -> TrainState:
    """The shapes of the whole state, a copy on each device."""
    shapes = jax.eval_shape(lambda: init_state(experiment))
    return placed(shapes, sharding.replicated(mesh))


def abstract_batch(experiment: Experiment, size: int, mesh: Mesh) -> PyTree:
    """The shapes of a batch, split over the devices."""
    stored = encoder_of(experiment.data).stored((size, *experiment.data.shape))
    label = jax.ShapeDtypeStruct((size,), "int32")
    return placed({"image": stored, "label": label}, sharding.split(mesh))


def kept(experiment: Experiment, size: int) -> int:
    """Bytes that a batch's forward pass keeps for the gradient, as traced.

    Parameters count where the gradient reads them. A compiler may keep less, or more: the
    CPU's finds what `network.remat` computes twice, and keeps it after all.
    """
    e, zero = experiment, jnp.zeros(())
    x = jnp.zeros((size, *e.data.shape))
    cond = labelled(e, jnp.zeros(size, jnp.int32))

    def backward() -> PyTree:
        variables = e.network.init(jax.random.key(0), x, zero, cond)
        apply = train.training(e, jax.random.key(0))
        given = lambda params: {**variables, "params": params}
        return jax.vjp(
            lambda params: apply(given(params), x, zero, cond).raw, variables["params"]
        )[1]

    leaves = jax.tree.leaves(jax.eval_shape(backward))
    return sum(math.prod(a.shape) * a.dtype.itemsize for a in leaves)


def placed(shapes: PyTree, where: jax.sharding.NamedSharding) -> PyTree:
    """Shapes that say where they lie."""
    place = lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=where)
    return jax.tree.map(place, shapes)


def held(shapes: PyTree) -> int:
    """Bytes of a tree of shapes on one device."""
    return sum(
        math.prod(a.sharding.shard_shape(a.shape)) * a.dtype.itemsize
        for a in jax.tree.leaves(shapes)
    )


def count(shapes: PyTree) -> int:
    """Numbers in a tree of shapes."""
    return sum(math.prod(a.shape) for a in jax.tree.leaves(shapes))


def row(name: str, size: int, note: str) -> None:
    """One line of the table."""
    print(f"{name:12} {size / 2**20:10,.1f} MiB   {note}", flush=True)


if __name__ == "__main__":
    command.run(main)
