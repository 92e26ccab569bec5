"""Faults and traps do what they say, and the command says which metric sees them."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from jaxdiff.data import Dataset, OpenMoji
from jaxdiff.data.batches import Memory
from jaxdiff.data.sources import openmoji
from jaxdiff.evaluation import Observed, Seen, sanity
from jaxdiff.evaluation.distances import Moments
from jaxdiff.evaluation.extractors.extractor import extractor
from jaxdiff.evaluation.sanity import corruptions, report, splits, traps, verdict
from jaxdiff.evaluation.sanity.study import of_faults, of_missing, of_sizes, rows
from tests.cases.commands import run


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
    added = corruptions.noise(x, level, 0) - 128.0
    assert abs(added.mean()) < 5 * level / np.sqrt(added.size)
    variance = level**2 + 1 / 12
    assert abs(added.var() - variance) < 5 * variance * np.sqrt(2 / added.size)


@pytest.mark.parametrize("sigma", [1.0, 2.0])
def test_blur_is_scipys(sigma: float) -> None:
    """To one grey level, since float32 may round a half the other way."""
    x = images(2, 13, 20, 3)
    sigmas = (0, sigma, sigma, 0)
    expected = gaussian_filter(x.astype(float), sigmas, truncate=4, mode="reflect")
    blurred = corruptions.blur(x, sigma).astype(float)
    assert np.abs(blurred - expected).max() < 0.5 + 1e-3


@pytest.mark.parametrize("sigma", [0.4, 2.0, 5.0])
def test_blur_keeps_constants_and_means(sigma: float) -> None:
    matrix = corruptions.smoothing(9, sigma)
    np.testing.assert_allclose(matrix.sum(0), 1, rtol=1e-14)
    np.testing.assert_allclose(matrix.sum(1), 1, rtol=1e-14)
    constant = np.full((1, 9, 9, 1), 77, np.uint8)
    np.testing.assert_array_equal(corruptions.blur(constant, sigma), constant)
    x = images(4, 32, 32, 3)  # rounding errors of variance 1/12 are left
    gap = corruptions.blur(x, sigma).mean() - x.mean()
    assert abs(gap) < 5 * np.sqrt(1 / 12 / x.size)


def test_darkening_clips_at_black() -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    expected = [0] * 16 + list(range(240))
    assert corruptions.darken(ramp, 16.0).ravel().tolist() == expected


def test_desaturation_goes_to_luma() -> None:
    """Y = 0.299 R + 0.587 G + 0.114 B, of 255 each."""
    pure = (255 * np.eye(3)).astype(np.uint8).reshape(3, 1, 1, 3)
    full, half = (corruptions.desaturate(pure, share).reshape(3, 3) for share in (1.0, 0.5))
    assert full.tolist() == [[76] * 3, [150] * 3, [29] * 3]
    assert half.tolist() == [[166, 38, 38], [75, 202, 75], [15, 15, 142]]
    white = np.full((1, 2, 2, 3), 255, np.uint8)
    np.testing.assert_array_equal(corruptions.desaturate(white, 1.0), white)


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_keeps_flat_images_and_errs_more_at_higher_levels(channels: int) -> None:
    flat = np.full((1, 16, 16, channels), 128, np.uint8)  # the DC level that JPEG takes off
    np.testing.assert_array_equal(corruptions.jpeg(flat, 90.0), flat)
    x = images(2, 16, 16, channels)
    error = [
        np.abs(corruptions.jpeg(x, level) - x.astype(float)).mean()
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
    moved = (corruptions.warp(ramp, 1.5, 0) - ramp.astype(float)) / 6
    inside = np.take(moved, np.arange(10, 30), axis)
    assert abs(np.sqrt(np.mean(inside**2)) / 1.5 - 1) < 0.04
    constant = np.full((2, 8, 8, 3), 9, np.uint8)
    np.testing.assert_array_equal(corruptions.warp(constant, 3.0, 0), constant)


def test_dropped_classes_are_absent_and_no_other() -> None:
    label, numbers = np.array([3, 0, 1, 3, 2, 0]), np.array([5, 4, 3, 2])
    assert splits.kept(numbers, label, [3, 1]).tolist() == [5, 4]


def test_parts_share_no_family() -> None:
    family = np.random.default_rng(0).integers(0, 40, 200)
    parts = splits.dealt(family, 3, 1)
    assert sorted(np.concatenate(parts)) == list(range(200))
    kinds = [set(family[part]) for part in parts]
    assert sum(map(len, kinds)) == len(set(family))
    most = np.bincount(family).max()  # a family goes where it starts, so parts are off
    assert max(abs(len(part) - 200 / 3) for part in parts) <= most  # by less than one
    assert [p.tolist() for p in splits.dealt(family, 3, 1)] == [p.tolist() for p in parts]
    assert splits.dealt(family, 3, 2)[0].tolist() != parts[0].tolist()


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
    x = corruptions.grey(points).reshape(60, 2, 2, 1)
    drawn = traps.gaussian(x, 40_000, 1).reshape(-1, 4)
    flat = x.reshape(60, 4).astype(float)
    covariance = np.cov(flat.T)
    scale = np.sqrt(np.diag(covariance))
    assert (np.abs(drawn.mean(0) - flat.mean(0)) < 5 * scale / 200).all()
    gap = np.cov(drawn.T) - covariance - np.eye(4) / 12
    assert (np.abs(gap) < 5 * np.sqrt(2) * np.outer(scale, scale) / 200).all()


@pytest.mark.parametrize("kind", [str, int])
def test_a_split_has_four_equal_quarters_of_other_families(kind: type) -> None:
    family = np.array([kind(f) for f in np.random.default_rng(1).integers(0, 70, 203)])
    split = splits.deal(family, (3, 1))
    sizes = {len(quarter) for quarter in split.quarters}
    assert len(sizes) == 1
    assert 203 / 4 - 12 < sizes.pop() <= 203 / 4
    assert not set(family[split.real]) & set(family[split.other])
    fresh, held = split.quarters[2:]
    assert not set(family[fresh]) & set(family[held])
    assert len({*split.real, *split.other}) == 4 * len(fresh)


def test_turns_put_every_quarter_in_every_place() -> None:
    parts = tuple(np.array([i]) for i in range(4))
    turns = [[int(q[0]) for q in turn.quarters] for turn in splits.Split(parts).turns]
    assert turns == [[0, 1, 2, 3], [1, 2, 3, 0], [2, 3, 0, 1], [3, 0, 1, 2]]


PIXELS = extractor("pixels8")


def look(images: np.ndarray) -> Observed:
    """Pixels in [-1, 1] as features: brightness is then the images' own, exactly."""
    points = images.reshape(len(images), -1) / np.float32(127.5) - 1
    seen = Seen(PIXELS, Moments.of(points), points)
    return Observed("", images.shape[1:], {"pixels8": seen})


