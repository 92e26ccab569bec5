"""Shared code of the commands in this folder: their set-up, and errors in one line."""

import errno
import faulthandler
import itertools
import logging as python_logging
import os
import re
import shlex
import shutil
import sys
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import jax
from absl import app, flags, logging
from ml_collections import ConfigDict

from jaxdiff.commands import config_files, import_notice, own_types, suggestions
from jaxdiff.runtime import heap, processes, topologies, xla_flags
from jaxdiff.runtime.files import (
    CLOUD,
    Place,
    cache_folder,
    place,
    printable,
    private_folder,
)

CPU_DEVICES = flags.DEFINE_integer(
    "cpu_devices", 0, "Virtual devices to split the CPU into, where there is no other "
    "accelerator; 0 = one a core. A resumed run is bit for bit the same on as many.",
    lower_bound=0, upper_bound=256,
)  # fmt: skip


COORDINATOR = flags.DEFINE_string(
    "coordinator", "", "host:port of process 0, where jax does not find the other "
    "processes by itself; default $JAX_COORDINATOR_ADDRESS. See docs/clusters.md."
)  # fmt: skip
PROCESSES = flags.DEFINE_integer(
    "processes", 0, "Their number; default $JAX_NUM_PROCESSES; 1 = alone in any case.",
    lower_bound=0,
)  # fmt: skip
flags.DEFINE_multi_string(
    "import", [], "A file FILE.py, or a module's name, that is run first: its "
    "@jaxdiff.register makes types of one's own known, to runs that are restored and to "
    "other flags. May be given several times. See docs/extending.md."
)  # fmt: skip
PROCESS = flags.DEFINE_integer(
    "process", -1, "Which one this is, from 0; default $JAX_PROCESS_ID."
)


def run(
    main: Callable[[], None], together: bool = False, positional: Sequence[str] = ()
) -> None:
    """Runs a command: sets up the process, parses its flags, and calls `main`.

    With `together` it is one of several processes if there are others. `positional` lists
    the flags that arguments without a name set. --help prints the docstring of main's
    module and the flags that this module defines or declares as its own.

    The exit status is 0 when done, 1 after a user's mistake, 2 for a wrong flag, 130 when
    stopped by Ctrl-C, and 75 if the same command should be started again because it was
    preempted or lost another process. A mistake is printed as one line;
    JAXDIFF_TRACEBACK=1 prints the traceback.
    Compiled code is cached in JAX_COMPILATION_CACHE_DIR, by default in `xla` in the cache
    folder, $JAXDIFF_CACHE or ~/.cache/jaxdiff; an empty value disables the cache.
    """

    def guarded(argv: list[str]) -> None:
        import_notice.done()
        if len(argv) > 1:
            _fail(ValueError(f"{argv[1]!r} is not a flag; see --help"), 1)
        joined = False
        try:
            joined = _set_up(together)
            try:
                main()
            finally:
                if not joined or processes.first():
                    _say_replaced()
        except KeyboardInterrupt:
            print("stopped; what the last checkpoint holds is safe", file=sys.stderr)
            status = 130
        except SystemExit as request:
            status = request.code
        except Exception as error:
            status = _judged(error, joined)
        else:
            return
        if joined:  # the others may never reach the barrier at the end of a process
            processes.leave(status)
        sys.exit(status)

    module = sys.modules[main.__module__]
    sys.modules["__main__"].__doc__ = module.__doc__  # where absl looks for it
    shared = ["import", *(("coordinator", "processes", "process") if together else ())]
    for flag in [
        *flags.FLAGS.get_key_flags_for_module(main.__module__),
        *(flags.FLAGS[name] for name in shared),
    ]:
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
    app.run(guarded, flags_parser=lambda argv: _parse(_named(argv, positional)))


def line(command: str, *arguments: object) -> str:
    """How to start a command of jaxdiff in the shell with this Python."""
    script = Path(sys.executable).with_name("jaxdiff")
    installed = shutil.which("jaxdiff") == str(script)
    start = ["jaxdiff"] if installed else [sys.executable, "-m", "jaxdiff"]
    return shlex.join([*start, command, *map(str, arguments)])


def folder(flag: flags.FlagHolder[str]) -> Place:
    """The folder that a flag names.

    Raises:
        ValueError: the flag is empty.
    """
    if not flag.value:
        raise ValueError(f"--{flag.name} is missing or empty: name a folder, as runs/mine")
    return place(flag.value)


