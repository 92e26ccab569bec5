"""DINOv2 against the reference's own outputs, and the preparation of its images."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.evaluation.extractors import dinov2

FOLDER = Path(__file__).parent / "golden" / "formats"
TINY = dinov2.DINOv2(width=48, depth=2, heads=3)


def state_dict() -> dict[str, np.ndarray]:
    """The tiny network's tensors, in the order of their names here."""
    files = [np.load(path) for path in FOLDER.glob("dinov2_tiny*.npz")]
    tensors = {n.removeprefix("w/"): f[n] for f in files for n in f if n.startswith("w/")}
    return {name: tensors.pop(name) for name in dinov2.shapes(TINY)} | tensors


@pytest.mark.parametrize("size", ["small", "base", "large"])
def test_names_and_shapes_are_the_hub_s(size: str) -> None:
    stored = json.loads((FOLDER / f"dinov2_vit_{size}14_keys.json").read_text())
    shapes = dinov2.shapes(dinov2.NETWORKS[f"dinov2_vit{size[0]}14"])
    assert list(shapes.items()) == [(name, tuple(shape)) for name, shape in stored.items()]


@pytest.mark.parametrize("network", [dinov2.NETWORKS["dinov2_vits14"], TINY])
def test_a_state_dict_is_the_network_s_variables(network: dinov2.DINOv2) -> None:
    flat = {n: np.broadcast_to(np.float16(0), s) for n, s in dinov2.shapes(network).items()}
    x = jax.ShapeDtypeStruct((1, 224, 224, 3), np.float32)
    expected = jax.eval_shape(network.init, jax.random.key(0), x)
    variables = dinov2.tree(flat)
    types = lambda tree: jax.tree.map(lambda a: (a.shape, a.dtype), tree)
    assert types(variables) == types(expected)


def test_the_network_against_the_reference() -> None:
    """Class tokens of raw images; float32's rounding through two blocks is 2e-6."""
    golden, flat = np.load(FOLDER / "dinov2_tiny.npz"), state_dict()
    assert {n: a.shape for n, a in flat.items()} == dinov2.shapes(TINY)
    compute = jax.jit(lambda v, x: TINY.apply(v, dinov2.prepare(x)))
    features, expected = compute(dinov2.tree(flat), golden["x"]), golden["cls"]
    rms = np.sqrt(np.mean(expected**2))
    np.testing.assert_allclose(features, expected, rtol=0, atol=1e-5 * rms)


def test_positions_against_torch() -> None:
    golden = np.load(FOLDER / "dinov2_posembed.npz")
    grid = jnp.asarray(golden["pos"].transpose(0, 2, 3, 1))
    positions = dinov2.positions(grid, 16).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(positions, golden["out_scale_factor"], rtol=0, atol=1e-5)
    assert dinov2.positions(grid, 37) is grid


@pytest.mark.parametrize("image", ["0", "1"])
@pytest.mark.parametrize(
    ("preparation", "output", "tolerance"),
    [("edm2", "out_224_sub7", 1e-4), ("dgm", "out_pil_224_sub7", 1e-6)],
)
def test_preparations_against_edm2(
    image: str, preparation: str, output: str, tolerance: float
) -> None:
    """torch resizes with weights in float32, off by up to 0.003 of 255; PIL's are exact."""
    golden = np.load(FOLDER / "dinov2_prepared.npz")
    blocks = golden[f"dino/{image}/in_blocks8"].transpose(0, 2, 3, 1)
    prepared = dinov2.prepare(blocks.repeat(8, 1).repeat(8, 2), preparation)
    assert prepared.shape == (1, 224, 224, 3)
    expected = golden[f"dino/{image}/{output}"].transpose(0, 2, 3, 1)
    np.testing.assert_allclose(prepared[:, ::7, ::7], expected, rtol=0, atol=tolerance)


def test_the_preparations_differ() -> None:
    """Floats overshoot at an edge between 0 and 255, and PIL's bytes cannot."""
    image = np.zeros((1, 64, 64, 3), np.uint8)
    image[:, 32:] = 255
    white = [(1 - mean) / std for mean, std in zip(dinov2.MEAN, dinov2.STD, strict=True)]
    assert (dinov2.prepare(image, "edm2").max((0, 1, 2)) > np.array(white) + 0.1).all()
    np.testing.assert_allclose(
        dinov2.prepare(image, "dgm").max((0, 1, 2)), white, rtol=1e-6
    )


def test_images_of_the_network_s_own_size_are_not_resized() -> None:
    image = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3)).astype(np.uint8)
    prepared = [dinov2.prepare(image, name) for name in dinov2.PREPARATIONS]
    np.testing.assert_array_equal(*prepared)
    pixels = (prepared[0] * np.array(dinov2.STD) + np.array(dinov2.MEAN)) * 255
    np.testing.assert_allclose(pixels, image, rtol=0, atol=1e-3)


def test_an_unknown_preparation_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown preparation 'tf'; known are edm2, dgm"):
        dinov2.prepare(np.zeros((1, 8, 8, 3), np.uint8), "tf")
