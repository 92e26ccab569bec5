"""Solvers: measured order, golden numbers, identities, and how often they ask."""

import json
import math
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.sampling.grids import Trailing, Uniform
from jaxdiff.sampling.solvers import DDIM, Euler, Heun
from jaxdiff.types import Denoised, NoiseLevel, Solver
from tests.toys import (
    GOLDEN,
    SCHEDULES,
    edm,
    flow_map,
    follow,
    gaussian_flow_map,
    mixture,
    on_host,
)

ODE, VP, FLOW, EDM2 = (
    np.load(GOLDEN / "samplers" / f"{name}.npz")
    for name in ("ode_edm", "vp", "flow", "edm2")
)
GAUSSIAN = jd.gaussian_denoiser(0.3, 0.6)
ORDERS = {Euler(): 1, Heun(): 2}
TOLERANCE = 1e-10
"""For golden numbers in float64; the references reproduce themselves to 1e-13."""


@lru_cache(maxsize=64)
def _exact(path: str, end: float, law: str) -> tuple[np.ndarray, np.ndarray]:
    """Start at t = 1 and the exact flow's state at t = end."""
    at, to = (on_host(SCHEDULES[path](t)) for t in (1.0, end))
    xi = np.random.default_rng(0).normal(size=(8, 2))
    x = xi * at.sigma
    if law == "gaussian":
        return x, gaussian_flow_map(x, at, to, 0.3, 0.6)
    return x, flow_map(law, x, at, to)


def _errors(solver: Solver, path: str, law: str, steps: tuple[int, ...]) -> list[float]:
    denoise = GAUSSIAN if law == "gaussian" else mixture(law)
    x, exact = _exact(path, 0.05, law)
    end = lambda n: follow(solver, denoise, x, Uniform(end=0.05)(SCHEDULES[path], n))[-1]
    return [float(np.sqrt(np.mean((end(n) - exact) ** 2))) for n in steps]


@pytest.mark.parametrize("law", ["gaussian", "gmm2"])
@pytest.mark.parametrize("path", SCHEDULES)
@pytest.mark.parametrize("solver", ORDERS, ids=str)
def test_order_from_pure_noise_to_little(
    solver: Solver, path: str, law: str, x64: None
) -> None:
    """From t = 1, alpha = 0 included, to t = 0.05: error ~ N^-order."""
    coarse, fine = _errors(solver, path, law, (160, 320))
    # the next term of the error's expansion leaves some 2 / N, log2 of it
    assert np.log2(coarse / fine) == pytest.approx(ORDERS[solver], abs=0.1)


@pytest.mark.parametrize("solver", ORDERS, ids=str)
@pytest.mark.parametrize("path", ["cosine", "log_sigma", "zero_terminal"])
def test_landing_on_the_data_is_first_order(solver: Solver, path: str, x64: None) -> None:
    """One step from t to sigma = 0 returns D; its error falls as sigma^2, not sigma^3."""
    errors = []
    for t in (
        (0.002, 0.001) if path != "log_sigma" else (0.2, 0.2 - np.log(2) / np.log(4e4))
    ):
        at = on_host(SCHEDULES[path](t))
        levels = NoiseLevel(np.r_[at.alpha, 1.0], np.r_[at.sigma, 0.0])
        x = (
            at.alpha * 0.3
            + np.hypot(at.alpha * 0.6, at.sigma) * np.linspace(-2, 2, 9)[:, None]
        )
        landed = follow(solver, GAUSSIAN, x, levels)[-1]
        np.testing.assert_allclose(landed, GAUSSIAN(jnp.asarray(x), at).x0, rtol=1e-12)
        exact = gaussian_flow_map(x, at, NoiseLevel(1.0, 0.0), 0.3, 0.6)
        errors.append(np.abs(landed - exact).max() / (at.sigma / at.alpha) ** 2)
    # D - exact = -z sigma^2 / (2 std) to leading order, z = 2 the farthest score
    np.testing.assert_allclose(errors, 2 / (2 * 0.6), rtol=0.02)


@pytest.mark.parametrize("path", SCHEDULES)
def test_unguided_heun_is_not_euler(path: str, x64: None) -> None:
    """The corrector evaluates anew: at equal N it is far nearer to the exact flow."""
    euler, heun = (_errors(s, path, "gmm2", (40,))[0] for s in (Euler(), Heun()))
    assert heun < 0.35 * euler


def test_golden_trailing_ddim_from_the_table_itself(x64: None) -> None:
    levels = Trailing()(jd.Table(jd.LinearBetas()), 13)
    x = follow(DDIM(0.5), mixture("gmm2"), VP["x_T"], levels, VP["noise"])[-1]
    np.testing.assert_allclose(x, VP["ddim_trailing/N13/eta0.5"], atol=TOLERANCE)


