"""Editing: golden edits, and what they must keep."""

import warnings
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff import sampling
from jaxdiff.sampling import editing
from jaxdiff.sampling.editing import (
    KNOWN,
    Inpaint,
    encode,
    first_step,
    image_to_image,
    slerp,
)
from jaxdiff.sampling.grids import Karras, Uniform
from jaxdiff.types import NoiseLevel
from tests.toys import GOLDEN, edm, mixture

EDIT = np.load(GOLDEN / "samplers" / "edit.npz")
NOTHING = jd.Condition()
TOY = jd.gaussian_denoiser(0.2, 0.5)


def on_device(levels: NoiseLevel) -> NoiseLevel:
    return jax.tree.map(jnp.asarray, levels)


def keys(count: int) -> Any:
    return jax.random.split(jax.random.key(0), count)


def walk(solver: Any, x: Any, levels: NoiseLevel, noise: Any) -> np.ndarray:
    """The end of a solver's way with noise(i, k), the k-th draw of step i."""
    denoise = lambda x, at: mixture("gmm2")(x, at)
    step = jax.jit(
        lambda x, memory, row, drawn, known: solver.step(
            denoise, x, memory, row, lambda k: known if k == KNOWN else drawn
        )
    )
    x = jnp.asarray(x)
    memory, rows = solver.init(x, levels)
    for i in range(len(levels.sigma) - 1):
        row = jax.tree.map(lambda a, i=i: a[i], rows)
        x, memory, _ = step(x, memory, row, noise(i, 0), noise(i, KNOWN))
    return np.asarray(x)


# ------------------------------------------------------------------ golden edits


def test_golden_latents_and_round_trip(x64: None) -> None:
    levels, toy = on_device(edm(EDIT["encode/sigmas"][::-1])), mixture("gmm2")
    latent = encode(toy, NOTHING, jnp.asarray(EDIT["encode/x0"]), levels)
    np.testing.assert_allclose(latent, EDIT["encode/heun_latent"], rtol=1e-11)
    back = sampling.follow(toy, NOTHING, None, latent, levels, jd.Heun())
    np.testing.assert_allclose(back, EDIT["encode/heun_roundtrip"], rtol=1e-11)


@pytest.mark.parametrize("t", [0.0, 0.25, 0.5, 1.0])
def test_golden_slerp(t: float, x64: None) -> None:
    a, b = (jnp.asarray(EDIT[f"slerp/{end}"]) for end in "ab")
    np.testing.assert_allclose(slerp(a, b, t), EDIT[f"slerp/t{t}"], atol=1e-14)


@pytest.mark.parametrize("strength", [0.3, 0.6, 1.0])
def test_golden_image_to_image(strength: float, x64: None) -> None:
    """From the golden noise at the golden level; 2M is a solver of its own, not here."""
    levels = on_device(edm(EDIT["sigmas"]))
    k = first_step(levels, strength)
    assert k == EDIT[f"sdedit/strength{strength}/start_index"]
    x = jnp.asarray(EDIT["sdedit/ref"] + EDIT["sigmas"][k] * EDIT["sdedit/noise"])
    edited = sampling.follow(mixture("gmm2"), NOTHING, None, x, levels[k:], jd.Heun())
    np.testing.assert_allclose(edited, EDIT[f"sdedit/strength{strength}/heun"], atol=1e-12)


@pytest.mark.parametrize("name", ["euler", "heun", "ancestral"])
def test_golden_replacement(name: str, x64: None) -> None:
    solver = {"euler": jd.Euler(), "heun": jd.Heun(), "ancestral": jd.Ancestral()}[name]
    known, mask = EDIT["inpaint/known"], EDIT["inpaint/mask"] > 0
    draws = {0: EDIT["inpaint/noise_step"], KNOWN: EDIT["inpaint/noise_known"]}
    inpainted = walk(
        Inpaint(solver, known, mask),
        EDIT["inpaint/x_T"],
        on_device(edm(EDIT["sigmas"])),
        lambda i, k: draws[k][i],
    )
    np.testing.assert_allclose(inpainted, EDIT[f"inpaint/replacement_{name}"], atol=1e-12)


