"""Solvers with a memory, or a look ahead: errors, orders, identities, marginals."""

import json
import math
from functools import lru_cache
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

import jaxdiff as jd
from jaxdiff.sampling.grids import Karras, Uniform
from jaxdiff.sampling.solvers import (
    DDIM,
    DEIS,
    LMS,
    DPMSolverPP,
    DPMSolverPP2S,
    Euler,
    Midpoint,
    RungeKutta,
    UniPC,
)
from jaxdiff.sampling.solvers.multistep import moments, nodes, weights
from jaxdiff.types import Condition, NoiseLevel, Solver
from tests.compiling import LONG
from tests.test_solvers_golden import FLOWS, ODES, SDES
from tests.toys import GOLDEN, PROBLEMS, SCHEDULES, edm, flow_map, last, mixture, on_host

ODE, FLOW = (np.load(GOLDEN / "samplers" / f"{k}.npz") for k in ("ode_edm", "flow"))
PUBLISHED = json.loads((GOLDEN / "samplers" / "expected_errors.json").read_text())
ERRORS, ORDERS = PUBLISHED["errors"], PUBLISHED["orders"]
MULTISTEP = [
    DPMSolverPP(3, 0.5, "midpoint", tail=True),
    DPMSolverPP(2, 1.0),
    UniPC(2, "bh1"),
    UniPC(3, "exact", tail=False),
    DEIS(3),
    LMS(4),
]


# ------------------------------------------------------------------------ the one rule


@pytest.mark.parametrize("h", [1e-7, 1e-3, 0.3, 0.999, 1.001, 3.0, 30.0, -1e-3, -0.5, -4.0])
def test_moments_are_integrals(h: float, x64: None) -> None:
    c_m = moments(np.asarray([h]), np.asarray([True]), 4, np)
    single = moments(jnp.asarray([h], jnp.float32), jnp.asarray([True]), 4, jnp)
    for m, (c, rough) in enumerate(zip(c_m, single, strict=True)):
        kernel = lambda u, m=m: u**m * h * np.exp(-h * (1 - u))
        exact = quad(kernel, 0, 1, epsabs=0, epsrel=1e-13)[0]
        assert float(c[0]) == pytest.approx(exact, rel=1e-12)
        # from above 1 on each c_m loses a factor m / h of what is left of float32
        assert float(rough[0]) == pytest.approx(exact, rel=2e-5)


def test_moments_of_an_infinite_step_are_those_of_its_end() -> None:
    finite = np.asarray([False])
    assert [float(c[0]) for c in moments(np.ones(1), finite, 4, np)] == [1, 1, 1, 1]


@pytest.mark.parametrize("xp", [np, jnp])
def test_weights_integrate_every_polynomial(xp: Any, x64: None) -> None:
    """p points determine the integral of a polynomial of degree p - 1, unevenly or not."""
    z = np.cumsum(np.random.default_rng(0).uniform(0.2, 2.0, 9))
    h = xp.asarray(np.diff(z))
    finite = xp.ones(8, bool)
    u, has = nodes(h, finite, 4, False, xp)
    c = xp.stack(moments(h, finite, 4, xp), 1)
    past = np.stack(weights(u, has, c[:, 1:], xp), 1)
    np.testing.assert_array_equal(has.sum(1), [0, 1, 2, 3, 3, 3, 3, 3])
    for i in range(8):
        for m in range(1, int(has[i].sum()) + 1):
            places = (z[i - 1 - np.arange(3)] - z[i]) / (z[i + 1] - z[i])
            total = sum(past[i, j] * places[j] ** m for j in range(min(i, 3)))
            assert total == pytest.approx(float(c[i, m]), rel=1e-10)
        assert (past[i, min(i, 3) :] == 0).all()


def test_the_tail_lowers_the_order() -> None:
    _, has = nodes(np.ones(6), np.ones(6, bool), 3, True, np)
    np.testing.assert_array_equal(has.sum(1) + 1, [1, 2, 3, 3, 2, 1])