def flat(values: np.ndarray) -> np.ndarray:
    """Grey images of one value each, [N, 2, 2, 1]."""
    return np.tile(values[:, None, None, None], (1, 2, 2, 1)).astype(np.uint8)


def parts_of(count: int, turns: int = 1) -> list[splits.Split]:
    """Splits that deal `count` images in order, and turned."""
    split = splits.Split(tuple(np.array_split(np.arange(count), 4)))
    return split.turns[:turns]


def test_rows_are_what_is_seen_of_those_images() -> None:
    x, numbers = images(9, 8, 8, 3), np.array([7, 0, 4])
    some = rows(look(x), numbers).seen["pixels8"]
    alone = look(x[numbers]).seen["pixels8"]
    np.testing.assert_array_equal(some.features, alone.features)
    np.testing.assert_array_equal(some.moments.mean, alone.moments.mean)
    np.testing.assert_array_equal(some.moments.scatter, alone.moments.scatter)


def test_the_other_half_is_darkened_and_the_real_one_is_not() -> None:
    """Where nothing clips, brightness is the gap of the halves less the level.

    float32 features are within 2^-24 of 1, in units of 127.5 grey levels.
    """
    value = np.random.default_rng(0).integers(60, 200, 80)
    deals = parts_of(80, 3)
    faults = of_faults(look(flat(value)), flat(value), look, deals, 0)
    dark = faults["darkening"]
    assert dark.levels == (0, *sanity.CORRUPTIONS["darkening"].levels)
    assert "desaturation" not in faults  # they are grey
    for level, scores in zip(dark.levels, dark.scores, strict=True):
        gaps = [value[s.other].mean() - value[s.real].mean() - level for s in deals]
        np.testing.assert_allclose(scores["brightness"], gaps, atol=1e-4)
    assert {len(f.levels) for f in faults.values()} == {
        len(f.scores) for f in faults.values()
    }


