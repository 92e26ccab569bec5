"""Guidance by ln p(y | x), against two classes whose denoisers are known exactly."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.sampling import guidance
from jaxdiff.sampling.guidance import Interval, class_log_prob, less_likely
from jaxdiff.schedules.posterior import (
    LargeVariance,
    LearnedVariance,
    SmallVariance,
    posterior,
)
from jaxdiff.types import UNCONDITIONAL, Condition, Denoised, NoiseLevel
from tests.toys import SCHEDULES, gaussian_flow_map

DIM, STD = 5, 0.3
RNG = np.random.default_rng(0)
MEANS = RNG.normal(size=(2, 3, DIM))
"""Of three blobs in each of two classes."""
NUMBERS, LABEL = RNG.normal(size=(7, DIM)), np.arange(7) % 2
AT, TO = NoiseLevel(0.8, 0.6), NoiseLevel(0.96, 0.28)


def log_likelihoods(x: Any, at: NoiseLevel) -> Any:
    """ln p(x | class) but for a constant, [B, 2]: blobs stay blobs under the noise."""
    alpha, sigma = (jnp.reshape(jnp.asarray(a), (-1, 1, 1)) for a in (at.alpha, at.sigma))
    square = ((x[:, None, None] - alpha[..., None] * MEANS) ** 2).sum(-1)
    return jax.nn.logsumexp(-square / 2 / (alpha**2 * STD**2 + sigma**2), axis=-1)


def exact(x: Any, at: NoiseLevel, cond: Condition = UNCONDITIONAL) -> Denoised:
    """E[x0 | x, class], of both classes where the label is withheld, by the blobs."""
    alpha, sigma = (jnp.reshape(jnp.asarray(a), (-1, 1, 1)) for a in (at.alpha, at.sigma))
    spread = alpha**2 * STD**2 + sigma**2
    rest = x[:, None, None] - alpha[..., None] * MEANS
    log = -(rest**2).sum(-1) / 2 / spread
    label = jnp.full(len(x), -1) if cond.label is None else jnp.asarray(cond.label)
    other = (label[:, None] >= 0) & (label[:, None] != jnp.arange(2))
    log = jnp.where(other[..., None], -jnp.inf, log)
    share = jax.nn.softmax(log.reshape(len(x), -1)).reshape(log.shape)
    towards = MEANS + alpha[..., None] * STD**2 / spread[..., None] * rest
    return Denoised((share[..., None] * towards).sum((1, 2)))


def classless(x: Any, at: NoiseLevel, cond: Condition = UNCONDITIONAL) -> Denoised:
    """E[x0 | x], whatever the label."""
    return exact(x, at)


LOG_PROB = class_log_prob(log_likelihoods)
COND = Condition(label=jnp.asarray(LABEL))


def guided(w: Any) -> guidance.Guided:
    return jd.guide(classless, (less_likely(LOG_PROB), w))


@pytest.mark.parametrize("path", ["log_sigma", "cosine", "rectified_flow", "vp_linear"])
def test_an_exact_classifier_makes_the_class_conditional_denoiser(
    path: str, x64: None
) -> None:
    for t in (0.2, 0.5, 0.9):
        at = SCHEDULES[path](jnp.asarray(t))
        x = jnp.asarray(at.alpha * NUMBERS + at.sigma * NUMBERS[::-1])
        assert np.abs(classless(x, at).x0 - exact(x, at, COND).x0).max() > 1e-3
        made = guided(1.0)(x, at, COND).x0
        np.testing.assert_allclose(made, exact(x, at, COND).x0, rtol=1e-9, atol=1e-9)


def test_it_does_so_in_float32() -> None:
    x, at = (
        jnp.asarray(NUMBERS, jnp.float32),
        NoiseLevel(jnp.float32(0.8), jnp.float32(0.6)),
    )
    made = guided(1.0)(x, at, COND).x0
    np.testing.assert_allclose(made, exact(x, at, COND).x0, atol=3e-6)


def test_the_scale_weighs_the_slope_and_labels_may_be_withheld_or_mixed(x64: None) -> None:
    x = jnp.asarray(NUMBERS)
    free, bound = classless(x, AT).x0, exact(x, AT, COND).x0
    np.testing.assert_allclose(guided(3.0)(x, AT, COND).x0, free + 3 * (bound - free))
    for silent in (UNCONDITIONAL, Condition(label=jnp.full(7, -1))):
        np.testing.assert_array_equal(guided(3.0)(x, AT, silent).x0, free)
    some = Condition(label=jnp.where(LABEL, -1, 0))
    expected = np.where(LABEL[:, None], free, bound)
    np.testing.assert_allclose(guided(1.0)(x, AT, some).x0, expected, rtol=1e-9)
    both = [exact(x, AT, Condition(label=jnp.full(7, k))).x0 for k in (0, 1)]
    rows = Condition(label=jnp.tile(jnp.asarray([0.25, 0.5]), (7, 1)))
    expected = free + 0.25 * (both[0] - free) + 0.5 * (both[1] - free)
    np.testing.assert_allclose(guided(1.0)(x, AT, rows).x0, expected, rtol=1e-9)


def test_each_image_has_its_own_slope_and_its_own_level(x64: None) -> None:
    x = jnp.asarray(NUMBERS)
    every = NoiseLevel(np.linspace(0.4, 1, 7)[:, None], np.linspace(1, 0.2, 7)[:, None])
    whole = guided(2.0)(x, every, COND).x0
    for i in (0, 3):
        alone = Condition(label=jnp.asarray(LABEL[i : i + 1]))
        at = NoiseLevel(every.alpha[i, 0], every.sigma[i, 0])
        one = guided(2.0)(x[i : i + 1], at, alone).x0
        np.testing.assert_allclose(whole[i : i + 1], one, rtol=1e-12)


def test_the_ends_of_a_path_have_no_pole() -> None:
    x = jnp.asarray(NUMBERS, jnp.float32)
    for end in (NoiseLevel(0.0, 1.0), NoiseLevel(1.0, 0.0)):
        end = jax.tree.map(jnp.float32, end)
        np.testing.assert_array_equal(guided(2.0)(x, end, COND).x0, classless(x, end).x0)
        total = lambda x, end=end: guided(2.0)(x, end, COND).x0.sum()
        assert np.isfinite(jax.grad(total)(x)).all()


def test_steps_outside_the_interval_call_no_classifier(x64: None) -> None:
    x = jnp.asarray(NUMBERS)
    calls = []

    def counted(x: Any, at: NoiseLevel) -> Any:
        jax.debug.callback(lambda: calls.append(1))
        return log_likelihoods(x, at)

    inside = Interval(2.0, low=0.5, high=1.0)
    part = jd.guide(classless, (less_likely(class_log_prob(counted)), inside))
    step = jax.jit(lambda at, to: guidance.during(part, at, to)(x, TO, COND).x0)
    free, whole = classless(x, TO).x0, guided(2.0)(x, TO, COND).x0
    np.testing.assert_array_equal(step(TO, AT), free)
    np.testing.assert_array_equal(step(NoiseLevel(0.0, 1.0), AT), free)
    jax.effects_barrier()
    assert not calls
    np.testing.assert_allclose(step(AT, TO), whole, rtol=1e-9)
    jax.effects_barrier()
    assert calls


def test_it_nests_with_all_other_guidance(x64: None) -> None:
    """The slope is worth D_class - D exactly, so by hand it is guidance by that."""
    x = jnp.asarray(NUMBERS)
    free, bound = classless(x, AT).x0, exact(x, AT, COND).x0
    weak = lambda x, at, cond: Denoised(0.7 * classless(x, at).x0)
    rival = lambda x, at, cond: Denoised(2 * free - bound)  # what D is less likely than
    pairs = (weak, 0.4), (less_likely(LOG_PROB), 1.5)
    by_hand = (weak, 0.4), (rival, 1.5)
    for rule in (
        lambda guided: guided,
        lambda guided: guidance.rescaled(guided, 0.7),
        lambda guided: guidance.projected(guided, 0.5),
        lambda guided: guidance.first_channels(guided, 2),
        lambda guided: guidance.thresholded(guided, 0.9, 0.1),
    ):
        made, expected = (rule(jd.guide(classless, *p)) for p in (pairs, by_hand))
        assert (
            np.abs(made(x, AT, COND).x0 - rule(jd.guide(classless))(x, AT).x0).max() > 0.1
        )
        x0 = expected(x, AT, COND).x0
        np.testing.assert_allclose(made(x, AT, COND).x0, x0, rtol=1e-8, atol=1e-9)
    # around and within classifier-free guidance, whose weaker side knows no label
    inner = jd.guide(exact, (guidance.without(exact, "label"), 0.5))
    outer = jd.guide(inner, (less_likely(LOG_PROB), 2.0))
    expected = bound + 2.5 * (bound - free)
    np.testing.assert_allclose(outer(x, AT, COND).x0, expected, rtol=1e-8)
    strong = guided(1.0)
    again = jd.guide(strong, (guidance.without(strong, "label"), 0.5))
    expected = bound + 0.5 * (bound - free)
    np.testing.assert_allclose(again(x, AT, COND).x0, expected, rtol=1e-8)
    step = guidance.during(again, AT, TO)(x, AT, COND).x0
    np.testing.assert_allclose(step, expected, rtol=1e-8)


def test_solvers_converge_at_their_order_to_the_tilted_law(x64: None) -> None:
    """N(0, s^2), ln p(y | x) = b x at one level of every path: the mean moves, by w.

    p(y | x0) = exp(b x0) makes N(0, s^2) to N(b s^2, s^2), and p(y | x) at a level the
    mean of exp(b x0) over what x0 may be: b s^2 alpha x / (alpha^2 s^2 + sigma^2).
    """
    s, b, w = 0.7, 1.3, 2.0
    slope = lambda at: b * s**2 * at.alpha / (at.alpha**2 * s**2 + at.sigma**2)
    log_prob = lambda x, at, cond: slope(at) * x.sum(1)
    tilted = jd.guide(jd.gaussian_denoiser(0.0, s), (less_likely(log_prob), w))
    start = jnp.asarray(NUMBERS)
    for solver, order in ((jd.Euler(), 1), (jd.Heun(), 2)):
        errors = []
        for steps in (16, 32):
            t = np.linspace(0.9, 0.1, steps + 1)
            levels = NoiseLevel(np.cos(np.pi / 2 * t), np.sin(np.pi / 2 * t))
            x = jd.sampling.follow(tilted, UNCONDITIONAL, None, start, levels, solver)
            exactly = gaussian_flow_map(NUMBERS, levels[0], levels[-1], w * b * s**2, s)
            errors.append(np.abs(x - exactly).max())
        assert errors[1] < 0.05
        assert order - 0.15 < np.log2(errors[0] / errors[1]) < order + 0.3


VARIANCES = {
    "small": (SmallVariance(), lambda step, v: step.small),
    "large": (LargeVariance(), lambda step, v: step.large),
    "learned": (
        LearnedVariance(),
        lambda step, v: step.small ** ((1 - v) / 2) * step.large ** ((1 + v) / 2),
    ),
}


@pytest.mark.parametrize("name", VARIANCES)
def test_ancestral_steps_move_their_mean_by_the_variance(name: str, x64: None) -> None:
    x = jnp.asarray(NUMBERS)
    variance, by_hand = VARIANCES[name]
    v = jnp.asarray(RNG.uniform(-0.5, 0.5, x.shape)).at[0].set(1.0)
    headed = lambda x, at, cond: Denoised(classless(x, at).x0, variance=v)
    shifted = jd.guide(headed, (less_likely(LOG_PROB, variance), 1.7))
    levels = NoiseLevel(*np.stack([(AT.alpha, TO.alpha), (AT.sigma, TO.sigma)]))
    solver, no_noise = jd.Ancestral(variance), lambda k: 0.0
    memory, rows = solver.init(x, levels)
    row = jax.tree.map(lambda a: a[0], rows)

    def mean(denoise: Any) -> Any:
        during = guidance.during(denoise, AT, TO)
        call = lambda x, at: during(x, at, COND)
        return solver.step(call, x, memory, row, no_noise)[0]

    slope = jax.grad(lambda x: LOG_PROB(x, AT, COND).sum())(jnp.asarray(x))
    expected = 1.7 * by_hand(posterior(AT, TO), v) * slope
    np.testing.assert_allclose(mean(shifted) - mean(headed), expected, rtol=1e-7, atol=1e-9)
    landing = guidance.during(shifted, TO, NoiseLevel(1.0, 0.0))
    np.testing.assert_array_equal(landing(x, TO, COND).x0, classless(x, TO).x0)
    with pytest.raises(ValueError, match="tell the step with during"):
        shifted(x, AT, COND)
