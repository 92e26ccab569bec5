"""Images drawn for scoring: kept on disk part by part, so that a stop loses one part.

A folder holds `drawn.json`, the settings of sampling, and a file for every few images,
with their seeds and labels. It is named by the hash of the settings: a second call reuses
the images of the first, and another checkpoint, solver or guidance has another folder.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Int, PyTree, UInt8

from jaxdiff.data import Dataset
from jaxdiff.data.batches import Images, Memory, order, take
from jaxdiff.data.summary import labels_of
from jaxdiff.interop import npz
from jaxdiff.runtime import processes
from jaxdiff.runtime.files import PathLike, place, write_atomically
from jaxdiff.runtime.progress import bar

Make = Callable[[Int[np.ndarray, " n"], Int[np.ndarray, " n"]], UInt8[np.ndarray, "..."]]
"""(seeds, labels) -> uint8 images [n, H, W, C]."""

PART = 512
"""Images in a file."""


@dataclass(frozen=True, eq=False)
class Parts:
    """A source over the files of a folder; at most one is in memory."""

    paths: tuple[Path, ...]
    count: int
    part: int = PART

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.take(np.array([index]))
        return {name: a[0] for name, a in row.items()}

    def take(self, indices: Int[np.ndarray, " B"]) -> dict[str, np.ndarray]:
        """The images [B, H, W, C] and labels [B] of these numbers."""
        numbers = indices // self.part
        rows: dict[str, list[np.ndarray]] = {"image": [], "label": []}
        places = []
        for number in np.unique(numbers):
            at = np.flatnonzero(numbers == number)
            places.append(at)
            arrays = npz.load(self.paths[number], rows.keys())
            for name, kept in rows.items():
                kept.append(arrays[name][indices[at] - number * self.part])
        back = np.argsort(np.concatenate(places))
        return {name: np.concatenate(kept)[back] for name, kept in rows.items()}


def draw(
    folder: PathLike,
    settings: Mapping[str, Any],
    make: Make,
    seeds: Int[np.ndarray, " N"],
    label: Int[np.ndarray, " N"],
    *,
    part: int = PART,
    progress: bool = False,
) -> Parts:
    """One image a seed, drawn unless it is in the folder of its settings already.

    `settings` are all that an image depends on beside seed and label, as JSON. A file
    that is damaged, or of other seeds, is drawn again. Several processes draw together,
    and process 0 writes; all have to see the folder.

    >>> from tempfile import TemporaryDirectory
    >>> black = lambda seeds, label: np.zeros((len(seeds), 8, 8, 1), np.uint8)
    >>> never = lambda seeds, label: 1 / 0
    >>> seeds, label, settings = np.arange(3), np.zeros(3, int), {"solver": "Heun()"}
    >>> with TemporaryDirectory() as folder:
    ...     parts = draw(folder, settings, black, seeds, label)
    ...     len(parts), draw(folder, settings, never, seeds, label).paths == parts.paths
    (3, True)
    """
    text = json.dumps(settings, indent=2, sort_keys=True)
    own = place(folder) / hashlib.sha256(text.encode()).hexdigest()[:12]
    writes = processes.first()
    if writes:
        write_atomically(own / "drawn.json", lambda file: file.write(text.encode()))
    paths = []
    with bar(total=len(seeds), unit="images", desc="drawing", show=progress) as done:
        for first in range(0, len(seeds), part):
            some = slice(first, first + part)
            path = own / f"{seeds[first]:010d}-{len(seeds[some])}.npz"
            there = writes and _holds(path, seeds[some], label[some])
            if not processes.from_first(there):
                image = make(seeds[some], label[some])
                arrays = {"image": image, "label": label[some], "seed": seeds[some]}
                if writes:
                    write_atomically(path, lambda file, a=arrays: np.savez(file, **a))
            paths.append(path)
            done.update(len(seeds[some]))
    processes.wait_for_all()
    return Parts(tuple(paths), len(seeds), part)


def _holds(path: Path, seeds: Int[np.ndarray, " n"], label: Int[np.ndarray, " n"]) -> bool:
    """Whether a file is there, whole, and of these seeds and labels."""
    try:
        arrays = npz.load(path)
        same = [
            np.array_equal(arrays[k], v) for k, v in {"seed": seeds, "label": label}.items()
        ]
        return all(same) and len(arrays["image"]) == len(seeds)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def digest(variables: PyTree) -> str:
    """A hash of networks: which weights drew an image.

    >>> digest({"w": np.zeros(3)}) == digest({"w": np.ones(3)})
    False
    """
    sha256 = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        sha256.update(jax.tree_util.keystr(path).encode())
        sha256.update(np.ascontiguousarray(leaf).tobytes())
    return sha256.hexdigest()


def labels_like(
    dataset: Dataset, count: int, seed: int = 0, *, progress: bool = False
) -> Int[np.ndarray, " N"]:
    """`count` labels in the proportions of a data set: its own, shuffled, again and again.

    >>> from jaxdiff.data import Digits
    >>> labels_like(Digits("test").load(), 300).sum() == sum(range(10)) * 30
    np.True_
    """
    label, n = labels(dataset.source, progress=progress), len(dataset)
    epochs = range(-(-count // n))
    return np.concatenate([label[order(n, seed, e)] for e in epochs])[:count]


def labels(source: Images, *, progress: bool = False) -> Int[np.ndarray, " N"]:
    """The labels of all images, without reading these where the source has them apart."""
    apart = labels_of(source)
    if apart is not None:
        return np.asarray(apart, np.int32)
    parts = np.array_split(np.arange(len(source)), -(-len(source) // 256))
    reading = bar(parts, unit="x 256 labels", desc="reading", show=progress)
    return np.concatenate([take(source, part)["label"] for part in reading])


def in_memory(images: UInt8[np.ndarray, "N H W C"]) -> Memory:
    """Images as a source; without labels.

    >>> len(in_memory(np.zeros((3, 8, 8, 1), np.uint8)))
    3
    """
    return Memory(images, np.full(len(images), -1, np.int32))
