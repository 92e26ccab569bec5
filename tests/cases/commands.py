"""Commands inside of this process: seconds less than a process of their own."""

import contextlib
import io
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import grain as grain
import pytest
from absl import app, flags
from absl import logging as logging  # its flags are of BASE too, as grain's are
from matplotlib.layout_engine import ConstrainedLayoutEngine

ROOT = Path(__file__).parents[2]
COMMANDS = ROOT / "jaxdiff" / "commands"


class Done(NamedTuple):
    """What a command left."""

    status: int
    out: str
    err: str


def run(script: str, *arguments: object) -> Done:
    """Runs `jaxdiff SCRIPT` as a shell would, but for its set-up of the process.

    Nor are the margins of pictures sought, which takes a third of the time to draw one.
    """
    out, err = io.StringIO(), io.StringIO()
    argv = [script, *map(str, arguments)]
    with (
        _fresh(),
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("default")
        warnings.simplefilter("ignore", DeprecationWarning)  # as Python does by default
        patch.setattr(ConstrainedLayoutEngine, "execute", lambda *_: None)
        patch.setattr(sys, "argv", argv)
        patch.setattr(sys, "path", [*sys.path])
        patch.setattr(sys.modules["__main__"], "__doc__", "")
        patch.setenv("JAXDIFF_QUIET_IMPORT", "1")
        try:
            from jaxdiff.commands import command, main

            patch.setattr(warnings, "showwarning", command._warn)
            patch.setattr(command, "_set_up", lambda *_: False)
            main.main(script)
            status = 0
        except SystemExit as done:
            status = done.code or 0
    return Done(status, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def _fresh() -> Iterator[None]:
    """The flags and modules of commands are imported anew, and gone afterwards."""
    own = {f"jaxdiff.commands.{path.stem}" for path in COMMANDS.glob("*.py")}
    own |= {"jaxdiff.commands", "config_config"}  # the latter is of ml_collections
    held = {name: flags.FLAGS[name] for name in flags.FLAGS}
    before, folder = set(sys.modules), Path.cwd()
    _forget(set(held) - set(BASE))
    for name in own & set(sys.modules):
        del sys.modules[name]
    os.chdir(ROOT)
    try:
        yield
    finally:
        os.chdir(folder)
        _forget(set(flags.FLAGS) - set(BASE))
        for name, flag in held.items():
            if name not in flags.FLAGS:
                flags.FLAGS[name] = flag
        for name in set(sys.modules) - before:
            if name in own:
                del sys.modules[name]


app.define_help_flags()
BASE = frozenset(flags.FLAGS)
"""Those of absl itself."""


def _forget(names: set[str]) -> None:
    for name in names:
        if name in flags.FLAGS:
            delattr(flags.FLAGS, name)
