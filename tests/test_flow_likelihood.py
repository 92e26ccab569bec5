"""Likelihood by the flow: golden solves, and data whose density is known."""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.evaluation.likelihood import (
    RK4,
    TRAPEZOID,
    AdaptiveRule,
    Arc,
    Exact,
    GaussianPrior,
    Hutchinson,
    Skilling,
    bits,
    dequantise,
    flow_bits_per_dim,
    log_density,
    rising,
)
from jaxdiff.types import NoiseLevel
from tests.toys import GOLDEN, SCHEDULES, Mixture, edm

GIVEN = np.load(GOLDEN / "samplers" / "likelihood.npz")
NOTHING = jd.Condition()


def law(name: str) -> Mixture:
    """A golden law; that in 16 dimensions stands beside its likelihoods.

    Not the cached one: a function that was traced in float64 stays so for jax.
    """
    if name != "gmm16":
        return Mixture(name)
    toy = Mixture("gmm2")
    toy.w, toy.mu = GIVEN["law/gmm16/w"], GIVEN["law/gmm16/mu"]
    toy.values, toy.axes = np.linalg.eigh(GIVEN["law/gmm16/C"])
    return toy


def log_law(name: str, x: np.ndarray, noise: float = 0.0) -> np.ndarray:
    """ln p of data with noise of this standard deviation, by the closed form."""
    toy = law(name)
    variance = toy.values + noise**2
    rest = np.einsum("kde,bkd->bke", toy.axes, x[:, None] - toy.mu)
    parts = np.log(toy.w) - (np.log(2 * np.pi * variance) + rest**2 / variance).sum(-1) / 2
    return np.logaddexp.reduce(parts, axis=1)


def on_device(levels: NoiseLevel) -> NoiseLevel:
    return jax.tree.map(jnp.asarray, levels)


def keys(count: int, seed: int = 0) -> Any:
    return jax.random.split(jax.random.key(seed), count)


# ------------------------------------------------------------------ golden solves


@dataclass(frozen=True)
class LnSigma:
    """alpha = 1, u = ln sigma: the clock of `heun` and `rk4`."""

    def __call__(self, t: Any) -> NoiseLevel:
        return NoiseLevel(jnp.ones_like(t), jnp.exp(t))

    def time(self, logsnr: Any) -> Any:
        return -logsnr / 2


@dataclass(frozen=True)
class Sigma(LnSigma):
    """alpha = 1, u = sigma: that of `heun_sigma`."""

    def __call__(self, t: Any) -> NoiseLevel:
        return NoiseLevel(jnp.ones_like(t), t)

    def time(self, logsnr: Any) -> Any:
        return jnp.exp(-logsnr / 2)


@dataclass(frozen=True)
class Both:
    """The trace, and what a golden probe makes of it, in one solve.

    An image's key is that of its number, so that it finds its own probe. `error` is half
    their difference, and the density's mean half their sum.
    """

    name: str

    def probes(self, key: Any, x: Any) -> Any:
        own = jax.vmap(lambda k: jax.random.fold_in(k, 1))(keys(16))
        mine = jnp.all(jax.random.key_data(own) == jax.random.key_data(key), axis=1)
        probe = jnp.sum(jnp.where(mine[:, None], GIVEN[f"{self.name}/probe"], 0), 0)
        return jnp.concatenate([jnp.eye(x.size), probe[None]])

    def traces(self, products: Any) -> Any:
        return jnp.stack([jnp.sum(products[:-1]), products[-1]])

    def error(self, estimates: Any) -> Any:
        return (estimates[0] - estimates[1]) / 2


RULES = {
    "heun": (TRAPEZOID, LnSigma()),
    "heun_sigma": (TRAPEZOID, Sigma()),
    "rk4": (RK4, LnSigma()),
}
CASES = [
    *(("aniso4", rule, 16) for rule in RULES),
    *(("gmm2", "rk4", steps) for steps in (16, 64)),
    ("gmm16", "heun_sigma", 16),
]


