"""The golden files of published networks: their arrays, channels last, and state dicts."""

import functools
import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.interop import weights
from tests.toys import GOLDEN

FOLDER = GOLDEN / "models"
FILES = FOLDER / "files"
HELD = {
    "dit_a": "dit_a.pt",
    "sit_a": "sit_a_training.pt",
    "adm_plain": "adm_plain.pt",
    "vae_a": "vae_a_old_names.bin",
}
"""The files that hold a network's weights, where its NPZ does not."""


class Golden:
    """One network: its configuration, its state dict, and arrays by name."""

    def __init__(self, name: str) -> None:
        self.z = np.load(FOLDER / f"{name}.npz")
        self.config: dict[str, Any] = json.loads(str(self.z["config"]))
        if name in HELD:
            self.tensors = dict(weights.read(FILES / HELD[name]).tensors)
        else:
            named = [n for n in self.z.files if n.startswith("w/")]
            self.tensors = {n.removeprefix("w/"): self.z[n] for n in named}

    def __contains__(self, name: str) -> bool:
        return name in self.z.files

    def nhwc(self, name: str) -> np.ndarray:
        return np.moveaxis(self.z[name], -3, -1)

    def labels(self, name: str = "y") -> jax.Array:
        """The labels, of which "no class" is -1 here."""
        y = self.z[name]
        return jnp.asarray(np.where(y == self.config["num_classes"], -1, y), jnp.int32)


@functools.cache
def golden(name: str) -> Golden:
    return Golden(name)


def cast(tree: Any, dtype: str) -> Any:
    return jax.tree.map(lambda a: jnp.asarray(a, dtype), tree)


def close(actual: Any, expected: np.ndarray, rtol: float) -> None:
    """Equal to `rtol` of the largest entry."""
    assert actual.shape == expected.shape
    atol = rtol * np.abs(expected).max()
    np.testing.assert_allclose(np.asarray(actual), expected, rtol=0, atol=atol)


def vae_folder(at: Path) -> Path:
    """The folder of a published VAE, small: two levels, 3 channels, 4 latent channels."""
    at.mkdir(parents=True)
    shutil.copy(FILES / "vae_a_config.json", at / "config.json")
    shutil.copy(FILES / HELD["vae_a"], at / "diffusion_pytorch_model.bin")
    return at


@functools.cache
def keys() -> dict[str, dict[str, tuple[int, ...]]]:
    """Names and shapes of the published networks' tensors."""
    networks = json.loads(gzip.decompress((FOLDER / "keys.json.gz").read_bytes()))
    return {
        net: {n: tuple(s) for n, s in shapes.items()} for net, shapes in networks.items()
    }
