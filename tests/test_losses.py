"""Loss terms: published losses and gradients, one weighting under every prediction."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.types import LossTerm, NoiseLevel
from tests.test_parameterizations import POLES, ROWS
from tests.test_weightings import ALL
from tests.toys import GOLDEN, PURE_NOISE, SCHEDULES

GIVEN = np.load(GOLDEN / "iddpm" / "weighted_losses.npz")
ON_EPS = {"EPSILON": jd.Eps(), "START_X": jd.X0(), "VELOCITY": jd.V()}


def _noised(path: Any, t: Any, x0: Any, eps: Any) -> jd.Noised:
    at = path(t)
    return jd.Noised(x0, eps, at.alpha * x0 + at.sigma * eps, t, at)


def _loss(raw: Any, row: Any, term: LossTerm, noised: jd.Noised) -> Any:
    apply = lambda params, x, c_noise, cond: jd.Output(params)  # noqa: E731
    return term(jd.denoiser(apply, raw, row)(noised.x, noised.at), noised)


# the repository of debias puts the weight for eps on every prediction: eps alone counts
PUBLISHED = [("debias", "EPSILON")]
PUBLISHED += [(name, kind) for name in ("minsnr_g5", "minsnr_g1") for kind in ON_EPS]


@pytest.mark.parametrize(("name", "kind"), PUBLISHED)
def test_published_losses_and_gradients(name: str, kind: str, x64: None) -> None:
    t = (GIVEN["t"].reshape(4, 1, 1, 1) + 1) / 1000
    table = jd.Table(jd.LinearBetas())
    noised = _noised(table, t, GIVEN["x_start"], GIVEN["noise"])
    loss = lambda raw: _loss(raw, ON_EPS[kind], jd.WeightedError(ALL[name]), noised)  # noqa: E731
    np.testing.assert_allclose(loss(GIVEN["raw"]), GIVEN[f"{name}__{kind}__mse"], rtol=1e-8)
    grad = jax.grad(lambda raw: loss(raw).mean())(jnp.asarray(GIVEN["raw"]))
    scale = np.abs(GIVEN[f"{name}__{kind}__grad"]).max()
    np.testing.assert_allclose(grad, GIVEN[f"{name}__{kind}__grad"], atol=1e-8 * scale)


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
        loss = lambda raw, row=row: _loss(raw, row, jd.WeightedError(ALL[name]), noised)  # noqa: E731
        np.testing.assert_allclose(loss(raw), expected, rtol=1e-9)
        grad = jax.grad(lambda raw, loss=loss: loss(raw).sum())(raw)
        np.testing.assert_allclose(grad / scale.c_out, slope, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("path", SCHEDULES)
@pytest.mark.parametrize("row", ROWS)
def test_every_loss_and_gradient_is_finite_at_both_ends(path: str, row: str) -> None:
    end = 0.999 if row in POLES and path in PURE_NOISE else 1.0
    t = jnp.asarray([0.0, 1e-6, end]).reshape(3, 1, 1, 1)
    x0, eps = jax.random.normal(jax.random.key(0), (2, 3, 4, 4, 2))
    noised = _noised(SCHEDULES[path], t, x0, eps)
    raw = jax.random.normal(jax.random.key(1), x0.shape)
    for name, weighting in ALL.items():
        loss = lambda raw, w=weighting: _loss(raw, ROWS[row], jd.WeightedError(w), noised)  # noqa: E731
        values, grad = loss(raw), jax.grad(lambda raw, loss=loss: loss(raw).sum())(raw)
        assert np.isfinite(values).all(), name
        assert np.isfinite(grad).all(), name


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
    loss = lambda u: jd.Uncertain(plain)(jd.Denoised(x0_hat, uncertainty=u), noised)  # noqa: E731
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
    a: Any = lambda denoised, noised: jnp.asarray([1.0, 2.0])  # noqa: E731
    b: Any = lambda denoised, noised: jnp.asarray([10.0, 100.0])  # noqa: E731
    x = jnp.ones((2, 3))
    noised = jd.Noised(x, x, x, 0.5, NoiseLevel(1.0, 1.0))
    found = jd.Total(((2.0, a), (0.5, b)))(jd.Denoised(x), noised)
    np.testing.assert_allclose(found, [7, 54])
