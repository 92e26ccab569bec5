"""Kernels, manifolds, shadows, scores and memory, against what they are by hand."""

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.stats import wasserstein_distance

from jaxdiff.evaluation import distances as d
from jaxdiff.evaluation.distances import points as p
from jaxdiff.evaluation.distances.sliced import directions

DRAW = np.random.default_rng(1)
REAL, FAKE = DRAW.standard_normal((40, 5)), 1.2 * DRAW.standard_normal((33, 5)) + 0.3
PAIR = {"real": REAL, "fake": FAKE}
EVERY: list[Callable[..., Any]] = [d.kid, d.rbf_mmd, d.cmmd, d.prdc, d.precision_recall]
EVERY += [d.sliced_wasserstein]


@pytest.fixture(params=[1 << 22, 100, 1])
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of all pairs, of two or three rows, of one."""
    monkeypatch.setattr(p, "BLOCK", request.param)
    monkeypatch.setattr("jaxdiff.evaluation.distances.sliced.BLOCK", request.param)


@pytest.mark.usefixtures("block")
class TestByHand:
    """The definitions, one pair at a time, whatever the size of blocks."""

    def test_kernels(self) -> None:
        def mean(kernel: Any, a: np.ndarray, b: np.ndarray, apart: bool) -> float:
            pairs = [(i, j) for i in range(len(a)) for j in range(len(b))]
            kept = [ij for ij in pairs if not (apart and ij[0] == ij[1])]
            return np.mean([kernel(a[i], b[j]) for i, j in kept])

        def mmd(kernel: Any, apart: bool, x: np.ndarray, y: np.ndarray) -> float:
            within = mean(kernel, x, x, apart) + mean(kernel, y, y, apart)
            return within - 2 * mean(kernel, x, y, False)

        cube = lambda x, y: (x @ y / 5 + 1) ** 3
        bell = lambda s: lambda x, y: np.exp(-np.sum((x - y) ** 2) / (2 * s**2))
        unit = [a / np.linalg.norm(a, axis=1)[:, None] for a in (REAL, FAKE)]
        width = np.median(cdist(REAL, REAL)[np.triu_indices(40, 1)])
        expectations = {
            d.kid(**PAIR).value: mmd(cube, True, REAL, FAKE),
            d.rbf_mmd(**PAIR).value: mmd(bell(width), True, REAL, FAKE),
            d.rbf_mmd(**PAIR, bandwidth=0.7).value: mmd(bell(0.7), True, REAL, FAKE),
            d.cmmd(**PAIR): 1000 * mmd(bell(10), False, *unit),
        }
        for value, expected in expectations.items():
            assert value == pytest.approx(expected, rel=1e-10)

    def test_the_jackknife_is_of_estimates_that_lack_a_point(self) -> None:
        """Tukey's definition, one deletion at a time, the two sets apart."""
        variance = 0.0
        for name, points in PAIR.items():
            n = len(points)
            less = [
                d.kid(**{**PAIR, name: np.delete(points, i, 0)}).value for i in range(n)
            ]
            variance += (n - 1) * np.var(less)
        assert d.kid(**PAIR).error == pytest.approx(variance**0.5, rel=1e-9)
        assert np.isnan(d.kid(real=REAL, fake=FAKE[:2]).error)

    @pytest.mark.parametrize("k", [1, 4])
    def test_manifolds(self, k: int) -> None:
        radii = [np.sort(cdist(a, a), 1)[:, k] for a in (REAL, FAKE)]
        cross = cdist(REAL, FAKE)
        manifold = d.prdc(**PAIR, k=k)
        in_real, in_fake = cross < radii[0][:, None], cross < radii[1]
        assert manifold.precision == np.mean(in_real.any(0))
        assert manifold.recall == np.mean(in_fake.any(1))
        assert manifold.density == pytest.approx(np.mean(in_real.sum(0)) / k, rel=1e-14)
        assert manifold.coverage == np.mean(cross.min(1) < radii[0])

    def test_nearest(self) -> None:
        every = cdist(FAKE, REAL)
        neighbours = d.nearest(FAKE, REAL, 3)
        np.testing.assert_array_equal(neighbours.index, np.argsort(every, 1)[:, :3])
        np.testing.assert_allclose(
            neighbours.distance, np.sort(every, 1)[:, :3], rtol=1e-14
        )
        others = d.nearest(REAL, REAL, 39, apart=True)
        among = np.sort(cdist(REAL, REAL), 1)[:, 1:]
        np.testing.assert_allclose(others.distance, among, rtol=1e-14)

    def test_sliced_wasserstein(self) -> None:
        lines = directions(5, 12, 3)
        each = [wasserstein_distance(REAL @ t, FAKE @ t) for t in lines]
        distance = d.sliced_wasserstein(**PAIR, lines=12, seed=3, power=1)
        assert distance == pytest.approx(np.mean(each), rel=1e-12)


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_kid_is_unbiased_and_its_error_honest(shift: float) -> None:
    """Over 400 draws of 30: the mean is the law's to 4 errors, the error within 2^(1/2).

    Of N(0, 1) and N(shift, 1) in one dimension, k = (x y + 1)^3 has E k = sum over its
    terms of the products of moments, so MMD^2 = 3 s^2 + 3 (s^2)^2 + (s^3 + 3 s)^2.
    """
    draw = np.random.default_rng(5)
    sets = draw.standard_normal((400, 2, 30, 1)) + np.array([0, shift])[:, None, None]
    estimates = [d.kid(real=real, fake=fake) for real, fake in sets]
    values, errors = np.array([(e.value, e.error) for e in estimates]).T
    expected = 3 * shift**2 + 3 * shift**4 + (shift**3 + 3 * shift) ** 2
    assert abs(values.mean() - expected) < 4 * values.std() / 400**0.5
    assert 0.9 < np.sqrt(np.mean(errors**2)) / values.std() < 1.6