@pytest.mark.parametrize(("name", "rule", "steps"), CASES)
def test_golden_solves(name: str, rule: str, steps: int, x64: None) -> None:
    """Latents and integrals of the divergence, exact and by a probe, of fixed steps."""
    levels = on_device(edm(np.geomspace(0.002, 80, steps + 1)))
    x, (steps_by, clock) = jnp.asarray(GIVEN[f"{name}/x"]), RULES[rule]
    solved = log_density(
        law(name),
        NOTHING,
        x,
        keys(16),
        levels,
        steps_by,
        Both(name),
        GaussianPrior(),
        clock,
    )
    read = lambda kind, key: GIVEN[f"{name}/{rule}_N{steps}/{kind}/{key}"]
    expected = read("exact_trace", "x_T")
    np.testing.assert_allclose(solved.latent, expected, rtol=1e-12, atol=1e-11)
    end = jax.vmap(lambda z: GaussianPrior()(z, levels[-1]))(solved.latent)
    for kind, sign in (("exact_trace", 1), ("probe", -1)):
        delta = solved.log_density + sign * solved.error - end
        np.testing.assert_allclose(delta, read(kind, "delta"), rtol=1e-9, err_msg=kind)
    np.testing.assert_array_equal(solved.evaluations, len(steps_by.c) * steps)


def test_adaptive_converges_to_golden_densities(x64: None) -> None:
    """With N(0, 80^2) for a prior. Each image has steps of its own, whatever its batch."""
    levels, x = on_device(edm([0.002, 80.0])), jnp.asarray(GIVEN["gmm2/x"])
    solve = lambda part: log_density(
        law("gmm2"), NOTHING, x[part], keys(16)[part], levels, AdaptiveRule(1e-9, 1e-9)
    )
    solved, part = solve(slice(0, 16)), solve(slice(5, 8))
    expected = GIVEN["gmm2/logp_gauss_prior"]
    np.testing.assert_allclose(solved.log_density, expected, atol=1e-8)
    latent = GIVEN["gmm2/x_T_exact"]
    np.testing.assert_allclose(solved.latent, latent, atol=1e-8 * np.abs(latent).max())
    assert len(np.unique(solved.evaluations)) > 1
    np.testing.assert_array_equal(solved.evaluations[5:8], part.evaluations)
    np.testing.assert_allclose(solved.log_density[5:8], part.log_density, rtol=1e-10)


@pytest.mark.parametrize(("method", "steps"), [("Tsit5", 4096), ("Heun", 3)])
def test_adaptive_evaluations_are_counted(method: str, steps: int, x64: None) -> None:
    """With a last stage that is used again and without; a solve that gives up is nan."""
    calls = []

    def counted(x: Any, at: NoiseLevel, cond: Any) -> jd.Denoised:
        jax.debug.callback(lambda _: calls.append(1), x)
        return jd.gaussian_denoiser(0.0, 1.0)(x, at)

    x, levels = jnp.ones((1, 2)), on_device(edm([0.002, 80.0]))
    rule = AdaptiveRule(1e-3, 1e-3, method, max_steps=steps)
    solved = log_density(counted, NOTHING, x, keys(1), levels, rule)
    jax.effects_barrier()
    assert solved.evaluations[0] == len(calls)
    assert np.isnan(solved.log_density[0]) == np.isnan(solved.latent).any() == (steps == 3)


# ------------------------------------------------------------------ known densities

MEAN, STD = 0.3, 0.6


@pytest.mark.parametrize("name", ["log_sigma", "rectified_flow", "zero_terminal"])
def test_gaussian_data_on_every_path(name: str, x64: None) -> None:
    """ln N(x; alpha m, alpha^2 s^2 + sigma^2) at a path's own level, up to alpha = 0."""
    path = SCHEDULES[name]
    levels = on_device(path(np.r_[np.linspace(0.2, 1, 49)]))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(6, 3)))
    solved = log_density(
        jd.gaussian_denoiser(MEAN, STD),
        NOTHING, x, keys(6), levels, prior=GaussianPrior(MEAN, STD),
    )  # fmt: skip
    at = levels[0]
    variance = at.alpha**2 * STD**2 + at.sigma**2
    square = (x - at.alpha * MEAN) ** 2 / variance
    expected = -jnp.sum(square + jnp.log(2 * math.pi * variance), 1) / 2
    np.testing.assert_allclose(solved.log_density, expected, atol=1e-5)
    scale = jnp.sqrt(levels.alpha**2 * STD**2 + levels.sigma**2)
    latent = (x - at.alpha * MEAN) / scale[0] * scale[-1] + levels.alpha[-1] * MEAN
    np.testing.assert_allclose(solved.latent, latent, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "path"),
    [("aniso4", jd.VPLinear()), ("gmm2", jd.Cosine()), ("gmm16", jd.Cosine())],
)
def test_bits_per_dim_of_known_laws(name: str, path: Any) -> None:
    """Within 0.005 bits/dim of the data's density: 0.002 of noise and float32 included."""
    x = GIVEN[f"{name}/x"]
    inputs = (jnp.asarray(x, jnp.float32), keys(16), rising(path, 40))
    density = log_density(law(name), NOTHING, *inputs).log_density
    np.testing.assert_allclose(log_law(name, x), GIVEN[f"{name}/logp_0"], rtol=1e-12)
    difference = bits(np.asarray(density), x.shape[1]) - bits(log_law(name, x), x.shape[1])
    assert np.abs(difference).max() < 0.005


