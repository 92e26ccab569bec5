"""Guidance along a sampler's steps: what is called, remembered, weighed and refused."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.denoisers import Clipped
from jaxdiff.sampling import follow, guidance, trajectory
from jaxdiff.sampling.guidance import Interval, PlusPlus
from jaxdiff.sampling.guidance.weights import Switch
from jaxdiff.types import UNCONDITIONAL, Condition, Denoised, NoiseLevel

STRONG, WEAK = jd.gaussian_denoiser(1.0, 0.5), jd.gaussian_denoiser(-0.5, 0.8)
PAIR = STRONG, WEAK
LEVELS = jd.grids.Karras()(None, 8)
NUMBERS = 80 * np.random.default_rng(0).standard_normal((4, 6))
AT, TO = NoiseLevel(1.0, 2.0), NoiseLevel(1.0, 1.0)


class Counted:
    """A denoiser that counts, as the program runs, the images that it is called with."""

    def __init__(self, gain: float = 1.0) -> None:
        self.images, self.gain = 0, gain

    def __call__(self, x: Any, at: NoiseLevel, cond: Condition = UNCONDITIONAL) -> Denoised:
        def count() -> None:
            self.images += len(x)

        jax.debug.callback(count)
        x0 = self.gain * STRONG(x, at, cond).x0
        scale = 1 if cond.noise is None else jnp.where(cond.noise, 1, 0.3)[:, None]
        return Denoised(x0 * scale, memory=())

    def counted(self, run: Any, *args: Any) -> int:
        self.images = 0
        jax.block_until_ready(run(*args))
        jax.effects_barrier()
        return self.images


def run(denoise: Any, solver: Any) -> Any:
    return path(denoise, solver)[-1]


def path(denoise: Any, solver: Any) -> Any:
    """All states from NUMBERS down LEVELS, in float64 where that is on."""
    levels = jax.tree.map(lambda a: jnp.asarray(np.asarray(a, np.float64)), LEVELS)
    x = jnp.asarray(NUMBERS)
    return trajectory(denoise, UNCONDITIONAL, None, x, levels, solver).x


@pytest.mark.parametrize(("solver", "each"), [(jd.Euler(), 1), (jd.Heun(), 2)])
def test_steps_outside_an_interval_do_not_call_the_guide(solver: Any, each: int) -> None:
    d = Counted()
    interval = Interval.of_steps(1.5, LEVELS, 2, 4)
    guided = jd.guide(d, (jd.without(d, "noise"), interval))
    calls = jd.sampling.evaluations(solver, LEVELS)
    draw = jax.jit(lambda: run(guided, solver))
    assert d.counted(draw) == 4 * (calls + 3 * each)
    always = jd.guide(d, (jd.without(d, "noise"), lambda at: interval(at)))
    assert d.counted(jax.jit(lambda: run(always, solver))) == 4 * 2 * calls


def test_guides_without_an_interval_are_called_beside_one_that_has() -> None:
    d, other = Counted(), Counted(0.5)
    blind, interval = jd.without(d, "noise"), Interval.of_steps(1.5, LEVELS, 2, 4)
    guided = jd.guide(d, (other, 0.7), (blind, interval))
    draw = jax.jit(lambda: run(guided, jd.Euler()))
    assert other.counted(draw) == 4 * 8
    assert d.counted(draw) == 4 * (8 + 3)


def test_the_weight_0_calls_nothing() -> None:
    d, other = Counted(), Counted(0.5)
    guided = jd.guide(d, (other, 0.0), (jd.without(d, "noise"), 0.0))
    assert other.counted(jax.jit(lambda: run(guided, jd.Euler()))) == 0
    assert d.counted(jax.jit(lambda: run(guided, jd.Euler()))) == 4 * 8


def test_switched_steps_are_the_same_images_alone_mapped_and_differentiated(
    x64: None,
) -> None:
    ends = Interval.of_steps(1.0, LEVELS, 2, 4)
    interval = lambda w: Interval(w, ends.low, ends.high)
    by_switch = lambda w: run(jd.guide(STRONG, (WEAK, interval(w))), jd.Euler())
    by_level = lambda w: run(
        jd.guide(STRONG, (WEAK, lambda at: interval(w)(at))), jd.Euler()
    )
    w = jnp.asarray([0.0, 0.5, 1.5])
    expected = np.stack([by_level(v) for v in w])
    np.testing.assert_allclose(jax.jit(jax.vmap(by_switch))(w), expected, rtol=1e-12)
    assert np.abs(expected[2] - expected[0]).max() > 0.1
    slope = lambda f: jax.grad(lambda w: f(w).sum())(0.5)
    np.testing.assert_allclose(slope(by_switch), slope(by_level), rtol=1e-10)


# CFG++


@pytest.mark.parametrize("schedule", [jd.RectifiedFlow(), jd.Cosine()])
def test_cfg_plus_plus_is_its_own_step(schedule: Any, x64: None) -> None:
    """x' = alpha' D_guided + sigma' eps_weak, from alpha = 0 and onto the data."""
    levels = jd.grids.Uniform()(schedule, 6)
    x = NUMBERS / 80
    for i in range(6):
        at, to = (jax.tree.map(np.asarray, levels[j]) for j in (i, i + 1))
        d, u = (np.asarray(f(jnp.asarray(x), at).x0) for f in PAIR)
        eps = (x - at.alpha * u) / at.sigma
        x = to.alpha * (u + 0.6 * (d - u)) + to.sigma * eps
    guided = jd.guide(STRONG, (WEAK, PlusPlus(0.6)))
    states = follow(
        guided, UNCONDITIONAL, None, jnp.asarray(NUMBERS) / 80, levels, jd.Euler()
    )
    np.testing.assert_allclose(states, x, rtol=1e-10)


