"""Data sets as images: latents are decoded on demand."""

import dataclasses
from typing import Any

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int

from jaxdiff.data.batches import Dataset, Images, fingerprint, take
from jaxdiff.data.encoders import Encoder, Pixels, encoder_of


@dataclasses.dataclass(frozen=True, eq=False)
class Decoded:
    """Images decoded from the means of stored posteriors."""

    source: Images
    encoder: Encoder
    mesh: Mesh | None = None

    def stamp(self) -> str:
        """A stamp that changes with the latents and with the VAE."""
        vae = getattr(self.encoder, "opened", lambda: None)()
        return f"{fingerprint(self.source)} {vae and vae.digest}"

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {name: a[0] for name, a in self.take(np.array([index])).items()}

    def take(self, indices: Int[np.ndarray, " B"]) -> dict[str, np.ndarray]:
        """The images [B, H, W, C] and labels [B] at these indices."""
        rows = take(self.source, indices)
        mean, _ = self.encoder.moments(rows["image"])
        return {"image": self.encoder.decode(mean, self.mesh), "label": rows["label"]}


def pictures(data: Any, mesh: Mesh | None = None) -> Dataset:
    """The images of a data set in bytes, unchanged or decoded on the mesh's devices.

    Raises:
        ValueError: latents whose VAE is not available.

    >>> from jaxdiff.data import Digits, Latents
    >>> pictures(Digits("test")).shape  # stored as they are
    (8, 8, 1)
    >>> pictures(Latents("latents.npz"))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: only pictures can be looked at, ... has latents: set its encoder's vae, ...
    """
    encoder = encoder_of(data)
    if encoder.image_shape(data.shape) is None:
        raise ValueError(
            f"only pictures can be looked at, and {data} has latents: set its encoder's "
            "vae, or --vae, to the folder of their VAE"
        )
    dataset = data.load()
    if encoder == Pixels():
        return dataset
    return dataclasses.replace(dataset, source=Decoded(dataset.source, encoder, mesh))