def new_folder(flag: flags.FlagHolder[str]) -> Place:
    """The folder that a flag names, for results: there, or to be made.

    Raises:
        ValueError: the flag is empty, or the folder cannot be created or written to.
    """
    path = folder(flag)
    _check_writable(flag, path)
    return path


def names(flag: flags.FlagHolder[list[str]], example: str = "") -> list[str]:
    """The names that a flag lists; `example` is one, by default the flag's default.

    Raises:
        ValueError: the list is empty, or has an empty name.
    """
    if not flag.value or not all(flag.value):
        text = ",".join(flag.value)
        example = example or flag.default[0]
        raise ValueError(f"--{flag.name}={text}: name one at least, as {example}")
    return flag.value


def beside(flag: flags.FlagHolder[str]) -> Place:
    """The default folder for results: the run's folder, or the one of its snapshot."""
    workdir = folder(flag)
    return workdir.parent if workdir.suffix == ".npz" else workdir


def whole(text: str, most: int = 10**9) -> bool:
    """Whether a text is a number 0, 1, …, most, written in the digits 0 to 9."""
    plain = text.isascii() and text.isdigit() and len(text) <= 18
    return plain and int(text) <= most


def interval(flag: flags.FlagHolder[list[str]]) -> tuple[float, float] | None:
    """The numbers of LOW,HIGH; None if the flag is not given.

    Raises:
        ValueError: the flag is not of this form.
    """
    if flag.value is None:
        return None
    try:
        low, high = map(float, flag.value)
    except ValueError:
        text = f"--{flag.name} is LOW,HIGH, such as 0,5; got {','.join(flag.value)!r}"
        raise ValueError(text) from None
    return low, high


def output(flag: flags.FlagHolder[str], default: Place, *suffixes: str) -> dict[str, Place]:
    """The files to write, by suffix, such as OUT.png; OUT may include a suffix.

    Replaced files are listed at the end; see `writes`.

    Raises:
        ValueError: the folder cannot be created or written to.
    """
    out = place(flag.value) if flag.value else default
    if flag.value and (flag.value.endswith(os.sep) or out.is_dir()):
        out = out / default.name
    out = out.with_suffix("") if out.suffix[1:] in suffixes else out
    named = {suffix: out.parent / f"{out.name}.{suffix}" for suffix in suffixes}
    writes(flag, *named.values())
    return named


def writes(flag: flags.FlagHolder[str], *paths: Place) -> None:
    """Registers files that the command will write; at its end it lists the replaced ones.

    Raises:
        ValueError: a folder cannot be created or written to.
    """
    for parent in dict.fromkeys(path.parent for path in paths):
        _check_writable(flag, parent)
    _BEFORE.update({path: _written(path) for path in paths if path.exists()})


