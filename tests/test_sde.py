"""Stochastic solvers: golden chains, weak order, marginals, and one network for all."""

import dataclasses
import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm as normal

import jaxdiff as jd
from jaxdiff.denoisers.parameterizations import AngleLabel
from jaxdiff.sampling.grids import Uniform
from jaxdiff.sampling.solvers import DDIM, Euler, Heun
from jaxdiff.sampling.solvers.sde import (
    LAST,
    ConstantW,
    DecreasingW,
    Diffusion,
    End,
    EulerMaruyama,
    LinearW,
    Proportional,
    SigmaW,
    SineW,
    StochasticHeun,
)
from jaxdiff.types import Condition, Denoised, NoiseLevel, Schedule, Solver
from tests.compiling import LONG
from tests.toys import (
    GOLDEN,
    PROBLEMS,
    SCHEDULES,
    Mixture,
    edm,
    follow,
    mixture,
    on_host,
)

CHAINS = np.load(GOLDEN / "iddpm" / "sde_chains.npz")
STRAIGHT = jd.RectifiedFlow()
SIT_PATHS = {"Linear": STRAIGHT, "GVP": jd.Cosine(), "VP": jd.VPLinear()}
"""SiT's names of our paths; its t is 1 - ours."""
FORMS = {
    "constant": ConstantW,
    "sigma": SigmaW,
    "linear": LinearW,
    "decreasing": DecreasingW,
    "inccreasing-decreasing": SineW,
}
NORM = 1.3
"""The norm of SiT's diffusion forms in the golden arrays."""
TOLERANCE = 1e-10
"""For golden numbers in float64; the references reproduce themselves to 1e-13."""


def _in_float32(law: str) -> Mixture:
    """A mixture of constants that are float32, whatever tests before it traced."""
    toy = Mixture(law)
    for field, value in vars(toy).items():
        setattr(toy, field, np.asarray(value, np.float32))
    return toy


SINGLE = _in_float32("gmm2")


@pytest.mark.parametrize("last", LAST)
@pytest.mark.parametrize("tangent", [False, True])
@pytest.mark.parametrize(
    ("name", "diffusion"),
    {"two_sigma": SigmaW(), "const1": ConstantW(0.5), "two_sin2": SineW()}.items(),
)
def test_golden_euler_maruyama_on_the_straight_path(
    name: str, diffusion: Diffusion, tangent: bool, last: str, x64: None
) -> None:
    """There the path's tangent and its increments are one."""
    solver = EulerMaruyama(diffusion, STRAIGHT, tangent, math.inf, last)
    levels = STRAIGHT(CHAINS["em/t"])
    x = follow(solver, mixture("gmm2"), CHAINS["em/x"], levels, CHAINS["em/noise"])[-1]
    np.testing.assert_allclose(x, CHAINS[f"em/{name}/{last}"], atol=TOLERANCE)


def test_golden_reverse_sde_needs_no_clock(x64: None) -> None:
    """w = g^2 = 2 t / (1 - t), from increments of (alpha, sigma) alone."""
    solver = EulerMaruyama(Proportional(1.0), limit=math.inf, last="mean")
    levels = STRAIGHT(CHAINS["em_g2/t"])
    x = follow(solver, mixture("gmm2"), CHAINS["em/x"], levels, CHAINS["em/noise"])[-1]
    np.testing.assert_allclose(x, CHAINS["em_g2/mean"], atol=TOLERANCE)


def _of_velocity(path: Schedule) -> Any:
    """The golden toy velocity tanh(P0 x + P1 cos(P2 t)), as a denoiser.

    D = (sigma' x - sigma u) / (alpha sigma' - alpha' sigma), u = dx/dt.
    """
    p = CHAINS["toy"]

    def denoise(x: Any, at: NoiseLevel) -> Denoised:
        t = path.time(at.logsnr)
        at, rate = jax.jvp(path, (t,), (jnp.ones_like(t),))
        u = -jnp.tanh(p[0] * x + p[1] * jnp.cos(p[2] * (1 - t)))
        wronskian = at.alpha * rate.sigma - rate.alpha * at.sigma
        return Denoised((rate.sigma * x - at.sigma * u) / wronskian)

    return denoise


