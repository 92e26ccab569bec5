"""Progress of long computations, with or without a terminal.

Three functions, all of which write to stderr:

    say("120 images in 3 classes")            a line, now

    with doing("compiling, about a minute the first time"):
        compiled = lowered.compile()          a line now, then the seconds

    with bar(total=1000, unit="image", desc="drawing") as drawn:
        drawn.update(64)                      progress bar

On a terminal `doing` and `bar` are one line at the bottom that updates every second (tqdm).
In a pipe, a log file or a notebook they print plain lines: the first after `FIRST` seconds
without other output, then one after every `EVERY` seconds without output, and fewer in
computations that take hours. A thread prints them, so they work during a call that takes
minutes. Short work prints nothing in a pipe, except the text of `doing`.

They nest: only the innermost is updated. `show=False` turns each off; library functions
with an argument `progress: bool` pass it on as `show`.
"""

import contextlib
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

FIRST, EVERY, RARELY = 2.0, 8.0, 600.0
"""Seconds until the first plain line, between lines, and between lines after many hours."""


@runtime_checkable
class Bar(Protocol):
    """A progress bar, as `bar` returns it: a subset of tqdm's methods."""

    def update(self, n: int = 1) -> object:
        """Adds n finished units."""
        ...

    def set_postfix(self, **values: Any) -> None:
        """Sets the values that are printed after the bar."""
        ...

    def close(self) -> None:
        """Ends the bar."""
        ...

    def __iter__(self) -> Iterator[Any]: ...

    def __enter__(self) -> "Bar": ...

    def __exit__(self, *error: object) -> object: ...


def say(text: str) -> None:
    """Writes a line to stderr, above a bar if there is one."""
    from tqdm import tqdm

    with contextlib.suppress(OSError, ValueError):  # the reader may have closed the pipe
        tqdm.write(text, file=sys.stderr)
        sys.stderr.flush()
    _ticker.last = time.monotonic()


@contextmanager
def doing(text: str, show: bool = True) -> Iterator[None]:
    """Prints a text and the elapsed time while the work inside runs.

    Long work leaves a line with its time.
    """
    if not show:
        yield
        return
    task, start = (_Line(text) if on_terminal() else _Seconds(text)), time.monotonic()
    _ticker.add(task)
    try:
        yield
    finally:
        _ticker.remove(task)
        task.close()
    took = time.monotonic() - start
    if took >= (FIRST if on_terminal() else EVERY):
        say(f"{text}: done in {duration(took)}")


def bar(
    iterable: Iterable[Any] | None = None,
    *,
    total: int | None = None,
    initial: int = 0,
    unit: str = "it",
    desc: str = "",
    show: bool = True,
) -> Bar:
    """A progress bar over `total` units, by default over the items of `iterable`.

    Use it in a `with` statement, or iterate over it to the end.

    >>> with bar(total=3, unit="image", show=False) as drawn:
    ...     drawn.update(3)
    >>> list(bar([1, 2], show=False))
    [1, 2]
    """
    if total is None and hasattr(iterable, "__len__"):
        total = len(iterable)
    if not show or not on_terminal():
        return _Plain(iterable, total, initial, unit, desc, show)
    return _terminal_bar(iterable, total, initial, unit, desc)


@contextmanager
def compiling(beside: Bar, first: bool = True) -> Iterator[None]:
    """Shows "compiling" after a bar during the `first` call of a program."""
    if first:
        beside.set_postfix(now="compiling")
    try:
        yield
    finally:
        if first:
            beside.set_postfix()


def on_terminal() -> bool:
    """Whether stderr is a terminal, where a line can be overwritten."""
    try:
        return sys.stderr.isatty()
    except (AttributeError, ValueError):  # stderr is a notebook's, or closed
        return False