def test_cfg_plus_plus_within_an_interval(x64: None) -> None:
    x, ends = jnp.asarray(NUMBERS), (AT, TO)
    step = lambda w: guidance.during(jd.guide(STRONG, (WEAK, w)), *ends)(x, AT).x0
    inside, alone = Interval(PlusPlus(0.6), 0.5, 3.0), PlusPlus(0.6)
    np.testing.assert_allclose(step(inside), step(alone), rtol=1e-12)
    outside = Interval(PlusPlus(0.6), 0.5, 1.5)
    np.testing.assert_array_equal(step(outside), STRONG(x, AT, UNCONDITIONAL).x0)


def test_cfg_plus_plus_without_a_step_is_refused() -> None:
    with pytest.raises(ValueError, match="both its ends: sample with it"):
        jd.guide(STRONG, (WEAK, PlusPlus(0.6)))(jnp.ones((1, 2)), AT)


# Memory


def projected_by_hand(weights: list[float]) -> list[np.ndarray]:
    """x along Euler's steps, with APG written out in NumPy: limit 2, momentum -0.5."""
    sigma = np.asarray(LEVELS.sigma, np.float64)
    x, m, states = NUMBERS, np.zeros_like(NUMBERS), []
    for at, to, w in zip(sigma[:-1], sigma[1:], weights, strict=True):
        d, u = (np.asarray(f(jnp.asarray(x), NoiseLevel(1.0, at)).x0) for f in PAIR)
        if w:
            m = d - u - 0.5 * m
            short = m * np.minimum(1, 2 / np.linalg.norm(m, axis=1, keepdims=True))
            along = (short * d).sum(1, keepdims=True) / (d * d).sum(1, keepdims=True) * d
            d = d + w * (short - 0.9 * along)
        x = d + to / at * (x - d)
        states.append(x)
    return states


def apg(w: Any) -> Any:
    return guidance.projected(jd.guide(STRONG, (WEAK, w)), limit=2.0, parallel=0.1)


@pytest.mark.parametrize(
    "wrap",
    {
        "alone": lambda d: d,
        "clipped": lambda d: Clipped(d, 1e9),
        "without": lambda d: jd.without(d, "noise"),
        "guided": lambda d: jd.guide(d, (WEAK, 0.0)),
        "guide": lambda d: jd.guide(STRONG, (d, -1.0)),
        "switched guide": lambda d: jd.guide(STRONG, (d, Interval(-1.0, high=1e9))),
        "noise aware": lambda d: guidance.noise_aware(d, lambda x: (x[:, 0],) * 2, 0.0),
    }.items(),
    ids=lambda item: item[0],
)
def test_momentum_goes_from_step_to_step_wherever_it_stands(wrap: Any, x64: None) -> None:
    _, wrap = wrap
    states = run(wrap(apg(1.5)), jd.Euler())
    np.testing.assert_allclose(states, projected_by_hand([1.5] * 8)[-1], rtol=1e-9)
    memory = guidance.initial(wrap(apg(1.5)), jnp.asarray(NUMBERS))
    assert sum(np.size(a) for a in jax.tree.leaves(memory)) == NUMBERS.size


def test_thresholds_pass_the_momentum_on(x64: None) -> None:
    """A threshold far out is a division by it, whatever is remembered."""
    x, memory = jnp.asarray(NUMBERS), ((jnp.asarray(NUMBERS[::-1]),), ((), ()))
    far = guidance.thresholded(apg(1.5), 1.0, floor=1e9)
    thresholded, alone = (
        guidance.during(d, AT, TO, memory)(x, AT) for d in (far, apg(1.5))
    )
    np.testing.assert_allclose(1e9 * thresholded.x0, alone.x0, rtol=1e-12)
    chex.assert_trees_all_equal(thresholded.memory, alone.memory)


