"""The documentation site: its API reference, its notebooks, and what `jd.name` stands for.

    pip install -e ".[docs]" && mkdocs build --strict    # the site, into site/
    python tools/website.py                                 # its figures

`mkdocs.yml` loads this file as its hook, which adds one reference page per room, with every
public name of every module, and links each `jd.name` in the text of a page to its entry
there. Names are read from the sources, so the reference needs neither jaxdiff nor jax.
Notebooks become pages with their outputs (`tools/notebooks.py`), formulas MathML.
"""

import ast
import doctest
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tools import architecture, notebooks  # noqa: E402

ROWS = re.compile(r"^\| (?:\d*) ?\| `(\w+)/?`(?: ●)? \| (.*) \|$", re.MULTILINE)
NAME = re.compile(r"(?<!\[)`(jd(?:\.\w+)+)((?:\([^`\n]*\))?)`")
FENCE = re.compile(r"(^ *```.*?^ *```\n?)", re.MULTILINE | re.DOTALL)
EXAMPLE = re.compile(r"(^>>> .*(?:\n.+)*)", re.MULTILINE)
NOTEBOOK = re.compile(r"\]\(((?:\.\./)*)\.\./notebooks/(\w+)\.ipynb\)")
OUTSIDE = re.compile(r"\[([^\]]+)\]\((?:\.\./)+(?:CHANGELOG|tests|jaxdiff|configs)[^)]*\)")


@cache
def files() -> dict[str, Path]:
    """All modules of the package by their dotted names, `jaxdiff` itself included."""
    named = {f"jaxdiff.{name}": path for name, path in architecture.modules().items()}
    return {"jaxdiff": architecture.PACKAGE / "__init__.py", **named}


