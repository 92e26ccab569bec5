"""sample: one key an image, and what jit, vmap, grad and devices must not change."""

from dataclasses import dataclass
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import jaxdiff as jd
from jaxdiff import sampling
from jaxdiff.sampling.grids import Karras, Uniform
from jaxdiff.sampling.solvers import (
    DDIM,
    DEIS,
    LMS,
    Adaptive,
    DPMSolverPP,
    DPMSolverPP2S,
    Euler,
    Heun,
    Midpoint,
    RungeKutta,
    UniPC,
)
from jaxdiff.types import Condition, Denoised, NoiseLevel, Solver
from tests.compiling import LONG
from tests.test_parameterizations import ROWS
from tests.toys import SCHEDULES, on_host

SOLVERS = [Euler(), Heun(), Heun(churn=4.0), DDIM(0.5), DDIM(1.0)]
AHEAD = [
    Euler(churn=4.0),
    Midpoint(),
    DPMSolverPP2S(),
    DPMSolverPP2S(1.0),
    DPMSolverPP2S(0.5, ancestral=True),
    RungeKutta(jd.Cosine()),
]
BEHIND = [DPMSolverPP(2), DPMSolverPP(3, 0.5), UniPC(3), DEIS(3), LMS(4)]
LATER = [*AHEAD, *BEHIND]
SHAPE = (4, 4, 2)
few = pytest.mark.parametrize(
    "solver",
    [
        Euler(),
        Heun(churn=4.0),
        DDIM(1.0),
        DPMSolverPP(3, 0.5),
        DPMSolverPP2S(1.0),
        UniPC(3),
    ],
    ids=str,
)
solvers = pytest.mark.parametrize("solver", SOLVERS, ids=str)
every = pytest.mark.parametrize("solver", [*SOLVERS, *LATER], ids=str)


def _keys(count: int, seed: int = 0) -> Any:
    return jax.random.split(jax.random.key(seed), count)


def _denoise(x: Any, at: NoiseLevel, cond: Condition) -> Denoised:
    """Neither linear nor pointwise, and it reads the level and the condition."""
    label = 0.0 if cond.label is None else 0.3 * cond.label.reshape(-1, 1, 1, 1)
    mixed = x + 0.5 * jnp.roll(x, 1, axis=1) - 0.2 * x.mean((1, 2, 3), keepdims=True)
    return Denoised(jnp.tanh(at.alpha * mixed / (at.alpha**2 + at.sigma**2) + label))


@few
def test_an_image_depends_on_its_key_and_condition_alone(solver: Solver) -> None:
    keys, labels = _keys(8), jnp.arange(8)
    levels = Uniform()(jd.Cosine(), 6)
    run = jax.jit(
        lambda k, c: jd.sample(_denoise, Condition(label=c), k, SHAPE, levels, solver)
    )
    whole = run(keys, labels)
    # the arithmetic is the same, its order in the compiled loops may not be
    close = lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6)
    for i in (0, 7):
        close(run(keys[i : i + 1], labels[i : i + 1])[0], whole[i])
    close(run(keys[:5], labels[:5]), whole[:5])
    order = np.random.default_rng(0).permutation(8)
    close(run(keys[order], labels[order]), whole[order])
    assert (np.abs(run(keys, labels[::-1]) - whole).max((1, 2, 3)) > 1e-2).all()


@few
def test_eight_devices_equal_one(solver: Solver) -> None:
    devices = np.asarray(jax.devices("cpu"))
    assert devices.size == 8
    split = NamedSharding(Mesh(devices, "batch"), PartitionSpec("batch"))
    levels = Uniform()(jd.Cosine(), 6)
    run = lambda k, c: jd.sample(_denoise, Condition(label=c), k, SHAPE, levels, solver)
    keys, labels = _keys(16), jnp.arange(16) % 5
    spread = jax.jit(run, out_shardings=split)(*jax.device_put((keys, labels), split))
    assert len(spread.sharding.device_set) == 8
    np.testing.assert_allclose(spread, jax.jit(run)(keys, labels), atol=2e-6)


