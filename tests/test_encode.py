"""Latents of images as records: what the VAE makes of each, whatever happened."""

import dataclasses
import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

from jaxdiff.config import expressions
from jaxdiff.data import (
    Folder,
    LatentRecords,
    Synthetic,
    VAELatents,
    encode,
    prepare,
    statistics,
    vae,
)
from jaxdiff.data.formats import shards
from jaxdiff.runtime import sharding
from jaxdiff.types import Source
from tests.cases.commands import run
from tests.model_goldens import vae_folder

pytest.importorskip("array_record", reason='needs pip install "jaxdiff[records]"')
IMAGES = Synthetic((16, 16, 3), labels=5, count=11)
RAW = VAELatents((0.0,) * 4, (1.0,) * 4, 1.0)
"""x0 in the VAE's own units."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return vae_folder(tmp_path_factory.mktemp("vae") / "toy")


@pytest.fixture(scope="module")
def opened(folder: Path) -> vae.VAE:
    return vae.load(folder, batch=2)


def make(out: Path, opened: vae.VAE, **how: Any) -> prepare.Prepared:
    return encode.encode(IMAGES, opened, out, shard_size=4, progress=False, **how)


def bytes_of(out: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in out.iterdir()}


def stored(out: Path) -> tuple[np.ndarray, np.ndarray]:
    dataset = LatentRecords(str(out), 8, RAW).load()
    rows = dataset.take(np.arange(len(dataset)))
    return rows["image"], rows["label"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, opened: vae.VAE) -> Path:
    out = tmp_path_factory.mktemp("made") / "latents"
    done = make(out, opened)
    assert (done.header.count, done.skipped, done.kept) == (11, 0, 0)
    return out


def test_records_are_mean_and_std_of_each_image(made: Path, opened: vae.VAE) -> None:
    source = IMAGES.load().take(np.arange(11))
    mean, std = opened.encode(source["image"])
    image, label = stored(made)
    assert image.dtype == np.float32
    np.testing.assert_allclose(image, np.concatenate([mean, std], -1), atol=3e-6)
    np.testing.assert_array_equal(label, source["label"])
    assert LatentRecords(str(made), 8).classes == IMAGES.classes


def test_latents_that_are_not_there_or_not_whole_are_to_be_encoded(
    made: Path, tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError, match=r"of latents with jaxdiff encode"):
        LatentRecords(str(tmp_path), 8).load()
    part = tmp_path / "part"
    shutil.copytree(made, part)
    header = shards.read_header(part)
    header = dataclasses.replace(header, shards=header.shards[:1])
    (part / shards.HEADER).write_bytes(shards.dumps(header))
    with pytest.raises(ValueError, match="has 1 of 3 shards: give the command"):
        LatentRecords(str(part), 8).load()


def test_devices_change_no_byte(made: Path, opened: vae.VAE, tmp_path: Path) -> None:
    assert len(jax.devices()) > 1
    make(tmp_path / "one", opened, mesh=sharding.data_mesh(jax.devices()[:1]))
    assert bytes_of(tmp_path / "one") == bytes_of(made)


class Killed(BaseException):
    """As a kill is: nothing catches it."""


def killed(monkeypatch: pytest.MonkeyPatch, name: str, calls: int) -> None:
    """Stops the process, as it were, in one of `prepare`'s functions after some calls."""
    real, count = getattr(prepare, name), iter(range(10**6))

    def dying(*args: Any, **kwargs: Any) -> Any:
        if next(count) == calls:
            raise Killed
        return real(*args, **kwargs)

    monkeypatch.setattr(prepare, name, dying)


