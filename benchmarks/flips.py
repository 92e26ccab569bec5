"""Is damage to a file that users feed ever silent, or a stack trace?

    python benchmarks/flips.py --flips=2000

Flips one random bit of a small file at a time, for each kind of file: pictures in PNG,
JPEG, WebP and TIFF, a ZIP of pictures, an NPZ of samples, plain and compressed, an NPZ of
latents, records (a shard and its header), and a dataset.json. Reads it as training or
scoring does, to the last image, and counts how it ended:

    whole      the data are what they were
    refused    one line, a ValueError or OSError
    fewer      files are missing, and are counted with the reason for it
    changed    other data without a word: a fault, unless the format has no checksum
    crashed    any other exception: a fault, whatever the format

Bits are drawn from all bytes but runs of PADDING zeros and more, of which shards have many.
It ends with status 1 if there is a fault. A seed makes the same flips again.
"""

import dataclasses
import hashlib
import io
import json
import sys
import tempfile
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from PIL import Image
from tqdm import tqdm

from jaxdiff.commands import command
from jaxdiff.data import (
    Dataset,
    Folder,
    LatentRecords,
    Latents,
    Records,
    VAELatents,
    prepare,
    write_latents,
)
from jaxdiff.evaluation import images_in

FLIPS = flags.DEFINE_integer("flips", 2000, "Flips for each kind of file.", lower_bound=1)
SEED = flags.DEFINE_integer("seed", 0, "Of the random bits.")
ONLY = flags.DEFINE_list("only", [], "Kinds to try; default all.")
SIZE = 16
ONE = VAELatents(mean=(0.0,), std=(1.0,))


@dataclasses.dataclass(frozen=True)
class Kind:
    """A file to damage, how its data are read, and whether a checksum guards them."""

    path: Path
    load: Callable[[], Any]
    guarded: bool


def pictures() -> list[np.ndarray]:
    """Small pictures, each of its own noise."""
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (SIZE, SIZE, 3), np.uint8) for _ in range(4)]