@dataclass(frozen=True)
class Recorder:
    """A solver that goes nowhere and remembers two draws of each step."""

    def evaluations(self, lands: bool) -> int:
        return 1

    def init(self, x: Any, levels: NoiseLevel) -> Any:
        steps = levels.sigma.shape[0] - 1
        return jnp.zeros((steps, 2, *x.shape)), jnp.arange(steps)

    def step(self, denoise: Any, x: Any, memory: Any, row: Any, noise: Any) -> Any:
        memory = memory.at[row].set(jnp.stack([noise(0), noise(1)]))
        return x, memory, denoise(x, NoiseLevel(1.0, 1.0))


def test_noise_is_each_image_s_and_each_step_s_own() -> None:
    levels = NoiseLevel(jnp.ones(6), jnp.asarray([5.0, 4.0, 3.0, 2.0, 1.0, 0.0]))
    keys = _keys(64)
    x = jnp.zeros((64, *SHAPE))
    seen = sampling.trajectory(_denoise, Condition(), keys, x, levels, Recorder()).memory
    assert len(np.unique(seen)) > 0.99 * seen.size
    third, another = seen[2]
    by_hand = [jax.random.normal(jax.random.fold_in(k, 3), SHAPE) for k in keys[:4]]
    np.testing.assert_array_equal(third[:4], by_hand)
    start = jd.sample(_denoise, Condition(), keys, SHAPE, levels[:1], Euler())
    by_hand = [5 * jax.random.normal(jax.random.fold_in(k, 0), SHAPE) for k in keys[:4]]
    np.testing.assert_allclose(start[:4], by_hand, rtol=1e-6)
    rows = np.concatenate(
        [np.asarray(a).reshape(64, -1) for a in (start / 5, third, another)]
    )
    # 192 unit normal vectors of length 32: no two alike, nor near it
    cosine = np.corrcoef(rows) - np.eye(192)
    assert np.abs(cosine).max() < 0.85
    assert len(np.unique(rows)) > 0.999 * rows.size


@few
def test_no_two_images_are_alike(solver: Solver) -> None:
    x = jd.sample(
        _denoise, Condition(), _keys(64), SHAPE, Uniform()(jd.Cosine(), 4), solver
    )
    assert len(np.unique(np.asarray(x).reshape(64, -1).round(4), axis=0)) == 64


@solvers
def test_gaussian_data_come_out_as_they_should(solver: Solver) -> None:
    """Whole ways to the data, and grids that stop: alpha mean, hypot(alpha std, sigma)."""
    mean, std = 0.7, 0.4
    toy = jd.gaussian_denoiser(mean, std)
    draw = lambda lv: jd.sample(toy, Condition(), _keys(1024), (8,), lv, solver)
    run = jax.jit(draw, compiler_options=LONG)
    grids = {"cosine": Uniform()(jd.Cosine(), 300), "karras": Karras()(None, 300)}
    for path in ("cosine", "rectified_flow", "zero_terminal", "log_sigma"):
        grids[f"{path}, stopped"] = Uniform(end=0.4)(SCHEDULES[path], 300)
    for name, levels in grids.items():
        x, end = np.asarray(run(levels)), on_host(levels[-1])
        right = np.hypot(end.alpha * std, end.sigma)
        # four standard errors, and what a first-order rule is off by at N = 300
        bias = 0.0 if isinstance(solver, Heun) else 0.015 * right
        error = right / x.size**0.5
        assert x.mean() == pytest.approx(end.alpha * mean, abs=4 * error), name
        assert x.std() == pytest.approx(right, abs=4 * error / 2**0.5 + bias), name


@every
def test_gradients_from_pure_noise_to_the_data(solver: Solver) -> None:
    """Moving the data's mean moves every sample as far, whatever the solver and N."""

    def total(mean: Any, levels: NoiseLevel) -> Any:
        toy = jd.gaussian_denoiser(mean, 0.5)
        return jd.sample(toy, Condition(), _keys(3), (2,), levels, solver).sum()

    grad = jax.jit(jax.grad(total, argnums=(0, 1)))
    for path in ("cosine", "rectified_flow", "zero_terminal", "log_sigma"):
        slope, by_level = grad(jnp.float32(0.2), Uniform()(SCHEDULES[path], 7))
        for value in (slope, by_level.alpha, by_level.sigma):
            assert np.isfinite(value).all(), path
        if path != "log_sigma":  # whose start at alpha = 1 leaves the mean out
            assert float(slope) == pytest.approx(6, rel=1e-4), path


