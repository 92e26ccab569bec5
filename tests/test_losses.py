"""Loss terms: published losses and gradients, one weighting under every prediction."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.objectives.losses import (
    DensityDecoder,
    PixelDecoder,
    VariationalBound,
    bound_term,
)
from jaxdiff.schedules.posterior import (
    LargeVariance,
    LearnedVariance,
    Posterior,
    SmallVariance,
    posterior,
)
from jaxdiff.types import LossTerm, NoiseLevel
from tests.test_parameterizations import POLES, ROWS
from tests.test_posterior import levels, rows, x0_hat
from tests.test_weightings import ALL
from tests.toys import GOLDEN, PURE_NOISE, SCHEDULES

ON_EPS = {"EPSILON": jd.Eps(), "START_X": jd.X0(), "VELOCITY": jd.V()}


def _noised(path: Any, t: Any, x0: Any, eps: Any) -> jd.Noised:
    at = path(t)
    return jd.Noised(x0, eps, at.alpha * x0 + at.sigma * eps, t, at)


def _loss(raw: Any, row: Any, term: LossTerm, noised: jd.Noised) -> Any:
    apply = lambda params, x, c_noise, cond: jd.Output(params)
    return term(jd.denoiser(apply, raw, row)(noised.x, noised.at), noised)


@pytest.mark.parametrize("name", ["debias", "minsnr_g5", "x0", "edm"])
@pytest.mark.parametrize("path", ["vp_linear", "log_sigma", "rectified_flow", "ddpm"])
def test_one_weighting_trains_the_same_under_every_prediction(
    name: str, path: str, x64: None
) -> None:
    """The same x0 made from six outputs: one loss, and one gradient along x0."""
    rng = np.random.default_rng(0)
    x0, eps, x0_hat = rng.normal(size=(3, 4, 2, 2, 3))
    t = np.asarray([0.1, 0.4, 0.7, 0.95]).reshape(4, 1, 1, 1)
    noised = _noised(SCHEDULES[path], t, x0, eps)
    weight = np.asarray(ALL[name](noised.at))
    expected = (weight * (x0_hat - x0) ** 2).mean((1, 2, 3))
    slope = weight * 2 * (x0_hat - x0) / 12
    for row in ROWS.values():
        scale = row(noised.at)
        raw = (x0_hat - scale.c_skip * noised.x) / scale.c_out
        loss = lambda raw, row=row: _loss(raw, row, jd.WeightedError(ALL[name]), noised)
        np.testing.assert_allclose(loss(raw), expected, rtol=1e-9)
        grad = jax.grad(lambda raw, loss=loss: loss(raw).sum())(raw)
        np.testing.assert_allclose(grad / scale.c_out, slope, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("path", SCHEDULES)
@pytest.mark.parametrize("row", ROWS)
def test_every_loss_and_gradient_is_finite_at_both_ends(path: str, row: str) -> None:
    end = 0.999 if row in POLES and path in PURE_NOISE else 1.0
    noised, weights = at_both_ends(path, end)
    raw = jax.random.normal(jax.random.key(1), noised.x.shape)

    def losses(raw: Any) -> Any:
        loss = lambda w: _loss(raw, ROWS[row], jd.WeightedError(lambda at: w), noised)
        return jax.vmap(loss)(weights)

    values, pull = jax.vjp(losses, raw)
    (grads,) = jax.vmap(pull)(jnp.eye(len(ALL))[:, :, None] * jnp.ones(3))
    for name, loss, grad in zip(ALL, values, grads, strict=True):
        assert np.isfinite(loss).all(), name
        assert np.isfinite(grad).all(), name


@functools.cache
def at_both_ends(path: str, end: float) -> tuple[jd.Noised, Any]:
    """Images at three levels, and the weights of each weighting there."""
    t = jnp.asarray([0.0, 1e-6, end]).reshape(3, 1, 1, 1)
    x0, eps = jax.random.normal(jax.random.key(0), (2, 3, 4, 4, 2))
    noised = _noised(SCHEDULES[path], t, x0, eps)
    return noised, jnp.stack([weighting(noised.at) for weighting in ALL.values()])


def test_each_image_is_weighted_by_its_own_level() -> None:
    """A batch as wide as its images: weights of shape [B] would go along the width."""
    x0, eps, x0_hat = jax.random.normal(jax.random.key(0), (3, 4, 4, 4, 4))
    t = jnp.asarray([0.1, 0.4, 0.6, 0.9]).reshape(4, 1, 1, 1)
    noised = _noised(jd.Cosine(), t, x0, eps)
    loss = jd.WeightedError(jd.MinSNR())(jd.Denoised(x0_hat), noised)
    assert loss.shape == (4,)
    for i, time in enumerate(t.reshape(-1)):
        weight = min(float(1 / np.tan(np.pi * time / 2) ** 2), 5.0)
        expected = weight * np.mean((x0_hat[i] - x0[i]) ** 2)
        assert float(loss[i]) == pytest.approx(float(expected), rel=1e-5)


def test_uncertain_is_minimal_at_the_log_of_the_error(x64: None) -> None:
    x0, x0_hat = jax.random.normal(jax.random.key(0), (2, 5, 3))
    noised = jd.Noised(x0, x0, x0, 0.5, NoiseLevel(jnp.ones((5, 1)), jnp.ones((5, 1))))
    plain = jd.WeightedError(jd.UniformOnX0())
    error = plain(jd.Denoised(x0_hat), noised)
    loss = lambda u: jd.Uncertain(plain)(jd.Denoised(x0_hat, uncertainty=u), noised)
    u = jnp.linspace(-1, 1, 5)
    np.testing.assert_allclose(loss(u), error / np.exp(u) + u, rtol=1e-14)
    np.testing.assert_allclose(
        jax.grad(lambda u: loss(u).sum())(jnp.log(error)), 0, atol=1e-14
    )


def test_uncertain_says_what_it_needs() -> None:
    x = jnp.ones((2, 3))
    noised = jd.Noised(x, x, x, 0.5, NoiseLevel(1.0, 1.0))
    with pytest.raises(ValueError, match=r"network\.uncertainty = True"):
        jd.Uncertain(jd.WeightedError(jd.Debias()))(jd.Denoised(x), noised)


def test_total_is_the_weighted_sum() -> None:
    a: Any = lambda denoised, noised: jnp.asarray([1.0, 2.0])
    b: Any = lambda denoised, noised: jnp.asarray([10.0, 100.0])
    x = jnp.ones((2, 3))
    noised = jd.Noised(x, x, x, 0.5, NoiseLevel(1.0, 1.0))
    total = jd.Total(((2.0, a), (0.5, b)))(jd.Denoised(x), noised)
    np.testing.assert_allclose(total, [7, 54])


# ------------------------------------------------------------ the variational bound

VLB, LOSSES, WEIGHTED, VDM = (
    np.load(GOLDEN / "iddpm" / f"{name}.npz")
    for name in ("vlb", "losses", "weighted_losses", "vdm")
)
PROCESSES = ("linear_T100", "cosine_T4000", "linear_T1000")


def listed(betas: np.ndarray) -> jd.Table:
    return jd.Table(jd.ListedBetas(tuple(betas.tolist())))


class Given:
    """A published batch at entries of a process, as jaxdiff's values."""

    def __init__(self, z: Any, prefix: str = "", dtype: str = "float64") -> None:
        read = lambda name: jnp.asarray(z[f"{prefix}{name}"], dtype)
        betas, t = z[f"{prefix}betas"], z[f"{prefix}t"]
        self.table, self.between = listed(betas), rows(betas, t)
        self.at = jax.tree.map(
            lambda a: jnp.asarray(a[t + 1].reshape(-1, 1, 1, 1), dtype), levels(betas)
        )
        x0, eps = read("x_start"), read("noise")
        x = self.at.alpha * x0 + self.at.sigma * eps
        time = jnp.asarray((t + 1).reshape(-1, 1, 1, 1) / len(betas), dtype)
        self.noised = jd.Noised(x0, eps, x, time, self.at)
        self.raw = read("raw2C")

    def denoised(self, raw: Any, kind: str) -> jd.Denoised:
        out, v = jnp.split(raw, 2, axis=1)
        x0 = x0_hat(kind, out, self.noised.x, self.at, self.between)
        return jd.Denoised(x0, v)


