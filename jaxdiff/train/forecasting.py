"""What a step or a batch of samples needs on accelerators that are not there.

`forecast` compiles the same program that a run would, for the devices of a topology such as
"v5e:4x4" or "h100:8", and reads the compiler's plan of memory and the program's text. State
and images are shapes; nothing is allocated or run.
"""

import dataclasses
import itertools
import json
import math
import re
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxdiff import optim
from jaxdiff.config import Experiment
from jaxdiff.runs import generate
from jaxdiff.runs.state import state_shapes
from jaxdiff.runtime import costs, hlo, sharding
from jaxdiff.runtime.chips import roofline
from jaxdiff.runtime.costs import Costs
from jaxdiff.runtime.topologies import Topology, topology
from jaxdiff.train import memory
from jaxdiff.train.step import compiled_step

GIB = 2**30


class TooLarge(ValueError):
    """A program does not fit into the memory of its devices."""


@dataclass(frozen=True)
class Forecast:
    """What one device needs for one call of a program, and what the call takes there.

    >>> from jaxdiff.runtime.chips import CHIPS
    >>> one, mesh = Topology("a100:1", CHIPS["a100"], ()), sharding.data_mesh()
    >>> needs = Forecast(one, mesh, 64, {"state": 3 * GIB, "temporary": GIB}, Costs(), 0.0)
    >>> needs.bytes == 4 * GIB, needs.fits
    (True, True)
    """

    topology: Topology
    mesh: Mesh
    images: int
    """In one call, over all devices."""
    memory: dict[str, int]
    """Bytes of its parts; those of the compiler are "temporary" and "program"."""
    costs: Costs
    minimum: float
    """Bytes that a device must send in collectives."""

    @property
    def bytes(self) -> int:
        """Memory at the peak; the state is donated, so it counts once."""
        return sum(self.memory.values())

    @property
    def fits(self) -> bool:
        """Whether the device has as much."""
        return self.bytes <= self.topology.chip.memory

    @property
    def seconds(self) -> float:
        """The estimated time of a call; see `Costs`."""
        return self.costs.total.seconds

    @property
    def least(self) -> float:
        """Seconds of a roofline of the whole call, as if caches served no traffic."""
        total = self.costs.total
        return roofline(self.topology.chip, total.flops, total.bytes)

    @property
    def share(self) -> float:
        """Products a second at that time, as a share of the chip's bfloat16 peak."""
        return self.costs.total.flops / (
            self.seconds * self.topology.chip.flops or math.inf
        )

    def __str__(self) -> str:
        """The report."""
        return "\n".join(_report(self))

    def to_json(self) -> str:
        """The numbers of the report as JSON: bytes, seconds and operations."""
        total = self.costs.total
        return json.dumps(
            {
                "topology": self.topology.name,
                "devices": self.mesh.size,
                "fsdp": self.mesh.shape["fsdp"],
                "images": self.images,
                "memory": self.memory | {"total": self.bytes},
                "fits": self.fits,
                "seconds": self.seconds,
                "seconds_of_roofline": self.least,
                "images_per_second": self.images / (self.seconds or math.inf),
                "share_of_peak": self.share,
                "flops": total.flops,
                "bytes": total.bytes,
                "fill": total.fill,
                "kinds": {k: dataclasses.asdict(v) for k, v in self.costs.kinds.items()},
                "layers": {k: dataclasses.asdict(v) for k, v in self.costs.layers.items()},
                "collectives": {
                    kind: {"number": number, "sent": sent}
                    for kind, number, sent in costs.by_kind(self.costs.collectives)
                },
                "minimum_sent": self.minimum,
                "seconds_without_estimate": self.costs.unestimated,
            },
            indent=1,
        )


def forecast(experiment: Experiment, name: str, sample: bool = False) -> Forecast:
    """The needs of a training step, or of drawing `sampling.images` images, on a topology.

    The topology is named as "v5e:4x4" or "h100:8". Compiling takes from seconds for a small
    network to many minutes for EDM2's.

    Raises:
        ValueError: an unknown topology, or a batch that does not split over its devices.
        ImportError: the compiler for it is not installed.
        TooLarge: the compiler has no plan that fits into the devices' memory.

    >>> forecast(Experiment(), "abacus:4")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: 'abacus:4' is not a topology: write v5e:4x4, ...
    """
    where = topology(name)
    mesh = mesh_of(experiment, where, sample)
    return compile_for(experiment, where, mesh, sample)


def mesh_of(experiment: Experiment, where: Topology, sample: bool = False) -> Mesh:
    """The mesh of a topology's devices on which a run would be.

    Raises:
        ValueError: the batch does not split over the devices.
    """
    if sample:  # a batch that does not split is padded
        return sharding.data_mesh(where.devices)
    part = experiment.batch_size // experiment.accumulation
    return sharding.mesh_for(part, experiment.fsdp, where.devices)


