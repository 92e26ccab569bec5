"""Accelerators: what a chip holds, moves and multiplies, as published.

TPU: peak, memory and links from cloud.google.com/tpu/docs, the pages v4, v5e, v5p and v6e;
bytes left to a program are those that the compiler names when a program is too large
("exceeds available HBM (15.75G)", libtpu 0.0.42); clocks follow from the peak and the size
of the matrix units, 2 size^2 operations a cycle each [jax-ml.github.io/scaling-book/tpus].
GPU: NVIDIA's data sheets of A100 80GB, H100 and H200, the SXM boards, without sparsity;
bytes, cores and caches are what such a device reports to XLA, which takes three quarters
of the bytes [docs.jax.dev/en/latest/gpu_memory_allocation.html].
"""

import math
import types
from collections.abc import Mapping
from dataclasses import dataclass

GIB = 2**30


@dataclass(frozen=True)
class Chip:
    """One jax device: a TPU chip with all its cores, or a GPU."""

    name: str
    title: str
    memory: int
    """Bytes that a program can use."""
    flops: float
    """Peak operations a second in bfloat16."""
    bandwidth: float
    """Bytes a second of the main memory."""
    links: float
    """Bytes a second that it can send to other chips nearby, over all links."""
    lanes: int = 0
    """Edge of a TPU's matrix unit: channels fill up to a multiple of it. 0 on GPUs."""
    clock: float = 0.0
    """Cycles a second, for the TPU compiler's estimates; 0 on GPUs."""
    axes: int = 1
    """Axes of a slice."""
    most: int = 8192
    """Chips of the largest slice."""
    target: str = ""
    """How XLA's GPU compiler is told of the device: a GpuTargetConfigProto in text form."""

    @property
    def estimated(self) -> bool:
        """Whether its compiler estimates time."""
        return self.clock > 0


def _gpu(
    capability: int, cores: int, lanes: int, shared: int, cache: int, **more: int | float
) -> str:
    """The description of a GPU for XLA: its multiprocessors, memory and caches."""
    fields = {
        "threads_per_block_limit": 1024,
        "threads_per_warp": 32,
        "threads_per_core_limit": 2048,
        "registers_per_core_limit": 65536,
        "registers_per_block_limit": 65536,
        "block_dim_limit_x": 2**31 - 1,
        "block_dim_limit_y": 65535,
        "block_dim_limit_z": 65535,
        "shared_memory_per_block": 48 * 1024,
        "core_count": cores,
        "fpus_per_core": lanes,
        "shared_memory_per_core": shared,
        "shared_memory_per_block_optin": shared - 1024,
        "l2_cache_size": cache,
        **more,
    }
    text = " ".join(f"{name}: {value}" for name, value in fields.items())
    return (
        f"gpu_device_info {{ {text} cuda_compute_capability {{ major: {capability} }} }} "
        'platform_name: "CUDA" runtime_version { major: 13 } '
        "dnn_version_info { major: 9 minor: 10 } "
    )


def _tpu(
    name: str,
    gib: float,
    flops: float,
    bandwidth: float,
    links: float,
    lanes: int,
    clock: float,
    axes: int,
    most: int,
) -> Chip:
    memory, tiles = int(gib * GIB), (lanes, clock, axes, most)
    return Chip(name, f"TPU {name}", memory, flops, bandwidth, links, *tiles)


def _left(memory: int) -> int:
    """Bytes of a GPU's memory that XLA takes for programs, by default."""
    return memory * 3 // 4


def _hopper(title: str, memory: int, bandwidth: float) -> Chip:
    target = _gpu(
        *(9, 132, 128, 228 * 1024, 50 * 2**20),
        memory_bandwidth=int(bandwidth),
        clock_rate_ghz=1.98,
        device_memory_size=memory,
    )
    described = f'{target}device_description_str: "NVIDIA {title}"'
    name = title.split()[0].lower()
    rates = 989e12, bandwidth, 450e9
    return Chip(name, f"NVIDIA {title}", _left(memory), *rates, target=described)


CHIPS: Mapping[str, Chip] = types.MappingProxyType(
    {
        chip.name: chip
        for chip in (
            # name, title, GiB for programs, peak, bandwidth, links (one way), edge of the
            # matrix unit, clock, axes and chips of slices
            _tpu("v4", 30.75, 275e12, 1228e9, 270e9, 128, 1.05e9, 3, 4096),
            _tpu("v5e", 15.75, 197e12, 819e9, 180e9, 128, 1.5e9, 2, 256),
            _tpu("v5p", 95.74, 459e12, 2765e9, 540e9, 128, 1.75e9, 3, 8960),
            _tpu("v6e", 31.25, 918e12, 1640e9, 360e9, 256, 1.75e9, 2, 256),
            Chip(
                "a100", "NVIDIA A100 80GB", _left(84_987_740_160), 312e12, 2039e9, 300e9,
                target=_gpu(
                    8, 108, 64, 164 * 1024, 40 * 2**20, memory_bandwidth=2_039_000_000_000,
                    clock_rate_ghz=1.41, device_memory_size=84_987_740_160,
                ) + 'device_description_str: "NVIDIA A100-SXM4-80GB"',
            ),
            _hopper("H100 80GB HBM3", 84_929_347_584, 3352e9),
            _hopper("H200", 150_109_880_320, 4800e9),
        )
    }
)  # fmt: skip
"""The chips whose compilers can be asked, by name."""


def roofline(chip: Chip, flops: int | float, bytes_moved: int | float) -> float:
    """Seconds that a program needs at least: its products at the peak, or its traffic.

    >>> round(1e6 * roofline(CHIPS["v5e"], 197e6, 0), 6)
    1.0
    """
    return max(flops / chip.flops, bytes_moved / chip.bandwidth)


def filled(size: int, tile: int) -> float:
    """The share of its tiles that an axis fills.

    >>> [filled(size, 128) for size in (128, 192, 576)]
    [1.0, 0.75, 0.9]
    """
    return size / (tile * math.ceil(size / tile)) if tile else 1.0
