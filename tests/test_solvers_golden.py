"""Solvers against published implementations' numbers: final states, tables, trajectories.

Every array of the golden files is named by a table below, or in their README with the
reason why it is not.
"""

import math
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.denoisers import Clipped
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
    UniPC,
)
from jaxdiff.sampling.solvers.sde import ConstantW, Proportional, SigmaW, SineW
from jaxdiff.schedules.posterior import LargeVariance, LearnedVariance, SmallVariance
from jaxdiff.types import Denoised, NoiseLevel, Solver
from tests.toys import GOLDEN, edm, follow, last, mixture

ODE, SDE, STD, VP, FLOW, COEFFICIENTS = (
    np.load(GOLDEN / "samplers" / f"{name}.npz")
    for name in ("ode_edm", "sde_edm", "sde_gauss", "vp", "flow", "coefs")
)
STRAIGHT, COSINE, LINEAR = jd.RectifiedFlow(), jd.Cosine(), jd.VPLinear()
TOLERANCE = 1e-10
"""In float64; the references reproduce themselves to 1e-13."""

BOTH = np.stack([SDE["gmm2/noise_a"], SDE["gmm2/noise_b"]], 1)

ODES: dict[str, Solver] = {
    "euler": Euler(),
    "heun": Heun(),
    "dpm2": Midpoint(),
    "dpmpp_2s": DPMSolverPP2S(),
    "dpmpp_2m": DPMSolverPP(2),
    "dpmpp_2m_phi2": DPMSolverPP(2, variant="exact"),
    "dpmpp_3m_official": DPMSolverPP(3),
    "dpmpp_3m": DPMSolverPP(3, variant="exact"),
    "unip2_bh2": DPMSolverPP(2, tail=True),
    "unipc1_bh2": UniPC(1),
    "unipc2_bh1": UniPC(2, "bh1"),
    "unipc2_bh2": UniPC(2),
    "unipc3_bh1": UniPC(3, "bh1"),
    "unipc3_bh2": UniPC(3),
    "deis2": DEIS(2),
    "deis3": DEIS(3),
    "lms2": LMS(2),
    "lms3": LMS(3),
    "lms4": LMS(4),
}


def _sdes(eta: float) -> dict[str, Solver]:
    return {
        f"ddim_eta{eta}": DDIM(eta),
        f"dpmpp_1_sde_eta{eta}": DPMSolverPP(1, eta),
        f"dpmpp_2m_sde_midpoint_eta{eta}": DPMSolverPP(2, eta),
        f"dpmpp_2m_sde_phi2_eta{eta}": DPMSolverPP(2, eta, "exact"),
        f"dpmpp_3m_sde_official_eta{eta}": DPMSolverPP(3, eta),
        f"dpmpp_3m_sde_eta{eta}": DPMSolverPP(3, eta, "exact"),
        f"dpmpp_2s_ancestral_eta{eta}": DPMSolverPP2S(eta, ancestral=True),
        f"dpmpp_sde_brownian_eta{eta}": DPMSolverPP2S(eta),
        f"dpmpp_sde_indep_eta{eta}": DPMSolverPP2S(eta),
    }


CHURN = [float(SDE[f"churn/S_{k}"]) for k in ("churn", "tmin", "tmax", "noise")]
SDES = _sdes(0.5) | _sdes(1.0)
CHURNED = {"edm_heun_churn": Heun(*CHURN), "edm_euler_churn": Euler(*CHURN)}


def _independent(noise: np.ndarray, sigmas: np.ndarray) -> np.ndarray:
    """Second draws that make what a coupled step adds at its end the second of `noise`.

    At the end it adds sqrt(s - s_m) first + sqrt(s_m - s') second, over sqrt(s - s').
    """
    out = noise.copy()
    for i, (s, end) in enumerate(pairwise(sigmas)):
        if end > 0:  # the step that lands draws nothing
            m = np.sqrt(s * end)
            first, second = np.sqrt((s - m) / (s - end)), np.sqrt((m - end) / (s - end))
            out[i, 1] = (noise[i, 1] - first * noise[i, 0]) / second
    return out