@functools.cache
def given(file: str, prefix: str = "", dtype: str = "float64") -> Given:
    return Given(np.load(GOLDEN / "iddpm" / f"{file}.npz"), prefix, dtype)


def objectives(golden: Given) -> dict[str, LossTerm]:
    """The published objectives as values."""
    steps = golden.table.steps
    bound = VariationalBound(golden.table)
    whole = VariationalBound(golden.table, stop_mean=False)
    plain: dict[str, Any] = {
        "EPSILON": jd.WeightedError(jd.UniformOnNetwork(jd.Eps())),
        "START_X": jd.WeightedError(jd.UniformOnX0()),
        "PREVIOUS_X": jd.WeightedError(lambda at: golden.between.c_x0**2),
    }
    hybrid = {
        f"{kind}_RESCALED_MSE": jd.Total(((1.0, mse), (steps / 1000, bound)))
        for kind, mse in plain.items()
    }
    return hybrid | {
        "EPSILON_MSE": jd.Total(((1.0, plain["EPSILON"]), (1.0, bound))),
        "EPSILON_KL": whole,
        "EPSILON_RESCALED_KL": jd.Total(((float(steps), whole),)),
    }


@pytest.mark.parametrize("process", PROCESSES)
def test_published_objectives_and_gradients(process: str, x64: None) -> None:
    golden, close = given("losses", f"{process}__"), np.testing.assert_allclose
    simple = objectives(golden)["EPSILON_MSE"].terms[0][1]
    losses = simple(golden.denoised(golden.raw, "EPSILON"), golden.noised)
    close(losses, LOSSES[f"{process}__EPSILON_FIXED_MSE__loss"], rtol=1e-9)
    for name, term in objectives(golden).items():
        kind = name.split("_RESCALED")[0].removesuffix("_KL").removesuffix("_MSE")
        loss = lambda raw, term=term, kind=kind: term(
            golden.denoised(raw, kind), golden.noised
        )
        close(loss(golden.raw), LOSSES[f"{process}__{name}__loss"], rtol=1e-9)
        parts = ("mse", "vb") if name.endswith("MSE") else ()
        for part, (scale, one) in zip(parts, getattr(term, "terms", ()), strict=False):
            losses = scale * one(golden.denoised(golden.raw, kind), golden.noised)
            close(losses, LOSSES[f"{process}__{name}__{part}"], rtol=1e-9, err_msg=name)
        weights = {"grad": np.ones(4), "wgrad": LOSSES["is_weights"]}
        for key, weight in weights.items():
            if f"{process}__{name}__{key}" not in LOSSES.files:
                continue
            grad = jax.grad(lambda raw, w=weight, loss=loss: (w * loss(raw)).mean())
            expected = LOSSES[f"{process}__{name}__{key}"]
            # entry 0's decoder: the reference divides 1e-16 by the mass of a far bin
            for tolerance, losses, wanted in zip(
                (1e-8, 1e-9, 1e-9, 1e-9), grad(golden.raw), expected, strict=True
            ):
                close(losses, wanted, rtol=0, atol=tolerance * np.abs(wanted).max())