@pytest.mark.parametrize("solver", MULTISTEP, ids=str)
def test_traced_levels_give_the_host_s_table(solver: Solver, x64: None) -> None:
    """From alpha = 0 to sigma = 0; and their gradients are finite."""
    x = jnp.zeros((2, 1))

    def total(levels: NoiseLevel) -> Any:
        rows = solver.init(x, levels)
        return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(rows)), rows

    traced = jax.jit(jax.grad(total, has_aux=True))
    for path in ("cosine", "log_sigma", "zero_terminal"):
        levels = Uniform()(SCHEDULES[path], 9)
        slope, rows = traced(levels)
        both = map(jax.tree.leaves, (rows, solver.init(x, levels)))
        for a, b in zip(*both, strict=True):
            # sums of h against differences of it, over gaps of 1e-2
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-11, err_msg=path)
        assert np.isfinite(slope.alpha).all()
        assert np.isfinite(slope.sigma).all()


@pytest.mark.parametrize("solver", [DPMSolverPP(3), UniPC(3), DEIS(3), LMS(4)], ids=str)
def test_a_table_of_single_precision_is_computed_in_double(solver: Solver) -> None:
    """500 steps, each with weights that are small differences, rounded once at the end."""
    levels, x = Uniform()(jd.Cosine(), 500), jnp.zeros((2, 1))
    rows = jax.tree.leaves(solver.init(x, levels)[1])
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda a: jnp.asarray(np.asarray(a), jnp.float64), levels)
        exact = jax.tree.leaves(solver.init(jnp.zeros((2, 1)), wide)[1])
    for a, b in zip(rows, exact, strict=True):
        assert a.dtype == jnp.float32
        np.testing.assert_allclose(a, b, rtol=1.2e-7)


# ------------------------------------------------------------------- errors and orders


def _sigmas(grid: str, steps: int) -> np.ndarray:
    if grid == "uniform_lambda":
        return np.exp(np.linspace(np.log(80), np.log(0.002), steps + 1))
    return np.linspace(80 ** (1 / 7), 0.002 ** (1 / 7), steps + 1) ** 7


@pytest.mark.parametrize("name", ODES)
def test_errors_and_orders_on_edm_s_path(name: str, x64: None) -> None:
    """No more than 5 % above the published errors, the last slope no flatter by 0.1."""
    x, exact = ODE["gmm2/x_T"], ODE["gmm2/exact_smin"]
    for grid in ("uniform_lambda", "karras_to_smin"):
        errors = []
        for steps in (8, 32, 256, 512):
            end = last(ODES[name], mixture("gmm2"), x, edm(_sigmas(grid, steps)))
            errors.append(math.sqrt(np.mean((end - exact) ** 2)))
            assert errors[-1] <= 1.05 * ERRORS["gmm2"][grid][name][str(steps)], steps
        assert np.log2(errors[-2] / errors[-1]) >= ORDERS["gmm2"][grid][name] - 0.1


@pytest.mark.parametrize("path", ["cosine", "rectified_flow", "zero_terminal"])
@pytest.mark.parametrize("name", ["dpmpp_3m", "unipc3_bh2", "deis3", "lms4", "dpm2"])
def test_errors_on_other_paths(name: str, path: str, x64: None) -> None:
    """Levels of the same logsnr leave the same errors, of order 3, 4, 3, 4 and 2."""
    x, exact = ODE["gmm2/x_T"], ODE["gmm2/exact_smin"]
    schedule = SCHEDULES[path]
    for steps in (64, 512):
        logsnr = -2 * np.log(_sigmas("uniform_lambda", steps))
        levels = on_host(schedule(schedule.time(logsnr)))
        end = last(ODES[name], mixture("gmm2"), x * levels.alpha[0], levels)
        error = math.sqrt(np.mean((end / levels.alpha[-1] - exact) ** 2))
        assert error <= 1.05 * ERRORS["gmm2"]["uniform_lambda"][name][str(steps)]


UNIFORM = {
    Midpoint(): 2,
    Midpoint(jd.RectifiedFlow()): 2,
    DPMSolverPP2S(): 2,
    DPMSolverPP(2): 2,
    DEIS(2): 2,
    UniPC(1): 2,
    RungeKutta(): 4,
    RungeKutta(jd.Cosine(), "heun"): 2,
}


