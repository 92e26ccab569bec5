"""Writes the latents of images as records to train on, resuming where it stopped.

A record is the posterior's mean and then its std, in the VAE's own units, as [EDM2] stores
them; training draws from it at each step. With a `seed` it is one draw and a std of 0:

    latent = mean + std eps,     eps ~ N(0, I) from the key fold_in(seed, image's number)

`mirrored` data are all images and then all of them again, flipped left to right: the
latents of a mirrored image are not the mirrored latents, so they cannot be mirrored later.

Every shard starts a new batch, and the images per device at a time do not depend on the
number of devices; so a command that was killed and repeated, on any number of devices of
the same kind and of any number of processes, writes the same bytes as one that was not.
"""

import concurrent.futures
import dataclasses
import functools
import math
import os
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Key

from jaxdiff.data.batches import Images
from jaxdiff.data.encoders import Pixels, VAELatents, encoder_of
from jaxdiff.data.formats import shards
from jaxdiff.data.prepare import Prepared, complete, header_of
from jaxdiff.data.skipping import Skipping
from jaxdiff.data.sources.latents import DTYPES, require_posterior
from jaxdiff.data.sources.records import LatentRecords
from jaxdiff.data.statistics import Statistics, keep, measured
from jaxdiff.data.vae import ENCODER, VAE, load
from jaxdiff.runtime import processes, sharding
from jaxdiff.runtime.files import PathLike, place

SCALINGS = ("ldm", "edm2", "measured")
SIGMA_DATA = 0.5
"""The std of x0 with the scaling `measured`, as in EDM2."""

PUBLISHED = VAELatents()
"""EDM2's scaling."""

Row = dict[str, Any] | None
"""An image and its label; None if it cannot be read and is skipped."""


def encode(
    data: Any,
    vae: VAE,
    out: PathLike,
    *,
    seed: int | None = None,
    dtype: str = "float32",
    shard_size: int = 1024,
    mirrored: bool = False,
    mesh: Mesh | None = None,
    progress: bool = True,
) -> Prepared:
    """Writes the latents of a data set's images, `shard_size` to a shard.

    `mirrored` adds those of the mirrored images.

    The same call again writes what is missing. It runs on the devices of the mesh, by
    default all of this process; several processes write a shard each at a time.

    Raises:
        ImportError: array_record is not installed.
        ValueError: data that are latents already or do not suit the VAE, an image that
            cannot be read, numbers too large for `dtype`, or a folder with other records.
    """
    shards.module()
    out = place(out)
    require_images(data, vae)
    dataset = data.load()
    skips = isinstance(dataset.source, Skipping)
    source = dataset.source.of if skips else dataset.source
    source = Mirrored(source) if mirrored else source
    new = planned(data, vae, len(source), dataset.classes, seed, dtype, shard_size)
    if mirrored:
        new = dataclasses.replace(new, of={**new.of, "mirrored": True})
    header = header_of(out, new) if processes.first() else None
    processes.wait_for_all()
    header = header or shards.read_header(out)
    kept = len(header.shards)
    mesh = mesh or sharding.data_mesh(jax.local_devices())
    most = min(vae.at_once(data.shape), shard_size)
    vae = dataclasses.replace(vae, batch=most)
    run = Run(source, data.shape, skips, vae, seed, dtype, mesh)
    together = jax.process_count()
    header = complete(out, header, run.records, progress=progress, together=together)
    return Prepared(header, len(source) - header.count, kept, dataset.left_out)


def opened(
    folder: PathLike, scaling: str, *, dtype: str = "float32", batch: int = 0
) -> VAE:
    """The VAE in a folder, for images in the range of a scaling; see `records`.

    Raises:
        FileNotFoundError, ValueError: as `vae.load`; an unknown scaling, or one that does
            not suit the VAE's channels.
    """
    if scaling not in SCALINGS:
        raise ValueError(f"scaling must be one of {SCALINGS}, got {scaling!r}")
    low = PUBLISHED.vae_low if scaling == "edm2" else -1
    vae = load(folder, low, dtype=dtype, batch=batch)
    channels = vae.network.latent_channels
    if scaling == "edm2" and channels != len(PUBLISHED.std):
        raise ValueError(
            f"EDM2's means and stds are of {len(PUBLISHED.std)} channels, and {folder} is "
            f"a VAE of {channels}: use the scaling measured, or ldm"
        )
    return vae


def require_images(data: Any, vae: VAE) -> None:
    """Rejects data that the VAE cannot encode.

    Raises:
        ValueError: latents, images that are not square, or as `VAE.latent_shape`.
    """
    if encoder_of(data) != Pixels():
        raise ValueError(f"{data} has latents already: name a source of images")
    if data.shape[0] != data.shape[1]:
        raise ValueError(f"records hold squares, and these images are {data.shape}")
    vae.latent_shape(data.shape)


def planned(
    data: Any,
    vae: VAE,
    count: int,
    classes: tuple[str, ...],
    seed: int | None,
    dtype: str,
    shard_size: int,
) -> shards.Header:
    """The header before the first shard.

    Raises:
        ValueError: an unknown dtype, a shard size below 1, or a seed that is not a uint32.
    """
    if dtype not in DTYPES or shard_size < 1 or not 0 <= (seed or 0) < 2**32:
        raise ValueError(
            f"dtype must be one of {DTYPES}, shard_size at least 1 and seed in 0 ... "
            f"2^32 - 1, got {dtype!r}, {shard_size} and {seed}"
        )
    height, width, channels = vae.latent_shape(data.shape)
    of = {"data": repr(data), "shard_size": shard_size, "images": count}
    of |= {"vae": vae.digest[:16], "vae_low": vae.low, "vae_dtype": vae.network.dtype}
    of |= {"latents": "mean and std" if seed is None else f"draws of seed {seed}"}
    shape, total = (height, width, 2 * channels), math.ceil(count / shard_size)
    return shards.Header("raw", dtype, shape, classes, total, (), of)


