"""Extractors by name: what they refuse, and what makes two of them the same."""

import re
from pathlib import Path

import chex
import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxdiff.evaluation.extractors import inception, lite0, weights
from jaxdiff.evaluation.extractors.extractor import NETWORKS, VARIABLE, extractor

GOLDEN = Path(__file__).parent / "golden" / "features"
INCEPTIONS = [name for name in NETWORKS if name.startswith("inception")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One with weights for Inception that are all one but for the variances' zeros."""
    flat = {name: np.ones(shape, np.float32) for name, shape in inception.shapes().items()}
    path = tmp_path_factory.mktemp("weights")
    made = weights.Weights("inception", flat, "ones.pth", "0" * 64)
    weights.save(path / "inception.npz", made)
    return path


@pytest.fixture(autouse=True)
def _nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


def images(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def test_pixels8_are_means_of_blocks() -> None:
    made, x = extractor("pixels8"), images(3, 32, 16, 3)
    seen = made.apply(made.variables, x)
    blocks = x.reshape(3, 8, 4, 8, 2, 3).mean((2, 4)).reshape(3, 192)
    assert seen.logits is None
    assert seen.pooled.dtype == np.float32
    np.testing.assert_allclose(seen.pooled, blocks / 127.5 - 1, rtol=0, atol=1e-6)


def test_lite0_says_whose_weights_it_has() -> None:
    made = extractor("lite0")
    assert made.sha256.startswith("579344248a93")
    assert made == extractor("lite0")
    assert hash(made) == hash(extractor("lite0"))
    assert made != extractor("pixels8")


def test_lite0_works_where_the_images_are() -> None:
    made, mesh = extractor("lite0"), Mesh(np.array(jax.devices()), "data")
    with np.load(GOLDEN / "effnet_lite0.npz") as file:
        x = jax.device_put(file["s4_x"], NamedSharding(mesh, P("data")))
        expected = file["s4"]
    variables = jax.device_put(made.variables, NamedSharding(mesh, P()))
    compiled = jax.jit(made.apply).lower(variables, x).compile()
    assert not re.search("all-gather|all-reduce|all-to-all|permute", compiled.as_text())
    seen = compiled(variables, x).pooled
    assert seen.sharding.is_equivalent_to(x.sharding, 2)
    # float32 through 33 layers of both; features reach 22
    np.testing.assert_allclose(seen, expected, rtol=0, atol=5e-5)


def test_lite0_that_is_damaged_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged = tmp_path / lite0.weights_file().name
    damaged.write_bytes(lite0.weights_file().read_bytes()[:-1])
    monkeypatch.setattr(lite0, "weights_file", lambda: damaged)
    with pytest.raises(ValueError, match="damaged: install"):
        extractor("lite0")


def test_grey_images_are_repeated() -> None:
    made, grey = extractor("pixels8"), images(2, 9, 11, 1)
    seen, expected = (made.apply({}, x).pooled for x in (grey, grey.repeat(3, -1)))
    np.testing.assert_array_equal(seen, expected)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (images(2, 8, 8, 4), r"\(2, 8, 8, 4\): drop alpha"),
        (images(8, 8, 3), r"\(8, 8, 3\)"),
        (images(2, 8, 8, 2), r"\(2, 8, 8, 2\)"),
        (np.zeros((2, 8, 8, 3), np.float32), "uint8, got float32: .*127.5"),
    ],
    ids=["rgba", "one", "two channels", "floats"],
)
def test_other_images_are_refused(x: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        extractor("pixels8").apply({}, x)


def test_names_are_listed() -> None:
    with pytest.raises(
        ValueError, match=r"unknown extractor 'fid'; known are .*inception_tf"
    ):
        extractor("fid")


@pytest.mark.parametrize("name", INCEPTIONS)
def test_weights_are_told_of(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"--weights or {VARIABLE}.*convert_features"):
        extractor(name)
    with pytest.raises(FileNotFoundError, match=r"inception\.npz.*convert_features"):
        extractor(name, tmp_path)


def test_weights_come_by_folder_file_or_environment(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = extractor("inception_tf", str(folder / "inception.npz"))
    assert first.sha256 == "0" * 64
    monkeypatch.setenv(VARIABLE, str(folder))
    second = extractor("inception_clean")
    assert first != second, "another preparation, other numbers"
    chex.assert_trees_all_equal(first.variables, second.variables)
    bias = second.variables["params"]["Mixed_5b"]["branch1x1"]["bias"]
    np.testing.assert_allclose(bias, 1 - 1 / np.sqrt(1.001), atol=1e-7)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    made = weights.Weights("dinov2_vits14", {"a": np.zeros(1)}, "a.pth", "0" * 64)
    weights.save(tmp_path / "inception.npz", made)
    with pytest.raises(ValueError, match="dinov2_vits14"):
        extractor("inception_tf", tmp_path)
