"""Encoders: how a data set's stored arrays become x0, and x0 becomes images.

    Pixels       x0 = u / 127.5 - 1,                     u = 0 ... 255
    VAELatents   x0 = (mean + eps std) scale + bias,     eps ~ N(0, I), new at every draw

A VAE, if its weights are available, decodes latents to images; see `data.vae`.

Batches hold the stored arrays, so they are small and reading them needs no randomness.
`encode` runs inside the compiled step and draws from the step's key: in another epoch an
image has another eps [EDM2].
"""

import warnings
from dataclasses import dataclass, field
from typing import Annotated, Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Key, Shaped, UInt8

from jaxdiff.data import vae as vaes
from jaxdiff.data.pixel_values import to_float, to_uint8
from jaxdiff.interop import autoencoder
from jaxdiff.runtime.files import PathLike, keep_text, place
from jaxdiff.types import Source
from jaxdiff.types.ranges import Choice, Finite, Items, Positive, Whole, checked

Moments = tuple[Float[np.ndarray, "B H W C"], Float[np.ndarray, "B H W C"]]
"""Mean and variance of each element of x0 over the draws of `encode`, in float64."""


@runtime_checkable
class Encoder(Protocol):
    """Stored arrays [B, H, W, S] <-> x0 [B, H, W, C]. A frozen, hashable value."""

    def encode(
        self, key: Key[Array, ""], stored: Shaped[Array, "*B H W S"]
    ) -> Float[Array, "*B H W C"]:
        """One draw of x0, float32; a pure function of the key and the stored arrays."""
        ...

    def moments(self, stored: Shaped[np.ndarray, "B H W S"]) -> Moments:
        """The moments of the distribution that `encode` draws from."""
        ...

    def decode(
        self, x0: Float[np.ndarray, "B H W C"], mesh: Mesh | None = None
    ) -> Shaped[np.ndarray, "B H2 W2 C2"]:
        """The images of x0, in bytes; raw latents if no VAE is available.

        Runs on the devices of the mesh, by default those of this process.
        """
        ...

    def preview(
        self, decoded: Shaped[np.ndarray, "B H W C"]
    ) -> UInt8[np.ndarray, "B H W P"]:
        """The result of `decode` as pictures of one or three channels."""
        ...

    def image_shape(self, shape: tuple[int, ...]) -> tuple[int, int, int] | None:
        """Height, width and channels of an x0's image; None without a VAE."""
        ...

    def of_images(
        self, images: UInt8[np.ndarray, "B H W C"], mesh: Mesh | None = None
    ) -> Float[np.ndarray, "B H2 W2 C2"]:
        """The x0 of images in bytes, the mean of the draws of `encode`.

        Raises:
            ValueError: no VAE is available.
        """
        ...

    def stored(self, shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
        """Shape and type of the stored array for an x0 of this shape [..., H, W, C]."""
        ...


@dataclass(frozen=True)
class Pixels:
    """Bytes: x0 = u / 127.5 - 1, in [-1, 1].

    With `flip` each image is mirrored, left to right, with probability 1/2, drawn in the
    compiled step; without it the key is not used. Equality ignores `flip`, as the stored
    bytes are the same.

    >>> Pixels().decode(np.array([[[[-1.0, 0.25, 1.5]]]])).tolist()
    [[[[0, 159, 255]]]]
    """

    flip: bool = field(default=False, compare=False)

    def encode(
        self, key: Key[Array, ""], stored: UInt8[Array, "*B H W C"]
    ) -> Float[Array, "*B H W C"]:
        if self.flip:
            mirrored = jax.random.bernoulli(key, shape=(*stored.shape[:-3], 1, 1, 1))
            stored = jnp.where(mirrored, stored[..., ::-1, :], stored)
        return stored.astype(jnp.float32) / 127.5 - 1

    def moments(self, stored: UInt8[np.ndarray, "B H W C"]) -> Moments:
        mean = stored / 127.5 - 1
        return mean, np.zeros_like(mean)

    def decode(
        self, x0: Float[np.ndarray, "B H W C"], mesh: Mesh | None = None
    ) -> UInt8[np.ndarray, "B H W C"]:
        return to_uint8(np.clip(x0, -1, 1))

    def preview(
        self, decoded: UInt8[np.ndarray, "B H W C"]
    ) -> UInt8[np.ndarray, "B H W C"]:
        return decoded

    def image_shape(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        return shape

    def of_images(
        self, images: UInt8[np.ndarray, "B H W C"], mesh: Mesh | None = None
    ) -> Float[np.ndarray, "B H W C"]:
        return to_float(images)

    def stored(self, shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.uint8)


@dataclass(frozen=True)
@checked
class VAELatents:
    """Posteriors N(mean, std^2) of a VAE, each draw scaled to mean 0 and std sigma_data.

    The stored array has the posterior's mean and then its std: [..., H, W, 2C]. With m_c
    and s_c the mean and standard deviation of channel c of the raw latents,

        x0 = (mean + eps std) scale + bias,   scale = sigma_data / s,   bias = -m scale

    The defaults are those of [EDM2] for stabilityai/sd-vae-ft-mse with input in [0, 1],
    without the factor 0.18215 of [LDM]; `ldm` has the scaling of [LDM].

    `vae` is the folder with the VAE's config.json and weights in diffusers' format. With it
    `decode` gives pictures; without it, raw latents. `vae_low` is the VAE's value for
    black, 0 [EDM2] or -1 [LDM]; white is 1. `vae_dtype` is the type it computes in,
    `vae_batch` the number of images on each device at a time, 0 for the default of
    `data.vae`. Equality compares the scaling of x0, not the VAE that decodes it.

    Raises:
        ValueError: mean and std of unequal length or empty, a std that is not positive, or
            an invalid range, dtype or batch of the VAE.

    >>> VAELatents(mean=(2.0,), std=(4.0,)).decode(np.array([[[[0.25]]]])).tolist()
    [[[[4.0]]]]
    """

    mean: tuple[Finite, ...] = (5.81, 3.25, 0.12, -2.15)
    std: Annotated[tuple[Positive, ...], Items(1, 1024)] = (4.17, 4.62, 3.71, 3.28)
    sigma_data: Positive = 0.5
    vae: PathLike = field(default="", compare=False)
    vae_low: Annotated[int, Whole(-1, 0)] = field(default=0, compare=False)
    vae_dtype: Annotated[str, Choice("float32", "bfloat16")] = field(
        default="float32", compare=False
    )
    vae_batch: Annotated[int, Whole(0, 2**16)] = field(default=0, compare=False)

    def __post_init__(self) -> None:
        keep_text(self, "vae")
        if len(self.mean) != len(self.std):
            raise ValueError(
                f"encoder.mean and encoder.std need one number for each channel, got "
                f"{len(self.mean)} and {len(self.std)}"
            )

    @classmethod
    def ldm(
        cls,
        factor: float = autoencoder.FACTOR,
        shift: float = autoencoder.SHIFT,
        channels: int = 4,
        **vae: Any,
    ) -> "VAELatents":
        """x0 = (latent - shift) factor, for a VAE of images in [-1, 1] [LDM].

        DiT and SiT use the default factor 0.18215. `vae` are the fields `vae`, `vae_dtype`
        and so on.

        >>> VAELatents.ldm().decode(np.array([[[4 * [0.18215]]]])).round(6).tolist()
        [[[[1.0, 1.0, 1.0, 1.0]]]]
        """
        mean, std = (shift,) * channels, (1 / factor,) * channels
        return cls(mean, std, 1.0, **{"vae_low": -1, **vae})

    def opened(self) -> vaes.VAE | None:
        """The VAE; None if none is named or the folder does not exist.

        Raises:
            FileNotFoundError, ValueError: the folder is not a complete VAE, or its
                channels do not fit.
        """
        if not self.vae or not place(self.vae).exists():
            return None
        how = {"dtype": self.vae_dtype, "batch": self.vae_batch}
        vae = vaes.load(self.vae, self.vae_low, **how)
        if vae.network.latent_channels != len(self.std):
            raise ValueError(
                f"{self.vae} is a VAE of {vae.network.latent_channels} latent channels, "
                f"and data.encoder has mean and std of {len(self.std)}: use the VAE that "
                "the latents were made with"
            )
        return vae

    def encode(
        self, key: Key[Array, ""], stored: Float[Array, "*B H W S"]
    ) -> Float[Array, "*B H W C"]:
        mean, std = jnp.split(stored.astype(jnp.float32), 2, axis=-1)
        scale, bias = self._affine(np.float32)
        return (mean + jax.random.normal(key, mean.shape) * std) * scale + bias

    def moments(self, stored: Float[np.ndarray, "B H W S"]) -> Moments:
        mean, std = np.split(stored.astype(np.float64), 2, axis=-1)
        scale, bias = self._affine(np.float64)
        return mean * scale + bias, (std * scale) ** 2

    def decode(
        self, x0: Float[np.ndarray, "B H W C"], mesh: Mesh | None = None
    ) -> Shaped[np.ndarray, "B H2 W2 C2"]:
        latents, vae = self.latents(x0), self.opened()
        return latents if vae is None else vae.decode(latents, mesh)

    def latents(self, x0: Float[np.ndarray, "B H W C"]) -> Float[np.ndarray, "B H W C"]:
        """The latents of x0 in the VAE's own units, float32."""
        scale, bias = self._affine(np.float32)
        return (np.asarray(x0, np.float32) - bias) / scale

    def preview(
        self, decoded: Shaped[np.ndarray, "B H W C"]
    ) -> UInt8[np.ndarray, "B H W P"]:
        """Pictures unchanged; for raw latents, the first three channels as colours.

        Mean -+ 3 std become 0 ... 255 of red, green and blue, with a warning: without a VAE
        this shows the layout. A latent of one or two channels is grey.
        """
        if decoded.dtype == np.uint8:
            return decoded
        warnings.warn(f"pictures are previews of latents: {self._why}", stacklevel=2)
        channels = 3 if len(self.std) >= 3 else 1
        standard = (decoded - np.array(self.mean)) / np.array(self.std)
        grey = np.round(127.5 + 42.5 * standard[..., :channels])
        return np.clip(grey, 0, 255).astype(np.uint8)

    def image_shape(self, shape: tuple[int, ...]) -> tuple[int, int, int] | None:
        vae = self.opened()
        return vae and vae.image_shape(shape)

    def of_images(
        self, images: UInt8[np.ndarray, "B H W C"], mesh: Mesh | None = None
    ) -> Float[np.ndarray, "B H2 W2 C2"]:
        if (vae := self.opened()) is None:
            raise ValueError(f"images cannot become latents: {self._why}")
        mean, _ = vae.encode(images, mesh)
        scale, bias = self._affine(np.float32)
        return mean * scale + bias

    @property
    def _why(self) -> str:
        """Why there is no VAE, and what to do."""
        where = f"there is no VAE at {self.vae}" if self.vae else "no VAE is named"
        return f"{where}; set data.encoder.vae, or --vae, to its folder"

    def stored(self, shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((*shape[:-1], 2 * shape[-1]), jnp.float32)

    def _affine(self, dtype: Any) -> tuple[np.ndarray, np.ndarray]:
        """scale and bias, one number per channel."""
        scale = self.sigma_data / np.array(self.std)
        return scale.astype(dtype), (-np.array(self.mean) * scale).astype(dtype)


def encoder_of(source: Source) -> Encoder:
    """The encoder of a data source; `Pixels()` if it has none.

    >>> from jaxdiff.data import Digits
    >>> encoder_of(Digits())
    Pixels(flip=False)
    """
    return source.encoder or Pixels()
