"""Guidance: D + sum_i w_i (D - D_i), each network called once."""

import itertools
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.runtime import sharding
from jaxdiff.types import UNCONDITIONAL, Condition, Denoised, NoiseLevel
from tests.test_parameterizations import ROWS

X = jax.random.normal(jax.random.key(0), (3, 4, 4, 2))
LABELS = jnp.asarray([2, 0, 1])
AT = NoiseLevel(jnp.asarray(0.8), jnp.asarray(0.6))
PER_IMAGE = jax.tree.map(
    lambda a: a.reshape(3, 1, 1, 1),
    NoiseLevel(jnp.asarray([0.9, 0.5, 0.0]), jnp.asarray([0.1, 0.5, 1.0])),
)


@dataclass(eq=False)
class Spy:
    """A denoiser that depends on all it is told, and remembers what that was."""

    gain: float = 1.0
    calls: list[tuple[Any, NoiseLevel, Condition]] = field(default_factory=list)

    def __call__(self, x: Any, at: NoiseLevel, cond: Condition = UNCONDITIONAL) -> Denoised:
        self.calls.append((x, at, cond))
        batch = (-1,) + (1,) * (x.ndim - 1)
        out = self.gain * jnp.sin(x + at.sigma) * (1 + at.alpha)
        if cond.label is not None:
            assert cond.label.shape == x.shape[:1]
            out = out + 0.1 * cond.label.reshape(batch)
        if cond.noise is not None:
            assert cond.noise.shape == x.shape[:1]
            out = jnp.where(cond.noise.reshape(batch), out, 0.5 * out)
        return Denoised(out, 3 * out, out.mean((1, 2, 3)))


def _alone(gain: float, at: NoiseLevel, label: Any = None, noise: Any = None) -> Any:
    return Spy(gain)(X, at, Condition(label, noise)).x0


@pytest.mark.parametrize("at", [AT, PER_IMAGE], ids=["scalar", "per image"])
def test_one_network_is_one_call_and_the_formula_holds(at: NoiseLevel) -> None:
    spy = Spy()
    unlabelled, blind = jd.without(spy, "label"), jd.without(spy, "noise")
    both = jd.without(unlabelled, "noise")
    guided = jd.guide(spy, (unlabelled, 0.5), (blind, 0.2), (both, -0.1))
    denoised = guided(X, at, Condition(label=LABELS))

    assert len(spy.calls) == 1
    x, level, cond = spy.calls[0]
    np.testing.assert_array_equal(x, jnp.repeat(X, 4, axis=0))
    np.testing.assert_array_equal(cond.label, [2, -1, 2, -1, 0, -1, 0, -1, 1, -1, 1, -1])
    np.testing.assert_array_equal(cond.noise, [True, True, False, False] * 3)
    assert level.alpha.shape == (() if at is AT else (12, 1, 1, 1))

    no, off = jnp.full(3, -1), jnp.zeros(3, bool)
    d = _alone(1.0, at, LABELS)
    weaker = (_alone(1.0, at, no), 0.5), (_alone(1.0, at, LABELS, off), 0.2)
    weaker += ((_alone(1.0, at, no, off), -0.1),)
    expected = d + sum(w * (d - other) for other, w in weaker)
    np.testing.assert_allclose(denoised.x0, expected, rtol=1e-5, atol=1e-6)


def test_the_other_heads_are_the_strong_denoiser_s() -> None:
    spy = Spy()
    both = jd.guide(spy, (jd.without(spy, "label"), 0.5))(X, AT, Condition(label=LABELS))
    alone = Spy()(X, AT, Condition(label=LABELS))
    np.testing.assert_allclose(both.variance, alone.variance, rtol=1e-6)
    np.testing.assert_allclose(both.uncertainty, alone.uncertainty, rtol=1e-5, atol=1e-6)
    assert both.uncertainty.shape == (3,)


