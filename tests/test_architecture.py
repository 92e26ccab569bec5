"""The rooms of docs/architecture.md, and what an import may cost."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tools import architecture

ROOT = Path(__file__).parents[1]
DOCS = (ROOT / "docs" / "architecture.md").read_text()
ROW = re.compile(r"^\| (\d*) ?\| `(\w+)/?`( ●)? \|", re.MULTILINE)
MODULES = architecture.modules()
LIKELIHOOD = ("adaptive", "bound", "divergence", "flow", "inputs", "integrate", "pixels")
MATHEMATICS = (
    *(f"evaluation.likelihood.{name}" for name in LIKELIHOOD),
    *(f"evaluation.noise_shift.{name}" for name in ("mixture", "shift", "theory")),
)
"""Modules that need jax alone, in a room that needs more."""


def rooms() -> tuple[dict[str, int], set[str]]:
    """The row of each room in the table of the docs, and the rooms of the mathematics."""
    rows, pure, row = {"version": 0}, set(), 0
    for number, name, mark in ROW.findall(DOCS):
        row = int(number) if number else row
        rows[name] = row
        if mark:
            pure.add(name)
    return rows, pure


ROWS, PURE = rooms()


def imported(path: Path) -> set[str]:
    """The top-level packages that a module imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").split(".")[0])
    return names


def test_the_table_has_every_room() -> None:
    assert ROWS.keys() == {architecture.room(module) for module in MODULES}
    assert len(ROWS) <= 17


def test_a_room_imports_only_rows_above_its_own() -> None:
    arrows = sorted(architecture.arrows())
    wrong = [f"{room} imports {to}" for room, to in arrows if ROWS[to] >= ROWS[room]]
    assert arrows
    assert wrong == []


def test_no_module_imports_itself_by_others() -> None:
    assert architecture.module_cycle() == []


def test_every_public_name_is_documented() -> None:
    assert [name for name, documented in architecture.public() if not documented] == []


def test_a_method_is_documented_by_the_protocol_that_its_class_implements() -> None:
    code = (
        "class P(Protocol):\n  def f(self): 'Doc.'\n  def g(self): ...\n"
        "class Whole:\n  f = g = None\n"
        "class Part:\n  def f(self): ...\n"
        "class Derived(Whole): ...\n"
    )
    classes = ast.parse(code).body
    documented = [architecture.inherited(node, classes) for node in classes[1:]]
    assert documented == [{"f"}, set(), {"f"}]


def test_the_package_imports_no_script() -> None:
    scripts = {"benchmarks", "configs", "examples", "launch", "tests", "tools"}
    for path in MODULES.values():
        assert not imported(path) & scripts, path


def pure_modules() -> list[str]:
    return [m for m in MODULES if architecture.room(m) in PURE or m in MATHEMATICS]


@pytest.mark.parametrize("module", pure_modules())
def test_mathematics_needs_jax_alone(module: str) -> None:
    allowed = {"jax", "jaxtyping", "numpy", "jaxdiff", *sys.stdlib_module_names}
    extra = {"diffrax"} if module.endswith(".adaptive") else set()
    assert imported(MODULES[module]) <= allowed | extra


def test_import_loads_nothing_and_starts_no_device() -> None:
    code = (
        "import sys, jaxdiff\n"
        "heavy = {'jax', 'flax', 'optax', 'orbax', 'grain', 'matplotlib', 'PIL'}\n"
        "print(sorted(heavy & {n.split('.')[0] for n in sys.modules}))\n"
        "jaxdiff.sample, jaxdiff.likelihood, jaxdiff.noise_shift, jaxdiff.editing\n"
        "heavy = heavy - {'jax'} | {'sklearn', 'diffrax'}\n"
        "print(sorted(heavy & {n.split('.')[0] for n in sys.modules}))\n"
        "import jaxdiff.train, jaxdiff.runs.checkpoint, jaxdiff.config\n"
        "from jax._src import xla_bridge\n"
        "print(xla_bridge.backends_are_initialized())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.stdout.split("\n")[:3] == ["[]", "[]", "False"]


def test_public_names_exist() -> None:
    import jaxdiff

    for name in jaxdiff.__all__:
        assert getattr(jaxdiff, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = jaxdiff.nothing
