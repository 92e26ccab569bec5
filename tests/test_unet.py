"""The EDM2 U-Net against the reference's outputs, gradients and parameter counts."""

import functools
import json
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.errors import InvalidRngError

from jaxdiff.interop.edm2_weights import from_state_dict, to_state_dict
from jaxdiff.networks.edm2_block import Block
from jaxdiff.networks.edm2_unet import UNet
from jaxdiff.optim import normalized
from jaxdiff.types import Condition
from tests.edm2_networks import (
    FOLDER,
    NETS,
    Golden,
    close,
    close_trees,
    load,
    nhwc,
    state,
)

BLOCKS = np.load(FOLDER / "blocks.npz")


# ------------------------------------------------------------------ blocks


def make_block(case: str) -> Block:
    config = json.loads(str(BLOCKS[f"{case}/config"]))
    return Block(
        config["out_channels"],
        decoder=config["flavor"] == "dec",
        resample=config.get("resample_mode", "keep"),
        attention=config.get("attention", False),
        channels_per_head=config["channels_per_head"],
        dropout=config.get("dropout", 0.0),
    )


@pytest.mark.parametrize(
    "case", sorted({name.split("/")[0] for name in BLOCKS.files} - {"enc_dropout"})
)
def test_a_block_and_its_gradients(case: str) -> None:
    check_block(case)