def encoded(image: np.ndarray, kind: str) -> bytes:
    """A picture as a file of this format."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind)
    return file.getvalue()


def picture(folder: Path, name: str, kind: str, guarded: bool, wide: bool = False) -> Kind:
    """A folder of one picture."""
    image = pictures()[0]
    image = image[..., 0].astype(np.uint16) * 257 if wide else image
    (folder / "0").mkdir(parents=True)
    path = folder / "0" / name
    path.write_bytes(encoded(image, kind))
    return Kind(path, lambda: Folder(folder, SIZE).load(), guarded)


def archive(folder: Path, table: bool = False) -> Kind:
    """A ZIP of pictures in two classes, or with labels in a dataset.json."""
    folder.mkdir()
    path, names = folder / "a.zip", ["cat/0.png", "cat/1.png", "dog/0.png", "dog/1.png"]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, image in zip(names, pictures(), strict=True):
            file.writestr(name, encoded(image, "PNG"))
        if table:
            rows = [[name, i] for i, name in enumerate(names)]
            file.writestr("dataset.json", json.dumps({"labels": rows}))
    return Kind(path, lambda: Folder(path, SIZE).load(), True)


def table(folder: Path) -> Kind:
    """A dataset.json beside pictures, which has no checksum."""
    rows = []
    (folder / "00000").mkdir(parents=True)
    for i, image in enumerate(pictures()):
        (folder / f"00000/{i}.png").write_bytes(encoded(image, "PNG"))
        rows.append([f"00000/{i}.png", i])
    path = folder / "dataset.json"
    path.write_text(json.dumps({"labels": rows}))
    return Kind(path, lambda: Folder(folder, SIZE).load(), False)


def samples(folder: Path, save: Callable[..., None]) -> Kind:
    """An NPZ as jaxdiff sample writes it."""
    folder.mkdir()
    path, images = folder / "a.npz", np.stack(pictures())
    save(path, images=images, label=np.arange(4), seed=np.arange(4))
    return Kind(path, lambda: Dataset(images_in(path)), True)


def latents(folder: Path) -> Kind:
    """An NPZ of latents."""
    random = np.random.default_rng(0)
    values = random.uniform(0, 1, (2, 4, 4, 4, 1)).astype(np.float32)
    path = folder / "a.npz"
    row = (values[0], values[1], np.array([0, 1, 2, 0]))
    write_latents(path, 4, [row], ["a", "b", "c"], progress=False)
    return Kind(path, lambda: Latents(path, 4, ONE).load(), True)


def records(folder: Path, name: str) -> Kind:
    """Records of the pictures: a shard, or their header."""
    for i, image in enumerate(pictures()):
        (folder / f"in/{i % 2}").mkdir(parents=True, exist_ok=True)
        (folder / f"in/{i % 2}/{i}.png").write_bytes(encoded(image, "PNG"))
    out = folder / "out"
    prepare.prepare(Folder(folder / "in", SIZE), out, "raw", 4, progress=False)
    path = next(out.glob(name))
    return Kind(path, lambda: Records(out, SIZE).load(), True)


def latent_records(folder: Path) -> Kind:
    """Records of latents: a shard."""
    source = latents(folder)
    out = folder / "out"
    prepare.prepare(Latents(source.path, 4, ONE), out, "raw", 4, progress=False)
    path = next(out.glob("*.array_record"))
    return Kind(path, lambda: LatentRecords(out, 4, ONE).load(), True)


KINDS: dict[str, Callable[[Path], Kind]] = {
    "PNG": lambda f: picture(f, "a.png", "PNG", True),
    "PNG of 16 bits": lambda f: picture(f, "a.png", "PNG", True, wide=True),
    "JPEG": lambda f: picture(f, "a.jpg", "JPEG", False),
    "WebP": lambda f: picture(f, "a.webp", "WEBP", False),
    "TIFF of 16 bits": lambda f: picture(f, "a.tif", "TIFF", False, wide=True),
    "ZIP of pictures": archive,
    "ZIP with dataset.json": lambda f: archive(f, table=True),
    "dataset.json": table,
    "sample NPZ": lambda f: samples(f, np.savez),
    "sample NPZ, compressed": lambda f: samples(f, np.savez_compressed),
    "latents NPZ": latents,
    "records' shard": lambda f: records(f, "*.array_record"),
    "records' header": lambda f: records(f, "records.json"),
    "latent records' shard": latent_records,
}


PADDING = 64
"""Zeros in a row that are taken for padding."""


def used(data: bytes) -> np.ndarray:
    """The numbers of the bytes that are not in a long run of zeros."""
    filled = np.flatnonzero(np.frombuffer(data, np.uint8))
    near = np.zeros(len(data), bool)
    for first, last in zip(filled, np.append(filled[1:], len(data)), strict=True):
        near[first : min(last, first + PADDING)] = True
    return np.flatnonzero(near)


def digest(dataset: Dataset) -> str:
    """A hash of all that a run would see: images, labels, names of classes."""
    sha256 = hashlib.sha256(repr(dataset.classes).encode())
    for i in range(len(dataset)):
        row = dataset.source[i]
        sha256.update(np.ascontiguousarray(row["image"]).tobytes() + b"%d" % row["label"])
    return sha256.hexdigest()


def outcome(kind: Kind, whole: str, left_out: int) -> tuple[str, str]:
    """How reading the damaged file ended, and the line or the exception."""
    try:
        dataset = kind.load()
        same = digest(dataset) == whole
        if not same and sum(n for n, _ in dataset.left_out.values()) > left_out:
            return "fewer", ""
        return ("whole" if same else "changed"), ""
    except (ValueError, OSError) as error:
        lines = str(error).count("\n")
        return ("crashed" if lines else "refused"), repr(error)
    except Exception as error:
        return "crashed", repr(error)


def main() -> None:
    """Flips, reads, counts, and says what was a fault."""
    warnings.simplefilter("ignore")
    if unknown := {*ONLY.value} - KINDS.keys():
        raise ValueError(f"--only: no kinds {sorted(unknown)}; there are {[*KINDS]}")
    words, faults = ("whole", "refused", "fewer", "changed", "crashed"), 0
    print(f"{'':24}" + "".join(f"{word:>9}" for word in words))
    for number, (name, make) in enumerate(KINDS.items()):
        if ONLY.value and name not in ONLY.value:
            continue
        with tempfile.TemporaryDirectory() as folder:
            kind = make(Path(folder) / "data")
            dataset = kind.load()
            whole, data = digest(dataset), kind.path.read_bytes()
            left_out = sum(n for n, _ in dataset.left_out.values())
            counts: Counter[str] = Counter()
            random = np.random.default_rng([SEED.value, number])
            places = 8 * random.choice(used(data), FLIPS.value) + random.integers(
                0, 8, FLIPS.value
            )
            for bit in tqdm(places.tolist(), leave=False):
                damaged = bytearray(data)
                damaged[bit // 8] ^= 1 << bit % 8
                kind.path.write_bytes(damaged)
                how, line = outcome(kind, whole, left_out)
                counts[how] += 1
                if how == "crashed" or (how == "changed" and kind.guarded):
                    faults += 1
                    print(f"  fault: {name}, bit {bit}: {how} {line[:300]}")
        note = "" if kind.guarded else "  (has no checksum)"
        print(f"{name:24}" + "".join(f"{counts[word]:9,}" for word in words) + note)
    print(f"{faults} faults")
    if faults:
        sys.exit(1)


if __name__ == "__main__":
    command.run(main)
