"""Reports that a command is still importing, which takes a minute without cached bytecode.

It needs only Python's standard library, and starts before any slow module is imported. A
command that starts within `FIRST` seconds prints nothing, and JAXDIFF_QUIET_IMPORT=1
silences it for programs that read a command's stderr.
"""

import os
import sys
import threading
import time

FIRST, EVERY = 2.0, 8.0
"""Seconds until the first line, and between lines."""

_imported = threading.Event()


def start() -> None:
    """Prints a line every few seconds until `done`."""
    if not os.environ.get("JAXDIFF_QUIET_IMPORT"):
        threading.Thread(target=_report, name="importing", daemon=True).start()


def done() -> None:
    """Ends the reports, once everything is imported."""
    _imported.set()


def _report() -> None:
    start, pause = time.monotonic(), FIRST
    while not _imported.wait(pause):
        seconds = time.monotonic() - start
        print(
            f"importing JAX and jaxdiff, about a minute the first time ({seconds:.0f} s)",
            file=sys.stderr,
            flush=True,
        )
        pause = EVERY
