"""Writes any data set as array_record shards, in order, resuming where it stopped.

Shard k has the images k S ... (k + 1) S - 1, without unreadable ones if these are skipped.
A shard gets its name once it is complete, and then a new header replaces the old one and
lists it. So after a kill at any moment, the same call writes only what is missing.
"""

import concurrent.futures
import dataclasses
import io
import itertools
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import jax
import numpy as np
from jaxtyping import UInt8

from jaxdiff.data.batches import Images, LeftOut
from jaxdiff.data.encoders import encoder_of
from jaxdiff.data.formats import shards
from jaxdiff.data.skipping import Skipping
from jaxdiff.data.sources.folder import Files
from jaxdiff.runtime import processes
from jaxdiff.runtime.files import write_atomically
from jaxdiff.runtime.progress import bar as progress_bar
from jaxdiff.types.ranges import quote

ENCODINGS = ("raw", "png", "file")
CHUNK = 64
"""Images in memory at a time."""

Pack = Callable[[int], bytes | None]
"""The record of an image; None if it is skipped."""
Rows = Callable[[range, Callable[[int], object]], Iterator[bytes]]
"""(images, made) -> their records in order; calls `made` with each number finished."""


@dataclasses.dataclass(frozen=True)
class Prepared:
    """The result: the header, skipped images, and the shards that existed before.

    `left_out` are the files that are not used, by reason.
    """

    header: shards.Header
    skipped: int
    kept: int
    left_out: Mapping[str, LeftOut]


def prepare(
    data: Any, out: Path, encoding: str, shard_size: int, *, progress: bool = True
) -> Prepared:
    """Writes the images or latents of a data source, `shard_size` to a shard.

    `encoding` is "raw", arrays; "png", the cropped images as PNG files; or "file", for a
    `Folder` only, the original files.

    Raises:
        ImportError: array_record is not installed.
        ValueError: an unknown encoding, an invalid size, data that do not suit the
            encoding, an image that cannot be read, or a folder with other records.
    """
    shards.module()
    dataset = data.load()
    skips = isinstance(dataset.source, Skipping)
    source = dataset.source.of if skips else dataset.source
    header = header_of(out, planned(data, source, dataset.classes, encoding, shard_size))
    pack, count, kept = packer(source, encoding, skips), len(source), len(header.shards)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        rows = lambda images, made: records(images, pack, pool, made)
        header = complete(out, header, rows, progress=progress)
    return Prepared(header, count - header.count, kept, dataset.left_out)


def complete(
    out: Path, header: shards.Header, rows: Rows, *, progress: bool, together: int = 1
) -> shards.Header:
    """Writes the shards missing from a header, each atomically.

    Of processes that write `together`, each writes one shard at a time, and process 0 the
    header once all are there.
    """
    count, size = header.of["images"], header.of["shard_size"]
    range_of = lambda first, n: range(first * size, min((first + n) * size, count))
    before = len(range_of(0, len(header.shards)))
    how = {"unit": "img", "desc": "Writing records", "show": progress}
    with progress_bar(total=count, initial=before, **how) as bar:
        for first in range(len(header.shards), header.total, together):
            own = first + (jax.process_index() if together > 1 else 0)
            images, shard = range_of(own, 1), None
            if own < header.total:
                path = out / f"{own:05d}-of-{header.total:05d}.array_record"
                shard = dataclasses.asdict(write(path, rows(images, bar.update)))
            bar.update(len(range_of(first, together)) - len(images))
            written = processes.from_each(shard) if together > 1 else [shard]
            new = [shards.Shard(**each) for each in written if each]
            header = dataclasses.replace(header, shards=(*header.shards, *new))
            if together == 1 or processes.first():
                _keep(out, header)
    if together > 1:
        processes.wait_for_all()
    return header


