"""The training step as compilers of accelerators make it: types, communication, memory.

A network with one block of EDM2's is compiled for a TPU slice and for GPUs that are not
there (`runtime.topologies`), in seconds of a CPU. What the programs may do is in `BUDGETS`.
"""

import dataclasses
import functools
import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from jaxtyping import Array

import jaxdiff as jd
from jaxdiff.networks.edm2_block import Block
from jaxdiff.networks.mp_layers import MPConv
from jaxdiff.runtime import costs, hlo, topologies
from jaxdiff.train import forecasting, memory
from jaxdiff.types import Condition, Output
from tests.test_train import TINY

FSDP, COPIES = "v5e:2x2", "h100:4"
"""The state is split two ways on the TPUs, and every GPU has a copy."""


@dataclass(frozen=True)
class Budget:
    """How much of something a program may do, and why it is not less."""

    most: float | int
    reason: str


BUDGETS = {
    "float32 products": {
        FSDP: Budget(0.001, "the embedding's layers are float32 by design"),
        COPIES: Budget(0.001, "the embedding's layers are float32 by design"),
    },
    "sent": {
        FSDP: Budget(1.15, "the embedding's layers are small and float32"),
        COPIES: Budget(1.1, "the embedding's gradients are float32"),
    },
    "activations gathered": {
        FSDP: Budget(0, "weights alone are gathered"),
        COPIES: Budget(0, "nothing is gathered"),
    },
    "optimizer": {
        COPIES: Budget(2.2, "norms, and the search for what is not finite, read all again"),
    },
}
"""By quantity and topology. A value that a change lowers is lowered here too."""


@jd.register
class OneBlock(nn.Module):
    """Convolution, block with attention, convolution; the embedding is one layer."""

    label_dim: int = 10
    dtype: str = "bfloat16"

    @nn.compact
    def __call__(
        self, x: Array, c_noise: Array, cond: Condition, train: bool = False
    ) -> Output:
        noise = jnp.broadcast_to(c_noise.reshape(-1, 1), (len(x), 16))
        emb = MPConv(64, name="emb_noise")(noise)
        y = MPConv(64, (3, 3), name="conv")(x.astype(self.dtype))
        block = Block(64, attention=True, channels_per_head=32, name="block")
        y = MPConv(x.shape[-1], (3, 3), name="out_conv")(block(y, emb, train))
        return Output(y.astype(jnp.float32))


RUN = dataclasses.replace(
    TINY,
    network=OneBlock(),
    loss=jd.WeightedError(jd.UniformOnNetwork(jd.EDM())),
    batch_size=32,
    label_dropout=0.0,
)


@dataclass(frozen=True)
class Compiled:
    """A compiled step and what was read from it."""

    costs: costs.Costs
    minimum: float
    state: int
    """Bytes of the state on a device."""
    donated: int
    parameters: frozenset[int]
    """Sizes of the parameters, whole and in shards."""


@functools.cache
def compiled(name: str) -> Compiled:
    kind = "gpu" if name == COPIES else "tpu"
    try:
        topologies.require(kind)
    except ImportError as error:
        pytest.skip(str(error))
    run = dataclasses.replace(RUN, fsdp=2 if name == FSDP else 1)
    where = topologies.topology(name)
    mesh = forecasting.mesh_of(run, where)
    step = where.compile(forecasting.training(run, mesh))
    state = memory.abstract_state(run, mesh)
    sizes = {a.size for a in jax.tree.leaves(state.params)}
    return Compiled(
        costs.measure(hlo.read(step.as_text()), where.chip, mesh.size),
        forecasting.minimum(run, mesh),
        memory.held(state),
        step.memory_analysis().alias_size_in_bytes,
        frozenset(sizes | {size // n for size in sizes for n in (2, 4)}),
    )


both = pytest.mark.parametrize("name", [FSDP, COPIES])


@both
def test_products_are_bfloat16(name: str) -> None:
    products = compiled(name).costs.products
    wide = [(p, source) for p, _, source in products if set(p.dtypes) != {"bf16"}]
    assert [source for _, source in wide if "/emb" not in source] == []
    share = sum(p.flops for p, _ in wide) / sum(p.flops for p, *_ in products)
    assert share <= BUDGETS["float32 products"][name].most


@both
def test_weights_alone_are_gathered(name: str) -> None:
    step = compiled(name)
    gathered = [one for one in step.costs.collectives if one.kind == "all-gather"]
    assert bool(gathered) == (name == FSDP)
    others = [
        (shape, one.source)
        for one in gathered
        for shape in one.shapes
        if math.prod(shape.dims) not in step.parameters
    ]
    assert len(others) <= BUDGETS["activations gathered"][name].most, others


@both
def test_devices_send_little_more_than_they_must(name: str) -> None:
    step = compiled(name)
    ratio = step.costs.wire / step.minimum
    by_kind = list(costs.by_kind(step.costs.collectives))
    assert ratio <= BUDGETS["sent"][name].most, by_kind
    assert ratio >= 0.95, by_kind  # else weights stay whole for the backward pass


@both
def test_nothing_goes_to_the_host(name: str) -> None:
    assert compiled(name).costs.hosts == []


@both
def test_the_state_is_donated(name: str) -> None:
    step = compiled(name)
    assert step.donated >= 0.99 * step.state


def test_the_optimizer_passes_once_over_the_state() -> None:
    step = compiled(COPIES)
    moved = step.costs.kinds["optimizer and averages"].bytes
    once = 2.25 * step.state  # each of four arrays read and written, and the gradient read
    assert moved <= BUDGETS["optimizer"][COPIES].most * once
