"""Schedule x parameterization x weighting x law: finite at both ends, or refused."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff import times as jt
from jaxdiff import weightings as jw
from jaxdiff.types import Noised, Schedule, Weighting
from tests.test_parameterizations import POLES, ROWS
from tests.test_schedules import PURE_NOISE, SCHEDULES
from tests.test_weightings import ALL
from tests.toys import GOLDEN

LAWS = {
    "uniform": jt.Uniform(),
    "uniform_inside": jt.Uniform(0.001, 0.999),
    "entries": jt.UniformEntries(),
    "stratified": jt.Stratified(),
    "antithetic": jt.Antithetic(),
    "normal": jt.NormalLogSigma(),
    "wide_normal": jt.NormalLogSigma(0.0, 6.0),
    "log_uniform": jt.LogUniformSigma(1e-4, 1e4),
    "logit_normal": jt.LogitNormal(),
    "mode": jt.Mode(),
    "cosmap": jt.CosMap(),
}
WEIGHTINGS = [*ALL, "elbo", "discrete_elbo", "sigmoid"]


def _weighting(name: str, schedule: Schedule) -> Weighting:
    steps = 0 if isinstance(schedule, jd.Table) else 1000
    return {
        "elbo": jw.ELBO(schedule),
        "discrete_elbo": jw.DiscreteELBO(schedule, steps),
        "sigmoid": jw.Sigmoid(schedule, -1.0),
        **ALL,
    }[name]


def _laws(schedule: Schedule) -> dict[str, Any]:
    """Those that go with the schedule; entries want a table."""
    table = isinstance(schedule, jd.Table)
    laws = {k: v for k, v in LAWS.items() if table or k != "entries"}
    return laws | {"importance": jt.LossSecondMoment(schedule.steps if table else 100)}


def _ends(law: Any, schedule: Schedule) -> np.ndarray:
    """The four times furthest out that a law can draw, and four that it drew."""
    if isinstance(law, jt.LossSecondMoment):
        out = np.asarray([1, 1, law.steps, law.steps]) / law.steps
    else:
        out = law.quantile(jnp.asarray([0.0, 1e-6, 1 - 1e-6, 1 - 6e-8]), schedule)
    drawn, _ = law.draw(law.init(), jax.random.key(1), (4, 1, 1, 1), schedule)
    return np.r_[np.asarray(out), np.asarray(drawn).ravel()].astype(np.float32)


def _losses(raw: Any, row: Any, noised: Noised, weights: Any) -> Any:
    """[weightings, B], each as `WeightedError` makes it in training."""
    apply = lambda params, x, c_noise, cond: jd.Output(params)
    denoised = jd.denoiser(apply, raw, row)(noised.x, noised.at)
    loss = lambda w: jd.WeightedError(lambda at: w)(denoised, noised)
    return jax.vmap(loss)(weights)


def test_the_battery_names_every_pure_noise_schedule() -> None:
    assert {k for k, s in SCHEDULES.items() if s.reaches_pure_noise} == PURE_NOISE


@pytest.mark.parametrize("path", SCHEDULES)
def test_loss_and_gradient_are_finite_at_both_ends(path: str) -> None:
    """In float32, at the ends of the path and as far out as every law reaches."""
    schedule = SCHEDULES[path]
    laws = _laws(schedule)
    t = jnp.concatenate(
        [jnp.asarray([0.0, 1.0]), *(_ends(w, schedule) for w in laws.values())]
    )
    t = t.reshape(-1, 1, 1, 1)
    x0 = jax.random.uniform(jax.random.key(2), (t.size, 2, 2, 1), minval=-1)
    noised = jd.corrupt(jax.random.key(0), x0, t, schedule)
    weights = jnp.stack([_weighting(name, schedule)(noised.at) for name in WEIGHTINGS])
    assert weights.shape == (len(WEIGHTINGS), *t.shape)
    raw = jax.random.normal(jax.random.key(3), x0.shape)
    covered = refused = 0
    for name, row in ROWS.items():
        if schedule.reaches_pure_noise and row.has_pole_at_pure_noise:
            assert name in POLES
            refused += len(WEIGHTINGS) * len(laws)
            continue
        losses, pull = jax.vjp(lambda raw, row=row: _losses(raw, row, noised, weights), raw)
        (grads,) = jax.vmap(pull)(jnp.eye(len(WEIGHTINGS))[:, :, None] * jnp.ones(t.size))
        for finite in (np.isfinite(losses), np.isfinite(grads).all((2, 3, 4))):
            where = np.argwhere(~finite)
            assert finite.all(), [(name, WEIGHTINGS[w], float(t[i])) for w, i in where[:5]]
        covered += len(WEIGHTINGS) * len(laws)
    print(f"\n{path}: {covered} combinations finite, {refused} refused")
    assert covered + refused == len(ROWS) * len(WEIGHTINGS) * len(laws)


def test_how_many_combinations_the_battery_covers() -> None:
    """The number that is reported: finite ones and refused ones."""
    finite = refused = 0
    for name, schedule in SCHEDULES.items():
        rows = len(POLES) if name in PURE_NOISE else 0
        each = len(WEIGHTINGS) * len(_laws(schedule))
        finite, refused = finite + (len(ROWS) - rows) * each, refused + rows * each
    print(f"\n{finite} combinations finite, {refused} refused")
    assert finite + refused > 25_000


GIVEN = np.load(GOLDEN / "iddpm" / "weighted_losses.npz")
P2 = np.load(GOLDEN / "iddpm" / "p2_losses.npz")


@pytest.mark.parametrize("name", ["p2_k1_g1", "p2_k1_g0.5"])
def test_published_losses_and_gradients_of_p2(name: str, x64: None) -> None:
    at = jd.Table(jd.LinearBetas())((GIVEN["t"].reshape(4, 1, 1, 1) + 1) / 1000)
    x = at.alpha * GIVEN["x_start"] + at.sigma * GIVEN["noise"]
    noised = Noised(GIVEN["x_start"], GIVEN["noise"], x, None, at)
    loss = lambda raw: _losses(raw, jd.Eps(), noised, ALL[name](at)[None])[0]
    np.testing.assert_allclose(loss(GIVEN["raw"]), P2[f"{name}__EPSILON__mse"], rtol=1e-8)
    grad = jax.grad(lambda raw: loss(raw).mean())(jnp.asarray(GIVEN["raw"]))
    published = P2[f"{name}__EPSILON__grad"]
    np.testing.assert_allclose(grad, published, atol=1e-8 * np.abs(published).max())


@pytest.mark.parametrize("path", ["vp_linear", "log_sigma", "trig_flow", "ddpm"])
def test_every_weighting_trains_the_same_under_every_prediction(
    path: str, x64: None
) -> None:
    """The same x0 made from six outputs: one loss, and one gradient along x0."""
    rng, schedule = np.random.default_rng(0), SCHEDULES[path]
    x0, eps, x0_hat = rng.normal(size=(3, 4, 2, 2, 3))
    t = np.asarray([0.101, 0.4, 0.7, 0.95]).reshape(4, 1, 1, 1)
    at = schedule(t)
    noised = Noised(x0, eps, at.alpha * x0 + at.sigma * eps, t, at)
    weights = jnp.stack([_weighting(name, schedule)(at) for name in WEIGHTINGS])
    expected = (weights * (x0_hat - x0) ** 2).mean((2, 3, 4))
    slope = (weights * 2 * (x0_hat - x0) / 12).sum(0)
    for row in ROWS.values():
        scale = row(at)
        raw = (x0_hat - scale.c_skip * noised.x) / scale.c_out
        loss = lambda raw, row=row: _losses(raw, row, noised, weights)
        np.testing.assert_allclose(loss(raw), expected, rtol=1e-9)
        grad = jax.grad(lambda raw, loss=loss: loss(raw).sum())(raw)
        np.testing.assert_allclose(grad / scale.c_out, slope, rtol=1e-8, atol=1e-12)