def test_networks_that_differ_are_called_once_each() -> None:
    strong, weak = Spy(), Spy(0.3)
    denoised = jd.guide(strong, (weak, 1.0), (jd.without(weak, "label"), 0.5))(
        X, AT, Condition(label=LABELS)
    )
    assert [c[0].shape[0] for c in strong.calls] == [3]
    assert [c[0].shape[0] for c in weak.calls] == [6]
    d = _alone(1.0, AT, LABELS)
    expected = (
        d + (d - _alone(0.3, AT, LABELS)) + 0.5 * (d - _alone(0.3, AT, jnp.full(3, -1)))
    )
    np.testing.assert_allclose(denoised.x0, expected, rtol=1e-5, atol=1e-6)


def test_networks_that_compare_equal_are_called() -> None:
    """Two accesses of a method are two objects that compare equal."""

    class Model:
        def denoise(self, x: Any, at: NoiseLevel, cond: Condition) -> Denoised:
            return Denoised(x if cond.label is None else 0 * x)

    model = Model()
    guided = jd.guide(model.denoise, (jd.without(model.denoise, "label"), 0.5))
    np.testing.assert_allclose(guided(X, AT).x0, 1.5 * X, rtol=1e-6)


def test_no_guidance_is_the_denoiser() -> None:
    spy = Spy()
    np.testing.assert_array_equal(jd.guide(spy)(X, AT).x0, _alone(1.0, AT))
    guided = jd.guide(spy, (jd.without(spy, "label"), 0.0))(X, AT, Condition(label=LABELS))
    np.testing.assert_allclose(guided.x0, _alone(1.0, AT, LABELS), rtol=1e-6)


@pytest.mark.parametrize("name", ROWS)
def test_guiding_any_prediction_is_guiding_x0(name: str, x64: None) -> None:
    """The guided raw outputs, made into x0, equal the guided x0."""
    raw, other = jax.random.normal(jax.random.key(1), (2, 3, 5))
    x = jax.random.normal(jax.random.key(2), (3, 5))
    at = NoiseLevel(jnp.asarray([[0.9], [0.5], [0.1]]), jnp.asarray([[0.3], [0.7], [1.4]]))
    d = lambda raw: jd.denoiser(lambda *_: jd.Output(raw), None, ROWS[name])
    single = d(raw + 1.7 * (raw - other))(x, at).x0
    guided = jd.guide(d(raw), (d(other), 1.7))(x, at).x0
    np.testing.assert_allclose(guided, single, rtol=1e-12, atol=1e-12)


def test_traced_weights_compile_once() -> None:
    spy = Spy()
    unlabelled = jd.without(spy, "label")
    run = jax.jit(
        lambda w: jd.guide(spy, (unlabelled, w))(X, AT, Condition(label=LABELS)).x0
    )
    d, weak = _alone(1.0, AT, LABELS), _alone(1.0, AT, jnp.full(3, -1))
    for w in (0.0, 0.5, 3.0):
        np.testing.assert_allclose(
            run(jnp.float32(w)), d + w * (d - weak), rtol=1e-5, atol=1e-5
        )
    assert len(spy.calls) == 1


@pytest.mark.parametrize("at", [AT, PER_IMAGE], ids=["scalar", "per image"])
def test_weights_may_be_functions_of_the_level(at: NoiseLevel) -> None:
    """A guidance interval on sigma / alpha, for each image its own."""

    def interval(at: NoiseLevel) -> Any:
        ratio = at.sigma / at.alpha
        return jnp.where((ratio > 0.2) & (ratio < 2), 1.5, 0)

    spy = Spy()
    guided = jd.guide(spy, (jd.without(spy, "label"), interval))(
        X, at, Condition(label=LABELS)
    )
    w = np.asarray([1.5] * 3 if at is AT else [0, 1.5, 0]).reshape(3, 1, 1, 1)
    d, weak = _alone(1.0, at, LABELS), _alone(1.0, at, jnp.full(3, -1))
    np.testing.assert_allclose(guided.x0, d + w * (d - weak), rtol=1e-5, atol=1e-6)


