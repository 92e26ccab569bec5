"""Where a compiled program spends its time, from its text: by kind, layer and collective.

On a TPU an operation takes the clock cycles that the compiler estimated for it; where it
estimated none, and on GPUs, it takes its roofline, products at the chip's peak or traffic
at its bandwidth, whichever is longer. A collective takes the bytes that a ring sends over
all links of a chip. Nothing overlaps in these sums, and starting a kernel takes no time.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from jaxdiff.runtime import hlo
from jaxdiff.runtime.chips import Chip, filled, roofline

KINDS = (
    "convolution and matmul",
    "attention",
    "elementwise",
    "optimizer and averages",
    "copies and transposes",
    "collectives",
)
"""What time is spent on."""

MOVES = {
    *("copy", "copy-start", "copy-done", "slice-start", "slice-done"),
    *("transpose", "reshape", "slice", "concatenate"),
    *("bitcast-convert", "dynamic-slice", "dynamic-update-slice", "pad", "reverse"),
    *("convert", "broadcast", *hlo.FREE),
}
"""Operations that only move or retype elements."""


@dataclass
class Row:
    """Sums over operations: seconds, multiplications and additions, and bytes."""

    seconds: float = 0.0
    backward: float = 0.0
    """Seconds of it that are for gradients."""
    flops: float = 0.0
    bytes: float = 0.0
    padded: float = 0.0
    """Flops with channels rounded up to the tiles of a TPU's matrix units."""

    @property
    def fill(self) -> float:
        """The share of the matrix units' tiles that channels fill; 1 without products."""
        return self.flops / self.padded if self.padded else 1.0


@dataclass(frozen=True)
class Collective:
    """A collective operation of the program."""

    kind: str
    shapes: tuple[hlo.Shape, ...]
    times: int
    wire: float
    """Bytes that a device sends each time."""
    source: str


@dataclass
class Costs:
    """The sums over one call of a program, on one device."""

    kinds: dict[str, Row] = field(default_factory=lambda: defaultdict(Row))
    layers: dict[str, Row] = field(default_factory=lambda: defaultdict(Row))
    collectives: list[Collective] = field(default_factory=list)
    products: list[tuple[hlo.Product, int, str]] = field(default_factory=list)
    """Convolutions and matrix products, how often, and their source."""
    hosts: list[str] = field(default_factory=list)
    """Operations that exchange data with the host."""
    unestimated: float = 0.0
    """Seconds that are a roofline although the chip's compiler estimates time."""
    unknown_loops: int = 0

    @property
    def total(self) -> Row:
        """The sum over all kinds."""
        rows = self.kinds.values()
        return Row(
            *(sum(getattr(row, name) for row in rows) for name in Row.__annotations__)
        )

    @property
    def wire(self) -> float:
        """Bytes that a device sends in collectives."""
        return float(sum(one.wire * one.times for one in self.collectives))


def measure(program: hlo.Program, chip: Chip, devices: int) -> Costs:
    """The costs of one call of a program that was compiled for so many chips."""
    costs = Costs(unknown_loops=program.unknown_loops())
    for op, times in program.collectives():
        sent = hlo.wire(op, devices)
        one = Collective(op.collective, hlo.results(op), times, sent, op.source)
        costs.collectives.append(one)
        costs.kinds["collectives"].seconds += times * sent / chip.links
    for op, times in program.executed():
        for inner in program.within(op):
            if (product := hlo.product(inner)).flops:
                costs.products.append((product, times, inner.source or op.source))
            if inner.kind in HOST or (
                inner.kind == "custom-call" and "callback" in inner.target
            ):
                costs.hosts.append(f"{inner.kind} {inner.target} {inner.source}".strip())
        if op.kind not in hlo.FREE and not program.communicates(op):
            _add(costs, program, op, times, chip)
    return costs


HOST = ("infeed", "outfeed", "send", "recv")
"""Operations that exchange data with the host."""