def _near(actual: Any, expected: Any, what: str = "") -> None:
    np.testing.assert_allclose(actual, expected, atol=TOLERANCE, rtol=0, err_msg=what)


@pytest.mark.parametrize("name", ODES)
def test_odes(name: str, x64: None) -> None:
    for steps in (8, 16, 32, 64):
        levels = edm(ODE[f"N{steps}/sigmas"])
        end = last(ODES[name], mixture("gmm2"), ODE["gmm2/x_T"], levels)
        _near(end[:8], ODE[f"gmm2/N{steps}/{name}"], f"N = {steps}")


@pytest.mark.parametrize("name", ["euler", "heun", "dpmpp_3m", "unipc3_bh2", "lms4"])
def test_odes_in_four_dimensions(name: str, x64: None) -> None:
    x = ODE["aniso4/x_T"][:8]
    end = last(ODES[name], mixture("aniso4"), x, edm(ODE["N16/sigmas"]))
    _near(end, ODE[f"aniso4/N16/{name}"])


@pytest.mark.parametrize("name", ODES)
def test_states_on_the_way(name: str, x64: None) -> None:
    """Of UniPC the published states are the corrected ones, which its memory has."""
    solver, expected = ODES[name], ODE[f"gmm2/traj_N8/{name}"]
    x, levels = ODE["gmm2/x_T"][:6], edm(ODE["N8/sigmas"])
    if not isinstance(solver, UniPC):
        _near(np.stack(follow(solver, mixture("gmm2"), x, levels)), expected)
        return
    x = jnp.asarray(x)
    memory, rows = solver.init(x, levels)
    for i in range(8):
        row = jax.tree.map(lambda a, i=i: a[i], rows)
        x, memory, _ = solver.step(mixture("gmm2"), x, memory, row, lambda k: None)
        _near(memory[0], expected[i], f"state {i}")
    _near(x, expected[8])


@pytest.mark.parametrize("name", [*SDES, *CHURNED])
def test_sdes(name: str, x64: None) -> None:
    solver = (SDES | CHURNED)[name]
    for steps in (8, 16, 32):
        sigmas = SDE[f"N{steps}/sigmas"]
        noise = _independent(BOTH, sigmas) if "indep" in name else BOTH
        x = last(solver, mixture("gmm2"), SDE["gmm2/x_T"], edm(sigmas), noise)
        _near(x, SDE[f"gmm2/N{steps}/{name}"], f"N = {steps}")
        if steps == 8 and f"gmm2/traj_N8/{name}" in SDE:
            start = SDE["gmm2/x_T"][:4]
            states = follow(solver, mixture("gmm2"), start, edm(sigmas), noise[:, :, :4])
            _near(np.stack(states), SDE[f"gmm2/traj_N8/{name}"])


LINEAR_ONES = (
    SDES
    | {"edm_heun_churn": Heun(8.0, 0.05, 50.0), "edm_euler_churn": Euler(8.0, 0.05, 50.0)}
    | {"euler_ode": Euler(), "heun_ode": Heun()}
    | {"dpmpp_2m_ode": DPMSolverPP(2), "dpmpp_3m_ode": DPMSolverPP(3, variant="exact")}
)


