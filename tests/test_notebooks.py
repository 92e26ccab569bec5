"""Notebooks run from top to bottom in a kernel, show their figures, and are true.

They are committed without outputs.
"""

import base64
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
import scipy.stats
from PIL import Image

from tests import compiling
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
        new.new_output("stream", name="stderr", text="a slow disk\n"),
        new.new_output("display_data", {"image/png": png, "text/plain": "<Figure>"}),
    ]
    notebook = new.new_notebook(cells=[new.new_markdown_cell(text), cell])
    assert notebooks.page(notebook, "toy") == (PAGE, {"toy/1.png": b"picture"})


def test_a_copy_is_taken_until_the_notebook_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notebooks, "KEPT", tmp_path / "kept")
    ran: list[str] = []
    monkeypatch.setattr(notebooks, "execute", lambda nb, folder: ran.append("") or nb)
    path, new = tmp_path / "toy.ipynb", nbformat.v4
    for text, runs in (("a = 1", 1), ("a = 1", 1), ("a = 2", 2)):
        cell = new.new_code_cell(text, id="a")
        nbformat.write(new.new_notebook(cells=[cell]), path)
        assert notebooks.executed(path, tmp_path).cells[0].source == text
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


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the notebooks of this file work, so that they share a run."""
    return tmp_path_factory.mktemp("notebooks")


def _executed(name: str, folder: Path, more: str = "") -> list[Any]:
    """The code cells of a notebook, and one more, after a kernel has run them.

    The site takes the executed notebook.
    """
    (path,) = (p for p in notebooks.paths() if p.stem == name)
    notebook = notebooks.read(path)
    notebook.cells += [nbformat.v4.new_code_cell(more)] if more else []
    notebooks.execute(notebook, folder, compiling.QUICK)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    if more:
        notebook.cells.pop()
    notebooks.keep(path, notebook)
    warned = [o.text for c in cells for o in c.outputs if o.get("name") == "stderr"]
    assert all("Waiting for previous save" in text for text in warned)  # a slow disk
    return cells


def _pictures(cell: Any) -> list[np.ndarray]:
    """What a cell shows as PNG."""
    data = [output.get("data", {}) for output in cell.outputs]
    pngs = [base64.b64decode(d["image/png"]) for d in data if "image/png" in d]
    return [np.asarray(Image.open(io.BytesIO(png)).convert("L")) for png in pngs]


def _printed(cell: Any) -> str:
    return "".join(o.text for o in cell.outputs if o.get("name") == "stdout")


def test_schedule_analysis_shows_what_its_text_says(folder: Path) -> None:
    *cells, last = _executed("schedule_analysis", folder, SHOW)
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


def _said(name: str, folder: Path, figures: int) -> str:
    """All that a notebook prints; it shows as many pictures, none of them empty."""
    cells = _executed(name, folder)
    pictures = [picture for cell in cells for picture in _pictures(cell)]
    assert len(pictures) == figures
    assert all(np.mean(picture < 200) > 0.02 for picture in pictures)
    return "".join(map(_printed, cells))


def _numbers(pattern: str, text: str) -> list[float]:
    """The numbers that a pattern's one group finds."""
    return [float(found) for found in re.findall(pattern, text, re.MULTILINE)]


def test_own_network_has_forty_lines_and_learns(folder: Path) -> None:
    (path,) = (p for p in notebooks.paths() if p.stem == "own_network")
    code = [c.source for c in notebooks.read(path).cells if c.cell_type == "code"]
    made = [c.partition("\n\n\ndataset")[0] for c in code[1:4]]
    assert len([line for line in "\n".join(made).split("\n") if line.strip()]) <= 40
    text = _said("own_network", folder, 2)
    assert "trained until step 1000" in text
    assert _numbers(r"(\d+)% are of the class", text)[0] >= 85
    (drawn,), (real,) = (_numbers(rf"{what}: +(.*)$", text) for what in ("image", "next"))
    assert real < drawn < 3 * real