def test_one_image_at_a_level_of_its_own() -> None:
    at = jax.tree.map(lambda a: a[1:2], PER_IMAGE)
    spy = Spy()
    guided = jd.guide(spy, (jd.without(spy, "label"), 0.5))(
        X[:1], at, Condition(label=LABELS[:1])
    )
    d, weak = (Spy()(X[:1], at, Condition(label=jnp.asarray([k]))).x0 for k in (2, -1))
    np.testing.assert_allclose(guided.x0, d + 0.5 * (d - weak), rtol=1e-5, atol=1e-6)


def test_without_withholds_one_field_and_keeps_the_other() -> None:
    spy = Spy()
    cond = Condition(label=LABELS, noise=jnp.asarray([True, False, True]))
    jd.without(spy, "noise")(X, AT, cond)
    jd.without(spy, "label")(X, AT, cond)
    jd.without(spy, "label")(X, AT)
    (_, _, blind), (_, _, unlabelled), (_, _, nothing) = spy.calls
    np.testing.assert_array_equal(blind.label, LABELS)
    np.testing.assert_array_equal(blind.noise, [False] * 3)
    np.testing.assert_array_equal(unlabelled.label, [-1] * 3)
    np.testing.assert_array_equal(unlabelled.noise, cond.noise)
    np.testing.assert_array_equal(nothing.label, [-1] * 3)
    assert nothing.noise is None


def test_a_mistyped_field_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no field 'labels'; it has \['label', 'noise'\]"):
        jd.without(Spy(), "labels")


def test_guided_gradients_reach_both_networks() -> None:
    def loss(gains: Any) -> Any:
        strong = lambda x, at, cond: Denoised(gains[0] * x)
        weak = lambda x, at, cond: Denoised(gains[1] * x)
        return jd.guide(strong, (weak, 0.5))(jnp.ones((1, 1)), AT).x0.sum()

    np.testing.assert_allclose(jax.grad(loss)(jnp.asarray([1.0, 2.0])), [1.5, -0.5])


def test_stacking_moves_nothing_between_devices() -> None:
    mesh = sharding.data_mesh()
    keys = jax.random.split(jax.random.key(0), 2 * mesh.size)
    x = jax.vmap(lambda key: jax.random.normal(key, (4, 4, 1)))(keys)
    label = jnp.arange(len(keys))
    x, label = jax.device_put((x, label), sharding.split(mesh))
    guided = jd.guide(spy := Spy(), (jd.without(spy, "label"), 0.5))
    run = jax.jit(lambda x, label: guided(x, AT, Condition(label)).x0)
    program = run.lower(x, label).compile().as_text()
    for collective in ("all-gather", "all-reduce", "collective-permute", "all-to-all"):
        assert collective not in program
    alone = jd.guide(spy, (jd.without(spy, "label"), 0.5))
    np.testing.assert_allclose(
        run(x, label), alone(x, AT, Condition(label)).x0, rtol=1e-6, atol=1e-6
    )


def test_rows_of_label_weights_are_withheld_as_zeros() -> None:
    seen = []

    def denoise(x: Any, at: NoiseLevel, cond: Condition) -> Denoised:
        seen.append(np.asarray(cond.label))
        return Denoised(x)

    rows = jnp.asarray([[0.25, 0.75], [1.0, 0.0], [0.0, 1.0]])
    jd.guide(denoise, (jd.without(denoise, "label"), 1.0))(X, AT, Condition(rows))
    np.testing.assert_array_equal(seen[0][0::2], rows)
    np.testing.assert_array_equal(seen[0][1::2], np.zeros((3, 2)))


# Guidance intervals


EDM2_GRID = jd.grids.Karras()(None, 32)


