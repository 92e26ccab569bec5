"""Coefficients of long grids against 80-bit arithmetic: levels one step apart are close.

In float32, g = 1 - snr / snr' of a step of 4,000 has three digits. Every table that a
solver makes of concrete levels is made in float64 and rounded once, so all that is left is
the rounding of the result.
"""

from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.evaluation import likelihood
from jaxdiff.objectives.losses import DensityDecoder, bound_term
from jaxdiff.sampling import solvers
from jaxdiff.schedules.posterior import LargeVariance, LearnedVariance, SmallVariance, chain
from jaxdiff.types import Denoised, NoiseLevel

ROUNDING = 1.2e-7
"""One rounding to float32, 6e-8, and that of a square root after it."""
X = jnp.zeros((1, 1))
LONG = np.longdouble

RECIPES = {"linear": jd.LinearBetas, "cosine": jd.CosineBetas}
CASES = [(name, steps) for name in RECIPES for steps in (1000, 4000)]
long_grids = pytest.mark.parametrize(("recipe", "steps"), CASES)


@lru_cache
def table(recipe: str, steps: int) -> jd.Table:
    return jd.Table(RECIPES[recipe](steps))


@lru_cache
def grid(recipe: str, steps: int) -> NoiseLevel:
    return jd.grids.Trailing()(table(recipe, steps), steps)


def exact(betas: np.ndarray) -> tuple[NoiseLevel, NoiseLevel]:
    """The steps of a process from noise to data, in extended precision."""
    power = np.r_[LONG(1), np.cumprod(1 - np.asarray(betas, LONG))][::-1]
    alpha, sigma = np.sqrt(power), np.sqrt(1 - power)
    return NoiseLevel(alpha[:-1], sigma[:-1]), NoiseLevel(alpha[1:], sigma[1:])


def share(at: NoiseLevel, to: NoiseLevel) -> tuple[np.ndarray, np.ndarray]:
    """q = alpha sigma' / (alpha' sigma), and 1 - q^2."""
    q = at.alpha * to.sigma / (to.alpha * at.sigma)
    return q, (1 - q) * (1 + q)


def close(actual: object, expected: np.ndarray, rtol: float = ROUNDING) -> None:
    np.testing.assert_allclose(np.float64(actual), np.float64(expected), rtol=rtol)


@long_grids
def test_ancestral_coefficients(recipe: str, steps: int) -> None:
    at, to = exact(table(recipe, steps).betas())
    q, g = share(at, to)
    _, between = solvers.Ancestral().init(X, grid(recipe, steps))[1]
    close(between.c_x0, to.alpha * g)
    close(between.c_x, q * to.sigma / at.sigma)
    close(between.small[:-1], (to.sigma**2 * g)[:-1])
    close(between.large, g * at.sigma**2)


@long_grids
def test_model_variances(recipe: str, steps: int) -> None:
    at, to = exact(table(recipe, steps).betas())
    _, g = share(at, to)
    small, large = np.log((to.sigma**2 * g)[:-1]), np.log((g * at.sigma**2)[:-1])
    _, between = solvers.Ancestral().init(X, grid(recipe, steps))[1]
    inner = jax.tree.map(lambda a: a[:-1], between)
    # the logarithm of a float32 is off by its rounding, and by that of its input
    for rule, expected in (
        (SmallVariance(), small),
        (LargeVariance(), large),
        (LearnedVariance(), 0.65 * large + 0.35 * small),
    ):
        log_variance = np.float64(rule(inner, jnp.float32(0.3)))
        np.testing.assert_allclose(log_variance, np.float64(expected), rtol=3e-7, atol=2e-7)


@long_grids
@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_ddim_coefficients(recipe: str, steps: int, eta: float) -> None:
    at, to = exact(table(recipe, steps).betas())
    _, g = share(at, to)
    fresh = LONG(eta) * to.sigma * np.sqrt(g)
    down = np.sqrt(to.sigma**2 - fresh**2)
    rule, noise = solvers.DDIM(eta).init(X, grid(recipe, steps))[1]
    close(noise, fresh)
    close(rule.x, down / at.sigma)
    close(rule.x0, to.alpha - at.alpha * down / at.sigma)


@long_grids
def test_coefficients_of_the_flow(recipe: str, steps: int) -> None:
    at, to = exact(table(recipe, steps).betas())
    levels = grid(recipe, steps)
    of_x0 = to.alpha - at.alpha * to.sigma / at.sigma
    euler, _ = solvers.Euler().init(X, levels)[1]
    close(euler.x0, of_x0)
    heun, correction, _ = solvers.Heun().init(X, levels)[1]
    close(heun.x0, of_x0)
    inner = slice(None, -1)
    trapezoid = (to.alpha * at.sigma)[inner] / to.sigma[inner] - at.alpha[inner]
    close(correction[inner], trapezoid / 2)
    # the middle in ln(sigma / alpha) is on the ray of the geometric means
    two_s = solvers.DPMSolverPP2S().init(X, levels)[1]
    mid = NoiseLevel(np.sqrt(at.alpha * to.alpha), np.sqrt(at.sigma * to.sigma))
    close(two_s.to_mid.x0[inner], (mid.alpha - at.alpha * mid.sigma / at.sigma)[inner])


