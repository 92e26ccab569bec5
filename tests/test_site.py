"""The documentation site lists every public name and page, and its links lead somewhere.

All of it is read from the sources; `mkdocs build --strict` also renders the pages.
"""

import ast
import dataclasses
import inspect
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

import jaxdiff
from jaxdiff.commands import main
from tools import architecture, notebooks, website

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = {str(p.relative_to(DOCS)): p.read_text() for p in sorted(DOCS.rglob("*.md"))}
NOTEBOOKS = dict(notebooks.pages())
REFERENCE = ["reference/index.md", *(f"reference/{room}.md" for room in website.rooms())]
FENCED = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)


@cache
def site() -> dict[str, str]:
    """Every page by its path."""
    return PAGES | NOTEBOOKS | website.pages()


def test_every_page_is_in_the_navigation_once() -> None:
    nav = (ROOT / "mkdocs.yml").read_text().partition("\nnav:")[2]
    assert sorted(re.findall(r"[\w/]+\.md", nav)) == sorted(site())
    assert site().keys() == {*PAGES, *NOTEBOOKS, *REFERENCE}


def test_every_public_name_has_an_entry() -> None:
    text = "".join(website.pages().values())
    entries = set(re.findall(r"^::: (\S+)", text, re.MULTILINE))
    modules = {f"jaxdiff.{name}" for name in architecture.modules()}
    with_names = {
        max((m for m in modules if f"jaxdiff.{name}".startswith(f"{m}.")), key=len)
        for name, _ in architecture.public()
    }
    assert with_names <= entries
    assert [
        n for n, t in website.public_names().items() if f"| [`{n}`][{t}] |" not in text
    ] == []


def test_every_public_name_has_a_summary() -> None:
    named = website.public_names()
    assert [name for name, target in named.items() if not website.summary(target)] == []


def test_names_are_what_python_says() -> None:
    named = website.public_names()
    for name, target in named.items():
        value = _value(name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert f"{value.__module__}.{value.__qualname__}" == target
    ours = [n for n in jaxdiff.__all__ if n not in ("jaxtyping", "version", "__version__")]
    assert [n for n in ours if website.definition(f"jd.{n}") is None] == []
    assert {f"jd.{n}" for n in ours if not isinstance(_value(f"jd.{n}"), ModuleType)} <= {
        *named
    }


def _value(name: str) -> object:
    value: object = jaxdiff
    for part in name.split(".")[1:]:
        value = getattr(value, part)
    return value


def test_a_name_that_is_not_there_has_no_definition() -> None:
    names = ["jd.Heun", "jd.solvers.Heun", "jd.NoiseLevel.snr", "jd.runs.restoring.restore"]
    assert all(website.definition(name) for name in names)
    names = ["jd.heun", "jd.Heun.snr", "jd.nothing.Heun", "jd.NoiseLevel.snr.real"]
    assert [website.definition(name) for name in names] == [None] * 4


def names(text: str) -> Iterator[str]:
    """Each jd.name of a page: in its text, and in its blocks of Python."""
    all_names = re.findall(r"(?<![\w/.])jd(?:\.[A-Za-z]\w*)+", text)
    yield from (name for name in all_names if name not in ("jd.name", "jd.package.name"))


@pytest.mark.parametrize("page", PAGES | NOTEBOOKS)
def test_the_names_of_a_page_exist(page: str) -> None:
    unknown = [name for name in names(site()[page]) if website.definition(name) is None]
    assert unknown == []
    for name in names(site()[page]):
        _value(name)


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("coming_from")])
def test_every_row_for_people_from_another_project_has_our_name(page: str) -> None:
    rows = re.findall(r"^\| (.*?) \| (.*?) \| ?(.*?) ?\|$", PAGES[page], re.MULTILINE)
    rows = [row for row in rows if row[1] != "jaxdiff" and "---" not in row[1]]
    assert len(rows) > 20
    for theirs, ours, _ in rows:
        codes = re.findall(r"`([^`]+)`", ours)
        assert codes, theirs
        for code in codes:
            if code.startswith("jaxdiff "):
                _require_command(code)
            elif code.startswith("jd."):
                eval(code, {"jd": jaxdiff})  # a name, or a value with its fields
            else:
                raise AssertionError(f"{theirs}: {code}")


def _require_command(line: str) -> None:
    """A line for the shell names a command, its flags, and a ready config."""
    command, *arguments = line.removeprefix("jaxdiff ").split(" ")
    assert command in main.names(), line
    for argument in arguments:
        flag = re.match(r"--(\w+)", argument)
        assert flag is None or flag[1] in _flags() or flag[1] == "help", line
        config = re.match(r"--config=(\w+)(?::(\S+))?$", argument)
        if config:
            jaxdiff.config.from_file(*config.groups())


@cache
def _flags() -> set[str]:
    """The flags of all commands together, read from their sources."""
    sources = (ROOT / "jaxdiff" / "commands").glob("*.py")
    text = "".join(path.read_text() for path in sources)
    own = re.findall(r"DEFINE_\w+\(\s*\"(\w+)\"", text)
    return {*own, "config", *(f.name for f in dataclasses.fields(jaxdiff.Sampling))}


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_exist(page: str) -> None:
    blocks = "".join(re.findall(r"```bash\n(.*?)```", PAGES[page], re.DOTALL))
    for line in re.findall(r"^jaxdiff .*", blocks.replace("\\\n", " "), re.MULTILINE):
        _require_command(re.sub(r"\"[^\"]*\"|#.*", "", line))


