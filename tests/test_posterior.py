"""The step between two levels: published tables, Gaussian conditioning, the ray law."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.denoisers import Clipped
from jaxdiff.schedules.posterior import (
    LargeVariance,
    LearnedVariance,
    Posterior,
    SmallVariance,
    chain,
    posterior,
)
from jaxdiff.types import NoiseLevel
from tests.toys import GOLDEN, PURE_NOISE, SCHEDULES, on_host

TABLES, LEVELS, MODEL = (
    np.load(GOLDEN / "iddpm" / f"{name}.npz")
    for name in ("posterior", "posterior_levels", "p_mean_variance")
)
NAMES = ("linear_T50", "cosine_T50", "scaled_linear_T1000")


def levels(betas: np.ndarray) -> NoiseLevel:
    """The levels 0 ... T of a discrete process, in float64."""
    alpha_bar = np.r_[1.0, np.cumprod(1 - betas)]
    return NoiseLevel(np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar))


def rows(betas: np.ndarray, t: Any = slice(None)) -> Posterior:
    """The process' steps at entries t, shaped to go with images."""
    column = lambda a: a[t].reshape(-1, 1, 1, 1) if isinstance(t, np.ndarray) else a
    return jax.tree.map(column, chain(levels(betas)))


@pytest.mark.parametrize("name", NAMES)
def test_published_tables(name: str, x64: None) -> None:
    published = lambda key: TABLES[f"{name}__{key}"]
    between, betas = rows(published("betas")), published("betas")
    small = posterior(levels(betas)[1:], levels(betas)[:-1]).small
    close = np.testing.assert_allclose
    close(between.c_x0, published("posterior_mean_coef1"), rtol=1e-9)
    close(between.c_x, published("posterior_mean_coef2"), rtol=1e-9)
    close(small, published("posterior_variance"), rtol=1e-9)
    log_small = SmallVariance()(between)
    close(log_small, published("posterior_log_variance_clipped"), rtol=1e-9)
    close(jnp.exp(LargeVariance()(between)), published("fixed_large_variance"), rtol=1e-9)
    close(between.large, betas, rtol=1e-9)


def _table(name: str) -> jd.Table:
    return jd.Table(jd.ListedBetas(tuple(TABLES[f"{name}__betas"].tolist())))


@pytest.mark.parametrize("name", NAMES)
def test_published_levels(name: str, x64: None) -> None:
    """Their functions that the reference keeps, of entries t; next of the last is noise."""
    table, published = _table(name), lambda key: LEVELS[f"{name}__{key}"]
    t = LEVELS["index"] if name == "scaled_linear_T1000" else np.arange(table.steps)
    before, at, after = (on_host(table((t + k) / table.steps)) for k in (0, 1, 2))
    eps = jd.Eps()(at)
    pure_noise = np.where(t + 1 == table.steps, 0, 1)
    for key, actual in {
        "alphas_cumprod": at.alpha**2,
        "alphas_cumprod_prev": before.alpha**2,
        "alphas_cumprod_next": after.alpha**2 * pure_noise,
        "sqrt_alphas_cumprod": at.alpha,
        "sqrt_one_minus_alphas_cumprod": at.sigma,
        "log_one_minus_alphas_cumprod": np.log(at.sigma**2),
        "sqrt_recip_alphas_cumprod": eps.c_skip,
        "sqrt_recipm1_alphas_cumprod": -eps.c_out,
    }.items():
        np.testing.assert_allclose(actual, published(key), rtol=1e-9, err_msg=key)


