"""What a start notes of itself."""

import getpass
import json
import platform
import subprocess
from datetime import UTC, datetime, timedelta
from importlib import metadata
from pathlib import Path

import jax
import pytest

from jaxdiff.runtime.files import place
from jaxdiff.runtime.provenance import PACKAGES, commit_of, provenance, started
from jaxdiff.version import __version__
from tests import buckets


def test_versions_and_devices_are_told() -> None:
    made = provenance()
    assert {name: made[name] for name in PACKAGES} == {
        name: metadata.version(name) for name in PACKAGES
    }
    assert (made["jaxdiff"], made["python"]) == (__version__, platform.python_version())
    assert (made["platform"], made["devices"], made["processes"]) == (
        "cpu",
        len(jax.devices()),
        1,
    )
    assert not {platform.node(), getpass.getuser()} & set(made.values())
    assert "/" not in json.dumps(made)  # no path


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone with one commit, of package/code.py."""
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    file = tmp_path / "clone" / "package" / "code.py"
    file.parent.mkdir(parents=True)
    file.write_text("one")
    git(file.parent, "init", "-q")
    git(file, "add", "code.py")
    git(file, "commit", "-qm", "one")
    return file


def git(file: Path, *command: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    return subprocess.check_output(["git", *who, *command], cwd=file.parent, text=True)


def test_the_commit_is_that_of_the_clone(clone: Path) -> None:
    head = git(clone, "rev-parse", "HEAD").strip()
    assert len(head) == 40
    assert commit_of(clone) == head
    (clone.parents[1] / "runs").write_text("not code")
    assert commit_of(clone) == head
    clone.write_text("two")
    assert commit_of(clone) == head + "+"
    git(clone, "commit", "-qam", "two")
    assert commit_of(clone) == git(clone, "rev-parse", "HEAD").strip() != head
    (clone.parent / "new.py").write_text("three")
    assert commit_of(clone).endswith("+")


def test_without_a_clone_there_is_no_commit(
    clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = tmp_path / "code.py"
    alone.write_text("one")
    assert commit_of(alone) is None
    installed = clone.parents[1] / "venv" / "code.py"  # in another's clone, not of it
    installed.parent.mkdir()
    installed.write_text("one")
    assert commit_of(installed) is None
    monkeypatch.setenv("PATH", str(tmp_path))  # no git
    assert commit_of(clone) is None


@pytest.mark.parametrize("cloud", [False, True])
def test_each_start_is_a_line(
    cloud: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    buckets.in_memory(monkeypatch)
    run = place("gs://bucket/run") if cloud else tmp_path / "run"
    started(run, 0, {"steps": 10})
    path = run / "starts.jsonl"
    path.write_bytes(path.read_bytes() + b'{"time": "20')  # killed here
    started(run, 4, {"steps": 20})
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 4]
    assert [row["experiment"] for row in rows] == [{"steps": 10}, {"steps": 20}]
    for row in rows:
        passed = datetime.now(UTC) - datetime.fromisoformat(row["time"])
        assert timedelta(0) <= passed < timedelta(minutes=10)
        assert provenance().items() <= row.items()