@pytest.mark.parametrize(
    ("ratio", "w"), [(0.3, 0), (0.30001, 1.5), (3.0, 1.5), (3.00001, 0), (np.inf, 0)]
)
def test_an_interval_is_open_below_and_closed_above(ratio: float, w: float) -> None:
    """On sigma / alpha: the same on every ray, and pure noise is at infinity."""
    interval = jd.guidance.Interval(1.5, low=0.3, high=3.0)
    for alpha in (1.0, 0.25) if np.isfinite(ratio) else (0.0,):
        sigma = np.float32(ratio) * np.float32(alpha) if alpha else np.float32(1)
        at = NoiseLevel(jnp.float32(alpha), jnp.asarray(sigma))
        assert float(interval(at)) == w
    unbounded = jd.guidance.Interval(1.5, low=0.3)
    assert float(unbounded(NoiseLevel(jnp.float32(0), jnp.float32(1)))) == 1.5
    assert float(unbounded(NoiseLevel(0.0, 1.0))) == 1.5


@pytest.mark.parametrize(("low", "high"), [(1.0, 1.0), (2.0, 1.0), (-0.1, 1.0)])
def test_an_empty_interval_is_refused(low: float, high: float) -> None:
    with pytest.raises(ValueError, match=f"(low =|got) {low}"):
        jd.guidance.Interval(1.0, low, high)


def test_intervals_are_values_and_their_weight_may_be_traced() -> None:
    interval = jd.guidance.Interval(1.0, 0.2, 3.0)
    assert interval == jd.guidance.Interval(1.0, 0.2, 3.0)
    assert hash(interval) == hash(jd.guidance.Interval(1.0, 0.2, 3.0))
    run = jax.jit(lambda w: jd.guidance.Interval(w, 0.2, 3.0)(NoiseLevel(1.0, 1.0)))
    assert float(run(jnp.float32(0.5))) == 0.5


@pytest.mark.parametrize(
    ("first", "last", "ends"),
    [
        (17, 22, (0.19, 1.61)),
        (15, 21, (0.2833, 2.903)),
        (13, 19, (0.5982, 5.0)),
        (0, 31, (0, 81)),
        (0, 0, (70, 81)),
        (31, 31, (0, 0.002)),
    ],
)
def test_published_steps_are_those_of_their_levels(
    first: int, last: int, ends: tuple[float, float]
) -> None:
    """The steps of [GI], and the levels that it names them by."""
    interval = jd.guidance.Interval.of_steps(1.0, EDM2_GRID, first, last)
    assert (interval.high == np.inf) == (first == 0)  # any start, however rounded
    assert (interval.low == 0) == (last == 31)
    starts = EDM2_GRID[:-1]
    guided = np.flatnonzero(np.asarray(interval(starts)))
    np.testing.assert_array_equal(guided, np.arange(first, last + 1))
    sigma = np.asarray(starts.sigma, np.float64)
    low, high = ends
    within = np.flatnonzero((low < sigma) & (sigma <= high * (1 + 1e-6)))
    np.testing.assert_array_equal(guided, within)


@pytest.mark.parametrize(("first", "last"), [(-1, 3), (4, 3), (3, 32)])
def test_steps_that_a_grid_has_not_are_refused(first: int, last: int) -> None:
    with pytest.raises(ValueError, match=r"not within the 32 steps .* last <= 31"):
        jd.guidance.Interval.of_steps(1.0, EDM2_GRID, first, last)


STRONG, WEAK = jd.gaussian_denoiser(1.0, 0.5), jd.gaussian_denoiser(-0.5, 0.8)


def _interval_sampler(
    x: np.ndarray, t: np.ndarray, w: float, low: float, high: float, by_level: bool
) -> np.ndarray:
    """Heun with a guidance interval as [GI] has it, in NumPy.

    `by_level` decides each evaluation at its own level, which is another sampler.
    """
    gaussian = lambda x, s, mean, std: (std**2 * x + s**2 * mean) / (std**2 + s**2)

    def slope(x: np.ndarray, s: float, start: float) -> np.ndarray:
        d, weak = gaussian(x, s, 1.0, 0.5), gaussian(x, s, -0.5, 0.8)
        inside = low < (s if by_level else start) <= high
        return (x - (d + (w if inside else 0) * (d - weak))) / s

    for at, to in itertools.pairwise(t):
        d = slope(x, at, at)
        y = x + (to - at) * d
        x = x + (to - at) * (d + slope(y, to, at)) / 2 if to else y
    return x


