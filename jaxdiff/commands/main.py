"""Finds the command that a command line names, or lists all of them.

It needs only Python's standard library, so that a list of the commands, or a report that
the imports take long, does not wait for jax.
"""

import ast
import importlib
import sys
from collections.abc import Mapping
from pathlib import Path

from jaxdiff.commands import import_notice, suggestions
from jaxdiff.version import __version__

COMMANDS: Mapping[str, tuple[str, ...]] = {
    "Data": ("prepare_data", "encode", "measure_data"),
    "Training": ("analyze", "train", "report", "magnitudes", "reconstruct"),
    "Images": ("sample", "edit"),
    "Quality": ("reference", "evaluate", "sweep", "likelihood", "noise_shift", "sanity"),
    "Published models": ("import_model", "convert_features", "export_edm2"),
}
"""The commands in the order in which a project uses them, by what they are about."""

HELP, VERSION = ("--help", "-h", "help"), ("--version", "version")


def main(command: str | None = None) -> None:
    """Runs a command with this process' arguments, of which the first is its name.

    Args:
        command: the name, if it is not among the arguments.
    """
    name, *arguments = [command, *sys.argv[1:]] if command else sys.argv[1:] or ["--help"]
    if name in HELP:
        print(overview())
    elif name in VERSION:
        print(f"jaxdiff {__version__}")
    elif name.replace("-", "_") in names():
        sys.argv = [f"jaxdiff {name}", *arguments]
        _run(name.replace("-", "_"))
    else:
        print(f"error: {_unknown(name)}", file=sys.stderr)
        sys.exit(2)


def names() -> list[str]:
    """All commands, in order."""
    return [name for group in COMMANDS.values() for name in group]


def overview() -> str:
    """The text of `jaxdiff --help`."""
    width = max(map(len, names())) + 2
    lines = ["Train, study and sample diffusion and flow models in JAX."]
    for group, commands in COMMANDS.items():
        lines += ["", f"{group}:"]
        lines += [f"  {name:<{width}}{summary(name)}" for name in commands]
    lines += [
        "",
        "A first model, from handwritten digits, and its images:",
        "  jaxdiff train --config=digits --workdir=runs/digits",
        "  jaxdiff sample --workdir=runs/digits",
        "",
        "jaxdiff COMMAND --help explains a command and lists its flags; jaxdiff --version.",
    ]
    return "\n".join(lines)


def summary(name: str) -> str:
    """The first line of a command's docstring, which is read without importing it."""
    source = Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]


def _run(name: str) -> None:
    import_notice.start()
    module = importlib.import_module(f"jaxdiff.commands.{name}")
    from jaxdiff.commands import command

    command.run(
        module.main,
        together=getattr(module, "SEVERAL_PROCESSES", False),
        positional=getattr(module, "POSITIONAL", ()),
    )


def _unknown(name: str) -> str:
    if name.startswith("-"):
        known = ", ".join(names())
        return f"a command comes first, as in jaxdiff COMMAND {name}: one of {known}"
    meant = suggestions.did_you_mean(suggestions.nearest(name, names()))
    return f"jaxdiff has no command {name!r}{meant}; it has {', '.join(names())}"
