"""The pure parts of the benchmarks: their measures, held against closed forms."""

import doctest
import importlib
import json
import sys
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np
import pytest
from scipy.linalg import sqrtm

import jaxdiff as jd
from jaxdiff.data import Dataset, Digits, Memory
from jaxdiff.runs import ema_lengths, snapshots
from tests.extending import forgetting
from tests.test_snapshots import average, tracked, weight

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
import digits_judge
import ema_made
import flips
import gradient_noise
import study
import zero_terminal_snr

with forgetting():  # their networks and data are registered
    import debias_order
    import small_network

RESULTS = Path(__file__).parents[1] / "docs" / "results"
EXAMPLES = [debias_order, ema_made, gradient_noise, zero_terminal_snr]


@pytest.mark.parametrize("module", EXAMPLES)
def test_the_examples_in_the_docstrings_hold(module: object) -> None:
    results = doctest.testmod(module)
    assert results.attempted > 0
    assert results.failed == 0


def spread(rng: np.random.Generator, dim: int, rank: int) -> np.ndarray:
    root = rng.normal(size=(dim, rank))
    return root @ root.T


def test_frechet_distance_of_commuting_gaussians() -> None:
    """(m - m')^2 + (s - s')^2 along every common axis, one of them without variance."""
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    s, other = np.array([0.0, 0.5, 1.0, 2.0]), np.array([0.3, 0.5, 0.1, 3.0])
    mean, other_mean = rng.normal(size=(2, 4))
    expected = np.sum((mean - other_mean) ** 2) + np.sum((s - other) ** 2)
    covariances = [(axes * std**2) @ axes.T for std in (s, other)]
    distance = digits_judge.frechet(mean, covariances[0], other_mean, covariances[1])
    assert distance == pytest.approx(expected, rel=1e-10)


def test_frechet_distance_against_a_matrix_root() -> None:
    rng = np.random.default_rng(1)
    one, two = spread(rng, 6, 9), spread(rng, 6, 9)
    zero = np.zeros(6)
    expected = np.trace(one + two) - 2 * np.trace(sqrtm(one @ two)).real
    assert digits_judge.frechet(zero, one, zero, two) == pytest.approx(expected, rel=1e-8)
    assert digits_judge.frechet(zero, one, zero, one) == pytest.approx(0, abs=1e-10)


def test_moments_are_those_of_the_points() -> None:
    points = np.array([[0.0, 0.0], [2.0, 4.0]])
    mean, covariance = digits_judge.moments(points)
    np.testing.assert_allclose(mean, [1, 2])
    np.testing.assert_allclose(covariance, [[2, 4], [4, 8]])


def test_the_judge_knows_copies_of_the_training_digits() -> None:
    judge, train = digits_judge.judge(), Digits("train").load().source
    verdict = judge(train.image, train.label)
    assert verdict.accuracy > 0.99
    assert verdict.frechet == pytest.approx(0, abs=1e-9)
    assert verdict.to_train == pytest.approx(0, abs=1e-6)
    assert verdict.copies == 1
    assert verdict.among == pytest.approx(1)
    shuffled = np.random.default_rng(0).permutation(train.label)
    assert judge(train.image, shuffled).accuracy < 0.2
    accuracy, frechet = judge.reference()
    assert accuracy > 0.95
    assert 0 < judge.floor(1000) < judge.floor(300) < frechet


def test_the_gradient_noise_is_unbiased() -> None:
    """Three gradients at a time, of a known mean and covariance."""
    rng, trials = np.random.default_rng(2), 3000
    mean, root = rng.normal(size=5), rng.normal(size=(5, 5))
    g = mean + rng.normal(size=(trials, 3, 5)) @ root.T
    noises = [gradient_noise.noise(one @ one.T) for one in g]
    for name, expected in (("mean2", mean @ mean), ("trace", np.trace(root @ root.T))):
        values = np.array([getattr(noise, name) for noise in noises])
        error = values.std() / np.sqrt(trials)
        assert abs(values.mean() - expected) < 4 * error
        assert error < 0.05 * np.trace(root @ root.T)


def test_the_gradient_noise_of_many_gradients() -> None:
    rng = np.random.default_rng(3)
    mean, std = np.ones(30), 2.0
    g = mean + std * rng.normal(size=(400, 30))
    noise = gradient_noise.noise(g @ g.T)
    assert noise.ratio == pytest.approx(std**2, abs=4 * noise.error)
    assert 0 < noise.error < 0.1 * std**2


def test_brightness_is_the_mean_of_an_image() -> None:
    images = np.zeros((3, 4, 4, 3), np.uint8)
    images[1], images[2, :, :, 0] = 255, 255
    np.testing.assert_allclose(zero_terminal_snr.brightness(images), [-1, 1, -1 / 3])


