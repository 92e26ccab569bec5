"""--import: runs a user's files before other flags are parsed and runs restored."""

import importlib
import importlib.util
import os
import sys
import sysconfig
import traceback
from pathlib import Path

import jaxdiff
from jaxdiff.commands.config_files import config_file, where
from jaxdiff.config import READY
from jaxdiff.runtime.files import place
from jaxdiff.types.ranges import quote


def imported(argv: list[str]) -> str:
    """Imports what --import names, in order; returns the error, "" if there is none.

    The folder of a config file is on the path, so that it can import files beside it.
    """
    path = Path((config_file(argv) or "").split(":")[0]).absolute()
    if path.is_file() and path.parent != READY:
        _add_folder(path)
    for name in _names(argv):
        try:
            _import(name)
        except BaseException as error:  # the user's code may raise anything
            return f"--import: {where(error, _path(name))}"
    return ""


def fault(error: Exception) -> str:
    """File and line of an error in a user's own code; "" if it is in other code.

    The user's code is the innermost frame outside of all libraries.
    """
    libraries = [Path(p).resolve() for p in {*sysconfig.get_paths().values(), ROOT}]
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if not path.is_file() or any(path.resolve().is_relative_to(r) for r in libraries):
            if path.resolve().is_relative_to(ROOT):
                return ""
            continue
        return where(error, frame.filename)
    return ""


ROOT = Path(jaxdiff.__file__).resolve().parent
"""jaxdiff's own code."""


def _names(argv: list[str]) -> list[str]:
    """The files and modules that --import names."""
    names = []
    for argument, following in zip(argv, [*argv[1:], ""], strict=True):
        flag, equals, value = argument.partition("=")
        if flag in ("--import", "-import"):
            names.append(value if equals else following)
    return names


def _import(name: str) -> None:
    """Imports a module, or a file as the module of its name, with its folder on the path.

    Raises:
        ValueError: there is no such file.
    """
    path = Path(_path(name))
    if path.suffix != ".py" and os.sep not in name:
        importlib.import_module(name)
        return
    if not path.is_file():
        raise ValueError(f"there is no file {quote(name)[1:-1]}")
    _add_folder(path)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)
    spec.loader.exec_module(module)


def _add_folder(path: Path) -> None:
    """Adds a file's folder to the path, so that it can import the files beside it."""
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))


def _path(name: str) -> str:
    return os.path.abspath(place(name)) if name else name