def test_biased_mmd_is_biased_by_one_over_n() -> None:
    """Of one law E = (1/n + 1/m)(E k(x, x) - E k(x, x')), a positive number."""
    draw = np.random.default_rng(6)
    each = [
        d.biased_mmd(d.RBF(1.0), real=draw.standard_normal((20, 1)), fake=other)
        for other in draw.standard_normal((400, 20, 1))
    ]
    expected = 2 / 20 * (1 - 3**-0.5)
    assert np.mean(each) == pytest.approx(expected, abs=4 * np.std(each) / 400**0.5)
    assert min(each) >= 0


def test_subsets_are_torch_fidelitys() -> None:
    """Fake before real, from one legacy generator."""
    draw, values = np.random.RandomState(7), []
    for _ in range(3):
        fake = FAKE[draw.choice(33, 10, replace=False)]
        values.append(d.kid(real=REAL[draw.choice(40, 10, replace=False)], fake=fake).value)
    estimate = d.kid_of_subsets(**PAIR, subsets=3, size=10, seed=7)
    assert estimate.value == pytest.approx(np.mean(values), rel=1e-13)
    assert estimate.error == pytest.approx(np.std(values) / 3**0.5, rel=1e-13)


@pytest.mark.parametrize("far", [0.0, 1e3])
@pytest.mark.parametrize("many", [1, 6])
def test_ties_are_told_from_near_ties(far: float, many: int) -> None:
    """Of equal sets each ball holds k - 1 others, its centre, and one on its surface.

    The surface counts or not, in every ball, wherever the points are; a point that is
    there many times is a ball of radius 0, without inside.
    """
    points = np.repeat(DRAW.standard_normal((50, 17)) + far, many, axis=0)
    mixed = points[DRAW.permutation(len(points))]
    within = d.prdc(real=points, fake=mixed, k=5)
    closed = d.prdc(real=points, fake=mixed, k=5, closed=True)
    assert closed.density == pytest.approx(6 / 5, rel=1e-14)
    assert within.density == pytest.approx(1.0 if many == 1 else 0.0, rel=1e-14)
    assert within.coverage == (many == 1)
    assert d.precision_recall(real=points, fake=mixed) == (1, 1)
    assert d.nearest(mixed, points).distance.max() == 0


def test_manifolds_of_extremes() -> None:
    """One mode of two: precision 1, recall 1/2. One image only: precision 1 likewise."""
    left, right = DRAW.uniform(0, 1, (2, 60, 2)) + np.array([[[0, 0]], [[9, 0]]])
    both = np.concatenate([left, right])
    half = d.prdc(real=both, fake=left)
    assert (half.precision, half.recall, half.coverage) == (1, 0.5, 0.5)
    outlier = np.concatenate([both, [[30.0, 0]]])
    white = d.prdc(real=outlier, fake=np.full((50, 2), [20.0, 0]))
    assert (white.precision, white.recall) == (1, 0)
    assert white.coverage == 1 / 121


