"""The ADM network against its formulas, and where it starts."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.networks.adm import ADM, ADMBlock, positions
from jaxdiff.networks.edm2_block import Block
from jaxdiff.types import Condition
from tests.toys import GOLDEN

TINY = ADM(
    label_dim=3, model_channels=12, channel_mult=(1,), num_blocks=1, channels_per_head=12
)


def close(actual: Any, expected: np.ndarray, rtol: float = 3e-6) -> None:
    """Equal to `rtol` of the largest entry: a few float32 roundings by default."""
    assert actual.shape == expected.shape
    atol = rtol * np.abs(expected).max()
    np.testing.assert_allclose(np.asarray(actual), expected, rtol=0, atol=atol)


def perturbed(params: Any, size: float = 0.2) -> Any:
    """Parameters of which none is 0, nor what it started as."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(7), len(leaves))
    moved = [
        p + size * jax.random.normal(k, p.shape) for p, k in zip(leaves, keys, strict=True)
    ]
    return jax.tree.unflatten(tree, moved)


def test_positions_turn_by_geometric_frequencies() -> None:
    c = np.array([-1.5, 0.3, 700.0])
    angle = c[:, None] * 10000.0 ** (-np.arange(4) / 4)
    expected = np.concatenate([np.cos(angle), np.sin(angle)], axis=-1)
    # an angle of 700 is rounded by 3e-5
    close(positions(jnp.asarray(c, jnp.float32), 8), expected, 5e-5)


@pytest.mark.parametrize("features", [8, 128])
def test_positions_are_the_published_ones(features: int) -> None:
    z = np.load(GOLDEN / "iddpm" / "embedding.npz")
    features_ = positions(jnp.asarray(z["t"], jnp.float32), features)
    # the rounding of a float32 angle of 999
    close(features_, z[f"emb_dim{features}_f32"], 6.2e-5)


# ------------------------------------------------------------------- blocks


