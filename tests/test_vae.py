"""The VAE in use: bytes <-> latents against the golden network, whatever the batches."""

import dataclasses
import json
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.config import differences, from_config, from_dict, to_dict
from jaxdiff.data import LatentRecords, Latents, VAELatents, statistics, vae
from jaxdiff.runtime import sharding
from jaxdiff.runtime.finite import NotFiniteError
from tests.model_goldens import cast, golden, vae_folder
from tests.system.tiny import get_config


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return vae_folder(tmp_path_factory.mktemp("vae") / "toy")


def pictures(count: int, side: int = 16) -> np.ndarray:
    draw = np.random.default_rng(0)
    return draw.integers(0, 256, (count, side, side, 3)).astype(np.uint8)


def near(images: np.ndarray, share: np.ndarray) -> None:
    """Bytes are 255 times a share of [0, 1], rounded; float32 may tip a half over."""
    exact = 255 * np.clip(share, 0, 1)
    assert images.dtype == np.uint8
    assert np.abs(images - exact).max() < 0.501
    assert np.ptp(images) > 60


@pytest.mark.parametrize("low", [-1, 0])
def test_published_latents_become_the_published_images(folder: Path, low: int) -> None:
    g = golden("vae_a")
    images = vae.load(folder, low).decode(g.nhwc("latent").astype(np.float32))
    near(images, (g.nhwc("decoded_f64") - low) / (1 - low))


def test_bytes_are_encoded_as_the_network_does(folder: Path) -> None:
    """Black is `low`, white 1; by the network in float64, whose numbers are published."""
    images, lows = pictures(2), (-1, 0)
    opened = [vae.load(folder, low) for low in lows]
    with jax.enable_x64(True):
        x = np.concatenate([low + (1 - low) * (images / 255) for low in lows])
        apply = opened[0].network.clone(dtype="float64").apply
        exact = jax.jit(apply, static_argnames="method")
        variables = cast(opened[0].variables, "float64")
        expected, logvar = exact(variables, jnp.asarray(x), method="encode")
    both = zip(*(v.encode(images) for v in opened), strict=True)
    mean, std = map(np.concatenate, both)
    assert mean.dtype == std.dtype == np.float32
    np.testing.assert_allclose(mean, expected, atol=2e-5 * np.abs(expected).max())
    np.testing.assert_allclose(std, np.exp(logvar / 2), rtol=1e-4)


def test_neither_batch_nor_devices_change_an_image(folder: Path) -> None:
    """The same batch on another mesh gives the same bits; another batch may round."""
    one, two = (sharding.data_mesh(jax.devices()[:n]) for n in (1, 2))
    images, opened = pictures(5), vae.load(folder, batch=2)
    mean, std = opened.encode(images, one)
    for actual, same in zip(opened.encode(images, two), (mean, std), strict=True):
        np.testing.assert_array_equal(actual, same)
    np.testing.assert_array_equal(opened.decode(mean, two), opened.decode(mean, one))
    alone = vae.load(folder, batch=1)
    for actual, expected in zip(alone.encode(images, one), (mean, std), strict=True):
        np.testing.assert_allclose(actual, expected, atol=3e-6)
    away = alone.decode(mean, one).astype(int) - opened.decode(mean, one)
    assert np.abs(away).max() <= 1


def test_memory_is_that_of_a_batch(folder: Path) -> None:
    """64 images hold no more on a device than `at_once` of them, here 2."""
    opened, seen = vae.load(folder, batch=2), []
    mesh = sharding.data_mesh(jax.devices()[:2])

    def call(_: object, rows: jax.Array) -> jax.Array:
        seen.append(rows.shape)
        return rows

    parts = [*opened._batches(call, np.zeros((64, 8, 8, 4)), {}, mesh, opened.batch)]
    assert set(seen) == {(4, 8, 8, 4)}
    assert [start for start, _ in parts] == list(range(0, 64, 4))
    assert vae.load(folder).at_once((256, 256, 3)) == 1
    assert vae.load(folder).at_once((1024, 1024, 3)) == 1


def test_bfloat16_is_near(folder: Path) -> None:
    latents = golden("vae_a").nhwc("latent").astype(np.float32)
    exact = vae.load(folder).decode(latents).astype(int)
    away = np.abs(vae.load(folder, dtype="bfloat16").decode(latents) - exact)
    assert 0 < away.max() < 16
    assert away.mean() < 2


def test_images_that_are_not_finite_are_named(folder: Path) -> None:
    latents = np.zeros((3, 4, 4, 4), np.float32)
    latents[1, 0, 0, 0] = np.inf
    with pytest.raises(NotFiniteError, match=r"decoded images .*1"):
        vae.load(folder).decode(latents)


