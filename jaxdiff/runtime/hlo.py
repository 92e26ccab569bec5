"""Reads the text of a compiled program: its operations, their sizes and their arithmetic.

XLA prints an optimised program (HLO) as computations, with one operation on a line:

    %dot.1 = bf16[64,32]{1,0:T(8,128)} dot(%a, %b), lhs_contracting_dims={1}, ...

A loop, a branch or a fusion names the computations that it runs. `executed` visits what a
call of the program runs, with the number of times. Only text is read: neither jax nor a
compiler is needed. [openxla.org/xla/operation_semantics, openxla.org/xla/shapes]
"""

import functools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

COLLECTIVES = (
    *("all-gather", "all-reduce", "reduce-scatter", "all-to-all"),
    *("ragged-all-to-all", "collective-permute", "collective-broadcast"),
)
"""Operations that communicate between devices."""

FREE = (
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"),
    *("partition-id", "replica-id", "opt-barrier"),
)
"""Operations that neither compute nor move anything."""


@dataclass(frozen=True)
class Shape:
    """An array's type and size, and how a TPU lays it out; tile () is no tiling."""

    dtype: str
    dims: tuple[int, ...]
    minor: tuple[int, ...] = ()
    """Axes, the fastest first."""
    tile: tuple[int, ...] = ()
    memory: int = 0
    """0 is the device's main memory, 1 a TPU's vector memory, others are scalars'."""

    @property
    def bytes(self) -> int:
        """Size without padding."""
        return math.prod(self.dims) * bits(self.dtype) // 8

    @property
    def padded(self) -> int:
        """Bytes with the fastest axes rounded up to whole tiles."""
        dims = [self.dims[axis] for axis in self.minor] or list(self.dims[::-1])
        for i, size in enumerate(self.tile[::-1]):
            if i < len(dims):
                dims[i] = -(-dims[i] // size) * size
        return math.prod(dims) * bits(self.dtype) // 8


@dataclass(frozen=True)
class Op:
    """An operation: its kind, such as "fusion" or "all-gather-start", and sizes."""

    name: str
    kind: str
    outputs: tuple[Shape, ...]
    inputs: tuple[tuple[Shape, ...], ...]
    """The outputs of each operand."""
    calls: tuple[str, ...]
    """Computations that it runs."""
    source: str
    """Where the program made it, as "jit(step)/jvp(UNet)/enc/conv/add"; "" if unknown."""
    attributes: str
    """The rest of its line."""

    @property
    def cycles(self) -> int | None:
        """The TPU compiler's estimate of clock cycles, if there is one."""
        match = CYCLES.search(self.attributes)
        return int(match[1]) if match else None

    @property
    def collective(self) -> str:
        """Which of COLLECTIVES it starts; "" if none."""
        kind = self.kind.removesuffix("-start")
        return kind if kind in COLLECTIVES else ""

    @property
    def prefetches(self) -> bool:
        """Whether it starts or ends a copy that runs beside other operations."""
        kind = self.kind.removesuffix("-start").removesuffix("-done")
        return kind != self.kind and kind in ("copy", "slice", "dynamic-slice", "async")

    @property
    def target(self) -> str:
        """The library routine of a custom call."""
        match = re.search(r'custom_call_target="([^"]*)"', self.attributes)
        return match[1] if match else ""


@dataclass(frozen=True)
class Program:
    """A compiled program's computations, by name."""

    computations: dict[str, tuple[Op, ...]]
    entry: str

    def executed(self) -> Iterator[tuple[Op, int]]:
        """The operations that a call runs and how often, fusions as one.

        Of the branches of a condition each counts once; a loop whose length the compiler
        does not know counts as one round, see `unknown_loops`.
        """
        yield from self._executed(self.entry, 1)

    def _executed(self, name: str, times: int) -> Iterator[tuple[Op, int]]:
        for op in self.computations[name]:
            if op.kind in ("while", "conditional", "call", "async-start"):
                for called in op.calls:
                    yield from self._executed(called, times * (self.trips(op) or 1))
            else:
                yield op, times

    def collectives(self) -> Iterator[tuple[Op, int]]:
        """The collectives that a call runs and how often, each once.

        A TPU's compiler spreads one over the fusions that run meanwhile: each of them
        repeats it, with the same chain.
        """
        chains = set()
        for op, times in self.executed():
            for inner in self.within(op):
                chain = CHAIN.search(inner.attributes)
                if inner.collective and not (chain and chain[1] in chains):
                    chains |= {chain[1]} if chain else set()
                    yield inner, times

    def communicates(self, op: Op) -> bool:
        """Whether an operation is a collective, or a part of one, and nothing else."""
        inner = [one for one in self.within(op) if one.kind not in FREE]
        part = lambda one: one.collective or one.target.startswith("AsyncCollective")
        return bool(inner) and all(map(part, inner))

    def trips(self, op: Op) -> int | None:
        """How often a loop runs its body; 1 for other operations, None if it is not known.

        GPUs' compiler writes it down. A TPU's leaves the condition of `lax.scan`, which
        counts from 0 up to a constant.
        """
        if op.kind != "while":
            return 1
        if match := TRIPS.search(op.attributes):
            return int(match[1])
        name = re.search(r"condition=%([\w.-]+)", op.attributes)
        condition = self.computations.get(name[1], ()) if name else ()
        ends = [o for o in condition if o.kind == "constant"]
        less = any(
            o.kind == "compare" and "direction=LT" in o.attributes for o in condition
        )
        known = less and len(ends) == 1 and re.match(r"\d+(?=\))", ends[0].attributes)
        return int(known[0]) if known else None

    def unknown_loops(self) -> int:
        """How many loops are counted as one round."""
        every = (op for ops in self.computations.values() for op in ops)
        return sum(self.trips(op) is None for op in every)

    def within(self, op: Op) -> Iterator[Op]:
        """An operation, or what is fused in it, at any depth."""
        if op.kind != "fusion":
            yield op
        else:
            for name in op.calls:
                for inner in self.computations[name]:
                    yield from self.within(inner)

    def flops(self, op: Op) -> int:
        """Multiplications and additions of its convolutions and matrix products."""
        return sum(product(inner).flops for inner in self.within(op))

    def traffic(self, op: Op) -> int:
        """Bytes it reads from and writes to the main memory of the device.

        A fusion that only slices an operand reads the slices; one that updates a part of an
        operand in place writes that part.
        """
        if op.kind in FREE or op.kind.endswith("-done"):
            return 0
        if op.prefetches:  # to or from a TPU's vector memory
            return min(shape.bytes for shape in op.outputs[:2])
        sizes = [in_main_memory(shapes) for shapes in op.inputs]
        wrote = in_main_memory(op.outputs)
        for body in op.calls if op.kind == "fusion" else ():
            for i, size in enumerate(sizes):
                sizes[i] = self._read(body, i, size)
            updates = [o for o in self.computations[body] if o.kind == UPDATE]
            if updates and len(op.outputs) == len(updates):
                wrote = sum(in_main_memory(update.inputs[1]) for update in updates)
        if op.kind == UPDATE:
            sizes[0], wrote = 0, sizes[1]
        return sum(sizes) + wrote

    def _read(self, body: str, number: int, size: int) -> int:
        """Bytes that a fusion reads of its parameter of this number and size."""
        ops = self.computations[body]
        names = [o.name for o in ops if o.kind == "parameter" and number == _number(o)]
        users = [o for o in ops if names and re.search(USED % names[0], o.attributes)]
        if not users:
            return size
        if all(o.kind in ("dynamic-slice", "slice") for o in users):
            return min(size, sum(shape.bytes for o in users for shape in o.outputs))
        if all(o.kind == UPDATE and _operands(o)[0] == names[0] for o in users):
            return 0
        return size


UPDATE = "dynamic-update-slice"
USED = r"%%%s\b(?![.-])"


def _number(op: Op) -> int:
    return int(op.attributes.split(")")[0])


def _operands(op: Op) -> list[str]:
    return NAME.findall(op.attributes.split(")")[0])


def in_main_memory(shapes: tuple[Shape, ...]) -> int:
    """Bytes of the arrays that lie in the device's main memory."""
    return sum(shape.bytes for shape in shapes if shape.memory == 0)


@dataclass(frozen=True)
class Product:
    """A convolution or matrix product as [rows, depth] x [depth, columns], for each tap of
    the kernel; a gradient of weights is one product. All 0 for other operations."""

    flops: int = 0
    rows: int = 0
    depth: int = 0
    columns: int = 0
    dtypes: tuple[str, ...] = ()
    """Of its operands."""


def product(op: Op) -> Product:
    """The size of a convolution, a matrix product, or a GPU library's call of one."""
    match op.kind:
        case "dot":
            contracted = _axes(op.attributes, r"lhs_contracting_dims=\{([\d,]*)\}")
            batch = _axes(op.attributes, r"lhs_batch_dims=\{([\d,]*)\}")
            return _matrix_product(op, contracted, batch)
        case "convolution":
            return _convolution(op, *(op.inputs[i][0] for i in (0, 1)), op.outputs[0])
        case "custom-call" if op.target.startswith("__cublas"):
            listed = lambda key: rf'"lhs_{key}_dimensions":\[([\d,"]*)\]'
            contracted = _axes(op.attributes, listed("contracting"))
            return _matrix_product(op, contracted, _axes(op.attributes, listed("batch")))
        case "custom-call" if op.target.startswith("__cudnn$conv"):
            (first,), (second,), out = op.inputs[0], op.inputs[1], op.outputs[0]
            if "BackwardFilter" in op.target:  # (x, dy) -> dw
                return _convolution(op, first, out, second)
            if "BackwardInput" in op.target:  # (dy, w) -> dx
                return _convolution(op, out, second, first)
            return _convolution(op, first, second, out)
    return Product()


def _matrix_product(op: Op, contracted: tuple[int, ...], batch: tuple[int, ...]) -> Product:
    left, right, out = op.inputs[0][0], op.inputs[1][0], op.outputs[0]
    depth = math.prod(left.dims[axis] for axis in contracted)
    images = math.prod(left.dims[axis] for axis in batch)
    rows = math.prod(left.dims) // (depth * images or 1)
    columns = math.prod(out.dims) // (rows * images or 1)
    flops = 2 * math.prod(out.dims) * depth
    return Product(flops, rows, depth, columns, (left.dtype, right.dtype))


def _convolution(op: Op, x: Shape, w: Shape, y: Shape) -> Product:
    """y = x * w; positions where the kernel lies in the padding or in holes don't count."""
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", op.attributes)
    if not labels:
        return Product()
    x_axes, w_axes, y_axes = labels[1], labels[2], labels[3]
    window, pairs = _window(op.attributes), 1
    for axis in (label for label in w_axes if label.isdigit()):
        sizes = (shape.dims[a.index(axis)] for shape, a in ((x, x_axes), (y, y_axes)))
        pairs *= positions(*sizes, *window[int(axis)])
    depth, columns = w.dims[w_axes.index("i")], w.dims[w_axes.index("o")]
    images = y.dims[y_axes.index("b")]
    pixels = math.prod(y.dims) // (images * y.dims[y_axes.index("f")] or 1)
    flops = 2 * images * pairs * depth * columns
    taps = math.prod(size for size, *_ in window)
    depth *= taps if taps > pixels else 1  # a gradient of weights sums over pixels
    dtypes = tuple(shapes[0].dtype for shapes in op.inputs[:2])
    return Product(flops, images * pixels, depth, columns, dtypes)


Window = tuple[int, int, int, int, int]
"""Size, stride, padding before, dilation of the input, dilation of the kernel."""


def _window(attributes: str) -> list[Window]:
    """The window of a convolution, for each of its axes."""
    match = re.search(r"window=\{([^}]*)\}", attributes)
    fields = dict(part.split("=") for part in match[1].split()) if match else {}
    numbers = {name: text.split("x") for name, text in fields.items()}
    axes = len(numbers.get("size", ()))
    field = lambda name, default: numbers.get(name, [default] * axes)
    return [
        (int(size), int(stride), int(pad.split("_")[0]), int(holes), int(spread))
        for size, stride, pad, holes, spread in zip(
            field("size", "1"),
            field("stride", "1"),
            field("pad", "0_0"),
            field("lhs_dilate", "1"),
            field("rhs_dilate", "1"),
            strict=True,
        )
    ]


@functools.cache
def positions(
    x: int, y: int, size: int, stride: int, before: int, holes: int, spread: int
) -> int:
    """Pairs of an output and a kernel position that read an input, along one axis.

    >>> positions(8, 8, 3, 1, 1, 1, 1)
    22
    """
    last = (x - 1) * holes
    at = (i * stride + k * spread - before for i in range(y) for k in range(size))
    return sum(0 <= place <= last and place % holes == 0 for place in at)


def _axes(text: str, pattern: str) -> tuple[int, ...]:
    match = re.search(pattern, text)
    return tuple(map(int, re.findall(r"\d+", match[1]))) if match else ()


def bits(dtype: str) -> int:
    """Bits of an element: 16 for bf16, 8 for pred and f8e4m3fn, 64 for c64.

    >>> [bits(name) for name in ("bf16", "pred", "f8e4m3fn", "s4", "c64", "token")]
    [16, 8, 8, 4, 64, 0]
    """
    match = re.match(r"(?:bf|f|s|u|c)(\d+)", dtype)
    return int(match[1]) if match else 8 * (dtype == "pred")


def group_size(op: Op, devices: int) -> int:
    """How many devices take part in a collective with each other."""
    text = op.attributes
    if match := re.search(r"replica_groups=\{\{([\d,]+)\}", text):
        return len(match[1].split(","))
    if match := re.search(r"replica_groups=\[(\d+),(\d+)\]", text):
        return int(match[2])
    if match := re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", text):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", match[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", match[2]))
    return devices


def results(op: Op) -> tuple[Shape, ...]:
    """The results of a collective; one that starts may have its operands before them."""
    operands = sum(len(shapes) for shapes in op.inputs)
    starts = op.kind.endswith("-start") and len(op.outputs) >= 2 * operands
    return op.outputs[operands : 2 * operands] if starts else op.outputs


def wire(op: Op, devices: int) -> int | float:
    """Bytes that each device sends for a collective, on a ring."""
    n, size = group_size(op, devices), sum(shape.bytes for shape in results(op))
    share = (n - 1) / n
    match op.collective:
        case "all-reduce":
            return 2 * share * size
        case "reduce-scatter":
            return share * n * size
        case "collective-permute":
            return size
    return share * size


def read(text: str) -> Program:
    """Reads what `compiled.as_text()` returns.

    Raises:
        ValueError: the text has no entry computation.
    """
    computations: dict[str, tuple[Op, ...]] = {}
    entry, name, lines = "", "", []
    for line in text.splitlines():
        if match := COMPUTATION.match(line):
            name, lines = match[2], []
            entry = name if match[1] else entry
        elif line.startswith("}") and name:
            computations[name], name = tuple(_operations(lines)), ""
        elif name:
            lines.append(line)
    if not entry:
        raise ValueError("this text is not a compiled program: it has no line ENTRY")
    return Program(computations, entry)


def _operations(lines: list[str]) -> Iterator[Op]:
    shapes: dict[str, tuple[Shape, ...]] = {}
    for line in lines:
        if not (match := OPERATION.match(line)):
            continue
        name, outputs, kind, rest = match.groups()
        shapes[name] = tuple(map(_shape, SHAPE.finditer(outputs)))
        operands = NAME.findall(rest.split(")")[0])
        source = SOURCE.search(rest)
        yield Op(
            name,
            kind,
            shapes[name],
            tuple(shapes.get(operand, ()) for operand in operands),
            tuple(_called(kind, rest)),
            source[1].replace("\\'", "'") if source else "",
            rest,
        )


def _called(kind: str, rest: str) -> Iterator[str]:
    if kind in ("while", "conditional", "call", "async-start", "fusion"):
        for match in CALLS.finditer(rest):
            yield from NAME.findall(match[1])


def _shape(match: re.Match) -> Shape:
    dims, minor, tile = (
        tuple(map(int, re.findall(r"\d+", match[i] or ""))) for i in (2, 3, 4)
    )
    return Shape(match[1], dims, minor, tile, int(match[5] or 0))


COMPUTATION = re.compile(r"(ENTRY )?%?([^\s(]+) \(.*\{$")
OPERATION = re.compile(r"\s+(?:ROOT )?%?(\S+) = (.*?) ([a-z][a-z0-9-]*)\((.*)$")
SHAPE = re.compile(
    r"\b([a-z]+\d*(?:e\d\w*)?)\[([\d,]*)\]"
    r"(?:\{([\d,]*)(?::(?:T\(([\d,]*)\))?(?:\([\d,]*\))*[A-RT-Z(),\d]*(?:S\((\d+)\))?)?[^}]*\})?"
)
NAME = re.compile(r"%([\w.-]+)")
CALLS = re.compile(
    r"(?:calls|to_apply|body|true_computation|false_computation|branch_computations)="
    r"(\{[^}]*\}|%[\w.-]+)"
)
CHAIN = re.compile(r'chain_id="([^"]*)"')
SOURCE = re.compile(r'op_name="((?:[^"\\]|\\.)*)"')
CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