def test_missing_classes_are_the_rarest_or_commonest_of_equal_sets() -> None:
    """Class k is of grey 50 k, so brightness says which are left."""
    label = np.tile(np.repeat([0, 1, 2], [50, 30, 20]), 2)
    split = splits.Split(tuple(np.split(np.arange(200), [50, 100, 150])))
    clean = look(flat(50 * label))
    faults = of_missing(clean, label, [split])
    real = 50 * label[:100].mean()
    common, rare = (faults[f"missing {which} classes"] for which in ("common", "rare"))
    assert (rare.levels, common.levels) == ((0, 1, 2), (0, 1, 2))
    assert (rare.unit, common.unit) == ("of 3, 50 images", "of 3, 20 images")
    gap = lambda fault: [scores["brightness"][0] + real for scores in fault.scores]
    np.testing.assert_allclose(gap(rare), [0, 0, 0], atol=1e-4)  # the first 50 are of 0
    np.testing.assert_allclose(gap(common), [0, 50, 100], atol=1e-4)


def test_halves_are_compared_in_pieces_of_every_size() -> None:
    value = np.random.default_rng(2).integers(0, 256, 1000)
    (split,) = parts_of(1000)
    by_size = of_sizes(look(flat(value)), [split])
    assert {size: len(v["brightness"]) for size, v in by_size.items()} == {
        100: 4, 200: 2, 500: 1,
    }  # fmt: skip
    for size, scores in by_size.items():
        ends = range(0, 401, size)[: len(scores["brightness"])]
        means = [value[a + 500 : a + 500 + size].mean() for a in ends]
        gaps = [m - value[a : a + size].mean() for a, m in zip(ends, means, strict=True)]
        np.testing.assert_allclose(scores["brightness"], gaps, atol=1e-4)


def test_worse_knows_which_way_is_good() -> None:
    clean, values = [9.0, 10.0, 11.0], [12.0, 14.0]
    assert verdict.deviation(values, clean).tolist() == [2, 4]
    assert verdict.worse("fd_lite0", values, clean) == 2
    assert verdict.worse("coverage_lite0", values, clean) == -4
    assert verdict.worse("brightness", [8.0, 6.0], clean) == 2
    assert verdict.worse("copied", values, clean) == 2
    assert verdict.worse("copied", [8.0, 6.0], clean) == -4
    assert verdict.deviation([1.0, 2.0], [1.0, 1.0]).tolist() == [0, np.inf]


@pytest.fixture(scope="module")
def study() -> sanity.Study:
    """Numbers as they might have been measured, with four classes of verdicts."""
    level = lambda fd, kid, far: {
        "fd_tf": [fd, fd + 2], "kid_tf": [kid, kid], "is_tf": [1.0, 1.0],
        "fd_pixels8": [far, far], "brightness": [-far, far],
    }  # fmt: skip
    noise = sanity.Fault(
        "σ",
        (0, 1.0, 2.0),
        (level(1.0, 5.0, 0.0), level(3.0, 6.0, 1.0), level(4.0, 6.0, 0.0)),
    )
    fresh = {"fd_tf": [1.0, 2.0, 3.0], "copied": [-0.1, 0.0, 0.1]}
    near, far = {"fd_tf": [9.0, 5.0], "copied": [0.0, 0.9]}, {"fd_tf": [6.0, 5.5]}
    return sanity.Study(
        1234, (8, 8, 3), ("inception_tf", "pixels8"), 2, {"noise": noise},
        {100: level(8.0, 0.0, 0.0), 617: level(2.0, 0.0, 0.0)},
        {"fresh images": fresh, "near": near, "far": far | {"copied": [0.5, 0.4]}},
    )  # fmt: skip


