"""Where a run's wall time goes, and the share spent in training steps."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Seconds by activity; all other time counts as training steps.

    >>> clock = Clock()
    >>> with clock("pictures"):
    ...     time.sleep(0.02)
    >>> 0.02 <= clock.spent["pictures"] < clock.total
    True
    """

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self.spent: dict[str, float] = {}
        self.made = 0
        """Steps made so far."""

    @property
    def total(self) -> float:
        """Seconds since the clock was created."""
        return time.perf_counter() - self._began

    @property
    def steps(self) -> float:
        """Seconds spent in steps, including the wait for their data."""
        return self.total - sum(s for name, s in self.spent.items() if name != "data")

    @property
    def goodput(self) -> float:
        """The share of the time spent in steps."""
        return self.steps / self.total

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Counts the time inside the block under a name instead of steps."""
        start = time.perf_counter()
        try:
            yield
        finally:
            took = time.perf_counter() - start
            self.spent[name] = self.spent.get(name, 0.0) + took

    @property
    def is_meaningful(self) -> bool:
        """Whether there were enough steps and minutes for shares to be meaningful."""
        return self.made >= 100 and self.steps >= 300

    def __str__(self) -> str:
        """A readable line, largest share first."""
        parts = sorted(self.spent.items(), key=lambda item: -item[1])
        parts = [(name, s) for name, s in parts if s >= 0.05 and name != "data"]
        rest = "".join(f", {name} {s:.1f} s" for name, s in parts)
        wait = self.spent.get("data", 0.0) / max(self.steps, 1e-9)
        return (
            f"goodput {self.goodput:.0%}: {self.steps:.1f} of {self.total:.1f} s in steps "
            f"({wait:.1%} of it waiting for data){rest}"
        )
