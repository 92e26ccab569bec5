"""The Python of the site's pages runs when pasted, and prints what it says."""

import re
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import pytest

from tests.states import untrained_run

DOCS = Path(__file__).parents[1] / "docs"
PAGES = ("index", "start", "sampling", "ema", "evaluation", "noise_shift", "schedules")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    return untrained_run(tmp_path_factory.mktemp("run"))


def _python(page: str) -> str:
    text = (DOCS / f"{page}.md").read_text()
    return "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))


@pytest.mark.parametrize("page", PAGES)
def test_a_page_runs(page: str, run: str, capsys: pytest.CaptureFixture) -> None:
    names: dict[str, Any] = {}
    code = _python(page)
    exec(code.replace("runs/digits", run), names)
    printed = capsys.readouterr().out
    expected = re.findall(r"print\(.*\)  # ([\d.]+(?: \+- [\d.]+)?)", code)
    for number in expected:
        assert number in printed
    if "x0" in names:
        assert bool(jnp.isfinite(names["x0"]).all())


def test_every_page_of_python_is_run() -> None:
    texts = {path.stem: path.read_text() for path in DOCS.glob("*.md")}
    with_code = {page for page, text in texts.items() if "```python" in text}
    # those of data and extending have tests of their own
    assert with_code == {*PAGES, "data", "extending"}