@pytest.mark.parametrize("process", PROCESSES)
def test_published_hybrid_loss_in_float32(process: str) -> None:
    golden = given("losses", f"{process}__", "float32")
    term = objectives(golden)["EPSILON_RESCALED_MSE"]
    loss = term(golden.denoised(golden.raw, "EPSILON"), golden.noised)
    assert loss.dtype == jnp.float32
    expected = LOSSES[f"{process}__EPSILON_RESCALED_MSE__loss_f32"]
    # at alpha = 4.9e-5 float32 has x - sigma eps to 1e-7 / alpha
    np.testing.assert_allclose(loss, expected, rtol=1e-4)


@pytest.mark.parametrize("process", PROCESSES)
def test_a_stopped_mean_has_the_gradient_of_the_plain_error(
    process: str, x64: None
) -> None:
    golden = given("losses", f"{process}__")
    terms = objectives(golden)
    plain = terms["EPSILON_MSE"].terms[0][1]
    grad = lambda term: jax.grad(
        lambda raw: term(golden.denoised(raw, "EPSILON"), golden.noised).sum()
    )(golden.raw)
    hybrid, simple = grad(terms["EPSILON_RESCALED_MSE"]), grad(plain)
    np.testing.assert_array_equal(hybrid[:, :3], simple[:, :3])
    np.testing.assert_array_equal(simple[:, 3:], 0)
    assert (np.abs(hybrid[:, 3:]).max(axis=(1, 2, 3)) > 0).all()
    bound = grad(terms["EPSILON_KL"])
    assert (np.abs(bound[:, :3]).max(axis=(1, 2, 3)) > 0).all()


@pytest.mark.parametrize("clip", [0, 1])
def test_published_terms_of_the_bound(clip: int, x64: None) -> None:
    golden = given("vlb", "term_")
    denoised = golden.denoised(golden.raw, "EPSILON")
    np.testing.assert_allclose(golden.noised.x, VLB["term_x_t"], rtol=1e-12)
    for name, rule in {
        "LEARNED_RANGE": LearnedVariance(),
        "FIXED_SMALL": SmallVariance(),
        "FIXED_LARGE": LargeVariance(),
    }.items():
        bits = VariationalBound(golden.table, rule, clip=bool(clip))
        expected = VLB[f"term_EPS_{name}_clip{clip}_bpd"]
        np.testing.assert_allclose(bits(denoised, golden.noised), expected, rtol=1e-9)