@pytest.mark.parametrize("name", ["x0", "v", "flow", "edm"])
@pytest.mark.parametrize("solver", [Heun(), DDIM(1.0)], ids=str)
def test_network_gradients_are_finite_and_right(name: str, solver: Solver) -> None:
    """Through every parameterization that pure noise admits, against a difference."""

    def apply(params: Any, x: Any, c_noise: Any, cond: Any) -> jd.Output:
        return jd.Output(jnp.tanh(params * x + c_noise))

    def total(params: Any, levels: NoiseLevel) -> Any:
        denoise = jd.denoiser(apply, params, ROWS[name])
        return jd.sample(denoise, Condition(), _keys(3), (2,), levels, solver).mean()

    run = jax.jit(jax.value_and_grad(total))
    for path in ("cosine", "rectified_flow", "zero_terminal"):
        levels = Uniform()(SCHEDULES[path], 4)
        (above, _), (_, slope), (below, _) = (run(p, levels) for p in (0.41, 0.4, 0.39))
        difference = float(above - below) / 0.02
        assert float(slope) == pytest.approx(difference, rel=2e-2, abs=2e-3), path


@pytest.mark.parametrize(
    "solver", [Heun(), DDIM(1.0), DPMSolverPP2S(1.0), UniPC(3), LMS(4)], ids=str
)
def test_vmap_over_grids_and_its_gradient(solver: Solver) -> None:
    """A batch of grids makes conditions into selects: both sides must be finite."""
    grids = [
        Uniform()(path, 5) for path in (jd.Cosine(), jd.RectifiedFlow(), jd.LogSigma())
    ]
    grids.append(Uniform(end=0.2)(jd.Cosine(), 5))
    stacked = jax.tree.map(lambda *a: jnp.stack(a), *grids)

    def one(gain: Any, levels: NoiseLevel) -> Any:
        d = lambda x, at, cond: Denoised(_denoise(x, at, cond).x0 * gain)
        return jd.sample(d, Condition(), _keys(2), SHAPE, levels, solver).sum()

    alone = jax.jit(jax.value_and_grad(one))
    batch = lambda g, lv: jax.vmap(one, (None, 0))(g, lv).sum()
    total, (by_gain, by_level) = jax.jit(jax.value_and_grad(batch, (0, 1)))(1.0, stacked)
    values, slopes = zip(*(alone(1.0, levels) for levels in grids), strict=True)
    np.testing.assert_allclose(total, sum(values), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(by_gain, sum(slopes), rtol=1e-3)
    assert np.isfinite(by_level.alpha).all()
    assert np.isfinite(by_level.sigma).all()


@pytest.mark.parametrize("path", ["cosine", "rectified_flow", "zero_terminal"])
def test_ancestral_steps_from_pure_noise_are_finite_everywhere(path: str) -> None:
    """sigma'^2 - s^2 is 0 there, and rounding must not take its root below."""
    toy = jd.gaussian_denoiser(0.0, 0.5)
    run = jax.jit(lambda lv: jd.sample(toy, Condition(), _keys(1), (1,), lv, DDIM(1.0)))
    for t in np.linspace(0.02, 0.98, 150):
        assert np.isfinite(run(SCHEDULES[path](np.asarray([1.0, t, t / 2])))).all(), t


@every
def test_other_levels_compile_nothing(solver: Solver) -> None:
    chex.clear_trace_counter()  # another solver is another function

    @jax.jit
    @chex.assert_max_traces(n=1)
    def run(keys: Any, levels: NoiseLevel) -> Any:
        return jd.sample(_denoise, Condition(), keys, SHAPE, levels, solver)

    ends = [
        run(_keys(2), grid) for grid in (Karras()(None, 5), Karras(rho=3.0)(None, 5))
    ] + [run(_keys(2, seed=1), Uniform()(jd.Cosine(), 5))]
    assert not np.allclose(ends[0], ends[1])
    # and traced levels give what constant ones do
    eager = jd.sample(_denoise, Condition(), _keys(2), SHAPE, Karras()(None, 5), solver)
    np.testing.assert_allclose(ends[0], eager, rtol=1e-4, atol=1e-5)


def test_one_step_is_the_denoiser_at_the_first_level() -> None:
    levels = Uniform()(jd.Cosine(), 1)
    noise = jnp.stack(
        [jax.random.normal(jax.random.fold_in(k, 0), SHAPE) for k in _keys(3)]
    )
    expected = _denoise(noise, NoiseLevel(0.0, 1.0), Condition()).x0
    for solver in (s for s in [*SOLVERS, *LATER] if not getattr(s, "churn", 0)):
        x = jd.sample(_denoise, Condition(), _keys(3), SHAPE, levels, solver)
        np.testing.assert_allclose(x, expected, rtol=1e-6)
        assert x.dtype == jnp.float32


@every
def test_a_trajectory_is_the_way_of_the_sample(solver: Solver) -> None:
    levels, keys = Uniform()(jd.Cosine(), 5), _keys(3)
    start = levels.sigma[0] * sampling.normal(keys, SHAPE)
    way = sampling.trajectory(_denoise, Condition(), keys, start, levels, solver)
    end = jd.sample(_denoise, Condition(), keys, SHAPE, levels, solver)
    np.testing.assert_array_equal(way.x[0], start)
    np.testing.assert_allclose(way.x[-1], end, atol=1e-6)
    if not isinstance(solver, LMS):  # which keeps its order there
        np.testing.assert_allclose(way.x0[-1], end, atol=1e-6)  # a landing step returns D
    assert way.x.shape == (6, 3, *SHAPE)
    if not getattr(solver, "churn", 0):
        looks = [_denoise(way.x[i], levels[i], Condition()).x0 for i in range(5)]
        np.testing.assert_allclose(way.x0, looks, atol=1e-5)


@every
@pytest.mark.parametrize("end", [0.0, 0.1])
def test_evaluations_are_as_many_as_are_counted(solver: Solver, end: float) -> None:
    levels, calls = Uniform(end)(jd.Cosine(), 5), []

    def counted(x: Any, at: NoiseLevel, cond: Condition) -> Denoised:
        jax.debug.callback(lambda: calls.append(1))
        return _denoise(x, at, cond)

    jax.block_until_ready(jd.sample(counted, Condition(), _keys(2), SHAPE, levels, solver))
    jax.effects_barrier()
    assert len(calls) == sampling.evaluations(solver, levels)


def test_an_adaptive_solver_compiles_once_and_splits_within_its_tolerance() -> None:
    def draw(keys: Any, levels: NoiseLevel) -> Any:
        solver = Adaptive(1e-4, 1e-4)
        return jd.sample(_denoise, Condition(), keys, SHAPE, levels, solver)

    run, levels = jax.jit(chex.assert_max_traces(draw, n=1)), Uniform()(jd.Cosine(), 2)
    whole = run(_keys(4), levels)
    run(_keys(4, seed=1), Uniform()(jd.RectifiedFlow(), 2))
    np.testing.assert_allclose(jax.jit(draw)(_keys(4)[:1], levels), whole[:1], atol=2e-3)


@pytest.mark.parametrize("solver", [Heun(churn=4.0), jd.EulerMaruyama()], ids=str)
def test_noise_without_keys_is_refused(solver: Solver) -> None:
    toy, levels = jd.gaussian_denoiser(0.0, 0.5), Karras()(None, 4)
    follow = lambda solver: sampling.follow(
        toy, Condition(), None, jnp.ones((2, 1)), levels, solver
    )
    with pytest.raises(ValueError, match=r"keys is None, .* one key per image"):
        follow(solver)
    assert follow(Heun()).shape == (2, 1)
