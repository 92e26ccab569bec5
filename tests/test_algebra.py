"""Everything with everything: finite at both ends, or refused.

Training: schedule x parameterization x weighting x law, and table x parameterization x
loss. Sampling: grid x parameterization x solver. No type of `config.TYPES` is left out.
"""

import math
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.config import TYPES, parts
from jaxdiff.denoisers.parameterizations import AngleLabel
from jaxdiff.objectives import losses as jl
from jaxdiff.objectives import timesteps as jt
from jaxdiff.objectives import weightings as jw
from jaxdiff.sampling.grids import (
    Beta,
    Karras,
    Leading,
    Linspace,
    Listed,
    LogLinear,
    Polyexponential,
    Trailing,
    Uniform,
    UniformLogSNR,
)
from jaxdiff.sampling.solvers import (
    DDIM,
    DEIS,
    LMS,
    Ancestral,
    DPMSolverPP,
    DPMSolverPP2S,
    Euler,
    EulerMaruyama,
    Heun,
    Midpoint,
    RungeKutta,
    StochasticHeun,
    UniPC,
    sde,
)
from jaxdiff.schedules import posterior as jp
from jaxdiff.types import (
    Condition,
    Denoised,
    LossTerm,
    Noised,
    NoiseLevel,
    Schedule,
    Weighting,
)
from tests.test_parameterizations import POLES, ROWS
from tests.test_schedules import PURE_NOISE, SCHEDULES
from tests.test_weightings import ALL

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
TABLES = {k: s for k, s in SCHEDULES.items() if isinstance(s, jd.Table)}
NETWORKS = ROWS | {"v_of_angle": jd.V(AngleLabel())}
VARIANCES = [jp.SmallVariance(), jp.LargeVariance(), jp.LearnedVariance()]
GRIDS = {
    "uniform": Uniform(),
    "stopped": Uniform(end=0.05),
    "trailing": Trailing(),
    "leading": Leading(),
    "leading_from_1": Leading(offset=1),
    "linspace": Linspace(),
    "even_logsnr": UniformLogSNR(-3.0, 2.5),
}
SIGMAS = {
    "karras": Karras(),
    "polyexponential": Polyexponential(rho=1.5),
    "beta": Beta(),
    "align_your_steps": LogLinear(),
    "listed": Listed((1.0, 0.8, 0.6, 0.3, 0.0), (0.0, 0.6, 0.8, 0.9, 1.0)),
}
CLOCK = jd.Cosine()
SOLVERS = {
    "euler": Euler(),
    "heun": Heun(),
    "heun_churned": Heun(churn=4.0),
    "ddim": DDIM(0.5),
    "ddim_eta_1": DDIM(1.0),
    **{f"ancestral_{v}": Ancestral(v) for v in VARIANCES},
    "maruyama": EulerMaruyama(),
    "maruyama_constant": EulerMaruyama(sde.ConstantW(), CLOCK),
    "maruyama_linear": EulerMaruyama(sde.LinearW(), CLOCK),
    "maruyama_decreasing": EulerMaruyama(sde.DecreasingW(), CLOCK, last="euler"),
    "maruyama_of_sit": EulerMaruyama(sde.SigmaW(), CLOCK, True, math.inf, "mean"),
    "stochastic_heun": StochasticHeun(sde.Proportional(0.5)),
    "stochastic_heun_sine": StochasticHeun(sde.SineW(), CLOCK, tangent=True),
    "euler_churned": Euler(churn=4.0),
    "midpoint": Midpoint(),
    "midpoint_of_flows": Midpoint(jd.RectifiedFlow()),
    "dpmpp_2s": DPMSolverPP2S(),
    "dpmpp_sde": DPMSolverPP2S(1.0),
    "dpmpp_2s_ancestral": DPMSolverPP2S(0.5, ancestral=True),
    "dpmpp_2m": DPMSolverPP(2),
    "dpmpp_3m_sde": DPMSolverPP(3, 0.5, "exact"),
    "unipc": UniPC(3),
    "deis": DEIS(3),
    "lms": LMS(4),
    "rk4": RungeKutta(CLOCK),
    "heun_full": RungeKutta(CLOCK, "heun", full=True),
}


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
    t = np.r_[0.0, 1.0, *(_ends(law, schedule) for law in laws.values())]
    t = np.resize(t, 2 + 8 * (len(LAWS) + 1))  # as many for every path: one set of programs
    t = jnp.asarray(t, jnp.float32).reshape(-1, 1, 1, 1)
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


