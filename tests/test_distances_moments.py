"""Moments in pieces, on devices and off, and the Frechet distance in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec
from scipy.linalg import sqrtm

from jaxdiff.evaluation import distances as d

DRAW = np.random.default_rng(0)
MIX = DRAW.standard_normal((6, 6))
POINTS = DRAW.standard_normal((500, 6)) @ MIX + 3
SORTED = POINTS[np.argsort(POINTS[:, 0])]
"""By class, as it were: parts have means far apart."""


def same(a: d.Moments, b: d.Moments, tolerance: float) -> None:
    assert a.count == b.count
    for one, other in ((a.mean, b.mean), (a.scatter, b.scatter)):
        limit = tolerance * np.abs(other).max()
        np.testing.assert_allclose(one, other, rtol=0, atol=limit)


@pytest.mark.parametrize("size", [1, 7, 64, 500])
def test_pieces_merge_to_the_whole(size: int) -> None:
    whole = d.Moments.of(SORTED)
    np.testing.assert_allclose(whole.covariance, np.cov(SORTED.T), rtol=1e-12)
    parts = [d.Moments.of(SORTED[i : i + size]) for i in range(0, 500, size)]
    same(sum(parts[1:], parts[0]), whole, 1e-13)
    same(sum(parts[:-1], parts[-1]), whole, 1e-13)


def test_means_of_moments_are_wrong() -> None:
    """Of class-sorted hosts, covariances' mean lacks the gaps between hosts' means."""
    target = d.moments(DRAW.standard_normal((500, 6)) @ MIX + 3)
    hosts = [d.Moments.of(part) for part in np.split(SORTED, 4)]
    merged = hosts[0] + hosts[1] + hosts[2] + hosts[3]
    right = d.frechet(*d.moments(POINTS), *target)
    mean = np.mean([h.mean for h in hosts], 0)
    averaged = np.mean([h.covariance for h in hosts], 0)
    assert d.frechet(merged.mean, merged.covariance, *target) == pytest.approx(
        right, rel=1e-10
    )
    assert d.frechet(mean, averaged, *target) > 1.5 * right


def padded(part: np.ndarray, size: int) -> tuple[jax.Array, jax.Array]:
    """The rows and a mask, filled up with what must not count."""
    rows = np.full((size, part.shape[1]), np.nan, np.float32)
    rows[: len(part)] = part
    return jnp.asarray(rows), jnp.arange(size) < len(part)


SUMS = jax.jit(d.sums)


@pytest.mark.parametrize("size", [40, 128])
def test_sums_of_padded_batches(size: int) -> None:
    """float32 about a shift near the mean: sums of 500 terms, each off by 6e-8."""
    far = POINTS + 1000
    shift = jnp.asarray(far[:50].mean(0), jnp.float32)
    batches = [padded(far[i : i + size], size) for i in range(0, 500, size)]
    parts = [SUMS(*batch, shift) for batch in batches]
    whole = d.Moments.of(np.asarray(far, np.float32))
    merged = d.Moments.of_sums(sum(parts[1:], parts[0]), shift)
    same(merged, whole, 1e-6)
    on_host = [d.Moments.of_sums(part, shift) for part in parts]
    same(sum(on_host[1:], on_host[0]), whole, 1e-6)
    assert np.abs(merged.mean - whole.mean).max() < 1e-6 * POINTS.std()


def test_a_psum_over_devices_is_the_whole() -> None:
    """Eight devices, of which the last two hold nothing but padding."""
    mesh = Mesh(np.array(jax.devices()), ("data",))
    split, whole = PartitionSpec("data"), PartitionSpec()
    shift = jnp.asarray(SORTED.mean(0), jnp.float32)

    def reduce(features: jax.Array, mask: jax.Array) -> d.Sums:
        return jax.lax.psum(d.sums(features, mask, shift), "data")

    over = jax.shard_map(reduce, mesh=mesh, in_specs=(split, split), out_specs=whole)
    merged = d.Moments.of_sums(jax.jit(over)(*padded(SORTED, 680)), shift)
    same(merged, d.Moments.of(np.asarray(SORTED, np.float32)), 1e-6)


def test_sums_of_nothing_change_nothing() -> None:
    shift = jnp.ones(6)
    nothing = d.Moments.of_sums(SUMS(*padded(POINTS[:0], 8), shift), shift)
    whole = d.Moments.of(POINTS)
    same(nothing + whole, whole, 1e-15)
    same(nothing + nothing, nothing, 0)
    with pytest.raises(ValueError, match=r"0 points have no covariance: give 2"):
        _ = nothing.covariance


def test_sums_are_products_of_full_precision() -> None:
    """A float32 product in bfloat16's digits would pass on a CPU, so read what is asked."""
    text = str(jax.make_jaxpr(d.sums)(jnp.ones((4, 3)), jnp.ones(4, bool), jnp.ones(3)))
    assert "Precision.HIGHEST" in text


