"""Notebooks run from top to bottom in a kernel, show their figures, and are true.

They are committed without outputs.
"""

import base64
import io
import json
import math
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from PIL import Image

from tools import notebooks

SHOW = """
jd.show(np.full((3, 8, 8, 1), 90, np.uint8), labels=[0, 1, 1], classes=("cat", "dog"))
for shade in (-1.0, 1.0):
    jd.show(np.full((8, 8, 3), shade))
"""


@pytest.mark.parametrize("path", notebooks.paths(), ids=lambda p: p.name)
def test_committed_small_and_without_outputs(path: Path) -> None:
    assert path.stat().st_size < 500_000
    for cell in json.loads(path.read_text())["cells"]:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


PAGE = """# Title

*A notebook: [download it](toy.ipynb).*

See [the idea](../idea.md) and [another](other.md).

```python
print(1)
```

```{.text .output}
1
```

[![What this cell shows](toy/1.png)](toy/1.png)
"""


def test_a_notebook_becomes_a_page_with_its_pictures() -> None:
    new, png = nbformat.v4, base64.b64encode(b"picture").decode()
    text = "# Title\n\nSee [the idea](../docs/idea.md) and [another](other.ipynb)."
    cell = new.new_code_cell("print(1)")
    cell.outputs = [
        new.new_output("stream", name="stdout", text="1\n"),
        new.new_output("display_data", {"image/png": png, "text/plain": "<Figure>"}),
    ]
    notebook = new.new_notebook(cells=[new.new_markdown_cell(text), cell])
    assert notebooks.page(notebook, "toy") == (PAGE, {"toy/1.png": b"picture"})


def test_a_copy_is_taken_until_the_notebook_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notebooks, "KEPT", tmp_path / "kept")
    ran: list[str] = []
    monkeypatch.setattr(notebooks, "execute", lambda nb: ran.append("") or nb)
    path, new = tmp_path / "toy.ipynb", nbformat.v4
    for text, runs in (("a = 1", 1), ("a = 1", 1), ("a = 2", 2)):
        cell = new.new_code_cell(text, id="a")
        nbformat.write(new.new_notebook(cells=[cell]), path)
        assert notebooks.executed(path).cells[0].source == text
        assert len(ran) == runs
        assert len(list((tmp_path / "kept").iterdir())) == 1


def test_formulas_become_mathml_and_dollars_in_code_stay() -> None:
    html = r'<p><span class="arithmatex">\(a &lt; b\)</span> costs <code>$x$</code></p>'
    drawn = notebooks.with_mathml(html)
    assert drawn.startswith(
        '<p><math xmlns="http://www.w3.org/1998/Math/MathML" display="in'
    )
    assert "<mi>a</mi><mo>&#x0003C;</mo><mi>b</mi>" in drawn
    assert drawn.endswith("</math> costs <code>$x$</code></p>")


def _executed(name: str, more: str = "") -> list[Any]:
    """The code cells of a notebook, and one more, after a kernel has run them.

    The site takes the executed notebook.
    """
    (path,) = (p for p in notebooks.paths() if p.stem == name)
    notebook = notebooks.read(path)
    notebook.cells += [nbformat.v4.new_code_cell(more)] if more else []
    notebooks.execute(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    if more:
        notebook.cells.pop()
    notebooks.keep(path, notebook)
    return cells


def _pictures(cell: Any) -> list[np.ndarray]:
    """What a cell shows as PNG."""
    data = [output.get("data", {}) for output in cell.outputs]
    pngs = [base64.b64decode(d["image/png"]) for d in data if "image/png" in d]
    return [np.asarray(Image.open(io.BytesIO(png)).convert("L")) for png in pngs]


def _printed(cell: Any) -> str:
    return "".join(o.text for o in cell.outputs if o.get("name") == "stdout")


def test_schedule_analysis_shows_what_its_text_says() -> None:
    *cells, last = _executed("schedule_analysis", SHOW)
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