@pytest.mark.parametrize("name", NAMES)
def test_published_noise_of_a_batch(name: str, x64: None) -> None:
    published, table = lambda key: TABLES[f"{name}__batch_{key}"], _table(name)
    at = on_host(table((published("t").reshape(-1, 1, 1, 1) + 1) / table.steps))
    mean, variance = at.alpha * published("x_start"), at.sigma.ravel() ** 2
    np.testing.assert_allclose(mean, published("q_mean"), rtol=1e-9)
    np.testing.assert_allclose(variance, published("q_var"), rtol=1e-9)
    np.testing.assert_allclose(np.log(variance), published("q_logvar"), rtol=1e-9)
    x = mean + at.sigma * published("noise")
    np.testing.assert_allclose(x, published("x_t"), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_published_posteriors_of_a_batch(name: str, x64: None) -> None:
    """The variance of entry 0 is 0, and its logarithm that of entry 1."""
    published = lambda key: TABLES[f"{name}__batch_{key}"]
    betas, t = TABLES[f"{name}__betas"], published("t")
    between = rows(betas, t)
    mean = between.mean(published("x_start"), published("x_t"))
    np.testing.assert_allclose(mean, published("post_mean"), rtol=1e-9, atol=1e-12)
    small = posterior(levels(betas)[t + 1], levels(betas)[t]).small
    np.testing.assert_allclose(small, published("post_var"), rtol=1e-9)
    log_small = SmallVariance()(between).ravel()
    np.testing.assert_allclose(log_small, published("post_logvar"), rtol=1e-9)


def x0_hat(kind: str, raw: Any, x: Any, at: NoiseLevel, between: Posterior) -> Any:
    """The x0 that a published prediction stands for."""
    if kind == "EPSILON":
        return (x - at.sigma * raw) / at.alpha
    if kind == "PREVIOUS_X":
        return (raw - between.c_x * x) / between.c_x0
    return raw


RULES = {
    "LEARNED_RANGE": LearnedVariance(),
    "FIXED_SMALL": SmallVariance(),
    "FIXED_LARGE": LargeVariance(),
}


@pytest.mark.parametrize("clip", [0, 1])
@pytest.mark.parametrize("kind", ["EPSILON", "START_X", "PREVIOUS_X"])
def test_published_means_and_variances_of_a_model(kind: str, clip: int, x64: None) -> None:
    t, x = MODEL["t"], MODEL["x_t"]
    between = rows(MODEL["betas"], t)
    at = jax.tree.map(lambda a: a[t + 1].reshape(-1, 1, 1, 1), levels(MODEL["betas"]))
    raw, v = np.split(MODEL["raw2C"], 2, axis=1)
    for name, rule in RULES.items():
        key = f"{kind}__{name}"
        if f"{key}__log_variance" not in MODEL.files:
            continue
        log_variance = np.broadcast_to(rule(between, v), x.shape)
        np.testing.assert_allclose(log_variance, MODEL[f"{key}__log_variance"], rtol=1e-9)
        # the small variance is 0 at entry 0, where its logarithm is the neighbour's
        decodes = between.lands if name == "FIXED_SMALL" else False
        variance = np.where(decodes, 0, np.exp(log_variance))
        np.testing.assert_allclose(variance, MODEL[f"{key}__variance"], rtol=1e-9)
    for name in (*RULES, "LEARNED"):
        key = f"{kind}__{name}__clip{clip}"
        if f"{key}__mean" not in MODEL.files:
            continue
        mean_output = raw if name.startswith("LEARNED") else MODEL["rawC"]
        x0 = x0_hat(kind, mean_output, x, at, between)
        x0 = np.clip(x0, -1, 1) if clip else x0
        np.testing.assert_allclose(x0, MODEL[f"{key}__pred_xstart"], rtol=1e-9, atol=1e-9)
        # a network that predicts the mean itself is not moved by clipping x0
        mean = mean_output if kind == "PREVIOUS_X" else between.mean(x0, x)
        np.testing.assert_allclose(mean, MODEL[f"{key}__mean"], rtol=1e-9, atol=1e-9)


def test_published_model_in_float32() -> None:
    """As shipped: coefficients made in float64, everything after them in float32."""
    t, x, raw = MODEL["t"], jnp.float32(MODEL["x_t"]), jnp.float32(MODEL["raw2C"])
    column = lambda a: jnp.float32(a[t + 1].reshape(-1, 1, 1, 1))
    at = jax.tree.map(column, levels(MODEL["betas"]))
    apply = lambda params, x, c_noise, cond: jd.Output(*jnp.split(raw, 2, axis=1))
    out = Clipped(jd.denoiser(apply, None, jd.Eps()))(x, at)
    between = jax.tree.map(jnp.asarray, rows(MODEL["betas"], t))
    computed = {
        "pred_xstart": out.x0,
        "mean": between.mean(out.x0, x),
        "log_variance": LearnedVariance()(between, out.variance),
    }
    for key, value in computed.items():
        published = MODEL[f"EPSILON__LEARNED_RANGE__clip1__{key}_f32"]
        assert value.dtype == published.dtype == np.float32
        np.testing.assert_allclose(value, published, rtol=2e-5, atol=2e-5, err_msg=key)


@pytest.mark.parametrize("path", SCHEDULES)
def test_any_path_by_gaussian_conditioning(path: str, x64: None) -> None:
    """x_at = k x_to + noise of variance s^2: precisions add, on every path."""
    times = (0.03, 0.31, 0.32, 0.77, 0.999, 1.0)
    for t_to, t_at in itertools.combinations(times, 2):
        to, at = on_host(SCHEDULES[path](t_to)), on_host(SCHEDULES[path](t_at))
        k = at.alpha / to.alpha
        s2 = at.sigma**2 - k**2 * to.sigma**2
        variance = 1 / (1 / to.sigma**2 + k**2 / s2)
        between = posterior(at, to)
        # neighbouring levels leave g = 1e-4 or more of the digits that cancel
        assert between.small == pytest.approx(variance, rel=1e-9)
        assert between.c_x == pytest.approx(variance * k / s2, rel=1e-9, abs=1e-15)
        assert between.c_x0 == pytest.approx(variance * to.alpha / to.sigma**2, rel=1e-9)
        prior = to.alpha**2 + to.sigma**2  # of x_to, where x0 ~ N(0, 1)
        conditioned = prior - (k * prior) ** 2 / (k**2 * prior + s2)
        assert between.large == pytest.approx(conditioned, rel=1e-9)
        assert between.large >= between.small > 0


@pytest.mark.parametrize("path", SCHEDULES)
def test_the_ends_are_exact(path: str) -> None:
    """In float32: from t = 1, alpha = 0 included, and onto the data."""
    last = SCHEDULES[path](1.0)
    assert (float(last.alpha) == 0) == (path in PURE_NOISE)
    to = SCHEDULES[path](0.5)
    if path in PURE_NOISE:
        between = posterior(last, to)
        assert (between.c_x0, between.c_x) == (to.alpha, 0)
        assert between.small == to.sigma**2
    lands = posterior(last, NoiseLevel(jnp.float32(1), jnp.float32(0)))
    assert (lands.c_x0, lands.c_x, lands.small, lands.lands) == (1, 0, 0, True)


def test_a_level_s_scale_is_x_s_scale(x64: None) -> None:
    """D is a function on rays: coefficients and variances follow x's units."""
    at, to = on_host(jd.Cosine()(0.6)), on_host(jd.Cosine()(0.3))
    plain = posterior(at, to)
    scaled = posterior(
        NoiseLevel(3 * at.alpha, 3 * at.sigma), NoiseLevel(0.2 * to.alpha, 0.2 * to.sigma)
    )
    assert scaled.c_x0 == pytest.approx(0.2 * plain.c_x0, rel=1e-14)
    assert scaled.c_x == pytest.approx(0.2 / 3 * plain.c_x, rel=1e-14)
    assert scaled.small == pytest.approx(0.04 * plain.small, rel=1e-14)
    assert scaled.large == pytest.approx(0.04 * plain.large, rel=1e-14)


def test_learned_variance_interpolates_and_goes_on(x64: None) -> None:
    between = posterior(jd.Cosine()(0.6), jd.Cosine()(0.3))
    small, large, rule = between.small, between.large, LearnedVariance()
    for v, expected in [
        (-1.0, small),
        (1.0, large),
        (0.0, np.sqrt(small * large)),
        (3.0, large**2 / small),
    ]:
        assert float(jnp.exp(rule(between, v))) == pytest.approx(float(expected), rel=1e-12)
    with pytest.raises(ValueError, match=r"network\.learned_variance = True"):
        rule(between, None)


def test_one_step_has_the_larger_variance_for_its_decoder() -> None:
    one = chain(NoiseLevel(np.array([1.0, 0.6]), np.array([0.0, 0.8])))
    np.testing.assert_allclose(one.small, [0.64], rtol=1e-14)
    assert np.isfinite(LearnedVariance()(one, 0.3)).all()


def test_traced_levels_give_the_same_rows() -> None:
    concrete = levels(TABLES["cosine_T50__betas"])
    traced = jax.jit(chain)(jax.tree.map(jnp.float32, concrete))
    host = chain(concrete)
    for name in ("c_x0", "c_x", "small", "large"):
        expected = getattr(host, name)
        assert expected.dtype == np.float64
        # what float32 levels know of 1 - snr_at / snr_to, here above 1e-3
        np.testing.assert_allclose(getattr(traced, name), expected, rtol=1e-3, atol=1e-9)
    np.testing.assert_array_equal(traced.lands, np.arange(50) == 0)
