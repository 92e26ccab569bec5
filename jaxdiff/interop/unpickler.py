"""A machine that reads pickles: stack, memo and marks, and its instructions.

What stands on the stack is None, a truth value, a number, a string, bytes (a slice of the
input), a list, tuple, dict or set, whose keys are strings or small whole numbers, a
`Global`, a `Record`, or what a function of the table of names has built. Python 2's
strings, which are either, are text of a character a byte where they are short, and bytes
from 256 on.
"""

import itertools
import pickle
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Global:
    """A name in a pickle, `module.name`; nothing is imported by it."""

    name: str


@dataclass(frozen=True)
class Record:
    """An object as the name of its class and its state; the class is not created."""

    name: str
    state: dict[str, Any]


Names = Mapping[str, Callable[..., Any] | None]
"""The functions that build the objects of names; None: allowed, but not to be called."""


class Machine:
    """Stack, marks (heights of the stack), memo, position `at`, and the budget left.

    An instruction costs one of the `budget`; one that copies costs as many values as it
    copies, since a short file could repeat it.
    """

    def __init__(
        self,
        data: memoryview,
        at: int,
        names: Names,
        persistent: Any,
        budget: Iterator[int],
    ) -> None:
        self.data, self.at, self.names, self.persistent = data, at, names, persistent
        self.budget = budget
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def fail(self, what: str) -> ValueError:
        """An error with the position in the file, to be raised."""
        return ValueError(f"byte {self.at}: {what}")

    def take(self, count: int) -> memoryview:
        """The next bytes, not copied."""
        self.expect(count)
        self.at += count
        return self.data[self.at - count : self.at]

    def expect(self, count: int) -> None:
        """Raises ValueError if fewer than `count` bytes are left."""
        left = len(self.data) - self.at
        if count > left:
            raise self.fail(f"{count} bytes should follow, but {left} are left: truncated?")

    def spend(self, count: int) -> None:
        """Takes `count` from the budget; the machine stops where it is used up."""
        for _ in itertools.islice(self.budget, count):
            pass

    def number(self, size: int, signed: bool = False) -> int:
        """The next `size` bytes as a little-endian integer."""
        return int.from_bytes(self.take(size), "little", signed=signed)

    def long(self, size: int) -> int:
        """A signed integer of at most 16 bytes."""
        if size > 16:
            raise self.fail(f"an integer of {size} bytes; 16 are enough for any")
        return self.number(size, signed=True)

    def text(self, size: int) -> str:
        """The next `size` bytes as UTF-8; invalid ones are replaced."""
        self.spend(size // 1024)
        return str(self.take(size), "utf-8", "replace")

    def line(self) -> str:
        """The text up to the end of the line, at most 255 bytes."""
        end = bytes(self.data[self.at : self.at + 256]).find(b"\n")
        if end < 0:
            raise self.fail("a name without an end")
        return self.text(end + 1)[:-1]

    def pop(self) -> Any:
        """Takes the value on top of the stack, above the last mark."""
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise self.fail("it takes a value from an empty stack")
        return self.stack.pop()

    def top(self, kind: type) -> Any:
        """The value on top of the stack, which stays and must be of this type."""
        self.stack.append(self.pop())
        if type(self.stack[-1]) is not kind:
            raise self.fail(f"expected a {_kind(kind())}, got {_kind(self.stack[-1])}")
        return self.stack[-1]

    def group(self) -> list[Any]:
        """What was pushed since the last mark."""
        if not self.marks:
            raise self.fail("a group without a beginning")
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def pops(self, count: int) -> list[Any]:
        """Takes `count` values, in the order in which they were pushed."""
        return [self.pop() for _ in range(count)][::-1]

    def remember(self, key: int) -> None:
        """Stores the value on top of the stack in the memo."""
        self.stack.append(self.pop())
        self.memo[key] = self.stack[-1]

    def recall(self, key: int) -> None:
        """Pushes a value of the memo."""
        if key not in self.memo:
            raise self.fail(f"it recalls {key}, which it never stored")
        self.stack.append(self.memo[key])

    def keys(self, keys: list[Any]) -> list[str | int]:
        """The keys of a dict or set, checked: strings or small counts, hashed cheaply."""
        if not all(type(key) is str or _is_count(key) for key in keys):
            raise self.fail("the keys of a dict or set must be strings, or counts")
        return keys

    def set_items(self, items: list[Any]) -> None:
        """Adds [key, value, key, value, ...] to the dict on top of the stack."""
        if len(items) % 2:
            raise self.fail("a key without a value")
        self.top(dict).update(zip(self.keys(items[::2]), items[1::2], strict=True))

    def add_items(self, items: list[Any]) -> None:
        """Adds items to the set on top of the stack."""
        self.top(set).update(self.keys(items))

    def extend(self, items: list[Any]) -> None:
        """Appends items to the list on top of the stack."""
        self.top(list).extend(items)

    def find(self, module: Any, name: Any) -> None:
        """Pushes a `Global` of a name in the table; any other name is an error."""
        full = (
            f"{module}.{name}" if isinstance(module, str) and isinstance(name, str) else ""
        )
        if full not in self.names:
            text = f"{full[:80]!r}" if full else "something that is not a name"
            raise self.fail(f"it names {text}, which is refused; nothing was run")
        self.stack.append(Global(full))

    def call(self) -> None:
        """REDUCE and NEWOBJ: calls the table's function for a name with its arguments."""
        who, args = self.pops(2)
        build = self.names.get(who.name) if type(who) is Global else None
        if build is None or type(args) is not tuple:
            callee = who.name if type(who) is Global else _kind(who)
            raise self.fail(f"it calls {callee}, which cannot be called")
        self.spend(len(args))
        try:
            self.stack.append(build(*args))
        except (TypeError, ValueError) as error:
            text = str(error).partition("\n")[0] or type(error).__name__
            raise self.fail(f"{who.name}: {text}") from error

    def finish(self) -> Any:
        """The one value left."""
        value = self.pop()
        if self.stack or self.marks:
            raise self.fail("it ends with values left on the stack")
        return value

    def build(self) -> None:
        """BUILD: gives a record its state; one that is not a dict gets the name "".

        A dict's attributes, such as a state dict's `_metadata`, are dropped.
        """
        record, state = self.pops(2)
        state = state if type(state) is dict else {"": state}
        if type(record) is Record:
            self.spend(len(state))
            record.state.update(state)
        elif type(record) is not dict:
            raise self.fail(f"{_kind(record)} cannot have a state")
        self.stack.append(record)

    def persist(self) -> None:
        """Replaces a persistent id on top of the stack by what it stands for."""
        if self.persistent is None:
            raise self.fail("it has persistent ids, which are refused")
        self.stack.append(self.persistent(self.pop()))


def _is_count(key: Any) -> bool:
    """Whether it is a small count, such as optimizers use for parameters."""
    return type(key) is int and 0 <= key < 2**20


def _kind(value: Any) -> str:
    return type(value).__name__.lower()


PUSHES: Mapping[int, Callable[[Machine], Any]] = {
    pickle.NONE[0]: lambda m: None,
    pickle.NEWTRUE[0]: lambda m: True,
    pickle.NEWFALSE[0]: lambda m: False,
    pickle.BININT[0]: lambda m: m.number(4, signed=True),
    pickle.BININT1[0]: lambda m: m.number(1),
    pickle.BININT2[0]: lambda m: m.number(2),
    pickle.LONG1[0]: lambda m: m.long(m.number(1)),
    pickle.LONG4[0]: lambda m: m.long(m.number(4)),
    pickle.BINFLOAT[0]: lambda m: struct.unpack(">d", m.take(8))[0],
    pickle.SHORT_BINBYTES[0]: lambda m: m.take(m.number(1)),
    pickle.BINBYTES[0]: lambda m: m.take(m.number(4)),
    pickle.BINBYTES8[0]: lambda m: m.take(m.number(8)),
    pickle.SHORT_BINSTRING[0]: lambda m: str(m.take(m.number(1)), "latin-1"),
    pickle.BINSTRING[0]: lambda m: m.take(m.number(4)),
    pickle.SHORT_BINUNICODE[0]: lambda m: m.text(m.number(1)),
    pickle.BINUNICODE[0]: lambda m: m.text(m.number(4)),
    pickle.BINUNICODE8[0]: lambda m: m.text(m.number(8)),
    pickle.EMPTY_DICT[0]: lambda m: {},
    pickle.EMPTY_LIST[0]: lambda m: [],
    pickle.EMPTY_SET[0]: lambda m: set(),
    pickle.EMPTY_TUPLE[0]: lambda m: (),
    pickle.TUPLE[0]: lambda m: tuple(m.group()),
    pickle.TUPLE1[0]: lambda m: tuple(m.pops(1)),
    pickle.TUPLE2[0]: lambda m: tuple(m.pops(2)),
    pickle.TUPLE3[0]: lambda m: tuple(m.pops(3)),
}
"""Instructions that push one value."""
INSTRUCTIONS: Mapping[int, Callable[[Machine], Any]] = {
    pickle.PROTO[0]: lambda m: m.take(1),
    pickle.FRAME[0]: lambda m: m.expect(m.number(8)),
    pickle.MARK[0]: lambda m: m.marks.append(len(m.stack)),
    pickle.MEMOIZE[0]: lambda m: m.remember(len(m.memo)),
    pickle.BINPUT[0]: lambda m: m.remember(m.number(1)),
    pickle.LONG_BINPUT[0]: lambda m: m.remember(m.number(4)),
    pickle.BINGET[0]: lambda m: m.recall(m.number(1)),
    pickle.LONG_BINGET[0]: lambda m: m.recall(m.number(4)),
    pickle.APPEND[0]: lambda m: m.extend(m.pops(1)),
    pickle.APPENDS[0]: lambda m: m.extend(m.group()),
    pickle.SETITEM[0]: lambda m: m.set_items(m.pops(2)),
    pickle.SETITEMS[0]: lambda m: m.set_items(m.group()),
    pickle.ADDITEMS[0]: lambda m: m.add_items(m.group()),
    pickle.GLOBAL[0]: lambda m: m.find(m.line(), m.line()),
    pickle.STACK_GLOBAL[0]: lambda m: m.find(*m.pops(2)),
    pickle.REDUCE[0]: lambda m: m.call(),
    pickle.NEWOBJ[0]: lambda m: m.call(),
    pickle.BUILD[0]: lambda m: m.build(),
    pickle.BINPERSID[0]: lambda m: m.persist(),
}
"""Instructions that do something else."""
