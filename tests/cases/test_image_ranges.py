"""Floats in [-1, 1] and bytes are one picture; whatever is neither is refused in a line."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jaxdiff as jd
from jaxdiff.analysis import image_grid
from jaxdiff.data import Pixels, pixel_values
from jaxdiff.evaluation import memorization

BYTES = np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), np.uint8)
FLOATS = BYTES / np.float32(127.5) - 1

WRONG = {
    "0 to 255 as floats": (BYTES.astype(np.float32), r"got floats from 0 to 255. Scale"),
    "integers": (BYTES.astype(np.int64), "got int64: convert"),
    "bool": (BYTES > 9, "got bool: convert"),
    "complex": (FLOATS * 1j, "got complex64"),
    "nan": (np.where(BYTES > 9, FLOATS, np.nan), "not finite"),
    "inf": (np.where(BYTES > 9, FLOATS, np.inf), "not finite"),
    "text": (np.full((2, 8, 8, 1), "a"), "got <U1"),
}
SHAPES = {
    "no images": BYTES[:0],
    "one image": BYTES[0, ..., 0],
    "latents": np.zeros((2, 8, 8, 4), np.float32),
    "without channels": BYTES[..., 0],
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, jnp.bfloat16])
def test_every_byte_survives_the_way_to_floats_and_back(dtype: Any) -> None:
    every = np.arange(256, dtype=np.uint8)
    back = pixel_values.to_uint8(pixel_values.to_float(every).astype(dtype))
    # a byte is 2^-7 wide: bfloat16, with an ulp of 2^-8 near 1, rounds some to the next
    apart = 1 if dtype == jnp.bfloat16 else 0
    np.testing.assert_allclose(back.astype(int), every, rtol=0, atol=apart)


@pytest.mark.parametrize("images", [FLOATS, jnp.asarray(FLOATS)])
def test_floats_are_saved_as_the_bytes_they_stand_for(images: Any, tmp_path: Path) -> None:
    image_grid.save_grid(str(tmp_path / "bytes.png"), BYTES)
    image_grid.save_grid(str(tmp_path / "floats.png"), images)
    saved = [np.asarray(Image.open(tmp_path / f"{n}.png")) for n in ("bytes", "floats")]
    np.testing.assert_array_equal(saved[0], saved[1])
    side = 64 + image_grid.GAP
    np.testing.assert_array_equal(saved[1][side + 2 : 2 * side, 2:66], BYTES[3])


def test_samples_that_overshoot_are_clipped() -> None:
    pixels = np.array([-1.7, -1.0, 0.0, 1.0, 2.0], np.float32)
    assert pixel_values.to_uint8(pixels).tolist() == [0, 0, 128, 255, 255]


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("saves", ["grid", "save_grid", "show", "to_float", "to_uint8"])
def test_what_is_no_picture_is_refused(name: str, saves: str, tmp_path: Path) -> None:
    wrong, message = WRONG[name]
    path = tmp_path / "x.png"
    take = {
        "grid": image_grid.grid,
        "save_grid": lambda images: image_grid.save_grid(path, images),
        "show": jd.show,
        "to_float": pixel_values.to_float,
        "to_uint8": pixel_values.to_uint8,
    }[saves]
    with pytest.raises(ValueError, match=message) as error:
        take(wrong)
    assert "\n" not in str(error.value)
    assert not path.exists()


@pytest.mark.parametrize("name", SHAPES)
def test_other_shapes_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"images are \[N, H, W, C\].* got shape") as error:
        image_grid.grid(SHAPES[name])
    assert ("decode latents" in str(error.value)) == (name == "latents")


def test_siblings_go_through_the_same_converter() -> None:
    """Samples of a run, and the points that copies are looked for among."""
    np.testing.assert_array_equal(Pixels().decode(FLOATS), BYTES)
    np.testing.assert_array_equal(
        memorization.flat(BYTES[:, ::8, ::8]), FLOATS[:, ::8, ::8].reshape(6, -1)
    )
    with pytest.raises(ValueError, match="not finite"):
        Pixels().decode(np.full((1, 8, 8, 1), np.nan, np.float32))