def test_golden_resampling(x64: None) -> None:
    """RePaint's own order of nodes, and a run of it with ancestral steps."""
    for steps, jump, times in ((10, 4, 3), (20, 5, 3), (25, 10, 10)):
        nodes = edm(np.arange(steps + 1.0)[::-1])
        expected = EDIT[f"repaint_times/N{steps}_j{jump}_r{times}"]
        actual = editing.resampled(nodes, jump, times).sigma
        np.testing.assert_array_equal(actual, expected)
    levels = on_device(editing.resampled(edm(EDIT["repaint/sigmas"]), 4, 3))
    rising = np.diff(np.asarray(levels.sigma)) > 0
    draws = lambda i, k: EDIT[
        "repaint/n_known" if k else "repaint/n_up" if rising[i] else "repaint/n_denoise"
    ][i]
    solver = Inpaint(jd.Ancestral(), EDIT["inpaint/known"], EDIT["inpaint/mask"] > 0)
    actual = walk(solver, EDIT["inpaint/x_T"], levels, draws)
    np.testing.assert_allclose(actual, EDIT["repaint/out"], atol=1e-12)
    assert editing.evaluations(solver, levels) == (~rising).sum() == 26


# ------------------------------------------------------------------ encoding, slerp


def test_encoding_a_gaussian_gives_its_standard_score(x64: None) -> None:
    """On the cosine path, whose end has alpha = 0: the latent is (x - m) / s."""
    path = jd.Cosine()
    levels = on_device(path(np.linspace(1, 0.01, 401)))
    x = levels.alpha[-1] * jnp.asarray([[1.2], [0.2], [-0.8]])
    latent = encode(TOY, NOTHING, x, levels)
    score = (x - levels.alpha[-1] * 0.2) / jnp.hypot(
        levels.alpha[-1] * 0.5, levels.sigma[-1]
    )
    np.testing.assert_allclose(latent, score, atol=2e-5)
    traced = jax.jit(lambda levels: encode(TOY, NOTHING, x, levels))(levels)
    np.testing.assert_allclose(traced, latent, rtol=1e-12)


def test_encoding_from_the_data_is_refused() -> None:
    with pytest.raises(ValueError, match=r"give levels\[:-1\]"):
        encode(TOY, NOTHING, jnp.zeros((1, 1)), Karras()(None, 4))


def test_slerp_keeps_the_norm_and_the_angle() -> None:
    a, b = jax.random.normal(jax.random.key(0), (2, 3, 4, 4, 1))
    size = lambda x: jnp.sqrt(jnp.sum(x**2, (1, 2, 3)))
    unit = lambda x: x / size(x)[:, None, None, None]
    cosine = lambda x, y: jnp.sum(unit(x) * unit(y), (1, 2, 3))
    t = jnp.array([0.2, 0.5, 0.9])
    between = slerp(unit(a), unit(b), t)
    np.testing.assert_allclose(size(between), 1, rtol=1e-5)
    swept = jnp.arccos(cosine(a, between)) / jnp.arccos(cosine(a, b))
    np.testing.assert_allclose(swept, t, rtol=1e-4)


def test_slerp_of_one_direction_is_a_line_with_finite_gradients() -> None:
    a = jnp.array([[1.0, 2.0], [1.0, 2.0]])
    b = jnp.array([[3.0, 6.0], [1.0, 2.0]])
    np.testing.assert_allclose(slerp(a, b, 0.5), (a + b) / 2, rtol=1e-5)
    for end in (0, 1):
        slope = jax.grad(lambda *x: slerp(*x, 0.3).sum(), end)(a, b)
        assert np.isfinite(slope).all()


# ------------------------------------------------------------------ image to image


def test_strength_says_how_many_steps() -> None:
    levels, x = Karras()(None, 100), jnp.ones((2, 3))
    assert [first_step(levels, s) for s in (0.0, 0.29, 0.3, 1.0)] == [100, 72, 70, 0]
    edit = lambda s: image_to_image(TOY, NOTHING, keys(2), x, levels, s, jd.Euler())
    np.testing.assert_array_equal(edit(0.0), x)
    with pytest.raises(ValueError, match=r"\[0, 1\], got 1.5"):
        edit(1.5)