def _check_writable(flag: flags.FlagHolder[str], folder: Place) -> None:
    """Rejects a folder that cannot be created or written to, unless it is in a bucket."""
    if not isinstance(folder, Path):
        return
    there = next(p for p in (folder / "x").absolute().parents if p.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        why = "it is closed to you" if there.is_dir() else f"{there} is a file"
        raise ValueError(
            f"--{flag.name}: cannot write to {folder}: {why}: choose another place"
        )


_BEFORE: dict[Place, float] = {}
"""Modification times, before the command, of the files that it writes."""


def _written(path: Place) -> float:
    """Modification time of a file or a bucket's object, in seconds."""
    about = path.stat()
    return about.st_mtime if isinstance(path, Path) else about.mtime


def _say_replaced() -> None:
    there = {path: date for path, date in _BEFORE.items() if path.exists()}
    gone = {path: date for path, date in there.items() if _written(path) != date}
    if gone:
        date = time.strftime("%Y-%m-%d %H:%M", time.localtime(max(gone.values())))
        names = ", ".join(path.name if k else str(path) for k, path in enumerate(gone))
        print(f"replaced {names} (written {date})", file=sys.stderr)


def need(*pairs: tuple[flags.FlagHolder, flags.FlagHolder]) -> None:
    """Rejects a flag that is given without the other flag that it needs.

    Raises:
        ValueError: the names of both flags.
    """
    for flag, other in pairs:
        if flag.present and not other.value:
            raise ValueError(f"--{flag.name} needs --{other.name}")


MISTAKES = (ValueError, OSError, ImportError)
"""Errors that a user's input can cause; any other is a bug and prints its traceback."""


def _set_up(together: bool) -> bool:
    """Sets up a command; returns whether it is one of several processes."""
    logging.set_verbosity(logging.FATAL)  # relevant errors arrive as exceptions; after one,
    python_logging.getLogger("asyncio").setLevel(python_logging.CRITICAL)
    sys.unraisablehook = lambda _: None  # Orbax's event loop and TensorBoard's thread
    threading.excepthook = lambda _: None  # would print noise as they die
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    warnings.showwarning = _warn
    kind = xla_flags.kind_of_machine()
    os.environ |= xla_flags.settings(os.environ, kind)
    if not kind:
        heap.keep_freed_memory(os.environ)
    if not kind and topologies.installed("gpu") and not os.environ.get("JAX_PLATFORMS"):
        jax.config.update("jax_platforms", "cpu")  # a GPU's compiler alone, without a GPU
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR", str(cache_folder() / "xla"))
    jax.config.update("jax_compilation_cache_dir", _compiled(cache))
    flagged = COORDINATOR.value, PROCESSES.value, PROCESS.value
    if not together and (COORDINATOR.value or PROCESSES.value > 1 or PROCESS.value > 0):
        raise ValueError("this command runs in one process: leave out --processes")
    at = processes.place(*flagged) if together else None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    devices = CPU_DEVICES.value or (1 if at else cores)
    jax.config.update("jax_num_cpu_devices", devices)
    try:
        if at is None or not processes.join(at):
            return False
    except jax.errors.JaxRuntimeError as error:
        sys.exit(
            _report(f"cannot join the other processes: {_line(error)}", processes.AGAIN)
        )
    faulthandler.disable()  # a process that lost another prints one line, without a dump
    return True


def _warn(message: Warning | str, *_: object) -> None:
    """Prints a warning, with control characters from files escaped."""
    text = "\n".join(printable(line) for line in str(message).split("\n"))
    print(f"warning: {text}", file=sys.stderr)


def _compiled(cache: str) -> str | None:
    """The folder for compiled code; None if others could write to it."""
    if not cache or CLOUD.match(cache):
        return cache or None
    try:
        return str(private_folder(cache))
    except (ValueError, OSError) as error:
        warnings.warn(f"compiled code is not kept: {error}", stacklevel=2)
        return None


def _parse(argv: list[str]) -> list[str]:
    """Parses flags, including the config, whose own errors become one line too."""
    argv = _expanded(argv)
    logging.set_verbosity(logging.FATAL)  # the error is printed once, below
    if wrong := config_files.complaint(argv) or own_types.imported(argv):
        _fail(wrong, 2)
    try:
        rest = flags.FLAGS(argv)
        config = flags.FLAGS["config"].value if "config" in flags.FLAGS else None
        if isinstance(config, ConfigDict):
            config_files.fill(config)
            return rest
    except SystemExit as ended:  # by --help, or by a config file
        if wrong := config_files.fault(argv):
            _fail(wrong, 2)
        if HELP & {argument.lstrip("-").partition("=")[0] for argument in argv}:
            sys.exit(0)  # absl exits with 1
        raise ended
    except BrokenPipeError:  # the reader of --help, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except flags.UnrecognizedFlagError as error:
        _fail(_unknown_flag(error.flagname), 2)
    except Exception as error:  # a config file may raise anything
        _fail(config_files.fault(argv) or _of_flags(error), 2, error)
    if wrong := config_files.fault(argv):  # get_config returned something else
        _fail(wrong, 2)
    return rest


def _unknown_flag(name: str) -> str:
    """The error about a flag that there is not, with the flags that it may be."""
    config = flags.FLAGS["config"].value if "config" in flags.FLAGS else None
    if name.startswith("config.") and "config" in flags.FLAGS and config is None:
        return f"--{name} needs --config"
    by_module = flags.FLAGS.flags_by_module_dict().items()
    absl = {f.name for module, there in by_module if module[:5] == "absl." for f in there}
    own = sorted({*flags.FLAGS} - absl)
    fields = config_files.paths(config) if isinstance(config, ConfigDict) else []
    near = suggestions.nearest(name, [*own, *fields, "help"])
    meant = suggestions.did_you_mean(f"--{flag}" for flag in near)
    return f"unknown flag --{name}{meant}; {sys.argv[0]} --help lists all flags"


HELP = {"?", "help", "helpfull", "helpshort", "helpxml"}
"""Flags that print the available flags."""


def _of_flags(error: Exception) -> str:
    """A flag's error in one line."""
    text = re.sub(
        r"invalid literal for int.*: (.*)", r"\1 is not a whole number", str(error)
    )
    text = re.sub(r"could not convert string to float: (.*)", r"\1 is not a number", text)
    text = re.sub(r"^flags (?:\w+=\S*,? ?)+: (?=--)", "", text)  # of several flags
    if missing := re.match(r"flag --(\w+)=None: Flag --\1 must have a value", text):
        return f"--{missing[1]} is missing; see --help"
    return _line(text)


def _named(argv: list[str], positional: Sequence[str]) -> list[str]:
    """The command line with --FLAG= before the arguments that have no name."""
    names, arguments = iter(positional), argv[:1]
    for before, argument in itertools.pairwise(argv):
        flag = before.lstrip("-")
        value = before != flag and flag in flags.FLAGS and not flags.FLAGS[flag].boolean
        name = next(names, "") if not value and argument[:1] != "-" else ""
        arguments.append(f"--{name}={argument}" if name else argument)
    return arguments


def _expanded(argv: list[str]) -> list[str]:
    """The command line with the path of the file of --config, however it is written."""
    expanded, names = [], ("--config", "-config")
    for before, argument in zip(["", *argv], argv, strict=False):
        flag, equals, path = argument.partition("=")
        if flag in names and path:
            argument = f"{flag}={config_files.expanded(path)}"
        elif before in names and not equals:
            argument = config_files.expanded(argument)
        expanded.append(argument)
    return expanded


def _judged(error: Exception, joined: bool) -> int:
    """Prints a user's error and returns the exit status; raises bugs of jaxdiff."""
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
        return _report(_out_of_memory(error))
    if joined and processes.is_lost_process(error):
        lost = "lost another process, or the way to it: start all of them again"
        return _report(f"{lost} ({_line(error)})", processes.AGAIN)
    if isinstance(error, Exception) and (line := own_types.fault(error)):
        return _report(line)
    if not isinstance(error, MISTAKES):
        print(f"error: {_line(error)} ({type(error).__name__}): {BUG}", file=sys.stderr)
        raise error
    return _report(error)


def _out_of_memory(error: Exception) -> str:
    """The line for an out-of-memory error, with the flags and fields that reduce memory."""
    config = flags.FLAGS["config"].value if "config" in flags.FLAGS else None
    sizes = {name: flags.FLAGS[name].value for name in SIZES if name in flags.FLAGS}
    current = [f"--{name}={value}" for name, value in sizes.items() if value]
    for path in CONFIG_SIZES if isinstance(config, ConfigDict) else ():
        node: Any = config
        for name in path.split("."):
            node = node.get(name) if isinstance(node, ConfigDict) else None
        current += [f"--config.{path}={node}"] if node else []
    dry = "; jaxdiff train --dry_run prints what each takes" if config else ""
    text = f"out of memory: {_line(error).removeprefix('RESOURCE_EXHAUSTED: ')}"
    return f"{text}. Ask for less than {', '.join(current)}{dry}" if current else text


SIZES = ("batch", "number", "blocks", "steps")
CONFIG_SIZES = (
    *("batch_size", "network.label_dim", "network.model_channels", "network.channel_mult"),
    *("network.num_blocks", "data.size", "data.shape", "data.labels"),
)
"""Flags and fields that determine the use of memory."""

BUG = "a fault of jaxdiff, not of yours: please report the command and the lines below"


def _fail(error: Exception | str, status: int, cause: Exception | None = None) -> NoReturn:
    if cause and os.environ.get("JAXDIFF_TRACEBACK"):
        raise cause
    sys.exit(_report(error, status))


def _report(error: Exception | str, status: int = 1) -> int:
    """Prints an error as one line, and returns the status to exit with."""
    if os.environ.get("JAXDIFF_TRACEBACK") and isinstance(error, Exception):
        raise error
    first = _line(error)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        first = f"the disk is full ({first}); the last checkpoint is whole: make room, and"
        first += " the same command goes on"
    print(f"error: {printable(first)}", file=sys.stderr)
    return status


def _line(error: Exception | str) -> str:
    """The most informative line of an error."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    first = lines[0] if lines else type(error).__name__
    if first.endswith(":"):  # a heading above a traceback, whose last line is the cause
        first = f"{first} {lines[-1]}"
    short = re.sub(r"\S{200,}", lambda word: f"{word[0][:60]}…{word[0][-20:]}", first)
    return printable(short)
