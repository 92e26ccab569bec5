"""A run's provenance: versions, commit and devices, recorded at each start."""

import json
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from jaxdiff.runtime.files import PathLike, lines, place, write_atomically
from jaxdiff.version import __version__

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def provenance() -> dict[str, str | int]:
    """Versions by package, the commit if the code is in a git clone, and the devices.

    The commit ends in + if the code was modified. Nothing identifies the machine.

    >>> versions = provenance()
    >>> versions["jax"] == jax.__version__, versions["devices"] == jax.device_count()
    (True, True)
    """
    versions = {"jaxdiff": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    commit = commit_of(Path(__file__))
    return (
        versions
        | ({"commit": commit} if commit else {})
        | {"platform": jax.default_backend(), "device_kind": jax.devices()[0].device_kind}
        | {"devices": jax.device_count(), "processes": jax.process_count()}
    )


def commit_of(file: PathLike) -> str | None:
    """The commit of a file's git clone, + if its folder is modified; None without one."""
    file = place(file)

    def git(*command: str) -> str:
        completed = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(file.parent), *command],
            capture_output=True, text=True, check=True, timeout=10,
        )  # fmt: skip
        return completed.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", file.name)  # not just a folder in another clone
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", ".") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def started(
    workdir: PathLike,
    start: int,
    experiment: Mapping[str, Any],
    notes: Sequence[str] = (),
    arguments: Sequence[str] = (),
) -> None:
    """Records in starts.jsonl that a run starts or resumes after this many steps.

    A line is {"time", "step", those of `provenance`, "notes", "arguments", "experiment"},
    with the whole experiment from that step on; `notes` list what changed, or where the
    network comes from, and `arguments` are those of `jaxdiff train`. A line truncated by a
    kill is dropped.
    """
    now = datetime.now(UTC).isoformat(timespec="seconds")
    line = {"time": now, "step": start, **provenance(), "notes": list(notes)}
    line |= {"arguments": list(arguments), "experiment": dict(experiment)}
    path = place(workdir) / "starts.jsonl"
    whole = [before for before in lines(path) if before.endswith("\n")]
    text = "".join([*whole, json.dumps(line) + "\n"]).encode()
    write_atomically(path, lambda file: file.write(text))
