"""Compiler flags that help GPUs and TPUs, to be set before jax starts a backend.

XLA reads XLA_FLAGS, and the TPU library LIBTPU_INIT_ARGS, once, when a backend starts. An
unknown flag ends the process, and flags set by the user take precedence. None changes
results: each lets communication between devices overlap with computation.
"""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

GPU = (
    # overlaps communication [docs.jax.dev/en/latest/gpu_performance_tips.html], the only
    # flag of NVIDIA's JAX images [docs.nvidia.com/jax-toolbox/environment-variables]
    "--xla_gpu_enable_latency_hiding_scheduler=true",
)
"""XLA_FLAGS. Often recommended, but on by default now: xla_gpu_triton_gemm_any,
xla_gpu_enable_highest_priority_async_stream and xla_gpu_enable_pipelined_reduce_scatter."""

TPU = (
    # the all-reduce of gradients is asynchronous [CF_FOR_ALL_REDUCE in
    # github.com/AI-Hypercomputer/maxtext, benchmarks/xla_flags_library.py]
    "--xla_enable_async_all_reduce=true",
    # and fused with computation; neither flag has an effect alone
    # [suggested in github.com/openxla/xla, docs/flags_guidance.md]
    "--xla_tpu_enable_async_collective_fusion_fuse_all_reduce=true",
)
"""LIBTPU_INIT_ARGS. On by default now: xla_tpu_enable_latency_hiding_scheduler and, for
the gathers of FSDP, xla_tpu_enable_async_collective_fusion with ..._fuse_all_gather."""

OFF = "JAXDIFF_XLA_FLAGS"
"""The environment variable that disables these flags with =off."""


def settings(environ: Mapping[str, str], kind: Literal["gpu", "tpu", ""]) -> dict[str, str]:
    """The variables to set for a kind of machine: our flags, then those already set.

    A flag that is already set keeps its value, and an XLA_FLAGS that names a file of flags
    is not changed. Empty on other machines, or with JAXDIFF_XLA_FLAGS=off.

    Raises:
        ValueError: JAXDIFF_XLA_FLAGS has another value.

    >>> settings({"XLA_FLAGS": "--xla_dump_to=hlo"}, "gpu")
    {'XLA_FLAGS': '--xla_gpu_enable_latency_hiding_scheduler=true --xla_dump_to=hlo'}
    """
    choice = environ.get(OFF, "")
    if choice not in ("", "off"):
        raise ValueError(f"{OFF}={choice}: write {OFF}=off for no flags, or unset it")
    if choice == "off" or not kind:
        return {}
    name, ours = {"gpu": ("XLA_FLAGS", GPU), "tpu": ("LIBTPU_INIT_ARGS", TPU)}[kind]
    theirs = environ.get(name, "").strip()
    if theirs and not theirs.startswith("-"):  # the name of a file
        return {}
    names = {flag.split("=")[0] for flag in theirs.split()}
    new = [flag for flag in ours if flag.split("=")[0] not in names]
    return {name: " ".join([*new, theirs]).strip()} if new else {}


def kind_of_machine(root: Path = Path("/")) -> Literal["gpu", "tpu", ""]:
    """Detects an NVIDIA GPU or a TPU from device and driver files.

    Other hardware has /dev/vfio and /dev/accel* too; they mean a TPU only with its library.
    """
    if any((root / path).exists() for path in NVIDIA):
        return "gpu"
    tpu = (root / "dev/vfio").exists() or any((root / "dev").glob("accel*"))
    return "tpu" if tpu and importlib.util.find_spec("libtpu") else ""


NVIDIA = ("dev/nvidia0", "dev/nvidiactl", "dev/dxg", "proc/driver/nvidia/version")
"""Files of NVIDIA GPUs; dev/dxg is for the Windows Subsystem for Linux."""
