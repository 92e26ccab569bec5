"""A VAE in use: images of bytes <-> latents, a few images at a time on each device.

    image = low + (1 - low) u / 255,     u = 0 ... 255,     low = -1 [LDM] or 0 [EDM2]

A device holds at most `batch` images at a time, however many there are. The same program
runs on every device, so an image's result does not depend on their number.
"""

import functools
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, PyTree, Shaped, UInt8

from jaxdiff.interop import autoencoder
from jaxdiff.networks import AutoencoderKL
from jaxdiff.runtime import sharding
from jaxdiff.runtime.equal_batches import equal_batches
from jaxdiff.runtime.files import PathLike, place
from jaxdiff.runtime.finite import require_finite

PIXELS = {"cpu": 2**16}
PIXELS_ELSEWHERE = 2**20
"""Pixels on a device at a time by default: one image of 256 x 256 on a CPU, which is no
faster with more, and 16 elsewhere. docs/results/vae.md has the memory."""
DECODER = ("decoder", "post_quant")
ENCODER = ("encoder", "quant")
"""The modules of the encoder and of the decoder."""
ADVICE = "decode in float32 (vae_dtype), and see whether the weights are whole"

Latent = Float[np.ndarray, "N h w c"]


@dataclass(frozen=True, eq=False)
class VAE:
    """A network with its variables, and the range of its images.

    `factor` and `shift` are the published scaling of latents, x0 = (latent - shift) factor.
    `batch` is the number of images on a device at a time; 0 chooses it by their pixels.
    """

    network: AutoencoderKL
    variables: PyTree[np.ndarray]
    low: int = -1
    batch: int = 0
    factor: float = autoencoder.FACTOR
    shift: float = autoencoder.SHIFT

    @functools.cached_property
    def digest(self) -> str:
        """A hash of the network, its variables and the range of images."""
        sha256 = hashlib.sha256(repr((self.network, self.low)).encode())
        for path, leaf in jax.tree_util.tree_leaves_with_path(self.variables):
            sha256.update(jax.tree_util.keystr(path).encode())
            sha256.update(np.ascontiguousarray(leaf).tobytes())
        return sha256.hexdigest()

    def image_shape(self, latent: tuple[int, ...]) -> tuple[int, int, int]:
        """Height, width and channels of the image of a latent [H, W, C]."""
        f = self.network.factor
        return (latent[0] * f, latent[1] * f, self.network.image_channels)

    def latent_shape(self, image: tuple[int, ...]) -> tuple[int, int, int]:
        """Height, width and channels of the latent of an image [H, W, C].

        Raises:
            ValueError: the image has another number of channels, or sides that are not
                multiples of the VAE's factor.
        """
        f, channels = self.network.factor, self.network.image_channels
        height, width, held = image
        if held != channels:
            raise ValueError(
                f"the VAE takes images of {channels} channels, and these have {held}: set "
                "data.channels, or use another VAE"
            )
        if height % f or width % f:
            below = max(height // f, 1) * f
            raise ValueError(
                f"images are {height} x {width}, and the VAE makes each side {f} times "
                f"smaller: use a size that {f} divides, such as {below}"
            )
        return (height // f, width // f, self.network.latent_channels)

    def at_once(self, image: tuple[int, ...], count: int = 2**31, mesh: Any = None) -> int:
        """How many of `count` images [H, W, C] a device holds at a time."""
        most = PIXELS.get(jax.default_backend(), PIXELS_ELSEWHERE)
        some = self.batch or max(1, most // (image[0] * image[1]))
        return min(some, -(-count // (mesh.size if mesh else 1)))

    def decode(
        self, latents: Latent, mesh: Mesh | None = None
    ) -> UInt8[np.ndarray, "N H W C"]:
        """The images of latents in the VAE's own units, rounded to bytes.

        Runs on this process' devices by default; over a mesh of several processes all of
        them make the same call, and each gets the result.

        Raises:
            NotFiniteError: names the images with numbers that are not finite.
        """
        mesh = mesh or sharding.data_mesh(jax.local_devices())
        batch = self.at_once(self.image_shape(latents.shape[1:]), len(latents), mesh)
        call = functools.partial(_decode, self.network, self.low)
        parts = []
        own = self.on_devices(DECODER, mesh)
        for start, (images, finite) in self._batches(call, latents, own, mesh, batch):
            numbers = np.arange(start, start + len(images))
            values = np.where(finite, 0.0, np.nan)
            require_finite(values, "decoded images", numbers, unit="image", advice=ADVICE)
            parts.append(images)
        return np.concatenate(parts)

    def encode(
        self, images: UInt8[np.ndarray, "N H W C"], mesh: Mesh | None = None
    ) -> tuple[Latent, Latent]:
        """Mean and standard deviation of each image's posterior, in the VAE's own units.

        Devices and processes as for `decode`.

        Raises:
            ValueError: as `latent_shape`.
        """
        self.latent_shape(images.shape[1:])
        mesh = mesh or sharding.data_mesh(jax.local_devices())
        batch = self.at_once(images.shape[1:], len(images), mesh)
        parts = [*self.encoded(images, mesh, self.on_devices(ENCODER, mesh), batch)]
        mean, std = (np.concatenate(part) for part in zip(*parts, strict=True))
        return mean, std

    def encoded(
        self,
        images: UInt8[np.ndarray, "N H W C"],
        mesh: Mesh,
        variables: PyTree[Array],
        batch: int,
    ) -> Iterator[tuple[Latent, Latent]]:
        """`encode`, batch by batch, with variables from `on_devices`."""
        call = functools.partial(_encode, self.network, self.low)
        for _, part in self._batches(call, images, variables, mesh, batch):
            yield part

    def on_devices(self, modules: tuple[str, ...], mesh: Mesh) -> PyTree[Array]:
        """The parameters of the encoder or decoder, a copy on each device."""
        own = {k: v for k, v in self.variables["params"].items() if k in modules}
        return jax.device_put({"params": own}, sharding.replicated(mesh))

    def _batches(
        self,
        call: Callable[..., Any],
        rows: Shaped[np.ndarray, "N H W C"],
        variables: PyTree[Array],
        mesh: Mesh,
        batch: int,
    ) -> Iterator[tuple[int, Any]]:
        """(index of the first row, results on the host) for each batch."""
        for part in equal_batches(len(rows), batch * mesh.size, mesh, full=True):
            made = call(variables, part.put(rows[part.numbers]))
            yield int(part.numbers[0]), part.fetch(made)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _decode(
    network: AutoencoderKL, low: int, variables: PyTree, latents: Float[Array, "B H W C"]
) -> tuple[UInt8[Array, "B H2 W2 C2"], Bool[Array, " B"]]:
    """The bytes of each image, and whether all its numbers were finite."""
    images = network.apply(variables, latents, method="decode")
    share = (images - low) / (1 - low)
    finite = jnp.isfinite(images).all(axis=(1, 2, 3))
    return jnp.round(255 * jnp.clip(share, 0, 1)).astype(jnp.uint8), finite


@functools.partial(jax.jit, static_argnums=(0, 1))
def _encode(
    network: AutoencoderKL, low: int, variables: PyTree, images: UInt8[Array, "B H W C"]
) -> tuple[Float[Array, "B H2 W2 C2"], Float[Array, "B H2 W2 C2"]]:
    """Mean and standard deviation."""
    x = low + (1 - low) * (images.astype(jnp.float32) / 255)
    mean, logvar = network.apply(variables, x, method="encode")
    return mean, jnp.exp(logvar / 2)


def load(folder: PathLike, low: int = -1, *, dtype: str = "float32", batch: int = 0) -> VAE:
    """The VAE of a diffusers folder, kept in memory until another is loaded.

    `dtype` is the type of its convolutions; the others are fields of `VAE`.

    Raises:
        FileNotFoundError: the folder, or a file in it, does not exist.
        ValueError: a file is invalid; one line with its path.
    """
    folder = place(folder)
    files = [folder / name for name in (autoencoder.CONFIG, *autoencoder.FILES)]
    dates = tuple(path.stat().st_mtime_ns for path in files if path.is_file())
    return _load(str(folder), low, dtype, batch, dates)


@functools.lru_cache(maxsize=1)
def _load(folder: str, low: int, dtype: str, batch: int, dates: tuple[int, ...]) -> VAE:
    described, variables = autoencoder.read(folder)
    network = described.network.clone(dtype=dtype)
    return VAE(network, variables, low, batch, described.factor, described.shift)