@pytest.mark.parametrize(
    ("name", "calls"),
    [("_keep", 0), ("write", 0), ("_keep", 1), ("write", 1), ("_keep", 2), ("_keep", 3)],
)
def test_what_was_killed_goes_on_to_the_same_bytes(
    made: Path, opened: vae.VAE, name: str, calls: int, tmp_path: Path
) -> None:
    """Before each file takes its name: a header, a shard, the header that counts it."""
    with pytest.MonkeyPatch.context() as patch:
        killed(patch, name, calls)
        with pytest.raises(Killed):
            make(tmp_path / "out", opened)
    if tmp_path.joinpath("out").exists():  # as a process that wrote a shard leaves it
        (tmp_path / "out" / "tmp0123").write_bytes(b"half of a shard")
    if name == "_keep" and calls == 0:
        (tmp_path / "out").mkdir(exist_ok=True)
        for path in (tmp_path / "out").iterdir():
            path.unlink()
    make(tmp_path / "out", opened)
    assert bytes_of(tmp_path / "out") == bytes_of(made)


def test_a_kill_within_a_shard_leaves_those_before_it(
    opened: vae.VAE, made: Path, tmp_path: Path
) -> None:
    real, count = encode.Run.read, iter(range(10**6))

    def dying(self: encode.Run, number: int) -> Any:
        if number == 6:
            raise Killed
        next(count)
        return real(self, number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encode.Run, "read", dying)
        with pytest.raises(Killed):
            make(tmp_path / "out", opened)
    assert len(shards.read_header(tmp_path / "out").shards) == 1
    assert make(tmp_path / "out", opened).kept == 1
    assert bytes_of(tmp_path / "out") == bytes_of(made)


def test_a_draw_is_of_its_image_and_seed(
    made: Path, opened: vae.VAE, tmp_path: Path
) -> None:
    """mean + std eps with eps of N(0, 1), another by seed, none left to draw."""
    make(tmp_path / "3", opened, seed=3)
    make(tmp_path / "4", opened, seed=4)
    (mean, std), (x, zero) = (
        np.split(stored(out)[0], 2, axis=-1) for out in (made, tmp_path / "3")
    )
    assert not zero.any()
    eps = (x - mean) / std
    one = jax.random.normal(jax.random.fold_in(jax.random.key(3), 10), (8, 8, 4))
    np.testing.assert_allclose(eps[10], one, atol=1e-3)
    assert abs(eps.mean()) < 5 / np.sqrt(eps.size)
    assert abs(eps.std() - 1) < 5 / np.sqrt(2 * eps.size)
    other = (stored(tmp_path / "4")[0][..., :4] - mean) / std
    assert abs(np.corrcoef(eps.ravel(), other.ravel())[0, 1]) < 5 / np.sqrt(eps.size)


def test_mirrored_images_follow_the_others(
    made: Path, opened: vae.VAE, tmp_path: Path
) -> None:
    """With the labels of the images that they are of; encoded, and not mirrored latents."""
    assert make(tmp_path / "both", opened, mirrored=True).header.count == 22
    (images, labels), (alone, expected) = stored(tmp_path / "both"), stored(made)
    np.testing.assert_array_equal(labels, np.tile(expected, 2))
    np.testing.assert_allclose(images[:11], alone, atol=3e-6)
    source = IMAGES.load().take(np.arange(11))["image"]
    mean, std = opened.encode(source[:, :, ::-1])
    np.testing.assert_allclose(images[11:], np.concatenate([mean, std], -1), atol=3e-6)
    assert np.abs(images[11:] - images[:11]).max() > 0.1


@pytest.mark.parametrize(
    ("how", "complaint"),
    [
        ({"mirrored": True}, "mirrored is None there, True here"),
        ({"seed": 1}, "latents is 'mean and std' there, 'dr"),
        ({"dtype": "float16"}, "dtype is 'float32' there, 'float16' here"),
    ],
)
def test_other_settings_need_another_folder(
    made: Path, opened: vae.VAE, how: dict[str, Any], complaint: str
) -> None:
    before = bytes_of(made)
    with pytest.raises(ValueError, match=complaint) as caught:
        make(made, opened, **how)
    assert "\n" not in str(caught.value)
    assert bytes_of(made) == before