@pytest.mark.parametrize("name", LINEAR_ONES)
def test_standard_deviation_without_monte_carlo(name: str, x64: None) -> None:
    """On Gaussian data a solver is linear: each source of noise by itself, then summed."""
    std, rows = STD["std_true"], 65
    denoise = _gaussian(tuple(std))
    for grid in ("karras_to_0", "uniform_lambda"):
        for steps in (8, 32):
            ramp = np.linspace(80 ** (1 / 7), 0.002 ** (1 / 7), steps)
            sigmas = np.r_[ramp**7, 0.0]
            if grid == "uniform_lambda":
                sigmas = np.exp(np.linspace(np.log(80), np.log(0.002), steps + 1))
            start, noise = np.zeros((rows, 4)), np.zeros((steps, 2, rows, 4))
            start[0] = np.hypot(std, 80.0)
            for i in range(steps):
                noise[i, 0, 1 + i] = noise[i, 1, 1 + steps + i] = 1.0
            if "indep" in name:
                noise = _independent(noise, sigmas)
            end = last(LINEAR_ONES[name], denoise, start, edm(sigmas), noise)
            expected = STD[f"{grid}/N{steps}/{name}"]
            np.testing.assert_allclose(np.sqrt((end**2).sum(0)), expected, rtol=1e-9)


def _gaussian(std: tuple[float, ...]) -> Any:
    if std not in _MADE:
        _MADE[std] = jd.gaussian_denoiser(0.0, np.asarray(std))
    return _MADE[std]


_MADE: dict[tuple[float, ...], Any] = {}


def _tabulated(eta: float) -> dict[str, Solver]:
    return {
        f"dpmpp_2m_sde_eta{eta}": DPMSolverPP(2, eta),
        f"dpmpp_3m_sde_eta{eta}": DPMSolverPP(3, eta, "exact"),
    }


TABULATED = (
    {name: ODES[name] for name in ODES if name.startswith("dpmpp") and "s" not in name[5:]}
    | {"dpmpp_1": DPMSolverPP(1)}
    | {"dpmpp_3m_official": DPMSolverPP(3)}
    | _tabulated(0.5)
    | _tabulated(1.0)
)


@pytest.mark.parametrize("frame", ["edm_karras", "flow_uniform", "vp_uniform"])
@pytest.mark.parametrize("name", TABULATED)
def test_coefficients(name: str, frame: str, x64: None) -> None:
    """x' = A x + sum_j B_j D_{i-j} + C noise; flow_uniform starts at alpha = 0."""
    levels = NoiseLevel(*(COEFFICIENTS[f"{frame}/{k}"] for k in ("alpha", "sigma")))
    _, (_, rule, noise) = TABULATED[name].init(jnp.zeros((1, 1)), levels)
    past = np.zeros((10, 2))
    for j, column in enumerate(rule.past):
        past[:, j] = column
    tables = {"A": rule.x, "B": np.c_[rule.x0 - past.sum(1), past], "C": noise}
    for key, actual in tables.items():
        if key == "C" and f"{frame}/{name}/C" not in COEFFICIENTS:
            continue
        # weights of 10 and more where nodes lie close together
        expected = COEFFICIENTS[f"{frame}/{name}/{key}"]
        np.testing.assert_allclose(actual, expected, atol=1e-13, rtol=1e-13)


@pytest.mark.parametrize("eta", [0.5, 1.0])
@pytest.mark.parametrize("frame", ["edm_karras", "flow_uniform", "vp_uniform"])
def test_coefficients_of_ddim(frame: str, eta: float, x64: None) -> None:
    """Found by asking: x alone, D alone, noise alone."""
    levels = NoiseLevel(*(COEFFICIENTS[f"{frame}/{k}"] for k in ("alpha", "sigma")))
    x, x0, noise = jnp.eye(3)
    _, rows = DDIM(eta).init(x, levels)
    key = f"{frame}/ddim_eta{eta}"
    tables = (COEFFICIENTS[f"{key}/{k}"] for k in "ABC")
    for i, (a, b, c) in enumerate(zip(*tables, strict=True)):
        row = jax.tree.map(lambda a, i=i: jnp.asarray(a[i]), rows)
        end, *_ = DDIM(eta).step(lambda x, at: Denoised(x0), x, (), row, lambda k: noise)
        _near(end, [a, b[0], c])


# ------------------------------------------------------------------ discrete processes


