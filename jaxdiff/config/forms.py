"""An experiment's other two forms, ConfigDict and JSON, and back again, checked."""

import dataclasses
import math
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from jaxdiff.config.experiment import Experiment
from jaxdiff.config.fields import fields_of
from jaxdiff.config.table import KINDS, NAMES, TYPES


def to_dict(value: Any) -> Any:
    """A value as plain dictionaries, tuples, numbers and strings.

    >>> from jaxdiff import solvers
    >>> to_dict(solvers.DDIM(eta=0.5))
    {'type': 'solvers.DDIM', 'eta': 0.5}
    """
    if isinstance(value, tuple):
        return tuple(to_dict(v) for v in value)
    if not dataclasses.is_dataclass(value):
        return value
    if type(value) not in NAMES:
        raise ValueError(
            f"{type(value).__name__} is not one of jaxdiff's own types, so an experiment "
            "that holds it cannot be saved; add it to config.TYPES"
        )
    named = {name: to_dict(getattr(value, name)) for name in fields_of(type(value))}
    return {"type": NAMES[type(value)], **named}


def from_dict(tree: Any, where: str = "config") -> Any:
    """The value that `to_dict` wrote, built of the types in `TYPES` alone.

    Raises:
        ValueError: an unknown type or field, a wrong kind of value, or a value that its
            type refuses; the message starts with the path of the field.
    """
    if isinstance(tree, list | tuple):
        return tuple(from_dict(v, f"{where}[{i}]") for i, v in enumerate(tree))
    if not isinstance(tree, Mapping):
        return tree
    if tree.get("type") not in TYPES:
        raise ValueError(f"{where}.type is {tree.get('type')!r}; known: {', '.join(TYPES)}")
    cls = TYPES[tree["type"]]
    fields = fields_of(cls)
    values = {}
    for name, value in tree.items():
        if name == "type":
            continue
        if name not in fields:
            raise ValueError(
                f"{where} ({tree['type']}) has no field {name!r}; it has "
                f"{', '.join(fields) or 'none'}"
            )
        path = f"{where}.{name}"
        values[name] = _checked(from_dict(value, path), fields[name], path)
    if missing := [name for name in _required(cls) if name not in values]:
        many = "values" if len(missing) > 1 else "a value"
        raise ValueError(f"{where} needs {many} for {' and '.join(missing)}")
    try:
        return cls(**values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from error


def to_config(experiment: Experiment) -> ConfigDict:
    """The experiment as the ConfigDict that a config file returns."""
    return ConfigDict(to_dict(experiment))


def from_config(config: ConfigDict) -> Experiment:
    """The experiment that a ConfigDict describes.

    Raises:
        ValueError: as `from_dict`.
    """
    if not isinstance(config, ConfigDict):
        raise ValueError(
            f"get_config() returned a {type(config).__name__}: return "
            "jaxdiff.to_config(Experiment(...))"
        )
    return from_dict(config.to_dict())


PLACES = ("data.path", "data.cache", "data.data_dir")
"""Fields that say where data lie, which may be elsewhere on each host."""

FREE = (
    *("steps", "log_every", "sample_every", "checkpoint_every", "keep", "sampling"),
    *("snapshot_every", "snapshot_dtype", "magnitudes_every", "eval_", "fsdp"),
    *("on_nonfinite", "data.on_error", *PLACES),
)
"""Fields, or what they begin with, that a resumed run may change."""


def differences(
    there: Experiment, here: Experiment, free: tuple[str, ...] = FREE
) -> list[str]:
    """What keeps a run from going on as another experiment, a line for each field.

    Fields that do not alter the steps already made may differ: how many steps there are,
    how often something is written, how pictures are drawn, where the data lie.
    """
    before, after = (dict(_leaves(to_dict(e))) for e in (there, here))
    paths = [*after, *(before.keys() - after.keys())]
    return [
        f"{path}: {before.get(path)} there, {after.get(path)} here"
        for path in paths
        if before.get(path) != after.get(path) and not path.startswith(free)
    ]


def _leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The plain values of a dictionary tree, with their dotted paths."""
    if not isinstance(tree, Mapping):
        yield path, tree
        return
    for name, value in tree.items():
        yield from _leaves(value, f"{path}.{name}" if path else name)


def _required(cls: type) -> list[str]:
    """Names of fields that have no default."""
    none = dataclasses.MISSING
    asked = [f for f in dataclasses.fields(cls) if f.default is f.default_factory is none]
    return [f.name for f in asked if f.name in fields_of(cls)]


def _checked(value: Any, hint: Any, path: str) -> Any:
    """The value, as its field's type says; integers pass as floats."""
    origin = typing.get_origin(hint) or hint
    if isinstance(value, float) and math.isnan(value):
        raise ValueError(f"{path} must be a number, got nan")
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is Any:
        return value
    if origin is tuple:
        element, *rest = typing.get_args(hint)
        if isinstance(value, tuple) and rest == [...]:
            return tuple(_checked(v, element, f"{path}[{i}]") for i, v in enumerate(value))
        if isinstance(value, tuple) and len(value) == 1 + len(rest):
            hints = zip(value, (element, *rest), strict=True)
            return tuple(_checked(v, h, f"{path}[{i}]") for i, (v, h) in enumerate(hints))
    kinds = typing.get_args(hint) if origin is types.UnionType else (origin,)
    if not any(_is_a(value, kind) for kind in kinds):
        names = [name for kind in kinds for name in _names(kind)]
        known = f"one of {', '.join(names)};" if len(names) > 1 else f"a {names[0]},"
        raise ValueError(f"{path} must be {known} got {value!r}")
    return value


def _is_a(value: Any, kind: Any) -> bool:
    """isinstance, but a truth value is no number, and a protocol asks for our types."""
    if kind in KINDS and NAMES.get(type(value), "").split(".")[0] != KINDS[kind]:
        return False
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _names(kind: Any) -> list[str]:
    """What may stand where a field's type is this."""
    if kind in KINDS:
        return [n for n in TYPES if n.startswith(f"{KINDS[kind]}.")]
    return ["None" if kind is types.NoneType else NAMES.get(kind, kind.__name__)]
