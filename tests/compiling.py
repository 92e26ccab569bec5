"""How programs are compiled in tests: quickly, once, for eight devices.

Imported before JAX, by `conftest`. What is set here is for processes that tests start, too.
"""

import atexit
import functools
import itertools
import os
import shutil
import tempfile
import zlib

# Compiling takes most of the time: a quarter of it without LLVM's optimizations and with
# the older emitters of fusions, and a fifth less again if a program is one piece of code.
QUICK = (
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false "
    "--xla_cpu_parallel_codegen_split_count=1"
)
# A device that lags behind makes XLA abort the process after 40 s unless told to wait.
DEVICES = (
    "--xla_force_host_platform_device_count=8 "
    "--xla_cpu_collective_call_warn_stuck_timeout_seconds=300 "
    "--xla_cpu_collective_call_terminate_timeout_seconds=600"
)
LONG = {"xla_backend_optimization_level": 2}
"""`compiler_options` of a program that runs for seconds, which this more than halves."""

if QUICK not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICK} {DEVICES}"

os.environ["JAX_PLATFORMS"] = "cpu"  # compilers for other devices may be installed
os.environ["JAXDIFF_KEEP_MEMORY"] = "off"  # a process lets go of what past files compiled
os.environ["JAXDIFF_QUIET_IMPORT"] = "1"  # tests read stderr, on busy machines too

# What one process has compiled, the others of this run load, notebooks too.
SHARED = "JAXDIFF_TESTS_COMPILED"
if SHARED not in os.environ:
    os.environ[SHARED] = tempfile.mkdtemp(prefix="jaxdiff-tests-")
    atexit.register(shutil.rmtree, os.environ[SHARED], ignore_errors=True)
os.environ["JAX_COMPILATION_CACHE_DIR"] = os.environ[SHARED]
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

PROGRAMS = 500
"""That share one MLIR context, which keeps their types and constants for as long."""


def store_uncompressed() -> None:
    """Writes programs to the cache as they are, as zlib's format allows.

    JAX compresses each, which takes as long as to write it down in the first place.
    """
    from jax._src import compilation_cache

    stored = functools.partial(zlib.compress, level=0)
    if compilation_cache.zstandard is compilation_cache.zstd is None:
        compilation_cache.compress_executable = stored


def share_contexts() -> None:
    """Writes many programs in one MLIR context.

    JAX makes one for each, and registers all operations of all dialects with it: 3 ms of
    the 14 that a program of one operation takes to compile, of the 8 to load.
    """
    from jax._src.interpreters import mlir

    make, count = mlir.make_ir_context, itertools.count()
    context = functools.lru_cache(maxsize=1)(lambda generation: make())
    mlir.make_ir_context = lambda: context(next(count) // PROGRAMS)