@long_grids
@pytest.mark.parametrize("kind", [solvers.EulerMaruyama, solvers.StochasticHeun])
def test_coefficients_of_the_sde(recipe: str, steps: int, kind: type) -> None:
    at, to = exact(table(recipe, steps).betas())
    d = NoiseLevel(to.alpha - at.alpha, to.sigma - at.sigma)
    added = 2 * at.sigma * (at.sigma * d.alpha / at.alpha - d.sigma)
    added = np.minimum(added, 2 * at.sigma**2)
    of_x = (d.sigma - added / (2 * at.sigma)) / at.sigma
    row = kind().init(X, grid(recipe, steps))[1]
    row = row[0] if isinstance(row, tuple) else row
    close(np.float64(row.noise[:-1]) ** 2, added[:-1], 2 * ROUNDING)
    close(row.x[:-1], (1 + of_x)[:-1])
    close(row.x0[:-1], (d.alpha - at.alpha * of_x)[:-1])


@long_grids
def test_a_respaced_process_has_the_betas_of_its_levels(recipe: str, steps: int) -> None:
    kept = tuple(range(0, steps, 2))
    betas = jd.RespacedBetas(table(recipe, steps).betas, kept)()
    power = np.cumprod(1 - np.asarray(table(recipe, steps).betas(), LONG))[list(kept)]
    close(betas, 1 - power / np.r_[LONG(1), power[:-1]], 1e-10)


@long_grids
def test_terms_of_the_bound(recipe: str, steps: int) -> None:
    """KL between posteriors whose variances are close, for D = x0 and LargeVariance."""
    at, to = exact(table(recipe, steps).betas())
    ratio = np.log(to.sigma[:-1] ** 2 / at.sigma[:-1] ** 2)
    expected = np.float64((np.expm1(ratio) - ratio) / 2 / np.log(LONG(2)))
    rows = likelihood.process(table(recipe, steps), steps).between
    x0 = jnp.zeros((1, 1))
    one = lambda row: bound_term(Denoised(x0), x0, row, LargeVariance(), DensityDecoder())
    terms = np.asarray(jax.jit(jax.vmap(one))(jax.tree.map(jnp.asarray, rows)))[::-1, 0]
    # logarithms near -10 are rounded to 1e-6; the sum is what a likelihood is made of
    assert abs(terms[:-1].sum() / expected.sum() - 1) < 2e-5
    np.testing.assert_allclose(terms[:-1], expected, rtol=5e-3, atol=1e-10)


def test_rows_do_not_depend_on_jit_and_traced_levels_still_sample() -> None:
    levels = grid("linear", 1000)
    at, to = exact(table("linear", 1000).betas())
    expected = to.alpha * share(at, to)[1]
    inside = jax.jit(lambda: solvers.Ancestral().init(X, levels)[1][1].c_x0)()
    close(inside, expected)
    traced = jax.jit(lambda levels: solvers.Ancestral().init(X, levels)[1][1].c_x0)(levels)
    close(traced, expected, 1e-3)
    keys, toy = jax.random.split(jax.random.key(0), 4), jd.gaussian_denoiser(1.0, 0.5)
    run = lambda levels: jd.sample(
        toy, jd.Condition(), keys, (3,), levels, solvers.Ancestral()
    )
    few = jd.grids.Trailing()(table("linear", 1000), 20)
    np.testing.assert_allclose(jax.jit(run)(few), jax.jit(lambda: run(few))(), atol=2e-5)


def test_grids_made_inside_jit_are_constants() -> None:
    """A closed form and a table, evaluated while a function is traced."""

    def levels(path: object) -> NoiseLevel:
        made = jd.grids.Uniform()(path, 5)
        assert isinstance(made.sigma, np.ndarray)
        assert made.sigma.dtype == np.float64
        return made

    for path in (jd.Cosine(), table("cosine", 1000)):
        inside = jax.jit(lambda path=path: levels(path))()
        np.testing.assert_allclose(inside.sigma, levels(path).sigma, rtol=ROUNDING)


def test_chain_on_host_is_float64() -> None:
    rows = chain(NoiseLevel(np.array([1.0, 0.8]), np.array([0.0, 0.6])))
    assert rows.c_x0.dtype == np.float64
