"""What the docs and the docstrings name exists: files, modules, and names in modules."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import jaxdiff as jd

ROOT = Path(__file__).parents[1]
PLANS = ROOT / "docs/roadmap.md"
"""The page that names what there is not yet."""
PAGES = sorted({ROOT / "README.md", *ROOT.glob("docs/**/*.md")} - {PLANS})
CODE = ("jaxdiff", "launch", "configs", "benchmarks", "examples", "tools")
FOLDERS = "|".join((*CODE, "tests", "docs", "notebooks"))
FILE = re.compile(rf"(?<![\w/.-])(?:{FOLDERS})/[\w./-]*\.(?:py|md|ipynb|json|png)")
DOTTED = re.compile(r"`([a-z_]\w*(?:\.\w+)+)[`(]")
ELSEWHERE = {
    *("figure.savefig", "jax.distributed", "jax.jvp", "law.length"),
    *("module.name", "network.remat", "source.load", "sampling.noise_guidance"),
    *("jd.name", "jd.package.name", "solvers.MySolver", "optimizer.lengths"),
    *("compiled.as_text", "lax.scan", "mkdocs.yml"),
    *("np.asarray", "jax.lax.scan", "optax.GradientTransformation"),
    *("optax.MultiSteps", "optax.microbatch"),
}
"""Names of other libraries, of variables and fields of experiments, and placeholders."""
FILES = (".json", ".tsv", ".npz", ".weight", ".0", ".1")
"""Endings of files, and of arrays in files, that look like names in modules."""


def sources() -> list[Path]:
    return sorted(path for folder in CODE for path in (ROOT / folder).rglob("*.py"))


def docstrings() -> Iterator[tuple[Path, str]]:
    kinds = ast.Module | ast.FunctionDef | ast.ClassDef
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, kinds) and (text := ast.get_docstring(node)):
                yield path, text


def words_by_module() -> dict[str, set[str]]:
    """The words of each module and of each package, all that is in it."""
    words: dict[str, set[str]] = {}
    for path in (ROOT / "jaxdiff").rglob("*.py"):
        inside = set(re.findall(r"\w+", path.read_text())) | {path.stem}
        for name in (path.stem, *path.relative_to(ROOT).parts[:-1]):
            words.setdefault(name, set()).update(inside)
    words["jd"] = words["jaxdiff"]
    return words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_and_names_of_a_page_exist(page: Path) -> None:
    text = page.read_text()
    assert [name for name in FILE.findall(text) if not (ROOT / name).exists()] == []
    for name in set(DOTTED.findall(text)) - ELSEWHERE:
        package, *rest = name.split(".")
        value = jd
        for part in rest if package in ("jd", "jaxdiff") else ():
            assert hasattr(value, part), name
            value = getattr(value, part)


def test_names_in_docstrings_exist() -> None:
    words, missing = words_by_module(), []
    for path, text in docstrings():
        missing += [(path.name, f) for f in FILE.findall(text) if not (ROOT / f).exists()]
        for name in set(DOTTED.findall(text)) - ELSEWHERE:
            module, member, *_ = name.split(".")
            if not name.endswith(FILES) and member not in words.get(module, ()):
                missing.append((path.name, name))
    assert missing == []