def test_precision_and_recall_are_not_swapped() -> None:
    wide, narrow = 3 * DRAW.standard_normal((200, 2)), 0.1 * DRAW.standard_normal((200, 2))
    precision, recall = d.precision_recall(real=wide, fake=narrow)
    assert precision > 0.9
    assert recall < 0.1
    assert d.precision_recall(real=narrow, fake=wide) == (recall, precision)


def test_inception_scores_of_known_laws() -> None:
    """exp of the mutual information: classes if sure, 1 if unsure or all alike."""
    sure, classes = np.eye(5)[np.arange(50) % 5], 5
    assert d.inception_score(sure, 1).value == pytest.approx(classes, rel=1e-14)
    assert d.inception_score(np.full((50, 5), 0.2), 1).value == pytest.approx(1, rel=1e-14)
    assert d.inception_score(np.eye(5)[np.zeros(50, int)]).value == pytest.approx(1)
    # said right with probability 1 - e, otherwise one of the other four: ln 5 - H
    e = 0.2
    noisy = (1 - e) * sure + e / 4 * (1 - sure)
    entropy = -(1 - e) * np.log(1 - e) - e * np.log(e / 4)
    expected = np.exp(np.log(5) - entropy)
    assert d.inception_score(noisy, 1).value == pytest.approx(expected, rel=1e-13)
    logits = np.log(noisy) + 1000 * DRAW.standard_normal((50, 1))
    score = d.inception_score(d.softmax(logits), 1).value
    assert score == pytest.approx(expected, rel=1e-11)