def covariance(rank: int, dims: int, seed: int) -> np.ndarray:
    root = np.random.default_rng(seed).standard_normal((dims, rank))
    return root @ root.T


def test_frechet_where_covariances_commute() -> None:
    """On one basis the distance is that of the standard deviations, |m-m'|^2 + |s-s'|^2."""
    basis = np.linalg.qr(DRAW.standard_normal((9, 9)))[0]
    one, other = DRAW.uniform(0, 3, (2, 9))
    one[:3], other[2:5] = 0, 0
    means = DRAW.standard_normal((2, 9))
    sizes = [(basis * s**2) @ basis.T for s in (one, other)]
    expected = np.sum((means[0] - means[1]) ** 2) + np.sum((one - other) ** 2)
    moments = (means[0], sizes[0], means[1], sizes[1])
    assert d.frechet(*moments) == pytest.approx(expected, rel=1e-13)


def test_frechet_is_the_trace_of_a_root() -> None:
    """Against a matrix root, where covariances are regular and do not commute."""
    a, b = covariance(12, 5, 1), covariance(12, 5, 2)
    zero = np.zeros(5)
    expected = np.trace(a + b) - 2 * np.trace(sqrtm(a @ b)).real
    assert d.frechet(zero, a, zero, b) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("rank", [1, 2, 7])
def test_frechet_of_singular_covariances(rank: int) -> None:
    """Of C and s^2 C: (s - 1)^2 tr C, however singular; and 0 to itself, not nan."""
    c, zero = covariance(rank, 7, 3), np.zeros(7)
    expected = 0.25 * np.trace(c)
    assert d.frechet(zero, c, zero, 2.25 * c) == pytest.approx(expected, rel=1e-13)
    assert abs(d.frechet(zero, c, zero, c)) < 1e-13 * np.trace(c)
    assert d.frechet(zero, c, zero, 0 * c) == pytest.approx(np.trace(c), rel=1e-13)


@pytest.mark.parametrize("count", [4, 30])
def test_frechet_sees_no_turn_nor_shift(count: int) -> None:
    turn = np.linalg.qr(DRAW.standard_normal((12, 12)))[0]
    a, b = DRAW.standard_normal((2, count, 12)) * np.arange(1, 13)
    plain = d.frechet_of_points(a, b)
    assert d.frechet_of_points(a @ turn + 5, b @ turn + 5) == pytest.approx(
        plain, rel=1e-12
    )
    assert d.frechet_of_points(b, a) == pytest.approx(plain, rel=1e-12)
    moved = d.frechet_of_points(a, a + np.arange(12.0))
    assert moved == pytest.approx(np.sum(np.arange(12.0) ** 2), rel=1e-12)


@pytest.mark.parametrize("count", [2, 5, 40])
def test_points_and_moments_agree(count: int) -> None:
    """A covariance's null space has eigenvalues of eps size, roots of 1e-8, unless cut."""
    a, b = DRAW.standard_normal((2, count, 12)) * np.logspace(0, 2, 12) + 7
    by_moments = d.frechet(*d.moments(a), *d.moments(b))
    assert d.frechet_of_points(a, b) == pytest.approx(by_moments, rel=1e-11)


def test_one_reference_serves_many() -> None:
    reference = d.Gaussian.of_moments(*d.moments(POINTS))
    for scale in (0.5, 1.0, 2.0):
        fake = POINTS[:80] * scale
        each = d.frechet(*d.moments(POINTS), *d.moments(fake))
        assert reference.frechet(d.Gaussian.of_moments(*d.moments(fake))) == each
        assert reference.frechet(d.Gaussian.of(fake)) == pytest.approx(each, rel=1e-12)


EYE = np.eye(3)


@pytest.mark.parametrize(
    ("mean", "covariance", "message"),
    [
        (np.zeros(4), EYE, r"a mean \(4,\) with a covariance \(3, 3\): give \[D\]"),
        (np.zeros((1, 3)), EYE, r"a mean \(1, 3\)"),
        (np.array([0, np.nan, 0]), EYE, "not finite"),
        (np.zeros(3), np.full((3, 3), np.inf), "not finite"),
        (np.zeros(3), EYE + np.arange(3.0), "not symmetric"),
        (np.zeros(3), EYE - 2, "negative eigenvalue, -5, beside 5"),
    ],
)
def test_what_are_no_moments_is_refused(
    mean: np.ndarray, covariance: np.ndarray, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        d.Gaussian.of_moments(mean, covariance)


def test_other_dimensions_are_refused() -> None:
    with pytest.raises(ValueError, match="3 and 4 dimensions: take both from one"):
        d.frechet(np.zeros(3), EYE, np.zeros(4), np.eye(4))


def test_sums_that_are_not_finite_are_refused() -> None:
    bad = jnp.full((4, 3), jnp.inf)
    with pytest.raises(ValueError, match="sums of 4 points are not finite"):
        d.Moments.of_sums(SUMS(bad, jnp.ones(4, bool), jnp.zeros(3)), jnp.zeros(3))