def convolved(x: np.ndarray, layer: Any) -> np.ndarray:
    """Convolution with zeros around the image, as a sum over the kernel's places."""
    w, k, (_, h, width, _) = np.float64(layer["kernel"]), layer["kernel"].shape[0], x.shape
    padded = np.pad(x, ((0, 0), (k // 2, k // 2), (k // 2, k // 2), (0, 0)))
    places = np.ndindex(k, k)
    out = sum(padded[:, i : i + h, j : j + width] @ w[i, j] for i, j in places)
    return out + np.float64(layer["bias"])


def normed(x: np.ndarray, layer: Any) -> np.ndarray:
    """Four groups of three channels, which is what gcd(32, 12) leaves."""
    b, h, w, c = x.shape
    groups = x.reshape(b, h, w, 4, c // 4)
    axes = {"axis": (1, 2, 4), "keepdims": True}
    groups = (groups - groups.mean(**axes)) / np.sqrt(groups.var(**axes) + 1e-5)
    return groups.reshape(x.shape) * np.float64(layer["scale"]) + np.float64(layer["bias"])


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def attended(x: np.ndarray, p: Any, heads: int) -> np.ndarray:
    b, h, w, c = x.shape
    d = c // heads
    qkv = convolved(normed(x, p["attn_norm"]), p["attn_qkv"]).reshape(b, h * w, 3, heads, d)
    out = np.empty((b, h * w, heads, d))
    for i, head in np.ndindex(b, heads):
        q, k, v = qkv[i, :, 0, head], qkv[i, :, 1, head], qkv[i, :, 2, head]
        weight = np.exp(q @ k.T / np.sqrt(d))
        out[i, :, head] = weight / weight.sum(axis=1, keepdims=True) @ v
    return x + convolved(out.reshape(x.shape), p["attn_proj"])


def make_block(block: ADMBlock, channels: int) -> tuple[Any, jax.Array, jax.Array]:
    x = 2 + jax.random.normal(jax.random.key(0), (2, 4, 4, channels))
    emb = jax.random.normal(jax.random.key(1), (2, 5))
    return jax.jit(block.init)(jax.random.key(2), x, emb)["params"], x, emb


@pytest.mark.parametrize("mode", ["keep", "down", "up"])
def test_a_block_is_its_formula(mode: str) -> None:
    block = ADMBlock(12, resample=mode, attention=True, channels_per_head=6)
    params, x, emb = make_block(block, 24 if mode == "keep" else 12)
    p = perturbed(params)
    sized = {
        "keep": lambda x: x,
        "down": lambda x: (
            (x[:, ::2] + x[:, 1::2])[:, :, ::2] / 4
            + (x[:, ::2] + x[:, 1::2])[:, :, 1::2] / 4
        ),
        "up": lambda x: np.repeat(np.repeat(x, 2, axis=1), 2, axis=2),
    }[mode]
    x64 = np.float64(x)
    groups = normed if x.shape[-1] == 12 else eight
    y = convolved(sized(silu(groups(x64, p["norm_res0"]))), p["conv_res0"])
    modulation = np.float64(emb) @ np.float64(p["emb_linear"]["kernel"])
    modulation += np.float64(p["emb_linear"]["bias"])
    scale, shift = np.split(modulation[:, None, None, :], 2, axis=-1)
    y = silu(normed(y, p["norm_res1"]) * (1 + scale) + shift)
    main = sized(x64)
    if "conv_skip" in p:
        main = convolved(main, p["conv_skip"])
    expected = attended(main + convolved(y, p["conv_res1"]), p, heads=2)
    close(jax.jit(block.apply)({"params": p}, x, emb), expected, 1e-5)


def eight(x: np.ndarray, layer: Any) -> np.ndarray:
    """`normed` with the eight groups of 24 channels."""
    halves = [
        normed(x[..., at], {name: a[at] for name, a in layer.items()})
        for at in (slice(0, 12), slice(12, 24))
    ]
    return np.concatenate(halves, axis=-1)


def test_an_untrained_block_adds_nothing() -> None:
    block = ADMBlock(12, attention=True, channels_per_head=6)
    params, x, emb = make_block(block, 12)
    np.testing.assert_array_equal(block.apply({"params": params}, x, emb), x)


def test_attention_is_float32_here_and_in_the_compute_dtype_above() -> None:
    def exponentials(block: Any) -> set[Any]:
        args = (jnp.zeros((1, 4, 4, 12), jnp.bfloat16), jnp.zeros((1, 5)))
        variables = jax.eval_shape(block.init, jax.random.key(0), *args)
        text = str(jax.make_jaxpr(block.apply)(variables, *args))
        return {line.split(":")[1][:4] for line in text.split("\n") if "= exp " in line}

    settings = {"attention": True, "channels_per_head": 6}
    assert exponentials(ADMBlock(12, **settings)) == {"f32["}
    assert exponentials(Block(12, **settings)) == {"bf16"}


# ---------------------------------------------------------- whole networks


@pytest.fixture(scope="module")
def made() -> Any:
    """Variables of the tiny network, and an input."""
    x = jax.random.normal(jax.random.key(1), (2, 4, 4, 3))
    args = (x, jnp.asarray([-0.5, 0.5]), Condition(label=jnp.array([1, -1])))
    return jax.jit(TINY.init)(jax.random.key(0), *args), args


def test_an_untrained_network_returns_zero_and_its_labels_are_normal(made: Any) -> None:
    variables, args = made
    out = jax.jit(TINY.apply)(variables, *args)
    np.testing.assert_array_equal(out.raw, np.zeros((2, 4, 4, 3)))
    assert out.variance is None
    table = ADM(label_dim=500, model_channels=8, channel_mult=(1, 4), num_blocks=1)
    args = (jnp.zeros((1, 4, 4, 1)), jnp.zeros(1), Condition())
    label = jax.jit(table.init)(jax.random.key(0), *args)["params"]["emb_label"]
    assert label.shape == (500, 32)
    assert np.std(label) == pytest.approx(1, abs=4 / np.sqrt(2 * label.size))


def test_labels_and_noise_may_be_withheld(made: Any) -> None:
    variables, (x, *_) = made
    variables = {**variables, "params": perturbed(variables["params"])}
    x = jnp.concatenate([x[:1]] * 4)
    apply = jax.jit(TINY.apply)
    run = lambda c, cond: np.asarray(apply(variables, x, c, cond).raw)
    label, noise = jnp.array([1, -1, 1, 1]), jnp.array([True, True, False, False])
    a, b, c, d = run(jnp.array([0.1, 0.1, 0.1, 0.9]), Condition(label, noise))
    assert np.abs(a - b).max() > 1e-3  # a label is heard
    assert np.abs(a - c).max() > 1e-3  # and so is the noise level
    close(d, c)  # but not where it is withheld
    none = run(jnp.full(4, 0.1), Condition(None, noise))
    close(none[0], b)


def test_variance_head_and_precision(made: Any) -> None:
    variables, args = made
    learned = TINY.clone(learned_variance=True)
    variables = jax.jit(learned.init)(jax.random.key(0), *args)
    apply = jax.jit(learned.apply)
    np.testing.assert_array_equal(apply(variables, *args).variance, np.zeros((2, 4, 4, 3)))
    variables = {**variables, "params": perturbed(variables["params"], 0.05)}
    full = apply(variables, *args)
    for dtype, bits in (("bfloat16", 8), ("float16", 11)):
        half = learned.clone(dtype=dtype)
        out, again = jax.eval_shape(half.init_with_output, jax.random.key(0), *args)
        assert {p.dtype for p in jax.tree.leaves(again)} == {jnp.dtype("float32")}
        assert out.raw.dtype == out.variance.dtype == out.uncertainty.dtype == jnp.float32
        out = jax.jit(half.apply)(variables, *args)
        for name in ("raw", "variance"):
            # some ten layers that each round to `bits` bits
            difference = np.abs(getattr(out, name) - getattr(full, name)).max()
            assert 0 < difference < 20 * 2.0**-bits * np.abs(getattr(full, name)).max()
        close(out.uncertainty, np.asarray(full.uncertainty))


def test_rematerialised_blocks_have_the_same_gradients(made: Any) -> None:
    variables, args = made
    params = perturbed(variables["params"])
    rest = {name: tree for name, tree in variables.items() if name != "params"}

    def gradient(net: ADM) -> Any:
        def loss(params: Any) -> Any:
            rngs = {"dropout": jax.random.key(3)}
            out = net.apply({"params": params, **rest}, *args, train=True, rngs=rngs)
            return jnp.sum(out.raw**2)

        assert ("remat" in str(jax.make_jaxpr(loss)(params))) is net.remat
        return jax.jit(jax.grad(loss))(params)

    net = TINY.clone(dropout=0.5)
    once, twice = gradient(net), gradient(net.clone(remat=True))
    largest = max(np.abs(g).max() for g in jax.tree.leaves(once))
    chex.assert_trees_all_close(once, twice, rtol=0, atol=float(1e-5 * largest))


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"model_channels": 7}, "model_channels must be even, got 7"),
        ({"channel_mult": ()}, r"channel_mult must have 1 to 14 elements, got 0: \(\)"),
        ({"dropout": 1.0}, "dropout must be a number from 0 to below 1, got 1.0"),
    ],
)
def test_sizes_that_no_network_has_are_refused(fields: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        ADM(**fields)