def test_how_many_combinations_the_batteries_cover() -> None:
    """The numbers that are reported: finite ones and refused ones."""
    finite = refused = 0
    for name, schedule in SCHEDULES.items():
        rows = len(POLES) if name in PURE_NOISE else 0
        each = len(WEIGHTINGS) * len(_laws(schedule))
        finite, refused = finite + (len(ROWS) - rows) * each, refused + rows * each
    print(f"\ntraining: {finite} combinations finite, {refused} refused")
    assert finite + refused > 25_000
    starts = np.asarray([levels.alpha[0] for levels in _grids().values()])
    every, refused = starts.size * len(NETWORKS), int((starts == 0).sum()) * len(POLES)
    finite, refused = (n * len(SOLVERS) for n in (every - refused, refused))
    print(f"sampling: {finite} combinations finite, {refused} refused")
    assert finite + refused > 10_000


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


# ------------------------------------------------------------------ losses of tables


def _terms(table: jd.Table) -> dict[str, LossTerm]:
    plain = jd.WeightedError(jd.MinSNR())
    bounds = {
        f"bound_{variance}_{decoder}": jl.VariationalBound(table, variance, decoder, stop)
        for variance in VARIANCES
        for decoder in (jl.PixelDecoder(), jl.DensityDecoder())
        for stop in (True, False)
    }
    hybrid = jd.Total(((1.0, plain), (0.001, jl.VariationalBound(table))))
    return {"plain": plain, "uncertain": jd.Uncertain(plain), "hybrid": hybrid} | bounds


@pytest.mark.parametrize("path", TABLES)
def test_every_loss_of_a_table_is_finite_at_both_ends(path: str) -> None:
    """In float32, with gradients to every head; an image for each row and entry."""
    table = TABLES[path]
    entries = np.asarray([1, 2, table.steps // 2, table.steps])
    names = [n for n in NETWORKS if not (n in POLES and table.reaches_pure_noise)]
    names = np.resize(names, len(NETWORKS)).tolist()  # as many for every table
    t = jnp.asarray(entries / table.steps, jnp.float32).reshape(-1, 1, 1, 1)
    x0 = jax.random.uniform(jax.random.key(0), (entries.size, 2, 2, 1), minval=-1)
    noised = jd.corrupt(jax.random.key(1), x0, t, table)
    whole = jax.tree.map(lambda a: jnp.concatenate([a] * len(names)), noised)
    heads = jax.random.normal(jax.random.key(2), (2, *whole.x.shape))

    def loss(heads: Any, u: Any, term: LossTerm) -> Any:
        outputs = zip(*(jnp.split(h, len(names)) for h in heads), strict=True)
        apply = lambda params, x, c_noise, cond: jd.Output(*params)
        made = [
            jd.denoiser(apply, output, NETWORKS[name])(noised.x, noised.at)
            for name, output in zip(names, outputs, strict=True)
        ]
        out = jax.tree.map(lambda *a: jnp.concatenate(a), *made)
        return term(Denoised(out.x0, out.variance, u), whole)

    u = jnp.linspace(-3, 3, whole.x.shape[0])
    for name, term in _terms(table).items():
        values, pull = jax.vjp(lambda h, u, term=term: loss(h, u, term), heads, u)
        grads = pull(jnp.ones_like(values))
        bad = ~np.isfinite(values) | ~np.isfinite(grads[0]).all((0, 2, 3, 4))
        bad = (bad | ~np.isfinite(grads[1])).reshape(len(names), -1)
        where = [(names[r], int(entries[e])) for r, e in np.argwhere(bad)]
        assert not where, (name, where[:5])


# -------------------------------------------------------------------------- samplers


@lru_cache(maxsize=1)
def _grids(steps: int = 4) -> dict[str, NoiseLevel]:
    """Every grid on every schedule that it goes with."""
    made = {name: grid(None, steps) for name, grid in SIGMAS.items()}
    for path, schedule in SCHEDULES.items():
        for name, grid in GRIDS.items():
            of_entries = isinstance(grid, Leading | Linspace)
            if path in TABLES or not of_entries:
                made[f"{name} on {path}"] = grid(schedule, steps)
    return jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), made)


