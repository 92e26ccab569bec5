"""What all tests of whole commands share."""

import os

import pytest

from tests.system.commands import ROOT


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A compilation cache that all commands share, of all they compile."""
    cache = tmp_path_factory.mktemp("cache")
    inherited = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    every = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}  # not by the clock
    return {**inherited, **every, "JAXDIFF_CACHE": str(cache), "PYTHONPATH": str(ROOT)}
