"""Snapshots: averaged networks on disk, each a small file that can be restored alone.

A step and a width name a file, `0002000-0.1.npz`: an NPZ of the network's parameters and
constants by path, in the dtype they were saved in, and their description as JSON. A run
writes its tracked averages to `snapshots/`; averages made of those after training, by
`optim.ema_profiles`, lie in `posthoc/`. Reading builds arrays and jaxdiff's own
types, and runs nothing.
"""

import contextlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jaxtyping import PyTree

from jaxdiff import networks
from jaxdiff.config import SNAPSHOT_DTYPES, Experiment, differences, from_dict, to_dict
from jaxdiff.interop import npz
from jaxdiff.optim import ema_profiles
from jaxdiff.runtime import jsontext
from jaxdiff.runtime.files import PathLike, Place, place, printable, write_atomically
from jaxdiff.runtime.progress import bar as progress_bar
from jaxdiff.types import reprs

TRACKED, POSTHOC = "snapshots", "posthoc"
"""The folders of a run that hold tracked and reconstructed averages."""


@dataclass(frozen=True, eq=False)
class Snapshot:
    """An averaged network, its experiment, and when it was taken.

    `variables` is {"params", "constants"}, float32 NumPy arrays, or what makes one of
    itself when it is written, as `interop.sources.Converted`; `std` the length
    of the average, one of the optimiser's `lengths`, `images` the images seen until `step`.
    """

    __repr__ = reprs.fields

    experiment: Experiment
    variables: PyTree
    std: float
    step: int
    images: int
    classes: tuple[str, ...] = ()
    """Names of the classes, in the order of their labels; () if not known."""


@dataclass(frozen=True, order=True)
class Entry:
    """A file, and the step and width in its name."""

    step: int
    std: float
    path: Place


def write(folder: PathLike, snapshot: Snapshot, dtype: str = "float16") -> Place:
    """Saves one snapshot atomically, and returns its path.

    Raises:
        ValueError: a dtype not in `SNAPSHOT_DTYPES`, or a number that it cannot hold.
    """
    if dtype not in SNAPSHOT_DTYPES:
        raise ValueError(f"snapshots are saved in one of {SNAPSHOT_DTYPES}, not {dtype!r}")
    description = {"dtype": dtype, "experiment": to_dict(snapshot.experiment)}
    description |= {k: getattr(snapshot, k) for k in ("std", "step", "images", "classes")}
    arrays = {"json": np.frombuffer(json.dumps(description).encode(), np.uint8)}
    flat = traverse_util.flatten_dict(snapshot.variables, sep="/")
    for name, value in flat.items():
        arrays[name] = _Narrowed(f"{name} of step {snapshot.step}", value, dtype)
    path = path_of(folder, snapshot)
    write_atomically(path, lambda file: np.savez(file, **arrays))
    return path


@dataclass(frozen=True, eq=False)
class _Narrowed:
    """An array as it is stored; made when it is written, so that one is in memory."""

    name: str
    value: Any
    dtype: str

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        value = np.asarray(self.value)
        with np.errstate(over="ignore"):
            narrow = value.astype(jnp.dtype(self.dtype), copy=False)
        if not np.isfinite(narrow.astype(np.float32, copy=False)).all():
            whole = np.isfinite(np.asarray(value, np.float32)).all()
            wrong = f"does not fit into {self.dtype}" if whole else "has nan or inf in it"
            raise ValueError(f"{self.name} {wrong}")
        # NumPy's files know no bfloat16
        return narrow.view(np.uint16) if self.dtype == "bfloat16" else narrow


def path_of(folder: PathLike, snapshot: Snapshot) -> Place:
    """Where `write` puts a snapshot: a file named by its step and width."""
    width = np.format_float_positional(snapshot.std, 6, fractional=False, trim="-")
    return place(folder) / f"{snapshot.step:07d}-{width}.npz"


def read(path: PathLike) -> Snapshot:
    """The snapshot in a file, as float32, with just the arrays that its network has.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, not a snapshot, or does not fit its network; the message
            names the array, its shape and the expected one.
    """
    path = place(path)
    with _named(path):
        stored = npz.opened(path)
        description = _description(stored.pop("json", None))
        experiment = from_dict(description["experiment"], kind=Experiment)
        held = {name: array.shape for name, array in stored.items()}
        wanted = networks.shapes(experiment.network, experiment.data.shape)
        networks.require_shapes(held, wanted)
        npz.require_bounded("it", [stored[name].member for name in wanted])
        flat = {name: _read(name, stored[name], description["dtype"]) for name in wanted}
        numbers = float(description["std"]), description["step"], description["images"]
        variables = traverse_util.unflatten_dict(flat, sep="/")
        return Snapshot(
            experiment, variables, *numbers, tuple(description.get("classes", ()))
        )


def experiment_of(path: PathLike) -> Experiment:
    """The experiment of a snapshot, none of whose arrays are read.

    Raises:
        FileNotFoundError, ValueError: as `read`, of the file's description.
    """
    path = place(path)
    with _named(path):
        description = _description(npz.opened(path).pop("json", None))
        return from_dict(description["experiment"], kind=Experiment)


@contextlib.contextmanager
def _named(path: Place) -> Iterator[None]:
    """Errors of reading a snapshot say which file it is."""
    try:
        yield
    except FileNotFoundError as error:
        say = f"there is no snapshot {path}: jaxdiff reconstruct and training write them"
        raise FileNotFoundError(say) from error
    except DAMAGED as error:
        raise ValueError(
            f"{printable(path)} is damaged, or no snapshot: {printable(error)}"
        ) from error