def test_image_to_image_at_full_strength_is_sampling_where_alpha_is_0() -> None:
    from jaxdiff.sampling.grids import Uniform

    levels, image = Uniform()(jd.Cosine(), 12), jnp.full((4, 2), 0.7)
    inputs = (TOY, NOTHING, keys(4))
    edited = image_to_image(*inputs, image, levels, 1.0, jd.Ancestral())
    expected = sampling.sample(*inputs, (2,), levels, jd.Ancestral())
    np.testing.assert_allclose(edited, expected, atol=1e-6)


def test_image_to_image_moves_a_gaussian_as_far_as_it_must(x64: None) -> None:
    """At level s the flow maps y to m + (y - m) std / sqrt(std^2 + s^2)."""
    levels, image = on_device(Karras()(None, 400)), jnp.full((2, 3), 0.9)
    edited = image_to_image(TOY, NOTHING, keys(2), image, levels, 0.4, jd.Heun())
    s = levels.sigma[first_step(levels, 0.4)]
    y = image + s * sampling.normal(keys(2), (3,))
    expected = 0.2 + (y - 0.2) * 0.5 / jnp.hypot(0.5, s)
    np.testing.assert_allclose(edited, expected, atol=1e-4)


# ------------------------------------------------------------------ inpainting


@dataclass(frozen=True)
class Remembering:
    """Euler steps to an x0 that the step before moves: a multistep rule."""

    def evaluations(self, lands: bool) -> int:
        return 1

    def init(self, x: Any, levels: NoiseLevel) -> Any:
        _, rows = jd.Euler().init(x, levels)
        later = (np.arange(levels.sigma.shape[0] - 1) > 0) * 0.5
        return jnp.zeros_like(x), (rows, jnp.asarray(later, x.dtype))

    def step(self, denoise: Any, x: Any, memory: Any, row: Any, noise: Any) -> Any:
        rows, later = row
        moved = lambda x, at: jd.Denoised(denoise(x, at).x0 * (1 - later) + later * memory)
        x, _, first = jd.Euler().step(moved, x, (), rows, noise)
        return x, first.x0, first


IMAGE = jnp.linspace(-1.0, 1.0, 6).reshape(1, 6)


def test_nothing_known_is_the_solver_itself_and_all_known_is_the_image() -> None:
    levels, nothing = Karras()(None, 6), jnp.zeros(6, bool)
    draw = lambda solver: sampling.sample(TOY, NOTHING, keys(3), (6,), levels, solver)
    solver = jd.Ancestral()
    np.testing.assert_array_equal(draw(Inpaint(solver, IMAGE, nothing)), draw(solver))
    some = jnp.arange(6) < 3
    inpainted = draw(Inpaint(jd.Ancestral(), IMAGE, some))
    np.testing.assert_array_equal(inpainted[:, :3], jnp.tile(IMAGE[:, :3], (3, 1)))
    assert (np.abs(inpainted[:, 3:] - IMAGE[:, 3:]) > 0.01).all()
    part = sampling.sample(
        TOY, NOTHING, keys(3)[1:], (6,), levels, Inpaint(jd.Ancestral(), IMAGE, some)
    )
    np.testing.assert_array_equal(part, inpainted[1:])


@pytest.mark.parametrize("grid", ["falling", "resampled", "traced"])
def test_a_multistep_solver_starts_over_at_every_step(grid: str) -> None:
    """A rule whose first step is Euler's makes Euler's steps alone."""
    levels, known = Karras()(None, 8), jnp.arange(6) < 3
    levels = editing.resampled(levels, 3, 2) if grid == "resampled" else levels

    def draw(solver: Any, levels: NoiseLevel) -> Any:
        inpaint = Inpaint(solver, IMAGE, known)
        return sampling.sample(TOY, NOTHING, keys(3), (6,), levels, inpaint)

    make = jax.jit(draw, static_argnums=0) if grid == "traced" else draw
    expected = draw(jd.Euler(), levels)
    np.testing.assert_allclose(make(Remembering(), levels), expected, rtol=1e-5)
    plain = sampling.sample(TOY, NOTHING, keys(3), (6,), levels[:9], Remembering())
    assert np.isfinite(plain).all()