def _by_rows(params: Any) -> Any:
    """Image i is denoised by the i-th row, of a network that reads all it is given."""

    def apply(param: Any, x: Any, c_noise: Any, cond: Any) -> jd.Output:
        return jd.Output(jnp.tanh(x + c_noise + param), variance=jnp.sin(3 * x))

    def denoise(x: Any, at: NoiseLevel, cond: Condition) -> Denoised:
        each = [
            jd.denoiser(apply, params[i], row)(x[i : i + 1], at, cond)
            for i, row in enumerate(NETWORKS.values())
        ]
        return jax.tree.map(lambda *a: jnp.concatenate(a), *each)

    return denoise


@pytest.mark.parametrize("name", SOLVERS)
def test_every_sampler_is_finite_from_noise_to_data(name: str) -> None:
    """In float32, value and gradient; a row with a pole is refused where alpha_0 = 0."""
    grids, solver = _grids(), SOLVERS[name]
    levels = jax.tree.map(lambda *a: jnp.stack(a), *grids.values())
    shape = (len(grids), len(NETWORKS))
    keys = jax.random.split(jax.random.key(0), len(NETWORKS))

    def run(params: Any, grid: NoiseLevel) -> Any:
        return jd.sample(_by_rows(params), Condition(), keys, (2, 1, 1), grid, solver)

    x, pull = jax.vjp(jax.jit(lambda p: jax.vmap(run)(p, levels)), jnp.zeros(shape))
    (grads,) = pull(jnp.ones_like(x))
    finite = np.isfinite(x).all((2, 3, 4)) & np.isfinite(grads)
    poles = np.asarray([row in POLES for row in NETWORKS])
    refused = (np.asarray(levels.alpha[:, :1]) == 0) & poles
    bad = np.argwhere(~finite & ~refused)
    assert not bad.size, [([*grids][g], [*NETWORKS][r]) for g, r in bad[:5]]
    assert not finite[refused].any()


# ------------------------------------------------------------------- nothing left out

TABLE = TABLES["ddpm"]
BATTERIES: dict[str, list[Any]] = {
    "levels": [*GRIDS.values(), *SIGMAS.values()],
    "losses": [*_terms(TABLE).values()],
    "parameterizations": [*NETWORKS.values()],
    "posterior": [*SOLVERS.values(), *_terms(TABLE).values()],
    "schedules": [*SCHEDULES.values()],
    "solvers": [*SOLVERS.values(), jd.Adaptive()],
    "times": [*_laws(TABLE).values()],
    "weightings": [_weighting(name, TABLE) for name in WEIGHTINGS],
}


OF_ESTIMATORS = {jl.CrossEntropy, jl.LevelLikelihood, jd.parameterizations.Unscaled}
"""What goes with a network that makes no x0; test_level.py and test_classifier.py have
them."""
OF_PUBLISHED = {jd.parameterizations.TimeLabel}
"""What published networks are told; tests/test_dit_samples.py has them."""


@pytest.mark.parametrize("group", BATTERIES)
def test_every_type_that_can_be_configured_goes_through_a_battery(group: str) -> None:
    types = {t for name, t in TYPES.items() if name.startswith(f"{group}.")}
    covered = {type(p) for member in BATTERIES[group] for p in parts(member, object)}
    assert len(types) > 2
    assert not types - covered - OF_ESTIMATORS - OF_PUBLISHED