def _add(costs: Costs, program: hlo.Program, op: hlo.Op, times: int, chip: Chip) -> None:
    """Adds an operation to its kind and its layer."""
    products = [hlo.product(inner) for inner in program.within(op)]
    flops, moved = sum(product.flops for product in products), program.traffic(op)
    seconds = roofline(chip, flops, moved)
    if chip.estimated:  # what the compiler prefetches runs beside other operations
        estimate = (op.cycles or 0) / chip.clock
        seconds = 0.0 if op.prefetches else estimate or seconds
        costs.unestimated += times * seconds * (not estimate)
    padded = sum(
        product.flops
        / (filled(product.depth, chip.lanes) * filled(product.columns, chip.lanes))
        for product in products
        if product.flops
    )
    for row in (costs.kinds[kind(program, op)], costs.layers[layer(op.source)]):
        row.seconds += times * seconds
        row.backward += times * seconds * ("transpose(" in op.source)
        row.flops += times * flops
        row.bytes += times * moved
        row.padded += times * padded


def kind(program: hlo.Program, op: hlo.Op) -> str:
    """Which of KINDS an operation is."""
    inner = list(program.within(op))
    if {"optimizer"} & set(op.source.split("/")):
        return "optimizer and averages"
    if ATTENTION.search(op.source):
        return "attention"
    if any(hlo.product(one).flops for one in inner):
        return "convolution and matmul"
    if all(one.kind in MOVES for one in inner):
        return "copies and transposes"
    return "elementwise"


ATTENTION = re.compile(r"(_attend|/attention)/(?!.*attn_(qkv|proj))")
"""Sources of attention itself: logits, softmax and their product with the values."""


def layer(source: str) -> str:
    """The layer of a network that an operation belongs to, from its source.

    >>> layer("jit(step)/transpose(jvp(UNet))/enc/8x8_block0/8x8_block0._attend/mul")
    'enc/8x8_block0'
    >>> layer("jit(step)/transpose(jvp(UNet))/dec/jvp(UNet)/dec/checkpoint/8x8_up/add")
    'dec/8x8_up'
    >>> layer("jit(step)/jvp(UNet)/out_conv/add"), layer("jit(step)/optimizer/mul")
    ('out_conv', 'optimizer')
    """
    parts = [part for part in source.split("/") if part not in PASSED]
    if "optimizer" in parts:
        return "optimizer"
    at = [i for i, part in enumerate(parts) if NETWORK.fullmatch(part)]
    if not at:
        return "outside of the network"
    again = [i for i in at if _class(parts[i]) == _class(parts[at[0]])]  # with remat
    modules = [part for part in parts[again[-1] + 1 : -1] if re.fullmatch(r"[\w-]+", part)]
    return "/".join(modules[:2]) or "between layers"


NETWORK = re.compile(r"(?:\w+\()*[A-Z]\w*\)*")
"""The network's class, as in transpose(jvp(UNet))."""


def _class(part: str) -> str:
    return part.strip(")").split("(")[-1]


PASSED = ("while", "body", "cond", "checkpoint", "rematted_computation", "closed_call")
"""Parts of a source that are neither a network nor a layer."""


def minimum(parameters: int, itemsize: int, data: int, fsdp: int) -> float:
    """Bytes that a device must send for a step, on rings.

    With fsdp each parameter is gathered for the forward and again for the backward pass,
    and its gradient reduced once to the shards; over the axis `data`, the gradients, or
    their shards, are reduced to all. All in the type that the network computes in.
    """
    whole = parameters * itemsize
    return 3 * whole * (fsdp - 1) / fsdp + 2 * whole / fsdp * (data - 1) / data


def by_kind(collectives: list[Collective]) -> Iterator[tuple[str, int, float]]:
    """(kind, number, bytes sent) of the collectives of a program."""
    for name in hlo.COLLECTIVES:
        some = [one for one in collectives if one.kind == name]
        if some:
            yield name, sum(o.times for o in some), sum(o.wire * o.times for o in some)
