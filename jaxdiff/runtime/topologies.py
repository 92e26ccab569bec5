"""Devices that are not there: compile for any TPU slice or GPU machine on a CPU.

The compilers of TPUs and of NVIDIA GPUs come as Python packages that need no accelerator.
A topology's devices make a mesh as real ones do, but only `lower(...).compile()` of
abstract arrays works with them. [docs.jax.dev/en/latest/aot.html]
"""

import importlib.util
import math
import os
import re
from dataclasses import dataclass
from typing import Any

import jax
from jax.experimental import topologies

from jaxdiff.runtime import xla_flags
from jaxdiff.runtime.chips import CHIPS, Chip

EXAMPLES = "v5e:4x4, v6e:8x8, v5p:4x4x4, v4:2x2x2, h100:8, h200:8 or a100:8"

PACKAGES = {"tpu": ("libtpu", "aot-tpu"), "gpu": ("jax_plugins.xla_cuda13", "aot-gpu")}
"""What compiles for each kind: the module to look for, and the extra that installs it."""


@dataclass(frozen=True)
class Topology:
    """Devices of one kind, to compile for."""

    name: str
    chip: Chip
    devices: tuple[jax.Device, ...]

    @property
    def options(self) -> dict[str, int | bool]:
        """Compiler options: those of a run; and no GPU is there to time kernels on."""
        flags = xla_flags.TPU if self.chip.estimated else xla_flags.GPU
        ours = {flag.split("=")[0].lstrip("-"): flag.endswith("=true") for flag in flags}
        return ours if self.chip.estimated else ours | {"xla_gpu_autotune_level": 0}

    def compile(self, lowered: jax.stages.Lowered) -> jax.stages.Compiled:
        """Compiles for these devices; jax could not read it back from its cache."""
        name = "jax_persistent_cache_min_compile_time_secs"
        before = getattr(jax.config, name)
        jax.config.update(name, 1e9)  # what is compiled faster is not kept
        try:
            return lowered.compile(compiler_options=self.options)
        finally:
            jax.config.update(name, before)


def topology(name: str) -> Topology:
    """The devices of a name such as "v5e:4x4" or "h100:8": a chip, and how many.

    TPU slices are 2-D for v5e and v6e, 3-D for v4 and v5p; GPUs are on machines of 8.

    Raises:
        ValueError: an unknown chip, or a slice that does not exist.
        ImportError: the compiler for this chip is not installed.
    """
    kind, _, size = name.partition(":")
    if kind not in CHIPS or not re.fullmatch(r"[1-9]\d{0,3}(x[1-9]\d{0,2}){0,2}", size):
        raise ValueError(f"{name!r} is not a topology: write {EXAMPLES}")
    chip = CHIPS[kind]
    devices = _tpus(chip, size) if chip.estimated else _gpus(chip, size)
    return Topology(name, chip, tuple(devices))


def installed(kind: str) -> bool:
    """Whether the compiler for "tpu" or "gpu" is installed."""
    try:
        return importlib.util.find_spec(PACKAGES[kind][0]) is not None
    except ModuleNotFoundError:
        return False


def require(kind: str) -> None:
    """Checks that the compiler for "tpu" or "gpu" is installed.

    Raises:
        ImportError: what to install.
    """
    if not installed(kind):
        extra = PACKAGES[kind][1]
        raise ImportError(
            f"compiling for a {kind.upper()} needs a package that works on any machine: "
            f'pip install "jaxdiff[{extra}]", or pip install -e ".[{extra}]" in a clone'
        )


def _tpus(chip: Chip, size: str) -> list[jax.Device]:
    sides = [int(n) for n in size.split("x")]
    options = {"chip_config_name": "megacore"} if chip.name == "v4" else {}
    if all(n == 1 for n in sides):
        options["chips_per_host_bounds"] = (1, 1, 1)
    wrong = ValueError(
        f"{chip.title} has no slice {size}: a slice has {chip.axes} sides, even ones (1x1 "
        f"is one chip, NxNx1 is flat), and at most {chip.most:,} chips, as in {EXAMPLES}"
    )
    if len(sides) != chip.axes or math.prod(sides) > chip.most:
        raise wrong
    require("tpu")
    try:
        layout = f"{chip.name}:{size}"
        return _described(layout, "tpu", **options)
    except jax.errors.JaxRuntimeError as error:
        if "INVALID_ARGUMENT" in str(error):
            raise wrong from None
        raise


ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",  # there is no metadata server to ask
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",  # any: the topology's name decides
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # nobody holds a TPU, so processes may be several
}
"""What the compilers read when they are loaded without a device."""


def _gpus(chip: Chip, size: str) -> list[jax.Device]:
    if not size.isdigit() or (int(size) > MACHINE and int(size) % MACHINE):
        raise ValueError(
            f"{chip.title} comes as a number, up to {MACHINE} or a multiple of it, as "
            f"{chip.name}:8; got {size}"
        )
    require("gpu")
    here = min(int(size), MACHINE)
    layout = f"1x{int(size) // here}x{here}"
    return _described(chip.name, "cuda", target_config=chip.target, topology=layout)


def _described(name: str, platform: str, **options: Any) -> list[jax.Device]:
    os.environ |= {k: v for k, v in ENVIRONMENT.items() if k not in os.environ}
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL") == "1":  # jax's default
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # errors are raised, not logged, too
    return topologies.get_topology_desc(name, platform, **options).devices


MACHINE = 8
"""GPUs of a machine."""