@dataclasses.dataclass(frozen=True, eq=False)
class Mirrored:
    """A data set's images, followed by all of them mirrored left to right."""

    of: Images

    def __len__(self) -> int:
        return 2 * len(self.of)

    def __getitem__(self, index: int) -> dict[str, Any]:
        second, number = divmod(index, len(self.of))
        row = self.of[number]
        return {**row, "image": row["image"][:, ::-1]} if second else row


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """Makes records from images."""

    source: Images
    shape: tuple[int, int, int]
    skips: bool
    vae: VAE
    seed: int | None
    dtype: str
    mesh: Mesh

    @functools.cached_property
    def variables(self) -> Any:
        """The encoder's variables, on the devices."""
        return self.vae.on_devices(ENCODER, self.mesh)

    def records(self, images: range, made: Callable[[int], object]) -> Iterator[bytes]:
        """The records of these images, in order, reading the next batch meanwhile."""
        size = self.vae.batch * self.mesh.size
        parts = (images[i : i + size] for i in range(0, len(images), size))
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            for numbers, rows in ahead(pool, self.read, parts):
                yield from self.packed(numbers, rows)
                made(len(numbers))

    def read(self, number: int) -> Row:
        """An image; None if it cannot be read and is skipped."""
        try:
            return self.source[number]
        except ValueError:
            if self.skips:
                return None
            raise

    def packed(self, numbers: range, rows: list[Row]) -> Iterator[bytes]:
        """The records of one batch; skipped images are encoded as black and dropped."""
        black = np.zeros(self.shape, np.uint8)
        images = np.stack([row["image"] if row else black for row in rows])
        how = self.mesh, self.variables, self.vae.batch
        ((mean, std),) = self.vae.encoded(images, *how)
        if self.seed is not None:
            noise = normal(jax.random.key(self.seed), np.array(numbers), mean.shape[1:])
            mean, std = mean + std * np.asarray(noise), np.zeros_like(std)
        with np.errstate(over="ignore"):
            stored = np.concatenate([mean, std], axis=-1).astype(self.dtype)
        for number, row, latent in zip(numbers, rows, stored, strict=True):
            if row:
                require_posterior(latent, f"image {number}, encoded to {self.dtype},")
                yield shards.pack(int(row["label"]), latent.tobytes())


def ahead(
    pool: concurrent.futures.Executor, read: Callable[[int], Row], parts: Iterator[range]
) -> Iterator[tuple[range, list[Row]]]:
    """The rows of each part, read by threads one part ahead."""
    waiting: deque[tuple[range, list[concurrent.futures.Future[Row]]]] = deque()
    for part in parts:
        waiting.append((part, [pool.submit(read, number) for number in part]))
        if len(waiting) > 1:
            numbers, rows = waiting.popleft()
            yield numbers, [row.result() for row in rows]
    for numbers, rows in waiting:
        yield numbers, [row.result() for row in rows]


@functools.partial(jax.jit, static_argnums=2)
def normal(
    key: Key[Array, ""], numbers: Int[Array, " B"], shape: tuple[int, ...]
) -> Float[Array, "B H W C"]:
    """eps of each image, a function of its number alone."""
    one = lambda number: jax.random.normal(jax.random.fold_in(key, number), shape)
    return jax.vmap(one)(numbers)


def records(
    out: PathLike, vae: VAE, folder: PathLike, scaling: str, *, progress: bool = True
) -> tuple[LatentRecords, Statistics]:
    """The data to train on, and the mean and std of each channel of the raw latents.

    `folder` is the VAE's, and `scaling` is how a latent becomes x0: `ldm` uses the factor
    and shift of the VAE's config.json, `edm2` EDM2's published means and stds, and
    `measured` those of these latents, so that each channel has mean 0 and std 0.5. The
    statistics of x0 are saved where training looks for them.

    """
    channels = vae.network.latent_channels
    where = {"vae": folder, "vae_low": vae.low, "vae_dtype": vae.network.dtype}
    size = shards.read_header(place(out)).shape[0]
    raw = VAELatents((0.0,) * channels, (1.0,) * channels, 1.0)
    data = LatentRecords(str(out), size, raw)
    dataset = data.load()
    statistics = measured(data, dataset, progress=progress)
    if scaling == "ldm":
        encoder = VAELatents.ldm(vae.factor, vae.shift, channels, **where)
    elif scaling == "edm2":
        encoder = dataclasses.replace(PUBLISHED, **where)
    else:
        encoder = VAELatents(statistics.mean, statistics.std, SIGMA_DATA, **where)
    scaled = dataclasses.replace(data, encoder=encoder)
    scale = encoder.sigma_data / np.array(encoder.std)
    mean = (np.array(statistics.mean) - encoder.mean) * scale
    of_x0 = Statistics(
        statistics.count, tuple(mean.tolist()), tuple((statistics.std * scale).tolist())
    )
    keep(scaled, of_x0, dataset)
    return scaled, statistics
