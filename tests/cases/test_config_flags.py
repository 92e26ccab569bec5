"""--config: values written as flags; a mistake in a file of the user's is one line."""

from pathlib import Path
from typing import Any

import pytest
from absl import flags
from ml_collections import config_flags

import jaxdiff as jd
from jaxdiff.config import Experiment, from_config
from jaxdiff.denoisers.parameterizations import AngleLabel
from jaxdiff.objectives.timesteps import NormalLogSigma, Stratified, Uniform
from jaxdiff.sampling.solvers.sde import SigmaW
from tests.cases.commands import run

DIGITS = "--config=configs/digits.py"


def experiment(*arguments: str) -> Experiment:
    from jaxdiff.commands import config_files

    argv, values = ["train", DIGITS, *arguments], flags.FlagValues()
    flag = config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
    values(argv)
    config_files.fill(flag.value)
    return from_config(flag.value)


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("sampling.solver=Euler()", jd.Euler()),
        ("sampling.solver=Euler(churn=1)", jd.Euler(churn=1.0)),
        (
            "sampling.solver=EulerMaruyama(SigmaW(2), clock=RectifiedFlow)",
            jd.EulerMaruyama(SigmaW(2.0), clock=jd.RectifiedFlow()),
        ),
        ("sampling.grid=Uniform", jd.grids.Uniform()),
        ("schedule=Cosine()", jd.Cosine()),
        ("times=NormalLogSigma(mean=-1)", NormalLogSigma(mean=-1.0)),
        ("times=Stratified(Uniform(low=0.5))", Stratified(Uniform(low=0.5))),
        ("loss.of.weighting=MinSNR(gamma=3)", jd.MinSNR(3.0)),
        ("parameterization.label=AngleLabel", AngleLabel()),
        ("data=Synthetic(shape=(8, 8, 1))", jd.data.Synthetic((8, 8, 1))),
    ],
)
def test_values_are_written_as_for_solver(
    flag: str, value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: Any = experiment(f"--config.{flag}")
    for name in flag.partition("=")[0].split("."):
        parsed = getattr(parsed, name)
    assert parsed == value


def test_fields_of_plain_values_and_of_written_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parsed = experiment("--config.times=Uniform()", "--config.batch_size=64")
    assert (parsed.times, parsed.batch_size) == (Uniform(), 64)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--config.schedule.type=schedules.Cosine"], "write the whole value, as "
         "--config.schedule='Cosine(…)'"),
        (["--config.schedule.type=x"], "--config.schedule='NAME(…)'"),
        (["--config.schedule=Foo"], "--config.schedule: 'Foo' is none of BoundedCosine"),
        (["--config.schedule=Heun()"], "'Heun()' is none of BoundedCosine"),
        (["--config.schedule=LogSigma(sigma_max=inf)"], "LogSigma.sigma_max must be a"),
        (["--config.schedule=LogSigma("], "--config.schedule: 'LogSigma(' is not a list"),
        (["--config.times=Uniform(low=3)"], "--config.times: Uniform.low must be a number"),
        (["--config.times=" + "(" * 3000], "is not a list of values"),
        (["--config.optimizer.learning_rate=inf"], "config.optimizer.learning_rate must"),
        (["--config.network.num_blocks=1000000000"], "config.network.num_blocks must be"),
        (["--config.steps=" + "9" * 5000], "--config.steps=99999"),
        (["--cpu_devices=1000000"], "in the range [0, 256]"),
        (["--cpu_devices=-1"], "in the range [0, 256]"),
        (["--topology="], "name accelerators, as v5e:4x4 or h100:8"),
        (["--topology=h100:4", "--cpu_devices=4"], "leave out --cpu_devices, --coord"),
        (["--topology=h100:4", "--processes=2"], "leave out --cpu_devices, --coord"),
        (["--profile=1:2"], "leave out --profile and --wandb"),
        (["--wandb=mine"], "leave out --profile and --wandb"),
        (["--config=configs/digits.py:foo"], "configs/digits.py has no variants"),
        (["--config=configs/digits_ddpm.py:foo"], "none of constant, p2, min_snr, debias"),
        (["--config=" + "x" * 5000], "File name too long"),
        (["--config=a\0b"], "there is no file a"),
        (["--config="], "there is no file"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_short_line(arguments: list[str], line: str) -> None:
    done = run("train", DIGITS, "--dry_run", *arguments)
    assert done.status == (1 if line.startswith("config.") else 2)
    assert line in done.err
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert len(done.err) < 700


FILES = {
    "raises": ("x = 1\ny = x / 0\n", "FILE, line 2: ZeroDivisionError: division by zero"),
    "in_it": ("def get_config():\n    return {}['x']\n", "FILE, line 2: KeyError: 'x'"),
    "refuses": (
        "import jaxdiff as jd\ndef get_config():\n    return jd.LogSigma(sigma_max=1e30)\n",
        "FILE, line 3: sigma_max must be a number above 0, at most 1e+15, got 1e+30",
    ),
    "none": ("def get_config():\n    pass\n", "FILE: get_config() returned None: end it"),
    "plain": (
        "from jaxdiff.config import *\ndef get_config():\n    return Experiment()\n",
        "FILE: get_config() returned a value of type Experiment: end it",
    ),
    "missing": (
        "def get_config():\n    return open('/none')\n",
        "FILE, line 2: FileNotFoundError: [Errno 2] No such file or directory: '/none'",
    ),
    "imports": ("import nope_\n", "FILE, line 1: ModuleNotFoundError: No module named"),
    "syntax": ("def get_config(:\n", "FILE, line 1: invalid syntax"),
    "empty": ("", "FILE has no function get_config"),
    "leaves": ("import sys\nsys.exit(3)\n", "FILE, line 2: SystemExit: 3"),
    "variant": ("def get_config(which):\n    pass\n", "FILE needs a variant: write"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_fails_says_where(name: str, tmp_path: Path) -> None:
    text, line = FILES[name]
    file = tmp_path / f"{name}.py"
    file.write_text(text)
    done = run("train", f"--config={file}", "--dry_run")
    assert done.status == 2
    assert done.err.startswith(f"error: {line.replace('FILE', str(file))}")
    assert done.err.count("\n") == 1


def test_the_trace_of_a_file_is_shown_on_demand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAXDIFF_TRACEBACK", "1")
    file = tmp_path / "raises.py"
    file.write_text("x = 1 / 0\n")
    with pytest.raises(ZeroDivisionError):
        run("train", f"--config={file}", "--dry_run")


def test_a_fault_of_ours_says_so_before_its_trace(
    capsys: pytest.CaptureFixture,
) -> None:
    from jaxdiff.commands import command

    with pytest.raises(RuntimeError, match="broken"):
        command._judged(RuntimeError("broken"), False)
    first = capsys.readouterr().err.splitlines()[0]
    assert first.startswith(
        "error: broken (RuntimeError): a fault of jaxdiff, not of yours"
    )


def test_what_was_out_of_memory_is_named(
    capsys: pytest.CaptureFixture,
) -> None:
    from jaxdiff.commands import command

    error = MemoryError("Unable to allocate 3.7 GiB for an array with shape (50000000, 20)")
    assert command._judged(error, False) == 1
    line = capsys.readouterr().err
    assert line.startswith("error: out of memory: Unable to allocate 3.7 GiB for an array")