def test_steps_without_guidance_leave_the_momentum(x64: None) -> None:
    weights = [0, 0, 1.5, 1.5, 0, 0, 0, 0]
    interval = Interval.of_steps(1.5, LEVELS, 2, 3)
    states = path(apg(interval), jd.Euler())
    np.testing.assert_allclose(states[1:], projected_by_hand(weights), rtol=1e-9)

    guided, memory = apg(Interval(1.5, high=3.0)), None
    for sigma in (2.0, 4.0, 2.0):  # on, off, on
        at, before = NoiseLevel(1.0, sigma), memory
        memory = guidance.during(guided, at, TO, memory)(jnp.asarray(NUMBERS), at).memory
        if sigma == 4.0:
            chex.assert_trees_all_equal(memory, before)
    assert np.abs(memory[0][0] - before[0][0]).max() > 1e-3


def test_the_momentum_of_two_guides_is_theirs(x64: None) -> None:
    """Two equal guides of half the weight make what one makes."""
    two = guidance.projected(jd.guide(STRONG, (WEAK, 0.5), (WEAK, 1.0)), 2.0, parallel=0.1)
    expected = projected_by_hand([1.5] * 8)[-1]
    np.testing.assert_allclose(run(two, jd.Euler()), expected, rtol=1e-9)


def test_heun_moves_the_momentum_once_a_step(x64: None) -> None:
    """Its second evaluation starts from the same memory as its first, and leaves none."""
    seen = []

    def spy(x: Any, at: NoiseLevel, cond: Condition) -> Denoised:
        out = here(x, at, cond)
        seen.append(out.memory[0][0])
        return out

    guided, levels = apg(1.5), LEVELS[:3]
    memory, rows = jd.Heun().init(jnp.asarray(NUMBERS), levels)
    row = jax.tree.map(lambda a: a[0], rows)
    here = guidance.during(guided, levels[0], levels[1])
    _, _, first = jd.Heun().step(
        lambda x, at: here(x, at), jnp.asarray(NUMBERS), memory, row, jnp.zeros
    )
    d, u = (f(jnp.asarray(NUMBERS), levels[0], UNCONDITIONAL).x0 for f in PAIR)
    np.testing.assert_allclose(first.memory[0][0], d - u, rtol=1e-12)


# Rules


RULES = {
    "sum": lambda g: g,
    "rescaled": lambda g: guidance.rescaled(g, 0.7),
    "rescaled eps": lambda g: guidance.rescaled(g, 0.7, on=jd.Eps()),
    "projected": lambda g: guidance.projected(g, 2.5),
    "projected, rescaled": lambda g: guidance.rescaled(guidance.projected(g, 2.5), 0.7),
    "zero_star": guidance.zero_star,
}


@pytest.mark.parametrize("rule", RULES)
def test_without_weight_every_rule_is_the_denoiser(rule: str, x64: None) -> None:
    guided = RULES[rule](jd.guide(STRONG, (WEAK, jnp.asarray(0.0))))
    expected = STRONG(jnp.asarray(NUMBERS), AT, UNCONDITIONAL).x0
    np.testing.assert_allclose(guided(jnp.asarray(NUMBERS), AT).x0, expected, rtol=1e-13)


@pytest.mark.parametrize("rule", RULES)
def test_rules_are_finite_where_nothing_differs(rule: str) -> None:
    """Equal predictions, constant images and zeros, gradients included."""
    for gain in (0.0, 1.0):
        value = lambda x, at, cond, gain=gain: Denoised(gain * jnp.ones_like(x) + 0 * x)
        guided = RULES[rule](jd.guide(value, (lambda *a, f=value: f(*a), 2.0)))
        # x = D makes the flow of x and D, and so F, zero as well
        f = lambda x, guided=guided: guided(x, NoiseLevel(1.0, 1.0)).x0
        for x in (jnp.ones((2, 3)), jnp.zeros((2, 3)), 2 * jnp.ones((2, 3))):
            np.testing.assert_allclose(f(x), gain, atol=1e-6)
            assert np.isfinite(jax.grad(lambda x, f=f: f(x).sum())(x)).all()


def test_rescaling_brings_back_the_spread(x64: None) -> None:
    """phi = 1 keeps the whole standard deviation, phi = 0 nothing, of each image alone."""
    x = jnp.asarray(NUMBERS)
    guided = jd.guide(STRONG, (WEAK, 1.5))
    std = lambda d: np.std(d(x, AT).x0, axis=1)
    np.testing.assert_allclose(std(guidance.rescaled(guided, 1.0)), std(jd.guide(STRONG)))
    np.testing.assert_allclose(std(guidance.rescaled(guided, 0.0)), std(guided))
    alone = guidance.rescaled(guided, 0.7)(x[:1], AT).x0
    np.testing.assert_allclose(guidance.rescaled(guided, 0.7)(x, AT).x0[:1], alone)


