"""What all tests of whole commands share."""

import os

import pytest

from tests.compiling import QUICK
from tests.system.commands import ROOT


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A compilation cache that all commands share, of all they compile."""
    cache, outputs = (tmp_path_factory.mktemp(name) for name in ("cache", "outputs"))
    own = ("XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR")
    inherited = {k: v for k, v in os.environ.items() if k not in own}
    ours = {"XLA_FLAGS": QUICK, "JAXDIFF_CACHE": str(cache), "PYTHONPATH": str(ROOT)}
    return inherited | ours | {"OUTPUTS": str(outputs)}