@pytest.mark.parametrize(
    ("shape", "complaint"),
    [
        ((16, 16, 1), "takes images of 3 channels, and these have 1: set data.channels"),
        (
            (15, 16, 3),
            "are 15 x 16, .* 2 times smaller: use a size that 2 divides, such as 14",
        ),
    ],
)
def test_images_that_do_not_suit_are_refused(
    folder: Path, shape: tuple[int, ...], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        vae.load(folder).encode(np.zeros((1, *shape), np.uint8))


# ----------------------------------------------------------------- as an encoder


def test_both_scalings_are_the_published_ones(folder: Path) -> None:
    """x0 = (latent - shift) factor [LDM], and latent scale + bias by channel [EDM2]."""
    latent = np.random.default_rng(0).normal(size=(2, 8, 8, 4)).astype(np.float32)
    points = jnp.concatenate([latent, 0 * latent], -1)
    ldm = VAELatents.ldm(1.5305, 0.0609)
    x0 = np.asarray(ldm.encode(jax.random.key(0), points))
    np.testing.assert_allclose(x0, (latent - 0.0609) * 1.5305, atol=1e-6)
    assert (ldm.vae_low, VAELatents().vae_low) == (-1, 0)
    for encoder in (VAELatents.ldm(vae=folder), VAELatents(vae=folder)):
        x0 = np.asarray(encoder.encode(jax.random.key(0), points))
        images = encoder.decode(x0)
        assert images.shape == (2, 16, 16, 3)
        expected = vae.load(folder, encoder.vae_low).decode(latent).astype(int)
        assert np.abs(images - expected).max() <= 1
        assert encoder.preview(images) is images
        assert encoder.image_shape((8, 8, 4)) == (16, 16, 3)
        mean, _ = vae.load(folder, encoder.vae_low).encode(images)
        again = np.asarray(encoder.of_images(images))
        exact = jnp.concatenate([mean, 0 * mean], -1)
        np.testing.assert_allclose(
            again, encoder.encode(jax.random.key(0), exact), atol=2e-6
        )


@pytest.mark.parametrize(
    ("name", "why"),
    [("", "no VAE is named"), ("nowhere/at/all", "no VAE at nowhere/at/all")],
)
def test_a_preview_says_why_it_is_one(name: str, why: str) -> None:
    encoder = VAELatents(vae=name)
    latents = encoder.decode(np.zeros((1, 8, 8, 4)))
    assert latents.dtype == np.float32
    with pytest.warns(UserWarning, match=f"previews of latents: .*{why}; set") as caught:
        assert encoder.preview(latents).dtype == np.uint8
    assert len(caught) == 1
    assert "\n" not in str(caught[0].message)


def test_nothing_becomes_latents_without_a_vae() -> None:
    assert VAELatents().image_shape((8, 8, 4)) is None
    with pytest.raises(ValueError, match="images cannot become latents: no VAE is named"):
        VAELatents().of_images(pictures(1))


def test_a_vae_with_other_channels_is_refused(folder: Path) -> None:
    grey = VAELatents((0.0,), (1.0,), vae=folder)
    with pytest.raises(
        ValueError, match=r"of 4 latent channels, and data\.encoder .* of 1"
    ):
        grey.decode(np.zeros((1, 8, 8, 1)))


def test_a_folder_that_is_no_vae_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no .*config\.json: name"):
        VAELatents(vae=tmp_path).decode(np.zeros((1, 8, 8, 4)))


def test_a_saved_encoder_of_before_is_read_and_equal() -> None:
    saved = {"type": "data.VAELatents", "mean": [1.0], "std": [2.0], "sigma_data": 0.5}
    assert from_dict(saved) == VAELatents((1.0,), (2.0,), vae="elsewhere", vae_low=-1)
    again = VAELatents((1.0,), (2.0,), vae=Path("here"), vae_dtype="bfloat16")
    read = from_dict(json.loads(json.dumps(to_dict(again))))
    assert (read.vae, read.vae_dtype) == ("here", "bfloat16")


def test_a_run_may_name_its_vae_later() -> None:
    tiny = from_config(get_config())

    data = Latents("a.npz", 8, VAELatents(sigma_data=0.75))
    there = dataclasses.replace(tiny, data=data)
    named = dataclasses.replace(
        there.data, encoder=VAELatents(sigma_data=0.75, vae="mine", vae_low=-1)
    )
    assert not differences(there, dataclasses.replace(there, data=named))
    assert statistics._name(there.data) == statistics._name(named)
    other = LatentRecords("a", 8, VAELatents(sigma_data=1.0))
    assert statistics._name(LatentRecords("a", 8)) != statistics._name(other)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"vae_low": 1}, "vae_low must be a whole number from -1 to 0, got 1"),
        ({"vae_dtype": "float16"}, "vae_dtype must be one of 'float32', 'bfloat16'"),
        ({"vae_batch": -1}, "vae_batch must be a whole number from 0"),
        ({"vae": 3}, "path-like|PathLike|a path"),
    ],
)
def test_wrong_fields_are_refused(fields: dict, complaint: str) -> None:
    with (
        warnings.catch_warnings(),
        pytest.raises((ValueError, TypeError), match=complaint),
    ):
        VAELatents(**fields)
