"""Metrics of a run over EMA lengths, guidance, steps, solvers or grids.

    jaxdiff sweep --workdir=runs/digits --over=std=0.02,0.05,0.1,0.2

    jaxdiff sweep --workdir=runs/mine --over="guidance=0,0.5,1,2" \\
        --over="interval=0:inf,0.3:5" --number=2000 --std=0.05

    jaxdiff sweep --workdir=runs/mine --steps=12 \\
        --over="solver=Heun, DPMSolverPP(order=3), UniPC"

An axis is a sampling flag with its values, NAME=VALUE,VALUE,…: std, guidance,
noise_guidance, classifier_guidance, their intervals (LOW:HIGH), steps, solver, grid,
rule or threshold; two axes give all combinations, and every other flag applies to all
points. Averages that the run did not track are made from its snapshots, in memory. Each
point has --number images in each of --blocks blocks, with the same seeds and labels,
scored as in jaxdiff evaluate. Rows go to WORKDIR/quality/sweep.jsonl as they are
measured: a stopped sweep resumes, even within a point, and a wider one measures only what
is new. A point's images are deleted once they are scored; --keep leaves them for
evaluate.py. Other guidance weights and other averages need no compilation.
Writes OUT.md with tables, the best points and whether they are interior, OUT.json, and
OUT.png with curves.
"""

import dataclasses
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from jaxdiff import evaluation
from jaxdiff.commands import command, sampling_flags, scoring_flags
from jaxdiff.commands.sampling_flags import Model
from jaxdiff.data.batches import fingerprint
from jaxdiff.evaluation import report, sweep_axes, sweep_report
from jaxdiff.evaluation.extractors.weights import sha256
from jaxdiff.runs import restoring, snapshots
from jaxdiff.runs.restoring import Restored
from jaxdiff.runtime import processes
from jaxdiff.runtime.files import Place, write_atomically
from jaxdiff.runtime.progress import bar

OVER = flags.DEFINE_multi_string(
    "over", None, "An axis, NAME=VALUE,VALUE,…; once or twice."
)
KEEP = flags.DEFINE_bool("keep", False, "Keep the images of every point.")
OUT = flags.DEFINE_string("out", None, "OUT.md, .json and .png; default: WORKDIR/quality.")
TOGETHER = 4
"""Averages made in one pass over the snapshots, and held in memory."""
flags.mark_flags_as_required(["workdir", "over"])
flags.declare_key_flag("cpu_devices")
flags.adopt_module_key_flags(sampling_flags)
flags.adopt_module_key_flags(scoring_flags)
SEVERAL_PROCESSES = True
"""All draw and score; process 0 writes."""


@dataclasses.dataclass(frozen=True, eq=False)
class SweepPoint:
    """A point, the model that draws its images, and the key of its row."""

    point: sweep_axes.Point
    model: Model
    made_by: dict[str, Any]

    @property
    def std(self) -> float | None:
        """The width of the average, if that is an axis."""
        return float(self.point["std"]) if "std" in self.point else None


def main() -> None:
    """Measures the missing points, and writes the report on all."""
    axes = [sweep_axes.axis(text) for text in OVER.value]
    points = sweep_axes.points(axes)
    _check_axes(axes)
    scoring_flags.number()  # checked before the data are read
    kept = sampling_flags.beside() / "quality"
    out = command.output(OUT, kept / "sweep", "md", "json", "png")
    planned = _planned(points, command.names(scoring_flags.EXTRACTORS))
    extractors = scoring_flags.extractors()
    networks_of = _averages(planned)
    book = sweep_axes.Book(kept / "sweep.jsonl")
    done_before = processes.from_first([bool(book.find(p.made_by)) for p in planned])
    missing = [p for p, there in zip(planned, done_before, strict=True) if not there]
    if missing:
        judge = scoring_flags.judge(planned[0].model.experiment.data, extractors, kept)
        there = len(planned) - len(missing)
        how = {"unit": "points", "desc": "sweeping", "show": processes.first()}
        with bar(total=len(planned), initial=there, **how) as done:
            for one, run in networks_of(missing):
                model = dataclasses.replace(one.model, run=run)
                measured = _measured(model, judge, kept)
                if processes.first():
                    book.write(one.made_by, measured)
                done.update()
    if not processes.first():
        return
    rows = [{"point": dict(p.point), **book.find(p.made_by)} for p in planned]
    _write(out, axes, rows, planned[0].model)


def _check_axes(axes: Sequence[sweep_axes.Axis]) -> None:
    """Rejects too many axes for a plot, and axes whose flag is given too."""
    if len(axes) > 2:
        raise ValueError(f"--over is given once or twice, got {len(axes)} axes")
    for axis in axes:
        if flags.FLAGS[axis.name].value is not None:
            raise ValueError(
                f"--{axis.name} and --over={axis.name}=… both set it: leave out one"
            )
        if axis.name == "std" and sampling_flags.PRESET.value:
            raise ValueError(
                f"--preset={sampling_flags.PRESET.value} sets std: leave out --over=std=…"
            )


