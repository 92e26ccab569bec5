"""The VAE of latent diffusion against diffusers' AutoencoderKL."""

import functools
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import networks
from jaxdiff.interop import autoencoder
from jaxdiff.networks import AutoencoderKL
from jaxdiff.networks.autoencoder import Encoder
from tests.model_goldens import FILES, cast, close, golden

NETS = ("vae_a", "vae_b")
PRECISIONS = {"float64": 1e-10, "float32": 2e-5}


@functools.cache
def network(name: str) -> Any:
    g = golden(name)
    settings = {k: v for k, v in g.config.items() if k not in ("res", "b")}
    net = autoencoder.config(settings).network
    return net, autoencoder.imported(g.tensors, net)


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("name", NETS)
def test_published_encodings_and_images(name: str, dtype: str) -> None:
    """vae_b halves 24 to 12 and 6, whose padding is on two sides alone."""
    with jax.enable_x64(dtype == "float64"):
        g, (net, variables) = golden(name), network(name)
        net, rtol = net.clone(dtype=dtype), PRECISIONS[dtype]
        run = jax.jit(net.apply, static_argnames="method")
        variables = cast(variables, dtype)
        image, latent = (jnp.asarray(g.nhwc(k), dtype) for k in ("image", "latent"))
        mean, logvar = run(variables, image, method="encode")
        assert mean.dtype == dtype
        close(mean, g.nhwc("mean_f64"), rtol)
        close(logvar, g.nhwc("logvar_f64"), rtol)
        close(jnp.exp(logvar / 2), g.nhwc("std_f64"), rtol)
        close(run(variables, latent, method="decode"), g.nhwc("decoded_f64"), rtol)


def test_bfloat16_is_near_and_its_outputs_are_float32() -> None:
    g, (net, variables) = golden("vae_b"), network("vae_b")
    run = jax.jit(net.clone(dtype="bfloat16").apply, static_argnames="method")
    image = run(variables, jnp.asarray(g.nhwc("latent")), method="decode")
    expected = g.nhwc("decoded_f64")
    assert image.dtype == jnp.float32
    assert 1e-5 < np.abs(image - expected).max() / np.abs(expected).max() < 0.05


def test_the_strided_convolution_pads_below_and_right_at_odd_sides_too() -> None:
    """y_i = sum_m w_m x_(2 i + m), m = 0, 1, 2, zero beyond the end: by hand."""
    net = Encoder((2, 2), num_blocks=1, groups=1, attention=False, outputs=2)
    kept = lambda module, method: module.name in ("level0_block0", "level0_down")
    for side in (5, 6):
        x = jax.random.normal(jax.random.key(0), (1, side, side, 3))
        init = jax.jit(functools.partial(net.init_with_output, capture_intermediates=kept))
        _, variables = init(jax.random.key(1), x)
        (before,), (after,) = (
            variables["intermediates"][name]["__call__"]
            for name in ("level0_block0", "level0_down")
        )
        w = variables["params"]["level0_down"]["kernel"]
        padded = np.pad(before, ((0, 0), (0, 1), (0, 1), (0, 0)))
        count = (side + 1 - 3) // 2 + 1
        hand = sum(
            padded[:, i : i + 2 * count : 2, j : j + 2 * count : 2][:, :count, :count]
            @ w[i, j]
            for i in range(3)
            for j in range(3)
        )
        np.testing.assert_allclose(after, hand, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        (
            {"channels": (8, 12)},
            r"channels must be multiples of the 8 groups, got \(8, 12\)",
        ),
        ({"channels": ()}, "channels must have 1 to 10 elements, got 0"),
        ({"num_blocks": 0}, "num_blocks must be a whole number from 1 to 100, got 0"),
    ],
)
def test_wrong_sizes_are_refused(fields: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        AutoencoderKL(**{"groups": 8, **fields})


def test_shapes_are_those_of_a_network_of_images_alone() -> None:
    network = AutoencoderKL(channels=(8, 8), num_blocks=1, groups=8)
    shapes = networks.shapes(network, (16, 16, 3))
    assert shapes["params/encoder/conv_in/kernel"] == (3, 3, 3, 8)


# -------------------------------------------------------------------- configs


def test_a_config_says_scaling_and_shift_or_leaves_them_out() -> None:
    settings = json.loads((FILES / "vae_a_config.json").read_text())
    old = autoencoder.config(settings)
    assert (old.factor, old.shift) == (0.18215, 0.0)
    assert old.network == AutoencoderKL(channels=(32, 64), num_blocks=1, groups=8)
    sd3 = autoencoder.config(
        {
            "latent_channels": 16,
            "scaling_factor": 1.5305,
            "shift_factor": 0.0609,
            "use_quant_conv": False,
            "use_post_quant_conv": False,
            "force_upcast": True,
            "latents_mean": None,
        }
    )
    assert (sd3.factor, sd3.shift) == (1.5305, 0.0609)
    assert sd3.network == AutoencoderKL(
        latent_channels=16, quant_conv=False, post_quant_conv=False
    )
    assert autoencoder.config({"scaling_factor": None}).factor == 0.18215


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"_class_name": "VQModel"}, "_class_name must be 'AutoencoderKL', got 'VQModel'"),
        ({"act_fn": "relu"}, "act_fn must be 'silu', got 'relu'"),
        (
            {"up_block_types": ["UpDecoderBlock2D", "AttnUpDecoderBlock2D"]},
            "up_block_types must be 'UpDecoderBlock2D'",
        ),
        ({"latents_mean": [0.1]}, "latents_mean must be None"),
        ({"patch_size": 2}, "a field 'patch_size', which this VAE does not have"),
        ({"block_out_channels": 128}, "block_out_channels must be whole numbers above 0"),
        ({"block_out_channels": [2**40]}, "block_out_channels must be whole numbers"),
        ({"layers_per_block": True}, "layers_per_block must be whole numbers"),
        ({"latent_channels": -4}, "latent_channels must be whole numbers above 0, got -4"),
        ({"use_quant_conv": "no"}, "use_quant_conv must be true or false, got 'no'"),
        ({"scaling_factor": 0}, "scaling_factor must be above 0"),
        ({"scaling_factor": float("nan")}, "scaling_factor must be a number, got nan"),
        ({"in_channels": 1}, "in_channels and out_channels must be equal"),
        ({"norm_num_groups": 3}, "channels must be multiples of the 3 groups"),
    ],
)
def test_configs_of_other_networks_are_refused(settings: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint) as caught:
        autoencoder.config(settings)
    assert "\n" not in str(caught.value)
