"""Memory and compute of a training step per device, from shapes: nothing is allocated.

The size of the state follows from its shapes and shardings; `kept` is what the traced
program saves in the forward pass for the gradient, before compilation; the rest is the
compiler's plan for these devices, and differs on other accelerators.
"""

import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import PyTree

from jaxdiff import optim
from jaxdiff.config import Experiment
from jaxdiff.data import encoder_of
from jaxdiff.runs.state import TrainState, labelled, state_shapes
from jaxdiff.runtime import hlo, sharding
from jaxdiff.train.step import compiled_step, training

Line = tuple[str, float, str]
"""A name, bytes on one device (FLOPs in the last line), and an explanation."""


def footprint(experiment: Experiment, mesh: Mesh) -> Iterator[Line]:
    """The lines of the report, each as soon as it is known: compiling comes last."""
    state = abstract_state(experiment, mesh)
    batch = abstract_batch(experiment, mesh)
    averages = optim.averages(state.opt_state)
    images = experiment.batch_size // mesh.size
    yield "parameters", held(state.params), f"{count(state.params):,} in all"
    yield "averages", held(averages), f"{len(averages)} of the parameters"
    yield "optimizer", held(state.opt_state) - held(averages), "its moments"
    yield "batch", held(batch), f"{images} of {experiment.batch_size} images"
    part = max(1, images // experiment.accumulation)
    yield "kept", kept(experiment, part), f"for the gradient of {part} images, as traced"
    compiled = compiled_step(experiment, mesh).lower(state, batch).compile()
    plan, cost = compiled.memory_analysis(), compiled.cost_analysis() or {}
    new = plan.output_size_in_bytes - plan.alias_size_in_bytes
    total = plan.argument_size_in_bytes + plan.temp_size_in_bytes + new
    yield "arguments", plan.argument_size_in_bytes, "state and batch, by the plan"
    yield "temporary", plan.temp_size_in_bytes, "gradients and activations, by the plan"
    yield "total", total, "the state is donated, so it counts once"
    yield "collectives", moved(compiled.as_text(), mesh.size), "sent in a step"
    yield "FLOPs", cost.get("flops", math.nan), "of a step, on one device"


def abstract_state(experiment: Experiment, mesh: Mesh) -> TrainState:
    """The shapes of the state before the first step, placed as in training."""
    shapes = state_shapes(experiment)
    return placed(shapes, sharding.shared(shapes, mesh))


def abstract_batch(experiment: Experiment, mesh: Mesh) -> PyTree:
    """The shapes of a batch, split over the devices."""
    size = experiment.batch_size
    stored = encoder_of(experiment.data).stored((size, *experiment.data.shape))
    batch = {"image": stored, "label": jax.ShapeDtypeStruct((size,), "int32")}
    return placed(batch, jax.tree.map(lambda _: sharding.split(mesh), batch))


def placed(shapes: PyTree, places: PyTree) -> PyTree:
    """Shapes with their shardings."""
    one = lambda a, place: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=place)
    return jax.tree.map(one, shapes, places)


def held(shapes: PyTree) -> int:
    """Bytes of a tree of shapes on one device."""
    return sum(
        math.prod(a.sharding.shard_shape(a.shape)) * a.dtype.itemsize
        for a in jax.tree.leaves(shapes)
    )


def count(shapes: PyTree) -> int:
    """Total number of elements in a tree of shapes."""
    return sum(math.prod(a.shape) for a in jax.tree.leaves(shapes))


def kept(experiment: Experiment, size: int) -> int:
    """Bytes that a batch's forward pass keeps for the gradient, as traced.

    Parameters count if the gradient reads them. A compiler may keep less, or more: on CPU
    it merges what `network.remat` would compute twice, and keeps it after all.
    """
    e, zero = experiment, jnp.zeros(())
    x = jnp.zeros((size, *e.data.shape))
    cond = labelled(e, jnp.zeros(size, jnp.int32))

    def backward() -> PyTree:
        variables = e.network.init(jax.random.key(0), x, zero, cond)
        apply = training(e, jax.random.key(0))
        joined = lambda params: {**variables, "params": params}
        return jax.vjp(
            lambda params: apply(joined(params), x, zero, cond).raw, variables["params"]
        )[1]

    leaves = jax.tree.leaves(jax.eval_shape(backward))
    return sum(math.prod(a.shape) * a.dtype.itemsize for a in leaves)


def moved(program: str, devices: int) -> float:
    """Bytes that one device sends in a compiled program's collectives, on rings."""
    every = hlo.read(program).collectives()
    return sum(times * hlo.wire(op, devices) for op, times in every)


def table(experiment: Experiment, mesh: Mesh) -> Iterator[str]:
    """The report, line by line."""
    device = mesh.devices.flat[0]
    shape = " x ".join(f"{mesh.shape[axis]} {axis}" for axis in mesh.axis_names)
    virtual = ", virtual: the plan is a CPU's" if device.platform == "cpu" else ""
    yield f"{mesh.size} x {device.device_kind} ({shape}){virtual}; on one of them:"
    for name, size, note in footprint(experiment, mesh):
        amount = (
            f"{size / 1e9:10,.1f} G  " if name == "FLOPs" else f"{size / 2**20:10,.1f} MiB"
        )
        yield f"{name:12} {amount}   {note}"
