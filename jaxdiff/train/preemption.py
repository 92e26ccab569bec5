"""Being asked to stop: Ctrl-C, a scheduler's SIGTERM, a cloud's notice of preemption.

One process listens itself. Several have to stop after the same step, so there the notice of
any one of them goes to all through jax's preemption service, which catches SIGTERM.
"""

import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from jax.experimental import multihost_utils

from jaxdiff.runtime import processes


class Stopped(Exception):
    """The run was asked to stop, and saved its state; `signal` says by what."""

    def __init__(self, step: int, number: int) -> None:
        super().__init__(f"stopped at step {step} and saved it")
        self.step, self.signal = step, number


class Interrupted(Exception):
    """Interrupts optional work."""


class Stop:
    """Whether a stop is pending; made by `stoppable`."""

    def __init__(self) -> None:
        self.signal = 0
        self._stopping = self._may_interrupt = False

    def handle(self, number: int, frame: object) -> None:
        """The signal handler: requests a stop; a second Ctrl-C stops at once."""
        if self.signal:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        self.signal = number
        if processes.several():
            signal.raise_signal(signal.SIGTERM)  # so that all processes stop
        with suppress(OSError):  # whoever read it may be gone
            os.write(2, b"\nstopping after this step; Ctrl-C stops at once\n")
        if self._may_interrupt and not processes.several():
            raise Interrupted

    def after(self, step: int) -> bool:
        """Whether to stop after this step, the same in every process."""
        if processes.several():
            self._stopping = multihost_utils.reached_preemption_sync_point(step)
        else:
            self._stopping = self.signal != 0
        return self._stopping

    def unless_stopped(self, work: Callable[[], None]) -> bool:
        """Runs optional work; False if a stop is pending."""
        if self._stopping or (self.signal and not processes.several()):
            return False
        try:
            self._may_interrupt = True
            work()
            self._may_interrupt = False
        except Interrupted:
            return False
        finally:
            self._may_interrupt = False
        return True


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Makes SIGINT and SIGTERM request a stop.

    Python handles signals in its main thread alone: in another one it warns which signals
    will not stop the run. With several processes jax handles SIGTERM in any thread.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        advice = "neither Ctrl-C nor SIGTERM can stop it: to stop, end the process"
        if processes.several():
            advice = "Ctrl-C cannot stop it: to stop, send SIGTERM to any of the processes"
        warnings.warn(
            f"training outside the main thread, so {advice}; the same call goes on from "
            "the last checkpoint",
            stacklevel=4,
        )
        yield stop
        return
    heard = [signal.SIGINT] if processes.several() else [signal.SIGINT, signal.SIGTERM]
    before = {number: signal.signal(number, stop.handle) for number in heard}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
