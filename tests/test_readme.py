"""The README's example works when pasted."""

import re
from pathlib import Path

import pytest

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
