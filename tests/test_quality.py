"""Sample quality: what is seen of images, the metrics' names and values, and the files."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

from jaxdiff import evaluation
from jaxdiff.data import Digits, Folder, Latents
from jaxdiff.evaluation import distances, in_memory, memorization
from jaxdiff.evaluation.extractors.extractor import NETWORKS, Extractor, extractor
from jaxdiff.runtime import sharding

PIXELS = extractor("pixels8")
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (41, 16, 16, 3), np.uint8)
OTHERS = RNG.integers(0, 200, (33, 16, 16, 3), np.uint8)


def seen(images: np.ndarray, mesh: Any = None, **how: Any) -> evaluation.Observed:
    mesh = mesh or sharding.data_mesh(jax.devices()[:1])
    return evaluation.observe(in_memory(images), [PIXELS], mesh, **how)


def eighths(images: np.ndarray) -> np.ndarray:
    """The mean of each 2 x 2 pixels of 16 x 16 images, in [-1, 1]."""
    means = images.reshape(-1, 8, 2, 8, 2, 3).mean((2, 4))
    return (means / 127.5 - 1).reshape(len(images), -1)


def test_every_image_is_seen_once_whatever_the_batch_and_the_devices() -> None:
    exact = eighths(IMAGES)
    for mesh, batch in ((1, 41), (1, 16), (8, 16), (4, 1000)):
        observed = seen(IMAGES, sharding.data_mesh(jax.devices()[:mesh]), batch=batch)
        np.testing.assert_allclose(observed.seen["pixels8"].features, exact, atol=3e-7)
        assert (observed.count, observed.shape) == (41, (16, 16, 3))


def test_moments_alone_are_those_of_all_features() -> None:
    exact = distances.Moments.of(eighths(IMAGES))
    for batch in (41, 16, 7):
        observed = seen(
            IMAGES, sharding.data_mesh(jax.devices()[:2]), batch=batch, keep=False
        )
        moments = observed.seen["pixels8"].moments
        assert observed.seen["pixels8"].features is None
        assert moments.count == 41
        np.testing.assert_allclose(moments.mean, exact.mean, atol=1e-6)
        np.testing.assert_allclose(moments.scatter, exact.scatter, atol=2e-5)


def test_metrics_are_those_of_the_features_and_named_for_them() -> None:
    metrics = evaluation.score(real=seen(IMAGES), fake=seen(OTHERS))
    real, fake = eighths(IMAGES), eighths(OTHERS)
    manifold = distances.prdc(real=real, fake=fake, k=5)
    exact = {
        "fd_pixels8": distances.frechet_of_points(real, fake),
        "kid_pixels8": distances.kid(real=real, fake=fake).value,
        "rbf_pixels8": distances.rbf_mmd(real=real, fake=fake).value,
        **{f"{name}_pixels8": v for name, v in dataclasses.asdict(manifold).items()},
        "brightness": OTHERS.mean() - IMAGES.mean(),
    }
    assert metrics.keys() == exact.keys()
    for name, value in exact.items():
        np.testing.assert_allclose(metrics[name], value, rtol=2e-5, atol=2e-6, err_msg=name)
    alone = evaluation.score(real=seen(IMAGES, keep=False), fake=seen(OTHERS))
    np.testing.assert_allclose(alone["fd_pixels8"], exact["fd_pixels8"], rtol=1e-4)
    assert alone.keys() == {"fd_pixels8", "brightness"}


@pytest.mark.parametrize(
    ("field", "value"), [("preprocessing", "nearest"), ("sha256", "0" * 64), ("dims", 7)]
)
def test_other_protocols_are_refused(field: str, value: Any) -> None:
    real = seen(IMAGES)
    pixels = real.seen["pixels8"]
    stated = dataclasses.replace(
        pixels, extractor=dataclasses.replace(PIXELS, **{field: value})
    )
    other = dataclasses.replace(real, seen={"pixels8": stated})
    with pytest.raises(ValueError, match=f"{field} .*protocols do not compare"):
        evaluation.score(real=other, fake=seen(OTHERS))
    renamed = dataclasses.replace(real, seen={"lite0": pixels})
    with pytest.raises(
        ValueError, match="the reference has features of lite0, the images of pixels8"
    ):
        evaluation.score(real=renamed, fake=seen(OTHERS))


def test_inception_metrics_are_called_fid_and_have_a_score_of_classes() -> None:
    logits = RNG.normal(size=(30, 4))
    points = RNG.normal(size=(30, 5))
    who = Extractor("inception_tf", "as TensorFlow does", 5, "0" * 64, {})
    one = evaluation.Seen(
        who, distances.Moments.of(points), points, distances.softmax(logits)
    )
    both = evaluation.Observed("", (8, 8, 3), {"inception_tf": one})
    metrics = evaluation.score(real=both, fake=both)
    assert {"fid_tf", "kid_tf", "is_tf", "recall_tf"} <= metrics.keys()
    assert not any(name.startswith("fd") for name in metrics)
    exact = distances.inception_score(distances.softmax(logits), splits=1).value
    np.testing.assert_allclose(metrics["is_tf"], exact)
    np.testing.assert_allclose(metrics["fid_tf"], 0, atol=1e-9)


def test_a_reference_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "reference.npz"
    real = seen(IMAGES, source="forty-one")
    evaluation.save(path, real)
    back = evaluation.load(path)
    assert (back.source, back.count, back.shape) == ("forty-one", 41, (16, 16, 3))
    fake = seen(OTHERS)
    assert evaluation.score(real=back, fake=fake) == evaluation.score(real=real, fake=fake)


def test_damaged_references_are_refused_in_a_line(tmp_path: Path) -> None:
    path = tmp_path / "reference.npz"
    evaluation.save(path, seen(IMAGES))
    data = path.read_bytes()
    with np.load(path) as file:
        arrays = dict(file.items())
    wrong = [
        data[: len(data) // 2],
        b"not a zip",
        {**arrays, "pixels8/mean": np.zeros(3)},
        {**arrays, "pixels8/scatter": np.full((192, 192), np.nan)},
        {**arrays, "pixels8/features": arrays["pixels8/features"][:5]},
        {**arrays, "meta": np.array(json.dumps({"jaxdiff_observed": 99}))},
        {k: v for k, v in arrays.items() if k != "meta"},
        {**arrays, "meta": np.array(object())},
    ]
    for case in wrong:
        if isinstance(case, bytes):
            path.write_bytes(case)
        else:
            np.savez(path, **case)
        with pytest.raises(ValueError, match="is not a reference, or is damaged"):
            evaluation.load(path)
    with pytest.raises(FileNotFoundError, match=r"jaxdiff reference makes one"):
        evaluation.load(tmp_path / "none.npz")


def test_published_statistics_stand_for_the_moments_that_they_are(tmp_path: Path) -> None:
    points = RNG.normal(size=(50, 2048))
    mean, covariance = distances.moments(points)
    path = tmp_path / "published.npz"
    np.savez(path, mu=mean, sigma=covariance)
    with pytest.raises(ValueError, match="give --count"):
        evaluation.published(path)
    observed = evaluation.published(path, "pytorch", 50)
    one = observed.seen["inception_pytorch"]
    np.testing.assert_allclose(one.moments.mean, mean)
    np.testing.assert_allclose(one.moments.covariance, covariance)
    assert one.extractor.preprocessing == NETWORKS["inception_pytorch"].preprocessing
    assert (observed.shape, one.features) == (None, None)


def test_statistics_that_name_no_weights_compare_with_any() -> None:
    real, fake = seen(IMAGES), seen(OTHERS)
    known = dataclasses.replace(PIXELS, sha256="0" * 64)
    pixels = dataclasses.replace(fake.seen["pixels8"], extractor=known)
    metrics = evaluation.score(
        real=real, fake=dataclasses.replace(fake, seen={"pixels8": pixels})
    )
    assert metrics == evaluation.score(real=real, fake=fake)


# ------------------------------------------------------------------ images


def test_images_are_drawn_once_and_survive_a_kill(tmp_path: Path) -> None:
    calls = []

    def make(seeds: np.ndarray, label: np.ndarray) -> np.ndarray:
        calls.append(seeds.tolist())
        if len(calls) == 3:
            raise KeyboardInterrupt
        return np.broadcast_to(seeds[:, None, None, None] + label[0], (len(seeds), 2, 2, 1))

    make_bytes = lambda s, label: make(s, label).astype(np.uint8)
    seeds, label = np.arange(10) + 5, np.zeros(10, np.int32)
    draw = lambda settings, **how: evaluation.draw(
        tmp_path, settings, make_bytes, how.get("seeds", seeds), label, part=4
    )
    with pytest.raises(KeyboardInterrupt):
        draw({"step": 1})
    drawn = draw({"step": 1})
    assert calls == [[5, 6, 7, 8], [9, 10, 11, 12], [13, 14], [13, 14]]
    order = np.array([9, 0, 4, 3, 8, 0])
    np.testing.assert_array_equal(drawn.take(order)["image"][:, 0, 0, 0], order + 5)
    np.testing.assert_array_equal(drawn[9]["image"], np.full((2, 2, 1), 14))
    draw({"step": 1})
    assert len(calls) == 4  # nothing is drawn twice,
    drawn.paths[1].write_bytes(drawn.paths[1].read_bytes()[:300])
    draw({"step": 1})
    assert calls[4:] == [[9, 10, 11, 12]]  # but for what is damaged,
    draw({"step": 2})
    assert len(calls) == 8  # and what another network draws lies elsewhere
    label = label + 1
    draw({"step": 2})
    assert len(calls) == 11


def test_labels_come_in_the_proportions_of_the_data() -> None:
    dataset = Digits("test").load()
    label = evaluation.labels_like(dataset, 450)
    assert np.bincount(label[:300]).tolist() == [30] * 10
    assert len(label) == 450
    assert np.bincount(label).min() >= 30
    assert (label[:300] != dataset.source.label).any()


def test_images_of_others_are_read_as_they_are(tmp_path: Path) -> None:
    for i, image in enumerate(IMAGES[:3]):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    images = evaluation.images_in(tmp_path)
    np.testing.assert_array_equal(evaluation.everything(images), IMAGES[:3])
    np.savez(tmp_path / "x.npz", arr_0=IMAGES)
    images = evaluation.images_in(tmp_path / "x.npz", 5)
    np.testing.assert_array_equal(evaluation.everything(images), IMAGES[:5])


@pytest.mark.parametrize(
    ("images", "number", "message"),
    [
        ([(8, 8, "RGB"), (8, 9, "RGB")], None, "9 x 8 RGB, 0.png 8 x 8 RGB: all images"),
        ([(8, 8, "RGBA")] * 2, None, r"RGBA \(transparent\): metrics are of RGB"),
        ([(8, 8, "RGB"), (8, 8, "L")], None, "8 x 8 L, 0.png 8 x 8 RGB"),
        ([(8, 8, "RGB")] * 2, 3, "holds 2 images, fewer than the 3 asked for"),
        ([], None, "holds 0 images"),
    ],
)
def test_folders_of_unlike_images_are_refused(
    images: list, number: int | None, message: str, tmp_path: Path
) -> None:
    for i, (height, width, mode) in enumerate(images):
        Image.new(mode, (width, height)).save(tmp_path / f"{i}.png")
    with pytest.raises(ValueError, match=message):
        evaluation.images_in(tmp_path, number)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": np.full((3, 8, 8, 3), np.nan, np.float32)}, "float32, some of it nan"),
        ({"images": IMAGES / 255}, "holds float64: images are uint8"),
        ({"images": IMAGES[..., :2]}, r"an array \(41, 16, 16, 2\)"),
        ({"pictures": IMAGES}, "it holds pictures, no 'images'"),
        ({"images": IMAGES[:1]}, "holds 1 images"),
        ({"images": np.array([{}], object)}, "is not an NPZ of images"),
    ],
)
def test_arrays_that_are_no_images_are_refused(
    arrays: dict, message: str, tmp_path: Path
) -> None:
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        evaluation.images_in(tmp_path / "x.npz")


# ------------------------------------------------------------------ judging


def test_copies_are_seen_and_others_are_not() -> None:
    train, holdout = Digits("train").load(), Digits("test").load()
    train, holdout = (evaluation.everything(d.source) for d in (train, holdout))
    copied = evaluation.copies(train[:100], train, holdout)
    np.testing.assert_array_equal(copied.nearest, np.arange(100))
    np.testing.assert_array_equal(copied.distance, 0)
    assert copied.copied == 1
    half, other = holdout[:150], holdout[150:]
    fair = evaluation.copies(other, train, half)
    assert abs(fair.copied) < 3 * fair.error < 1.5
    alone = evaluation.copies(other, train)
    assert np.isnan(alone.copied)


def test_a_judge_keeps_what_it_sees_of_the_data(tmp_path: Path) -> None:
    mesh = sharding.data_mesh(jax.devices()[:1])
    make = lambda: evaluation.judge_of(Digits(), [PIXELS], mesh, tmp_path)
    judge = make()
    (kept,) = tmp_path.glob("reference-*.npz")
    written = kept.stat().st_mtime_ns
    assert make().reference.count == 1497
    assert kept.stat().st_mtime_ns == written
    assert len(judge.holdout) == 300
    metrics, near = judge(in_memory(judge.train[:40]))
    assert metrics["copied"] == 1
    np.testing.assert_array_equal(near.nearest, np.arange(40))
    with pytest.raises(ValueError, match=r"the images are \(16, 16, 3\), the reference's"):
        judge(in_memory(IMAGES))
    with pytest.raises(ValueError, match="metrics need pixels"):
        evaluation.judge_of(Latents("nowhere.npz"), [PIXELS], mesh, tmp_path)


def test_blocks_are_set_side_by_side() -> None:
    parts = list(evaluation.blocks(in_memory(IMAGES), 3))
    np.testing.assert_array_equal(evaluation.everything(parts[2]), IMAGES[26:39])
    summary = evaluation.summary([{"a": 1.0}, {"a": 2.0}, {"a": 6.0}])["a"]
    assert summary == {"mean": 3.0, "min": 1.0, "max": 6.0, "spread": np.sqrt(7.0)}


def test_changed_images_are_another_reference(tmp_path: Path) -> None:
    """Files of the same names and number, and images in memory of the same data."""
    mesh = sharding.data_mesh(jax.devices()[:1])
    means = []
    for shade in (10, 240):
        (tmp_path / "photos").mkdir(exist_ok=True)
        for i in range(7):
            image = Image.new("RGB", (8, 8), (shade, shade, 10 * i))
            image.save(tmp_path / "photos" / f"{i}.png")
        photos = Folder(str(tmp_path / "photos"), size=8)
        judge = evaluation.judge_of(photos, [PIXELS], mesh, tmp_path / "kept")
        means.append(judge.reference.seen["pixels8"].moments.mean.mean())
    assert means[1] - means[0] > 0.5


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (IMAGES[:5], "a block of 5 images is too small"),
        (IMAGES[:, :8], r"are \(8, 16, 3\)"),
    ],
)
def test_a_judge_refuses_before_it_looks(images: np.ndarray, message: str) -> None:
    blind = dataclasses.replace(PIXELS, dims=192)
    judge = evaluation.Judge((blind,), seen(IMAGES), sharding.data_mesh(jax.devices()[:1]))
    with pytest.raises(ValueError, match=message):
        judge(in_memory(images))


def test_large_images_are_averaged_down_before_copies_are_looked_for() -> None:
    images = RNG.integers(0, 256, (3, 32, 32, 3), np.uint8)
    exact = images.reshape(3, 16, 2, 16, 2, 3).mean((2, 4)) / 127.5 - 1
    points = memorization.flat(images)
    np.testing.assert_allclose(points, exact.reshape(3, -1), atol=1e-6)
