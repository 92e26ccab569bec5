"""The bound on the likelihood: published loops, and data whose density is known."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.denoisers import Clipped
from jaxdiff.evaluation.likelihood import (
    Process,
    Terms,
    bits_per_dim,
    mean_and_error,
    per_bin,
    prior,
    process,
    term,
    terms,
)
from jaxdiff.objectives.losses import DensityDecoder
from jaxdiff.schedules.posterior import (
    LargeVariance,
    LearnedVariance,
    Posterior,
    SmallVariance,
    chain,
)
from jaxdiff.types import NoiseLevel
from tests.compiling import LONG
from tests.test_ancestral import Toy
from tests.test_posterior import levels
from tests.toys import GOLDEN, SCHEDULES

VLB, VDM = (np.load(GOLDEN / "iddpm" / f"{name}.npz") for name in ("vlb", "vdm"))
LINEAR = process(jd.Table(jd.LinearBetas()), 1000)


def listed(betas: np.ndarray) -> Process:
    return process(jd.Table(jd.ListedBetas(tuple(betas.tolist()))), len(betas))


# ------------------------------------------------------------------ published loops


class StartX(Toy):
    """The golden network where its first channels are x0."""

    def __call__(self, x: Any, at: NoiseLevel, cond: Any = None) -> jd.Denoised:
        eps_model = super().__call__(x, at)
        return jd.Denoised((x - at.alpha * eps_model.x0) / at.sigma, eps_model.variance)


MODELS = {
    "EPSILON_LEARNED_RANGE_clip1": (Toy, LearnedVariance(), True),
    "EPSILON_LEARNED_RANGE_clip0": (Toy, LearnedVariance(), False),
    "EPSILON_FIXED_LARGE_clip1": (Toy, LargeVariance(), True),
    "START_X_FIXED_SMALL_clip1": (StartX, SmallVariance(), True),
}


@pytest.mark.parametrize("name", ["cosine_T12", "linear_T25"])
@pytest.mark.parametrize("model", MODELS)
def test_published_loops(name: str, model: str, x64: None) -> None:
    """calc_bpd_loop, whose columns run from the last step to the first.

    The reference's decoder has lost 2e-8 where an edge bin holds 1e-7 of the mass.
    """
    read = lambda key: VLB[f"loop_{name}__{key}"]
    betas, x0, noise = (jnp.asarray(read(k)) for k in ("betas", "x_start", "noise"))
    network, rule, clip = MODELS[model]
    denoise = network(levels(np.asarray(betas))[1:], np.arange(len(betas)))
    denoise = Clipped(denoise) if clip else denoise
    steps = listed(np.asarray(betas))
    each = [
        term(denoise, jd.Condition(), x0, noise[i], steps[i], rule)
        for i in range(len(betas))
    ]
    close = lambda actual, key: np.testing.assert_allclose(
        actual, read(f"{model}__{key}"), rtol=1e-7
    )
    reverse = lambda field: np.stack([getattr(e, field) for e in each[::-1]], 1)
    last = prior(x0, steps.at[-1])
    close(reverse("vb"), "vb")
    close(reverse("x0_mse"), "xstart_mse")
    close(reverse("x0_mse") * steps.at.snr[::-1], "mse")
    close(last, "prior_bpd")
    close(sum(e.vb for e in each) + last, "total_bpd")


def test_published_prior(x64: None) -> None:
    steps = listed(VLB["term_betas"])
    actual = prior(jnp.asarray(VLB["term_x_start"]), steps.at[-1])
    np.testing.assert_allclose(actual, VLB["term_prior_bpd"], rtol=1e-9)


def test_published_prior_of_vdm(x64: None) -> None:
    snr = np.exp(-VDM["gamma_minmax"][1])
    last = NoiseLevel(np.sqrt(snr / (1 + snr)), np.sqrt(1 / (1 + snr)))
    nats = prior(jnp.asarray(VDM["f"]), last) * np.log(2) * VDM["f"].shape[1]
    np.testing.assert_allclose(nats, VDM["loss_klz"], rtol=1e-9)


def test_the_prior_is_a_function_of_the_last_snr(x64: None) -> None:
    x0 = jnp.linspace(-1, 1, 6).reshape(2, 3)
    at = NoiseLevel(np.float64(0.1), np.float64(0.7))
    scaled = NoiseLevel(100 * at.alpha, 100 * at.sigma)
    np.testing.assert_allclose(prior(x0, at), prior(x0, scaled), rtol=1e-12)
    pure = NoiseLevel(np.float64(0), np.float64(3))
    np.testing.assert_allclose(prior(x0, pure), 0, atol=1e-16)


# ------------------------------------------------------------- data with a density


class MixtureData:
    """x0 ~ sum_k w_k N(mu_k, C_k): its density, E[x0 | x] and var[x0 | x]."""

    def __init__(self, dims: int, parts: int) -> None:
        rng = np.random.default_rng(dims)
        self.w = np.arange(1, parts + 1) / np.arange(1, parts + 1).sum()
        self.mu = rng.normal(size=(parts, dims))
        turned = rng.normal(size=(parts, dims, dims))
        self.axes = np.linalg.qr(turned)[0]
        self.values = rng.uniform(0.1, 0.6, size=(parts, dims)) ** 2
        self.shape = (dims,)

    def draw(self, count: int) -> np.ndarray:
        """As many of each part as its weight says, to take out that much of chance."""
        rng = np.random.default_rng(1)
        part = np.searchsorted(np.cumsum(self.w), (np.arange(count) + 0.5) / count)
        z = rng.normal(size=(count, *self.shape)) * np.sqrt(self.values[part])
        return self.mu[part] + np.einsum("nde,ne->nd", self.axes[part], z)

    def _parts(self, x: Any, at: NoiseLevel) -> tuple[Any, Any, Any]:
        """Log-joints [B, K], and x - alpha mu along each part's axes [B, K, d]."""
        variance = at.alpha**2 * self.values + at.sigma**2
        rest = jnp.einsum("kde,bkd->bke", self.axes, x[:, None] - at.alpha * self.mu)
        norm = jnp.log(2 * jnp.pi * variance) + rest**2 / variance
        return jnp.log(self.w) - norm.sum(-1) / 2, rest, variance

    def log_density(self, x0: Any) -> Any:
        """ln p(x0), nats."""
        return jax.nn.logsumexp(self._parts(x0, NoiseLevel(1.0, 0.0))[0], axis=1)

    def __call__(self, x: Any, at: NoiseLevel, cond: Any = None) -> jd.Denoised:
        """D, and in the place of v the exact variance of each element of x0."""
        log_joint, rest, variance = self._parts(x, at)
        r = jax.nn.softmax(log_joint, axis=1)[..., None]
        towards = at.alpha * self.values / variance * rest
        mean = self.mu + jnp.einsum("kde,bke->bkd", self.axes, towards)
        spread = jnp.einsum(
            "kde,ke->kd", self.axes**2, self.values * at.sigma**2 / variance
        )
        x0 = (r * mean).sum(1)
        return jd.Denoised(x0, (r * (spread + (mean - x0[:, None]) ** 2)).sum(1))


