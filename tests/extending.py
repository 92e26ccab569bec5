"""The code of docs/extending.md, block by block, and files of one's own in tests."""

import importlib.util
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from jaxdiff.config import allowed, registry
from jaxdiff.evaluation import metrics
from jaxdiff.evaluation.extractors import extractor

TABLES = (
    *(registry._TYPES, registry._NAMES, registry._REGISTERED),
    *(metrics._OWN, metrics._BETTER, extractor.NETWORKS),
)
"""What registering changes."""

PAGE = (Path(__file__).parents[1] / "docs" / "extending.md").read_text()


def blocks() -> dict[str, str]:
    """The page's Python by section: {"A network": code, ...}."""
    sections = re.split(r"^## (.+)$", PAGE, flags=re.MULTILINE)[1:]
    pairs = zip(sections[::2], sections[1::2], strict=True)
    codes = {
        title: re.findall(r"```python\n(.*?)```", text, re.DOTALL) for title, text in pairs
    }
    return {title: code for title, (code,) in codes.items()}


def whole() -> str:
    """All of it, as one file."""
    return "\n\n".join(blocks().values())


def read(path: Path, text: str) -> ModuleType:
    """The text as a file that is imported."""
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextmanager
def forgetting() -> Iterator[None]:
    """What is registered within is not, afterwards."""
    before = [dict(table) for table in TABLES]
    try:
        yield
    finally:
        for table, old in zip(TABLES, before, strict=True):
            table.clear()
            table.update(old)
        allowed.cache_clear()