@pytest.mark.parametrize("case", ["heun_default", "guided", "churn", "short"])
def test_golden_edm2_sampler(case: str, x64: None) -> None:
    """Its own sampler with Gaussian denoisers: guidance, and churn's injected noise."""
    kwargs = json.loads(str(EDM2["cases"]))[case]
    mu = (EDM2["labels"] @ EDM2["mu"])[:, :, None, None]
    strong = jd.gaussian_denoiser(mu, float(EDM2["s"]))
    weak = jd.gaussian_denoiser(EDM2["gmu"].reshape(3, 1, 1), float(EDM2["gs"]))
    w = kwargs.get("guidance", 1.0) - 1
    steps = kwargs.get("num_steps", 32)
    levels = jd.grids.Karras()(None, steps)
    solver, noise = Heun(), None
    if case == "churn":
        solver = Heun(*(float(kwargs[f"S_{k}"]) for k in ("churn", "min", "max", "noise")))
        sigma = np.asarray(levels.sigma[:-1])  # its noise is drawn where churn acts alone
        acts = (sigma >= kwargs["S_min"]) & (sigma <= kwargs["S_max"])
        assert acts.sum() == 7
        noise = np.zeros((steps, *EDM2["noise"].shape))
        noise[acts] = EDM2["churn/churn_noise"]
    x = follow(solver, jd.guide(strong, (weak, w)), 80 * EDM2["noise"], levels, noise)[-1]
    np.testing.assert_allclose(x, EDM2[f"{case}/out"], atol=TOLERANCE)


def test_ddim_without_noise_is_euler(x64: None) -> None:
    levels = Uniform()(jd.Cosine(), 12)
    x, noise = FLOW["x_1"], np.random.default_rng(0).normal(size=(12, *FLOW["x_1"].shape))
    euler = follow(Euler(), mixture("gmm2"), x, levels)[-1]
    np.testing.assert_allclose(
        follow(DDIM(0.0), mixture("gmm2"), x, levels, noise)[-1], euler, atol=1e-13
    )


@pytest.mark.parametrize(
    "solver",
    [Euler(), Heun(), DDIM(), jd.DPMSolverPP(), jd.Midpoint(), jd.EulerMaruyama()],
    ids=str,
)
def test_integer_levels_are_numbers_like_others(solver: Solver) -> None:
    keys = jax.random.split(jax.random.key(0), 4)
    draw = lambda dtype: jd.sample(
        GAUSSIAN, jd.Condition(), keys, (2,), edm_of([8, 4, 2, 1, 0], dtype), solver
    )
    np.testing.assert_array_equal(draw(np.int32), draw(np.float64))


def edm_of(sigmas: list[int], dtype: Any) -> NoiseLevel:
    return NoiseLevel(np.ones(len(sigmas), dtype), np.array(sigmas, dtype))


@pytest.mark.parametrize("path", ["rectified_flow", "cosine", "log_sigma", "zero_terminal"])
def test_ddim_with_eta_1_is_the_posterior(path: str, x64: None) -> None:
    """Each step draws from q(x' | x, x0 = D), by Bayes' rule for two Gaussians."""
    levels = Uniform()(SCHEDULES[path], 6)
    x = np.random.default_rng(1).normal(size=(16, 2)) * float(levels.sigma[0])
    noise = np.random.default_rng(2).normal(size=(6, 16, 2))
    states = follow(DDIM(1.0), mixture("gmm2"), x, levels, noise)
    for i in range(6):
        at, to = on_host(levels[i]), on_host(levels[i + 1])
        x0 = np.asarray(mixture("gmm2")(states[i], at, xp=np).x0)
        if to.sigma == 0:
            np.testing.assert_allclose(states[i + 1], x0, atol=1e-13)
            continue
        # x = (alpha / alpha') x' + noise of variance s2; prior x' ~ N(alpha' x0, sigma'^2)
        ratio = at.alpha / to.alpha
        s2 = at.sigma**2 - (ratio * to.sigma) ** 2
        precision = 1 / to.sigma**2 + ratio**2 / s2
        mean = (to.alpha * x0 / to.sigma**2 + ratio * states[i] / s2) / precision
        np.testing.assert_allclose(
            states[i + 1], mean + noise[i] / np.sqrt(precision), rtol=1e-10, atol=1e-11
        )