@pytest.mark.parametrize(("first", "last"), [(0, 2), (2, 4), (5, 7)])
def test_a_step_is_guided_in_both_evaluations_or_none(
    first: int, last: int, x64: None
) -> None:
    levels = jd.grids.Karras()(None, 8)
    t = np.asarray(levels.sigma)
    interval = jd.guidance.Interval.of_steps(1.5, levels, first, last)
    guided = jd.guide(STRONG, (WEAK, interval))
    start = 80.0 * np.random.default_rng(0).standard_normal((4, 2))

    memory, rows = jd.Heun().init(jnp.asarray(start), levels)
    x = jnp.asarray(start)
    for i in range(8):
        here = jd.guidance.during(guided, levels[i], levels[i + 1])
        row = jax.tree.map(lambda v, i=i: v[i], rows)
        x, memory, _ = jd.Heun().step(here, x, memory, row, jnp.zeros)

    ends = 1.5, interval.low, interval.high
    expected = _interval_sampler(start, t, *ends, by_level=False)
    np.testing.assert_allclose(x, expected, rtol=1e-12)
    other = _interval_sampler(start, t, *ends, by_level=True)
    assert np.abs(other - expected).max() > 1e-4


def test_during_a_step_intervals_are_decided_wherever_they_stand() -> None:
    """Under `without`, and in a guided denoiser that is itself guided."""
    at, x = NoiseLevel(jnp.float32(1), jnp.float32(0.5)), jnp.ones((2, 3))
    above = NoiseLevel(jnp.float32(1), jnp.float32(2.0))
    guided = lambda w: jd.guide(STRONG, (WEAK, w))
    interval = jd.guidance.Interval(1.5, low=1.0)
    for wrap in (
        lambda d: d,
        lambda d: jd.without(d, "label"),
        lambda d: jd.guide(d, (WEAK, 0.7)),
        lambda d: jd.guide(STRONG, (d, 0.7)),
    ):
        x0 = jd.guidance.during(wrap(guided(interval)), above, at)(x, at).x0
        np.testing.assert_allclose(x0, wrap(guided(1.5))(x, at).x0, rtol=1e-6)
        alone = wrap(guided(interval))(x, at).x0
        np.testing.assert_allclose(alone, wrap(guided(0.0))(x, at).x0, rtol=1e-6)


def test_other_weights_are_not_decided_by_the_step() -> None:
    at, above = (NoiseLevel(jnp.float32(1), jnp.float32(s)) for s in (0.5, 2.0))
    guided = jd.guide(STRONG, (WEAK, lambda at: at.sigma))
    x0 = jd.guidance.during(guided, above, at)(jnp.ones((1, 1)), at).x0
    expected = jd.guide(STRONG, (WEAK, 0.5))(jnp.ones((1, 1)), at).x0
    np.testing.assert_allclose(x0, expected, rtol=1e-6)
    assert jd.guidance.during(STRONG, above, at) is STRONG


def test_sample_decides_intervals_where_steps_start() -> None:
    levels, keys = jd.grids.Karras()(None, 8), jax.random.split(jax.random.key(0), 4)
    interval = jd.guidance.Interval.of_steps(1.5, levels, 2, 4)
    guided = jd.guide(STRONG, (WEAK, interval))
    images = jd.sample(guided, UNCONDITIONAL, keys, (2,), levels, jd.Heun())
    draw = lambda key: jax.random.normal(jax.random.fold_in(key, 0), (2,))
    start = 80 * np.asarray(jax.vmap(draw)(keys), np.float64)
    ends = np.asarray(levels.sigma, np.float64), 1.5, interval.low, interval.high
    expected = _interval_sampler(start, *ends, by_level=False)
    np.testing.assert_allclose(images, expected, rtol=1e-5, atol=1e-5)
    assert np.abs(_interval_sampler(start, *ends, by_level=True) - expected).max() > 1e-4
