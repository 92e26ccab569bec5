"""Magnitude-preserving functions and layers against the reference's numbers."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.networks.mp_layers import (
    MPConv,
    MPFourier,
    functions,
    group_norm,
    mp_cat,
    mp_silu,
    mp_sum,
    resample,
)
from jaxdiff.optim import normalized
from jaxdiff.types.magnitude import unit, unit_rows

GOLDEN = np.load(Path(__file__).parent / "golden" / "edm2" / "primitives.npz")


def golden(name: str) -> np.ndarray:
    return GOLDEN[name]


def nhwc(x: np.ndarray) -> np.ndarray:
    """Channels last, for images [B, C, H, W]; all else as it is."""
    return x.transpose(0, 2, 3, 1) if x.ndim == 4 else x


def weight(w: np.ndarray) -> np.ndarray:
    """[out, in, h, w] -> [h, w, in, out], [out, in] -> [in, out]."""
    return w.transpose(2, 3, 1, 0) if w.ndim == 4 else w.T


def close(actual: Any, expected: np.ndarray, rtol: float = 2e-6) -> None:
    """Equal to `rtol` of the largest entry: a few float32 roundings by default."""
    assert actual.shape == expected.shape
    atol = rtol * max(np.abs(expected).max(), 1e-30)
    np.testing.assert_allclose(np.asarray(actual), expected, rtol=0, atol=atol)


@pytest.mark.parametrize("case", range(4))
def test_unit(case: int) -> None:
    x, dim = golden(f"normalize/{case}/x"), json.loads(str(golden(f"normalize/{case}/dim")))
    axes = tuple(range(1, x.ndim)) if dim is None else dim
    close(unit(jnp.asarray(x), axes), golden(f"normalize/{case}/y"))


def test_unit_of_rows_of_zeros_and_of_tiny_values() -> None:
    for case in ("zero_row", "eps"):
        y = unit(jnp.asarray(golden(f"normalize/{case}/x")))
        close(y, golden(f"normalize/{case}/y"))
    y = unit(jnp.asarray(golden("normalize/eps/x")), eps=float(golden("normalize/eps/eps")))
    close(y, golden("normalize/eps/y_eps"))


def test_unit_in_half_precision_rounds_only_the_quotient() -> None:
    x = golden("normalize/fp16/x")
    y = unit(jnp.asarray(x), axes=1)
    assert y.dtype == jnp.float16
    close(y.astype(jnp.float32), golden("normalize/fp16/y").astype(np.float32), rtol=5e-4)
    # squares of 300 overflow float16, so the rms cannot have been taken in it
    big = unit(jnp.full((1, 8), 300, jnp.float16))
    close(big, np.ones((1, 8), np.float16), rtol=1e-3)


def test_the_gradient_of_unit_at_zero_is_finite() -> None:
    gradient = jax.grad(lambda x: unit(x).sum())(jnp.zeros([3]))
    close(gradient, np.full(3, 1e4, np.float32))


@pytest.mark.parametrize("case", [0, 1])
@pytest.mark.parametrize("mode", ["keep", "down", "up"])
def test_resample(case: int, mode: str) -> None:
    x = jnp.asarray(nhwc(golden(f"resample/{case}/x")))
    f = tuple(golden(f"resample/{case}/f").tolist())
    close(resample(x, f, mode), nhwc(golden(f"resample/{case}/{mode}")))


def test_up_is_four_times_the_transpose_of_down() -> None:
    # a filter without symmetry, which the golden ones cannot tell from its reverse
    f = (1.0, 2.0, 3.0, 5.0)
    x = jax.random.normal(jax.random.key(0), (1, 8, 8, 2))
    y = jax.random.normal(jax.random.key(1), (1, 4, 4, 2))
    down, up = resample(x, f, "down"), resample(y, f, "up")
    np.testing.assert_allclose(4 * jnp.vdot(down, y), jnp.vdot(x, up), rtol=1e-5)
    impulse = jnp.zeros((1, 4, 4, 1)).at[0, 2, 2, 0].set(1)
    response = 4 * np.outer(f, f) / sum(f) ** 2  # y_{2i + m - p} with i = 2, p = 1
    close(resample(impulse, f, "up")[0, 3:7, 3:7, 0], response.astype(np.float32))


def test_silu_sum_and_cat() -> None:
    close(mp_silu(jnp.asarray(golden("mp_silu/x"))), golden("mp_silu/y"))
    for t in (0.0, 0.3, 0.5, 1.0):
        a, b = (jnp.asarray(golden(f"mp_sum/{name}")) for name in "ab")
        close(mp_sum(a, b, t), golden(f"mp_sum/t={t}"))
        for case in range(3):
            a, b = (jnp.asarray(nhwc(golden(f"mp_cat/{case}/{name}"))) for name in "ab")
            close(mp_cat(a, b, t), nhwc(golden(f"mp_cat/{case}/t={t}")))


def test_fourier_features() -> None:
    constants = {name: golden(f"mp_fourier/{name}") for name in ("freqs", "phases")}
    y = MPFourier(24).apply({"constants": constants}, jnp.asarray(golden("mp_fourier/x")))
    # float32 angles reach 2 pi * 30, whose rounding is 1e-5
    close(y, golden("mp_fourier/y"), rtol=2e-5)


def test_fourier_constants_are_drawn_independently_and_never_trained() -> None:
    layer = MPFourier(20_000, bandwidth=float(golden("mp_fourier_init/bandwidth")))
    variables = layer.init(jax.random.key(0), jnp.zeros([1]))
    assert set(variables) == {"constants"}
    freqs, phases = (np.asarray(variables["constants"][k]) for k in ("freqs", "phases"))
    # standard errors at n = 20,000: of a std 1 / sqrt(2 n) = 0.5%, of a mean 1 / sqrt(n)
    assert freqs.std() == pytest.approx(2 * np.pi * 2.5, rel=0.02)
    assert freqs.std() == pytest.approx(golden("mp_fourier_init/freqs_std"), rel=0.02)
    assert freqs.mean() == pytest.approx(0, abs=4 * 2 * np.pi * 2.5 / np.sqrt(20_000))
    assert 0 <= phases.min() < 0.01
    assert 2 * np.pi - 0.01 < phases.max() < 2 * np.pi
    extremes = [phases.min(), phases.max()]
    np.testing.assert_allclose(extremes, golden("mp_fourier_init/phases_minmax"), atol=0.01)
    assert abs(np.corrcoef(freqs, phases)[0, 1]) < 4 / np.sqrt(20_000)


@pytest.mark.parametrize("case", range(4))
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_mpconv_and_its_gradients(case: int, mode: str) -> None:
    name = f"mpconv/{case}"
    w = weight(golden(f"{name}/w"))
    layer = MPConv(w.shape[-1], w.shape[:-2])
    params = {"weight": jnp.asarray(w)}
    if mode == "train":
        params = normalized(params)
        close(params["weight"], weight(golden(f"{name}/train/w_after_1")))
        close(normalized(params)["weight"], weight(golden(f"{name}/train/w_after_2")))
    close(params["weight"], weight(golden(f"{name}/{mode}/w_after")))
    x, gain = jnp.asarray(nhwc(golden(f"{name}/x"))), jnp.asarray(golden(f"{name}/gain"))
    dy = jnp.asarray(nhwc(golden(f"{name}/dy")))
    y, pull = jax.vjp(lambda p, x, g: layer.apply({"params": p}, x, g), params, x, gain)
    dparams, dx, dgain = pull(dy)
    expected = f"{name}/{mode}"
    close(y, nhwc(golden(f"{expected}/y")))
    close(dx, nhwc(golden(f"{expected}/dx")))
    # these sum up to 500 float32 products that cancel
    close(dparams["weight"], weight(golden(f"{expected}/dw")), rtol=1e-5)
    close(dgain, golden(f"{expected}/dgain"), rtol=1e-5)


def test_a_weight_is_standard_normal_float32_and_shaped_in_then_out() -> None:
    x = jnp.zeros((1, 4, 4, 30), jnp.bfloat16)
    variables = MPConv(50, (3, 3)).init(jax.random.key(0), x)
    (w,) = jax.tree.leaves(variables)
    assert w.shape == (3, 3, 30, 50)
    assert w.dtype == jnp.float32
    assert np.std(w) == pytest.approx(1, abs=4 / np.sqrt(2 * w.size))
    rows = unit_rows(unit_rows(w))  # r -> r / (r + 1e-4) twice: its fixed point, 0.9999
    rms = jnp.sqrt(jnp.mean(rows**2, axis=(0, 1, 2)))
    np.testing.assert_allclose(rms, 0.9999, atol=1e-6)


def test_group_norm_divides_groups_of_channels_by_their_rms() -> None:
    x = np.random.default_rng(0).normal(1, 3, (2, 4, 4, 6)).astype(np.float32)
    expected = np.empty_like(x, np.float64)
    for i, first in np.ndindex(2, 3):  # gcd(4, 6) = 2 channels a group
        part = np.s_[i, :, :, 2 * first : 2 * first + 2]
        expected[part] = x[part] / np.sqrt(1e-4 + np.mean(np.float64(x[part]) ** 2))
    close(group_norm(jnp.asarray(x), size=4), expected)
    wide = np.repeat(x, 11, axis=-1)[..., :64]  # 2 groups of 32 by default
    rms = np.sqrt(np.mean(np.square(group_norm(jnp.asarray(wide))), axis=(1, 2)))
    np.testing.assert_allclose(np.mean(rms.reshape(2, 2, 32) ** 2, axis=-1), 1, rtol=1e-4)
    tiny = group_norm(jnp.full((1, 2, 2, 4), 0.01))  # eps is inside of the root
    np.testing.assert_allclose(tiny, 0.5**0.5, rtol=1e-6)
    assert group_norm(jnp.full((1, 2, 2, 4), 300, jnp.float16)).tolist()[0][0][0] == [1] * 4


def test_plain_functions_know_no_magnitude() -> None:
    f = functions(fixed_magnitudes=False)
    a, b = jnp.asarray([[-1.0, 2.0]]), jnp.asarray([[0.5, 3.0]])
    x = np.float64(a)
    close(f.silu(a), x / (1 + np.exp(-x)))
    np.testing.assert_array_equal(f.sum(a, b, 0.3), a + b)
    np.testing.assert_array_equal(f.cat(a, b, 0.3), [[-1, 2, 0.5, 3]])
    fourier = lambda gain: MPFourier(8, gain=gain).init_with_output(
        jax.random.key(0), jnp.ones([3])
    )[0]
    close(fourier(f.fourier) * np.sqrt(2), np.asarray(fourier(np.sqrt(2))))


def test_an_ordinary_layer_is_its_weight_and_starts_he_uniform() -> None:
    x = jax.random.normal(jax.random.key(0), (5, 300))
    layer = MPConv(400, weight_norm=False)
    variables = layer.init(jax.random.key(1), x)
    w = variables["params"]["weight"]
    bound = np.sqrt(6 / 300)  # so the variance is 2 / fan_in
    assert 0.999 * bound < np.abs(w).max() <= bound
    assert np.var(w) == pytest.approx(2 / 300, rel=0.01)
    y = layer.apply(variables, x, 0.5)
    close(y, np.float64(x) @ np.float64(w) / 2)