class ExactVariance:
    """small + c_x0^2 var[x0 | x]: what the variance of p(x_to | x) is in truth."""

    def __call__(self, between: Posterior, v: Any) -> Any:
        small = jnp.where(between.lands, 0, between.small)
        return jnp.log(small + between.c_x0**2 * v)


class ExactDecoder:
    """Any variance, with the decoder's the exact one."""

    def __init__(self, rule: Any) -> None:
        self.rule = rule

    def __call__(self, between: Posterior, v: Any) -> Any:
        exact = ExactVariance()(between, v)
        return jnp.where(between.lands, exact, self.rule(between, None))


def excess(data: Any, steps: Process, rule: Any, count: int) -> float:
    """E[bound + log2 p(x0)] / d, bits/dim. Noise of sample mean 0 and variance 1.

    The white noise takes out most of what chance adds, which for plain draws is about
    1 / sqrt(count d) bits.
    """
    x0 = jnp.asarray(data.draw(count))

    def one(carry: None, step: Process) -> tuple[None, Any]:
        key = jax.random.fold_in(jax.random.key(0), step.entry)
        eps = jax.random.normal(key, x0.shape, x0.dtype)
        eps = eps - eps.mean(0)
        root = jnp.linalg.cholesky(eps.T @ eps / count)
        eps = jax.scipy.linalg.solve_triangular(root, eps.T, lower=True).T
        cost = term(data, jd.Condition(), x0, eps, step, rule, DensityDecoder())
        return None, cost.vb.mean()

    whole = lambda steps: jax.lax.scan(one, None, steps)[1]
    scan = jax.jit(whole, compiler_options=LONG)
    bound = scan(jax.tree.map(jnp.asarray, steps)).sum() + prior(x0, steps.at[-1]).mean()
    bits = data.log_density(x0).mean() / math.log(2) / x0.shape[1]
    return float(bound + bits)


