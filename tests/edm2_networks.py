"""The reference's whole EDM2 denoisers: their networks, variables and arrays."""

import functools
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.interop.edm2_weights import from_state_dict
from jaxdiff.networks.edm2_unet import UNet
from jaxdiff.types import Condition

FOLDER = Path(__file__).parent / "golden" / "edm2"
NETS = ("net_a_uncond", "net_b_cond10", "net_c_micro", "net_d_options")


def nhwc(x: np.ndarray) -> np.ndarray:
    return x.transpose(0, 2, 3, 1)


def close(actual: Any, expected: Any, rtol: float) -> None:
    """Equal to `rtol` of the largest entry."""
    assert actual.shape == expected.shape
    atol = rtol * max(np.abs(expected).max(), 1e-30)
    np.testing.assert_allclose(np.asarray(actual), expected, rtol=0, atol=atol)


def close_trees(actual: Any, expected: Any, rtol: float) -> None:
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(functools.partial(close, rtol=rtol), actual, expected)


def state(z: Any, prefix: str, dtype: str) -> dict[str, np.ndarray]:
    """The tensors of one group of a golden file, by the names in it."""
    return {
        name.removeprefix(prefix): z[name].astype(dtype)
        for name in z.files
        if name.startswith(prefix)
    }


@functools.cache
def load(name: str, dtype: str) -> "Golden":
    """The golden file, and its compiled denoiser, once for all tests."""
    return Golden(name, dtype)


class Golden:
    """One reference denoiser: its network, variables and arrays, in one precision."""

    def __init__(self, name: str, dtype: str) -> None:
        self.z, self.dtype = np.load(FOLDER / f"{name}.npz"), dtype
        config = json.loads(str(self.z["config"]))
        self.sigma_data = config.pop("sigma_data", 0.5)
        for key in ("img_resolution", "img_channels", "use_fp16"):
            config.pop(key, None)
        for key, value in config.items():
            config[key] = tuple(value) if isinstance(value, list) else value
        if "resample_filter" in config:
            config["resample_filter"] = tuple(map(float, config["resample_filter"]))
        for key in ("dropout", "clip_act"):
            config[key] = float(config.get(key, UNet.__dataclass_fields__[key].default))
        self.net = UNet(**config, dtype=dtype)
        variables = from_state_dict(state(self.z, "sd/", dtype))
        self.variables = jax.tree.map(jnp.asarray, variables)
        self.denoise = jax.jit(self.formula)
        self.train = jax.jit(jax.value_and_grad(self.loss, has_aux=True))

    def array(self, name: str) -> jax.Array:
        """Images as [B, H, W, C], noise levels as [B, 1, 1, 1], in this precision."""
        x = self.z[name].astype(self.dtype)
        if x.ndim == 4:
            return jnp.asarray(nhwc(x))
        return jnp.asarray(x.reshape(-1, 1, 1, 1) if name.endswith("sigma") else x)

    def cond(self, name: str) -> Condition:
        return Condition(label=self.array(name) if self.net.label_dim else None)

    def formula(self, variables: Any, x: Any, sigma: Any, cond: Condition) -> Any:
        """D = s_d^2 / r^2 x + s s_d / r F(x / r; ln(s) / 4), r^2 = s^2 + s_d^2; u; F."""
        r = jnp.sqrt(sigma**2 + self.sigma_data**2)
        out = self.net.apply(variables, x / r, jnp.log(sigma) / 4, cond)
        d = (self.sigma_data / r) ** 2 * x + sigma * self.sigma_data / r * out.raw
        return d, out.uncertainty, out.raw

    def loss(self, params: Any, y: Any, eps: Any, sigma: Any, cond: Condition) -> Any:
        """Sum over elements of lambda e^-u (D - y)^2 + u, over the batch size."""
        variables = {"params": params, "constants": self.variables["constants"]}
        d, u, raw = self.formula(variables, y + sigma * eps, sigma, cond)
        log_variance = u.reshape(-1, 1, 1, 1)
        weight = (sigma**2 + self.sigma_data**2) / (sigma * self.sigma_data) ** 2
        elements = weight * jnp.exp(-log_variance) * (d - y) ** 2 + log_variance
        return elements.sum() / len(y), (d, u, raw, elements)

    def gradient(self) -> Any:
        """Of the loss at normalised weights; `gradq` is off by 1.3e-4 of the largest."""
        group = "grad64" if self.dtype == "float64" else "grad"
        if sd := state(self.z, f"{group}/", self.dtype):
            return from_state_dict(sd)["params"]
        scales, sd = state(self.z, "gradscale/", "float64"), {}
        for name, value in state(self.z, "gradq/", "float64").items():
            sd[name] = np.asarray(value * scales[name])
        return from_state_dict(sd)["params"]