def duration(seconds: float) -> str:
    """Seconds as a short text.

    >>> duration(7.2), duration(95.0), duration(7300.0)
    ('7 s', '1 min 35 s', '2 h 1 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return (
        f"{minutes} min {rest} s"
        if minutes < 60
        else f"{minutes // 60} h {minutes % 60} min"
    )


class _Plain:
    """A bar without a terminal: occasional plain lines, or none if `show` is off."""

    def __init__(
        self,
        iterable: Iterable[Any] | None,
        total: int | None,
        initial: int,
        unit: str,
        desc: str,
        show: bool,
    ) -> None:
        self._iterable, self._total, self._unit, self._desc = iterable, total, unit, desc
        self.n, self._extra = initial, ""
        self._began, self._lines = time.monotonic(), 0
        self._first: tuple[float, int] | None = None  # after what is compiled for it
        if show:
            _ticker.add(self)

    def __str__(self) -> str:
        now = time.monotonic()
        of, left = "", ""
        since, first = self._first or (now, self.n)
        if self._total:
            of = f" of {self._total:,.0f} ({self.n / self._total:.0%})"
            if first < self.n < self._total:
                pace = (now - since) / (self.n - first)
                left = f", {duration(pace * (self._total - self.n))} left"
        name = f"{self._desc}: " if self._desc else ""
        done = f"{self.n:,.0f}{of} {self._unit}"
        return f"{name}{done}, {duration(now - self._began)}{left}{self._extra}"

    def tick(self) -> None:
        """Prints the progress if there was no output for long enough."""
        if _silent(self._began) >= (_pause(self._began) if self._lines else FIRST):
            self._lines += 1
            say(str(self))

    def update(self, n: int = 1) -> None:
        self.n += n
        self._first = self._first or (time.monotonic(), self.n)

    def set_postfix(self, **values: Any) -> None:
        self._extra = "".join(f", {name} {value}" for name, value in values.items())

    def close(self) -> None:
        _ticker.remove(self)
        if self._lines:
            self._lines = 0
            say(str(self))

    def __iter__(self) -> Iterator[Any]:
        with self:
            for item in self._iterable or ():
                yield item
                self.update()

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class _Seconds:
    """`doing` without a terminal: a text, and later the elapsed time."""

    def __init__(self, text: str) -> None:
        self._text, self._began = text, time.monotonic()
        say(text)

    def tick(self) -> None:
        if _silent(self._began) >= _pause(self._began):
            say(f"{self._text}: {duration(time.monotonic() - self._began)}")

    def close(self) -> None:
        """Nothing to clear."""


class _Line:
    """`doing` on a terminal: a text and the elapsed time, cleared at the end."""

    def __init__(self, text: str) -> None:
        from tqdm import tqdm

        layout = "{desc} ({elapsed})"
        self._bar = tqdm(desc=text, bar_format=layout, leave=False, file=sys.stderr)

    def tick(self) -> None:
        self._bar.refresh()

    def close(self) -> None:
        self._bar.close()


def _terminal_bar(
    iterable: Iterable[Any] | None,
    total: int | None,
    initial: int,
    unit: str,
    desc: str,
) -> Bar:
    """A tqdm bar that also updates its time between calls."""
    from tqdm import tqdm

    class Ticking(tqdm):
        def tick(self) -> None:
            self.refresh()

        def close(self) -> None:
            _ticker.remove(self)
            super().close()

    made = Ticking(
        iterable, desc or None, total, initial=initial, unit=unit, unit_scale=True,
        dynamic_ncols=True, file=sys.stderr,
    )  # fmt: skip
    _ticker.add(made)
    return made


def _silent(start: float) -> float:
    """Seconds since the last output, or since `start`."""
    return time.monotonic() - max(_ticker.last, start)


def _pause(start: float) -> float:
    """Allowed seconds without output, for work that started at `start`."""
    return min(max(EVERY, (time.monotonic() - start) / 60), RARELY)


class _Ticker:
    """Updates the innermost running task every second, in a thread that runs as needed."""

    def __init__(self) -> None:
        self.last = 0.0
        """The time of the last output, on the monotonic clock."""
        self._tasks: list[Any] = []
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def add(self, task: Any) -> None:
        with self._lock:
            self._tasks.append(task)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="progress", daemon=True
                )
                self._thread.start()

    def remove(self, task: Any) -> None:
        with self._lock:
            self._tasks = [other for other in self._tasks if other is not task]

    def _run(self) -> None:
        while True:
            time.sleep(TICK)
            with self._lock:
                if not self._tasks:
                    self._thread = None
                    return
                task = self._tasks[-1]
            with contextlib.suppress(Exception):  # a display error must not stop the work
                task.tick()


TICK = 1.0
"""Seconds between two updates."""

_ticker = _Ticker()
