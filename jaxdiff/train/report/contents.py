"""What a run's folder holds that its report shows; every file may be missing or damaged."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxdiff.config import changed_fields, from_file, ready_names, to_dict
from jaxdiff.runtime import jsontext
from jaxdiff.runtime.files import Place, lines, printable

Row = Mapping[str, Any]

LEVELS = ("loss", "images")
"""Of a row of losses by noise level: each a mapping from log SNR to numbers."""

LAYERS = ("activations", "weights", "updates")
"""The kinds of magnitudes, each a mapping from layers to numbers."""


@dataclass(frozen=True, eq=False)
class Contents:
    """A run's folder as plain values."""

    workdir: Place
    metrics: Sequence[Row]
    """Rows of metrics.jsonl that training wrote, one a step, in order."""
    scores: Sequence[Row]
    """Its rows of scores."""
    levels: Sequence[Row]
    """Rows of loss_by_logsnr.jsonl."""
    magnitudes: Sequence[Row]
    sheets: Sequence[tuple[int, Place]]
    """Pictures by their steps."""
    starts: Sequence[Row]
    experiment: Row
    classes: Sequence[str]
    evaluations: Mapping[str, Row]
    """What `jaxdiff evaluate` measured, by the name of the file."""
    sweeps: Mapping[str, Row]
    bits: Mapping[str, Row]
    snapshots: int
    """The number of files of snapshots."""
    notes: Sequence[str] = field(default=())
    """What is missing or odd, a sentence each."""

    @property
    def arguments(self) -> Sequence[str]:
        """Those of the last `jaxdiff train`; () if the run was started otherwise."""
        given = (start.get("arguments") for start in reversed(self.starts))
        return next((a for a in given if _is_texts(a) and a), ())

    @property
    def config(self) -> str:
        """The --config that started the run; "" if it is not known."""
        pairs = zip(["", *self.arguments], self.arguments, strict=False)
        named = ""
        for before, argument in pairs:
            if match := re.fullmatch(r"--?config=(.*)", argument, re.DOTALL):
                named = match[1]
            elif re.fullmatch("--?config", before):
                named = argument
        return named

    @property
    def resumed(self) -> list[float]:
        """The steps from which the run was resumed."""
        steps = (start.get("step") for start in self.starts)
        return sorted({float(step) for step in steps if type(step) is int and step > 0})

    def changed(self) -> list[tuple[str, Any, Any]] | None:
        """(field, value in the ready config, value here); None without a ready config."""
        name, *variant = self.config.split(":", 1)
        if name not in ready_names() or not self.experiment:
            return None
        try:
            base = to_dict(from_file(name, *variant))
        except (ValueError, TypeError):  # a variant that this version lacks
            return None
        return changed_fields(json.loads(json.dumps(base)), self.experiment)


def read(workdir: Place) -> Contents:
    """The contents of a run's folder.

    Raises:
        FileNotFoundError: the folder holds no run.
    """
    names = ("metrics.jsonl", "starts.jsonl", "config.json")
    if not any((workdir / name).exists() for name in names):
        raise FileNotFoundError(
            f"{workdir} holds no run ({', '.join(names)} are missing): name the folder "
            "that jaxdiff train wrote"
        )
    notes: list[str] = []
    metrics, scores = _metrics(workdir, notes)
    starts = _rows(workdir / "starts.jsonl", notes)
    experiment = _document(workdir / "config.json", notes, dict) or {}
    measured = {
        path.name: _document(path, notes, dict) or {}
        for path in sorted((workdir / "quality").glob("*.json"), key=str)
    }
    return Contents(
        workdir,
        metrics,
        scores,
        _tables(workdir / "loss_by_logsnr.jsonl", LEVELS, notes),
        _tables(workdir / "magnitudes.jsonl", LAYERS, notes),
        _sheets(workdir),
        starts,
        experiment,
        [str(c) for c in _document(workdir / "classes.json", notes, list) or ()],
        {name: m for name, m in measured.items() if isinstance(m.get("metrics"), dict)},
        {name: m for name, m in measured.items() if isinstance(m.get("rows"), list)},
        {
            name: _document(workdir / name, notes, dict) or {}
            for name in ("bits.json", "bits_flow.json")
            if (workdir / name).exists()
        },
        sum(1 for _ in (workdir / "snapshots").glob("*.npz")),
        notes,
    )


def number(value: Any) -> float:
    """A value from a file as a number; NaN for any other.

    >>> number(3), number("3"), number(True)
    (3.0, nan, nan)
    """
    return float(value) if type(value) in (int, float) else math.nan


def _metrics(workdir: Place, notes: list[str]) -> tuple[list[Row], list[Row]]:
    """Rows of training and of scores; of rows with one step, the last."""
    rows = _rows(workdir / "metrics.jsonl", notes)
    kinds: tuple[dict[int, Row], dict[int, Row]] = {}, {}
    replaced = 0
    for row in rows:
        if type(row.get("step")) is not int:
            continue
        of_training = bool(row.keys() & {"loss", "skipped_steps", "goodput"})
        kind = kinds[not of_training]
        replaced += row["step"] in kind
        kind[row["step"]] = row
    if replaced:
        notes.append(
            f"{replaced:,} lines of metrics.jsonl repeat a step, as the run went back to a "
            "checkpoint: the last line of each step is shown."
        )
    made = [list(map(kind.get, sorted(kind))) for kind in kinds]
    bad = sum(not math.isfinite(number(row.get("loss", 0.0))) for row in made[0])
    if bad:
        notes.append(f"The loss is not finite in {bad:,} of {len(made[0]):,} lines: gaps.")
    if not made[0]:
        notes.append("No metrics yet: the first line of metrics.jsonl is not written.")
    elif len(made[0]) == 1:
        notes.append("There is one line of metrics so far: curves are single points.")
    return made[0], made[1]


def _rows(path: Place, notes: list[str]) -> list[Row]:
    text = [line for line in lines(path) if line.endswith("\n")]  # or it is being written
    rows = list(jsontext.objects(text))
    lost = len(text) - len(rows)
    if lost:
        are = "line is" if lost == 1 else "lines are"
        notes.append(f"{lost:,} {are} not readable in {path.name}, and left out.")
    return rows


def _document(path: Place, notes: list[str], kind: type) -> Any:
    """The value of a JSON file; None if it is missing or cannot be read, which is noted."""
    if not path.exists():
        return None
    try:
        return jsontext.loads(path.read_bytes(), path.name, kind)
    except (ValueError, OSError) as error:
        notes.append(f"{printable(error)}: left out.")
        return None


def _sheets(workdir: Place) -> list[tuple[int, Place]]:
    found = (workdir / "samples").glob("*.png")
    named = [(p.name.removesuffix(".png"), p) for p in found]
    return sorted((int(n), p) for n, p in named if n.isascii() and n.isdigit())


def _tables(path: Place, kinds: Sequence[str], notes: list[str]) -> list[Row]:
    """The rows that have a step, and numbers by name of each of these kinds."""
    return [
        row
        for row in _rows(path, notes)
        if type(row.get("step")) is int and all(isinstance(row.get(k), dict) for k in kinds)
    ]


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)
