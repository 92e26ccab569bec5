"""Whole EDM2 denoisers against the reference: outputs, losses, gradients, weights."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.denoisers.parameterizations import EDM
from jaxdiff.interop.edm2_weights import from_state_dict, to_state_dict
from jaxdiff.objectives.timesteps import NormalLogSigma
from jaxdiff.optim import normalized
from jaxdiff.schedules import LogSigma
from jaxdiff.types import Condition, NoiseLevel
from tests.edm2_networks import NETS, Golden, close, close_trees, load, nhwc, state


@pytest.mark.parametrize("name", NETS)
def test_outputs_in_float64(name: str, x64: None) -> None:
    golden = load(name, "float64")
    x, sigma, cond = golden.array("x"), golden.array("sigma"), golden.cond("labels")
    d, u, _ = golden.denoise(golden.variables, x, sigma, cond)
    assert d.dtype == u.dtype == "float64"
    close(d, nhwc(golden.z["eval64/D_x"]), 1e-13)
    close(u, golden.z["eval64/logvar"].ravel(), 1e-13)


@pytest.mark.parametrize("name", NETS)
def test_outputs_losses_and_gradients(name: str) -> None:
    """All in float32, with one compiled function for each network."""
    golden = load(name, "float32")
    check_outputs(golden)
    check_training(golden)


def check_outputs(golden: Golden) -> None:
    """Noise levels of each image or one for all, labels withheld or soft."""
    z, x, label = golden.z, golden.array("x"), golden.cond("labels").label
    each = golden.array("sigma")
    one = jnp.full_like(each, float(z["eval_scalar_sigma/sigma"]))
    cases = {"eval": (each, label), "eval_scalar_sigma": (one, label)}
    if label is not None:
        soft = golden.array("eval_softlabel/labels")
        cases["eval_nolabel"] = each, jnp.zeros_like(label)
        cases["eval_softlabel"] = each, soft
    params = golden.variables["params"]
    for case, (sigma, rows) in cases.items():
        args = (x, jnp.zeros_like(x), sigma, Condition(label=rows))
        _, (d, u, raw, _) = golden.train(params, *args)[0]
        close(d, nhwc(z[f"{case}/D_x"]), 2e-6)
        if f"{case}/logvar" in z.files:
            close(u, np.resize(z[f"{case}/logvar"], len(x)), 2e-6)
        if f"{case}/F_x" in z.files:
            close(raw, nhwc(z[f"{case}/F_x"]), 3e-6)


def batch(golden: Golden) -> tuple[Any, ...]:
    """Images, unit noise, noise levels and labels of the training loss."""
    images, noise, sigma = (
        golden.array(f"train/{k}") for k in ("images", "noise", "sigma")
    )
    if golden.dtype == "float64":  # the float64 run did not round sigma
        meta = json.loads(str(golden.z["meta"]))
        drawn = golden.array("train/rnd_normal").reshape(-1, 1, 1, 1)
        sigma = jnp.exp(drawn * meta["P_std"] + meta["P_mean"])
    return images, noise, sigma, golden.cond("train/labels")


def check_training(golden: Golden) -> None:
    """At normalised weights, with gradients; net c's at the stored ones too."""
    z, args = golden.z, batch(golden)
    params = jax.jit(normalized)(golden.variables["params"])
    (value, (d, u, _, elements)), gradient = golden.train(params, *args)
    close(d, nhwc(z["train/D_x"]), 3e-6)
    close(u, z["train/logvar"].ravel(), 3e-6)
    step = d.shape[1] // z["train/loss"].shape[2]
    close(elements[:, ::step, ::step], nhwc(z["train/loss"]), 1e-5)
    rtol = {"float32": 1e-6, "float64": 1e-12}[golden.dtype]
    np.testing.assert_allclose(value, z["train64/loss_scalar"], rtol=rtol)
    np.testing.assert_allclose(value, z["train/loss_scalar"], rtol=2e-6)
    close_trees(gradient, golden.gradient(), gradient_tolerance(golden))
    if "evalgrad/loss_scalar" in z.files:
        (value, _), gradient = golden.train(golden.variables["params"], *args)
        np.testing.assert_allclose(value, z["evalgrad/loss_scalar"], rtol=2e-6)
        expected = state(z, "evalgrad/", golden.dtype)
        del expected["loss_scalar"]
        close_trees(gradient, from_state_dict(expected)["params"], 2e-5)


def gradient_tolerance(golden: Golden) -> float:
    """Twice what the reference's float32 is off by, and how its gradients are stored."""
    if golden.dtype == "float64":
        return 1e-10
    rounded = 1.3e-4 if "gradq/unet.out_gain" in golden.z.files else 0
    return rounded + 2 * float(golden.z["grad_f32_vs_f64_worst_rel_to_tensor_max"])


def test_loss_and_gradient_in_float64(x64: None) -> None:
    check_training(load("net_c_micro", "float64"))


@pytest.mark.parametrize("name", NETS)
def test_weights_as_training_starts(name: str) -> None:
    """Normalised once: their values, and the length of each output unit."""
    golden = load(name, "float32")
    params = jax.jit(normalized)(golden.variables["params"])
    tensors = to_state_dict({"params": params, "constants": {}})
    lengths = state(golden.z, "after_norm_l2/", "float64")
    assert set(lengths) == {key for key, w in tensors.items() if w.ndim >= 2}
    for key, expected in lengths.items():
        rows = np.float64(tensors[key]).reshape(len(expected), -1)
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), expected, rtol=5e-7)
    for key, expected in state(golden.z, "after/", "float32").items():
        close(tensors[key], expected, 3e-7)


@pytest.mark.parametrize("name", NETS)
def test_names_of_what_is_trained_and_what_is_not(name: str) -> None:
    golden = load(name, "float32")
    for group, key in (("params", "param_names"), ("constants", "buffer_names")):
        empty = {"params": {}, "constants": {}}
        tensors = to_state_dict(empty | {group: golden.variables[group]})
        assert sorted(tensors) == sorted(golden.z[key].tolist())


@pytest.mark.parametrize("name", NETS)
def test_published_levels_of_training(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """sigma of the reference's normal numbers, and what networks are told of it."""
    z = load(name, "float32").z
    meta, drawn = json.loads(str(z["meta"])), jnp.asarray(z["train/rnd_normal"])
    monkeypatch.setattr(jax.random, "normal", lambda key, shape: drawn.reshape(shape))
    law, path = NormalLogSigma(meta["P_mean"], meta["P_std"]), LogSigma()
    t, _ = law.draw(law.init(), jax.random.key(0), (meta["batch"],), path)
    # float32 time of a path of 10.6 nats, then its exponential
    np.testing.assert_allclose(path(t).sigma, z["train/sigma"], rtol=2e-6)
    sigma = jnp.asarray(z["sigma"])
    c_noise = EDM(meta["sigma_data"])(NoiseLevel(jnp.ones_like(sigma), sigma)).c_noise
    np.testing.assert_allclose(c_noise, z["eval/c_noise"], rtol=1e-6, atol=1e-7)
