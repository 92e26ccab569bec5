"""The diffusion transformer against DiT's and SiT's: outputs, guidance, gradients."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.denoisers.parameterizations import Unscaled
from jaxdiff.interop import dit
from jaxdiff.networks import DiT, LevelEstimator
from jaxdiff.networks.adm import positions
from jaxdiff.networks.dit import grid_positions
from jaxdiff.sampling.guidance import first_channels
from jaxdiff.types import Condition
from tests.model_goldens import cast, close, golden

NETS = ("dit_a", "dit_p4", "sit_a")
PRECISIONS = {"float64": 1e-10, "float32": 2e-5}


class Network:
    """A golden network in one precision, and the sign of its output in the file."""

    def __init__(self, name: str, dtype: str) -> None:
        self.g = golden(name)
        kind, heads = self.g.config["kind"], self.g.config["num_heads"]
        net, self.shape, variables = dit.imported(self.g.tensors, kind, heads)
        self.net, self.variables = net.clone(dtype=dtype), cast(variables, dtype)
        self.sign, self.dtype = (-1 if kind == "sit" else 1), dtype

    def inputs(self) -> tuple[Any, Any, Condition]:
        x, t = (jnp.asarray(a, self.dtype) for a in (self.g.nhwc("x"), self.g.z["t"]))
        return x, t, Condition(self.g.labels())


@functools.cache
def network(name: str, dtype: str = "float32") -> Network:
    return Network(name, dtype)


def joined(out: jd.Output, sign: int = 1) -> Any:
    """All channels that the file's network returns."""
    parts = [p for p in (out.raw, out.variance) if p is not None]
    return sign * jnp.concatenate(parts, axis=-1)


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("name", NETS)
def test_published_outputs(name: str, dtype: str) -> None:
    with jax.enable_x64(dtype == "float64"):
        n, rtol = network(name, dtype), PRECISIONS[dtype]
        emb = lambda module, method: module.name == "emb_hidden"
        apply = jax.jit(functools.partial(n.net.apply, capture_intermediates=emb))
        out, seen = apply(n.variables, *n.inputs())
        assert out.raw.dtype == dtype
        close(joined(out, n.sign), n.g.nhwc("out_f64"), rtol)
        (t_emb,) = seen["intermediates"]["emb_hidden"]["__call__"]
        close(t_emb, n.g.z["t_emb_f64"], rtol)
        features = positions(n.inputs()[1], 256)
        # float32 rounds the argument 999 of the cosines by 3e-5
        close(features, n.g.z["timestep_features_f64"], {"float32": 1e-4}.get(dtype, rtol))
        assert len(out.features) == 3


@pytest.mark.parametrize("name", NETS)
def test_published_guidance_of_three_channels(name: str, x64: None) -> None:
    n = network(name, "float64")
    x, t = jnp.asarray(n.g.nhwc("x_cfg")[:1], "float64"), float(n.g.z["t_cfg"][0])
    apply = lambda v, x, _, cond: n.net.apply(v, x, jnp.asarray(t), cond)
    raw = jd.denoiser(jax.jit(apply), n.variables, Unscaled())
    guided = first_channels(jd.guide(raw, (jd.without(raw, "label"), 0.5)))
    level = jd.NoiseLevel(jnp.ones(()), jnp.ones(()))
    out = guided(x, level, Condition(n.g.labels("y_cfg")[:1]))
    outputs = joined(jd.Output(out.x0, out.variance), n.sign)
    close(outputs[0], n.g.nhwc("cfg_1p5_f64")[0], 1e-10)


@pytest.mark.parametrize("name", NETS)
def test_published_gradients(name: str, x64: None) -> None:
    n = network(name, "float64")
    x, t, cond = n.inputs()

    @jax.jit
    def gradients(params: Any, x: Any) -> Any:
        def loss(params: Any, x: Any) -> Any:
            out = n.net.apply({**n.variables, "params": params}, x, t, cond)
            flat = jnp.moveaxis(joined(out, n.sign), -1, 1).ravel()
            return jnp.sum(flat * jnp.sin(jnp.arange(flat.size)))

        return jax.grad(loss, (0, 1))(params, x)

    of_params, of_x = gradients(n.variables["params"], x)
    close(of_x, n.g.nhwc("grad_x"), 1e-9)
    outputs = (1 + n.g.config["learn_sigma"]) * n.shape[-1]
    sources = dit.sources(n.net, n.shape, n.g.config["kind"], outputs)
    checked = 0
    for path, source in sources.items():
        if f"grad/{source.name}" in n.g:
            gradient = functools.reduce(lambda tree, key: tree[key], path[1:], of_params)
            close(gradient, source.convert(n.g.z[f"grad/{source.name}"]), 1e-9)
            checked += 1
    assert checked == sum(key.startswith("grad/") for key in n.g.z.files) == 11


@pytest.mark.parametrize("name", NETS)
def test_published_positions_are_their_formula(name: str) -> None:
    table = golden(name).tensors["pos_embed"][0]
    side = round(len(table) ** 0.5)
    np.testing.assert_allclose(
        grid_positions((side, side), table.shape[1]), table, atol=1e-6
    )


# ----------------------------------------------------------------- behaviour


@pytest.fixture(scope="module")
def apply() -> Any:
    return jax.jit(network("dit_a").net.apply)


