"""Snapshots: averaged networks on disk, each a small file that can be restored alone.

A step and a width name a file, `0002000-0.1.npz`: an NPZ of the network's parameters and
constants by path, in the dtype they were saved in, and as JSON what they are. A run writes
its tracked averages to `snapshots/`; averages made of those after training, as `posthoc`
says, lie in `posthoc/`. Reading builds arrays and jaxdiff's own types, and runs nothing.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jaxtyping import PyTree

from jaxdiff import posthoc, reprs
from jaxdiff.config import SNAPSHOT_DTYPES, Experiment, differences, from_dict, to_dict
from jaxdiff.files import PathLike, Place, place, write_atomically
from jaxdiff.interop import npz
from jaxdiff.progress import bar as progress_bar

TRACKED, POSTHOC = "snapshots", "posthoc"
"""The folders of a run that hold tracked and reconstructed averages."""


@dataclass(frozen=True, eq=False)
class Snapshot:
    """An averaged network, what it is of, and when it was taken.

    `variables` is {"params", "constants"}, float32 NumPy arrays; `std` the relative width
    of the average, `images` the images seen until `step`.
    """

    __repr__ = reprs.fields

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
    path: Place


def write(folder: PathLike, snapshot: Snapshot, dtype: str = "float16") -> Place:
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
    width = np.format_float_positional(snapshot.std, 6, fractional=False, trim="-")
    path = place(folder) / f"{snapshot.step:07d}-{width}.npz"
    write_atomically(path, lambda file: np.savez(file, **arrays))
    return path


def read(path: PathLike) -> Snapshot:
    """The snapshot in a file, as float32.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or no snapshot.
    """
    path = place(path)
    try:
        arrays = npz.load(path, texts=False)
        said = json.loads(bytes(arrays.pop("json")))
        flat = {name: _widened(array, said["dtype"]) for name, array in arrays.items()}
        numbers = float(said["std"]), int(said["step"]), int(said["images"])
        variables = traverse_util.unflatten_dict(flat, sep="/")
        return Snapshot(from_dict(said["experiment"]), variables, *numbers)
    except FileNotFoundError as error:
        say = f"there is no snapshot {path}: launch/reconstruct.py and training write them"
        raise FileNotFoundError(say) from error
    except DAMAGED as error:
        raise ValueError(f"{path} is damaged, or no snapshot: {error}") from error


DAMAGED = (ValueError, KeyError, TypeError, OSError, RecursionError)
"""What is raised on files that are not what they should be."""


def _widened(saved: np.ndarray, dtype: str) -> np.ndarray:
    return (saved.view(jnp.bfloat16) if dtype == "bfloat16" else saved).astype(np.float32)


def entries(folder: PathLike) -> list[Entry]:
    """The snapshots in a folder, by step and width; other files are passed over."""
    named = (_entry(path) for path in place(folder).glob("*-*.npz"))
    return sorted(e for e in named if e and 0 < e.std < posthoc.WIDEST)


def _entry(path: Place) -> Entry | None:
    step, _, std = path.stem.partition("-")
    try:
        return Entry(int(step), float(std), path)
    except ValueError:
        return None


def find(
    workdir: PathLike, std: float | None = None, step: int | None = None
) -> Place | None:
    """The newest average of a run, of this width and step where they are given.

    Without a width, the newest step's only one, or that which the run samples with.

    Raises:
        ValueError: no width is given, and the newest step has several others.
    """
    workdir = place(workdir)
    found = [*entries(workdir / TRACKED), *entries(workdir / POSTHOC)]
    fit = [e for e in found if step in (None, e.step)]
    if fit and std is None:
        fit = [e for e in fit if e.step == max(fit).step]
        if len(widths := sorted({e.std for e in fit})) > 1:
            std = read(fit[0].path).experiment.sampling.std
            if not any(same(w, std) for w in widths):
                raise ValueError(
                    f"step {fit[0].step} of {workdir} has no average of std {std:g}, which "
                    f"the run samples with: say --std; there are {_listed(widths)}"
                )
    fit = [e for e in fit if std is None or same(e.std, std)]
    return max(fit).path if fit else None


def same(std: float, other: float) -> bool:
    """Whether two widths are one, as far as the names of files tell them apart."""
    return math.isclose(std, other, rel_tol=1e-5)


def _listed(widths: Sequence[float]) -> str:
    return ", ".join(f"{w:g}" for w in widths)


def profile_errors(
    folder: PathLike, targets: Sequence[float], step: int | None = None
) -> list[float]:
    """What `posthoc.profile_errors` says of the averages `reconstruct` would make.

    Raises:
        ValueError: no snapshots, or none of that step.
    """
    found = _until(folder, step)
    times, stds = [e.step for e in found], [e.std for e in found]
    return posthoc.profile_errors(times, stds, found[-1].step, targets).tolist()


def _until(folder: PathLike, step: int | None) -> list[Entry]:
    """The snapshots up to a step, by default the last."""
    found = [e for e in entries(folder) if e.step > 0]
    steps = sorted({e.step for e in found})
    if not found:
        raise ValueError(f"{folder} holds no snapshots: train with --config.snapshot_every")
    if step is not None and step not in steps:
        raise ValueError(f"no snapshot of step {step} in {folder}; there are {steps}")
    return [e for e in found if step is None or e.step <= step]


def _shapes(snapshot: Snapshot) -> dict[str, tuple[int, ...]]:
    flat = traverse_util.flatten_dict(snapshot.variables, sep="/")
    return {name: value.shape for name, value in flat.items()}


def reconstruct(
    folder: PathLike,
    targets: Sequence[float],
    step: int | None = None,
    *,
    progress: bool = False,
) -> list[Snapshot]:
    """Averages of other widths, made of the snapshots in a folder [EDM2 alg. 3].

    Reads each snapshot up to `step`, by default the last, once; memory holds one of them
    and the results. Constants are the last snapshot's.

    Raises:
        ValueError: no snapshots, none of that step, they are not of one run, or one
            holds other tensors than the last.
    """
    found = _until(folder, step)
    end, last = found[-1].step, read(found[-1].path)
    shapes = _shapes(last)

    def params() -> Iterator[Any]:
        for entry in progress_bar(found, unit="snapshot", desc="averaging", show=progress):
            snapshot = read(entry.path)
            if lines := differences(last.experiment, snapshot.experiment):
                raise ValueError(
                    f"{entry.path} and {found[-1].path} are of different runs: {lines[0]}"
                )
            if wrong := sorted(dict(_shapes(snapshot).items() ^ shapes.items())):
                raise ValueError(
                    f"{entry.path} is damaged, or {found[-1].path} is: {wrong[0]} has the "
                    f"shape {_shapes(snapshot).get(wrong[0])} there, "
                    f"{shapes.get(wrong[0])} here"
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
