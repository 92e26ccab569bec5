"""Adaptive: error for tolerance, evaluations as counted, both ends, and what is refused."""

import sys
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff import sampling
from jaxdiff.sampling.grids import Karras
from jaxdiff.sampling.solvers import Adaptive
from jaxdiff.types import Condition, Denoised, NoiseLevel
from tests.toys import GOLDEN, SCHEDULES, edm, flow_map, mixture, on_host

ODE = np.load(GOLDEN / "samplers" / "ode_edm.npz")


def _way(solver: Adaptive, x: Any, levels: NoiseLevel, denoise: Any = None) -> Any:
    levels = jax.tree.map(jnp.asarray, levels)
    denoise = denoise or mixture("gmm2")
    run = lambda x: sampling.trajectory(denoise, Condition(), None, x, levels, solver)
    return jax.jit(run)(jnp.asarray(x))


@pytest.mark.parametrize(
    ("tolerance", "steps", "error"), [(1e-5, 25, 5e-5), (1e-7, 55, 3e-7)]
)
def test_error_and_steps_for_a_tolerance(
    tolerance: float, steps: int, error: float, x64: None
) -> None:
    """From 80 to 0.002, and what of Tsit5's six evaluations a step were called."""
    calls: list[int] = []

    def counted(x: Any, at: NoiseLevel, cond: Any) -> Denoised:
        jax.debug.callback(lambda: calls.append(1))
        return mixture("gmm2")(x, at)

    solver = Adaptive(tolerance, tolerance)
    way = _way(solver, ODE["gmm2/x_T"], edm([80.0, 0.002]), counted)
    rmse = np.sqrt(np.mean((way.x[-1] - ODE["gmm2/exact_smin"]) ** 2))
    jax.effects_barrier()
    assert rmse <= error
    # besides the steps' own six: the look ahead, and the first step's first
    assert int(way.memory) == len(calls)
    assert (len(calls) - 2) / 6 <= steps


@pytest.mark.parametrize("path", ["cosine", "rectified_flow", "zero_terminal"])
def test_from_pure_noise(path: str, x64: None) -> None:
    """alpha = 0, where ln sigma / alpha is infinite, and back up again."""
    x, schedule = np.random.default_rng(0).normal(size=(8, 2)), SCHEDULES[path]
    levels = on_host(schedule(np.asarray([1.0, 0.02])))
    exact = flow_map("gmm2", x, levels[0], levels[1])
    solver = Adaptive(1e-8, 1e-8)
    way = _way(solver, x, levels)
    # some hundred times the tolerance of a step, over some 60 of them
    np.testing.assert_allclose(way.x[-1], exact, atol=2e-6)
    assert int(way.memory) < 600
    back = _way(solver, way.x[-1], levels[::-1])
    np.testing.assert_allclose(back.x[-1], x, atol=2e-5)


def test_it_lands_on_the_denoised(x64: None) -> None:
    levels = Karras()(None, 2)
    way = _way(Adaptive(), ODE["gmm2/x_T"][:8], levels)
    landed = mixture("gmm2")(way.x[1], levels[1]).x0
    np.testing.assert_allclose(way.x[-1], landed, atol=1e-13)
    np.testing.assert_allclose(way.x[-1], ODE["gmm2/exact_0"][:8], atol=3e-4)


def test_any_solver_and_controller(x64: None) -> None:
    x, levels = ODE["gmm2/x_T"][:8], edm([80.0, 0.002])
    tight = diffrax.PIDController(1e-9, 1e-9, pcoeff=0.3, icoeff=0.4)
    for solver in (Adaptive(1e-9, 1e-9, "Dopri8"), Adaptive(1.0, 1.0, controller=tight)):
        end = _way(solver, x, levels).x[-1]
        np.testing.assert_allclose(end, ODE["gmm2/exact_smin"][:8], atol=1e-7)
    bosh3 = Adaptive(method=diffrax.Bosh3())
    assert np.abs(_way(bosh3, x, levels).x[-1] - ODE["gmm2/exact_smin"][:8]).max() < 1e-3


def test_the_worst_image_is_within_the_tolerance(x64: None) -> None:
    """Images that are never wrong, 0 all the way, do not hide the one that might be."""
    x = np.concatenate([ODE["gmm2/x_T"][:1], np.zeros((1000, 2))])

    def denoise(x: Any, at: NoiseLevel, cond: Any) -> Denoised:
        first = jnp.arange(x.shape[0])[:, None] == 0
        return Denoised(jnp.where(first, mixture("gmm2")(x, at).x0, 0))

    levels, solver = edm([80.0, 0.002]), Adaptive(1e-6, 1e-6)
    alone, among = (_way(solver, part, levels, denoise) for part in (x[:1], x))
    np.testing.assert_allclose(among.x[-1][0], alone.x[-1][0], atol=1e-12)
    assert int(among.memory) == int(alone.memory)


def test_gradients_go_through(x64: None) -> None:
    levels = jd.Cosine()(np.asarray([1.0, 0.5, 0.1]))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 1)))

    def total(mean: Any) -> Any:
        toy = jd.gaussian_denoiser(mean, 0.5)
        return sampling.follow(toy, Condition(), None, x, levels, Adaptive()).sum()

    # the flow of N(mean, std^2) moves by alpha' times the mean, from alpha = 0
    slope = jax.jit(jax.grad(total))(jnp.asarray(0.2))
    assert float(slope) == pytest.approx(4 * float(levels.alpha[-1]), rel=1e-4)


def test_too_many_steps_are_nan(x64: None) -> None:
    way = _way(Adaptive(max_steps=3), ODE["gmm2/x_T"][:2], edm([80.0, 0.002]))
    assert np.isnan(way.x[-1]).all()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Adaptive(rtol=0.0), "rtol must be a number from 1e-12 to 1, got 0.0"),
        (lambda: Adaptive(atol=-1.0), "atol must be a number from 1e-12 to 1, got -1.0"),
        (
            lambda: Adaptive(max_steps=0),
            "max_steps must be a whole number from 1 to 1,000,000, got 0",
        ),
        (
            lambda: Adaptive(method="RK45"),
            "diffrax has no solver 'RK45'; use for example Tsit5",
        ),
        (lambda: Adaptive(method="AbstractSolver"), "no solver 'AbstractSolver'"),
        (lambda: Adaptive(method="HalfSolver"), "no solver 'HalfSolver'"),
        (lambda: Adaptive(method="ItoMilstein"), "ItoMilstein.* does not solve ODEs"),
        (lambda: Adaptive(method="KenCarp4"), "KenCarp4.* does not solve ODEs"),
        (lambda: Adaptive(method="Euler"), "Euler.* does not estimate its error"),
        (lambda: Adaptive(controller=3), "controller .* diffrax.PIDController.*, got 3"),
        (lambda: Adaptive(method="PIDController"), "no solver 'PIDController'"),
        (lambda: Adaptive().evaluations(False), "read the number from sampling.trajectory"),
    ],
)
def test_what_is_refused(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


def test_diffrax_is_asked_for_only_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffrax", None)
    with pytest.raises(ImportError, match="pip install"):
        Adaptive()
