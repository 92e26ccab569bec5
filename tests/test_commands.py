"""`jaxdiff COMMAND`: every command is listed, found by its name, and has its files."""

import doctest
import importlib
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from jaxdiff import version
from jaxdiff.commands import main as program
from jaxdiff.config import from_config, from_file, ready_names
from tests.cases import commands

ROOT = Path(__file__).parents[1]


def started(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str | tuple[str, list]:
    """What `jaxdiff ARGUMENTS` starts: a command's name, and the arguments that it sees."""
    calls = []
    monkeypatch.setattr(program, "_run", lambda name: calls.append((name, sys.argv)))
    monkeypatch.setattr(sys, "argv", ["/env/bin/jaxdiff", *arguments])
    program.main()
    return calls[0] if calls else ""


def test_every_module_with_a_main_is_listed_once() -> None:
    sources = {p.stem: p.read_text() for p in commands.COMMANDS.glob("*.py")}
    has_main = {n for n, text in sources.items() if "\ndef main() -> None:" in text}
    assert sorted(program.names()) == sorted(has_main)


def test_help_lists_commands_in_order_with_a_line_each(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for arguments in ((), ("--help",), ("help",)):
        assert not started(monkeypatch, *arguments)
        out = capsys.readouterr().out
        at = [out.index(f"\n  {name} ") for name in program.names()]
        assert at == sorted(at)
        assert max(map(len, out.splitlines())) <= 92
    order = ("prepare_data", "train", "sample", "evaluate")
    assert [n for n in program.names() if n in order] == [*order]


def test_names_are_written_with_either_dash(monkeypatch: pytest.MonkeyPatch) -> None:
    name, argv = started(monkeypatch, "import-model", "--help")
    assert (name, argv) == ("import_model", ["jaxdiff import-model", "--help"])
    assert started(monkeypatch, "import_model")[0] == "import_model"


def test_a_wrong_name_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as ended:
        started(monkeypatch, "trian")
    err = capsys.readouterr().err
    assert ended.value.code == 2
    assert err.startswith("error: jaxdiff has no command 'trian' (did you mean train?); it")
    assert err.count("\n") == 1
    assert all(name in err for name in program.names())


def test_a_flag_before_any_command_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as ended:
        started(monkeypatch, "--steps=5")
    err = capsys.readouterr().err
    assert ended.value.code == 2
    assert err.startswith("error: a command comes first, as in jaxdiff COMMAND --steps=5")
    assert err.count("\n") == 1


@pytest.mark.parametrize("command", program.names())
def test_a_mistyped_flag_of_any_command_is_one_line(command: str) -> None:
    done = commands.run(command, "--cpu_devcies=1")
    assert done.status == 2
    assert done.err == (
        "error: unknown flag --cpu_devcies (did you mean --cpu_devices?); "
        f"jaxdiff {command} --help lists all flags\n"
    )
    assert not done.out


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("train --stpes=5", "flag --stpes (did you mean --config.steps or --config.sam"),
        ("train --seed=5", "flag --seed (did you mean --config.seed?)"),
        ("train --dry-run", "flag --dry-run (did you mean --dry_run?)"),
        ("train --hlep", "flag --hlep (did you mean --help?)"),
        ("train --banana=5", "flag --banana; jaxdiff train --help lists"),
        ("train --config.stpes=5", "no field 'stpes' (did you mean --config.steps or"),
        ("train --config.std=5", "no field 'std' (did you mean --config.times.std or"),
        ("train --config.data.banana=5", "config.data has no field 'banana'; it has"),
        ("train --config.banana=5", "config has no field 'banana'; it has accumulation"),
        ("analyze --step=5", "flag --step (did you mean --steps or --config.steps"),
        ("sample --config.steps=5", "flag --config.steps (did you mean --steps?)"),
        ("train --config=digts", "there is no file digts (did you mean digits?); there"),
    ],
)
def test_a_mistyped_name_is_answered_with_those_nearest(line: str, error: str) -> None:
    command, *arguments = line.split()
    if command != "sample" and "--config=" not in line:
        arguments = ["--config=digits", *arguments]
    done = commands.run(command, *arguments)
    assert done.status == 2
    assert error in done.err
    assert done.err.count("\n") == 1


def test_the_examples_of_suggestions_are_true() -> None:
    # pytest collects no doctests of commands, and `commands.run` imports them anew
    done = doctest.testmod(importlib.import_module("jaxdiff.commands.suggestions"))
    assert done.failed == 0
    assert done.attempted > 3


