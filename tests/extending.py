"""The code of docs/extending.md, block by block."""

import re
from pathlib import Path

PAGE = (Path(__file__).parents[1] / "docs" / "extending.md").read_text()


def blocks() -> dict[str, str]:
    """The page's Python by section: {"A network": code, ...}."""
    sections = re.split(r"^## (.+)$", PAGE, flags=re.MULTILINE)[1:]
    pairs = zip(sections[::2], sections[1::2], strict=True)
    found = {
        title: re.findall(r"```python\n(.*?)```", text, re.DOTALL) for title, text in pairs
    }
    return {title: code for title, (code,) in found.items()}


def whole() -> str:
    """All of it, as one file."""
    return "\n\n".join(blocks().values())
