"""Ancestral sampling and the way back: published steps and chains, exact variances."""

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.denoisers import Clipped
from jaxdiff.sampling.grids import Trailing, Uniform
from jaxdiff.sampling.solvers import DDIM, Ancestral, Euler
from jaxdiff.schedules import CosineBetas, LinearBetas
from jaxdiff.schedules.posterior import LargeVariance, LearnedVariance, SmallVariance
from jaxdiff.types import NoiseLevel
from tests.test_posterior import levels
from tests.toys import GOLDEN, SCHEDULES, follow, mixture, on_host

GIVEN = np.load(GOLDEN / "iddpm" / "sampling.npz")
X0 = np.load(GOLDEN / "iddpm" / "sampling_x0.npz")
CHAINS = {
    "linear_T1000_10_rescale1": (LinearBetas(1000), 1.0),
    "cosine_T400_ddim8_rescale1": (CosineBetas(400), 1000 / 400),
    "cosine_T200_5_3_rescale0": (CosineBetas(200), 1.0),
}
CLOSE = {"rtol": 1e-7, "atol": 1e-9}
"""The tolerance of published loops; single steps are held to 1e-9."""


class Toy:
    """The golden files' network: eps and v from x and the step number."""

    def __init__(self, at: NoiseLevel, numbers: np.ndarray) -> None:
        self.logsnr, self.numbers = jnp.asarray(at.logsnr), jnp.asarray(numbers)

    def __call__(self, x: Any, at: NoiseLevel, cond: Any = None) -> jd.Denoised:
        p = GIVEN["toy"]
        entry = jnp.argmin(jnp.abs(self.logsnr - at.logsnr), axis=-1, keepdims=True)
        s = (self.numbers[entry] / 1000).reshape(jnp.shape(at.alpha))
        eps = jnp.tanh(p[0] * x + p[1] * jnp.cos(p[2] * s))
        return jd.Denoised((x - at.sigma * eps) / at.alpha, jnp.sin(p[3] * x + p[4] * s))


class Chain:
    """A respaced process: its levels, and the denoiser that sees the old numbers."""

    def __init__(self, name: str) -> None:
        betas, scale = CHAINS[name]
        kept = GIVEN[f"chain_{name}__timestep_map"]
        self.entries = levels(betas())[kept + 1]
        self.denoise = Clipped(Toy(self.entries, kept * scale))
        self.read = lambda key: GIVEN[f"chain_{name}__{key}"]

    def down(self) -> NoiseLevel:
        """From the noisiest entry to the data."""
        alpha, sigma = self.entries.alpha[::-1], self.entries.sigma[::-1]
        return NoiseLevel(np.r_[alpha, 1.0], np.r_[sigma, 0.0])


@lru_cache(maxsize=4)
def _chain(name: str) -> Chain:
    return Chain(name)


@pytest.mark.parametrize("name", CHAINS)
def test_published_chains_with_a_learned_variance(name: str, x64: None) -> None:
    chain = Chain(name)
    solver, noise = Ancestral(LearnedVariance()), chain.read("noise")
    states = follow(solver, chain.denoise, chain.read("x_T"), chain.down(), noise)
    np.testing.assert_allclose(states[1:], chain.read("ddpm_traj"), **CLOSE)
    down = chain.down()
    x0 = [chain.denoise(jnp.asarray(x), down[k]).x0 for k, x in enumerate(states[:-1])]
    np.testing.assert_allclose(x0, X0[f"chain_{name}__ddpm_xs"], **CLOSE)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("name", CHAINS)
def test_published_chains_of_ddim(name: str, eta: float, x64: None) -> None:
    chain = Chain(name)
    args = (chain.read("x_T"), chain.down(), chain.read("noise"))
    states = follow(DDIM(eta), chain.denoise, *args)
    np.testing.assert_allclose(states[1:], chain.read(f"ddim_eta{eta}_traj"), **CLOSE)


@pytest.mark.parametrize("name", CHAINS)
def test_euler_on_the_reversed_grid_is_reverse_ddim(name: str, x64: None) -> None:
    """The data taken for the first entry, and alpha_bar = 0 after the last one."""
    chain = Chain(name)
    up = NoiseLevel(np.r_[chain.entries.alpha, 0.0], np.r_[chain.entries.sigma, 1.0])
    states = follow(Euler(), chain.denoise, chain.read("rev_x0"), up)
    np.testing.assert_allclose(states[1:], chain.read("rev_traj"), **CLOSE)