@pytest.mark.parametrize("table", [jd.LinearBetas(), jd.CosineBetas()], ids=str)
@pytest.mark.parametrize("dims", [2, 8])
def test_the_bound_is_tight_with_the_exact_mean_and_variance(
    dims: int, table: Any, x64: None
) -> None:
    data, count = MixtureData(dims, 4), 4000 // dims
    cost = excess(data, process(jd.Table(table), 1000), ExactVariance(), count)
    assert cost == pytest.approx(0, abs=0.01)
    # with few steps the truth is less of a Gaussian, and its axes are not the pixels'
    assert excess(data, process(jd.Table(table), 20), ExactVariance(), count) > 0.015


def predicted(steps: Process, rule: Any, std: float) -> np.ndarray:
    """KL(N(0, true) || N(0, rule's)) of each step in bits, for data N(0, std^2)."""
    at, between = steps.at, steps.between
    v = std**2 * at.sigma**2 / (at.alpha**2 * std**2 + at.sigma**2)
    true = between.c_x0**2 * v + np.where(between.lands, 0, between.small)
    ratio = true / np.exp(np.asarray(rule(between, None)))
    return (ratio - 1 - np.log(ratio)) / 2 / math.log(2)


class GaussianData(MixtureData):
    """One dimension and one part, N(0, 1)."""

    def __init__(self) -> None:
        self.w, self.mu, self.shape = np.ones(1), np.zeros((1, 1)), (1,)
        self.axes, self.values = np.ones((1, 1, 1)), np.ones((1, 1))


@pytest.mark.parametrize("rule", [SmallVariance(), LargeVariance()], ids=str)
def test_the_fixed_variances_cost_what_they_must(rule: Any, x64: None) -> None:
    """0.67 bits in the steps and 0.16 in the decoder, or nothing and 0.16."""
    cost = predicted(LINEAR, rule, 1.0)
    small = isinstance(rule, SmallVariance)
    assert 0.5 < cost[1:].sum() < 0.7 if small else cost[1:].sum() < 1e-12
    bound = excess(GaussianData(), LINEAR, rule, 2000)
    assert bound == pytest.approx(cost.sum(), abs=0.01)
    if small:
        bound = excess(GaussianData(), LINEAR, ExactDecoder(rule), 2000)
        assert bound == pytest.approx(cost[1:].sum(), abs=0.01)


# ------------------------------------------------------------------------- the rest


@pytest.mark.parametrize("path", SCHEDULES)
def test_every_path_has_a_bound_in_float32(path: str) -> None:
    """T levels of it, alpha = 0 included; each term the KL it should be, or near it."""
    steps = process(SCHEDULES[path], 50)
    x0 = jax.random.normal(jax.random.key(0), (64, 3))
    keys = jax.random.split(jax.random.key(1), 64)
    denoise = jd.gaussian_denoiser(0.0, 1.0)
    bound = terms(denoise, jd.Condition(), x0, keys, steps, decoder=DensityDecoder())
    assert bound.vb.shape == bound.x0_mse.shape == (50, 64)
    assert bound.vb.dtype == jnp.float32
    assert np.isfinite(bound.vb).all()
    assert np.isfinite(prior(x0, steps.at[-1])).all()
    at = steps.at
    mse = at.sigma**2 / (at.alpha**2 + at.sigma**2)  # of the best denoiser of N(0, 1)
    np.testing.assert_allclose(bound.x0_mse.mean(1), mse, rtol=0.5)
    snr = np.r_[np.inf, at.snr]
    nats = (snr[1:-1] - snr[2:]) / 2 * mse[1:]
    np.testing.assert_allclose(bound.vb[1:].mean(1) * np.log(2), nats, rtol=0.5, atol=1e-7)


