"""Where a run's wall time goes, and how much of it was spent in training steps."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Seconds by name; what is not named is steps.

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
        """Steps that were made."""

    @property
    def total(self) -> float:
        """Seconds since the clock was made."""
        return time.perf_counter() - self._began

    @property
    def steps(self) -> float:
        """Seconds that went into steps, waiting for their data included."""
        return self.total - sum(s for name, s in self.spent.items() if name != "data")

    @property
    def goodput(self) -> float:
        """The share of the time that went into steps."""
        return self.steps / self.total

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """What is done inside is no step, but that."""
        began = time.perf_counter()
        try:
            yield
        finally:
            took = time.perf_counter() - began
            self.spent[name] = self.spent.get(name, 0.0) + took

    @property
    def is_meaningful(self) -> bool:
        """Whether its shares mean something: of many steps, which took minutes."""
        return self.made >= 100 and self.steps >= 300

    def __str__(self) -> str:
        """One line for people, the largest first."""
        parts = sorted(self.spent.items(), key=lambda item: -item[1])
        parts = [(name, s) for name, s in parts if s >= 0.05 and name != "data"]
        rest = "".join(f", {name} {s:.1f} s" for name, s in parts)
        wait = self.spent.get("data", 0.0) / max(self.steps, 1e-9)
        return (
            f"goodput {self.goodput:.0%}: {self.steps:.1f} of {self.total:.1f} s in steps "
            f"({wait:.1%} of it waiting for data){rest}"
        )