def test_the_gradient_of_a_density_is_the_score(x64: None) -> None:
    levels, at = rising(jd.Cosine(), 128, low=0.3), NoiseLevel(1.0, 0.3)
    x, toy = jnp.asarray(GIVEN["gmm2/x"][:4]), law("gmm2")
    total = lambda x: log_density(
        toy, NOTHING, x, keys(4), levels, TRAPEZOID
    ).log_density.sum()
    score = (toy(x, at).x0 - x) / 0.3**2
    np.testing.assert_allclose(jax.jit(jax.grad(total))(x), score, rtol=2e-3, atol=2e-3)


# ------------------------------------------------------------------ estimates


@pytest.mark.parametrize("estimate", [Hutchinson, Skilling])
def test_estimates_are_right_within_their_errors(estimate: Any) -> None:
    """512 solves of K = 64 probes against the exact trace.

    The mean difference is 0 within 4 of its standard errors (a z-score's own mean is not:
    the estimates are skew, and their spread goes with their mean). z-scores spread like
    Student's t of 63 degrees, sqrt(63/61) = 1.016, within 0.15: 4.8 standard errors. The
    error of one probe is what the law's Jacobian says, within 4 standard errors.
    """
    x = jnp.asarray(np.tile(GIVEN["aniso4/x"], (32, 1)), jnp.float32)
    levels, toy = rising(jd.Cosine(), 16), law("aniso4")
    solve = lambda kind: log_density(toy, NOTHING, x, keys(512), levels, divergence=kind)
    exact, estimated = solve(Exact()).log_density, solve(estimate(64))
    difference, error = (
        np.asarray(a) for a in (estimated.log_density - exact, estimated.error)
    )
    assert abs(difference.sum()) < 4 * math.sqrt((error**2).sum())
    assert abs((difference / error).std() - math.sqrt(63 / 61)) < 0.15
    single = math.sqrt(64 * np.mean(error.astype(np.float64) ** 2))
    np.testing.assert_allclose(single, SPREAD[estimate](integral()), rtol=0.04)


def integral() -> np.ndarray:
    """The integral of J d(ln sigma) over sigma > 0.002 on the Gaussian law, alpha = 1."""
    toy = law("aniso4")
    along = np.log1p(toy.values[0] / 0.002**2) / 2
    return toy.axes[0] @ np.diag(along) @ toy.axes[0].T


SPREAD = {
    Hutchinson: lambda s: math.sqrt(2 * (s**2).sum() - 2 * (np.diag(s) ** 2).sum()),
    Skilling: lambda s: math.sqrt(2 * (s**2).sum()),
}
"""The standard deviation of p . S p over the probes, in closed form."""


def test_an_image_depends_on_its_own_key_and_value() -> None:
    """Not on its batch, nor its first probes on how many there are."""
    x, toy = jnp.asarray(GIVEN["gmm2/x"], jnp.float32), law("gmm2")
    levels, own = rising(jd.Cosine(), 8), keys(16)
    solve = lambda part, rule: log_density(
        toy, NOTHING, x[part], own[part], levels, rule, Hutchinson(2)
    )
    whole, part = solve(slice(0, 16), TRAPEZOID), solve(slice(5, 8), TRAPEZOID)
    close = lambda a, b: np.testing.assert_allclose(a[5:8], b, rtol=2e-5, atol=2e-5)
    jax.tree.map(close, whole, part)
    for kind in (Hutchinson, Skilling):
        few, many = (kind(k).probes(own[0], x[0]) for k in (2, 5))
        np.testing.assert_array_equal(few, many[:2])
        assert not np.array_equal(few, kind(2).probes(own[1], x[0]))


def test_one_probe_has_no_standard_error() -> None:
    x, levels = jnp.zeros((2, 3)), rising(jd.Cosine(), 2)
    toy = jd.gaussian_denoiser(0.0, 1.0)
    solve = lambda kind: log_density(toy, NOTHING, x, keys(2), levels, divergence=kind)
    assert np.isnan(solve(Hutchinson()).error).all()
    assert (solve(Exact()).error == 0).all()