def as_shipped(name: str, row: Any) -> Any:
    """A repository's weight. That of debias puts the one for eps on every prediction."""
    for_eps = lambda at: jd.Debias()(at) / at.snr
    on_output = lambda at: jd.UniformOnNetwork(row)(at) * for_eps(at)
    return on_output if name == "debias" else ALL[name]


@pytest.mark.parametrize("case", sorted(k[:-4] for k in WEIGHTED if k.endswith("__vb")))
def test_published_weighted_losses_and_gradients(case: str, x64: None) -> None:
    """<repository>__<prediction>: the weight is on the error and leaves the bound alone."""
    name, kind = case.split("__")
    golden, row = given("weighted_losses"), ON_EPS[kind]
    apply = lambda raw, x, c_noise, cond: jd.Output(*jnp.split(raw, 2, axis=1))
    terms = {
        "mse": jd.WeightedError(as_shipped(name, row)),
        "vb": VariationalBound(golden.table),
    }
    terms["loss"] = jd.Total(tuple((1.0, term) for term in terms.values()))

    def loss(raw: Any, term: LossTerm) -> Any:
        denoised = jd.denoiser(apply, raw, row)(golden.noised.x, golden.noised.at)
        return term(denoised, golden.noised)

    for key, term in terms.items():
        actual, published = loss(golden.raw, term), WEIGHTED[f"{case}__{key}"]
        np.testing.assert_allclose(actual, published, rtol=1e-9, err_msg=key)
    grad = jax.grad(lambda raw: loss(raw, terms["loss"]).mean())(golden.raw)
    published = WEIGHTED[f"{case}__grad"]
    np.testing.assert_allclose(grad, published, rtol=0, atol=1e-9 * np.abs(published).max())


def test_published_decoder(x64: None) -> None:
    x0, mean, log_std = (jnp.asarray(VLB[f"dgll_{k}"]) for k in ("x", "mean", "log_scale"))
    nll = PixelDecoder()(x0, mean, 2 * log_std)
    # the reference has a bin's mass as the difference of two numbers up to 1
    mass = np.exp(VLB["dgll_logp_nats"])
    np.testing.assert_allclose(np.exp(-nll), mass, rtol=1e-12, atol=4e-16)


def test_published_normal_cdf(x64: None) -> None:
    """The lowest bin goes on for ever, so its mass is Phi at its upper edge."""
    y = jnp.asarray(VLB["cdf_x"])[:, None]
    nll = PixelDecoder()(jnp.full_like(y, -1), 1 / 255 - 1 - y, jnp.zeros(()))
    # the reference has 1 + tanh, to 1e-16; no mass of ours is below 1e-12
    published = np.maximum(VLB["cdf_tanh_approx"], 1e-12)
    np.testing.assert_allclose(np.exp(-nll[:, 0]), published, rtol=1e-9, atol=4e-16)


def test_the_decoder_keeps_its_digits_in_float32() -> None:
    """A bin of mass 6e-10, where 1 - Phi has one digit left in float32."""
    x0, mean = jnp.zeros((1, 1)), jnp.full((1, 1), 0.06)
    nll = PixelDecoder()(x0, mean, jnp.float32(-9.2))
    scale = np.exp(4.6)
    z = lambda y: np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)
    tail = lambda y: 1 / (1 + np.exp(2 * z(y)))
    mass = tail(scale * (0.06 - 1 / 255)) - tail(scale * (0.06 + 1 / 255))
    assert 1e-10 < mass < 1e-9
    assert float(nll[0, 0]) == pytest.approx(-np.log(mass), rel=1e-6)


def test_the_decoder_s_bins_share_the_whole_mass(x64: None) -> None:
    pixels = (jnp.arange(256) / 127.5 - 1)[:, None]
    mean, log_variance = jnp.full((256, 1), 0.31), jnp.float64(-6.0)
    mass = np.exp(-PixelDecoder()(pixels, mean, log_variance))
    assert mass.sum() == pytest.approx(1, abs=256e-12)  # 1e-12 a bin is put in its floor
    density = np.exp(-DensityDecoder()(pixels, mean, log_variance))
    middle = np.abs(np.asarray(pixels) - 0.31) < 0.05
    # the bin's mass is its width times the density, but for phi's 2e-4
    np.testing.assert_allclose((mass * 127.5)[middle], density[middle], rtol=3e-3)