@cache
def defined(module: str) -> dict[str, ast.stmt]:
    """The public names that a module itself defines: functions, classes and constants."""
    names: dict[str, ast.stmt] = {}
    for node in ast.parse(files()[module].read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names[node.name] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {t.id: node for t in targets if isinstance(t, ast.Name)}
    return {name: node for name, node in names.items() if name[0] != "_"}


@cache
def imported(module: str) -> dict[str, str]:
    """The names that a package takes from its modules, and where each comes from."""
    if files()[module].name != "__init__.py":
        return {}
    names = {}
    for node in ast.walk(ast.parse(files()[module].read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("jaxdiff"):
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return names


@cache
def loaded(package: str) -> set[str]:
    """The modules that importing a package imports, which are its attributes then.

    None of a package that imports a name when it is first asked for.
    """
    known, new = architecture.modules(), [package.partition(".")[2]]
    modules: set[str] = set()
    while new:
        module = new.pop()
        if "lazy_api_imports" not in files()[f"jaxdiff.{module}".rstrip(".")].read_text():
            new += architecture.imports(module, known) - modules
            modules |= architecture.imports(module, known)
    return {f"jaxdiff.{module}" for module in modules}


def definition(dotted: str) -> str | None:
    """Where a name is defined: `jd.Heun` is jaxdiff.sampling.solvers.euler_heun_ddim.Heun.

    None if there is no such name.
    """
    at, *rest = re.sub(r"^jd\b", "jaxdiff", dotted).split(".")
    for depth, name in enumerate(rest):
        if at not in files():
            return _member(at, rest[depth:])
        if name in imported(at):
            at = _follow(imported(at)[name])
        elif f"{at}.{name}" in loaded(at) or name in defined(at):
            at = f"{at}.{name}"
        else:
            return None
    return at


def _follow(target: str) -> str:
    """The end of a chain of imports."""
    module, _, name = target.rpartition(".")
    if name in imported(module) and imported(module)[name] != target:
        return _follow(imported(module)[name])
    return target


def _member(owner: str, names: list[str]) -> str | None:
    """A method or a field of a class."""
    module, _, name = owner.rpartition(".")
    node = defined(module).get(name) if module in files() else None
    if len(names) != 1 or not isinstance(node, ast.ClassDef):
        return None
    return f"{owner}.{names[0]}" if names[0] in architecture.members(node) else None


@cache
def public_names() -> dict[str, str]:
    """All names that a user reaches as jd.name or jd.package.name, and their definitions.

    Each definition has its shortest name; a package or a module is not in the list.
    """
    names: dict[str, str] = {}
    packages, seen = ["jd"], set()
    while packages:
        package = packages.pop(0)
        for name in (n for n in imported(definition(package)) if n[0] != "_"):
            target = definition(f"{package}.{name}")
            if target in files():
                if target not in seen and files()[target].name == "__init__.py":
                    packages.append(f"{package}.{name}")
                seen.add(target)
            elif target not in names.values():
                names[f"{package}.{name}"] = target
    return names


def rooms() -> dict[str, str]:
    """The rooms of docs/architecture.md in their order, and what each holds."""
    return dict(ROWS.findall((ROOT / "docs" / "architecture.md").read_text()))


def modules_of(room: str) -> list[str]:
    """The modules of a room that define something public, the room itself first."""
    names = [
        m for m in files() if m == f"jaxdiff.{room}" or m.startswith(f"jaxdiff.{room}.")
    ]
    return [m for m in names if m == f"jaxdiff.{room}" or defined(m)]


def summary(target: str) -> str:
    """The first line of a name's docstring, or what is written below a constant."""
    module, _, name = target.rpartition(".")
    node = defined(module)[name]
    if not isinstance(node, ast.FunctionDef | ast.ClassDef):
        body = ast.parse(files()[module].read_text()).body
        below = [n for n in body if n.lineno > node.lineno][:1]
        node = ast.Module(below, [])
    return " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())


@cache
def elsewhere() -> dict[str, str]:
    """Methods without a docstring, and the method of a base or protocol that has theirs."""
    classes = {
        f"{module}.{name}": node
        for module in files()
        for name, node in defined(module).items()
        if isinstance(node, ast.ClassDef)
    }
    names = {id(node): name for name, node in classes.items()}
    methods = {}
    for name, node in classes.items():
        for parent in architecture.parents(node, list(classes.values())):
            for method, documented in architecture.members(parent).items():
                if documented and method in architecture.members(node):
                    methods.setdefault(f"{name}.{method}", f"{names[id(parent)]}.{method}")
    return {name: target for name, target in methods.items() if name != target}


def entry(module: str) -> str:
    """A module's part of its page: its docstring, and what it defines and describes."""
    shown = [name for name in defined(module) if summary(f"{module}.{name}")]
    members = shown or "false"
    options = ("heading_level: 2", "show_root_full_path: true", f"members: {members}")
    return "".join([f"::: {module}\n    options:\n", *(f"      {o}\n" for o in options)])


def page(room: str, holds: str) -> str:
    """The reference page of one room."""
    names = {n: t for n, t in public_names().items() if t.split(".")[1] == room}
    rows = [f"| [`{n}`][{t}] | {_cell(summary(t))} |" for n, t in names.items()]
    table = ["| name | |", "|---|---|", *rows, ""] if rows else []
    entries = [entry(module) for module in modules_of(room)]
    holds = holds[0].upper() + holds[1:]
    return "\n".join([f"# jaxdiff.{room}", "", f"{holds}.", "", *table, *entries])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def pages() -> dict[str, str]:
    """The reference pages by their paths in the site."""
    rows = [
        f"| [`jaxdiff.{room}`]({room}.md) | {holds} |" for room, holds in rooms().items()
    ]
    index = ["# API reference", "", "| room | what it holds |", "|---|---|", *rows, ""]
    return {
        "reference/index.md": "\n".join(index),
        **{f"reference/{room}.md": page(room, holds) for room, holds in rooms().items()},
    }


def fenced(docstring: str) -> str:
    """A docstring with its examples as blocks of code, each up to an empty line."""
    return EXAMPLE.sub(r"```pycon\n\1\n```", docstring)


def linked(markdown: str) -> str:
    """A page whose `jd.name`s lead to the reference, without links out of the site.

    A link to a notebook leads to its page.
    """
    markdown = NOTEBOOK.sub(r"](\1notebooks/\2.md)", markdown)

    def link(match: re.Match) -> str:
        target = definition(match[1])
        return f"[`{match[1]}{match[2]}`][{target}]" if target else match[0]

    parts = FENCE.split(markdown)
    parts[::2] = [OUTSIDE.sub(r"\1", NAME.sub(link, part)) for part in parts[::2]]
    return "".join(parts)


def on_files(files: Any, config: Any) -> Any:
    """Adds the reference and the notebooks to the site's pages (mkdocs calls this)."""
    from mkdocs.structure.files import File

    for path, content in {**pages(), **notebooks.rendered()}.items():
        files.append(File.generated(config, path, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links the names of a page (mkdocs calls this)."""
    return linked(markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Draws the formulas of a page (mkdocs calls this)."""
    return notebooks.with_mathml(html)


def missing(folder: Path) -> list[str]:
    """The public names, methods included, without an entry in a built site."""
    pages = (path.read_text() for path in (folder / "reference").glob("*.html"))
    entries = {name for text in pages for name in re.findall(r'id="(jaxdiff[.\w]*)"', text)}
    names = {f"jaxdiff.{name}" for name, _ in architecture.public()}
    return sorted((names | {*public_names().values()}) - entries)


def on_post_build(config: Any) -> None:
    """Fails if the reference lacks a public name (mkdocs calls this)."""
    from mkdocs.exceptions import PluginError

    if names := missing(Path(config.site_dir)):
        raise PluginError(f"the reference has no entry for {', '.join(names)}")


def examples() -> dict[str, bool]:
    """The functions and classes that a user calls, and whether each has an example.

    A class may have it in a method. Nobody calls a protocol or an exception.
    """
    shown = {}
    for name, target in public_names().items():
        module, _, own = target.rpartition(".")
        node = defined(module)[own]
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not _uncalled(node):
            parts = [
                n for n in ast.walk(node) if isinstance(n, type(node) | ast.FunctionDef)
            ]
            shown[name] = any(shows(ast.get_docstring(n) or "", own) for n in parts)
    return shown


def shows(docstring: str, name: str) -> bool:
    """Whether an example in it, which the tests run, has a result to compare.

    It names what it is about, or the function that makes such values, as `Copies` and
    `copies`. What doctest skips does not count.
    """
    lines = doctest.DocTestParser().get_examples(docstring)
    code = "".join(line.source for line in lines)
    results = [line for line in lines if line.want and doctest.SKIP not in line.options]
    return bool(results) and name.lower() in code.lower()


def _uncalled(node: ast.stmt) -> bool:
    """Whether it is a protocol or an exception."""
    bases = [ast.unparse(base) for base in getattr(node, "bases", ())]
    ends = ("Error", "Exception")
    return any(base.startswith("Protocol") or base.endswith(ends) for base in bases)


if __name__ == "__main__":
    shown = examples()
    entries = [name for name, _ in architecture.public()]
    print(f"entries of the API reference: {len(entries)}, methods included")
    print(f"names reached as jd.name or jd.package.name: {len(public_names())}")
    print(f"functions and classes among them that are called: {len(shown)}")
    print(f"of these with an example: {sum(shown.values())}")
    print("without:", *(name for name, example in shown.items() if not example))