def planned(
    data: Any, source: Images, classes: tuple[str, ...], encoding: str, shard_size: int
) -> shards.Header:
    """The header before the first shard.

    Raises:
        ValueError: an unknown encoding, an invalid size, or data that do not suit it.
    """
    if encoding not in ENCODINGS or shard_size < 1:
        raise ValueError(
            f"encoding must be one of {ENCODINGS} and shard_size at least 1, got "
            f"{encoding!r} and {shard_size}"
        )
    if encoding == "file" and not isinstance(source, Files):
        raise ValueError("these data are not image files: use --encoding=png or raw")
    stored = encoder_of(data).stored(data.shape)
    pixels = stored.dtype == np.uint8
    if encoding == "png" and not (pixels and stored.shape[-1] in (1, 3)):
        raise ValueError(
            f"no PNG is made of {stored.dtype} {stored.shape}: use --encoding=raw"
        )
    return shards.Header(
        "raw" if encoding == "raw" else "file",
        "uint8" if pixels else str(source[0]["image"].dtype),
        stored.shape,
        classes,
        math.ceil(len(source) / shard_size),
        (),
        {"data": repr(data), "shard_size": shard_size, "encoding": encoding}
        | {"images": len(source)},
    )


def header_of(out: Path, new: shards.Header) -> shards.Header:
    """The header in a folder of these records; creates the folder if needed.

    Raises:
        ValueError: the folder has other records or other files, or a shard is missing.
    """
    if not (out / shards.HEADER).exists():
        strange = next(out.iterdir(), None) if out.exists() else None
        if strange is not None:
            raise ValueError(f"{out} has {strange.name!r} in it: name an empty folder")
        _keep(out, new)
    header = shards.read_header(out)
    if dataclasses.replace(header, shards=()) != new:
        there, here = ({**vars(h), **h.of} for h in (header, new))
        lines = [
            f"{name} is {quote(there.get(name))} there, {quote(here.get(name))} here"
            for name in {**here, **there}
            if name not in ("of", "shards") and there.get(name) != here.get(name)
        ]
        raise ValueError(
            f"{out} has records of another kind ({'; '.join(lines)}): name another folder"
        )
    for shard in header.shards:
        shards.opened(out / shard.name, shard)
    for path in out.glob("tmp*"):  # left by a process that was killed
        path.unlink()
    return header


def packer(source: Images, encoding: str, skips: bool) -> Pack:
    """A function that packs an image's record; it decodes each once, to detect damage."""

    def payload(index: int, image: np.ndarray) -> bytes:
        if encoding == "file":
            return source.paths[index].read_bytes()
        return png(image) if encoding == "png" else np.ascontiguousarray(image).tobytes()

    def pack(index: int) -> bytes | None:
        try:
            row = source[index]
        except ValueError:
            if skips:
                return None
            raise
        return shards.pack(int(row["label"]), payload(index, row["image"]))

    return pack


def records(
    images: range,
    pack: Pack,
    pool: concurrent.futures.Executor,
    made: Callable[[int], object],
) -> Iterator[bytes]:
    """The records of these images in order; threads make a few at a time."""
    numbers = iter(images)
    while chunk := list(itertools.islice(numbers, CHUNK)):
        yield from (record for record in pool.map(pack, chunk) if record is not None)
        made(len(chunk))


def write(path: Path, rows: Iterator[bytes]) -> shards.Shard:
    """Writes a shard of these records atomically."""
    counted = itertools.count()

    def fill(file: BinaryIO) -> None:
        writer = shards.module().ArrayRecordWriter(file.name, shards.WRITTEN)
        try:
            for record in rows:
                writer.write(record)
                next(counted)
        finally:
            writer.close()

    write_atomically(path, fill)
    size, digest = path.stat().st_size, shards.sha256(path)
    return shards.Shard(path.name, next(counted), size, digest)


def png(image: UInt8[np.ndarray, "H W C"]) -> bytes:
    """A PNG file of an image of one or three channels."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(file, "PNG")
    return file.getvalue()


def _keep(out: Path, header: shards.Header) -> None:
    text = shards.dumps(header)
    write_atomically(out / shards.HEADER, lambda file: file.write(text))