def test_the_bound_s_term_is_the_kl_of_two_gaussians(x64: None) -> None:
    """By numbers of a table of N(m1, e^l1), N(m2, e^l2): c_x0 = 1 puts the gap in m."""
    m1, l1, m2, l2 = (jnp.asarray(a)[:, None] for a in VLB["kl_in"])
    between = Posterior(1.0, 0.0, jnp.exp(l1), 1.0, jnp.zeros_like(l1) > 0)
    variance: Any = lambda between, v: l2
    bits = bound_term(jd.Denoised(m2), m1, between, variance, DensityDecoder())
    np.testing.assert_allclose(bits * np.log(2), VLB["kl_out_nats"], rtol=1e-9)


@pytest.mark.parametrize("path", SCHEDULES)
def test_with_the_small_variance_a_term_is_half_the_loss_of_snr(
    path: str, x64: None
) -> None:
    """(SNR_to - SNR_at) / 2 mean (D - x0)^2 nats [VDM], on any path."""
    x0, x0_hat = jax.random.normal(jax.random.key(0), (2, 5, 3))
    at, to = SCHEDULES[path](0.7), SCHEDULES[path](0.6)
    between = posterior(at, to)
    bits = bound_term(jd.Denoised(x0_hat), x0, between, SmallVariance(), PixelDecoder())
    nats = (to.snr - at.snr) / 2 * ((x0 - x0_hat) ** 2).mean(1)
    np.testing.assert_allclose(bits * np.log(2), nats, rtol=1e-9)


def test_at_minus_one_the_learned_variance_is_the_small_one(x64: None) -> None:
    golden = given("vlb", "term_")
    out = golden.denoised(golden.raw, "EPSILON")
    lowest = jd.Denoised(out.x0, jnp.full_like(out.x0, -1))
    learned, small = (
        VariationalBound(golden.table, rule)(lowest, golden.noised)
        for rule in (LearnedVariance(), SmallVariance())
    )
    np.testing.assert_allclose(learned, small, rtol=1e-13)


@pytest.mark.parametrize("steps", [10, 1000])
def test_published_discrete_loss_of_vdm(steps: int, x64: None) -> None:
    """T terms of the path with linear logSNR are VDM's loss; its eps_hat is a network's."""
    low, high = VDM["gamma_minmax"]
    t = np.ceil(VDM["t"] * steps) / steps

    def level(t: np.ndarray) -> NoiseLevel:
        snr = np.exp(-(low + (high - low) * t))[:, None]
        return NoiseLevel(np.sqrt(snr / (1 + snr)), np.sqrt(1 / (1 + snr)))

    at, x0 = level(t), jnp.asarray(VDM["f"])
    x = at.alpha * x0 + at.sigma * VDM["eps"]
    x0_hat = (x - at.sigma * VDM["eps_hat"]) / at.alpha
    between = posterior(at, level(t - 1 / steps))
    bits = bound_term(jd.Denoised(x0_hat), x0, between, SmallVariance(), PixelDecoder())
    nats = steps * bits * np.log(2) * x0.shape[1]
    # x0_hat has cancelled digits of x where alpha is small
    np.testing.assert_allclose(nats, VDM[f"loss_diff_T{steps}"], rtol=1e-9)


@pytest.mark.parametrize("kind", ["EPSILON", "START_X"])
@pytest.mark.parametrize("scale", [1.0, 30.0, 1e6, 1e15])
def test_the_bound_and_its_gradient_are_finite_in_float32(kind: str, scale: float) -> None:
    """An untrained network may say anything, at either end and at pixels of any value."""
    golden = given("losses", "cosine_T4000__", "float32")
    noised = jd.Noised(
        golden.noised.x0.at[..., 0].set(-1).at[..., 1].set(1),
        *(getattr(golden.noised, name) for name in ("eps", "x", "t", "at")),
    )
    term = VariationalBound(golden.table, stop_mean=False)
    # the variance's v is a network's own size; the mean is off by as much as it likes
    raw = golden.raw.at[:, :3].multiply(scale)
    loss = lambda raw: term(golden.denoised(raw, kind), noised).sum()
    value, grad = jax.value_and_grad(loss)(raw)
    if scale < 1e15:
        assert np.isfinite(value)
    assert not np.isnan(grad).any()
    # the decoder's row has a gradient of its own, and gets none from the KL it is not
    alone = lambda raw: term(golden.denoised(raw, kind), noised)[0]
    assert np.isfinite(jax.grad(alone)(raw)).all()


def test_the_bound_says_what_it_needs() -> None:
    golden = given("vlb", "term_", "float32")
    with pytest.raises(ValueError, match=r"network\.learned_variance = True"):
        VariationalBound(golden.table)(jd.Denoised(golden.noised.x0), golden.noised)