# ------------------------------------------------------------------ pixels


def test_golden_dequantisation(x64: None) -> None:
    """Bins of 2 / 256, where the offset is 7, on the law in 16 dimensions."""
    read = lambda key: GIVEN[f"discrete/{key}"]
    np.testing.assert_allclose(
        bits(read("logp_z_0"), 16, 2 / 256), read("bpd_dequant"), rtol=1e-12
    )
    levels, z = rising(jd.Cosine(), 96), jnp.asarray(read("z"))
    solved = log_density(law("gmm16"), NOTHING, z * levels.alpha[0], keys(16), levels)
    per_element = bits(np.asarray(solved.log_density), 16, 2 / 256)
    np.testing.assert_allclose(per_element, read("bpd_dequant_smin"), atol=1e-5)


def test_bits_per_dim_of_pixels_are_those_of_their_bins() -> None:
    """Gaussian pixels: the mass of (2 k - 1) / 255 - 1 ... (2 k + 1) / 255 - 1.

    The density is all but linear in a bin, so that the mean over u, here 4096 pixels, is
    its mass; the flow adds the 0.002 of noise that it starts with.
    """
    k = np.arange(64, 192, 8)
    image = jnp.asarray(np.tile(k, (1, 256))[..., None], jnp.uint8)
    phi = np.vectorize(lambda x: math.erf(x / math.sqrt(2)) / 2)
    edge = lambda half: (2 * (k + half) / 255 - 1 - MEAN) / STD
    expected = -np.log2(phi(edge(0.5)) - phi(edge(-0.5))).mean()
    flow = flow_bits_per_dim(
        jd.gaussian_denoiser(MEAN, STD), NOTHING, image, keys(1), rising(jd.Cosine(), 40)
    )
    np.testing.assert_allclose(flow.bits, expected, atol=1e-3)


def test_dequantised_pixels_stay_in_their_bins() -> None:
    image = jnp.asarray(np.arange(256).reshape(2, 128), jnp.uint8)
    x = dequantise(keys(2), image)
    np.testing.assert_array_equal(jnp.round((x + 1) * 127.5).astype(int), image)
    offset = np.asarray((x + 1) * 127.5 - image)
    assert offset.min() < -0.45
    assert offset.max() > 0.45
    np.testing.assert_array_equal(dequantise(keys(2)[1:], image[1:]), x[1:])


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    "levels",
    [edm([80.0, 1.0, 0.002]), edm([0.0, 1.0, 80.0]), edm([0.1, 2.0, 1.0]), edm([1.0])],
    ids=["down", "from the data", "up and down", "no step"],
)
def test_a_grid_that_does_not_lead_from_data_to_noise_is_refused(levels: Any) -> None:
    solve = lambda x: log_density(law("gmm2"), NOTHING, x, keys(1), levels)
    for call in (solve, jax.jit(solve)):
        with pytest.raises(ValueError, match=r"rising\(schedule, steps\)"):
            call(jnp.zeros((1, 2)))


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 probe, got 0"):
        Hutchinson(0)
    with pytest.raises(ValueError, match="at least 1 probe"):
        Skilling(0)
    with pytest.raises(ValueError, match="rtol must be a number from 1e-12 to 1"):
        AdaptiveRule(rtol=0.0)
    with pytest.raises(ValueError, match="use 'Tsit5'"):
        AdaptiveRule(method="Tsit6")
    for method in ("AbstractERK", "KenCarp4", "ShARK"):
        with pytest.raises(ValueError, match=f"{method}.*use 'Tsit5'"):
            AdaptiveRule(method=method)
    with pytest.raises(ValueError, match="got steps = 0"):
        rising(jd.Cosine(), 0)
    with pytest.raises(ValueError, match="low = 100"):
        rising(jd.LogSigma(), 8, low=100.0)


def test_the_grid_is_of_float64_numpy() -> None:
    levels = jd.likelihood.rising(jd.Cosine(), 4)
    for a in (levels.alpha, levels.sigma):
        assert isinstance(a, np.ndarray)
        assert a.dtype == np.float64


def test_the_arc_is_a_path_of_unit_norm_from_data_to_noise() -> None:
    u = Arc().time(jnp.asarray([12.0, 0.0, -jnp.inf]))
    at = Arc()(u)
    np.testing.assert_allclose(at.alpha**2 + at.sigma**2, 1, rtol=1e-6)
    np.testing.assert_allclose(at.logsnr[:2], [12.0, 0.0], atol=1e-5)
    assert u[2] == at.alpha[2] == 0
