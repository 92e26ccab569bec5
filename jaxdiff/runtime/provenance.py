"""What made a run: versions, the commit, and the devices, noted at each of its starts."""

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
    """Versions by package, the commit where the code is a git clone's, and the devices.

    A commit ends in + where the code differs from it. Nothing identifies the machine.

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
    """The commit of a file's git clone, + if its folder differs; None without a clone."""
    file = place(file)

    def git(*command: str) -> str:
        completed = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(file.parent), *command],
            capture_output=True, text=True, check=True, timeout=10,
        )  # fmt: skip
        return completed.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", file.name)  # not merely inside of another clone
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", ".") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def started(
    workdir: PathLike,
    start: int,
    experiment: Mapping[str, Any],
    notes: Sequence[str] = (),
) -> None:
    """Notes in starts.jsonl that a run begins, or goes on, after this many steps.

    A line is {"time", "step", those of `provenance`, "notes", "experiment"}, the whole
    experiment as it is from that step on; `notes` say what changed, or where the network
    comes from. A line that a kill cut short is dropped.
    """
    now = datetime.now(UTC).isoformat(timespec="seconds")
    line = {"time": now, "step": start, **provenance(), "notes": list(notes)}
    line["experiment"] = dict(experiment)
    path = place(workdir) / "starts.jsonl"
    whole = [before for before in lines(path) if before.endswith("\n")]
    text = "".join([*whole, json.dumps(line) + "\n"]).encode()
    write_atomically(path, lambda file: file.write(text))
