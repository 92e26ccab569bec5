"""Guidance: D + sum_i w_i (D - D_i), each network called once."""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff import sharding
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
    found = guided(X, at, Condition(label=LABELS))

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
    np.testing.assert_allclose(found.x0, expected, rtol=1e-5, atol=1e-6)


def test_the_other_heads_are_the_strong_denoiser_s() -> None:
    spy = Spy()
    found = jd.guide(spy, (jd.without(spy, "label"), 0.5))(X, AT, Condition(label=LABELS))
    alone = Spy()(X, AT, Condition(label=LABELS))
    np.testing.assert_allclose(found.variance, alone.variance, rtol=1e-6)
    np.testing.assert_allclose(found.uncertainty, alone.uncertainty, rtol=1e-5, atol=1e-6)
    assert found.uncertainty.shape == (3,)


def test_networks_that_differ_are_called_once_each() -> None:
    strong, weak = Spy(), Spy(0.3)
    found = jd.guide(strong, (weak, 1.0), (jd.without(weak, "label"), 0.5))(
        X, AT, Condition(label=LABELS)
    )
    assert [c[0].shape[0] for c in strong.calls] == [3]
    assert [c[0].shape[0] for c in weak.calls] == [6]
    d = _alone(1.0, AT, LABELS)
    expected = (
        d + (d - _alone(0.3, AT, LABELS)) + 0.5 * (d - _alone(0.3, AT, jnp.full(3, -1)))
    )
    np.testing.assert_allclose(found.x0, expected, rtol=1e-5, atol=1e-6)


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
    told = Condition(label=LABELS, noise=jnp.asarray([True, False, True]))
    jd.without(spy, "noise")(X, AT, told)
    jd.without(spy, "label")(X, AT, told)
    jd.without(spy, "label")(X, AT)
    (_, _, blind), (_, _, unlabelled), (_, _, nothing) = spy.calls
    np.testing.assert_array_equal(blind.label, LABELS)
    np.testing.assert_array_equal(blind.noise, [False] * 3)
    np.testing.assert_array_equal(unlabelled.label, [-1] * 3)
    np.testing.assert_array_equal(unlabelled.noise, told.noise)
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