def test_another_vae_needs_another_folder(made: Path, folder: Path) -> None:
    with pytest.raises(ValueError, match="vae_low is -1 there, 0 here"):
        make(made, vae.load(folder, 0, batch=2))


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (LatentRecords("there", 8), "has latents already: name a source of images"),
        (Synthetic((16, 8, 3), labels=2), "records hold squares"),
        (Synthetic((16, 16, 1), labels=2), "images of 3 channels, and these have 1"),
        (Synthetic((17, 17, 3), labels=2), "a size that 2 divides, such as 16"),
    ],
)
def test_data_that_cannot_be_encoded(
    data: Any, complaint: str, opened: vae.VAE, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=complaint) as caught:
        encode.encode(data, opened, tmp_path / "out", progress=False)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("JAXDIFF_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("scaling", encode.SCALINGS)
def test_statistics_are_where_training_finds_them(
    scaling: str, made: Path, folder: Path, opened: vae.VAE, cache: None
) -> None:
    """As `measure` finds them by reading all; of `measured` 0 and 0.5."""
    data, raw = encode.records(made, opened, folder, scaling, progress=False)
    dataset = data.load()
    kept, again = (
        statistics.stored(data, dataset),
        statistics.measure(dataset, data.encoder),
    )
    for actual, expected in ((kept.mean, again.mean), (kept.std, again.std)):
        np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-12)
    image, _ = stored(made)
    mean, std = np.split(image.astype(float), 2, axis=-1)
    np.testing.assert_allclose(raw.mean, mean.mean((0, 1, 2)), atol=1e-12)
    spread = mean.var((0, 1, 2)) + (std**2).mean((0, 1, 2))
    np.testing.assert_allclose(np.square(raw.std), spread, rtol=1e-9)
    if scaling == "measured":
        np.testing.assert_allclose(kept.mean, 0, atol=1e-12)
        np.testing.assert_allclose(kept.std, 0.5, rtol=1e-9)


def test_edm2s_scaling_needs_four_channels(folder: Path, tmp_path: Path) -> None:
    other = vae_folder(tmp_path / "other")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encode, "PUBLISHED", VAELatents((0.0,) * 16, (1.0,) * 16))
        with pytest.raises(ValueError, match=r"of 16 channels, and .* a VAE of 4: use"):
            encode.opened(other, "edm2")
    assert encode.opened(folder, "edm2").low == 0
    assert encode.opened(folder, "ldm").low == -1


def test_the_command(folder: Path, tmp_path: Path, cache: None) -> None:
    """Photos of any size, one of them damaged, to records, the line to train on them."""
    photos = tmp_path / "photos"
    photos.mkdir()
    draw = np.random.default_rng(0)
    for i in range(5):
        pixels = draw.integers(0, 256, (20 + i, 24, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(photos / f"{i}.jpg")
    (photos / "3.jpg").write_bytes((photos / "3.jpg").read_bytes()[:300])
    line = ("encode", f"--images={photos}", "--size=16", f"--vae={folder}")
    line += (f"--out={tmp_path / 'out'}", "--shard_size=2")
    refused = run(*line)
    assert refused.status == 1
    assert "3.jpg" in refused.err.splitlines()[-1]
    done = run(*line, "--on_error=skip", f"--out={tmp_path / 'some'}")
    assert done.status == 0, done.err
    assert "4 records" in done.out
    assert "1 images could not be read" in done.out
    text = done.out.splitlines()[-1].strip()
    data = expressions.parse(text, Source)
    assert len(data.load()) == 4
    images = Folder(str(photos), 16).load().source
    expected, _ = vae.load(folder).encode(images[4]["image"][None])
    np.testing.assert_allclose(
        stored(tmp_path / "some")[0][3, ..., :4], expected[0], atol=1e-5
    )
    again = run(*line, "--on_error=skip", f"--out={tmp_path / 'some'}", "--seed=0")
    assert again.status == 1
    assert "records of another kind (latents is 'mean and std' there" in again.err
