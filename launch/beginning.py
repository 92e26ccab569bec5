"""Says that a command is being imported, which takes a minute where nothing is cached yet.

To be imported before anything that takes long; needs Python alone. A command that starts
within `FIRST` seconds says nothing, and JAXDIFF_QUIET_IMPORT=1 silences it for programs
that read what a command writes to stderr.
"""

import os
import sys
import threading
import time
from pathlib import Path

FIRST, EVERY = 2.0, 8.0
"""Seconds until the first line, and between two."""

_ended = threading.Event()


def done() -> None:
    """All is imported."""
    _ended.set()


def say() -> None:
    """A line now and then until `done`."""
    began, pause = time.monotonic(), FIRST
    while not _ended.wait(pause):
        seconds = time.monotonic() - began
        print(
            f"importing JAX and jaxdiff, about a minute the first time ({seconds:.0f} s)",
            file=sys.stderr,
            flush=True,
        )
        pause = EVERY


command = Path(sys.argv[0]).resolve().parent == Path(__file__).resolve().parent
if command and not os.environ.get("JAXDIFF_QUIET_IMPORT"):
    threading.Thread(target=say, name="importing", daemon=True).start()
