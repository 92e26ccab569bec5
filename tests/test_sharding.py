"""Meshes: where the state lies, that it trains as one copy does, and what is said of it."""

import dataclasses
import math
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

import jaxdiff as jd
from jaxdiff import optim
from jaxdiff.networks import ADM, DiT
from jaxdiff.runs import checkpoint
from jaxdiff.runs.state import TrainState, init_state
from jaxdiff.runtime import sharding
from jaxdiff.train import compiled_step, initial_state, levels, memory
from jaxdiff.types import placement
from tests.test_train import TINY, batch

WIDE = dataclasses.replace(TINY, network=TINY.network.clone(model_channels=64))


def mesh_of(data: int, fsdp: int) -> jax.sharding.Mesh:
    return sharding.data_mesh(jax.devices()[: data * fsdp], fsdp)


def held(state: Any) -> int:
    """Bytes on the first device."""
    one = jax.devices()[0]
    shards = (a.addressable_shards for a in jax.tree.leaves(state))
    return sum(s.data.nbytes for parts in shards for s in parts if s.device == one)


def test_an_array_is_split_along_its_last_axis_or_the_longest_that_divides() -> None:
    shapes = {
        "last": (3, 3, 128, 64),
        "longest": (3, 3, 128, 3),
        "first of equals": (64, 64, 3),
        "none": (63, 65),
        "small": (32, 32),
    }
    arrays = {k: jax.ShapeDtypeStruct(shape, jnp.float32) for k, shape in shapes.items()}
    specs = {k: s.spec for k, s in sharding.shared(arrays, mesh_of(1, 8)).items()}
    assert specs == {
        "last": PartitionSpec(None, None, None, "fsdp"),
        "longest": PartitionSpec(None, None, "fsdp"),
        "first of equals": PartitionSpec("fsdp"),
        "none": PartitionSpec(),
        "small": PartitionSpec(),
    }
    alone = sharding.shared(arrays, mesh_of(8, 1))
    assert {s.spec for s in alone.values()} == {PartitionSpec()}


def test_moments_and_averages_lie_as_their_parameters() -> None:
    state = jax.eval_shape(lambda: init_state(WIDE))
    place = sharding.shared(state, mesh_of(2, 4))
    for average in optim.averages(place.opt_state):
        assert average == place.params
    assert any(p.spec != PartitionSpec() for p in jax.tree.leaves(place.params))


@pytest.fixture(scope="module")
def runs() -> dict[tuple[int, int], tuple[list[float], TrainState, int, str]]:
    """Three steps on two meshes: losses, the state, arguments' bytes and the program."""
    by_shape = {}
    for shape in ((1, 1), (1, 8)):
        mesh = mesh_of(*shape)
        state, losses = initial_state(WIDE, mesh), []
        placed = [sharding.put_batch(batch(n), mesh) for n in range(3)]
        step = compiled_step(WIDE, mesh).lower(state, placed[0]).compile()
        arguments = step.memory_analysis().argument_size_in_bytes
        arguments -= sum(a.nbytes for a in placed[0].values()) // mesh.size
        for one in placed:
            state, metrics = step(state, one)
            losses.append(float(metrics["loss"]))
        by_shape[shape] = losses, state, arguments, step.as_text()
    return by_shape


def test_a_split_state_trains_as_one_copy(runs: dict) -> None:
    exact, whole, *_ = runs[1, 1]
    losses, state, *_ = runs[1, 8]
    np.testing.assert_allclose(losses, exact, rtol=1e-5)
    chex.assert_trees_all_close(state.params, whole.params, rtol=1e-7, atol=2e-5)


def test_eight_devices_hold_an_eighth_each(runs: dict) -> None:
    whole, (_, state, arguments, _) = runs[1, 1], runs[1, 8]
    total = held(whole[1])
    assert whole[2] == pytest.approx(total, rel=1e-3)  # what the program says is what it is
    assert held(state) <= total / 8 * 1.05
    assert arguments <= total / 8 * 1.05


COLLECTIVE = re.compile(
    r"= (.*?) (all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)\("
)


def test_a_weight_is_gathered_twice_and_its_gradient_reduced_once(runs: dict) -> None:
    """The least that a step can move where no device may keep a whole state.

    XLA decides for embeddings: it may move their rows instead, if that is not more.
    """
    state, program = runs[1, 8][1], runs[1, 8][3]
    params = jax.tree.leaves(state.params)
    sizes = lambda shape: tuple(sorted(n for n in shape if n > 1))  # of a transpose, too
    split = [a for a in params if a.sharding.spec != PartitionSpec()]
    convolved = Counter(a.shape for a in split if a.ndim == 4)
    others = Counter(sizes(a.shape) for a in params)
    others -= Counter(sizes(a.shape) for a in split if a.ndim == 4)
    shards = Counter(a.sharding.shard_shape(a.shape) for a in split if a.ndim == 4)
    moved: dict[str, Counter] = defaultdict(Counter)
    for line in program.splitlines():
        if made := COLLECTIVE.search(line):
            shapes = re.findall(r"f32\[([\d,]+)\]", made[1])  # scalars are not counted
            moved[made[2]].update(tuple(map(int, shape.split(","))) for shape in shapes)
    reduced = Counter()
    for shape, count in moved.pop("all-reduce").items():
        reduced[sizes(shape)] += count
    by_level = Counter({(levels.BINS,): 2})  # sums of losses, and images
    assert reduced <= others + by_level
    assert moved.pop("reduce-scatter") == shards
    gathered = Counter({a: n for a, n in moved["all-gather"].items() if len(a) == 4})
    assert convolved <= gathered <= convolved + convolved  # a CPU may keep the first
    moved["all-gather"] -= gathered
    assert set(moved) <= {"all-gather", "all-to-all"}
    rest = sum(math.prod(a) * n for kind in moved.values() for a, n in kind.items())
    assert rest <= 2 * sum(a.size for a in split if a.ndim == 2)