@pytest.mark.parametrize("solver", [Euler(), DDIM(0.5), DDIM(1.0)], ids=str)
def test_the_path_does_not_matter(solver: Solver, x64: None) -> None:
    """Grids of one logsnr on four paths: one trajectory, x / alpha."""
    logsnr = np.linspace(-7.0, 7.0, 15)
    xi = np.random.default_rng(0).normal(size=(8, 2))
    noise = np.random.default_rng(1).normal(size=(14, 8, 2))
    ends = []
    for path in (jd.LogSigma(), jd.VPLinear(), jd.Cosine(), jd.RectifiedFlow()):
        levels = path(np.asarray(path.time(logsnr)))
        x = follow(solver, mixture("gmm2"), levels.sigma[0] * xi, levels, noise)[-1]
        ends.append(x / levels.alpha[-1])
    for other in ends[1:]:
        np.testing.assert_allclose(other, ends[0], rtol=1e-9, atol=1e-10)


def test_a_network_trained_on_one_path_samples_on_another(x64: None) -> None:
    """A network that knows its own path alone: eps on the cosine path, by its angle."""

    def apply(params: Any, x: Any, c_noise: Any, cond: Any) -> jd.Output:
        at = jd.Cosine()(c_noise)
        x0 = mixture("gmm2")(x, at).x0
        return jd.Output((at.alpha * x - x0) / at.sigma)  # v = (alpha x - x0) / sigma

    row = jd.V(label=jd.parameterizations.AngleLabel())
    levels = edm(ODE["N16/sigmas"])
    x = follow(Heun(), jd.denoiser(apply, None, row), ODE["gmm2/x_T"][:8], levels)[-1]
    np.testing.assert_allclose(x, ODE["gmm2/N16/heun"], atol=1e-8)


@pytest.mark.parametrize(
    ("solver", "landing", "stopping"),
    [(Euler(), 9, 9), (DDIM(1.0), 9, 9), (Heun(), 17, 18), (Heun(churn=3.0), 17, 18)],
    ids=str,
)
def test_number_of_evaluations(solver: Solver, landing: int, stopping: int) -> None:
    """Counted on the host while the compiled scan runs."""
    seen: list[float] = []

    def denoise(x: Any, at: NoiseLevel, cond: Any) -> Denoised:
        jax.debug.callback(lambda sigma: seen.append(float(sigma)), at.sigma)
        return GAUSSIAN(x, at)

    keys = jax.random.split(jax.random.key(0), 2)
    run = jax.jit(lambda lv: jd.sample(denoise, jd.Condition(), keys, (3,), lv, solver))
    for grid, count in ((Uniform(), landing), (Uniform(end=0.1), stopping)):
        seen.clear()
        run(grid(jd.Cosine(), 9)).block_until_ready()
        jax.effects_barrier()
        assert len(seen) == count
        assert min(seen) > 0  # never on clean data


def test_churn_is_for_its_interval_alone(x64: None) -> None:
    """Both bounds count, and with S_churn = 0 noise is not listened to."""
    levels = edm([4.0, 2.0, 1.0, 0.5, 0.0])
    noise = np.random.default_rng(0).normal(size=(4, 5, 1))
    x = np.ones((5, 1))
    _, (_, _, added) = Heun(0.4, 1.0, 2.0, 1.1).init(
        jnp.asarray(x), jax.tree.map(jnp.asarray, levels)
    )
    gamma = 0.4 / 4
    expected = 1.1 * np.sqrt((1 + gamma) ** 2 - 1) * np.asarray([0, 2.0, 1.0, 0])
    np.testing.assert_allclose(added, expected, rtol=1e-13)
    quiet = [follow(Heun(), GAUSSIAN, x, levels, n)[-1] for n in (noise, None)]
    np.testing.assert_array_equal(*quiet)


def test_churn_is_capped(x64: None) -> None:
    levels = jax.tree.map(jnp.asarray, edm([4.0, 2.0, 0.0]))
    _, (row, _, _) = Heun(100.0).init(jnp.ones((1, 1)), levels)
    np.testing.assert_allclose(
        row.at.sigma, np.sqrt(2) * np.asarray([4.0, 2.0]), rtol=1e-13
    )


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: DDIM(1.5), "eta must be a number from 0 to 1, got 1.5"),
        (lambda: DDIM(-0.1), "got -0.1"),
        (lambda: Heun(churn=-1.0), r"churn must be a number from 0 to 1e\+15, got -1.0"),
        (
            lambda: Euler(churn=math.inf),
            r"churn must be a number from 0 to 1e\+15, got inf",
        ),
        (lambda: Heun(churn=math.nan), r"churn must be a number from 0 to 1e\+15, got nan"),
        (
            lambda: Heun(churn_noise=-1.0),
            r"churn_noise must be a number from 0 to 1e\+15, got -1.0",
        ),
        (lambda: Heun(churn_min=2.0, churn_max=1.0), "churn_min = 2.0 and churn_max = 1.0"),
        (
            lambda: Euler(churn_min=-1.0),
            r"churn_min must be a number from 0 to 1e\+15, got -1.0",
        ),
    ],
)
def test_solvers_that_are_none_are_refused(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
