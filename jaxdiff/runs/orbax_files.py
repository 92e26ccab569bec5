"""Checkpoints on disk as Orbax lays them out: listed, read, written, and named plainly.

Orbax has no exception of its own for damage, and raises almost any other; what it cannot
read is None here. Listing reads names alone, so a damaged checkpoint does not hide others.
"""

import re
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jaxtyping import PyTree

from jaxdiff.runtime import processes
from jaxdiff.runtime.files import Place, printable


def listed(folder: Place) -> list[int]:
    """The steps that have a checkpoint, by their names alone, in ascending order.

    A folder gets its name when it is complete; in a bucket, a marker file is added.
    """
    if not folder.is_dir():
        return []
    named = [path for path in folder.iterdir() if path.name.isdecimal()]
    whole = lambda path: isinstance(path, Path) or (path / COMMITTED).exists()
    return sorted(int(path.name) for path in named if whole(path))


COMMITTED = "commit_success.txt"
"""What Orbax writes last to a checkpoint in a bucket."""


def kept(folder: Place, step: int) -> Any:
    """The JSON saved with a state; None if it is lost."""
    from orbax.checkpoint import v1 as ocp

    try:
        return ocp.metadata(folder / str(step)).custom_metadata
    except Exception as error:
        require_readable(folder / str(step), error)
        return None


def arrays(folder: Place, step: int) -> PyTree | None:
    """The shapes of the arrays of a state, from its metadata; None if that is lost."""
    from orbax.checkpoint import v1 as ocp

    try:
        return ocp.metadata(folder / str(step)).metadata
    except Exception:
        return None


def load(folder: Place, step: int, target: PyTree) -> PyTree | None:
    """A state with the shapes and sharding of `target`, `...` for those that are so there.

    None if it cannot be read.
    """
    from orbax.checkpoint import v1 as ocp

    try:
        return ocp.load(folder / str(step), target)
    except Exception as error:
        require_readable(folder / str(step), error)
        return None


def require_readable(path: Place, error: Exception) -> None:
    """Distinguishes what the system refuses from what is damaged.

    Raises:
        OSError: the files may not be read, or too many are open.
        MemoryError: there is no room for the arrays.
    """
    text, cause = "", error
    while cause is not None:
        text, cause = f"{text} {cause}", cause.__cause__ or cause.__context__
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text:
        raise MemoryError(f"no memory to read {printable(path)}") from error
    for refusal in ("Permission denied", "PERMISSION_DENIED", "Too many open files"):
        if refusal in text:
            raise OSError(f"cannot read {printable(path)}: {refusal}") from error


def line(error: Exception) -> str:
    """The first line of an error's text."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def writer(folder: Place, keep: int, every: int) -> Any:
    """What saves there, keeping the latest `keep` and every step that `every` divides."""
    from orbax.checkpoint import v1 as ocp

    policies = ocp.training.preservation_policies
    kept = [policies.LatestN(keep) if keep else policies.PreserveAll()]
    kept += [policies.EveryNSteps(every)] if every else []
    if processes.first():
        if isinstance(folder, Path):
            folder.resolve().mkdir(parents=True, exist_ok=True)
        _set_aside(folder)
    processes.all_agree(True)
    return ocp.training.Checkpointer(
        folder,
        preservation_policy=policies.AnyPreservationPolicy(kept),
        cleanup_tmp_directories=keep > 0,
    )


def _set_aside(folder: Place) -> None:
    """Renames checkpoints whose metadata Orbax cannot list: it could not open the others.

    Raises:
        ValueError: it can list none.
        OSError: one cannot be renamed.
    """
    from orbax.checkpoint import v1 as ocp

    every, damaged = listed(folder), {}
    for step in every:
        try:
            metadata = ocp.path.step.standard_name_format().find_step(folder, step)
            _ = metadata.commit_timestamp
        except Exception as error:
            require_readable(folder / str(step), error)
            damaged[step] = f"{step} is damaged ({line(error)})"
    if damaged and len(damaged) == len(every):
        reasons = "; ".join(damaged.values())
        raise ValueError(
            f"no checkpoint in {printable(folder)} can be read: {reasons}"
            ". Bring back a copy of the folder, or start over in another --workdir"
        )
    for step, reason in damaged.items():
        aside, count = folder / f"{step}.damaged", 1
        while aside.exists():  # from an earlier time
            count += 1
            aside = folder / f"{step}.damaged-{count}"
        (folder / str(step)).rename(aside)
        warnings.warn(
            f"checkpoint {reason}: it was renamed to {aside.name} and is passed over",
            stacklevel=2,
        )


@contextmanager
def plainly_named(workdir: Place) -> Iterator[Place]:
    """The absolute path; a temporary link to it where Orbax would misread its name.

    Orbax looks for the parts of a checkpoint with the folder's name as a pattern, in which
    [x], * and ? stand for other characters; and the library below it takes a backslash for
    a slash. The link lies in the system's folder for temporary files.

    Raises:
        ValueError: there is no plain name for the link, or a bucket, which has no links.
    """
    if not isinstance(workdir, Path):
        if wrong := re.search(r"[][*?\\\x00-\x1f]", str(workdir)):
            raise ValueError(
                f"no checkpoint can be kept in a bucket's folder with {wrong[0]!r} in its "
                f"name: {printable(workdir)}. Choose another --workdir"
            )
        yield workdir
        return
    path = workdir.absolute()
    if PLAIN.fullmatch(str(path)):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="jaxdiff-") as folder:
        if not PLAIN.fullmatch(folder):
            raise ValueError(
                f"Orbax cannot keep checkpoints under the name {printable(path)}, nor "
                f"under a link in {printable(folder)}: choose another --workdir"
            )
        link = Path(folder) / "run"
        link.symlink_to(path, target_is_directory=True)
        yield link


PLAIN = re.compile(r"[\w./ @+=,~-]{1,2000}")
"""Paths that need no escaping."""