def _entries(key: str) -> NoiseLevel:
    abar = np.r_[VP["alpha_bar"][VP[f"{key}/t"]], 1.0]
    return NoiseLevel(np.sqrt(abar), np.sqrt(1 - abar))


DISCRETE: dict[str, tuple[str, Solver]] = {
    "eta0.0": ("ddim", Euler()),
    "eta0.5": ("ddim", DDIM(0.5)),
    "eta1.0": ("ddim", DDIM(1.0)),
    "fixed_small": ("ddpm", Ancestral(SmallVariance())),
    "fixed_large": ("ddpm", Ancestral(LargeVariance())),
    "dpmpp_2m": ("dpm", DPMSolverPP(2)),
    "dpmpp_2m_sde_eta1.0": ("dpm", DPMSolverPP(2, 1.0)),
    "dpmpp_3m": ("dpm", DPMSolverPP(3, variant="exact")),
    "unipc2_bh2": ("dpm", UniPC(2)),
    "unipc3_bh2": ("dpm", UniPC(3)),
}
CASES = [(s, n) for s in ("trailing", "leading", "linspace") for n in (10, 13, 20)]


@pytest.mark.parametrize("name", DISCRETE)
def test_on_a_table(name: str, x64: None) -> None:
    family, solver = DISCRETE[name]
    for spacing, steps in CASES:
        nodes = "ddim" if family == "ddpm" else family
        levels = _entries(f"{nodes}_{spacing}/N{steps}")
        x = last(solver, mixture("gmm2"), VP["x_T"], levels, VP["noise"])
        _near(x, VP[f"{family}_{spacing}/N{steps}/{name}"], f"{spacing}, N = {steps}")


def test_published_order_3_with_the_tail_below_15_steps(x64: None) -> None:
    for spacing, steps in CASES:
        solver = DPMSolverPP(3, variant="midpoint", tail=steps < 15)
        levels = _entries(f"dpm_{spacing}/N{steps}")
        x = last(solver, mixture("gmm2"), VP["x_T"], levels)
        _near(x, VP[f"dpm_{spacing}/N{steps}/dpmpp_3m_official_tail"], spacing)


def test_clipped_data(x64: None) -> None:
    denoise = Clipped(mixture("gmm2"))
    for spacing, steps in CASES:
        key = f"ddim_{spacing}/N{steps}"
        x = last(Euler(), denoise, VP["x_T"], _entries(key))
        _near(x, VP[f"{key}/eta0_clip1"], key)


def test_learned_variance(x64: None) -> None:
    """The head says another thing at each step, which the level tells apart."""
    solver = Ancestral(LearnedVariance())
    for spacing, steps in CASES:
        levels = _entries(f"ddim_{spacing}/N{steps}")
        memory, rows = solver.init(jnp.asarray(VP["x_T"]), levels)
        x = jnp.asarray(VP["x_T"])
        for i in range(steps):
            row = jax.tree.map(lambda a, i=i: a[i], rows)
            head = jnp.asarray(VP["v_logit_range"][i])
            denoise = lambda x, at, h=head: Denoised(mixture("gmm2")(x, at).x0, h)
            noise = lambda k, i=i: jnp.asarray(VP["noise"][i])
            x, memory, _ = solver.step(denoise, x, memory, row, noise)
        _near(x, VP[f"ddpm_{spacing}/N{steps}/learned_range"], f"{spacing}, N = {steps}")


CONTINUOUS = {
    "euler": RungeKutta(LINEAR, "euler"),
    "heun": RungeKutta(LINEAR, "heun"),
    "rk4": RungeKutta(LINEAR),
    "ddim": Euler(),
    "dpmpp_2m": DPMSolverPP(2),
}


@pytest.mark.parametrize("name", CONTINUOUS)
def test_on_the_continuous_path(name: str, x64: None) -> None:
    for steps in (10, 13, 20):
        levels = LINEAR(VP[f"vp_cont/N{steps}/t"])
        x = last(CONTINUOUS[name], mixture("gmm2"), VP["x_T"], levels)
        _near(x, VP[f"vp_cont/N{steps}/{name}"], f"N = {steps}")