@pytest.mark.parametrize("solver", UNIFORM, ids=str)
def test_order_from_pure_noise_in_even_steps_of_t(solver: Solver, x64: None) -> None:
    """From alpha = 0 to t = 0.05, for tables and closed forms: error ~ N^-order."""
    xi = np.random.default_rng(0).normal(size=(64, 2))
    for path in ("cosine", "rectified_flow", "zero_terminal"):
        exact = _exact(path)
        grid = Uniform(end=0.05)
        errors = [
            math.sqrt(np.mean((last(solver, mixture("gmm2"), xi, levels) - exact) ** 2))
            for levels in (grid(SCHEDULES[path], n) for n in (160, 320))
        ]
        slope = np.log2(errors[0] / errors[1])
        # the next term of the error's expansion leaves some 10 / N
        assert slope == pytest.approx(UNIFORM[solver], abs=0.12), path


@lru_cache(maxsize=8)
def _exact(path: str) -> np.ndarray:
    start, end = (on_host(SCHEDULES[path](t)) for t in (1.0, 0.05))
    return flow_map("gmm2", np.random.default_rng(0).normal(size=(64, 2)), start, end)


@pytest.mark.parametrize("shift", ["1.0", "3.0"])
@pytest.mark.parametrize("name", FLOWS)
def test_errors_of_flows(name: str, shift: str, x64: None) -> None:
    for steps, published in ERRORS["flow_gmm2"][f"shift{shift}"][name].items():
        levels = jd.RectifiedFlow()(FLOW[f"shift{shift}/N{steps}/t"])
        end = last(FLOWS[name][0], mixture("gmm2"), FLOW["x_1"], levels)
        error = math.sqrt(np.mean((end - FLOW["exact_0"]) ** 2))
        assert error <= 1.05 * published, steps


# -------------------------------------------------------------------------- identities


def test_rules_that_are_one(x64: None) -> None:
    """On the way from alpha = 0 to the data, with the same noise where there is any."""
    levels = Uniform()(jd.Cosine(), 12)
    rng = np.random.default_rng(0)
    x, noise = rng.normal(size=(64, 2)), rng.normal(size=(12, 64, 2))

    def run(solver: Solver) -> np.ndarray:
        draws = noise if getattr(solver, "eta", 0) else None
        return last(solver, mixture("gmm2"), x, levels, draws)

    groups = [
        [Euler(), DPMSolverPP(1), DEIS(1), LMS(1)],
        [DDIM(1.0), DPMSolverPP(1, 1.0)],
        [DPMSolverPP2S(), DPMSolverPP2S(ancestral=True)],
    ]
    for first, *others in groups:
        for other in others:
            np.testing.assert_allclose(run(other), run(first), atol=1e-14, rtol=1e-14)
    # and some that look alike but are two
    for a, b in [(DDIM(0.5), DPMSolverPP(1, 0.5)), (UniPC(2), UniPC(2, "bh1"))]:
        assert np.abs(run(a) - run(b)).max() > 1e-3


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_euler_ancestral_is_ddim(eta: float, x64: None) -> None:
    """Written as it is for sigma alone: down by Euler, and up again by noise."""
    sigmas = np.asarray(Karras()(None, 10).sigma)
    rng = np.random.default_rng(0)
    x, noise = 80 * rng.normal(size=(8, 2)), rng.normal(size=(10, 8, 2))
    ddim = last(DDIM(eta), mixture("gmm2"), x, edm(sigmas), noise)
    for i, (s, end) in enumerate(pairwise(sigmas)):
        up = min(end, eta * np.sqrt(end**2 * (s**2 - end**2) / s**2))
        down = np.sqrt(end**2 - up**2)
        slope = (x - mixture("gmm2")(x, NoiseLevel(1.0, s), xp=np).x0) / s
        x = x + slope * (down - s) + up * noise[i]
    np.testing.assert_allclose(ddim, x, atol=1e-12)


INVARIANT = [
    DPMSolverPP(3, 0.5),
    UniPC(3),
    DEIS(3),
    LMS(4),
    DPMSolverPP2S(1.0),
    Midpoint(),
    Midpoint(jd.RectifiedFlow()),
    RungeKutta(jd.Cosine()),
]


