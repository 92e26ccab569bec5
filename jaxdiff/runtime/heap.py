"""Keeps the memory that one step frees for the next one, where the CPU computes.

A step on a CPU allocates its temporary buffers, a hundred MB or more, and frees them at its
end. The GNU C library gives blocks of that size back to the system at once, which zeroes
new pages for the next step: a seventh of the time of the config `digits`
[docs/results/cpu_speed.md].
"""

import ctypes
from collections.abc import Mapping

OFF = "JAXDIFF_KEEP_MEMORY"
"""The environment variable that leaves the allocator as it is with =off."""

TRIM_THRESHOLD, MMAP_MAX, ARENA_MAX = -1, -4, -8
"""Parameters of mallopt, from malloc.h [man7.org/linux/man-pages/man3/mallopt.3.html]."""


def keep_freed_memory(environ: Mapping[str, str]) -> bool:
    """Has this process keep what it frees; returns whether it does from now on.

    Call it before jax starts its threads. The process' size then stays at its peak. Nothing
    changes with another C library, or with JAXDIFF_KEEP_MEMORY=off.

    Raises:
        ValueError: JAXDIFF_KEEP_MEMORY has another value.
    """
    choice = environ.get(OFF, "")
    if choice not in ("", "off"):
        raise ValueError(f"{OFF}={choice}: write {OFF}=off, or unset it")
    if choice == "off":
        return False
    try:
        library = ctypes.CDLL(None)
        mallopt, _ = library.mallopt, library.gnu_get_libc_version
    except (
        AttributeError,
        OSError,
        TypeError,
    ):  # musl has neither, Windows no such library
        return False
    wanted = {TRIM_THRESHOLD: -1, MMAP_MAX: 0, ARENA_MAX: 1}  # -1: never
    return all([mallopt(name, value) == 1 for name, value in wanted.items()])