def test_a_rising_step_adds_the_noise_that_its_level_has(x64: None) -> None:
    """From x ~ N(alpha x0, sigma^2) to N(alpha' x0, sigma'^2), nothing evaluated."""
    path = jd.RectifiedFlow()
    levels = on_device(path(np.array([0.3, 0.7])))
    never = lambda x, at, cond: jd.Denoised(jnp.full_like(x, jnp.nan))
    x0, keys_ = 0.5, jax.random.split(jax.random.key(1), 40_000)
    x = levels.alpha[0] * x0 + levels.sigma[0] * sampling.normal(keys_, (1,), 7)
    solver = Inpaint(jd.Euler(), jnp.zeros(1), jnp.zeros(1, bool))
    kept = sampling.trajectory(never, NOTHING, keys_, x, levels, solver)
    assert abs(kept.x[1].mean() - 0.3 * x0) < 4 * 0.7 / 200
    assert abs(kept.x[1].std() - 0.7) < 4 * 0.7 / 200 / np.sqrt(2)
    assert np.isnan(kept.x0).all()
    assert editing.evaluations(solver, levels) == 0


def test_resampling_brings_a_correlated_gaussian_together() -> None:
    """Unit variances, rho = 0.8, coordinate 0 is 1: the exact conditional mean is 0.8.

    Measured elsewhere for 16 steps: .407 by replacement, .670 by 5 times jump 1; the mean
    of 4000 has a standard error of 0.01.
    """
    axes, variance = np.array([[1, 1], [1, -1]], np.float32) / np.sqrt(2), [1.8, 0.2]

    def correlated(x: Any, at: NoiseLevel, cond: Any) -> jd.Denoised:
        v = jnp.array(variance)
        gain = at.alpha * v / (at.alpha**2 * v + at.sigma**2)
        return jd.Denoised((gain * (x @ axes)) @ axes)

    solver = Inpaint(jd.Ancestral(), jnp.ones(2), jnp.array([True, False]))
    draw = lambda levels: sampling.sample(
        correlated, NOTHING, keys(4000), (2,), levels, solver
    )[:, 1].mean()
    levels = Karras()(None, 16)
    assert abs(draw(levels) - 0.407) < 0.04
    assert abs(draw(editing.resampled(levels, 1, 5)) - 0.670) < 0.04


def test_nonsense_jumps_are_refused() -> None:
    with pytest.raises(ValueError, match="jump >= 1"):
        editing.resampled(Karras()(None, 8), 0, 2)


@pytest.mark.parametrize("solver", [jd.UniPC(), jd.DPMSolverPP(3), jd.LMS()], ids=str)
def test_solvers_with_a_memory_go_up_and_down(solver: Any) -> None:
    """Levels recur there, so coefficients over the whole grid would have no solution."""
    levels = editing.resampled(Karras()(None, 6), 2, 2)
    image = jnp.ones((3, 2))
    inpaint = editing.Inpaint(solver, image, jnp.asarray([True, False]))
    keys = jax.random.split(jax.random.key(0), 3)
    toy = jd.gaussian_denoiser(1.0, 0.1)
    x0 = jd.sample(toy, jd.UNCONDITIONAL, keys, (2,), levels, inpaint)
    np.testing.assert_array_equal(x0[:, 0], 1)
    assert np.abs(x0[:, 1] - 1).max() < 0.5


@pytest.mark.parametrize(
    "solver",
    [
        jd.Euler(), jd.Heun(), jd.Heun(churn=10.0), jd.DDIM(), jd.Ancestral(),
        jd.DPMSolverPP2S(), jd.DPMSolverPP2S(1.0), jd.DPMSolverPP2S(1.0, ancestral=True),
        jd.Midpoint(), jd.Midpoint(jd.RectifiedFlow()), jd.RungeKutta(), jd.DPMSolverPP(),
        jd.DPMSolverPP(3), jd.UniPC(), jd.DEIS(), jd.LMS(), jd.Adaptive(),
        jd.EulerMaruyama(), jd.StochasticHeun(),
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("jump", [1, 4])
def test_no_solver_warns_of_a_grid_that_rises(solver: Any, jump: int) -> None:
    """Not of rising steps from the data, whose rows are not used, nor of their noise."""
    x, known = jnp.zeros((1, 6)), jnp.zeros(6, bool)
    for grid in (Karras()(None, 12), Uniform()(jd.RectifiedFlow(), 12)):
        levels = editing.resampled(grid, jump, 3)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            Inpaint(solver, IMAGE, known).init(x, levels)