def test_a_command_that_is_not_there_is_seen() -> None:
    _require_command("jaxdiff sample --workdir=runs/a --steps=3")
    for line in ("jaxdiff draw", "jaxdiff sample --nothing=3", "jaxdiff train --config=no"):
        with pytest.raises((AssertionError, FileNotFoundError, ValueError)):
            _require_command(line)


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as Python-Markdown makes them."""
    headings = re.findall(r"^#+ (.*)$", FENCED.sub("", text), re.MULTILINE)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in headings]
    clean = [re.sub(r"[^\w\s-]", "", heading).strip().lower() for heading in plain]
    return {re.sub(r"[-\s]+", "-", heading) for heading in clean}


def links(text: str) -> list[str]:
    """Where a page leads to within the repository."""
    return re.findall(r"\]\((?!https?:)([^)\s]+)\)", FENCED.sub("", text))


@pytest.mark.parametrize("page", [*PAGES, *NOTEBOOKS, *REFERENCE])
def test_the_links_of_a_page_lead_somewhere(page: str) -> None:
    broken = []
    for link in links(site()[page]):
        path, _, anchor = link.partition("#")
        target = (
            ((DOCS / page).parent / path).resolve() if path else (DOCS / page).resolve()
        )
        name = str(target.relative_to(DOCS)) if target.is_relative_to(DOCS) else None
        source = ROOT / str(name)  # a notebook, which is a file of the site, too
        there = name in site() or target.exists() or source.exists()
        if not there or (anchor and anchor not in anchors(site().get(name, ""))):
            broken.append(link)
    assert broken == []


def test_links_are_checked_with_their_anchors() -> None:
    text = "## Two words: `jd.Heun`, once\n```\n# code\n```\n[a](b.md#c) [d](https://e)"
    assert anchors(text) == {"two-words-jdheun-once"}
    assert links(text) == ["b.md#c"]


def test_names_in_a_page_become_links_and_code_stays() -> None:
    text = (
        "`jd.Heun()` and `jd.nothing`\n```python\n`jd.Heun`\n```\n[x](../tests/README.md)"
    )
    heun = "jaxdiff.sampling.solvers.euler_heun_ddim.Heun"
    linked = f"[`jd.Heun()`][{heun}] and `jd.nothing`\n```python\n`jd.Heun`\n```\nx"
    assert website.linked(text) == linked


def test_a_link_to_a_notebook_leads_to_its_page() -> None:
    text = "[a](../notebooks/b.ipynb) [c](../../notebooks/d.ipynb)"
    assert website.linked(text) == "[a](notebooks/b.md) [c](../notebooks/d.md)"


def test_examples_become_blocks_of_code() -> None:
    text = "What.\n\n>>> a = 1\n>>> a\n1\n\nMore.\n"
    assert website.fenced(text) == "What.\n\n```pycon\n>>> a = 1\n>>> a\n1\n```\n\nMore.\n"


def test_a_method_without_docstring_leads_to_its_protocol() -> None:
    step = website.elsewhere()["jaxdiff.sampling.solvers.euler_heun_ddim.Heun.step"]
    assert step == "jaxdiff.types.Solver.step"
    undocumented = {
        f"jaxdiff.{name}" for name, documented in _documented() if not documented
    }
    assert undocumented <= website.elsewhere().keys()
    assert len(undocumented) > 50


def _documented() -> Iterator[tuple[str, bool]]:
    """Public methods, and whether they have a docstring of their own."""
    for module, path in architecture.modules().items():
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and node.name[0] != "_":
                for method in node.body:
                    if isinstance(method, ast.FunctionDef) and method.name[0] != "_":
                        yield (
                            f"{module}.{node.name}.{method.name}",
                            bool(ast.get_docstring(method)),
                        )


def test_all_that_is_called_has_an_example() -> None:
    shown = website.examples()
    assert shown.keys() > {"jd.sample", "jd.Heun", "jd.train.fit"}
    assert "jd.types.Network" not in shown  # a protocol
    assert "jd.train.Stopped" not in shown  # an exception
    assert [name for name, example in shown.items() if not example] == []


def test_an_example_is_run_has_a_result_and_names_what_it_is_of() -> None:
    assert website.shows("Twice.\n\n>>> twice(2)\n4\n", "twice")
    assert website.shows(
        ">>> twice('a')\nTraceback (most recent call last):\nE: no\n", "twice"
    )
    assert not website.shows("Twice, as `twice(2)`, is 4.", "twice")
    assert not website.shows(">>> twice(2)  # doctest: +SKIP\n4\n", "twice")
    assert not website.shows(">>> a = twice(2)\n", "twice")
    assert not website.shows(">>> 2 * 2\n4\n", "twice")


def test_a_name_that_the_built_site_lacks_is_named(tmp_path: Path) -> None:
    (tmp_path / "reference").mkdir()
    names = [f"jaxdiff.{name}" for name, _ in architecture.public()]
    names += website.public_names().values()
    names.remove("jaxdiff.sampling.sample.sample")
    names.remove("jaxdiff.sampling.sample.sample")
    page = "".join(f'<h2 id="{name}">' for name in names)
    (tmp_path / "reference" / "all.html").write_text(page)
    assert website.missing(tmp_path) == ["jaxdiff.sampling.sample.sample"]
