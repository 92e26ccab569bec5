"""Faults and traps do what they say, and the command says which metric sees them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from jaxdiff import sharding
from jaxdiff.data.batches import Memory
from jaxdiff.features.extractor import extractor
from jaxdiff.quality import observe, sanity

ROOT = Path(__file__).parents[1]


def images(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", sanity.CORRUPTIONS)
def test_level_0_is_the_identity(name: str, channels: int) -> None:
    x, fault = images(3, 9, 12, channels), sanity.CORRUPTIONS[name]
    np.testing.assert_array_equal(fault.apply(x, 0.0, 5), x)
    most = fault.apply(x, fault.levels[-1], 5)
    assert most.dtype == np.uint8
    assert most.shape == x.shape
    assert (most == x).all() == (name == "desaturation" and channels == 1)


@pytest.mark.parametrize("name", sanity.CORRUPTIONS)
def test_faults_are_functions_of_their_seed_and_leave_images_alone(name: str) -> None:
    x, fault = images(2, 16, 16, 3), sanity.CORRUPTIONS[name]
    before = x.copy()
    once, again, other = (fault.apply(x, fault.levels[-1], s) for s in ((1, 2), (1, 2), 3))
    np.testing.assert_array_equal(once, again)
    np.testing.assert_array_equal(x, before)
    assert (once != other).any() == (name in ("noise", "warp"))


def test_noise_has_its_variance() -> None:
    """Rounding adds 1/12; tolerances are five standard errors of N draws."""
    x, level = np.full((50, 32, 32, 3), 128, np.uint8), 8.0
    added = sanity.noise(x, level, 0) - 128.0
    assert abs(added.mean()) < 5 * level / np.sqrt(added.size)
    variance = level**2 + 1 / 12
    assert abs(added.var() - variance) < 5 * variance * np.sqrt(2 / added.size)


@pytest.mark.parametrize("sigma", [1.0, 2.0])
def test_blur_is_scipys(sigma: float) -> None:
    """To one grey level, since float32 may round a half the other way."""
    x = images(2, 13, 20, 3)
    sigmas = (0, sigma, sigma, 0)
    expected = gaussian_filter(x.astype(float), sigmas, truncate=4, mode="reflect")
    blurred = sanity.blur(x, sigma).astype(float)
    assert np.abs(blurred - expected).max() < 0.5 + 1e-3


@pytest.mark.parametrize("sigma", [0.4, 2.0, 5.0])
def test_blur_keeps_constants_and_means(sigma: float) -> None:
    matrix = sanity.smoothing(9, sigma)
    np.testing.assert_allclose(matrix.sum(0), 1, rtol=1e-14)
    np.testing.assert_allclose(matrix.sum(1), 1, rtol=1e-14)
    constant = np.full((1, 9, 9, 1), 77, np.uint8)
    np.testing.assert_array_equal(sanity.blur(constant, sigma), constant)
    x = images(4, 32, 32, 3)  # rounding errors of variance 1/12 are left
    gap = sanity.blur(x, sigma).mean() - x.mean()
    assert abs(gap) < 5 * np.sqrt(1 / 12 / x.size)


def test_darkening_clips_at_black() -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    expected = [0] * 16 + list(range(240))
    assert sanity.darken(ramp, 16.0).ravel().tolist() == expected


def test_desaturation_goes_to_luma() -> None:
    """Y = 0.299 R + 0.587 G + 0.114 B, of 255 each."""
    pure = (255 * np.eye(3)).astype(np.uint8).reshape(3, 1, 1, 3)
    full, half = (sanity.desaturate(pure, share).reshape(3, 3) for share in (1.0, 0.5))
    assert full.tolist() == [[76] * 3, [150] * 3, [29] * 3]
    assert half.tolist() == [[166, 38, 38], [75, 202, 75], [15, 15, 142]]
    white = np.full((1, 2, 2, 3), 255, np.uint8)
    np.testing.assert_array_equal(sanity.desaturate(white, 1.0), white)


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_keeps_flat_images_and_errs_more_at_higher_levels(channels: int) -> None:
    flat = np.full((1, 16, 16, channels), 128, np.uint8)  # the DC level that JPEG takes off
    np.testing.assert_array_equal(sanity.jpeg(flat, 90.0), flat)
    x = images(2, 16, 16, channels)
    error = [
        np.abs(sanity.jpeg(x, level) - x.astype(float)).mean()
        for level in (5.0, 50.0, 90.0)
    ]
    assert 0 < error[0] < error[1] < error[2]


@pytest.mark.parametrize("axis", [1, 2])
def test_warp_moves_by_its_level(axis: int) -> None:
    """A ramp of 6 grey levels a pixel says by how much; 4 % is five standard errors.

    Of N waves with random phases the mean square has relative error 1 / (2 N)^(1/2), and
    half of that the root.
    """
    shape = np.expand_dims(6 * np.arange(40, dtype=np.uint8), (0, 3 - axis, 3))
    ramp = np.broadcast_to(shape, np.insert([2000, 2, 1], axis, 40))
    moved = (sanity.warp(ramp, 1.5, 0) - ramp.astype(float)) / 6
    inside = np.take(moved, np.arange(10, 30), axis)
    assert abs(np.sqrt(np.mean(inside**2)) / 1.5 - 1) < 0.04
    constant = np.full((2, 8, 8, 3), 9, np.uint8)
    np.testing.assert_array_equal(sanity.warp(constant, 3.0, 0), constant)


def test_dropped_classes_are_absent_and_no_other() -> None:
    label = np.array([3, 0, 1, 3, 2, 0])
    assert label[sanity.kept(label, [3, 1])].tolist() == [0, 2, 0]


def test_parts_share_no_family() -> None:
    family = np.random.default_rng(0).integers(0, 40, 200)
    parts = sanity.dealt(family, 3, 1)
    assert sorted(np.concatenate(parts)) == list(range(200))
    kinds = [set(family[part]) for part in parts]
    assert sum(map(len, kinds)) == len(set(family))
    most = np.bincount(family).max()  # a family goes where it starts, so parts are off
    assert max(abs(len(part) - 200 / 3) for part in parts) <= most  # by less than one
    assert [p.tolist() for p in sanity.dealt(family, 3, 1)] == [p.tolist() for p in parts]
    assert sanity.dealt(family, 3, 2)[0].tolist() != parts[0].tolist()


def test_ghosts_are_5_percent_of_another_image() -> None:
    """Each image a grey of its own, 50 apart: its twentieth is 2.5, rounding 0.5."""
    value = np.arange(0, 251, 50)
    x = np.broadcast_to(value[:, None, None, None], (6, 4, 4, 3)).astype(np.uint8)
    ghosts = sanity.TRAPS["5 % ghosts"](x, x, 7)[:, 0, 0, 0]
    other = np.rint((ghosts - 0.95 * value) / (0.05 * 50)).astype(int)
    assert sorted(other) == list(range(6))
    assert (other != np.arange(6)).all()


def test_averages_are_halfway() -> None:
    x = np.array([0, 100], np.uint8).reshape(2, 1, 1, 1)
    assert sanity.TRAPS["averages of two"](x, x, 0).ravel().tolist() == [50, 50]


def test_gaussian_has_the_pixels_mean_and_covariance() -> None:
    """To five standard errors of 40,000 draws; rounding adds 1/12 to variances."""
    rng = np.random.default_rng(3)
    points = rng.normal(120, 12, (60, 1)) + rng.normal(0, 5, (60, 4))
    x = sanity.grey(points).reshape(60, 2, 2, 1)
    drawn = sanity.gaussian(x, 40_000, 1).reshape(-1, 4)
    flat = x.reshape(60, 4).astype(float)
    covariance = np.cov(flat.T)
    scale = np.sqrt(np.diag(covariance))
    assert (np.abs(drawn.mean(0) - flat.mean(0)) < 5 * scale / 200).all()
    gap = np.cov(drawn.T) - covariance - np.eye(4) / 12
    assert (np.abs(gap) < 5 * np.sqrt(2) * np.outer(scale, scale) / 200).all()


def test_rows_are_what_is_seen_of_those_images() -> None:
    x, numbers = images(9, 8, 8, 3), np.array([7, 0, 4])
    mesh, made = sharding.data_mesh(), [extractor("pixels8")]
    look = lambda x: observe(Memory(x, np.zeros(len(x), np.int32)), made, mesh)
    some, alone = (
        o.seen["pixels8"] for o in (sanity.rows(look(x), numbers), look(x[numbers]))
    )
    np.testing.assert_array_equal(some.features, alone.features)
    np.testing.assert_array_equal(some.moments.mean, alone.moments.mean)
    np.testing.assert_array_equal(some.moments.scatter, alone.moments.scatter)


def test_worse_knows_which_way_is_good() -> None:
    clean, values = np.array([9.0, 10.0, 11.0]), np.array([12.0, 14.0])
    assert sanity.deviation(values, clean).tolist() == [2, 4]
    assert sanity.worse("fd_lite0", values, clean) == 2
    assert sanity.worse("coverage_lite0", values, clean) == -4
    assert sanity.worse("brightness", 20 - values, clean) == 2
    assert sanity.worse("nearer", values, clean) == 2
    assert sanity.worse("ratio", values, clean) == -4
    assert sanity.deviation(np.array([1.0, 2.0]), np.ones(2)).tolist() == [0, np.inf]


def run(*flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "launch/sanity.py", *flags]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)


@pytest.fixture(scope="module")
def blots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Dim grey images, and a few light ones, whose neighbours are farther than white."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("blots")
    for i in range(240):
        grey = rng.normal(90, 12, (8, 8, 3)) if i % 27 else rng.normal(225, 4, (8, 8, 3))
        Image.fromarray(sanity.grey(grey)).save(folder / f"{i:03}.png")
    data, out = f"Folder(path='{folder}', size=8)", folder / "out"
    done = run(f"--data={data}", "--extractors=pixels8", "--splits=3", f"--out={out}")
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "out.json").read_text())


def test_copies_are_caught_by_memory_alone(blots: dict[str, Any]) -> None:
    assert set(blots["caught"]["copies"]) == {"nearer", "ratio"}
    assert blots["traps"]["copies"]["nearer"] == [1.0] * 3
    np.testing.assert_allclose(blots["traps"]["copies"]["fd_pixels8"], 0, atol=1e-9)


def test_white_is_caught_by_recall_and_coverage_and_not_by_precision(
    blots: dict[str, Any],
) -> None:
    assert {"recall_pixels8", "coverage_pixels8"} <= set(blots["caught"]["white"])
    assert "precision_pixels8" not in blots["caught"]["white"]
    assert blots["traps"]["white"]["precision_pixels8"] == [1.0] * 3


def test_the_command_on_digits(tmp_path: Path) -> None:
    out = tmp_path / "metrics"
    flags = ["--extractors=pixels8", "--number=64", "--splits=2", f"--out={out}"]
    done = run("--data=Digits()", *flags)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.with_suffix(".json").read_text())
    missing = {"missing rare classes", "missing common classes"}
    kinds = {*sanity.CORRUPTIONS, *missing} - {"desaturation"}  # they are grey
    assert set(found["faults"]) == kinds
    assert (found["images"], found["half"], found["third"]) == (128, 64, 42)
    for fault in found["faults"].values():
        assert len(fault["scores"]) == len(fault["levels"])
        assert all(len(v) == 2 for scores in fault["scores"] for v in scores.values())
    for metric in ("fd_pixels8", "kid_pixels8", "rbf_pixels8"):
        for name, fault in found["faults"].items():
            means = [np.mean(scores[metric]) for scores in fault["scores"]]
            assert found["grows"][metric][name] == (means == sorted({*means}))
            assert means[-1] > means[0]
    text = out.with_suffix(".md").read_text()
    assert "| darkening | 16 | grey levels |" in text
    assert "* copies: caught by nearer" in text
    assert "copies: caught by nearer" in done.stdout
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("Digits(", "names no data"),
        ("VAELatents", "is no set of images"),
        ("Digits(split='tset')", "'tset'"),
    ],
)
def test_data_that_are_none_are_refused(data: str, said: str) -> None:
    done = run(f"--data={data}")
    assert done.returncode == 1
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
