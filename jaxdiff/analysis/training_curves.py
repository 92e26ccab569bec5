"""Curves of a run over its steps, from the file that training writes."""

from collections.abc import Mapping
from typing import Any

from jaxdiff.analysis import plots
from jaxdiff.analysis.image_grid import plain
from jaxdiff.runtime import jsontext
from jaxdiff.runtime.files import PathLike, lines, place, write_atomically

PANELS = {"loss": "loss", "learning_rate": "learning rate"}


def save_curves(path: PathLike, metrics: PathLike) -> None:
    """Draws loss and learning rate over steps, and quality if any, from a metrics.jsonl.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     written = place(folder) / "metrics.jsonl"
    ...     _ = written.write_text('{"step": 1, "loss": 0.9, "learning_rate": 0.01}')
    ...     save_curves(f"{folder}/curves.png", written)
    ...     (place(folder) / "curves.png").read_bytes()[1:4]
    b'PNG'
    """
    every = list(jsontext.objects(lines(metrics)))
    first = next((row for row in every if "loss" not in row), {})
    quality = [name for name in first if name.startswith(("fd_", "fid_"))][:1]
    named = PANELS | {name: name for name in quality}
    figure, panels = plots.panels("", 3.0, columns=len(named))
    for axes, (name, title), look in zip(
        panels, named.items(), plots.looks(named), strict=True
    ):
        rows = [row for row in every if _are_numbers(row, "step", name)]
        axes.plot([r["step"] for r in rows], [r[name] for r in rows], **look)
        axes.set(xlabel="training step", ylabel=plain(title))
    write_atomically(place(path), lambda f: figure.savefig(f, format="png"))


def _are_numbers(row: Mapping[str, Any], *names: str) -> bool:
    return all(type(row.get(name)) in (int, float) for name in names)