def test_inception_score_of_sorted_classes_is_shuffled() -> None:
    """As they are, each half has two of four classes; thirds are of 16, 17 and 17."""
    ordered = np.eye(4)[np.arange(52) // 13]
    assert d.inception_score(ordered, 2, seed=None).value == pytest.approx(2, rel=1e-14)
    assert d.inception_score(ordered, 2).value > 3.5
    ordered = ordered[:50]
    shuffled = ordered[np.random.RandomState(2020).permutation(50)]
    parts = [d.inception_score(shuffled[a:b], 1).value for a, b in ((0, 16), (16, 33))]
    parts += [d.inception_score(shuffled[33:], 1).value]
    three = d.inception_score(ordered, 3)
    assert three.value == pytest.approx(np.mean(parts), rel=1e-13)
    assert three.error == pytest.approx(np.std(parts), rel=1e-10)


@pytest.mark.parametrize(("lines", "dims"), [(5, 5), (15, 5), (4, 1)])
def test_sliced_wasserstein_of_a_shift(lines: int, dims: int) -> None:
    x, shift = DRAW.standard_normal((30, dims)), DRAW.standard_normal(dims)
    distance = d.sliced_wasserstein(real=x, fake=x + shift, lines=lines)
    assert distance == pytest.approx(np.linalg.norm(shift) / dims**0.5, rel=1e-12)


def test_sliced_wasserstein_of_unequal_numbers() -> None:
    """Of {0, 1, 2} and {0, 3}: u in thirds and halves, |gap| = 0, 1/6 of 1, 1/6 of 2, 1."""
    x, y = np.array([[0.0], [1.0], [2.0]]), np.array([[0.0], [3.0]])
    for power in (1, 2):
        expected = (1 / 6 * 1 + 1 / 6 * 2**power + 1 / 3 * 1) ** (1 / power)
        distance = d.sliced_wasserstein(real=x, fake=y, lines=2, power=power)
        assert distance == pytest.approx(expected, rel=1e-14)
    twice = np.repeat(REAL, 3, axis=0)
    assert d.sliced_wasserstein(real=REAL, fake=twice) < 1e-7
    assert d.sliced_wasserstein(**PAIR, seed=1) != d.sliced_wasserstein(**PAIR, seed=2)


def test_lines_are_uniform_frames() -> None:
    lines = directions(3, 3000, 0)
    np.testing.assert_allclose(lines[:3] @ lines[:3].T, np.eye(3), atol=1e-14)
    assert np.abs(lines.mean(0)).max() < 4 * (1 / 3 / 3000) ** 0.5
    assert directions(9, 4, 0).shape == (4, 9)


@pytest.mark.parametrize("held", [400, 100, 1600])
def test_memorisation_of_copies(held: int) -> None:
    """A share c of copies of train, else draws of the law: `copied` is c, of any sizes."""
    train, fresh = DRAW.standard_normal((2, 400, 6))
    holdout = DRAW.standard_normal((held, 6))
    of = lambda samples: d.memorisation(samples=samples, train=train, holdout=holdout)
    none = of(fresh)
    fair = 400 / (400 + held)
    assert none.nearer == pytest.approx(fair + none.copied * (1 - fair))
    assert abs(none.copied) < 4 * none.error
    some = of(np.concatenate([train[:200], fresh[:200]]))
    assert abs(some.copied - 0.5) < 4 * none.error
    every = of(train[::-1])
    assert (every.nearer, every.copied) == (1, 1)
    np.testing.assert_array_equal(every.nearest, np.arange(400)[::-1])
    assert of(holdout).nearer == 0
    both = d.memorisation(samples=fresh, train=train, holdout=train)
    assert (both.nearer, both.copied) == (0.5, 0)
    same = d.memorisation(samples=train, train=train, holdout=train)
    assert same.nearer == 0.5


def test_the_error_is_that_of_samples_without_memory() -> None:
    """Over 400 sets of 50 fresh samples, train and holdout drawn anew each time."""
    results = [
        d.memorisation(samples=x[:50], train=x[50:90], holdout=x[90:100])
        for x in DRAW.standard_normal((400, 100, 3))
    ]
    copied = np.array([f.copied for f in results])
    assert abs(copied.mean()) < 4 * copied.std() / 20
    # samples share their neighbours, so the spread is wider than of independent ones
    assert 1 <= copied.std() / results[0].error < 3


@pytest.mark.parametrize("f", [d.kid, d.rbf_mmd, d.cmmd, d.prdc, d.nearest])
def test_no_matrix_of_all_pairs(
    f: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All pairs are 32 MB; a block is 0.5 MB, beside a few copies of the points."""
    monkeypatch.setattr(p, "BLOCK", 1 << 16)
    real, fake = DRAW.standard_normal((2, 2000, 4))
    width = {"bandwidth": 1.0} if f is d.rbf_mmd else {}
    positional = (real, fake) if f is d.nearest else ()
    sets = {} if f is d.nearest else {"real": real, "fake": fake, **width}
    assert peak(lambda: f(*positional, **sets)) < 4e6


def test_nearest_among_few_makes_no_tensor_of_differences() -> None:
    """Of 8 among 8 in 3000 dimensions, 400 points differ by 77 MB, themselves 10 MB."""
    x = DRAW.standard_normal((400, 3000))
    assert peak(lambda: d.nearest(x, x[:8], 4)) < 77e6


def peak(call: Callable[[], Any]) -> float:
    """Bytes that a call takes at most."""
    tracemalloc.start()
    call()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most


@pytest.mark.parametrize("f", EVERY)
def test_what_are_no_points_is_refused(f: Callable[..., Any]) -> None:
    bad = REAL.copy()
    bad[3, 1], bad[7, 0] = np.nan, np.inf
    for wrong, message in (
        ({"real": REAL[:, 0]}, r"real have shape \(40,\): give \[N, D\]"),
        ({"fake": FAKE.reshape(33, 5, 1)}, r"fake have shape \(33, 5, 1\)"),
        ({"real": bad}, "real are not finite in 2 of 40 rows, the first row 3"),
        ({"fake": FAKE[:, :4]}, "real have 5 numbers a point, fake 4: take both from"),
        ({"fake": FAKE[:0]}, "fake are 0: give"),
    ):
        with pytest.raises(ValueError, match=message):
            f(**{**PAIR, **wrong})
    if f is not d.sliced_wasserstein:
        with pytest.raises(ValueError, match="fake are 1: give 2 or more"):
            f(real=REAL, fake=FAKE[:1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: d.prdc(**PAIR, k=33), "k = 33 of 32 others: give k from 1 to 32"),
        (lambda: d.prdc(**PAIR, k=0), "k = 0 of 39 others"),
        (lambda: d.kid_of_subsets(**PAIR), "subsets of 1000 from 40 real and 33 fake"),
        (lambda: d.rbf_mmd(**PAIR, bandwidth=0.0), "a bandwidth of 0.0: give a positive"),
        (lambda: d.rbf_mmd(real=0 * REAL, fake=FAKE), "a bandwidth of 0.0: give"),
        (lambda: d.cmmd(real=0 * REAL, fake=FAKE), "point 0 is 0 and has no direction"),
        (lambda: d.frechet_of_points(REAL, FAKE[:1]), "fake are 1: give 2"),
        (lambda: d.inception_score(REAL), r"are not probabilities: give softmax\(logits\)"),
        (lambda: d.inception_score(np.eye(4)), "10 splits of 4 rows: give 1 to 4"),
        (lambda: d.sliced_wasserstein(**PAIR, lines=0), "0 lines"),
    ],
)
def test_what_has_no_answer_is_refused(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