def test_a_field_without_a_config_is_one_line() -> None:
    done = commands.run("train", "--config.steps=5")
    assert (done.status, done.err) == (2, "error: --config.steps needs --config\n")


def test_a_missing_folder_is_one_line() -> None:
    done = commands.run("train", "--config=digits")
    assert (done.status, done.err) == (2, "error: --workdir is missing; see --help\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_dry_run_within_the_compiler(number: signal.Signals) -> None:
    """Where Python would not see it before the compiler returns."""
    code = (
        "import os, sys\n"
        "from jaxdiff.commands.main import main\n"
        "from jaxdiff.train import forecasting\n"
        "def compiling(*_):\n"
        "    yield 'compiling'\n"
        f"    os.kill(os.getpid(), {int(number)})\n"
        "forecasting.table = compiling\n"
        "sys.argv = ['jaxdiff', 'train', '--config=digits', '--dry_run', "
        "'--topology=h100:4']\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == -number, done.stderr
    assert done.stdout == "compiling\n"
    assert "stopped" not in done.stderr


def test_help_and_version_import_no_jax() -> None:
    code = (
        "import sys; from jaxdiff.commands.main import main\n"
        "for argument in ('--version', '--help'):\n"
        "    sys.argv = ['jaxdiff', argument]; main()\n"
        "print({'jax', 'absl', 'numpy', 'jaxdiff.commands.train'} & {*sys.modules})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    first, *_, last = done.stdout.splitlines()
    assert (first, last) == (f"jaxdiff {version.__version__}", "set()")


def test_the_files_of_launch_and_configs_are_those_of_the_package() -> None:
    for folder, names, line in (
        ("launch", program.names(), 'main("{}")'),
        ("configs", ready_names(), "from jaxdiff.config.ready.{} import get_config"),
    ):
        files = {path.stem: path.read_text() for path in (ROOT / folder).glob("*.py")}
        assert files.keys() == {*names}
        for name, text in files.items():
            assert line.format(name) in text
            assert len(text.splitlines()) <= 5


def test_a_ready_config_is_named_in_python_and_on_the_command_line() -> None:
    assert from_file("digits") == from_file(ROOT / "configs/digits.py")
    from jaxdiff.config.ready import dit

    assert from_file("dit", "tiny-digits") == from_config(dit.get_config("tiny-digits"))
    line = "--config=dit:tiny-nothing", "--dry_run"
    done = commands.run("train", *line)
    assert done.status == 2
    assert done.err.startswith("error: dit: 'tiny-nothing' is not a size: use s, b, l or")
    done = commands.run("train", "--config=digitz", "--dry_run")
    assert (
        "digitz (did you mean digits?); there are the ready configs cifar10, dig"
        in done.err
    )


def test_a_ready_config_is_not_on_the_path_of_imports(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from jaxdiff.commands import config_files, own_types

    monkeypatch.setattr(sys, "path", [*sys.path])
    before = [*sys.path]
    assert not own_types.imported(["", f"--config={config_files.expanded('digits:a')}"])
    assert sys.path == before
    (tmp_path / "digits.py").write_text("")
    assert config_files.expanded(f"{tmp_path}/digits.py:a") == f"{tmp_path}/digits.py:a"


def test_arguments_without_a_name_are_for_the_flags_that_a_command_lists() -> None:
    done = commands.run("train", "extra", "--config=digits", "--dry_run")
    assert (done.status, done.err) == (1, "error: 'extra' is not a flag; see --help\n")
    done = commands.run("import_model", "--sure", "none.pt", "--as", "sit", "runs/none")
    assert done.status == 1
    assert "none.pt" in done.err


def test_help_of_a_command_has_its_text_and_flags() -> None:
    done = commands.run("train", "--help")
    assert done.status == 0
    assert done.out.startswith("Trains a model; the same command again resumes")
    assert (
        "\njaxdiff train:\n  --config: A file of your own, or a ready config:" in done.out
    )
    for flag in ("--workdir", "--import", "--coordinator"):
        assert f"\n  {flag}: " in done.out
    assert "--extractors" not in done.out


def test_help_lists_flags_of_several_processes_where_there_may_be_some() -> None:
    assert "--processes" in commands.run("evaluate", "--help").out
    assert "--processes" not in commands.run("likelihood", "--help").out
