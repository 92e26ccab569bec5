"""Notebooks run from top to bottom, are committed without outputs, and are true."""

import ast
import contextlib
import io
import json
import math
from pathlib import Path
from typing import Any

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


def _cells(path: Path) -> list[str]:
    cells = json.loads(path.read_text())["cells"]
    return ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]


def _run(source: str, names: dict[str, Any]) -> Any:
    """Runs a cell as Jupyter does: the value of its last expression is its output."""
    body = ast.parse(source).body
    last = body.pop() if isinstance(body[-1], ast.Expr) else None
    exec(compile(ast.Module(body, []), "<cell>", "exec"), names)
    if last is not None:
        return eval(compile(ast.Expression(last.value), "<cell>", "eval"), names)
    return None


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.name)
def test_committed_small_and_without_outputs(path: Path) -> None:
    assert path.stat().st_size < 500_000
    for cell in json.loads(path.read_text())["cells"]:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


def test_schedule_analysis_runs_and_says_what_its_text_says() -> None:
    (path,) = (p for p in NOTEBOOKS if p.stem == "schedule_analysis")
    names: dict[str, Any] = {"__name__": "__main__"}
    figures, printed = [], io.StringIO()
    with contextlib.redirect_stdout(printed):
        for source in _cells(path):
            shown = _run(source, names)
            if shown is not None:
                figures.append(shown)
    assert len(figures) == 5
    for figure in figures:
        figure.savefig(io.BytesIO(), format="png", dpi=30)
    text = printed.getvalue()
    for said in ("6.82649 %", "0.63528 %", "0.00493 %", "0.0341", "0.0078", "\n0.0\n"):
        assert said in text
    # sigmoid identity and constant ratio, up to the triangles a density is made of
    assert "largest difference: 0.00" in text
    assert f"largest and smallest: {math.pi / 2:.2f} {math.pi / 2:.2f}" in text