@pytest.mark.parametrize("last", LAST)
@pytest.mark.parametrize("form", ["sigma", "decreasing"])
@pytest.mark.parametrize("name", SIT_PATHS)
@pytest.mark.parametrize("kind", [EulerMaruyama, StochasticHeun])
def test_golden_sit_chains(kind: Any, name: str, form: str, last: str, x64: None) -> None:
    """SiT's own sampler on its three paths: 8 steps to t = 0.04, then its last step."""
    path = SIT_PATHS[name]
    solver = kind(FORMS[form](NORM), path, True, math.inf, last)
    steps = int(CHAINS["sde_num_steps"])
    levels = path(np.r_[1 - np.linspace(0, 0.96, steps), 0])
    # the landing step must not listen to its noise
    noise = np.r_[CHAINS["sde_z"], np.full_like(CHAINS["sde_z"][:1], 1e3)]
    x = follow(solver, _of_velocity(path), CHAINS["sde_init"], levels, noise)[-1]
    sit = {EulerMaruyama: "Euler", StochasticHeun: "Heun"}[kind]
    golden = CHAINS[f"sde__{name.upper()}__{sit}__{form}__{last.title()}"]
    np.testing.assert_allclose(x, golden, atol=TOLERANCE)


@pytest.mark.parametrize(("name", "end"), [("Linear", 1.0), ("GVP", 1.0), ("VP", 0.999)])
def test_golden_sit_ode(name: str, end: float, x64: None) -> None:
    path = SIT_PATHS[name]
    solver = EulerMaruyama(Proportional(0.0), path, True, last="euler")
    levels = path(1 - np.linspace(0, end, 9))
    x = follow(solver, _of_velocity(path), CHAINS["sde_init"], levels)[-1]
    np.testing.assert_allclose(x, CHAINS[f"ode_euler__{name.upper()}"], atol=TOLERANCE)


def _end(path: Schedule) -> End:
    """The path's tangent, per unit of t going back, at the golden times."""
    t = jnp.asarray(1 - CHAINS["t"])
    at, rate = jax.jvp(path, (t,), (-jnp.ones_like(t),))
    return End(t, jnp.ones_like(t), at, rate)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", SIT_PATHS)
