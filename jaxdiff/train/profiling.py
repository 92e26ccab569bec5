"""A trace of chosen steps, for TensorBoard's profiler or Perfetto."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import jax
from jaxtyping import PyTree

from jaxdiff.runtime import processes
from jaxdiff.runtime.files import Place


class Profile:
    """Traces the steps from `first` to `last` into a folder; none with (0, 0)."""

    def __init__(self, folder: Place, first: int = 0, last: int = 0) -> None:
        self._folder, self._first, self._last = folder, first, last
        self._tracing = self._done = False

    @contextmanager
    def step(self, number: int, state: PyTree) -> Iterator[None]:
        """Marks a step, and traces it if it is one of those chosen."""
        if number == self._first and not self._done:
            jax.block_until_ready(state)
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0  # which makes files hundreds of times as large
            own = f"process{jax.process_index()}" if processes.several() else ""
            jax.profiler.start_trace(str(self._folder / own), profiler_options=options)
            self._tracing = self._done = True
        with jax.profiler.StepTraceAnnotation("train", step_num=number):
            yield

    def require_ahead(self, made: int, steps: int) -> None:
        """Warns if no step is left to trace after `made` steps."""
        if self._first and not made < self._first <= steps:
            warnings.warn(
                f"--profile: step {self._first} is not among those to make, {made + 1} to "
                f"{steps}: nothing will be traced",
                stacklevel=2,
            )

    def after(self, number: int, state: PyTree) -> None:
        """Writes the trace, if this was the last step of it."""
        if number == self._last:
            jax.block_until_ready(state)
            self.close()

    def close(self) -> None:
        """Writes a started trace."""
        if self._tracing:
            jax.profiler.stop_trace()
            self._tracing = False