def _planned(points: Sequence[sweep_axes.Point], names: Sequence[str]) -> list[SweepPoint]:
    """The points with their models; networks are restored once."""
    _set(points[0])
    base = sampling_flags.model_from_flags()
    own = sampling_flags.STD.value or base.experiment.sampling.std
    weights, planned = evaluation.digest(base.variables), []
    against = {
        "data": fingerprint(base.experiment.data.load().source),
        "reference": scoring_flags.REFERENCE.value
        and sha256(scoring_flags.REFERENCE.value),
    }
    for point in points:
        _set(point)
        model = sampling_flags.model_of(
            base.run, base.guide, base.estimator, base.classifier
        )
        _ = model.sampler  # rejects settings that do not fit together
        made_by = scoring_flags.image_settings(model, weights) | {
            "std": float(point.get("std", own)),
            "number": scoring_flags.NUMBER.value,
            "blocks": scoring_flags.BLOCKS.value,
            "seed": scoring_flags.SEED.value,
            "labels": sampling_flags.LABELS.value,
            "extractors": names,
            **against,
        }
        planned.append(SweepPoint(point, model, made_by))
    return planned


def _set(point: sweep_axes.Point) -> None:
    """Sets each flag to the point's value, except std, see `_averages`."""
    for name, text in point.items():
        if name != "std":
            text = text.replace(":", ",") if name in sweep_axes.INTERVALS else text
            try:
                flags.FLAGS[name].parse(text)
            except flags.Error as error:
                raise ValueError(f"--over={name}=…: {error}") from None


def _averages(
    planned: Sequence[SweepPoint],
) -> Callable[[Sequence[SweepPoint]], Iterator[tuple[SweepPoint, Restored]]]:
    """A function that yields points with their networks, average by average.

    Raises:
        ValueError: the run has no snapshots to make an average from.
    """
    base = planned[0].model.run
    folder, step = command.folder(sampling_flags.WORKDIR), base.step
    whole = (folder / "checkpoints" / str(step)).is_dir()
    tracked = base.experiment.optimizer.lengths if whole else ()
    held = lambda std: std is None or std in tracked or snapshots.find(folder, std, step)
    widths = list(dict.fromkeys(p.std for p in planned))
    if others := [std for std in widths if not held(std)]:
        snapshots.profile_errors(folder / snapshots.TRACKED, others, step)

    def networks_of(missing: Sequence[SweepPoint]) -> Iterator[tuple[SweepPoint, Restored]]:
        wanted = list(dict.fromkeys(p.std for p in missing))
        others = [std for std in wanted if not held(std)]
        for std in (std for std in wanted if held(std)):
            run = base if std is None else restoring.restore(folder, std, step)
            yield from ((p, run) for p in missing if p.std == std)
        for i in range(0, len(others), TOGETHER):
            some = others[i : i + TOGETHER]
            for one in snapshots.reconstruct(folder / snapshots.TRACKED, some, step):
                run = restoring.of_snapshot(one)
                yield from ((p, run) for p in missing if p.std == one.std)

    return networks_of


def _measured(model: Model, judge: evaluation.Judge, kept: Path) -> dict[str, Any]:
    """The metrics of each block."""
    start = time.perf_counter()
    images = scoring_flags.draw(
        model,
        model.sampler,
        kept / ("images" if KEEP.value else "sweep"),
    )
    blocks = [judge(b)[0] for b in evaluation.blocks(images, scoring_flags.BLOCKS.value)]
    processes.wait_for_all()  # they read these images, too
    if processes.first() and not KEEP.value:
        shutil.rmtree(images.paths[0].parent)
    return {"blocks": blocks, "seconds": time.perf_counter() - start}


def _write(
    named: dict[str, Place],
    axes: Sequence[sweep_axes.Axis],
    rows: list[dict],
    model: Model,
) -> None:
    """Writes tables, verdicts and curves."""
    title = f"{sampling_flags.WORKDIR.value}, step {model.run.step}"
    number, blocks = scoring_flags.NUMBER.value, scoring_flags.BLOCKS.value
    judged = list(sweep_report.verdicts(axes, rows))
    notes = [
        f"{number} images x {blocks} blocks at each point; "
        "mean ± spread over blocks, the best in bold.",
        sweep_report.NOTE,
    ]
    lines = [*(f"* {sweep_report.sentence(one)}" for one in judged)]
    text = "\n\n".join([sweep_report.tables(axes, rows), "\n".join(lines), *notes])
    results = {"title": title, "verdicts": judged, "rows": rows}
    write_atomically(
        named["json"], lambda f: f.write(json.dumps(results, indent=1).encode())
    )
    write_atomically(
        named["md"], lambda f: f.write(f"# {report.markdown(title)}\n\n{text}\n".encode())
    )
    print(text)
    sweep_report.save_picture(named["png"], axes, rows, title)
    print(f"\n{named['png']}, {named['md']} and {named['json']}")
