"""The notebooks, executed, as pages of the documentation site.

    python tools/notebooks.py    # executes those that the site would have to execute

Notebooks are committed without outputs. An executed copy is kept in build/notebooks, under
a hash of what its outputs depend on: the notebook, jaxdiff's sources, JAX's version. The
tests execute every notebook and keep the copies; the site takes a copy that is there, and
executes the notebook otherwise.
"""

import base64
import hashlib
import importlib.metadata
import os
import re
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "build" / "notebooks"
SECONDS = 600
"""After which a cell is given up, on a busy machine."""

LINK = re.compile(r"\]\((\w+)\.ipynb\)")
MATH = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)
FUNCTION = re.compile(r"(<mi>(?:exp|ln|log|sech)</mi>)(?!<mo)")


def paths() -> list[Path]:
    """The notebooks, by name."""
    return sorted((ROOT / "notebooks").glob("*.ipynb"))


def read(path: Path) -> Any:
    """A notebook as nbformat's value."""
    import nbformat

    return nbformat.read(path, as_version=4)


def execute(notebook: Any, folder: Path, flags: str = "") -> Any:
    """Runs all cells in a kernel of this Python, from top to bottom; returns the notebook.

    It works in `folder`: notebooks that train the same run find it there, and train it
    once. `flags` are XLA's.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed; it has the traceback.
    """
    from nbclient import NotebookClient

    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "XLA_FLAGS": flags}
    client = NotebookClient(
        notebook,
        timeout=SECONDS,
        kernel_name="python3",
        coalesce_streams=True,
        resources={"metadata": {"path": str(folder)}},
        extra_arguments=["--log-level=ERROR"],
    )
    return client.execute(env=environment)


@cache
def _sources() -> bytes:
    """A hash of what every notebook runs."""
    files = sorted((ROOT / "jaxdiff").rglob("*.py"))
    parts = [importlib.metadata.version("jax").encode(), *(f.read_bytes() for f in files)]
    return hashlib.sha256(b"\0".join(parts)).digest()


def copy_of(path: Path) -> Path:
    """Where a notebook's executed copy is kept."""
    name = hashlib.sha256(_sources() + path.read_bytes()).hexdigest()[:16]
    return KEPT / f"{path.stem}-{name}.ipynb"


def keep(path: Path, executed: Any) -> None:
    """Keeps the executed copy of a notebook, in place of earlier ones."""
    import nbformat

    KEPT.mkdir(parents=True, exist_ok=True)
    for earlier in KEPT.glob(f"{path.stem}-*.ipynb"):
        earlier.unlink(missing_ok=True)
    written = KEPT / f".{path.stem}.{os.getpid()}"
    nbformat.write(executed, written)
    written.rename(copy_of(path))


def executed(path: Path, folder: Path) -> Any:
    """A notebook with its outputs: the copy that is kept, or one made in `folder`."""
    if not copy_of(path).exists():
        print(f"executing notebooks/{path.name}", flush=True)
        keep(path, execute(read(path), folder))
    return read(copy_of(path))


def every_executed() -> dict[str, Any]:
    """All notebooks with their outputs, by name."""
    with tempfile.TemporaryDirectory() as folder:
        return {path.stem: executed(path, Path(folder)) for path in paths()}


def page(notebook: Any, name: str) -> tuple[str, dict[str, bytes]]:
    """The Markdown of a page, and its pictures by their paths beside it.

    Texts are blocks of code below their cell, and pictures lead to themselves in full
    size. A line below the title leads to the notebook.
    """
    parts, pictures = [], {}
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            parts.append(LINK.sub(r"](\1.md)", cell.source).replace("](../docs/", "](../"))
            continue
        parts.append(f"```python\n{cell.source}\n```")
        for output in cell.get("outputs", ()):
            if output.get("name") == "stderr":  # warnings about the machine
                continue
            data = output.get("data", {})
            if "image/png" in data:
                path = f"{name}/{len(pictures) + 1}.png"
                pictures[path] = base64.b64decode(data["image/png"])
                parts.append(f"[![What this cell shows]({path})]({path})")
            elif text := output.get("text") or data.get("text/plain"):
                parts.append(f"```{{.text .output}}\n{text.rstrip()}\n```")
    title, _, rest = "\n\n".join(parts).partition("\n")
    return f"{title}\n\n*A notebook: [download it]({name}.ipynb).*\n{rest}\n", pictures


def pages() -> Mapping[str, str]:
    """The pages by their paths in the site, as they are without any outputs."""
    return {f"notebooks/{p.stem}.md": page(read(p), p.stem)[0] for p in paths()}


def rendered() -> dict[str, str | bytes]:
    """The pages, their pictures and the notebooks themselves by their paths in the site."""
    contents: dict[str, str | bytes] = {}
    for name, notebook in every_executed().items():
        text, pictures = page(notebook, name)
        contents[f"notebooks/{name}.md"] = text
        contents[f"notebooks/{name}.ipynb"] = (
            ROOT / "notebooks" / f"{name}.ipynb"
        ).read_bytes()
        contents |= {f"notebooks/{place}": png for place, png in pictures.items()}
    return contents


def with_mathml(html: str) -> str:
    """A page whose TeX is MathML, which browsers draw without a script."""
    from html import unescape

    from latex2mathml.converter import convert

    def formula(match: re.Match) -> str:
        display = "block" if match[2] == "[" else "inline"
        mathml = convert(unescape(match[3]).strip(), display=display)
        return FUNCTION.sub(r'\1<mspace width="0.167em"/>', mathml)

    return MATH.sub(formula, html)


if __name__ == "__main__":
    every_executed()