def test_samplers_and_guidance_show_what_the_text_says(folder: Path) -> None:
    text = _said("samplers_and_guidance", folder, 3)
    errors = {
        name: dict(zip(*[iter(_numbers(r"([\d.]+)(?:: |  |$)", line))] * 2, strict=True))
        for name, line in re.findall(
            r"^(Euler|Heun|DPM-Solver\+\+ 3) +(\d+:.*)$", text, re.M
        )
    }
    euler, heun, multistep = errors.values()
    assert 1.6 < euler[8] / euler[16] < 2.5  # order 1
    assert 1.6 < euler[16] / euler[32] < 2.5
    assert heun[15] / heun[31] > 3.5  # order 2
    assert heun[31] / heun[63] > 3.5
    assert multistep[8] > euler[8]
    assert multistep[16] < heun[31] / 2
    assert multistep[32] < heun[63] / 2
    typical, varied, beyond = (
        _numbers(pattern, text)
        for pattern in (r"(\d+)% typical", r"([\d.]+) varied", r"(\d+)% beyond")
    )
    assert typical[:4] == sorted(typical[:4])
    assert typical[0] < 90 < 98 <= typical[3]
    assert varied[:4] == sorted(varied[:4], reverse=True)
    assert beyond[:4] == sorted(beyond[:4])
    assert typical[4] >= typical[3] - 1  # in an interval
    assert varied[4] > 1.05 * varied[3]
    assert beyond[4] < beyond[3]
    (guided,) = _numbers(r"guided steps: (\d+) of 18", text)
    assert guided < 6


def test_ema_lengths_show_what_the_text_says(folder: Path) -> None:
    text = _said("ema_lengths", folder, 3)
    assert "60 snapshots" in text
    made, apart = _numbers(r"beside tracked 0.10: ([\d.]+)%", text)
    assert made < apart / 20
    rows = re.findall(r"^([\d.]+): loss ([\d.]+), profile lacks ([\d.]+)%", text, re.M)
    loss = {float(std): float(value) for std, value, _ in rows}
    (best,) = _numbers(r"the best is ([\d.]+)", text)
    assert best == min(loss, key=loss.get)
    assert min(loss) < best < max(loss)
    flat = [value for std, value in loss.items() if 0.03 <= std <= 0.14]
    assert max(flat) < 1.02 * min(flat)
    assert min(loss[0.01], loss[0.25]) > 1.03 * min(flat)
    assert float(rows[0][2]) > 5
    assert all(float(lack) < 1 for std, _, lack in rows if float(std) > 0.025)


def test_noise_shift_shows_what_the_text_says(folder: Path) -> None:
    text = _said("noise_shift", folder, 2)
    for level, says, std in re.findall(r"at t = (.*): states say (.*) \+- (.*)", text):
        assert abs(float(says) - float(level)) < 0.02
        assert float(std) < 0.06
    stochastic, euler, heun = _numbers(r"^(?:Euler–Maruyama|Euler|Heun) +([\d.]+)$", text)
    assert stochastic > 1.15
    assert euler < 0.9
    assert 1.0 < heun < 1.1
    guided = _numbers(r"variance within blobs ([\d.]+)", text)
    assert guided == sorted(guided, reverse=True)
    assert 1 < guided[-1] < stochastic - 0.05
    worse, right = _numbers(r"w = 1: ([\d.]+)", text)[-2:]
    assert worse < euler
    assert abs(right - 1) < heun - 1


def test_likelihood_and_editing_show_what_the_text_says(folder: Path) -> None:
    text = _said("likelihood_and_editing", folder, 4)
    values = [
        np.array(list(map(float, found.split())))
        for found in re.findall(r"^by .*?: +\[(.*)\]$", text, re.MULTILINE)
    ]
    std = math.hypot(0.5, 0.02)
    exact = 4 * scipy.stats.norm(0.3, std).logpdf(np.linspace(-1, 1, 5))
    np.testing.assert_allclose(values[0], exact, atol=1e-3)
    near, nearer = (abs(value - exact).max() for value in values[1:])
    assert 0.02 < near < 0.06
    assert nearer < near / 5
    (mean,) = _numbers(r"^([\d.]+) \+- [\d.]+ bits/dim$", text)
    assert mean < 8
    asked = re.findall(r"^(\w.*?) +([\d.]+) bits/dim: (.*) \+- (.*)$", text, re.MULTILINE)
    (_, wrong, upside_down, shuffled) = asked
    for _, _, more, error in (wrong, upside_down, shuffled):
        assert float(more) > 5 * float(error)
    assert 0.3 < float(wrong[2]) < 0.8
    assert float(shuffled[1]) > 8
    change = _numbers(r"changes pixels by ([\d.]+)$", text)
    assert change == sorted(change)
    assert "the known half changed by 0\n" in text
    (trip,) = _numbers(r"changes pixels by (\S+) \(rms\)", text)
    assert trip < 0.004  # half a grey level
