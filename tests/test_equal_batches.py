"""Items in equal batches: nothing is lost or counted twice, on any number of devices."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.runtime import sharding
from jaxdiff.runtime.equal_batches import equal_batches, over_items


def mesh_of(devices: int) -> jax.sharding.Mesh:
    return sharding.data_mesh(jax.devices()[:devices])


@pytest.mark.parametrize("devices", [1, 2, 8])
@pytest.mark.parametrize(
    ("total", "size"), [(1, 1), (1, 5), (7, 3), (8, 8), (9, 4), (5, 99)]
)
def test_every_item_comes_once_in_batches_of_one_size(
    total: int, size: int, devices: int
) -> None:
    batches = list(equal_batches(total, size, mesh_of(devices)))
    assert np.concatenate([b.items for b in batches]).tolist() == list(range(total))
    (length,) = {len(b.numbers) for b in batches}
    assert length % devices == 0
    assert min(size, total) <= length < min(size, total) + devices
    assert [b.first for b in batches] == [True] + [False] * (len(batches) - 1)
    for b in batches:
        assert set(b.numbers) <= set(b.items), "what fills up are items of the batch"
        assert b.real.tolist() == [i < b.count for i in range(length)]


@pytest.mark.parametrize(
    ("devices", "size"), [(1, 1), (1, 3), (2, 3), (8, 4), (8, 7), (3, 99)]
)
def test_neither_batch_nor_devices_change_a_result(devices: int, size: int) -> None:
    x = np.arange(14.0, dtype=np.float32).reshape(7, 2)
    keys = jax.random.split(jax.random.key(3), 7)
    shapes = set()

    @jax.jit
    def noised(tree: Any, keys: Any) -> Any:
        shapes.add(tree["x"].shape)  # while it is traced
        noise = jax.vmap(lambda key: jax.random.normal(key, (2,)))(keys)
        return {"noised": tree["x"] + noise, "double": 2 * tree["x"]}

    results = over_items(noised, ({"x": x}, keys), size, mesh_of(devices))
    expected = x + np.stack([jax.random.normal(key, (2,)) for key in keys])
    np.testing.assert_array_equal(results["noised"], expected)
    np.testing.assert_array_equal(results["double"], 2 * x)
    assert len(shapes) == 1, "compiled once"


def test_a_batch_is_split_over_the_devices() -> None:
    mesh = mesh_of(4)
    (batch,) = equal_batches(6, 99, mesh)
    keys = jax.random.split(jax.random.key(0), 8)
    placed, keys, none = batch.put((np.arange(8)[batch.numbers], keys, None))
    assert placed.sharding == keys.sharding == sharding.split(mesh)
    assert none is None
    assert jnp.issubdtype(keys.dtype, jax.dtypes.prng_key)
    assert batch.fetch(placed).tolist() == [0, 1, 2, 3, 4, 5]


def test_a_full_batch_is_as_large_however_few_items_there_are() -> None:
    (batch,) = equal_batches(2, 5, mesh_of(2), full=True)
    assert batch.numbers.tolist() == [0, 1, 0, 1, 0, 1]
    assert batch.items.tolist() == [0, 1]


@pytest.mark.parametrize(("total", "size"), [(0, 4), (4, 0), (4, -1)])
def test_no_items_and_no_size_are_refused(total: int, size: int) -> None:
    with pytest.raises(ValueError, match="a batch holds 1 item or more; got"):
        equal_batches(total, size, mesh_of(1))