def test_dropout_multiplies_the_modulated_activations_in_training_only() -> None:
    mask, seen = jnp.asarray(nhwc(BLOCKS["enc_dropout/dropout_multiplier"])), []

    def inject(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        if not isinstance(context.module, nn.Dropout):
            return call(*args, **kwargs)
        seen.append((context.module.rate, context.module.deterministic))
        return args[0] if context.module.deterministic else args[0] * mask

    with nn.intercept_methods(inject):
        check_block("enc_dropout")
    assert set(seen) == {(0.25, True), (0.25, False)}
    assert set(np.unique(mask)) == {0, np.float32(1 / 0.75)}


def check_block(case: str) -> None:
    """Evaluation at the stored weights; training, with gradients, at normalised ones."""
    block = make_block(case)
    params = from_state_dict(state(BLOCKS, f"{case}/sd/", "float32"))["params"]
    x, dy = (jnp.asarray(nhwc(BLOCKS[f"{case}/{name}"])) for name in ("x", "dy"))
    emb = jnp.asarray(BLOCKS[f"{case}/emb"])
    initial = jax.eval_shape(block.init, jax.random.key(0), x, emb)["params"]
    assert jax.tree.map(jnp.shape, initial) == jax.tree.map(jnp.shape, params)

    @jax.jit
    def run(params: Any, x: Any, emb: Any) -> Any:
        at_normalized = (normalized(params), x, emb)
        y, pull = jax.vjp(
            lambda p, x, e: block.apply({"params": p}, x, e, train=True), *at_normalized
        )
        return block.apply({"params": params}, x, emb), y, pull(dy)

    evaluated, trained, (dparams, dx, demb) = run(params, x, emb)
    close(evaluated, nhwc(BLOCKS[f"{case}/eval/y"]), 3e-6)
    close(trained, nhwc(BLOCKS[f"{case}/train/y"]), 3e-6)
    clipped = np.mean(np.abs(trained) == Block.clip_act, dtype=float)
    assert clipped == BLOCKS[f"{case}/train/clipped_fraction"]
    close(dx, nhwc(BLOCKS[f"{case}/train/dx"]), 1e-5)
    close(demb, BLOCKS[f"{case}/train/demb"], 2e-5)
    expected = from_state_dict(state(BLOCKS, f"{case}/train/grad/", "float32"))["params"]
    # float32 gradients of the reference itself differ from float64 ones by about 1e-5
    close_trees(dparams, expected, 2e-5)


def test_channels_that_do_not_split_into_heads_are_refused() -> None:
    block = Block(10, attention=True, channels_per_head=3)
    args = (jnp.zeros((1, 4, 4, 10)), jnp.zeros((1, 6)))
    with pytest.raises(ValueError, match="10 channels do not split into 3 heads"):
        jax.eval_shape(block.init, jax.random.key(0), *args)


# ---------------------------------------------------------- whole networks


@pytest.fixture(scope="module")
def micro() -> Golden:
    return load("net_c_micro", "float32")


@pytest.fixture(scope="module")
def apply(micro: Golden) -> Any:
    return jax.jit(micro.net.apply)


def test_a_scalar_noise_level_is_every_image_s(micro: Golden) -> None:
    sigma = jnp.asarray(micro.z["eval_scalar_sigma/sigma"])
    d, u, _ = micro.denoise(micro.variables, micro.array("x"), sigma, micro.cond("labels"))
    close(d, nhwc(micro.z["eval_scalar_sigma/D_x"]), 2e-6)
    close(u, np.repeat(micro.z["eval_scalar_sigma/logvar"].ravel(), 4), 2e-6)


def test_labels_may_be_soft_whole_or_withheld(micro: Golden) -> None:
    denoise = micro.denoise
    x, sigma = micro.array("x"), micro.array("sigma")
    soft, *_ = denoise(micro.variables, x, sigma, micro.cond("eval_softlabel/labels"))
    close(soft, nhwc(micro.z["eval_softlabel/D_x"]), 2e-6)
    none, *_ = denoise(micro.variables, x, sigma, Condition())
    close(none, nhwc(micro.z["eval_nolabel/D_x"]), 2e-6)
    label = np.argmax(micro.z["labels"], axis=1).astype(np.int32)
    whole, *_ = denoise(micro.variables, x, sigma, Condition(label=jnp.asarray(label)))
    close(whole, nhwc(micro.z["eval/D_x"]), 2e-6)
    label[1::2] = -1
    mixed, *_ = denoise(micro.variables, x, sigma, Condition(label=jnp.asarray(label)))
    close(mixed[0::2], nhwc(micro.z["eval/D_x"])[0::2], 2e-6)
    close(mixed[1::2], nhwc(micro.z["eval_nolabel/D_x"])[1::2], 2e-6)


def test_withheld_noise_is_a_noise_layer_of_zeros(micro: Golden, apply: Any) -> None:
    sigma, label = micro.array("sigma"), micro.array("labels")
    x, c_noise = micro.array("x") / jnp.sqrt(sigma**2 + 0.25), jnp.log(sigma) / 4

    def raw(variables: Any, noise: Any, c_noise: Any = c_noise) -> np.ndarray:
        cond = Condition(label=label, noise=jnp.asarray(noise))
        return np.asarray(apply(variables, x, c_noise, cond).raw)

    deaf = jax.tree.map(lambda w: w, micro.variables)
    deaf["params"]["emb_noise"] = {"weight": jnp.zeros((8, 16))}
    yes, no = raw(micro.variables, [True] * 4), raw(micro.variables, [False] * 4)
    np.testing.assert_array_equal(no, raw(deaf, [True] * 4))
    np.testing.assert_array_equal(no, raw(micro.variables, [False] * 4, c_noise + 1))
    close(yes, nhwc(micro.z["eval/F_x"]), 2e-6)
    assert np.abs(yes - no).max() > 0.01
    mixed = raw(micro.variables, [True, False, False, True])
    np.testing.assert_array_equal(mixed, np.stack([yes[0], no[1], no[2], yes[3]]))


def test_one_image_is_treated_as_it_is_in_a_batch(micro: Golden, apply: Any) -> None:
    x, label = micro.array("x"), jnp.array([2, -1, 0], jnp.int32)
    c_noise, noise = jnp.array([-1.0, 0.1, 0.4]), jnp.array([True, True, False])
    whole = apply(micro.variables, x[:3], c_noise, Condition(label, noise))
    for i in range(3):
        at = slice(i, i + 1)
        cond = Condition(label[at], noise[at])
        one = apply(micro.variables, x[at], c_noise[at], cond)
        close(one.raw[0], np.asarray(whole.raw[i]), 2e-6)
        close(one.uncertainty[0], np.asarray(whole.uncertainty[i]), 2e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_rounds_the_image_s_path_alone(dtype: str) -> None:
    golden = load("net_b_cond10", "float32")
    sigma = golden.array("sigma")
    x, c_noise = golden.array("x") / jnp.sqrt(sigma**2 + 0.25), jnp.log(sigma) / 4

    def is_embedding(module: nn.Module, method: str) -> bool:
        return module.name in ("emb_noise", "emb_label", "emb_linear")

    def run(dtype: str) -> Any:
        net = golden.net.clone(dtype=dtype)
        apply = functools.partial(net.apply, capture_intermediates=is_embedding)
        return jax.jit(apply)(golden.variables, x, c_noise, golden.cond("labels"))

    (out, embeddings), (_, full) = run(dtype), run("float32")
    assert out.raw.dtype == out.uncertainty.dtype == jnp.float32
    tag = {"bfloat16": "eval_bf16", "float16": "eval_fp16"}[dtype]
    exact, rounded = (nhwc(golden.z[f"{group}/F_x"]) for group in ("eval", tag))
    # no farther from float32 than the reference's own rounded run
    bound = np.abs(rounded - exact).max()
    assert 0 < np.abs(np.asarray(out.raw) - exact).max() < bound
    assert np.abs(np.asarray(out.raw) - rounded).max() < 2 * bound
    close(out.uncertainty, golden.z["eval/logvar"].ravel(), 2e-6)
    assert len(jax.tree.leaves(full)) == 12  # noise, label, and one for each of ten blocks
    close_trees(embeddings, full, 2e-6)


def test_dropout_draws_in_training_only(micro: Golden) -> None:
    net = micro.net.clone(dropout=0.5)
    args = (micro.variables, micro.array("x"), jnp.zeros([]), micro.cond("labels"))
    raw = jax.jit(lambda key: net.apply(*args, train=True, rngs={"dropout": key}).raw)
    a, b = jax.random.key(0), jax.random.key(1)
    np.testing.assert_array_equal(raw(a), raw(a))
    assert np.abs(raw(a) - raw(b)).max() > 0.01
    jax.eval_shape(net.apply, *args)  # asks for no "dropout" stream
    with pytest.raises(InvalidRngError, match="dropout"):
        jax.eval_shape(functools.partial(net.apply, train=True), *args)


def test_an_untrained_network_returns_zero_and_no_head_unless_asked() -> None:
    net = UNet(model_channels=8, channel_mult=(1,), num_blocks=1, uncertainty=False)
    x = jax.random.normal(jax.random.key(1), (2, 4, 4, 1))
    init = jax.jit(net.init_with_output)
    out, variables = init(jax.random.key(0), x, jnp.zeros(2), Condition())
    np.testing.assert_array_equal(out.raw, np.zeros_like(x))
    assert out.uncertainty is None
    assert out.variance is None
    names = {name for tree in variables.values() for name in tree}
    assert "emb_fourier" in names
    assert not {name for name in names if name.startswith("logvar")}


@pytest.fixture(scope="module")
def heads() -> Any:
    """The same small network with and without the variance head, and an input."""
    net = UNet(model_channels=8, channel_mult=(1,), num_blocks=1, channels_per_head=8)
    x = jax.random.normal(jax.random.key(1), (2, 4, 4, 3))
    args = (x, jnp.asarray([-0.5, 0.5]), Condition())
    return net, net.clone(learned_variance=True), args


@pytest.fixture(scope="module")
def untrained(heads: Any) -> Any:
    """Variables of the network with the head."""
    _, learned, args = heads
    return jax.jit(learned.init)(jax.random.key(0), *args)


def test_the_variance_head_leaves_the_other_parameters_as_they_are(
    heads: Any, untrained: Any
) -> None:
    plain, _, args = heads
    without = jax.jit(plain.init)(jax.random.key(0), *args)
    with_it = jax.tree.map(jnp.asarray, untrained)
    added = {
        name: jax.tree.map(jnp.shape, with_it["params"].pop(name))
        for name in ("variance_conv", "variance_gain")
    }
    assert added == {"variance_conv": {"weight": (3, 3, 8, 3)}, "variance_gain": ()}
    chex.assert_trees_all_equal(without, with_it)
    assert jax.eval_shape(plain.apply, without, *args).variance is None


def test_an_untrained_variance_is_zero_and_its_gain_is_its_own(
    heads: Any, untrained: Any
) -> None:
    _, learned, args = heads
    variables = jax.tree.map(jnp.asarray, untrained)
    apply = jax.jit(learned.apply)
    out = apply(variables, *args)
    assert out.variance.shape == out.raw.shape == (2, 4, 4, 3)
    assert out.variance.dtype == jnp.float32
    np.testing.assert_array_equal(out.variance, np.zeros((2, 4, 4, 3)))
    loss = lambda v: jnp.sum(learned.apply(v, *args).variance)
    assert abs(jax.jit(jax.grad(loss))(variables)["params"]["variance_gain"]) > 0.01
    variables["params"]["variance_gain"] = jnp.float32(1)
    out = apply(variables, *args)
    np.testing.assert_array_equal(out.raw, np.zeros((2, 4, 4, 3)))
    # weights of magnitude 1 keep the features' magnitude, some 1
    assert 0.3 < float(jnp.sqrt(jnp.mean(out.variance**2))) < 3


def test_a_bfloat16_network_has_a_float32_variance(heads: Any) -> None:
    _, learned, args = heads
    rounded = learned.clone(dtype="bfloat16")
    out, _ = jax.eval_shape(rounded.init_with_output, jax.random.key(0), *args)
    assert out.variance.dtype == jnp.float32


@pytest.mark.parametrize("shape", [(1, 8, 16, 3), (1, 6, 6, 3)])
def test_images_that_do_not_halve_evenly_are_refused(shape: tuple[int, ...]) -> None:
    net = UNet(model_channels=8, channel_mult=(1, 2, 2))
    args = (jnp.zeros(shape), jnp.zeros([]), Condition())
    with pytest.raises(ValueError, match="multiple of 4"):
        jax.eval_shape(net.init, jax.random.key(0), *args)


def test_labels_of_another_width_are_refused(micro: Golden) -> None:
    cond = Condition(label=jnp.zeros((4, 5)))
    args = (micro.variables, micro.array("x"), jnp.zeros([]), cond)
    with pytest.raises(ValueError, match=r"float rows \[4, 4\]"):
        jax.eval_shape(micro.net.apply, *args)


# ------------------------------------------------------------------ settings


def test_rematerialised_blocks_have_the_same_parameters_and_gradients() -> None:
    net = UNet(
        label_dim=3, model_channels=8, channel_mult=(1,), num_blocks=1, dropout=0.5,
        channels_per_head=8,
    )  # fmt: skip
    x = jax.random.normal(jax.random.key(1), (2, 4, 4, 3))
    args = (x, jnp.asarray([-0.5, 0.5]), Condition(label=jnp.array([0, -1])))
    again = net.clone(remat=True)
    variables = jax.jit(net.init)(jax.random.key(0), *args)
    initial = jax.eval_shape(again.init, jax.random.key(0), *args)
    assert jax.tree.map(jnp.shape, initial) == jax.tree.map(jnp.shape, variables)
    variables["params"]["out_gain"] = jnp.float32(1)

    def loss(net: UNet, variables: Any) -> Any:
        rngs = {"dropout": jax.random.key(3)}
        return jnp.sum(net.apply(variables, *args, train=True, rngs=rngs).raw ** 2)

    gradients = [
        jax.jit(jax.grad(functools.partial(loss, n)))(variables)["params"]
        for n in (net, again)
    ]
    close_trees(gradients[1], jax.tree.map(np.asarray, gradients[0]), 1e-5)
    blocks = str(jax.make_jaxpr(functools.partial(loss, again))(variables)).count("remat")
    assert blocks >= 1 + 2 + 2  # encoder, in0 and in1, decoder
    assert "remat" not in str(jax.make_jaxpr(functools.partial(loss, net))(variables))


def normalised(w: Any) -> np.ndarray:
    """unit(w) / sqrt(fan_in), by hand."""
    w = np.float64(w)
    axes = tuple(range(w.ndim - 1))
    rms = np.sqrt(np.mean(w**2, axis=axes))
    return w / (1e-4 + rms) / np.sqrt(w[..., 0].size)


def convolved(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Convolution with zeros around the image, as a sum over the kernel's places."""
    k = w.shape[0]
    _, h, width, _ = x.shape
    padded = np.pad(x, ((0, 0), (k // 2, k // 2), (k // 2, k // 2), (0, 0)))
    places = np.ndindex(k, k)
    return sum(padded[:, i : i + h, j : j + width] @ w[i, j] for i, j in places)


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def grouped(x: np.ndarray) -> np.ndarray:
    """One group, since there are fewer than 32 channels and their number divides 32."""
    return x / np.sqrt(1e-4 + np.mean(x**2, axis=(1, 2, 3), keepdims=True))


def halved(x: np.ndarray) -> np.ndarray:
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).mean(axis=(2, 4))


@pytest.mark.parametrize("weight_norm", [True, False])
@pytest.mark.parametrize("group_norm", [True, False])
def test_blocks_below_config_g_are_their_formulas(
    group_norm: bool, weight_norm: bool
) -> None:
    block = Block(
        16, resample="down", fixed_magnitudes=False, group_norm=group_norm,
        weight_norm=weight_norm, clip_act=0.0,
    )  # fmt: skip
    x = 3 * jax.random.normal(jax.random.key(0), (2, 4, 4, 8))
    emb = jax.random.normal(jax.random.key(1), (2, 5))
    variables = jax.jit(block.init)(jax.random.key(2), x, emb)
    assert set(variables["params"]) == {"conv_res0", "conv_res1", "conv_skip", "emb_linear"}
    made = normalised if weight_norm else np.float64
    w = {name: made(layer["weight"]) for name, layer in variables["params"].items()}
    scale = 1 + (np.float64(emb) @ w["emb_linear"])[:, None, None, :]
    x64 = np.float64(x)
    if group_norm:  # each branch is resampled, the convolution of the skip comes last
        main = convolved(halved(x64), w["conv_skip"])
        y = convolved(halved(silu(grouped(x64))), w["conv_res0"])
        y = grouped(y)
    else:
        main = convolved(halved(x64), w["conv_skip"])
        main /= 1e-4 + np.sqrt(np.mean(main**2, axis=-1, keepdims=True))
        y = convolved(silu(main), w["conv_res0"])
    expected = main + convolved(silu(y * scale), w["conv_res1"])
    close(jax.jit(block.apply)(variables, x, emb), expected, 2e-6)


# ------------------------------------------------------------------- interop


@pytest.mark.parametrize("name", NETS)
def test_a_state_dict_is_the_network_s_variables_and_comes_back(name: str) -> None:
    golden = load(name, "float32")
    cond = golden.cond("labels")
    args = (jax.random.key(0), golden.array("x"), jnp.zeros([]), cond)
    initial = jax.eval_shape(golden.net.init, *args)
    assert jax.tree.map(jnp.shape, initial) == jax.tree.map(jnp.shape, golden.variables)
    sd, back = state(golden.z, "sd/", "float32"), to_state_dict(golden.variables)
    assert set(back) == set(sd)
    for key, value in sd.items():
        np.testing.assert_array_equal(back[key], value)


def test_weights_of_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"unet.x.weight has shape \(3,\)"):
        from_state_dict({"unet.x.weight": np.zeros(3)})