def test_verdicts_are_of_every_level_and_every_split(study: sanity.Study) -> None:
    """Growth is strict, of the first extractor; 3 sd in one split of two do not catch."""
    assert sanity.grows(study) == {"fd_tf": {"noise": True}, "kid_tf": {"noise": False}}
    assert sanity.caught(study) == {"near": [], "far": ["fd_tf", "copied"]}
    failed, trapped = sanity.sentences(study)
    assert failed == ["kid_tf does not grow with noise: 5, 6, 6"]
    assert trapped == ["near: caught by NO METRIC", "far: caught by fd_tf, copied"]


def test_tables_say_the_numbers(study: sanity.Study) -> None:
    """Means 2, 4, 5 of clean 1 and 3, whose sd is 2^(1/2)."""
    lines = sanity.tables(study, "m.png").splitlines()
    assert lines[0].startswith("1,234 images, 2 random splits")
    assert "617 images each" in lines[0]
    assert "![Metrics under faults](m.png)" in lines
    assert "| fault | level | unit | fd_tf | kid_tf | brightness |" in lines
    assert "| clean |  |  | 2 ± 1.4 | 5 ± 0 | 0 ± 0 |" in lines
    assert "| noise | 1 | σ | 4 (1.4) | 6 (inf) | 0 (0.0) |" in lines
    assert "| noise | 2 | σ | 5 (2.1) | 6 (inf) | 0 (0.0) |" in lines
    assert "| 617 | 3 ± 1.4 | 0 ± 0 | 0 ± 0 |" in lines
    assert "| fd_tf | 2 ± 1 | 7 | **5.75** |" in lines
    assert "| copied | 0 ± 0.1 | 0.45 | **0.45** |" in lines


def test_the_picture_is_a_png(study: sanity.Study) -> None:
    assert sanity.picture(study).startswith(b"\x89PNG")