def compile_for(
    experiment: Experiment, where: Topology, mesh: Mesh, sample: bool = False
) -> Forecast:
    """The forecast on a mesh of a topology's devices.

    Raises:
        TooLarge: the compiler has no plan that fits into the devices' memory.
    """
    require_room(experiment, where, mesh, sample)
    parts = state_parts(experiment, mesh, sample)
    state = sum(parts.values())
    lowered = sampling(experiment, mesh) if sample else training(experiment, mesh)
    try:
        compiled = where.compile(lowered)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise TooLarge(_needed(str(error))) from None
    plan = compiled.memory_analysis()
    new = plan.output_size_in_bytes - plan.alias_size_in_bytes
    parts["padding"] = plan.argument_size_in_bytes - state
    parts["temporary"] = plan.temp_size_in_bytes + new
    parts["program"] = plan.generated_code_size_in_bytes
    measured = costs.measure(hlo.read(compiled.as_text()), where.chip, mesh.size)
    images = padded(experiment, mesh) if sample else experiment.batch_size
    least = 0.0 if sample else minimum(experiment, mesh)
    return Forecast(where, mesh, images, parts, measured, least)


def require_room(
    experiment: Experiment, where: Topology, mesh: Mesh, sample: bool = False
) -> None:
    """Checks that the devices hold what a program is given, before it is compiled.

    Raises:
        TooLarge: they do not.
    """
    given = sum(state_parts(experiment, mesh, sample).values())
    if given > where.chip.memory:
        training = "parameters, averages and moments alone"
        drawing = "parameters alone: use chips with more memory"
        raise TooLarge(f"{gib(given)} of {drawing if sample else training}")


def _needed(error: str) -> str:
    """What a compiler's message says of the memory that it would need."""
    first = next(line for line in error.splitlines() if line.strip())
    return re.sub(r"^RESOURCE_EXHAUSTED: ", "", first)


def training(experiment: Experiment, mesh: Mesh) -> jax.stages.Lowered:
    """The training step, to be compiled for the devices of a mesh."""
    state = memory.abstract_state(experiment, mesh)
    batch = memory.abstract_batch(experiment, mesh)
    return compiled_step(experiment, mesh).lower(state, batch)


def sampling(experiment: Experiment, mesh: Mesh) -> jax.stages.Lowered:
    """The sampler of a batch, with parameters on every device as in `jaxdiff sample`."""
    size, everywhere = padded(experiment, mesh), sharding.replicated(mesh)
    place = lambda a, where: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=where)
    state = state_shapes(experiment)
    variables = {"params": state.params, "constants": state.constants}
    variables = jax.tree.map(lambda a: place(a, everywhere), variables)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), size))
    label = jax.ShapeDtypeStruct((size,), jnp.int32)
    images = (place(a, sharding.split(mesh)) for a in (keys, label))
    return jax.jit(generate.sampler(experiment)).lower(variables, *images)


