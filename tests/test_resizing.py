"""Resizing against the protocols' own numbers, against Pillow, and against polynomials."""

from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from jaxdiff.evaluation.extractors import resizing
from jaxdiff.evaluation.extractors.resizing import (
    Area,
    Cubic,
    ResizingKernel,
    Triangle,
    matrix,
    resize,
)

GOLDEN = Path(__file__).parent / "golden" / "features"
KERNELS = {
    "tf1_bilinear": resizing.TF1_BILINEAR,
    "torch_bilinear": resizing.BILINEAR,
    "torch_bilinear_aa": resizing.BILINEAR_ANTIALIASED,
    "torch_bicubic": resizing.BICUBIC,
    "torch_bicubic_aa": resizing.BICUBIC_ANTIALIASED,
    "pil_bicubic_f32": resizing.BICUBIC_ANTIALIASED,
    "pil_bilinear_u8": resizing.PIL_BILINEAR,
    "pil_bicubic_u8": resizing.PIL_BICUBIC,
}
PROFILES = (Triangle(), Cubic(-0.5), Cubic(-0.75), Area())


def golden(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / f"{name}.npz") as file:
        return dict(file)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("case", ["up8_13", "down32_24", "up32_75", "down64_19"])
def test_kernel_is_the_protocols(case: str, name: str) -> None:
    arrays = golden(f"resize_{case}")
    seen = resize(arrays["x"], int(arrays["size"]), KERNELS[name])
    assert seen.dtype == arrays[name].dtype
    # of 0..255; torch's antialiased weights are float32, whose positions move it by 3e-4
    error = 0 if seen.dtype == np.uint8 else 4e-4
    np.testing.assert_allclose(seen.astype(float), arrays[name], rtol=0, atol=error)


def test_position_embedding_keeps_its_ratio() -> None:
    arrays = golden("dinov2_posembed")
    x = arrays["pos"].transpose(0, 2, 3, 1)
    for name, ratio in (("out_scale_factor", 37 / 16.1), ("out_size", None)):
        seen = resize(x, 16, resizing.BICUBIC, ratio).transpose(0, 3, 1, 2)
        # float32 rounding of values up to 3.5
        np.testing.assert_allclose(seen, arrays[name], rtol=0, atol=4e-6)


@pytest.mark.parametrize("how", ["BILINEAR", "BICUBIC"])
@pytest.mark.parametrize(
    "sizes", [((9, 14), (23, 5)), ((40, 31), (8, 31)), ((5, 6), (6, 1))]
)
def test_fixed_point_is_pillows(
    sizes: tuple[tuple[int, int], tuple[int, int]], how: str
) -> None:
    (h, w), (height, width) = sizes
    x = np.random.default_rng(h).integers(0, 256, (1, h, w, 3), np.uint8)
    x[:, ::2, ::3] = 255 * (x[:, ::2, ::3] > 127)  # overshoot is clipped
    done = Image.fromarray(x[0]).resize((width, height), getattr(Image.Resampling, how))
    seen = resize(x, (height, width), getattr(resizing, f"PIL_{how}"))
    np.testing.assert_array_equal(seen[0], done)


@pytest.mark.parametrize("profile", PROFILES, ids=repr)
@pytest.mark.parametrize("antialias", [False, True])
def test_constants_and_equal_sizes_stay(profile: Triangle, antialias: bool) -> None:
    kernel = ResizingKernel(profile, antialias)
    for source, size in ((7, 19), (19, 7), (16, 4)):
        np.testing.assert_allclose(matrix(kernel, source, size).sum(1), 1, rtol=1e-14)
    np.testing.assert_allclose(matrix(kernel, 9, 9), np.eye(9), atol=1e-14)


@pytest.mark.parametrize(
    ("kernel", "degree"),
    [
        (ResizingKernel(Triangle(), antialias=True), 1),
        (ResizingKernel(Area(), antialias=True), 1),
        (ResizingKernel(Cubic(-0.5), antialias=True), 2),
        (ResizingKernel(Cubic(-0.5)), 2),
    ],
)
def test_polynomials_are_interpolated(kernel: ResizingKernel, degree: int) -> None:
    source, size = 20, 50
    x, y = np.arange(source), (np.arange(size) + 0.5) * source / size - 0.5
    inside = slice(6, -6)
    # positions in float32 move a quadratic by 1e-6 * its slope
    error = 1e-12 if kernel.antialias else 1e-4
    seen = matrix(kernel, source, size) @ x**degree
    np.testing.assert_allclose(seen[inside], (y**degree)[inside], rtol=0, atol=error)


@pytest.mark.parametrize("source", [8, 20, 64, 75])
def test_area_counts_every_pixel_alike(source: int) -> None:
    weights = matrix(resizing.AREA, source, 8)
    np.testing.assert_allclose(weights.sum(0), 8 / source, rtol=1e-13)
    if source % 8 == 0:
        blocks = np.kron(np.eye(8), np.ones(source // 8)) * 8 / source
        np.testing.assert_allclose(weights, blocks, atol=1e-15)


def test_resizing_is_separable_and_traced(x64: None) -> None:
    x = np.random.default_rng(0).standard_normal((2, 6, 9, 3))
    seen = jax.jit(lambda x: resize(x, (4, 11), resizing.TF1_BILINEAR))(x)
    rows, columns = (matrix(resizing.TF1_BILINEAR, *s) for s in ((6, 4), (9, 11)))
    expected = np.einsum("pi,qj,bijc->bpqc", rows, columns, x)
    np.testing.assert_allclose(seen, expected, rtol=0, atol=1e-14)


def test_what_cannot_be_resized_is_refused() -> None:
    x = np.zeros((1, 4, 4, 3), np.float32)
    with pytest.raises(ValueError, match="resize uint8 images, got float32"):
        resize(x, 2, resizing.PIL_BICUBIC)
    with pytest.raises(ValueError, match="at least 1, got 4 -> 0"):
        resize(x, 0, resizing.BILINEAR)
