"""One style for all figures: one table of colours, one maker, as wide as a page."""

import ast
import json
import re
from pathlib import Path

import pytest

import jaxdiff as jd
from jaxdiff.analysis import plots
from jaxdiff.config import TYPES
from jaxdiff.types import Solver

ROOT = Path(__file__).parents[1]
STYLE = ROOT / "jaxdiff" / "analysis" / "plots.py"
DRAWING = re.compile(r"\bmatplotlib\b|\bplots\b|\.plot\(|\.imshow\(")


def _sources() -> dict[str, str]:
    """The code of everything that draws, by file: scripts, the library, the notebooks."""
    folders = ("jaxdiff", "benchmarks", "tools", "examples")
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    sources = {str(p.relative_to(ROOT)): p.read_text() for p in paths if p != STYLE}
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        cells = json.loads(path.read_text())["cells"]
        code = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
        lines = [line for text in code for line in text.splitlines() if line[:1] != "%"]
        sources[path.name] = "\n".join(lines)
    return {name: text for name, text in sources.items() if DRAWING.search(text)}


SOURCES = _sources()
COLOUR = re.compile(r"#[0-9a-fA-F]{3}(?:[0-9a-fA-F]{3})?|(?:tab|xkcd):\w+|C\d|0?\.\d+")
NAMED = ("color", "c", "ec", "fc", "mec", "mfc", "edgecolor", "edgecolors", "facecolor")


def own_style(source: str) -> list[str]:
    """What a source draws in a style of its own: figures, pyplot, colours."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func).rpartition(".")[2]
            found += ["Figure()"] if name in ("Figure", "FigureCanvasAgg") else []
            found += [
                f"{word.arg}={word.value.value!r}"
                for word in node.keywords
                if word.arg in NAMED
                and isinstance(word.value, ast.Constant)
                and word.value.value != "none"
            ]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found += [node.value] if COLOUR.fullmatch(node.value) else []
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found += ["pyplot"] if "pyplot" in ast.unparse(node) else []
    return found


def test_style_of_its_own_is_seen() -> None:
    assert own_style("import matplotlib.pyplot as plt") == ["pyplot"]
    assert own_style("Figure(figsize=(3, 4))") == ["Figure()"]
    assert own_style("axes.plot(x, y, color='k')") == ["color='k'"]
    assert own_style("look = {'color': '#0072B2', 'x': 'tab:blue'}") == [
        "#0072B2",
        "tab:blue",
    ]
    assert not own_style("axes.plot(x, y, color=plots.BLUE, label='a')")


@pytest.mark.parametrize("source", SOURCES)
def test_all_that_draws_takes_figures_and_colours_from_one_place(source: str) -> None:
    assert own_style(SOURCES[source]) == []


def test_the_studies_draw() -> None:
    """So that the test above is about them."""
    names = (
        "debias",
        "nag_unet",
        "toy2d",
        "zero_terminal_snr",
        "improved_ddpm",
        "ema_lengths",
    )
    assert {f"benchmarks/{name}.py" for name in names} <= SOURCES.keys()
    assert {"schedule_analysis.ipynb", "tools/figures.py"} <= SOURCES.keys()


@pytest.mark.parametrize("family", plots.METHODS)
def test_two_methods_of_one_family_never_share_a_look(family: str) -> None:
    names = list(plots.METHODS[family])
    looks = [(look["color"], look["ls"], look["lw"]) for look in plots.looks(names)]
    assert len(set(looks)) == len(looks)
    assert [look["color"] for look in plots.looks(names)] == [
        *plots.METHODS[family].values()
    ]


@pytest.mark.parametrize(
    ("name", "colour"),
    [
        ("EulerMaruyama, 25 steps", plots.SKY),
        ("Euler–Maruyama", plots.SKY),
        ("ODE, Heun", plots.VERMILION),
        ("rectified flow", plots.GREEN),
        ("x₀", plots.SKY),
        ("v", plots.PURPLE),
        ("min-SNR", plots.GREEN),
        ("leading: mean 0.4", plots.BLUE),
        ("config G", plots.BLACK),
    ],
)
def test_a_method_has_its_colour_in_any_name(name: str, colour: str) -> None:
    assert plots.looks([name])[0]["color"] == colour


def test_every_solver_has_a_colour() -> None:
    solvers = {kind.__name__ for kind in TYPES.values() if issubclass(kind, Solver)}
    assert solvers == plots.METHODS["solver"].keys() - {"Euler–Maruyama"}


def test_no_figure_is_wider_than_a_page() -> None:
    figure, _ = plots.panels("a", 3.0, columns=3)
    assert figure.get_figwidth() == plots.PAGE
    with pytest.raises(ValueError, match="wider than a page"):
        plots.panels("a", 3.0, width=plots.PAGE + 1)
    recipe = jd.analysis.curves.density(jd.Cosine(), jd.timesteps.Uniform())
    weights = {"a": jd.analysis.curves.effective(jd.Cosine(), recipe, jd.Debias())}
    four = plots.weightings(weights, on=("eps", "x0", "v", "flow"))
    assert len(four.axes) == 4
    assert four.get_figwidth() == plots.PAGE
