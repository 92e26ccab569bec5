"""The programs of examples/ run, say what they say, and stay short."""

import ast
import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

import jaxdiff as jd
from jaxdiff.data import Digits
from jaxdiff.data.pixel_values import to_float
from tests.states import untrained_run

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / f"examples/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    return untrained_run(tmp_path_factory.mktemp("run"))


def test_there_are_five_and_readme_names_them() -> None:
    assert len(EXAMPLES) == 5
    readme = (ROOT / "README.md").read_text()
    for path in EXAMPLES:
        assert f"examples/{path.name}" in readme


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_each_is_under_40_lines_and_says_how_to_start_it(path: Path) -> None:
    """Lines of code: neither blank nor of a docstring."""
    tree = ast.parse(path.read_text())
    assert f"python examples/{path.name}" in ast.get_docstring(tree)
    texts: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef):
            doc = node.body[0]
            if ast.get_docstring(node):
                texts |= set(range(doc.lineno, doc.end_lineno + 1))
    lines = enumerate(path.read_text().splitlines(), 1)
    assert sum(bool(line.strip()) and n not in texts for n, line in lines) < 40


def test_own_optimizer(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "digits.png"
    example("own_optimizer").main(steps=101, channels=8, out=str(out))
    first, _, last = capsys.readouterr().out.splitlines()
    # an untrained network says 0: the mean of v^2 = (alpha eps)^2 + (sigma x0)^2
    assert 0.6 < float(first.removeprefix("step 0: loss ")) < 1.1
    assert float(last.removeprefix("step 100: loss ")) < 0.8 * float(first.split()[-1])
    assert np.asarray(Image.open(out)).std() > 20


def test_own_network(capsys: pytest.CaptureFixture) -> None:
    example("own_network").main(steps=1000)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["Euler", "Heun", "DPMSolverPP"]
    # points of a Gaussian as wide as the spiral are 0.2 away; 2000 steps come to 0.03
    assert max(float(line.split()[1]) for line in lines) < 0.1


def test_guide_a_run(run: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    images = example("guide_a_run").main(run, str(tmp_path / "guided.png"))
    assert images.shape == (30, 8, 8, 1)
    assert "UNet with 8,118 parameters" in capsys.readouterr().out
    assert np.asarray(Image.open(tmp_path / "guided.png")).shape[1] > 10 * 50


def test_bits_per_dim(run: str, capsys: pytest.CaptureFixture) -> None:
    bits = example("bits_per_dim").main(run, 4)
    # an untrained network is the denoiser of N(0, 0.75^2): its density in closed form
    x0 = to_float(Digits(split="test").load().take(np.arange(4))["image"])
    nats = np.log(0.75 * np.sqrt(2 * np.pi)) + np.mean((x0 / 0.75) ** 2) / 2
    assert bits == pytest.approx((nats - np.log(2 / 255)) / np.log(2), abs=0.1)
    assert f"{bits:.2f} +- " in capsys.readouterr().out


def test_plot_snr(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    left = example("plot_snr").main(tmp_path / "snr.png", tmp_path / "where.png")
    assert left["DDPM linear"] == pytest.approx(0.0063528, abs=1e-7)
    assert left["DDPM, zero terminal SNR"] == left["flow"] == 0
    assert "DDPM linear" in capsys.readouterr().out
    for name in ("snr.png", "where.png"):
        picture: Any = Image.open(tmp_path / name).convert("L")
        assert 0.02 < np.mean(np.asarray(picture) < 200) < 0.5


def test_the_readme_draws_from_a_run(run: str, capsys: pytest.CaptureFixture) -> None:
    _, code = re.findall(
        r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL
    )
    names: dict[str, Any] = {"jax": jax, "jd": jd}
    names["keys"] = jax.random.split(jax.random.key(0), 4096)
    exec(code.replace("runs/digits", run), names)
    assert names["x0"].shape == (10, 8, 8, 1)
    assert capsys.readouterr().out.startswith("10 images, and no notebook")
