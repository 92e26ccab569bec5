"""Latents on disk, how they become x0, and the statistics of what they become."""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.data import (
    Dataset,
    Digits,
    Encoder,
    Latents,
    Pixels,
    VAELatents,
    batches,
    encoder_of,
    statistics,
    write_latents,
)
from jaxdiff.data.batches import Memory
from jaxdiff.data.statistics import Statistics, measure, measured

SIZE = 4
RAW_MEAN, RAW_STD = np.array([5.81, 3.25, 0.12, -2.15]), np.array([4.17, 4.62, 3.71, 3.28])
"""Of the raw latents of ImageNet-512, by channel, as published."""


def posteriors(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means, stds and labels of n latents."""
    draw = np.random.default_rng(seed)
    mean = draw.normal(RAW_MEAN, RAW_STD, (n, SIZE, SIZE, 4)).astype(np.float32)
    std = draw.uniform(0.5, 2, mean.shape).astype(np.float32)
    return mean, std, np.arange(n) % 3


def written(path: Path, n: int = 7, **settings: Any) -> Path:
    """A file of n latents, written in batches of 3."""
    mean, std, label = posteriors(n)
    parts = ((a[i : i + 3] for a in (mean, std, label)) for i in range(0, n, 3))
    write_latents(path, n, map(tuple, parts), progress=False, **settings)
    return path


def stored(n: int = 7) -> np.ndarray:
    mean, std, _ = posteriors(n)
    return np.concatenate([mean, std], axis=-1)


@pytest.mark.parametrize("encoder", [Pixels(), VAELatents()])
def test_encoders_are_values(encoder: Encoder) -> None:
    assert isinstance(encoder, Encoder)
    assert hash(encoder) == hash(type(encoder)())
    shape = encoder.stored((2, SIZE, SIZE, 4))
    one = jnp.ones(shape.shape, shape.dtype)
    x0 = jax.jit(encoder.encode)(jax.random.key(0), one)
    assert x0.shape == (2, SIZE, SIZE, 4)
    assert x0.dtype == jnp.float32
    preview = encoder.preview(encoder.decode(np.asarray(x0)))
    assert preview.dtype == np.uint8
    assert preview.shape[:3] == x0.shape[:3]


def test_pixels_round_and_clip() -> None:
    x = np.array([-2.0, -1.0, -1 + 1 / 255.5, 0.0, 1.0, 3.0], np.float32)
    decode = lambda x: Pixels().decode(np.asarray(x).reshape(-1, 1, 1, 1)).ravel()
    assert decode(x).tolist() == [0, 0, 0, 128, 255, 255]
    every = np.arange(256, dtype=np.uint8)
    x0 = Pixels().encode(jax.random.key(0), jnp.asarray(every).reshape(-1, 1, 1, 1))
    assert float(x0.min()) == -1
    assert float(x0.max()) == 1
    np.testing.assert_array_equal(decode(x0), every)


def test_a_posterior_without_spread_is_scaled_as_published() -> None:
    """x0 = mean scale + bias, scale = 0.5 / s, bias = -m scale, in float32."""
    mean, std, _ = posteriors(5)
    points = jnp.concatenate([mean, 0 * std], axis=-1)
    x0 = VAELatents().encode(jax.random.key(0), points)
    wanted = 0.5 * (mean.astype(float) - RAW_MEAN) / RAW_STD
    np.testing.assert_allclose(x0, wanted, atol=5e-7)
    raw = VAELatents().decode(np.asarray(x0))
    np.testing.assert_allclose(raw, mean, atol=4e-6)  # magnitudes up to 20
    assert raw.dtype == np.float32


def test_draws_have_the_posterior_mean_and_std() -> None:
    """40,000 draws: their mean within 5 standard errors, their std within 5 / sqrt(2 n)."""
    n = 40_000
    one = stored(1)
    many = jnp.asarray(np.broadcast_to(one, (n, *one.shape[1:])))
    x0 = np.asarray(VAELatents().encode(jax.random.key(3), many), np.float64)
    mean, std = np.split(one[0].astype(float), 2, axis=-1)
    std = 0.5 * std / RAW_STD
    error = np.abs(x0.mean(0) - 0.5 * (mean - RAW_MEAN) / RAW_STD) / (std / math.sqrt(n))
    assert error.max() < 5
    assert np.abs(x0.std(0) / std - 1).max() < 5 / math.sqrt(2 * n)
    between = np.corrcoef(x0[:, 0, 0, 0], x0[:, 0, 0, 1])[0, 1]
    assert abs(between) < 5 / math.sqrt(n)  # one eps an element, not one an image


def test_noise_is_a_function_of_the_key() -> None:
    encode, one = jax.jit(VAELatents().encode), jnp.asarray(stored(2))
    first, again, other = (encode(jax.random.key(k), one) for k in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).all()
    same = jnp.concatenate([one[:1], one[:1]])
    twice = encode(jax.random.key(0), same)
    assert (twice[0] != twice[1]).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mean": (1.0,)}, "one number for each channel, got 1 and 4"),
        ({"mean": (), "std": ()}, r"std must have 1 to 1,024 elements, got 0: \(\)"),
        (
            {"mean": (1.0, 2.0, 3.0, math.inf)},
            r"mean\[3\] must be a number from -1e\+15 to 1e\+15, got inf",
        ),
        (
            {"std": (1.0, 1.0, 0.0, 1.0)},
            r"std\[2\] must be a number above 0, at most 1e\+15, got 0.0",
        ),
        (
            {"sigma_data": -0.5},
            r"sigma_data must be a number above 0, at most 1e\+15, got -0.5",
        ),
    ],
)
def test_encoders_say_what_is_wrong(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VAELatents(**settings)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    data = Latents(str(written(tmp_path / "deep" / "a.npz")), size=SIZE)
    dataset = data.load()
    assert data.shape == (SIZE, SIZE, 4)
    assert data.classes == dataset.classes == ("0", "1", "2")
    assert len(dataset) == 7
    for i in range(7):
        row = dataset.source[i]
        np.testing.assert_array_equal(row["image"], stored()[i])
        assert row["label"] == i % 3
    with np.load(tmp_path / "deep" / "a.npz", allow_pickle=False) as file:
        np.testing.assert_array_equal(file["latents"], stored())
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["a.npz"]


def test_numpy_writes_what_is_read(tmp_path: Path) -> None:
    """A file by np.savez, half precision, named classes, and an image without a label."""
    path, label = tmp_path / "a.npz", np.array([1, -1, 0, 0, 1, 1, 0], np.int64)
    half = stored().astype(np.float16)
    np.savez(path, classes=["cat", "dog", "eel"], labels=label, latents=half)
    dataset = Latents(str(path), SIZE).load()
    assert dataset.classes == ("cat", "dog", "eel")
    batch = next(batches(dataset, 7, seed=0))
    assert batch["image"].dtype == np.float16
    assert sorted(batch["label"].tolist()) == sorted(label.tolist())
    assert {row.tobytes() for row in batch["image"]} == {row.tobytes() for row in half}


def test_nothing_but_what_is_asked_for_is_read(tmp_path: Path) -> None:
    path = written(tmp_path / "a.npz")
    latents = Latents(str(path), SIZE).load().source.latents
    assert not latents.flags.owndata  # it stands in the file
    assert not latents.flags.writeable
    np.testing.assert_array_equal(latents, stored())


def test_half_precision_and_classes_are_written(tmp_path: Path) -> None:
    path = written(tmp_path / "a.npz", dtype="float16", classes=("x", "y", "z"))
    dataset = Latents(str(path), SIZE).load()
    assert dataset.classes == ("x", "y", "z")
    np.testing.assert_array_equal(dataset.source[3]["image"], stored()[3].astype("f2"))


def changed(index: tuple, value: float) -> np.ndarray:
    array = stored()
    array[index] = value
    return array


LABELS = np.arange(7) % 3
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "size": ({"latents": stored()[:, 1:], "labels": LABELS}, r"ask for \[N, 4, 4, 8\]"),
    "channels": ({"latents": stored()[..., 1:], "labels": LABELS}, r"shape \(7, 4, 4, 7\)"),
    "images": ({"latents": stored()[:0], "labels": LABELS[:0]}, r"shape \(0, 4, 4, 8\)"),
    "bytes": ({"latents": stored().astype("u1"), "labels": LABELS}, "is uint8, not one of"),
    "no labels": ({"latents": stored()}, "no array 'labels' in it, it holds 'latents'"),
    "no latents": ({"labels": LABELS}, "no array 'latents' in it, it holds 'labels'"),
    "count": ({"latents": stored(), "labels": LABELS[1:]}, "one integer for each of the 7"),
    "kind": ({"latents": stored(), "labels": LABELS * 1.0}, "labels is float64"),
    "low": ({"latents": stored(), "labels": LABELS - 2}, "labels lie in -2 ... 0"),
    "classes": (
        {"latents": stored(), "labels": LABELS, "classes": ["a", "b"]},
        "labels lie in 0 ... 2, but must lie in -1 ... 1 for its 2 classes",
    ),
    "std nan": (
        {"latents": changed((3, 1, 2, 5), np.nan), "labels": LABELS},
        "latent 3 has a std of nan",
    ),
    "std": (
        {"latents": changed((6, 1, 2, 4), -1.0), "labels": LABELS},
        r"latent 6 has a std of -1\.0",
    ),
    "mean": (
        {"latents": changed((0, 0, 0, 3), np.inf), "labels": LABELS},
        "latent 0 has a mean that is not finite",
    ),
    "pickled": (
        {"latents": stored().astype(object), "labels": LABELS},
        "holds pickled objects, which are never read",
    ),
    "pickled labels": (
        {"latents": stored(), "labels": np.array([None] * 7)},
        "holds pickled objects, which are never read",
    ),
    "order": (
        {"latents": np.asfortranarray(stored()), "labels": LABELS},
        "Fortran order: use np.ascontiguousarray",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused_in_one_line(name: str, tmp_path: Path) -> None:
    arrays, message = BAD[name]
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=message) as caught:
        Latents(str(tmp_path / "a.npz"), SIZE).load()
    assert "\n" not in str(caught.value)
    assert "a.npz" in str(caught.value)


def test_a_bad_image_that_load_does_not_look_at_is_refused_when_read(
    tmp_path: Path,
) -> None:
    array = np.zeros((200, 1, 1, 2), np.float32)
    array[100, 0, 0, 1] = np.nan
    np.savez(tmp_path / "a.npz", latents=array, labels=np.zeros(200, int))
    one = VAELatents(mean=(0.0,), std=(1.0,))
    dataset = Latents(str(tmp_path / "a.npz"), 1, one).load()
    with pytest.raises(ValueError, match="latent 100 has a std of nan"):
        dataset.source[100]


def damaged(path: Path) -> Iterator[tuple[bytes, str]]:
    """Ways in which a file may be broken, and what is said of each."""
    whole = path.read_bytes()
    yield whole[: len(whole) // 2], "a zip without its end: truncated"
    yield b"", "the file is empty"
    start = whole.index(b"'shape': (7,") + len(b"'shape': (")
    yield (
        whole[:start] + b"9" + whole[start + 1 :],
        r"'latents.npy' has 3,712 bytes, which do not fit",
    )
    header = whole.index(b"{'descr'")
    yield whole[:header] + b"(" * 40 + whole[header + 40 :], "cannot be read"
    magic = whole.index(b"\x93NUMPY")
    yield whole[: magic + 6] + b"\x07" + whole[magic + 7 :], "cannot be read"


@pytest.mark.parametrize("way", range(5))
def test_damaged_files_are_refused_in_one_line(way: int, tmp_path: Path) -> None:
    path = written(tmp_path / "a.npz")
    content, message = list(damaged(path))[way]
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        Latents(str(path), SIZE).load()
    assert str(caught.value).startswith(str(path))


def test_compressed_and_missing_files_are_refused(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", latents=stored(), labels=LABELS)
    with pytest.raises(ValueError, match=r"'latents\.npy' is compressed: use np\.savez"):
        Latents(str(tmp_path / "a.npz"), SIZE).load()
    with pytest.raises(FileNotFoundError, match=r"there is no file .*b\.npz"):
        Latents(str(tmp_path / "b.npz"), SIZE).load()
    with pytest.raises(ValueError, match="path is empty"):
        Latents()
    with pytest.raises(
        ValueError, match="size must be a whole number from 1 to 16,384, got 0"
    ):
        Latents("a.npz", 0)


MEAN, STD, LABEL = posteriors(3)
REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "few": (lambda p: write_latents(p, 4, [(MEAN, STD, LABEL)]), "count is 4, .* hold 3"),
    "many": (lambda p: write_latents(p, 2, [(MEAN, STD, LABEL)]), "is 2, .* hold more"),
    "none": (lambda p: write_latents(p, 0, []), "no batches"),
    "shapes": (lambda p: write_latents(p, 3, [(MEAN, STD[:, 1:], LABEL)]), "have shapes"),
    "labels": (lambda p: write_latents(p, 3, [(MEAN, STD, LABEL[1:])]), "have shapes"),
    "size": (
        lambda p: write_latents(
            p, 6, [(MEAN, STD, LABEL), (MEAN[:, 1:], STD[:, 1:], LABEL)]
        ),
        "batch 1: .* have shapes",
    ),
    "nan": (
        lambda p: write_latents(p, 3, [(MEAN, STD * np.float32("nan"), LABEL)]),
        "batch 0 as float32 has a std of nan",
    ),
    "overflow": (
        lambda p: write_latents(p, 3, [(MEAN * 1e5, STD, LABEL)], dtype="float16"),
        "batch 0 as float16 has a mean that is not finite",
    ),
    "classes": (lambda p: write_latents(p, 3, [(MEAN, STD, LABEL)], ["a"]), "0 ... 2, but"),
    "dtype": (
        lambda p: write_latents(p, 3, [(MEAN, STD, LABEL)], dtype="float64"),
        "dtype must be one of .*, got 'float64'",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_written_leaves_nothing(name: str, tmp_path: Path) -> None:
    write, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        write(tmp_path / "a.npz")
    assert not list(tmp_path.iterdir())


def test_statistics_of_pixels_are_those_of_all_pixels() -> None:
    """Against NumPy over the whole array in float64."""
    data = Digits("test")
    dataset = data.load()
    statistics = measure(dataset, encoder_of(data))
    x0 = dataset.source.take(np.arange(300))["image"] / 127.5 - 1
    assert statistics.count == 300
    assert statistics.mean == pytest.approx((x0.mean(),), rel=1e-13)
    assert statistics.std == pytest.approx((x0.std(),), rel=1e-13)
    assert statistics.sigma_data == pytest.approx(x0.std(), rel=1e-13)


def test_statistics_of_channels_far_from_zero() -> None:
    """Blocks of unequal means, whose naive sums of squares would cancel."""
    image = np.random.default_rng(0).integers(0, 4, (150, 2, 2, 3)).astype(np.uint8)
    image += np.arange(150, dtype=np.uint8)[:, None, None, None]
    image[..., 2] = 255
    statistics = measure(Dataset(Memory(image, np.zeros(150, np.int32))), Pixels())
    x0 = image / 127.5 - 1
    np.testing.assert_allclose(statistics.mean, x0.mean((0, 1, 2)), rtol=1e-13)
    np.testing.assert_allclose(statistics.std, x0.std((0, 1, 2)), rtol=1e-13, atol=1e-15)
    assert statistics.sigma_data == pytest.approx(x0.std(), rel=1e-13)


def test_statistics_of_latents_count_the_spread_of_their_draws(tmp_path: Path) -> None:
    """The law of total variance; the float32 of the file is exact in float64."""
    data = Latents(str(written(tmp_path / "a.npz", 100)), SIZE)
    statistics = measure(data.load(), data.encoder)
    mean, std, _ = (np.asarray(a, np.float64) for a in posteriors(100))
    x0 = 0.5 * (mean - RAW_MEAN) / RAW_STD
    spread = ((0.5 * std / RAW_STD) ** 2).mean((0, 1, 2))
    np.testing.assert_allclose(statistics.mean, x0.mean((0, 1, 2)), atol=1e-14)
    variance = x0.var((0, 1, 2)) + spread
    np.testing.assert_allclose(statistics.std, np.sqrt(variance), rtol=1e-13)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("JAXDIFF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "statistics"


def test_statistics_are_kept_in_the_cache(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = Latents(str(written(tmp_path / "there" / "a.npz")), SIZE)
    assert statistics.stored(data) is None
    kept = measured(data)
    assert statistics.file_of(data).parent == cache
    assert statistics.stored(data) == kept
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["a.npz"]
    (tmp_path / "there").rename(tmp_path / "moved")
    monkeypatch.setattr(
        statistics, "measure", lambda *a, **k: pytest.fail("measured again")
    )
    moved = str(tmp_path / "moved" / "a.npz")
    assert measured(Latents(moved, SIZE)) == kept
    other = Latents(moved, SIZE, VAELatents(sigma_data=1.0))
    assert statistics.stored(other) is None  # other settings, other statistics


def test_statistics_of_other_data_are_measured_again(tmp_path: Path, cache: Path) -> None:
    data = Latents(str(written(tmp_path / "a.npz", 7)), SIZE)
    first = measured(data)
    written(tmp_path / "a.npz", 9)
    again = measured(data)
    assert (first.count, again.count) == (7, 9)
    assert statistics.stored(data) == again


def test_splits_have_statistics_of_their_own(cache: Path) -> None:
    for split in ("train", "test"):
        statistics.keep(Digits(split), Statistics(len(split), (0.5,), (1.0,)))
    assert statistics.stored(Digits("train")).count == 5
    assert statistics.stored(Digits("test")).count == 4


DAMAGED = ["{", "[1]", "null", '{"count": 3}', '{"count": 3, "mean": 1, "std": [1]}']
DAMAGED += ['{"count": "3", "mean": [0], "std": [1]}', "[" * 10**5]
DAMAGED += ['{"count": 3, "mean": [NaN], "std": [1]}', '{"count":1,"mean":[{}],"std":[1]}']


@pytest.mark.parametrize("text", DAMAGED)
def test_damaged_statistics_are_measured_again(text: str, cache: Path) -> None:
    data = Digits("test")
    path = statistics.file_of(data)
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.warns(UserWarning, match=r"is damaged .*measuring again"):
        assert measured(data).count == 300
    assert statistics.stored(data).count == 300


def test_a_run_keeps_its_statistics(tmp_path: Path) -> None:
    kept = Statistics(3, (0.25, -0.25), (1.0, 2.0))
    statistics.save(tmp_path / "run" / "statistics.json", kept)
    row = json.loads((tmp_path / "run" / "statistics.json").read_text())
    assert row.pop("sigma_data") == pytest.approx(math.sqrt((1 + 4) / 2 + 0.25**2))
    assert row == {"count": 3, "mean": [0.25, -0.25], "std": [1.0, 2.0]}


def test_nothing_has_no_statistics() -> None:
    empty = Memory(np.zeros((0, 2, 2, 1), np.uint8), np.zeros(0, np.int32))
    with pytest.raises(ValueError, match="no images"):
        measure(Dataset(empty), Pixels())