def test_labels_are_drawn_in_the_proportions_of_the_data() -> None:
    label = np.repeat([0, 1, 2], [10, 30, 60])
    drawn = zero_terminal_snr.proportional(label, 50)
    assert np.bincount(drawn).tolist() == [5, 15, 30]
    assert (drawn == zero_terminal_snr.proportional(label, 50)).all()
    assert (np.diff(drawn) < 0).any()


def test_the_predicted_brightness_is_what_a_perfect_network_draws() -> None:
    """Images of one element, N(m, s^2), so wide that SD's end tells much of them."""
    mean, std, count = 6.0, 15.0, 4000
    levels = jd.grids.Trailing()(jd.Table(jd.ScaledLinearBetas()), 100)
    keys = jax.random.split(jax.random.key(0), count)
    denoise = jd.gaussian_denoiser(mean, std)
    x0 = jd.sample(denoise, jd.UNCONDITIONAL, keys, (1,), levels, jd.Heun())
    predicted = zero_terminal_snr.predicted(levels[0], mean, std, 1)
    assert predicted[0] < 0.5 * mean
    assert predicted[1] < 0.8 * std
    assert float(x0.mean()) == pytest.approx(predicted[0], abs=4 * std / np.sqrt(count))
    assert float(x0.std()) == pytest.approx(predicted[1], rel=4 / np.sqrt(2 * count))


def test_differences_of_weights_are_relative_norms() -> None:
    exact = {"a": {"w": np.full((2, 2), 2.0)}, "gain": np.array(0.0), "b": np.array([3.0])}
    made = {"a": {"w": np.full((2, 2), 2.5)}, "gain": np.array(0.5), "b": np.array([4.5])}
    differences = ema_made.differences(made, exact)
    # squares: 4 x 0.25 of 16; 0.25 of nothing, which has no ratio; 2.25 of 9
    assert differences["whole"] == pytest.approx((3.5 / 25) ** 0.5)
    assert (differences["largest"], differences["tensor"]) == (pytest.approx(0.5), "b")


def test_every_nth_snapshot_of_some_widths_makes_the_average(tmp_path: Path) -> None:
    path = tracked(tmp_path / snapshots.TRACKED, 640, 40, (0.05, 0.10, 0.20))
    exact, errors = average(path, 0.20), []
    for every in (1, 4):
        made, lack = ema_made.made_of(tmp_path, (0.05, 0.10), every, 0.20)
        assert made.step == 640
        apart = np.linalg.norm(weight(made) - exact) / np.linalg.norm(exact)
        errors.append((apart, lack))
    times = np.repeat(np.arange(160, 641, 160), 2)
    expected = ema_lengths.profile_errors(times, [0.05, 0.10] * 4, 640, [0.20])
    assert errors[1][1] == pytest.approx(expected[0], rel=1e-9)
    assert 1e-6 < errors[0][0] < 5e-3  # of 0.20 itself it would be rounding alone
    assert errors[0][0] < errors[1][0]


def test_a_book_finds_what_it_wrote(tmp_path: Path) -> None:
    book = study.Book(tmp_path / "book.json", [])
    book.write({"run": "a", "step": 1}, {"mse": np.array([1 / 3, 2.0]), "count": 7})
    book.write({"run": "a", "step": 2}, {"mse": 0.1})
    again = study.Book(book.path, json.loads(book.path.read_text()))
    assert again.find(run="a", step=1) == {
        "run": "a", "step": 1, "mse": [0.333333, 2.0], "count": 7
    }  # fmt: skip
    assert again.find(run="a", step=3) is None
    assert len(book.path.read_text().splitlines()) == 4