# ------------------------------------------------------------------------------- flows

FLOWS: dict[str, tuple[Solver, ...]] = {
    "euler": (Euler(), RungeKutta(STRAIGHT, "euler")),
    "heun": (Heun(), RungeKutta(STRAIGHT, "heun")),
    "midpoint": (Midpoint(STRAIGHT), RungeKutta(STRAIGHT, "midpoint", full=True)),
    "rk4": (RungeKutta(),),
    "heun_full": (RungeKutta(STRAIGHT, "heun", full=True),),
    "rk4_full": (RungeKutta(full=True),),
    "dpmpp_2m": (DPMSolverPP(2),),
    "dpmpp_3m": (DPMSolverPP(3, variant="exact"),),
}


@pytest.mark.parametrize("name", FLOWS)
def test_flows(name: str, x64: None) -> None:
    """From alpha = 0; two ways where two of ours are one rule."""
    for solver in FLOWS[name]:
        for shift in ("1.0", "3.0"):
            for steps in (8, 16, 32, 64):
                levels = STRAIGHT(FLOW[f"shift{shift}/N{steps}/t"])
                x = last(solver, mixture("gmm2"), FLOW["x_1"], levels)
                _near(x[:8], FLOW[f"shift{shift}/N{steps}/{name}"], f"{shift}, N = {steps}")


@pytest.mark.parametrize("method", ["euler", "heun", "rk4"])
def test_cosine_flows(method: str, x64: None) -> None:
    """They land by Euler in t, which does not end on D: the last step of "euler", full."""
    for steps in (8, 16):
        levels = COSINE(FLOW[f"cosine/N{steps}/t"])
        x = FLOW["x_1"][:8]
        x = last(RungeKutta(COSINE, method), mixture("gmm2"), x, levels[:-1])
        euler = RungeKutta(COSINE, "euler", full=True)
        x = last(euler, mixture("gmm2"), x, levels[-2:])
        _near(x, FLOW[f"cosine/N{steps}/{method}"], f"N = {steps}")


FLOW_SDES = {f"ddim_eta{eta}": DDIM(eta) for eta in (0.5, 1.0)} | _tabulated(0.5)
FLOW_SDES |= _tabulated(1.0)


@pytest.mark.parametrize("name", FLOW_SDES)
def test_flows_with_noise(name: str, x64: None) -> None:
    levels = STRAIGHT(FLOW["sde/t"])
    x = FLOW["x_1"][:16]
    x = last(FLOW_SDES[name], mixture("gmm2"), x, levels, FLOW["sde/noise"])
    _near(x, FLOW[f"sde/{name}"])


LANGEVIN = {"two_sigma": SigmaW(), "const1": ConstantW(0.5), "two_sin2": SineW()}


@pytest.mark.parametrize("end", ["mean", "tweedie", "euler"])
@pytest.mark.parametrize("name", LANGEVIN)
def test_euler_maruyama(name: str, end: str, x64: None) -> None:
    solver = EulerMaruyama(LANGEVIN[name], STRAIGHT, True, math.inf, end)
    levels = STRAIGHT(FLOW["em/t"])
    x = last(solver, mixture("gmm2"), FLOW["x_1"][:16], levels, FLOW["em/noise"])
    _near(x, FLOW[f"em/{name}/{end}"])


def test_euler_maruyama_of_the_reverse_sde(x64: None) -> None:
    solver = EulerMaruyama(Proportional(), STRAIGHT, True, math.inf, "mean")
    levels = STRAIGHT(FLOW["em_g2/t"])
    x = last(solver, mixture("gmm2"), FLOW["x_1"][:16], levels, FLOW["em/noise"])
    _near(x, FLOW["em_g2/mean"])
