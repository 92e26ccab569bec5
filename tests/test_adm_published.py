"""ADM's and Improved DDPM's networks, with all their options, against their outputs."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.interop import adm
from jaxdiff.networks import ADM
from jaxdiff.types import Condition
from tests.model_goldens import cast, close, golden

NETS = ("adm_iddpm", "adm_guided", "adm_plain")
# the reference's softmax is float32 even in float64: 2.3e-8 of the largest entry at most
PRECISIONS = {"float64": 3e-8, "float32": 2e-5}


def settings(config: dict[str, Any]) -> adm.Settings:
    """What the file of a golden network does not say."""
    each = config["num_head_channels"]
    return adm.Settings(
        side=config["image_size"],
        heads=config["num_heads"] if each < 0 else 0,
        channels_per_head=max(each, 1),
        heads_first=not config["use_new_attention_order"],
    )


@functools.cache
def network(name: str) -> Any:
    g = golden(name)
    return adm.imported(g.tensors, settings(g.config))


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("name", NETS)
def test_published_outputs(name: str, dtype: str) -> None:
    with jax.enable_x64(dtype == "float64"):
        g, (net, shape, variables) = golden(name), network(name)
        cond = Condition(g.labels()) if "y" in g else Condition()
        args = (jnp.asarray(a, dtype) for a in (g.nhwc("x"), g.z["t"]))
        apply = jax.jit(net.clone(dtype=dtype).apply)
        out = apply(cast(variables, dtype), *args, cond)
        expected = g.nhwc("out_f64")
        close(out.raw, expected[..., :3], PRECISIONS[dtype])
        assert shape == (g.config["image_size"],) * 2 + (3,)
        if g.config["out_channels"] == 6:
            close(out.variance, expected[..., 3:], PRECISIONS[dtype])
        else:
            assert out.variance is None


@pytest.mark.parametrize("name", NETS)
def test_the_network_is_recognised_from_names_and_shapes(name: str) -> None:
    c, net = golden(name).config, network(name)[0]
    side = c["image_size"]
    assert net.model_channels == c["model_channels"]
    assert list(net.channel_mult) == c["channel_mult"]
    assert net.num_blocks == c["num_res_blocks"]
    assert {side // r for r in net.attn_resolutions} == {
        ds for ds in c["attention_resolutions"] if ds < 2 ** len(c["channel_mult"])
    }
    assert net.label_dim == (c["num_classes"] or 0)
    assert net.scale_shift == c["use_scale_shift_norm"]
    assert net.resample_blocks == c["resblock_updown"]
    assert net.learned_variance == (c["out_channels"] == 6)


@pytest.mark.parametrize("name", ["adm_iddpm", "adm_guided"])
def test_the_other_order_of_attention_is_another_network(name: str) -> None:
    """So that a preset with the wrong order cannot pass."""
    g = golden(name)
    right = settings(g.config)
    wrong = adm.Settings(right.side, right.heads, right.channels_per_head,
                         not right.heads_first)  # fmt: skip
    _, _, variables = adm.imported(g.tensors, wrong)
    net = network(name)[0]
    cond = Condition(g.labels()) if "y" in g else Condition()
    out = jax.jit(net.apply)(variables, g.nhwc("x"), jnp.asarray(g.z["t"]), cond)
    expected = g.nhwc("out_f64")[..., :3]
    assert np.abs(out.raw - expected).max() > 1e-3 * np.abs(expected).max()


def test_channels_that_do_not_split_into_heads_are_refused() -> None:
    net = ADM(model_channels=8, channel_mult=(1,), num_blocks=1, heads=3)
    args = (jnp.zeros((1, 4, 4, 3)), jnp.zeros(()), Condition())
    with pytest.raises(ValueError, match="8 channels do not split into 3 heads"):
        jax.eval_shape(net.init, jax.random.key(0), *args)


@pytest.mark.parametrize(
    ("field", "value"), [("channel_mult_noise", 0), ("channel_mult_emb", -1), ("heads", -1)]
)
def test_negative_widths_are_refused(field: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{field} must be a whole number from"):
        ADM(**{field: value})