def test_golden_diffusion_forms(name: str, form: str, x64: None) -> None:
    """Ours are twice what SiT's code calls w, as its paper's are."""
    w = FORMS[form](NORM)(_end(SIT_PATHS[name]))
    np.testing.assert_allclose(w, 2 * CHAINS[f"{name}__w_{form}"], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", SIT_PATHS)
def test_golden_reverse_sde_is_sits_sbdm(name: str, x64: None) -> None:
    w = Proportional(NORM)(_end(SIT_PATHS[name]))
    np.testing.assert_allclose(w, 2 * CHAINS[f"{name}__w_SBDM"], rtol=1e-10)


WITH_NOISE = {
    "eta_1": (Proportional(1.0), None),
    "eta_half": (Proportional(0.5), None),
    "constant": (ConstantW(), STRAIGHT),
    "sigma": (SigmaW(), STRAIGHT),
    "linear": (LinearW(), jd.Cosine()),
    "decreasing": (DecreasingW(), STRAIGHT),
    "sine": (SineW(), STRAIGHT),
}


def _variance(solver: Solver, levels: NoiseLevel) -> float:
    """What a solver makes of the variance of data N(0, 0.6^2), without Monte-Carlo.

    Each step is x' = a x + b noise there, a and b read off one-hot inputs.
    """
    x, noise = jnp.asarray([[1.0], [0.0]]), jnp.asarray([[0.0], [1.0]])
    memory, rows = solver.init(x, levels)
    step = partial(solver.step, jd.gaussian_denoiser(0.0, 0.6), x, memory)
    maps = jax.vmap(lambda row: step(row, lambda k: noise)[0])(rows)
    first = on_host(levels[0])
    variance = (first.alpha * 0.6) ** 2 + first.sigma**2
    for a, b in np.asarray(maps)[..., 0]:
        variance = a**2 * variance + b**2
    return float(variance)


@pytest.mark.parametrize("path", ["rectified_flow", "vp_linear", "log_sigma"])
@pytest.mark.parametrize("case", WITH_NOISE)
@pytest.mark.parametrize("kind", [EulerMaruyama, StochasticHeun])
def test_weak_order(kind: Any, case: str, path: str, x64: None) -> None:
    """The variance at t = 0.1 is wrong by C / N, whatever w is."""
    diffusion, clock = WITH_NOISE[case]
    solver = kind(diffusion, clock, limit=math.inf)
    high, low = 0.95, 0.1
    if path == "log_sigma":  # the same span of logsnr, on EDM's own path
        high, low = (float(SCHEDULES[path].time(STRAIGHT(t).logsnr)) for t in (0.95, 0.1))
    end = on_host(SCHEDULES[path](low))
    exact = (0.6 * end.alpha) ** 2 + end.sigma**2
    errors = []
    for steps in (800, 1600):
        levels = SCHEDULES[path](np.linspace(high, low, steps + 1))
        errors.append(_variance(solver, levels) / exact - 1)
    assert 1e-5 < abs(errors[1]) < 0.01
    # the next term of the error's expansion leaves some C / N in the order
    assert np.log2(errors[0] / errors[1]) == pytest.approx(1, abs=0.06)


def test_without_noise_they_are_euler_and_heun(x64: None) -> None:
    x, levels = CHAINS["em/x"], Uniform()(jd.Cosine(), 12)
    for solver, plain in (
        (EulerMaruyama(Proportional(0.0)), Euler()),
        (StochasticHeun(Proportional(0.0)), Heun()),
        (EulerMaruyama(SigmaW(0.0), jd.Cosine()), Euler()),
        (StochasticHeun(SigmaW(0.0), jd.Cosine()), Heun()),
    ):
        ours = follow(solver, mixture("gmm2"), x, levels, CHAINS["em/noise"])[-1]
        plainly = follow(plain, mixture("gmm2"), x, levels)[-1]
        np.testing.assert_allclose(ours, plainly, atol=1e-12)


@pytest.mark.parametrize("kind", [EulerMaruyama, StochasticHeun])
def test_with_a_clock_only_logsnr_counts(kind: Any, x64: None) -> None:
    """Grids of one logsnr on four paths: one trajectory, x / alpha."""
    solver = kind(SigmaW(), STRAIGHT)
    t = np.linspace(0.98, 0.02, 15)
    logsnr = 2 * np.log((1 - t) / t)
    rng = np.random.default_rng(0)
    xi, noise = rng.normal(size=(8, 2)), rng.normal(size=(14, 8, 2))
    ends = []
    for path in (STRAIGHT, jd.LogSigma(), jd.VPLinear(), jd.Cosine()):
        levels = path(np.asarray(path.time(logsnr)))
        x = follow(solver, mixture("gmm2"), levels.sigma[0] * xi, levels, noise)[-1]
        ends.append(x / levels.alpha[-1])
    for other in ends[1:]:
        np.testing.assert_allclose(other, ends[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("path", SCHEDULES)
@pytest.mark.parametrize("kind", [EulerMaruyama, StochasticHeun])
@pytest.mark.parametrize("case", ["eta_1", "sigma", "sine"])
def test_finite_at_both_ends_in_float32(case: str, kind: Any, path: str) -> None:
    """From alpha = 0, where g^2 has a pole, to the data, where it returns D."""
    diffusion, clock = WITH_NOISE[case]
    levels = Uniform()(SCHEDULES[path], 5)
    noise = np.random.default_rng(0).normal(size=(5, 8, 2)).astype(np.float32)
    x = CHAINS["em/x"][:8].astype(np.float32) * np.asarray(levels.sigma[0])
    states = follow(kind(diffusion, clock), SINGLE, x, levels, noise)
    assert all(np.isfinite(s).all() for s in states)
    landed = SINGLE(jnp.asarray(states[-2]), levels[-2]).x0
    np.testing.assert_allclose(states[-1], landed, atol=1e-5)


@pytest.mark.parametrize("last", LAST)
@pytest.mark.parametrize("path", [*SIT_PATHS.values(), SCHEDULES["zero_terminal"]])
@pytest.mark.parametrize("kind", [EulerMaruyama, StochasticHeun])
def test_no_coefficient_has_a_pole(kind: Any, path: Schedule, last: str) -> None:
    """Also those that no step reads: they would make gradients nan under vmap."""
    levels = Uniform()(path, 4)
    rows = kind(SigmaW(), path, True, last=last).init(jnp.zeros((1, 1)), levels)[1]
    for leaf in jax.tree.leaves(rows):
        assert np.isfinite(leaf).all()


def test_limit_bounds_a_langevin_step(x64: None) -> None:
    """From alpha = 1e-3 to 0.5, g^2 h is hundreds of sigma^2."""
    levels = NoiseLevel(np.asarray([1e-3, 0.5]), np.asarray([1.0, 0.5]))
    levels = jax.tree.map(jnp.asarray, levels)
    free, held = (
        EulerMaruyama(limit=limit).init(jnp.zeros((1, 1)), levels)[1].noise[0] ** 2
        for limit in (math.inf, 0.25)
    )
    assert free == pytest.approx(2 * (0.499 / 1e-3 + 0.5))
    assert held == pytest.approx(0.25 * 2)


def _network(row: Any, path: Schedule) -> Any:
    """An exact network of the golden mixture that knows its own path alone.

    It is told x times c_in and the angle of the level, and has to find the level on the
    path it was trained on before it answers what `row` trains it to.
    """

    def apply(params: Any, x: Any, angle: Any, cond: Any) -> jd.Output:
        quarter = jnp.pi / 2 * angle
        level = path(path.time(2 * (jnp.log(jnp.cos(quarter)) - jnp.log(jnp.sin(quarter)))))
        scale = row(level)
        x = x / scale.c_in
        x0 = SINGLE(x, level).x0
        eps = (x - level.alpha * x0) / level.sigma
        norm = jnp.hypot(level.alpha, level.sigma)
        answer = {"Flow": eps - x0, "Score": -eps / level.sigma * norm}
        return jd.Output(answer[type(row).__name__])

    return jd.denoiser(apply, None, row)


def _distance(samples: np.ndarray) -> float:
    """Sliced W1 between samples [n, 2] and the mixture, against its exact marginals."""
    w, mu, cov = (PROBLEMS[f"gmm2/{k}"] for k in ("w", "mu", "C"))
    axis = np.linspace(-8, 8, 4001)
    total = 0.0
    for angle in np.linspace(0, np.pi, 8, endpoint=False):
        u = np.asarray([np.cos(angle), np.sin(angle)])
        std = np.sqrt(np.einsum("d,kde,e->k", u, cov, u))
        cdf = (w * normal.cdf((axis[:, None] - mu @ u) / std)).sum(1)
        empirical = np.searchsorted(np.sort(samples @ u), axis) / len(samples)
        total += float(np.abs(cdf - empirical).mean() * 16)
    return total / 8


SAMPLERS = {
    "ode_euler": Euler(),
    "ode_heun": Heun(),
    "sde_ddim": DDIM(1.0),
    "sde_maruyama": EulerMaruyama(),
    "sde_maruyama_sigma": EulerMaruyama(SigmaW(), STRAIGHT),
    "sde_heun": StochasticHeun(),
    "sde_heun_sine": StochasticHeun(SineW(), STRAIGHT),
}


NETWORKS = {
    f"{type(row).__name__} on {path}": _network(row, SCHEDULES[path])
    for row in (jd.Flow(label=AngleLabel()), jd.Score(label=AngleLabel()))
    for path in ("vp_linear", "rectified_flow")
}
"""Trained as flow or as score, on one of two paths."""


@pytest.mark.parametrize("name", SAMPLERS)
def test_one_network_for_odes_and_sdes_on_any_path(name: str) -> None:
    """Each network by itself, sampled by any solver on two other paths."""
    n, steps = 4096, 64
    keys = jax.random.split(jax.random.key(1), n)

    def denoise(x: Any, at: NoiseLevel, cond: Condition) -> Denoised:
        each = [d(x[:, i], at).x0 for i, d in enumerate(NETWORKS.values())]
        return Denoised(jnp.stack(each, 1))

    shape = (len(NETWORKS), 2)
    solver = SAMPLERS[name]
    draw = lambda levels: jd.sample(denoise, Condition(), keys, shape, levels, solver)
    run = jax.jit(draw, compiler_options=LONG)
    sigmas = np.exp(np.linspace(np.log(60.0), np.log(0.02), steps))
    flow = np.linspace(0.98, 0.0, steps + 1)
    for levels in (edm(np.r_[sigmas, 0.0]), on_host(STRAIGHT(flow))):
        samples = run(jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), levels))
        for i, network in enumerate(NETWORKS):
            # 4096 exact draws of this mixture are at 0.006 to 0.019
            assert _distance(np.asarray(samples[:, i])) < 0.03, network


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Proportional(-1.0), r"eta must be a number from 0 to 1e\+15, got -1.0"),
        (lambda: Proportional(math.inf), r"eta must be a number from 0 to 1e\+15, got inf"),
        *[
            (lambda w=w: w(-0.5), r"norm must be a number from 0 to 1e\+15, got -0.5")
            for w in (ConstantW, SigmaW, LinearW, DecreasingW, SineW)
        ],
        (
            lambda: EulerMaruyama(last="none"),
            "last must be one of 'tweedie', 'mean', 'euler', got 'none'",
        ),
        (
            lambda: StochasticHeun(limit=0.0),
            r"limit must be a number above 0, at most 1e\+15, or inf for no limit, got 0.0",
        ),
        (lambda: EulerMaruyama(SigmaW()), "SigmaW reads t: give it one"),
        (lambda: StochasticHeun(tangent=True), "tangent needs a clock: give it one"),
    ],
)
def test_solvers_that_are_none_are_refused(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


def test_solvers_are_values() -> None:
    solver = EulerMaruyama(SigmaW(0.5), STRAIGHT)
    assert solver == dataclasses.replace(solver)
    assert hash(solver) == hash(dataclasses.replace(solver))
    assert isinstance(solver, Solver)
    assert isinstance(SigmaW(), Diffusion)
