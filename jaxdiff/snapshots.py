"""Snapshots: averaged networks on disk, each a small file that can be restored alone.

A step and a width name a file, `0002000-0.1.npz`: an NPZ of the network's parameters and
constants by path, in the dtype they were saved in, and as JSON what they are. A run writes
its tracked averages to `snapshots/`; averages made of those after training, as `posthoc`
says, lie in `posthoc/`. Reading builds arrays and jaxdiff's own types, and runs nothing.
"""

import json
import math
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jaxtyping import PyTree
from tqdm import tqdm

from jaxdiff import posthoc
from jaxdiff.config import SNAPSHOT_DTYPES, Experiment, differences, from_dict, to_dict
from jaxdiff.files import write_atomically

TRACKED, POSTHOC = "snapshots", "posthoc"
"""The folders of a run that hold tracked and reconstructed averages."""


@dataclass(frozen=True, eq=False)
class Snapshot:
    """An averaged network, what it is of, and when it was taken.

    `variables` is {"params", "constants"}, float32 NumPy arrays; `std` the relative width
    of the average, `images` the images seen until `step`.
    """

    experiment: Experiment
    variables: PyTree
    std: float
    step: int
    images: int


@dataclass(frozen=True, order=True)
class Entry:
    """A file, and what its name says."""

    step: int
    std: float
    path: Path


def write(folder: Path, snapshot: Snapshot, dtype: str = "float16") -> Path:
    """Saves one snapshot, whole or not at all, and returns its path.

    Raises:
        ValueError: a dtype not in `SNAPSHOT_DTYPES`, or a number that it cannot hold.
    """
    if dtype not in SNAPSHOT_DTYPES:
        raise ValueError(f"snapshots are saved in one of {SNAPSHOT_DTYPES}, not {dtype!r}")
    said = {"dtype": dtype, "experiment": to_dict(snapshot.experiment)}
    said |= {name: getattr(snapshot, name) for name in ("std", "step", "images")}
    arrays = {"json": np.frombuffer(json.dumps(said).encode(), np.uint8)}
    flat = traverse_util.flatten_dict(snapshot.variables, sep="/")
    for name, value in flat.items():
        with np.errstate(over="ignore"):
            narrow = np.asarray(value).astype(jnp.dtype(dtype))
        if not np.isfinite(narrow.astype(np.float32)).all():
            whole = np.isfinite(np.asarray(value, np.float32)).all()
            wrong = f"does not fit into {dtype}" if whole else "has nan or inf in it"
            raise ValueError(f"{name} of step {snapshot.step} {wrong}")
        # NumPy's files know no bfloat16
        arrays[name] = narrow.view(np.uint16) if dtype == "bfloat16" else narrow
    path = folder / f"{snapshot.step:07d}-{snapshot.std:g}.npz"
    write_atomically(path, lambda file: np.savez(file, **arrays))
    return path


def read(path: Path) -> Snapshot:
    """The snapshot in a file, as float32.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or no snapshot.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            said = json.loads(bytes(file["json"]))
            flat = {k: _widened(file[k], said["dtype"]) for k in file.files if k != "json"}
        numbers = float(said["std"]), int(said["step"]), int(said["images"])
        variables = traverse_util.unflatten_dict(flat, sep="/")
        return Snapshot(from_dict(said["experiment"]), variables, *numbers)
    except FileNotFoundError as error:
        say = f"there is no snapshot {path}: launch/reconstruct.py and training write them"
        raise FileNotFoundError(say) from error
    except DAMAGED as error:
        raise ValueError(f"{path} is damaged, or no snapshot: {error}") from error


DAMAGED = (ValueError, KeyError, TypeError, EOFError, OSError, zipfile.BadZipFile)
"""What NumPy raises on files that are not what they should be."""


def _widened(saved: np.ndarray, dtype: str) -> np.ndarray:
    return (saved.view(jnp.bfloat16) if dtype == "bfloat16" else saved).astype(np.float32)


def entries(folder: Path) -> list[Entry]:
    """The snapshots in a folder, by step and width; other files are passed over."""
    found = []
    for path in folder.glob("*-*.npz"):
        step, _, std = path.stem.partition("-")
        if step.isdigit() and std.replace(".", "", 1).isdigit():
            found.append(Entry(int(step), float(std), path))
    return sorted(found)


def find(workdir: Path, std: float | None = None, step: int | None = None) -> Path | None:
    """The newest average of a run, of this width and step where they are given."""
    found = [*entries(workdir / TRACKED), *entries(workdir / POSTHOC)]
    fit = [e for e in found if step in (None, e.step)]
    fit = [e for e in fit if std is None or math.isclose(e.std, std, rel_tol=1e-5)]
    return max(fit).path if fit else None


def reconstruct(
    folder: Path,
    targets: Sequence[float],
    step: int | None = None,
    *,
    progress: bool = False,
) -> list[Snapshot]:
    """Averages of other widths, made of the snapshots in a folder [EDM2 alg. 3].

    Reads each snapshot up to `step`, by default the last, once; memory holds one of them
    and the results. Constants are the last snapshot's.

    Raises:
        ValueError: no snapshots, none of that step, or they are not of one run.
    """
    found = [e for e in entries(folder) if e.step > 0]
    steps = sorted({e.step for e in found})
    if not found:
        raise ValueError(f"{folder} holds no snapshots: train with --config.snapshot_every")
    if step is not None and step not in steps:
        raise ValueError(f"no snapshot of step {step} in {folder}; there are {steps}")
    end = steps[-1] if step is None else step
    found = [e for e in found if e.step <= end]
    last = read(found[-1].path)

    def params() -> Iterator[Any]:
        for entry in tqdm(found, unit="snapshot", disable=None if progress else True):
            snapshot = read(entry.path)
            if lines := differences(last.experiment, snapshot.experiment):
                raise ValueError(
                    f"{entry.path} and {found[-1].path} are of different runs: {lines[0]}"
                )
            yield snapshot.variables["params"]

    share = posthoc.coefficients(
        [e.step for e in found], [e.std for e in found], end, targets
    )
    return [
        Snapshot(
            last.experiment,
            {"params": sums, "constants": last.variables.get("constants", {})},
            float(std),
            end,
            last.images,
        )
        for std, sums in zip(targets, posthoc.combine(params(), share), strict=True)
    ]
