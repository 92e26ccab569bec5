"""Noise is noise, and mirroring mirrors half of the images, each from the step's key."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.data import CIFAR10, Digits, Pixels, Synthetic, batches, encoder_of


def test_noise_is_uniform_and_every_image_another() -> None:
    dataset = Synthetic((16, 24, 3), labels=7, count=300).load()
    rows = dataset.take(np.arange(300))
    assert rows["image"].shape == (300, 16, 24, 3)
    assert rows["label"].tolist() == [i % 7 for i in range(300)]
    assert len({image.tobytes() for image in rows["image"]}) == 300
    counts = np.bincount(rows["image"].ravel(), minlength=256)
    expected = rows["image"].size / 256  # chi-squared, 255 degrees: 350 at p = 1e-4
    assert ((counts - expected) ** 2 / expected).sum() < 350


def test_noise_is_a_function_of_the_number() -> None:
    word = int(np.random.Philox(key=5).random_raw())
    image = Synthetic((1, 8, 1), labels=0).load().source[5]
    assert image["image"].ravel().tolist() == list(word.to_bytes(8, "little"))
    assert image["label"] == -1
    with pytest.raises(IndexError, match="no image 3 among 3"):
        Synthetic(count=3).load().source[3]


def test_noise_is_read_as_batches() -> None:
    batch = next(batches(Synthetic((5, 5, 1), count=10).load(), 4, 0))
    assert batch["image"].dtype == np.uint8
    assert batch["label"].dtype == np.int32


@pytest.mark.parametrize(
    "wrong", [{"shape": (8, 0, 3)}, {"count": 0}, {"labels": -1}], ids=str
)
def test_no_noise_of_no_size(wrong: dict) -> None:
    with pytest.raises(ValueError, match=r"must be a whole number from [01] to"):
        Synthetic(**wrong)


def test_half_of_all_images_are_mirrored_whole() -> None:
    stored = jnp.asarray(Synthetic((4, 6, 3)).load().take(np.arange(1000))["image"])
    plain = np.asarray(Pixels().encode(jax.random.key(0), stored))
    encoded = np.asarray(Pixels(flip=True).encode(jax.random.key(0), stored))
    as_it_is = (encoded == plain).all((1, 2, 3))
    mirrored = (encoded == plain[:, :, ::-1]).all((1, 2, 3))
    assert (as_it_is ^ mirrored).all()
    assert abs(mirrored.mean() - 0.5) < 4 * 0.5 / np.sqrt(1000)
    again = np.asarray(Pixels(flip=True).encode(jax.random.key(1), stored))
    assert (again != encoded).any()


def test_mirrored_pixels_are_pixels() -> None:
    flipped, plain = CIFAR10("x", flip=True), CIFAR10("x")
    assert (encoder_of(flipped).flip, encoder_of(plain).flip) == (True, False)
    assert encoder_of(flipped) == encoder_of(Digits()) == Pixels()  # what is stored
    assert flipped != plain