@pytest.mark.parametrize("clip", [0, 1])
@pytest.mark.parametrize("row", range(4))
def test_published_single_steps(row: int, clip: int, x64: None) -> None:
    every, t = levels(GIVEN["step_betas"]), int(GIVEN["step_t"][row])
    toy = Toy(every[1:], np.arange(len(GIVEN["step_betas"])))
    denoise = Clipped(toy) if clip else toy
    x, z = (GIVEN[f"step_{name}"][row : row + 1] for name in ("x_t", "z"))
    # the whole grid, as the variance of the decoder's row is its neighbour's
    down = jax.tree.map(lambda a: a[::-1], every)
    place, after = 99 - t, np.append(every.sigma, 1.0)
    for name, solver in {
        "ddpm": Ancestral(LearnedVariance()),
        "ddim_eta0.0": DDIM(0.0),
        "ddim_eta0.5": DDIM(0.5),
        "ddim_eta1.0": DDIM(1.0),
    }.items():
        memory, rows = solver.init(jnp.asarray(x), jax.tree.map(jnp.asarray, down))
        one = jax.tree.map(lambda a: a[place], rows)
        draw = lambda k, z=z: jnp.asarray(z)
        stepped, *_ = solver.step(denoise, jnp.asarray(x), memory, one, draw)
        expected = GIVEN[f"step_{name}_clip{clip}"][row : row + 1]
        np.testing.assert_allclose(stepped, expected, rtol=1e-9, atol=1e-9)
    alpha = np.append(every.alpha, 0.0)
    up = NoiseLevel(alpha[t + 1 : t + 3], after[t + 1 : t + 3])
    stepped = follow(Euler(), denoise, x, up)[-1]
    expected = GIVEN[f"step_ddim_reverse_clip{clip}"][row : row + 1]
    np.testing.assert_allclose(stepped, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("path", SCHEDULES)
@pytest.mark.parametrize("law", ["gmm2"])
def test_with_the_small_variance_it_is_ddim_at_eta_one(
    path: str, law: str, x64: None
) -> None:
    grid = Uniform()(SCHEDULES[path], 7)
    rng = np.random.default_rng(0)
    x, noise = rng.normal(size=(8, 2)) * float(grid.sigma[0]), rng.normal(size=(7, 8, 2))
    ours = follow(Ancestral(SmallVariance()), mixture(law), x, grid, noise)
    ddim = follow(DDIM(1.0), mixture(law), x, grid, noise)
    scale = np.abs(x).max()
    np.testing.assert_allclose(ours, ddim, rtol=0, atol=1e-11 * scale)


@pytest.mark.parametrize("path", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 3, 20])
def test_with_the_large_variance_unit_gaussian_data_are_exact(
    path: str, steps: int, x64: None
) -> None:
    """x0 ~ N(0, 1): however few the steps, x has variance r^2 at every level."""
    grid = on_host(Uniform(end=0.02)(SCHEDULES[path], steps))
    r2 = grid.alpha**2 + grid.sigma**2
    solver, denoise = Ancestral(LargeVariance()), jd.gaussian_denoiser(0.0, 1.0)
    for i in range(steps):
        pair = grid[i : i + 2]
        slope = follow(solver, denoise, np.ones((1, 1)), pair, np.zeros((1, 1, 1)))[-1]
        fresh = follow(solver, denoise, np.zeros((1, 1)), pair, np.ones((1, 1, 1)))[-1]
        variance = slope.item() ** 2 * r2[i] + fresh.item() ** 2
        assert variance == pytest.approx(r2[i + 1], rel=1e-10)


RULES = [SmallVariance(), LargeVariance(), LearnedVariance()]


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("path", SCHEDULES)
def test_a_step_that_lands_adds_no_noise_and_all_others_do(path: str, rule: Any) -> None:
    """In float32, from t = 1; a grid that stops before the data ends on noise."""
    denoise = lambda x, at: jd.Denoised(0 * x + 0.5, 0 * x + 0.3)
    schedule, ones = SCHEDULES[path], np.ones((4, 1, 1), np.float32)
    for grid in (Trailing()(schedule, 4), Uniform(end=0.1)(schedule, 4)):
        quiet, loud = (
            follow(Ancestral(rule), denoise, np.ones((1, 1), np.float32), grid, noise)
            for noise in (0 * ones, ones)
        )
        assert np.isfinite(loud).all()
        assert loud[1] > quiet[1]
        if float(grid.sigma[-1]) == 0:
            assert loud[-1] == quiet[-1] == 0.5
        else:
            assert loud[-1] > quiet[-1]


def test_encoding_then_decoding_is_the_identity_for_constant_noise(x64: None) -> None:
    eps = np.asarray([[0.3, -1.1]])
    denoise = lambda x, at: jd.Denoised((x - at.sigma * eps) / at.alpha)
    up = _chain("cosine_T400_ddim8_rescale1").entries
    x = np.asarray([[0.7, -0.2]])
    code = follow(Euler(), denoise, x, up)[-1]
    assert np.abs(code - x).max() > 0.5
    down = jax.tree.map(lambda a: a[::-1], up)
    np.testing.assert_allclose(follow(Euler(), denoise, code, down)[-1], x, rtol=1e-12)


def test_encoding_then_decoding_a_mixture_is_first_order(x64: None) -> None:
    """A denoiser that is not constant: there and back, to the rule's order."""
    x, errors = np.random.default_rng(0).normal(size=(8, 2)), []
    for steps in (200, 400):
        down = on_host(Uniform(end=0.01)(jd.Cosine(), steps))[steps // 20 :]
        up = jax.tree.map(lambda a: a[::-1], down)
        code = follow(Euler(), mixture("gmm2"), x, up)[-1]
        errors.append(np.abs(follow(Euler(), mixture("gmm2"), code, down)[-1] - x).max())
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.15)
    assert errors[1] < 0.05


def test_sampling_draws_the_data_s_law() -> None:
    """Unit Gaussian data in 3 steps: exact but for what 4096 samples tell."""
    keys = jax.random.split(jax.random.key(0), 4096)
    grid = Uniform(end=0.001)(jd.Cosine(), 3)
    denoise = jd.gaussian_denoiser(0.0, 1.0)
    x = jd.sample(denoise, jd.Condition(), keys, (1,), grid, Ancestral(LargeVariance()))
    assert float(x.std()) == pytest.approx(1, abs=4 / np.sqrt(2 * 4096))
    small = jd.sample(denoise, jd.Condition(), keys, (1,), grid, Ancestral())
    assert float(small.std()) < 0.9


def test_a_network_without_the_head_is_told_so() -> None:
    denoise, grid = jd.gaussian_denoiser(0.0, 1.0), Uniform()(jd.Cosine(), 2)
    with pytest.raises(ValueError, match="use SmallVariance or LargeVariance"):
        follow(Ancestral(LearnedVariance()), denoise, np.ones((1, 1)), grid)
