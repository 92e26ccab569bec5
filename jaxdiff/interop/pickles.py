"""Pickles read as data: nothing they name is imported, and nothing of them is run.

A pickle is a program for a machine with a stack and a memo. `unpickler` has such a machine,
which builds plain values and, for names in a closed table, calls the table's functions. Any
other name and instruction is refused. The cost of a file is bounded by three numbers and
its length: bytes are slices of the input, lengths are checked against what is left, copies
count as instructions, and the finished value is neither deep, nor large when expanded, nor
part of itself.
"""

import pickle
import pickletools
from collections.abc import Callable, Iterator
from typing import Any

from jaxdiff.interop.unpickler import INSTRUCTIONS, PUSHES, Machine, Names, Record

OPCODES = 250_000
"""Instructions in a file and the pickles inside it, and values or KiB of text that they
copy; a published model has some 50,000."""
SIZE = 2_000_000
"""Values in a finished one, counted again each time they are shared."""
DEPTH = 64
"""Values around the innermost one; a network's modules take 20."""


def load(
    data: memoryview,
    names: Names,
    at: int = 0,
    persistent: Callable[[Any], Any] | None = None,
    budget: Iterator[int] | None = None,
) -> tuple[Any, int]:
    """The value of the pickle that starts at byte `at`, and the byte after its end.

    `persistent` maps a persistent id to its value. Pickles inside pickles share one
    `budget` of instructions.

    Raises:
        ValueError: damage or something not allowed; the message has the position.

    >>> load(memoryview(pickle.dumps({"a": [1, 2.5, None]})), {})[0]
    {'a': [1, 2.5, None]}
    >>> load(memoryview(pickle.dumps(print, 4)), {})
    Traceback (most recent call last):
        ...
    ValueError: byte 31: it names 'builtins.print', which is refused; nothing was run
    """
    budget = iter(range(OPCODES)) if budget is None else budget
    machine, size = Machine(data, at, names, persistent, budget), len(data)
    for _ in budget:
        machine.at, start = machine.at + 1, machine.at
        code = data[start] if start < size else None
        if code in PUSHES:
            machine.stack.append(PUSHES[code](machine))
        elif code in INSTRUCTIONS:
            INSTRUCTIONS[code](machine)
        elif code == pickle.STOP[0]:
            value = machine.finish()
            _check(value)
            return value, machine.at
        else:
            raise ValueError(f"byte {start}: {_unknown(code)}")
    raise ValueError(f"byte {machine.at}: more than {OPCODES:,} instructions")


def _check(root: Any) -> None:
    """Raises ValueError for a value that is deep, large when expanded, or part of itself.

    Each container is entered once and left once, with its size and its height.
    """
    done: dict[int, tuple[int, int]] = {}
    inside: set[int] = set()
    todo = [(root, False)]
    while todo:
        value, left = todo.pop()
        key = id(value)
        parts = _parts(value)
        if left:
            inside.discard(key)
            known = [done.get(id(part), (1, 0)) for part in parts]
            size = 1 + sum(size for size, _ in known)
            height = 1 + max((height for _, height in known), default=0)
            if size > SIZE:
                raise ValueError(f"it unfolds to more than {SIZE:,} values")
            if height > DEPTH:
                raise ValueError(f"values are nested more than {DEPTH} deep")
            done[key] = size, height
        elif key in inside:
            raise ValueError("a value contains itself")
        elif parts and key not in done:
            if len(inside) == DEPTH:
                raise ValueError(f"values are nested more than {DEPTH} deep")
            inside.add(key)
            todo.append((value, True))
            todo.extend((part, False) for part in parts if _parts(part))


def _parts(value: Any) -> Any:
    """The values in a container; those of anything else are ()."""
    if type(value) is Record:
        return (value.state,)
    if type(value) is dict:
        return value.values()
    return value if type(value) in (list, tuple) else ()


def _unknown(code: int | None) -> str:
    """What is wrong with an instruction that is not in the tables."""
    if code is None:
        return "the end, in the middle of a pickle: truncated?"
    known = pickletools.code2op.get(chr(code))
    name = known.name if known else f"0x{code:02x}"
    return f"{name} is not an instruction of model pickles, of protocols 2 to 5"
