"""Memory that was freed is used again, without new pages from the system."""

import subprocess
import sys

import pytest

from jaxdiff.runtime import heap

BLOCKS = """
import os, resource, sys
from jaxdiff.runtime import heap
kept = heap.keep_freed_memory({heap.OFF: sys.argv[1]})
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(2):  # the first block is new in any case
    before = faults()
    block = bytearray(b"x") * (100 << 20)
    del block
print(kept, faults() - before)
"""


def _faults(choice: str) -> tuple[bool, int]:
    command = [sys.executable, "-c", BLOCKS, choice]
    kept, faults = subprocess.check_output(command, text=True).split()
    return kept == "True", int(faults)


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="mallopt is of the GNU C library"
)
def test_a_block_of_100_mb_costs_its_pages_once() -> None:
    pages = (100 << 20) // 4096
    kept, faults = _faults("off")
    assert not kept
    assert faults > 1000  # 25,600 of 4 KB, fewer if the system hands out larger ones
    kept, again = _faults("")
    assert kept
    assert again < min(faults, pages) / 20


def test_another_value_is_refused() -> None:
    with pytest.raises(ValueError, match=r"JAXDIFF_KEEP_MEMORY=on: write .*=off, or unset"):
        heap.keep_freed_memory({heap.OFF: "on"})
