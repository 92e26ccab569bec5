"""Notebooks run from top to bottom in a kernel, show their figures, and are true.

They are committed without outputs.
"""

import base64
import io
import json
import math
import os
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from PIL import Image

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SHOW = """
jd.show(np.full((3, 8, 8, 1), 90, np.uint8), labels=[0, 1, 1], classes=("cat", "dog"))
for shade in (-1.0, 1.0):
    jd.show(np.full((8, 8, 3), shade))
"""


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.name)
def test_committed_small_and_without_outputs(path: Path) -> None:
    assert path.stat().st_size < 500_000
    for cell in json.loads(path.read_text())["cells"]:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


def _executed(path: Path, more: str, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The code cells of a notebook, and one more, after a kernel has run them."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *_inherited()]))
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(more))
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def _inherited() -> list[str]:
    return [path for path in [os.environ.get("PYTHONPATH")] if path]


def _pictures(cell: Any) -> list[np.ndarray]:
    """What a cell shows as PNG."""
    data = [output.get("data", {}) for output in cell.outputs]
    pngs = [base64.b64decode(d["image/png"]) for d in data if "image/png" in d]
    return [np.asarray(Image.open(io.BytesIO(png)).convert("L")) for png in pngs]


def _printed(cell: Any) -> str:
    return "".join(o.text for o in cell.outputs if o.get("name") == "stdout")


def test_schedule_analysis_shows_what_its_text_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (path,) = (p for p in NOTEBOOKS if p.stem == "schedule_analysis")
    *cells, last = _executed(path, SHOW, monkeypatch)
    figures_of = [(cell.source, _pictures(cell)) for cell in cells]
    assert sum("plots." in source for source, _ in figures_of) == 5
    for source, figures in figures_of:
        draws = any(line.startswith("plots.") for line in source.split("\n"))
        assert len(figures) == draws, source
        for figure in figures:  # curves and texts on white, more than an empty frame
            assert min(figure.shape) > 400
            assert 0.02 < np.mean(figure < 200) < 0.5
    text = "".join(map(_printed, cells))
    for number in ("6.82649 %", "0.63528 %", "0.00493 %", "0.0341", "0.0078", "\n0.0\n"):
        assert number in text
    # sigmoid identity and constant ratio, up to the triangles a density is made of
    assert "largest difference: 0.00" in text
    assert f"largest and smallest: {math.pi / 2:.2f} {math.pi / 2:.2f}" in text
    labelled, black, white = _pictures(last)
    assert np.mean(labelled == 90) > 0.5
    assert (black == 0).mean() > 0.8
    assert (white == 255).all()
    assert not _printed(last)
