"""The import rows of docs/architecture.md, and what an import may cost."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "jaxdiff"
ROWS = (
    {"types", "version"},
    {"runtime", "schedules", "denoisers", "networks"},
    {"objectives", "sampling", "optim", "interop"},
    {"data", "toy2d"},
    {"analysis", "config"},
    {"runs"},
    {"evaluation"},
    {"train"},
)
MATHEMATICS = {"types", "schedules", "denoisers", "objectives", "sampling"}
"""Modules that may import jax, NumPy and jaxtyping alone; adaptive.py, diffrax too."""


def modules() -> list[Path]:
    return [p for p in sorted(PACKAGE.rglob("*.py")) if p != PACKAGE / "__init__.py"]


def part(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Dotted names of what a module imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def row(name: str) -> int:
    return next(i for i, names in enumerate(ROWS) if name in names)


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_come_from_rows_above(path: Path) -> None:
    for name in imports(path):
        top, *rest = name.split(".")
        assert top not in {"configs", "launch", "tests", "benchmarks"}
        if top == "jaxdiff" and rest[0] != part(path):
            assert row(rest[0]) < row(part(path)), f"{path.name} imports {name}"


@pytest.mark.parametrize("name", sorted(MATHEMATICS))
def test_mathematics_needs_jax_alone(name: str) -> None:
    allowed = {"jax", "jaxtyping", "numpy", "jaxdiff", *sys.stdlib_module_names}
    for path in (p for p in modules() if part(p) == name):
        extra = {"diffrax"} if path.name == "adaptive.py" else set()
        assert {n.split(".")[0] for n in imports(path)} <= allowed | extra


def test_import_starts_no_device_and_no_training_stack() -> None:
    code = (
        "import sys, jaxdiff\n"
        "heavy = {'flax', 'optax', 'orbax', 'grain', 'sklearn', 'matplotlib', 'PIL'}\n"
        "heavy.add('diffrax')\n"
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
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
    )
    assert done.stdout.split("\n")[:2] == ["[]", "False"]


def test_public_names_exist() -> None:
    import jaxdiff

    for name in jaxdiff.__all__:
        assert getattr(jaxdiff, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = jaxdiff.nothing