def test_a_scan_s_noise_is_the_image_s_own() -> None:
    """No number depends on the batch, or on which steps are asked for together."""
    steps = process(jd.Cosine(), 12)
    x0 = jax.random.normal(jax.random.key(0), (4, 2, 2, 1))
    keys = jax.random.split(jax.random.key(1), 4)
    run = jax.jit(
        lambda x0, keys, steps: (
            terms(jd.gaussian_denoiser(0.1, 0.7), jd.Condition(), x0, keys, steps).vb
        )
    )
    whole = run(x0, keys, steps)
    noise = lambda key: jax.random.normal(jax.random.fold_in(key, 5), x0.shape[1:])
    inputs = (jd.gaussian_denoiser(0.1, 0.7), jd.Condition(), x0, jax.vmap(noise)(keys))
    np.testing.assert_allclose(whole[5], term(*inputs, steps[5]).vb, rtol=1e-5)
    part = run(x0[1:3], keys[1:3], steps[5:9])
    np.testing.assert_allclose(part, whole[5:9, 1:3], rtol=1e-5)
    total = bits_per_dim(jd.gaussian_denoiser(0.1, 0.7), jd.Condition(), x0, keys, steps)
    expected = whole.sum(0) + prior(x0, steps.at[-1])
    np.testing.assert_allclose(total, expected, rtol=1e-5)


def test_a_table_s_own_steps_are_its_entries(x64: None) -> None:
    betas = jd.LinearBetas()()
    expected = chain(levels(betas))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), LINEAR.between, expected
    )


def test_a_process_is_of_float64_whatever_jax_has() -> None:
    assert LINEAR.between.small.dtype == np.float64
    at = process(jd.RectifiedFlow(), 3).at
    np.testing.assert_allclose(at.sigma, [1 / 3, 2 / 3, 1], rtol=1e-15)


class Flat:
    """A path that stays where it is."""

    reaches_pure_noise = False

    def __call__(self, t: Any) -> NoiseLevel:
        return NoiseLevel(1 + 0 * t, 1 + 0 * t)

    def time(self, logsnr: Any) -> Any:
        return logsnr


def test_what_has_no_steps_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 step, got 0"):
        process(jd.Cosine(), 0)
    with pytest.raises(ValueError, match="no more noise at step 2 of 5 than at step 1"):
        process(Flat(), 5)


def test_clipping_holds_x0_and_keeps_the_heads() -> None:
    out: Any = lambda x, at, cond=None: jd.Denoised(x, 2 * x, 3 * x)
    x = jnp.asarray([[-2.0, 0.5, 1.5]])
    clipped = Clipped(out)(x, NoiseLevel(1.0, 1.0), jd.Condition())
    np.testing.assert_allclose(clipped.x0, [[-1, 0.5, 1]])
    np.testing.assert_allclose(clipped.variance, 2 * x)
    np.testing.assert_allclose(clipped.uncertainty, 3 * x)


def test_the_standard_error_is_the_mean_s_spread() -> None:
    rng = np.random.default_rng(0)
    means, errors = zip(
        *(mean_and_error(a) for a in rng.normal(size=(4000, 40, 3))), strict=True
    )
    assert np.std(means) == pytest.approx(np.sqrt(np.mean(np.square(errors))), rel=0.03)
    assert np.isnan(mean_and_error(np.ones(1))[1])


def test_losses_by_bins_of_logsnr() -> None:
    logsnr = np.array([4.0, 2.0, 1.0, -3.0])
    losses = np.array([[1.0, 2.0, 4.0, 10.0], [3.0, 2.0, 6.0, 20.0]])
    bins = per_bin(logsnr, losses, np.array([-4.0, -2.0, 0.0, 2.0, 4.0]))
    assert [row[:3] for row in bins] == [(-4, -2, 1), (0, 2, 1), (2, 4, 2)]
    # images' means 1.5 and 2.5 in the last bin
    np.testing.assert_allclose([row[3] for row in bins], [15, 5, 2])
    np.testing.assert_allclose([row[4] for row in bins], [5, 1, 0.5])


def test_terms_are_a_pytree() -> None:
    both = jax.tree.map(lambda a: 2 * a, Terms(jnp.ones(2), jnp.zeros(2)))
    assert float(both.vb[0]) == 2
