"""Being asked to stop: Ctrl-C, a scheduler's SIGTERM, a cloud's notice of preemption.

One process listens itself. Several have to stop after the same step, so there the notice of
any one of them goes to all through jax's preemption service, which catches SIGTERM.
"""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from jax.experimental import multihost_utils

from jaxdiff import processes


class Stopped(Exception):
    """The run was asked to stop, and saved its state; `signal` says by what."""

    def __init__(self, step: int, number: int) -> None:
        super().__init__(f"stopped at step {step} and saved it")
        self.step, self.signal = step, number


class Interrupted(Exception):
    """Raised in the middle of work that may be left undone."""


class Stop:
    """Whether a stop was asked for; made by `stoppable`."""

    def __init__(self) -> None:
        self.signal = 0
        self._may_interrupt = False

    def asked(self, number: int, frame: object) -> None:
        """The handler: asks for a stop; Ctrl-C after that stops at once."""
        if self.signal:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        self.signal = number
        print("\nstopping after this step; Ctrl-C stops at once", file=sys.stderr)
        if processes.several():
            signal.raise_signal(signal.SIGTERM)  # all others are to hear of it
        elif self._may_interrupt:
            raise Interrupted

    def after(self, step: int) -> bool:
        """Whether to stop after this step, which every process is told alike."""
        if processes.several():
            if multihost_utils.reached_preemption_sync_point(step):
                self.signal = self.signal or signal.SIGTERM
                return True
            return False
        return self.signal != 0

    @contextmanager
    def interrupts(self) -> Iterator[None]:
        """Where a stop need not wait for what is done inside, which changes nothing."""
        self._may_interrupt = True
        try:
            yield
            self._may_interrupt = False
        except Interrupted:
            pass
        finally:
            self._may_interrupt = False


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Makes SIGINT and SIGTERM ask for a stop."""
    stop = Stop()
    heard = [signal.SIGINT] if processes.several() else [signal.SIGINT, signal.SIGTERM]
    before = {number: signal.signal(number, stop.asked) for number in heard}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