def test_labels_may_be_whole_soft_or_withheld(apply: Any) -> None:
    n = network("dit_a")
    x, t, _ = n.inputs()
    raw = lambda label: np.asarray(apply(n.variables, x, t, Condition(label)).raw)
    whole = raw(jnp.array([0, 9, -1]))
    rows = jnp.zeros((3, 10)).at[0, 0].set(1).at[1, 9].set(1)
    close(raw(rows), whole, 1e-6)
    close(raw(jnp.full((3,), -1)), raw(None), 1e-6)
    assert np.abs(raw(None)[:2] - whole[:2]).max() > 0.01
    half = raw(rows.at[0, 0].set(0.5))
    assert np.abs(half[0] - whole[0]).max() > 0.01
    close(half[1:], whole[1:], 1e-6)


def test_a_withheld_noise_level_is_a_zero_or_a_learned_embedding(apply: Any) -> None:
    n = network("dit_a")
    x, t, cond = n.inputs()
    noise = jnp.array([True, False, True])
    none, some = apply(n.variables, x, t, cond), Condition(cond.label, noise)
    blind = apply(n.variables, x, t, some).raw
    close(blind[::2], np.asarray(none.raw[::2]), 1e-6)
    assert np.abs(blind[1] - none.raw[1]).max() > 0.01
    np.testing.assert_array_equal(blind[1], apply(n.variables, x, t + 5, some).raw[1])
    learned = n.net.clone(learned_null=True)
    params = {**n.variables["params"], "emb_null": jnp.zeros(48)}
    run = jax.jit(learned.apply)
    close(run({**n.variables, "params": params}, x, t, some).raw, np.asarray(blind), 1e-6)
    params["emb_null"] = params["emb_null"] + 1
    moved = run({**n.variables, "params": params}, x, t, some).raw
    close(moved[::2], np.asarray(blind[::2]), 1e-6)
    assert np.abs(moved[1] - blind[1]).max() > 0.01


def test_an_untrained_network_returns_zero_and_starts_as_published() -> None:
    net = DiT(label_dim=3, width=64, depth=2, heads=2, learned_variance=True)
    x = jax.random.normal(jax.random.key(1), (2, 8, 8, 4))
    out, variables = jax.jit(net.init_with_output)(
        jax.random.key(0), x, jnp.ones(2), Condition()
    )
    np.testing.assert_array_equal(joined(out), jnp.zeros((2, 8, 8, 8)))
    params = variables["params"]
    assert not np.any(params["block1"]["modulation"]["kernel"])
    assert np.std(params["emb_label"]) == pytest.approx(0.02, rel=0.2)
    for name, fan_in, fan_out in (("attn_qkv", 64, 192), ("mlp_hidden", 64, 256)):
        bound = (6 / (fan_in + fan_out)) ** 0.5
        largest = np.abs(params["block0"][name]["kernel"]).max()
        assert 0.95 * bound < largest <= bound
    assert np.abs(params["patch"]["kernel"]).max() <= (6 / (16 + 64)) ** 0.5


def test_bfloat16_rounds_the_tokens_path_alone(apply: Any) -> None:
    n = network("dit_a")
    exact = joined(apply(n.variables, *n.inputs()))
    out = jax.jit(n.net.clone(dtype="bfloat16").apply)(n.variables, *n.inputs())
    assert out.raw.dtype == out.variance.dtype == jnp.float32
    error = np.abs(joined(out) - exact).max() / np.abs(exact).max()
    assert 0 < error < 0.02  # three blocks of 8 bits


def test_rematerialised_blocks_have_the_same_gradients() -> None:
    n = network("sit_a")

    def loss(net: DiT, params: Any) -> Any:
        out = net.apply({**n.variables, "params": params}, *n.inputs())
        return jnp.sum(out.raw**2)

    plain, again = (
        jax.jit(jax.grad(functools.partial(loss, net)))(n.variables["params"])
        for net in (n.net, n.net.clone(remat=True))
    )
    jax.tree.map(lambda a, b: close(a, np.asarray(b), 1e-5), again, plain)
    text = str(jax.make_jaxpr(functools.partial(loss, n.net.clone(remat=True)))(
        n.variables["params"]))  # fmt: skip
    assert text.count("remat") >= 2


def test_rectangles_are_tiled_and_an_estimator_reads_its_features() -> None:
    net = LevelEstimator(DiT(width=16, depth=1, heads=2))
    x = jnp.ones((2, 4, 8, 3))
    out, variables = jax.eval_shape(
        net.init_with_output, jax.random.key(0), x, jnp.zeros(()), Condition()
    )
    assert out.level.shape == (2, 2)
    assert variables["constants"]["positions"].shape == (8, 16)


@pytest.mark.parametrize(
    ("fields", "shape", "complaint"),
    [
        ({"width": 10}, None, "width must be a multiple of 4 and of heads, got width 10"),
        ({"heads": 0}, None, "heads must be a whole number from 1 to 8,192, got 0"),
        (
            {"mlp_ratio": -1.0},
            None,
            "mlp_ratio must be a number above 0, at most 64, got -1.0",
        ),
        ({}, (1, 9, 8, 3), "the image is 9 x 8, which patches of 2 do not tile"),
    ],
)
def test_wrong_sizes_are_refused(fields: Any, shape: Any, complaint: str) -> None:
    def make() -> None:
        net = DiT(**{"width": 16, "depth": 1, "heads": 2, **fields})
        args = (jnp.zeros(shape), jnp.zeros(()), Condition())
        jax.eval_shape(net.init, jax.random.key(0), *args)

    with pytest.raises(ValueError, match=complaint):
        make()


def test_another_image_size_than_the_table_s_is_refused() -> None:
    n = network("sit_a")
    with pytest.raises(ValueError, match=r"table has 16 positions, and an image of 8 x 4"):
        jax.eval_shape(n.net.apply, n.variables, jnp.zeros((1, 16, 8, 4)), jnp.zeros(()),
                       Condition())  # fmt: skip
