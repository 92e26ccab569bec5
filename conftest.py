"""Eight virtual CPU devices and float64 on demand, on any machine; and what makes it quick.

tests/README.md says how the time is spent.
"""

import gc
import os
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # `from tests.toys import ...`

from tests import checking as checking, compiling  # isort: skip  # JAX reads what it sets

import jax

# Bytecode is kept: each of the commands that are tests imports the whole package.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# A program's origin in the source, up to 100 frames for each operation, is not written.
jax.config.update("jax_traceback_in_locations_limit", 0)
compiling.share_contexts()
compiling.store_uncompressed()


class Unchecked:
    """Finds the commands as Python does, in place of jaxtyping, which would check types.

    They are imported anew for each command that a test runs (cases/commands.py), and
    beartype takes a class of the same name for the one of the first import.
    """

    @staticmethod
    def find_spec(name: str, *where: Any) -> ModuleSpec | None:
        """A module of the commands; None for any other."""
        ours = name.startswith("jaxdiff.commands")
        return PathFinder.find_spec(name, *where) if ours else None


sys.meta_path.insert(0, Unchecked())

HEAVY = 3 * 2**30
"""Bytes of a process above which it lets go of the programs that past files compiled."""


def pytest_collection_finish() -> None:
    """What is imported stays: the collector of garbage need not look at it again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Programs are cleared between files, where memory has become large."""
    if nextitem is not None and nextitem.path != item.path and _resident() > HEAVY:
        jax.clear_caches()
        gc.collect()


def _resident() -> int:
    """Bytes of memory of this process; 0 where the system does not tell."""
    try:
        pages = Path("/proc/self/statm").read_text().split()[1]
    except OSError:
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Each process takes one half of the files, and from the other's when it is done.

    A file's tests stay together, and with them what they compile and train once.
    """
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log) if config.option.dist == "load" else None


@pytest.fixture
def x64() -> Iterator[None]:
    """Float64 for one test."""
    with jax.enable_x64(True):
        yield
