"""Eight virtual CPU devices and float64 on demand, on any machine."""

import atexit
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # `from tests.toys import ...`

# Compiling takes most of the time: the older emitters of fusions take half as long.
# A device that lags behind makes XLA abort the process after 40 s unless told to wait.
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_backend_optimization_level=0",
        "--xla_cpu_use_fusion_emitters=false",
        "--xla_force_host_platform_device_count=8",
        "--xla_cpu_collective_call_warn_stuck_timeout_seconds=300",
        "--xla_cpu_collective_call_terminate_timeout_seconds=600",
    ]
)

os.environ["JAXDIFF_QUIET_IMPORT"] = "1"  # tests read stderr, on busy machines too

import jax

# What one process has compiled, the others of this run load.
SHARED = "JAXDIFF_TESTS_COMPILED"
if SHARED not in os.environ:
    os.environ[SHARED] = tempfile.mkdtemp(prefix="jaxdiff-tests-")
    atexit.register(shutil.rmtree, os.environ[SHARED], ignore_errors=True)

jax.config.update("jax_compilation_cache_dir", os.environ[SHARED])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@pytest.fixture
def x64() -> Iterator[None]:
    """Float64 for one test."""
    with jax.enable_x64(True):
        yield