DAMAGED = (ValueError, KeyError, TypeError, OSError, OverflowError, RecursionError)
"""The errors of damaged files, and of files that are not snapshots."""

TEXT = 2**22
"""The largest description of a snapshot, in bytes."""


def _description(stored: npz.Stored | None) -> dict[str, Any]:
    """The description in a snapshot, with the type and range of each part checked.

    Raises:
        ValueError: what is wrong.
    """
    if stored is None:
        raise ValueError("it has no array `json`, which says what it is of")
    if stored.member.size > TEXT:
        raise ValueError(f"its description has {stored.member.size:,} bytes")
    description = jsontext.loads(bytes(stored.read()), "its description")
    number = lambda v: type(v) in (int, float) and math.isfinite(v)
    count = lambda v: type(v) is int and 0 <= v < 2**63
    names = lambda v: isinstance(v, list) and all(isinstance(name, str) for name in v)
    for name, right, wanted in (
        ("experiment", lambda v: isinstance(v, dict), "a table"),
        ("dtype", lambda v: v in SNAPSHOT_DTYPES, f"one of {SNAPSHOT_DTYPES}"),
        ("std", lambda v: number(v) and _is_length(v), "the length of an average"),
        ("step", count, "a number of steps"),
        ("images", count, "a number of images"),
        ("classes", names, "a list of names"),
    ):
        value = description.get(name, [] if name == "classes" else None)
        if not right(value):
            raise ValueError(f"its {name} is {str(value)[:80]}, not {wanted}")
    return description


def _read(name: str, stored: npz.Stored, dtype: str) -> np.ndarray:
    """An array as float32.

    Raises:
        ValueError: another dtype than the snapshot says, damage, or nan or infinity in it.
    """
    written = "uint16" if dtype == "bfloat16" else dtype
    if stored.dtype != np.dtype(written):
        raise ValueError(f"{name} is {stored.dtype}, in a snapshot of {dtype}")
    saved = stored.read()
    wide = (saved.view(jnp.bfloat16) if dtype == "bfloat16" else saved).astype(np.float32)
    if not np.isfinite(wide).all():
        raise ValueError(f"{name} has nan or infinity in it")
    return wide


def entries(folder: PathLike) -> list[Entry]:
    """The snapshots in a folder, by step and width; other files are ignored."""
    named = (_entry(path) for path in place(folder).glob("*-*.npz"))
    return sorted(e for e in named if e and _is_length(e.std))


def _is_length(std: float) -> bool:
    """Whether a number is a relative width, a decay below 1, or a half-life above."""
    return 0 < std < math.inf and std != 1


def _entry(path: Place) -> Entry | None:
    step, _, std = path.stem.partition("-")
    try:
        return Entry(int(step), float(std), path)
    except ValueError:
        return None


def find(
    workdir: PathLike, std: float | None = None, step: int | None = None
) -> Place | None:
    """The newest average of a run, of this width and step if given.

    Without a width, the newest step's only one, or that which the run samples with.

    Raises:
        ValueError: no width is given, and the newest step has several others.
    """
    workdir = place(workdir)
    every = [*entries(workdir / TRACKED), *entries(workdir / POSTHOC)]
    fit = [e for e in every if step in (None, e.step)]
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
    """Whether two widths are equal to the precision of file names."""
    return math.isclose(std, other, rel_tol=1e-5)


def _listed(widths: Sequence[float]) -> str:
    return ", ".join(f"{w:g}" for w in widths)


def profile_errors(
    folder: PathLike, targets: Sequence[float], step: int | None = None
) -> list[float]:
    """The `ema_profiles.profile_errors` of the averages that `reconstruct` would make.

    Raises:
        ValueError: no snapshots, or none of that step.
    """
    snapshots = _until(folder, step)
    times, stds = [e.step for e in snapshots], [e.std for e in snapshots]
    return ema_profiles.profile_errors(times, stds, snapshots[-1].step, targets).tolist()


def _until(folder: PathLike, step: int | None) -> list[Entry]:
    """The snapshots of relative widths up to a step, by default the last."""
    every = entries(folder)
    relative = [e for e in every if e.step > 0 and e.std < ema_profiles.WIDEST]
    steps = sorted({e.step for e in relative})
    if every and not relative:
        raise ValueError(
            f"{folder} holds averages of constant memory alone ({every[-1].std:g}): other "
            "lengths are made of power-function averages, so train with optimizer.stds"
        )
    if not relative:
        raise ValueError(f"{folder} holds no snapshots: train with --config.snapshot_every")
    if step is not None and step not in steps:
        raise ValueError(f"no snapshot of step {step} in {folder}; there are {steps}")
    return [e for e in relative if step is None or e.step <= step]


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
        ValueError: no snapshots, none of that step, they are not of one run, or one is
            damaged.
    """
    tracked = _until(folder, step)
    end, last = tracked[-1].step, read(tracked[-1].path)

    def params() -> Iterator[Any]:
        for entry in progress_bar(
            tracked, unit="snapshot", desc="averaging", show=progress
        ):
            snapshot = read(entry.path)
            if lines := differences(last.experiment, snapshot.experiment):
                raise ValueError(
                    f"{entry.path} and {tracked[-1].path} are of different runs: {lines[0]}"
                )
            yield snapshot.variables["params"]

    share = ema_profiles.coefficients(
        [e.step for e in tracked], [e.std for e in tracked], end, targets
    )
    return [
        Snapshot(
            last.experiment,
            {"params": sums, "constants": last.variables.get("constants", {})},
            float(std),
            end,
            last.images,
            last.classes,
        )
        for std, sums in zip(targets, ema_profiles.combine(params(), share), strict=True)
    ]