@pytest.mark.parametrize("solver", INVARIANT, ids=str)
def test_the_path_does_not_matter(solver: Solver, x64: None) -> None:
    """Grids of one logsnr on four paths: one trajectory, x / alpha."""
    logsnr = np.linspace(-7.0, 7.0, 15)
    rng = np.random.default_rng(0)
    xi, noise = rng.normal(size=(64, 2)), rng.normal(size=(14, 2, 64, 2))
    noise = noise if getattr(solver, "eta", 0) else None
    ends = []
    for path in (jd.LogSigma(), jd.VPLinear(), jd.Cosine(), jd.RectifiedFlow()):
        levels = path(np.asarray(path.time(logsnr)))
        x = last(solver, mixture("gmm2"), levels.sigma[0] * xi, levels, noise)
        ends.append(x / levels.alpha[-1])
    for other in ends[1:]:
        np.testing.assert_allclose(other, ends[0], rtol=1e-9, atol=1e-10)


# --------------------------------------------------------------------------- marginals

BOUNDS = {
    "dpmpp_2m_sde_midpoint_eta1.0": 0.0220,
    "dpmpp_3m_sde_official_eta0.5": 0.0091,
    "dpmpp_2s_ancestral_eta1.0": 0.0152,
    "dpmpp_sde_brownian_eta1.0": 0.0107,
}
"""Sliced W1 of 32768 samples in 32 steps: the largest of five seeds, 15 % and 0.002."""


@pytest.mark.parametrize("name", BOUNDS)
def test_samples_have_the_right_law(name: str, x64: None) -> None:
    """With their own noise; one draw of a key too many, or too few, gives 0.4."""
    keys = jax.random.split(jax.random.key(0), 32768)
    levels, solver = Karras()(None, 32), SDES[name]
    draw = lambda k: jd.sample(mixture("gmm2"), Condition(), k, (2,), levels, solver)
    samples = np.asarray(jax.jit(draw, compiler_options=LONG)(keys))
    assert _sliced(samples) < BOUNDS[name]


def _sliced(samples: np.ndarray) -> float:
    """Mean W1 over 32 directions against the mixture's exact marginals."""
    w, mu, cov = (PROBLEMS[f"gmm2/{k}"] for k in ("w", "mu", "C"))
    directions = np.random.default_rng(3).normal(size=(32, 2))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    total = 0.0
    for u in directions:
        std, mean = np.sqrt(np.einsum("d,kde,e->k", u, cov, u)), mu @ u
        spread = np.sqrt(w @ (std**2 + mean**2) - (w @ mean) ** 2)
        axis = np.linspace(-6, 6, 4001) * spread + w @ mean
        cdf = (w * norm.cdf((axis[:, None] - mean) / std)).sum(1)
        empirical = np.searchsorted(np.sort(samples @ u), axis) / len(samples)
        total += float(np.abs(cdf - empirical).mean() * (axis[-1] - axis[0]))
    return total / 32


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: DPMSolverPP(4), "order must be a whole number from 1 to 3, got 4"),
        (lambda: DPMSolverPP(eta=-1.0), r"eta must be a number from 0 to 1e\+15, got -1.0"),
        (
            lambda: DPMSolverPP(variant="bh2"),
            "variant must be one of 'published', 'midpoint', 'exact', got 'bh2'",
        ),
        (lambda: UniPC(0), "order must be a whole number from 1 to 3, got 0"),
        (
            lambda: UniPC(variant="published"),
            "variant must be one of 'bh2', 'bh1', 'exact', got 'published'",
        ),
        (lambda: DEIS(5), "order must be a whole number from 1 to 4, got 5"),
        (lambda: LMS(0), "order must be a whole number from 1 to 4, got 0"),
        (lambda: DPMSolverPP2S(1.5), "eta must be a number from 0 to 1, got 1.5"),
        (
            lambda: RungeKutta(method="rk5"),
            "method must be one of 'euler', 'heun', 'midpoint', 'rk4', got 'rk5'",
        ),
        (
            lambda: DPMSolverPP(eta=math.inf),
            r"eta must be a number from 0 to 1e\+15, got inf",
        ),
    ],
)
def test_solvers_that_are_none_are_refused(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