def test_prose_around_the_tables_stays() -> None:
    page = "".join(sanity.around("", "Title")) + "mine\n"
    before, after = sanity.around("above\n" + page, "other")
    assert before.startswith("above\n# Title\n")
    assert after.endswith("mine\n")
    again = sanity.around(before + "tables\n" + after, "other")
    assert again == (before, after)
    assert "tables" not in before + after


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ("prose", "add them"),
        (f"{report.START} {report.END} {report.END}", "add them"),
        (f"{report.END} {report.START}", "swap them"),
    ],
)
def test_a_page_without_markers_is_refused(page: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sanity.around(page, "")


@pytest.fixture(scope="module")
def blots() -> sanity.Study:
    """Dim grey images, and a few light ones, whose neighbours are farther than white."""
    rng = np.random.default_rng(0)
    x = corruptions.grey(rng.normal(90, 12, (240, 4, 4, 1)))
    x[::27] = corruptions.grey(rng.normal(225, 4, x[::27].shape))
    data = Dataset(Memory(x, np.zeros(240, np.int32)))
    return sanity.study(data, look, splits=3)


def test_copies_are_caught_by_memory_alone(blots: sanity.Study) -> None:
    assert sanity.caught(blots)["copies"] == ["copied"]
    assert blots.traps["copies"]["copied"] == [1.0] * 3
    assert blots.traps["copies"]["precision_pixels8"] == [1.0] * 3
    copied, fresh = (blots.traps[t]["fd_pixels8"] for t in ("copies", "fresh images"))
    assert np.mean(copied) < np.mean(fresh)


def test_fresh_images_are_no_copies(blots: sanity.Study) -> None:
    """12 turns of 60 images: each has sd 0.18, and they are no more than dependent."""
    assert len(blots.traps["fresh images"]["copied"]) == 12
    assert abs(np.mean(blots.traps["fresh images"]["copied"])) < 3 * 0.18 / 3**0.5


def test_white_is_caught_by_recall_and_coverage_and_not_by_precision(
    blots: sanity.Study,
) -> None:
    by = sanity.caught(blots)["white"]
    assert {"recall_pixels8", "coverage_pixels8"} <= set(by)
    assert "precision_pixels8" not in by
    assert blots.traps["white"]["precision_pixels8"] == [1.0] * 3


def test_a_study_is_a_function_of_its_seed_and_takes_as_many_as_asked() -> None:
    value = np.random.default_rng(3).integers(0, 256, 300)
    data = Dataset(Memory(flat(value), np.zeros(300, np.int32)))
    once, again, other = (
        sanity.study(data, look, number=60, splits=2, seed=s) for s in (0, 0, 1)
    )
    assert (once.images, once.half, once.shape) == (120, 60, (2, 2, 1))
    assert (once.traps, once.sizes) == (again.traps, again.sizes)
    assert once.traps != other.traps
    assert [f.scores for f in once.faults.values()] == [
        f.scores for f in again.faults.values()
    ]


def test_too_few_images_are_refused() -> None:
    data = Dataset(Memory(images(40, 4, 4, 1), np.zeros(40, np.int32)))
    with pytest.raises(ValueError, match="40 images are too few: give 60"):
        sanity.study(data, look)


def test_variants_of_a_drawing_are_a_family(monkeypatch: pytest.MonkeyPatch) -> None:
    """One for each image that is loaded, in their order; a look-alike is left out."""
    codes = ["1F44B", "1F44B-1F3FB", "1F44B-1F3FD", "1F600", "1F601", "2764-FE0F"]
    pixels = flat(np.array([0, 1, 2, 3, 3, 4]))
    monkeypatch.setattr(openmoji, "drawings", lambda: [Path(f"{c}.svg") for c in codes])
    monkeypatch.setattr(openmoji, "rendered", lambda *_: pixels)
    toned, plain = (OpenMoji(split="all", skin_tones=t) for t in (True, False))
    assert toned.families() == ("1F44B", "1F44B", "1F44B", "1F600", "2764")
    assert plain.families() == ("1F44B", "1F600", "2764")
    assert plain.load().take(np.arange(3))["image"][:, 0, 0, 0].tolist() == [0, 3, 4]


def test_the_command_on_digits(tmp_path: Path) -> None:
    out = tmp_path / "metrics"
    page = "My prose.\n" + "".join(sanity.around("", "T")) + "And its end.\n"
    out.with_suffix(".md").write_text(page)
    flags = ["--extractors=pixels8", "--number=64", "--splits=2", f"--out={out}"]
    done = run("sanity", "--config=configs/digits.py", "--config.data.split=all", *flags)
    assert done.status == 0, done.err
    results = json.loads(out.with_suffix(".json").read_text())
    missing = {"missing rare classes", "missing common classes"}
    assert set(results["faults"]) == {*sanity.CORRUPTIONS, *missing} - {"desaturation"}
    assert (results["images"], results["data"]) == (128, "Digits(split='all')")
    for fault in results["faults"].values():
        assert len(fault["scores"]) == len(fault["levels"])
        assert all(len(v) == 2 for scores in fault["scores"] for v in scores.values())
        means = [np.mean(scores["fd_pixels8"]) for scores in fault["scores"]]
        assert means[-1] > means[0]
    text = out.with_suffix(".md").read_text()
    assert "| darkening | 16 | grey levels |" in text
    assert text.startswith("My prose.\n# T\n")
    assert text.endswith("And its end.\n")
    assert "copies: caught by copied" in done.out
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_latents_are_refused() -> None:
    done = run("sanity", "--config=configs/edm2_img512.py:s")
    assert done.status == 1
    assert "has latents" in done.err
    assert len(done.err.splitlines()) == 1