def test_a_gathered_weight_has_every_derivative() -> None:
    """Forward, reverse and both, against the same product on one device."""
    x, w, v = (jax.random.normal(jax.random.key(n), (64, 64)) / 8 for n in range(3))

    def derivatives(product: Any, x: Any, w: Any, v: Any) -> Any:
        value = lambda w: jnp.sum(jnp.sin(product(x, w)))
        return jax.jvp(jax.value_and_grad(value), (w,), (v,))

    def shared(x: Any, w: Any, v: Any) -> Any:
        with placement.on(mesh):
            return derivatives(placement.shared(jnp.matmul), x, w, v)

    mesh = mesh_of(2, 4)
    places = sharding.split(mesh), *[sharding.shared(w, mesh)] * 2
    split = jax.jit(shared, in_shardings=places)(x, w, v)
    plain = jax.jit(lambda: derivatives(jnp.matmul, x, w, v))()
    # sums of 64 products, split over devices: a few roundings of numbers up to 9
    chex.assert_trees_all_close(split, plain, rtol=2e-6, atol=1e-6)


OTHERS = {
    "dit": DiT(label_dim=10, width=64, depth=1, heads=2, dtype="bfloat16", remat=True),
    "adm": ADM(label_dim=10, model_channels=32, channel_mult=(1,), num_blocks=1,
               uncertainty=False, dtype="bfloat16", remat=True),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_other_networks_train_split_as_whole(name: str) -> None:
    """A split DiT and ADM in bfloat16, rematerialised, with AdamW, against one device."""
    run = dataclasses.replace(
        TINY,
        network=OTHERS[name],
        loss=jd.WeightedError(jd.UniformOnNetwork(jd.EDM())),
        optimizer=jd.AdamW(1e-3, weight_decay=0.1, decays=(0.9,)),
        sampling=dataclasses.replace(TINY.sampling, std=0.9),
    )
    averages, losses = [], []
    for fsdp in (1, 2):
        mesh = mesh_of(1, fsdp)
        state, step = initial_state(run, mesh), compiled_step(run, mesh)
        for n in range(3):  # the first moves the last layer alone, which starts at 0
            state, metrics = step(state, sharding.put_batch(batch(n), mesh))
            losses.append(float(metrics["loss"]))
        averages.append(optim.averages(state.opt_state)[0])
    specs = [a.sharding.spec for a in jax.tree.leaves(averages[1])]
    assert any("fsdp" in spec for spec in specs)
    np.testing.assert_allclose(losses[3:], losses[:3], rtol=1e-3)
    moved = jax.tree.map(
        lambda a, b: float(jnp.abs(jnp.asarray(a) - np.asarray(b)).max()), *averages
    )
    # two steps of Adam move by 1e-3 each; a sign that bfloat16 turns moves by as much
    assert max(jax.tree.leaves(moved)) < 1e-3


def test_a_checkpoint_moves_to_another_mesh(runs: dict, tmp_path: Path) -> None:
    state = runs[1, 8][1]
    with checkpoint.checkpoints(tmp_path, 1) as saved:
        saved.save(3, state, WIDE)
    for shape in ((1, 1), (4, 2)):
        mesh = mesh_of(*shape)
        with checkpoint.checkpoints(tmp_path) as saved:
            back, _ = saved.restore(mesh)
        for leaf, place in zip(
            jax.tree.leaves(back), jax.tree.leaves(sharding.shared(back, mesh)), strict=True
        ):
            assert leaf.sharding.is_equivalent_to(place, leaf.ndim)
        chex.assert_trees_all_equal(back.params, state.params)


def test_what_is_said_of_a_step_is_what_it_holds() -> None:
    mesh = mesh_of(1, 2)
    lines = {name: size for name, size, _ in memory.footprint(TINY, mesh)}
    state_bytes = lines["parameters"] + lines["averages"] + lines["optimizer"]
    state = initial_state(TINY, mesh)
    assert state_bytes == held((state.params, state.opt_state))
    assert lines["arguments"] == pytest.approx(state_bytes + lines["batch"], rel=1e-2)
    split = [a for a in jax.tree.leaves(state.params) if a.size > placement.SMALL]
    # what is split is gathered for use, and gradients' sums come on top
    assert lines["collectives"] > sum(a.nbytes for a in split)
    assert lines["FLOPs"] > 0


def test_meshes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="fsdp is 3, which does not divide the 8 devices"):
        sharding.data_mesh(fsdp=3)
    with pytest.raises(ValueError, match="no multiple of it divides the batch of 6"):
        sharding.mesh_for(6, 4)
    assert dict(sharding.mesh_for(12, 2).shape) == {"data": 3, "fsdp": 2}