@pytest.mark.parametrize(
    "name", ["flow_against_score", "improved_ddpm", "table_or_prediction"]
)
def test_a_study_that_lacks_nothing_trains_nothing_and_prints_its_page(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def trained(run: str, _: object) -> None:
        pytest.fail(f"{run} would be trained")

    with forgetting():
        script = importlib.import_module(name)
    rows = json.loads((RESULTS / f"{name}.json").read_text())
    monkeypatch.setattr(study, "book", lambda _: study.Book(RESULTS / "none.json", rows))
    monkeypatch.setattr(study, "trained", trained)
    monkeypatch.setattr(study, "save", lambda figure, _: plt.close(figure))
    script.main()
    page = (RESULTS / f"{name}.md").read_text().replace("**", "").splitlines()
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert len(said) > 10
    assert set(said) - set(page) == set()


def test_a_table_is_markdown() -> None:
    lines = study.table(["a", "b"], [["c", "1"]]).splitlines()
    assert lines == ["| a | b |", "| --- | ---: |", "| c | 1 |"]


@pytest.mark.parametrize("name", ["PNG", "ZIP of pictures", "sample NPZ", "latents NPZ"])
def test_flipped_bits_are_told_from_whole_files(name: str, tmp_path: Path) -> None:
    kind = flips.KINDS[name](tmp_path / "data")
    whole, data = flips.digest(kind.load()), kind.path.read_bytes()
    assert flips.outcome(kind, whole, 0) == ("whole", "")
    assert flips.outcome(kind, "another", 0) == ("changed", "")
    for at in flips.used(data)[:: len(data) // 25]:
        damaged = bytearray(data)
        damaged[at] ^= 2
        kind.path.write_bytes(damaged)
        assert flips.outcome(kind, whole, 0)[0] in ("whole", "refused")


def test_the_small_network_sees_pixels_level_and_class() -> None:
    net = small_network.ResidualMLP(label_dim=3, width=4, depth=2, embedding=5)
    rng = np.random.default_rng(0)
    x, c_noise = rng.normal(size=(2, 2, 2, 1)).astype(np.float32), np.float32([0.1, 0.4])
    told = lambda *label: jd.Condition(label=np.array(label))
    variables = jax.jit(net.init)(jax.random.key(0), x, c_noise, told(0, 1))
    apply = jax.jit(net.apply)
    assert not apply(variables, x, c_noise, told(0, 1)).raw.any()
    some = lambda a: a + rng.normal(size=a.shape).astype(np.float32)
    variables = jax.tree.map(some, variables)
    out = apply(variables, x, c_noise, told(0, 1)).raw
    assert out.shape == x.shape
    others = [
        (x, c_noise, told(0, 2)),
        (x, np.float32([0.1, 0.5]), told(0, 1)),
        (x + np.float32([0, 1])[:, None, None, None], c_noise, told(0, 1)),
    ]
    for other in others:  # only the second image's differ
        same = np.asarray(apply(variables, *other).raw == out).all((1, 2, 3))
        assert same.tolist() == [True, False]
    withheld = apply(variables, x, c_noise, told(-1, -1)).raw
    np.testing.assert_array_equal(
        withheld, apply(variables, x, c_noise, jd.Condition()).raw
    )
    one_level = apply(variables, x, c_noise[0], told(0, 1)).raw
    np.testing.assert_allclose(one_level[0], out[0], rtol=1e-5)
    only_first = jd.Condition(label=np.array([0, 1]), noise=np.array([True, False]))
    unaware = [apply(variables, x, c, only_first).raw for c in (c_noise, 3 * c_noise)]
    np.testing.assert_array_equal(unaware[0][0], out[0])
    assert not np.allclose(unaware[0][1], out[1])
    np.testing.assert_array_equal(unaware[0][1], unaware[1][1])  # whatever the level
    with pytest.raises(ValueError, match="3 wide and an image has 4 elements"):
        net.clone(width=3).apply(variables, x, c_noise, told(0, 1))


def test_the_small_network_says_a_variance_of_its_own() -> None:
    net = small_network.ResidualMLP(width=4, depth=1, embedding=5)
    both = net.clone(learned_variance=True)
    assert (net.learned_variance, both.learned_variance) == (False, True)
    x, at = np.ones((2, 2, 2, 1), np.float32), (np.float32(0.1), jd.Condition())
    variables, rng = jax.jit(both.init)(jax.random.key(0), x, *at), np.random.default_rng(0)
    some = lambda a: a + rng.normal(size=a.shape).astype(np.float32)
    variables = jax.tree.map(some, variables)
    out = jax.jit(both.apply)(variables, x, *at)
    assert out.variance.shape == x.shape
    assert (np.asarray(out.variance) != np.asarray(out.raw)).all()
    *_, last = sorted(variables["params"])
    plain = {"params": {k: v for k, v in variables["params"].items() if k != last}}
    alone = jax.jit(net.apply)(plain, x, *at)
    assert alone.variance is None
    np.testing.assert_array_equal(alone.raw, out.raw)


class Three:
    """Three images of 2x2 pixels, two of them of class 0."""

    label = np.array([0, 1, 0], np.int32)
    image = np.array([[0, 255, 30, 9], [120, 7, 200, 90], [255, 1, 0, 60]], np.uint8)

    def load(self) -> Dataset:
        return Dataset(Memory(self.image.reshape(3, 2, 2, 1), self.label), ("a", "b"))


def test_a_perfect_network_is_the_posterior_mean_of_the_images_of_a_class() -> None:
    at, label = jd.NoiseLevel(0.6, 0.9), np.array([0, 1, 0, 1], np.int32)
    x = np.random.default_rng(0).normal(size=(4, 2, 2, 1)).astype(np.float32)
    said = debias_order.perfect(Three())(x, at, jd.Condition(label=label)).x0
    for state, own, x0 in zip(x, label, np.asarray(said), strict=True):
        points = Three.image[Three.label == own] / 127.5 - 1
        gap = ((state.ravel() - 0.6 * points) ** 2).sum(1) / (2 * 0.9**2)
        share = np.exp(-gap) / np.exp(-gap).sum()
        assert x0.ravel() == pytest.approx(share @ points, rel=1e-5, abs=1e-6)
