"""The README's examples work when pasted, and its links lead somewhere."""

import re
from pathlib import Path

import pytest

from jaxdiff.version import __version__

README = Path(__file__).parents[1] / "README.md"


def test_the_example_runs(capsys: pytest.CaptureFixture) -> None:
    code = re.search(r"```python\n(.*?)```", README.read_text(), re.DOTALL)[1]
    exec(code, {})
    *nine, guided = capsys.readouterr().out.splitlines()
    assert len(nine) == 9
    for line in nine:
        mean, std = re.search(r": (.*) \+- (.*)$", line).groups()
        assert float(mean) == pytest.approx(0.3, abs=0.05)
        assert float(std) == pytest.approx(0.5, abs=0.05)
    assert guided == "guided: 0.6"


def test_links_and_programs_exist() -> None:
    text = README.read_text()
    links = set(re.findall(r"\]\((?!http)([^)#]+)\)", text))
    links |= set(re.findall(r"(?:examples|benchmarks)/\w+\.py", text))
    assert len(links) > 30
    assert [link for link in links if not (README.parent / link).exists()] == []


def test_python_comes_first_and_the_lines_that_ci_pastes_are_there() -> None:
    lines = README.read_text().splitlines()
    assert "```python" in lines[:15]
    environment = [line for line in lines if line.startswith("python3 -m venv ")]
    train, test = environment
    assert "jaxdiff train --config=digits" in train
    assert "pytest" in test


def test_the_version_is_the_same_everywhere() -> None:
    changes = (README.parent / "CHANGELOG.md").read_text()
    assert re.search(r"^## (\S+)", changes, re.MULTILINE)[1] == __version__
    citation = (README.parent / "CITATION.cff").read_text()
    assert f"\nversion: {__version__}\n" in citation