def padded(experiment: Experiment, mesh: Mesh) -> int:
    """`sampling.images`, rounded up to a multiple of the devices as when drawing."""
    return -(-experiment.sampling.images // mesh.size) * mesh.size


def state_parts(experiment: Experiment, mesh: Mesh, sample: bool) -> dict[str, int]:
    """Bytes of the arrays that one device is given, by their role."""
    if sample:
        state = state_shapes(experiment)
        state = memory.placed(
            state, jax.tree.map(lambda _: sharding.replicated(mesh), state)
        )
        return {"parameters": memory.held(state.params)}
    state = memory.abstract_state(experiment, mesh)
    averages = memory.held(optim.averages(state.opt_state))
    return {
        "parameters": memory.held(state.params),
        "averages": averages,
        "moments": memory.held(state.opt_state) - averages,
        "batch": memory.held(memory.abstract_batch(experiment, mesh)),
    }


def minimum(experiment: Experiment, mesh: Mesh) -> float:
    """Bytes that a device must send for a training step; see `costs.minimum`."""
    state = state_shapes(experiment)
    itemsize = jnp.dtype(getattr(experiment.network, "dtype", None) or "float32").itemsize
    return costs.minimum(
        memory.count(state.params), itemsize, mesh.shape["data"], mesh.shape["fsdp"]
    )


def alternatives(experiment: Experiment, mesh: Mesh) -> list[list[dict[str, Any]]]:
    """Changes of fields that need less memory: a group for each number of rounds.

    Both groups and the changes of one go from the cheapest to the slowest; the last of a
    group needs the least memory.
    """
    e, each = experiment, experiment.batch_size // mesh.size
    rounds = [2**n for n in range(each.bit_length()) if each % 2**n == 0]
    remats = [False, True] if vars(e.network).get("remat") is False else [False]
    groups = []
    for accumulation in [e.accumulation, *(n for n in rounds if n > e.accumulation)]:
        group = []
        for fsdp, remat in itertools.product(dict.fromkeys((e.fsdp, mesh.size)), remats):
            changes = {"fsdp": fsdp, "accumulation": accumulation}
            changes = {k: v for k, v in changes.items() if v != getattr(e, k)}
            group.append(
                changes | ({"network": e.network.clone(remat=True)} if remat else {})
            )
        groups.append([changes for changes in group if changes])
    return groups


def flags_of(changes: dict[str, Any]) -> str:
    """The flags of jaxdiff train that make changes of `alternatives`."""
    shown = {("network.remat" if k == "network" else k): v for k, v in changes.items()}
    shown |= {"network.remat": "true"} if "network.remat" in shown else {}
    return " ".join(f"--config.{name}={value}" for name, value in shown.items())


def table(experiment: Experiment, name: str, sample: bool = False) -> Iterator[str]:
    """The report, line by line; if the program does not fit, also what would.

    Raises:
        ValueError, ImportError: as `forecast`.
        TooLarge: nothing that was tried fits.
    """
    where = topology(name)
    mesh = mesh_of(experiment, where, sample)
    shape = " x ".join(f"{mesh.shape[axis]} {axis}" for axis in mesh.axis_names)
    yield f"{mesh.size} x {where.chip.title} ({shape}); on one of them:"
    yield from _given(experiment, mesh, sample)
    yield "compiling: a minute for a small network, many for one as large as EDM2's"
    try:
        result = compile_for(experiment, where, mesh, sample)
        yield from _report(result)
        fits = result.fits
    except TooLarge as error:
        have, fits = gib(where.chip.memory), False
        yield _line("total", "too much", f"of {have}: does not fit ({error})")
    if not fits:
        if sample:
            require_room(experiment, where, mesh, sample)  # else fewer images may fit
            raise TooLarge(
                f"{padded(experiment, mesh)} images at a time do not fit on {name}: set "
                "--config.sampling.images lower"
            )
        yield from _fitting(experiment, where)


def _given(experiment: Experiment, mesh: Mesh, sample: bool) -> Iterator[str]:
    """The lines that follow from shapes, without a compiler."""
    shapes, e = state_shapes(experiment), experiment
    notes = {
        "parameters": f"{memory.count(shapes.params):,} in all, float32",
        "averages": f"{len(optim.averages(shapes.opt_state))} of the parameters",
        "moments": "Adam's",
        "batch": f"{e.batch_size // mesh.size} of {e.batch_size:,} images",
    }
    for part, size in state_parts(experiment, mesh, sample).items():
        yield _line(part, gib(size), notes[part])
    if not sample:
        images = e.batch_size // mesh.size // e.accumulation
        note = f"for the gradient of {images} images, as traced; the compiler may keep less"
        yield _line("kept", gib(memory.kept(experiment, images)), note)


def _fitting(experiment: Experiment, where: Topology) -> Iterator[str]:
    """What else was tried, until something fits; the number of rounds by halving."""
    tried: dict[str, Forecast | TooLarge] = {}

    def first(several: Iterable[dict[str, Any]]) -> Generator[str, None, str]:
        """The flags of the first of these changes that fits, or none."""
        for changes in several:
            flags = flags_of(changes)
            if flags not in tried:
                tried[flags] = yield from _attempt(experiment, where, changes)
            result = tried[flags]
            if isinstance(result, Forecast) and result.fits:
                return flags
        return ""

    same, *more = alternatives(experiment, mesh_of(experiment, where))
    found, low, high = (yield from first(same)), 0, len(more)
    while not found and low < high:
        middle = (low + high) // 2
        fits = yield from first(more[middle][-1:])
        low, high = (low, middle) if fits else (middle + 1, high)
    found = found or (yield from first(itertools.chain(*more[low : low + 1])))
    if found:
        yield f"it fits with {found}:"
        yield from _report(tried[found])
        return
    last = [*tried.values()][-1] if tried else ""
    needed = gib(last.bytes) if isinstance(last, Forecast) else last
    raise TooLarge(
        f"the network is too large for {where.name}: with remat, fsdp and accumulation it "
        f"does not fit into {gib(where.chip.memory)} either ({needed}): use more chips, "
        "chips with more memory, or a smaller batch"
    )


def _attempt(
    experiment: Experiment, where: Topology, changes: dict[str, Any]
) -> Generator[str, None, Forecast | TooLarge]:
    """Compiles a step with these changes, if there is room for its state."""
    other = dataclasses.replace(experiment, **changes)
    mesh = mesh_of(other, where)
    try:
        require_room(other, where, mesh)
        yield f"trying {flags_of(changes)}"
        return compile_for(other, where, mesh)
    except TooLarge as error:
        return error


NOTES = {
    "padding": "of the above to the chip's tiles, and small arrays",
    "temporary": "activations, gradients and workspace, by the compiler's plan",
    "program": "its code",
}


def gib(size: int | float) -> str:
    """Bytes in GiB, or MiB where that is less than one.

    >>> gib(3 * 2**30), gib(2**20)
    ('3.00 GiB', '1.00 MiB')
    """
    return f"{size / GIB:,.2f} GiB" if size >= GIB else f"{size / 2**20:,.2f} MiB"


def span(seconds: float) -> str:
    """Seconds as milliseconds, or microseconds where that is less than one.

    >>> span(0.25), span(2e-5)
    ('250.00 ms', '20.00 us')
    """
    return f"{1e3 * seconds:,.2f} ms" if seconds >= 1e-3 else f"{1e6 * seconds:,.2f} us"


def _line(name: str, amount: str, note: str = "") -> str:
    return f"{name:24} {amount:>14}   {note}".rstrip()


def _report(result: Forecast) -> Iterator[str]:
    """The lines that follow from the compiled program."""
    chip, total = result.topology.chip, result.costs.total
    for part in ("padding", "temporary", "program"):
        yield _line(part, gib(result.memory[part]), NOTES[part])
    fits = "fits" if result.fits else "does not fit"
    yield _line("total", gib(result.bytes), f"of {gib(chip.memory)}: {fits}")
    yield _line("operations", f"{total.flops / 1e9:,.2f} G", "of convolutions and products")
    yield _line("traffic", gib(total.bytes), "to and from the main memory, at most")
    yield from _time(result)
    yield from _collectives(result)
    yield from CAVEATS["tpu" if chip.estimated else "gpu"].splitlines()


def _time(result: Forecast) -> Iterator[str]:
    rows, whole = result.costs.kinds, result.seconds
    by = "the compiler's cycles" if result.topology.chip.estimated else "kernels' rooflines"
    yield _line("time", span(whole), f"by {by}; see below")
    for name, row in sorted(rows.items(), key=lambda item: -item[1].seconds):
        note = f"{row.seconds / (whole or 1):.0%}"
        yield _line(f"  {name}", span(row.seconds), note)
    note = "all products, or all traffic, at the peak"
    yield _line("roofline of the whole", span(result.least), note)
    yield _line("images", f"{result.images / (whole or math.inf):,.0f} a second")
    yield _line("share of bf16 peak", f"{result.share:.1%}")
    tiles = result.topology.chip.lanes
    yield _line("time by layer", "", "collectives belong to none")
    layers = sorted(result.costs.layers.items(), key=lambda item: -item[1].seconds)
    for name, row in layers[:LAYERS]:
        note = f"{row.seconds / (whole or 1):.0%}"
        if result.costs.total.backward:
            note += f", {row.backward / (row.seconds or 1):.0%} of it backward"
        note += f", fills {row.fill:.0%} of its tiles" if tiles and row.padded else ""
        yield _line(f"  {name}", span(row.seconds), note)
    rest = sum(row.seconds for _, row in layers[LAYERS:])
    if rest:
        yield _line(f"  {len(layers) - LAYERS} others", span(rest))


LAYERS = 20
"""The longest layers are listed."""


def _collectives(result: Forecast) -> Iterator[str]:
    for kind, number, sent in costs.by_kind(result.costs.collectives):
        yield _line(f"{number} {kind}", gib(sent), "sent in each call")
    if result.minimum:
        ratio = result.costs.wire / result.minimum
        least = "each weight gathered twice, " * (result.mesh.shape["fsdp"] > 1)
        note = f"{least}each gradient reduced once; this program: {ratio:.2f} times that"
        yield _line("collectives", gib(result.minimum), note)
    if result.costs.unknown_loops:
        yield f"{result.costs.unknown_loops} loops of unknown length count as one round"


CAVEATS = {
    "tpu": (
        "The memory is the compiler's plan. The time is a sum of cycles that the compiler\n"
        "estimates to choose between kernels; nothing was run. Nothing overlaps in it, a\n"
        "collective takes its bytes over the links of a chip, and the host, reading data\n"
        "and waiting for other chips are left out."
    ),
    "gpu": (
        "The memory is the compiler's plan, without the workspace of convolutions that a\n"
        "run chooses by timing. The time is a roofline, no estimate: each kernel takes\n"
        "its operations at the peak, or its traffic at the bandwidth if that is longer.\n"
        "Nothing was run, and real kernels take longer. Of a GPU's memory, programs have\n"
        "the 75 % that XLA takes, unless XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise."
    ),
}
