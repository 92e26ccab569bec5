"""Converts an experiment to ConfigDict and JSON, and back with all checks."""

import dataclasses
import re
import typing
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from jaxdiff.config.experiment import Experiment
from jaxdiff.config.fields import elements, fields_of
from jaxdiff.config.registry import NAMES, TYPES, allowed, holds_plain, registered
from jaxdiff.types.ranges import UNIONS, quote, rules


def to_dict(value: Any) -> Any:
    """A value as plain dictionaries, tuples, numbers and strings.

    >>> from jaxdiff.sampling import solvers
    >>> to_dict(solvers.DDIM(eta=0.5))
    {'type': 'solvers.DDIM', 'eta': 0.5}

    Raises:
        ValueError: a value of a type that is not or no longer registered, or a field whose
            value cannot be saved.
    """
    return _plain(value, type(value).__name__)


def _plain(value: Any, where: str) -> Any:
    """`to_dict` of the value at `where`, a class and field."""
    if isinstance(value, tuple):
        return tuple(_plain(element, f"{where}[{i}]") for i, element in enumerate(value))
    if not dataclasses.is_dataclass(value):
        return _plain_leaf(value, where)
    cls = type(value)
    if cls not in NAMES and cls in registered():
        raise ValueError(
            f"{cls.__name__} was registered again since this value of it was made: make "
            "the value again, of the class as it is now"
        )
    if cls not in NAMES:
        raise ValueError(
            f"{cls.__name__} has no name that an experiment could be saved with: "
            "write @jaxdiff.register above the class (docs/extending.md)"
        )
    fields = fields_of(cls)
    held = {name: _plain(getattr(value, name), f"{cls.__name__}.{name}") for name in fields}
    return {"type": NAMES[cls], **held}


def _plain_leaf(value: Any, where: str) -> Any:
    """A number, a string or None; NumPy's numbers as Python's."""
    plain = value.item() if isinstance(value, np.generic) else value
    if not isinstance(plain, bool | int | float | str | None) or plain != plain:
        tip = "make the list a tuple; " if isinstance(value, list) else ""
        raise ValueError(
            f"{where} is {quote(value)}, which cannot be saved: {tip}a field is a number, "
            "a string, True or False, None, a tuple of such, or a registered value"
        )
    return plain


def from_dict(tree: Any, where: str = "config", kind: Any = Any) -> Any:
    """The value that `to_dict` wrote, built only from the types in `TYPES`.

    `kind` is the type, or the annotation, that the value must have. Any tree, however
    damaged, gives such a value or a ValueError.

    >>> from_dict(to_dict(Experiment(steps=10))) == Experiment(steps=10)
    True

    Raises:
        ValueError: an unknown type or field, a wrong kind of value, or a value that its
            type rejects; the message starts with the path of the field.
    """
    return _read(tree, kind, where, 0)


DEEPEST = 50
"""Maximal depth of nested values in a saved experiment."""


def _read(tree: Any, hint: Any, where: str, depth: int) -> Any:
    """The value of a tree, checked against an annotation."""
    if depth > DEEPEST:
        raise ValueError(f"{where[:60]}… is nested more than {DEEPEST} deep")
    if isinstance(tree, Mapping):
        value = _made(tree, hint, where, depth)
    elif isinstance(tree, list | tuple):
        pairs = zip(tree, elements(hint, len(tree)), strict=True)
        value = tuple(
            _read(element, element_hint, f"{where}[{i}]", depth + 1)
            for i, (element, element_hint) in enumerate(pairs)
        )
    elif _is_float(hint) and type(tree) is int and abs(tree) < 2**1000:
        value = float(tree)
    else:
        value = tree
    names = () if holds_plain(hint) else allowed(hint)
    if names and NAMES.get(type(value), "None" if value is None else "") not in names:
        many = f"one of {', '.join(names)};" if len(names) > 1 else f"a {names[0]},"
        raise ValueError(f"{where} must be {many} got {quote(value)}")
    return value


def _is_float(hint: Any) -> bool:
    """Whether an annotation's numbers are floats, as in `float | None`."""
    kinds = typing.get_args(hint) if typing.get_origin(hint) in UNIONS else (hint,)
    return float in kinds and int not in kinds


