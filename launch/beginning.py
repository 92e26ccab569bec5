"""Reports that a command is still importing, which takes a minute without cached bytecode.

Import it before any slow module; it needs only Python's standard library. A command that
starts within `FIRST` seconds prints nothing, and JAXDIFF_QUIET_IMPORT=1 silences it for
programs that read a command's stderr.
"""

import os
import sys
import threading
import time
from pathlib import Path

FIRST, EVERY = 2.0, 8.0
"""Seconds until the first line, and between lines."""

_ended = threading.Event()


def done() -> None:
    """Ends the reports, once everything is imported."""
    _ended.set()


def say() -> None:
    """Prints a line every few seconds until `done`."""
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
