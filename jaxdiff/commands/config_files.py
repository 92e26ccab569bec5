"""--config: a ready config's name or a file, and flags that change any field of it.

A field that holds one of jaxdiff's own values is set like --solver, by writing the value:
--config.schedule=Cosine() or --config.times="NormalLogSigma(mean=-1.0)".
"""

import inspect
import re
import runpy
import traceback
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from jaxdiff.commands import suggestions
from jaxdiff.config import (
    READY,
    TYPES,
    Experiment,
    expressions,
    file_of,
    ready_names,
    to_dict,
)
from jaxdiff.config.fields import fields_of
from jaxdiff.types.ranges import quote


class _Parser(flags.ArgumentParser):
    """Keeps the text given for a field until `fill` knows the field's type."""

    def parse(self, argument: str | ConfigDict) -> ConfigDict:
        kept = isinstance(argument, ConfigDict)
        return argument if kept else ConfigDict({WRITTEN: argument})


WRITTEN = "written"
config_flags.register_flag_parser_for_type(ConfigDict, _Parser())


flags.disclaim_key_flags()  # the flag belongs to the module that calls `define`


def define() -> flags.FlagHolder[ConfigDict]:
    """The flag --config, with a flag for each field of the config."""
    return config_flags.DEFINE_config_file(
        "config",
        None,
        f"A file of your own, or a ready config: {', '.join(ready_names())}. What follows "
        "a colon is a variant of it, as dit:tiny-digits.",
    )


def fill(config: ConfigDict, where: str = "config") -> None:
    """Replaces the texts from flags by values, in place.

    Raises:
        ValueError: the flag, and the values that it accepts.
    """
    fields = fields_of(TYPES.get(config.get("type"), Experiment))
    for name, value in config.items():
        if not isinstance(value, ConfigDict):
            continue
        if WRITTEN not in value:
            fill(value, f"{where}.{name}")
            continue
        try:
            made = expressions.parse(value[WRITTEN], fields.get(name, Any))
        except ValueError as error:
            raise ValueError(f"--{where}.{name}: {error}") from error
        config[name] = ConfigDict(to_dict(made))


def complaint(argv: list[str]) -> str:
    """The error in the flags --config and --config.FIELD; "" if there is none."""
    for argument in argv:
        if match := re.match(r"--?(config[\w.]*)\.type(?:=(.*)|$)", argument):
            field, kind = match.groups()
            name = kind.split(".")[-1] if kind in TYPES else "NAME"
            return (
                f"--{field}.type alone would leave the fields of another type: write the "
                f"whole value, as --{field}='{name}(…)', with the fields that you change"
            )
    path = config_file(argv)
    if path is None:
        return ""
    name = path.split(":")[0]
    try:
        is_file = Path(name).is_file()
    except (OSError, ValueError) as error:  # the name is too long, or has a null byte
        return f"--config={quote(path, 60)}: {getattr(error, 'strerror', None) or error}"
    if not is_file:
        meant = suggestions.did_you_mean(suggestions.nearest(name, ready_names()))
        return (
            f"--config: there is no file {quote(name)[1:-1]}{meant}; there are the ready "
            f"configs {', '.join(ready_names())}, and files of your own"
        )
    return ""


def fault(argv: list[str]) -> str:
    """The error in the config file itself, or in a field's name; "" if there is none.

    The file is run again on its own, to distinguish its errors from others.
    """
    path = config_file(argv)
    if path is None:
        return ""
    file, *argument = path.split(":", 1)
    name = shown(file)
    try:
        get_config = runpy.run_path(file).get("get_config")
        if not callable(get_config):
            return f"{file} has no function get_config: see docs/extending.md"
        if wrong := _misfit(get_config, name, argument):
            return wrong
        config = get_config(*argument)
    except BaseException as error:  # the user's code may raise anything
        return where(error, file)
    if not isinstance(config, ConfigDict):
        return (
            f"{file}: get_config() returned {_kind(config)}: end it with "
            "return jaxdiff.to_config(Experiment(...))"
        )
    return _unknown_field(argv, config)


def config_file(argv: list[str]) -> str | None:
    """The value of the last --config flag."""
    named = None
    for i, argument in enumerate(argv):
        if match := re.fullmatch(r"--?config(?:=(.*))?", argument, re.DOTALL):
            following = argv[i + 1] if i + 1 < len(argv) else ""
            named = following if match[1] is None else match[1]
    return named


def expanded(config: str) -> str:
    """A value of --config with the path of its file: of a ready config, or from ~."""
    name, *variant = config.split(":", 1)
    return ":".join([str(file_of(name)), *variant])


def shown(file: str) -> str:
    """A config file as a user writes it: a ready config's name, or the path."""
    return Path(file).stem if Path(file).parent == READY else file


def paths(config: ConfigDict, where: str = "config") -> list[str]:
    """All fields of a config as their flags name them, such as config.data.path."""
    fields = [name for name in config if name not in ("type", WRITTEN)]
    nested = [n for n in fields if isinstance(config[n], ConfigDict)]
    inner = [path for name in nested for path in paths(config[name], f"{where}.{name}")]
    return [f"{where}.{name}" for name in fields] + inner


def _misfit(get_config: Any, file: str, argument: list[str]) -> str:
    try:
        inspect.signature(get_config).bind(*argument)
    except TypeError:
        if argument:
            return f"{file} has no variants: write --config={file} without {argument[0]!r}"
        return f"{file} needs a variant: write --config={file}:NAME"
    return ""


def where(error: BaseException, file: str) -> str:
    """File, line and error; only the message if the file raises it itself."""
    text = next((line for line in str(error).splitlines() if line.strip()), "")
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}: {error.msg}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == file]
    own = lines and shown(file) == file  # nobody has to look into a ready config
    at = f"{file}, line {lines[-1]}" if own else shown(file)
    named = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
    return f"{at}: {named}{text}" if text else f"{at}: {type(error).__name__}"


def _kind(value: Any) -> str:
    return "None" if value is None else f"a value of type {type(value).__name__}"


def _unknown_field(argv: list[str], config: ConfigDict) -> str:
    """The --config.a.b that names no field, and the existing fields; "" if all exist."""
    for flag in (a.lstrip("-").split("=")[0] for a in argv if a.startswith("--config.")):
        node, names = config, flag.split(".")[1:]
        for i, name in enumerate(names):
            fields = sorted({*node} - {"type"}) if isinstance(node, ConfigDict) else []
            if name not in fields:
                at = ".".join(["config", *names[:i]])
                known = ", ".join(fields) or "none"
                near = suggestions.nearest(flag, paths(config))
                meant = suggestions.did_you_mean(f"--{path}" for path in near)
                return f"--{flag}: {at} has no field {name!r}{meant}; it has {known}"
            node = node[name]
    return ""
