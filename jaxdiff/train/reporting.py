"""What a run reports, by process 0: a progress bar, metrics, pictures."""

import threading
import warnings
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import jax
import numpy as np
from jaxtyping import UInt8

from jaxdiff.analysis import image_grid
from jaxdiff.config import Experiment, to_dict
from jaxdiff.runtime import jsontext, processes
from jaxdiff.runtime.files import Place, lines, printable, write_atomically
from jaxdiff.runtime.progress import Bar
from jaxdiff.runtime.progress import bar as progress_bar
from jaxdiff.train import levels, magnitudes, writers
from jaxdiff.train.goodput import Clock
from jaxdiff.train.report import write_report
from jaxdiff.train.step import METRICS, Metrics

IN_FLIGHT = 2
"""Steps dispatched before the host waits for the oldest, so that devices never wait for
the host, and a stop comes soon."""


class Reporter:
    """Writes what the loop reports; made by `reporting`."""

    def __init__(
        self,
        experiment: Experiment,
        workdir: Place,
        clock: Clock,
        bar: Bar,
        log: writers.Writer,
        layers: writers.Writer,
        by_level: writers.Writer,
    ) -> None:
        self._experiment, self._workdir, self._clock = experiment, workdir, clock
        self._bar, self._log, self._layers = bar, log, layers
        self._by_level = by_level
        self._recent: list[Metrics] = []
        self._flying: deque[Metrics] = deque(maxlen=1 + IN_FLIGHT)
        self._page = threading.Thread()
        self._timed = 0
        self._since: tuple[float, float] | None = None
        self.skipped_in_a_row = 0

    def made(self, metrics: Metrics, wait: bool = False) -> None:
        """Records a step; its metrics stay on the device for now.

        Waits for the step IN_FLIGHT before it, or for this one.
        """
        self._recent.append(metrics)
        self._flying.append(metrics)
        jax.block_until_ready(metrics if wait else self._flying[0])
        if self._since is None:  # the first steps are the compiler's more than their own
            self._since = None if wait else self._now()
        else:
            self._timed += 1
        self._bar.update(self._experiment.batch_size)

    def numbers(self, step: int, skipped: int = 0) -> None:
        """Writes the means since the last call, fetched in one transfer, and the times.

        Also the number of unreadable images so far, in all processes, and of steps
        skipped as not finite, if there are any.
        """
        skipped = processes.total(skipped)
        rows, self._recent = jax.device_get(self._recent), []
        kept = [row for row in rows if not row.get("skipped")]
        for row in rows:
            self.skipped_in_a_row = self.skipped_in_a_row + 1 if row.get("skipped") else 0
        names = METRICS if kept else ()
        values = {name: float(np.mean([row[name] for row in kept])) for name in names}
        values |= self._times()
        values |= {"skipped_images": float(skipped)} if skipped else {}
        if lost := len(rows) - len(kept):
            values["skipped_steps"] = float(lost)
        self._log.scalars(step, values)
        if kept:
            totals = np.sum([row["loss_by_logsnr"] for row in kept], axis=0)
            self._by_level.scalars(step, levels.means(totals))
        self._bar.set_postfix(loss=f"{values.get('loss', np.nan):.4f}")

    def _now(self) -> tuple[float, float]:
        return self._clock.steps, self._clock.spent.get("data", 0.0)

    def _times(self) -> dict[str, float]:
        """Speed since the last call, time waiting for data, goodput, device memory."""
        values = {"goodput": self._clock.goodput}
        if self._since and self._timed:
            now = self._now()
            took, waited = (a - b for a, b in zip(now, self._since, strict=True))
            values["images_per_s"] = self._timed * self._experiment.batch_size / took
            values["seconds_per_step"] = took / self._timed
            values["data_wait"] = waited / took
            self._since, self._timed = now, 0
        stats = [device.memory_stats() or {} for device in jax.local_devices()]
        peak = max(s.get("peak_bytes_in_use", 0) for s in stats)
        return values | ({"memory_mib": peak / 2**20} if peak else {})

    def magnitudes(self, step: int, values: magnitudes.Magnitudes) -> None:
        """Writes a line of magnitudes.jsonl."""
        self._layers.scalars(step, jax.tree.map(float, jax.device_get(values)))

    def picture(
        self, step: int, images: UInt8[np.ndarray, "N H W C"], classes: Sequence[str] = ()
    ) -> None:
        """Saves the picture that `show` drew, by class; the latest is samples.png."""
        if not processes.first():
            return
        count = self._experiment.network.label_dim
        texts = {}
        if count:
            texts["labels"] = np.arange(len(images)) % count
            texts["classes"] = classes
        path = self._workdir / f"samples/{step:07d}.png"
        self._log.image(step, "samples", image_grid.save_grid(path, images, **texts))
        png = path.read_bytes()
        write_atomically(self._workdir / "samples.png", lambda file: file.write(png))

    def page(self, last: bool = False) -> None:
        """Writes report.html in a thread, unless it is writing; the `last` one is awaited.

        A failure is a warning, as training needs no page.
        """
        if not processes.first() or (self._page.is_alive() and not last):
            return
        if self._page.ident:
            self._page.join()
        self._page = threading.Thread(target=self._write_page)
        self._page.start()
        if last:
            self._page.join()

    def _write_page(self) -> None:
        try:
            write_report(self._workdir)
        except Exception as error:  # whatever lies in the folder
            text = printable(error) or type(error).__name__
            warnings.warn(f"no report.html: {text}", stacklevel=2)

    def reported(self, step: int) -> tuple[bool, bool]:
        """Whether an earlier start of the run wrote pictures, and scores, of a step."""
        rows = lines(self._workdir / "metrics.jsonl")
        kinds = [set(row) for row in jsontext.objects(rows) if row.get("step") == step]
        scored = any(not row & {"loss", "skipped_steps"} for row in kinds)
        picture = (self._workdir / f"samples/{step:07d}.png").exists()
        return tuple(processes.from_first([picture, scored]))

    def quality(self, step: int, metrics: Mapping[str, float]) -> None:
        """Writes the scores of this step."""
        self._log.scalars(step, metrics)


@contextmanager
def reporting(
    experiment: Experiment,
    workdir: Place,
    first: int,
    clock: Clock,
    progress: bool = False,
    wandb: str = "",
    more_images: int = 0,
) -> Iterator[Reporter]:
    """The reporter of a run that starts at step `first`; its files are closed at the end.

    report.html is written then, too. It counts `more_images` images beyond steps times the
    batch size.
    """
    log, layers, by_level = (writers.All([]) for _ in range(3))
    first_process = processes.first()
    if first_process:
        log = writers.open_all(workdir, first, progress, wandb, to_dict(experiment))
        by_level = writers.JSONL(workdir / "loss_by_logsnr.jsonl", first)
    if first_process and experiment.magnitudes_every:
        layers = writers.JSONL(workdir / "magnitudes.jsonl", first)
    size = experiment.batch_size
    with progress_bar(
        total=experiment.steps * size + more_images,
        initial=first * size + more_images,
        unit="img",
        desc="training",
        show=progress and first_process,
    ) as bar:
        report = Reporter(experiment, workdir, clock, bar, log, layers, by_level)
        try:
            yield report
        finally:
            log.close()
            layers.close()
            by_level.close()
            report.page(last=True)