def _made(tree: Mapping[str, Any], hint: Any, where: str, depth: int) -> Any:
    """A value of the type that a tree names; the type itself checks its plain fields."""
    kind = tree.get("type")
    if not isinstance(kind, str) or kind not in TYPES:
        known = ", ".join(allowed(hint) or TYPES)
        what = f"{quote(kind)}{_unregistered(kind)}"
        raise ValueError(f"{where}.type is {what}; known: {known}")
    cls, values = TYPES[kind], {}
    fields = fields_of(cls)
    for name, value in tree.items():
        if name == "type":
            continue
        if name not in fields:
            raise ValueError(
                f"{where} ({kind}) has no field {quote(name)}; it has "
                f"{', '.join(fields) or 'none'}"
            )
        path = f"{where}.{name}"
        values[name] = _read(value, fields[name], path, depth + 1)
        if rule := rules(cls).get(name):
            rule(path, values[name])
    if missing := [name for name in _required(cls) if name not in values]:
        many = "values" if len(missing) > 1 else "a value"
        raise ValueError(f"{where} needs {many} for {' and '.join(missing)}")
    try:
        return cls(**values)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise ValueError(f"{where}: {error}") from error


def _unregistered(kind: Any) -> str:
    """Advice about a name that is not in the table; "" if `kind` is not a name."""
    if not isinstance(kind, str) or not re.fullmatch(r"[a-z]+\.[A-Za-z_]\w*", kind):
        return ""
    short = kind.split(".")[1]
    return (
        f", a name that is not registered: import the file with @jaxdiff.register on "
        f"{short[:40]}, on a command line by --import=FILE.py"
    )


def to_config(experiment: Experiment) -> ConfigDict:
    """The experiment as the ConfigDict that a config file returns.

    >>> to_config(Experiment(steps=10)).steps
    10
    """
    return ConfigDict(to_dict(experiment))


def from_config(config: ConfigDict) -> Experiment:
    """The experiment that a ConfigDict describes.

    >>> config = to_config(Experiment())
    >>> config.steps = 10  # as the flag --config.steps=10 does
    >>> from_config(config) == Experiment(steps=10)
    True

    Raises:
        ValueError: as `from_dict`.
    """
    if not isinstance(config, ConfigDict):
        raise ValueError(
            f"get_config() returned a {type(config).__name__}: return "
            "jaxdiff.to_config(Experiment(...))"
        )
    return from_dict(config.to_dict(), kind=Experiment)


PLACES = ("data.path", "data.cache", "data.data_dir", "data.encoder.vae")
"""Paths of the data and of their VAE, which may differ between hosts."""

NETWORKS = ("network", "network.backbone")
"""Where a network's fields are: the second for an estimator's backbone."""

FREE = (
    *("steps", "log_every", "sample_every", "checkpoint_every", "keep", "sampling"),
    *("snapshot_every", "snapshot_dtype", "magnitudes_every", "eval_", *PLACES),
)
"""Fields, or prefixes, that a resumed run may change, as they do not affect a step."""

FROM_HERE_ON = (
    *("batch_size", "accumulation", "fsdp", "on_nonfinite", "data.on_error"),
    *("optimizer.learning_rate", "optimizer.ref_batches", "optimizer.rampup_images"),
    *(f"{net}.{name}" for net in NETWORKS for name in ("remat", "dtype")),
)
"""Fields that a resumed run may change too: they affect only later steps."""


def differences(
    there: Experiment, here: Experiment, free: tuple[str, ...] = (*FREE, *FROM_HERE_ON)
) -> list[str]:
    """Why a run cannot be resumed as another experiment, a line for each field.

    Fields that do not affect a step may differ: the number of steps, how often something
    is written, how pictures are drawn, where the data lie. So may fields that leave the
    state's meaning unchanged, which `changes` lists.

    >>> differences(Experiment(), Experiment(seed=1, steps=10))
    ['seed: 0 there, 1 here']
    """
    return [
        f"{path}: {before} there, {after} here"
        for path, before, after in _changed(there, here)
        if not path.startswith(free)
    ]


def changes(there: Experiment, here: Experiment) -> list[str]:
    """The fields that change when a run is resumed, each as "field before -> after".

    >>> changes(Experiment(), Experiment(batch_size=64))
    ['batch_size 128 -> 64']
    """
    return [
        f"{path} {before} -> {after}"
        for path, before, after in _changed(there, here)
        if path in FROM_HERE_ON
    ]


def _changed(there: Experiment, here: Experiment) -> list[tuple[str, Any, Any]]:
    return changed_fields(to_dict(there), to_dict(here))


def changed_fields(
    there: Mapping[str, Any], here: Mapping[str, Any]
) -> list[tuple[str, Any, Any]]:
    """(path, value there, value here) of each field that differs; None = not there.

    >>> changed_fields({"a": {"b": 1, "c": 2}}, {"a": {"b": 3, "c": 2}})
    [('a.b', 1, 3)]
    """
    before, after = dict(_leaves(there)), dict(_leaves(here))
    paths = [*after, *(path for path in before if path not in after)]
    values = ((path, before.get(path), after.get(path)) for path in paths)
    return [(path, old, new) for path, old, new in values if old != new]


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
    required = [
        f for f in dataclasses.fields(cls) if f.default is f.default_factory is none
    ]
    return [f.name for f in required if f.name in fields_of(cls)]