def test_rules_say_what_they_need() -> None:
    guided = jd.guide(STRONG, (WEAK, 1.0))
    with pytest.raises(TypeError, match=r"rescaled\(\) needs what guide\(\) returns"):
        guidance.rescaled(guidance.thresholded(guided), 0.7)
    with pytest.raises(TypeError, match=r"projected\(\) needs .* got Clipped"):
        guidance.projected(Clipped(guided), 2.5)
    with pytest.raises(ValueError, match="this guidance is Rescaled"):
        guidance.projected(guidance.rescaled(guided, 0.7), 2.5)
    with pytest.raises(ValueError, match="this guidance is Projected"):
        guidance.zero_star(guidance.projected(guided, 2.5))
    for bad, say in (
        (
            lambda: guidance.rescaled(guided, 1.5),
            "phi must be a number from 0 to 1, got 1.5",
        ),
        (
            lambda: guidance.projected(guided, 0.0),
            "limit must be a number above 0, .*, got 0.0",
        ),
        (
            lambda: guidance.thresholded(guided, 0.0),
            "quantile must be a number above 0",
        ),
        (lambda: guidance.thresholded(guided, 0.9, 1.0, 1.0), "use Clipped"),
    ):
        with pytest.raises(ValueError, match=say):
            bad()


def test_a_ceiling_bounds_the_threshold(x64: None) -> None:
    x0 = jnp.asarray([[0.0, 1.0, 2.0, 10.0]])
    denoise = lambda x, at, cond: Denoised(x0, variance=x)
    denoised = guidance.thresholded(denoise, 1.0, 1.0, ceiling=4.0)(x0, AT)
    np.testing.assert_allclose(denoised.x0, [[0, 0.25, 0.5, 1.0]])
    np.testing.assert_array_equal(denoised.variance, x0)


# An explicit estimator


def log_rms(x: Any) -> Any:
    """ln sigma of noise alone, to a variance that grows with |x|."""
    square = (x**2).mean(axis=tuple(range(1, x.ndim)))
    return jnp.log(square) / 2, jnp.log(0.02 + square)


@pytest.mark.parametrize("at", [NoiseLevel(1.0, 0.5), NoiseLevel(0.6, 0.8)])
def test_the_explicit_form_climbs_the_estimator_s_density(
    at: NoiseLevel, x64: None
) -> None:
    """grad of -ln s - (u - m)^2 / (2 s^2), with m = ln rms(x), s^2 = 0.02 + rms(x)^2."""
    x = jnp.asarray(NUMBERS) / 80
    x0 = guidance.noise_aware(STRONG, log_rms, 0.7)(x, at).x0
    d, n = STRONG(x, at, UNCONDITIONAL).x0, x.shape[1]
    square = np.mean(x**2, axis=1, keepdims=True)
    s2, error = 0.02 + square, np.log(at.sigma / at.alpha) - np.log(square) / 2
    d_mean, d_s2 = x / (n * square), 2 * x / n
    score = error / s2 * d_mean + (error**2 / s2 - 1) / (2 * s2) * d_s2
    np.testing.assert_allclose(x0, d + 0.7 * at.sigma**2 / at.alpha * score, rtol=1e-10)


def test_the_explicit_form_has_intervals_and_no_pole_outside_them() -> None:
    pure = NoiseLevel(jnp.float32(0), jnp.float32(1))
    x = jnp.asarray(NUMBERS, jnp.float32) / 80
    aware = guidance.noise_aware(STRONG, log_rms, Interval(0.7, high=1.5))
    expected = STRONG(x, pure, UNCONDITIONAL).x0
    for at_pure in (aware, guidance.during(aware, pure, TO)):
        np.testing.assert_array_equal(at_pure(x, pure).x0, expected)
        grad = jax.grad(lambda x, d=at_pure: d(x, pure).x0.sum())(x)
        assert np.isfinite(grad).all()
    within = guidance.during(aware, TO, AT)
    constant = guidance.noise_aware(STRONG, log_rms, 0.7)
    np.testing.assert_array_equal(constant(x, pure).x0, expected)
    assert np.isfinite(jax.grad(lambda x: constant(x, pure).x0.sum())(x)).all()
    assert isinstance(within.weaker[0][1], Switch)
    np.testing.assert_allclose(within(x, AT).x0, constant(x, AT).x0, rtol=1e-6)
