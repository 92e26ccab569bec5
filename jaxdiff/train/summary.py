"""The summary at the start of a run: its data, network, devices and folder."""

import math
from collections.abc import Iterable, Iterator, Sequence

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import PyTree

from jaxdiff import data
from jaxdiff.config import NAMES, Experiment
from jaxdiff.runtime import processes
from jaxdiff.runtime.files import Place
from jaxdiff.runtime.progress import say


def of_data(experiment: Experiment, dataset: data.Dataset) -> Iterator[str]:
    """Images, classes with their counts, and files left out, by reason."""
    first, *rest = data.describe(dataset)
    where = experiment.data.path
    kind = NAMES[type(experiment.data)].removeprefix("data.")
    yield f"data: {kind}{f' {where}' if where else ''}, {first}"
    yield from (f"  {line}" for line in rest)


def of_run(
    experiment: Experiment, workdir: Place, mesh: Mesh, params: PyTree, step: int
) -> Iterator[str]:
    """The network's size, the devices, the run's folder and its progress."""
    e, count = experiment, sum(math.prod(a.shape) for a in jax.tree.leaves(params))
    yield f"network: {type(e.network).__name__}, {count:,} parameters, {e.network.dtype}"
    unused = jax.device_count() - mesh.size
    idle = f" ({unused} more do not divide the batch)" if unused else ""
    several = f" in {jax.process_count()} processes" if processes.several() else ""
    kind = mesh.devices.flat[0].device_kind
    parts = f" in {e.accumulation} parts" if e.accumulation > 1 else ""
    yield (
        f"devices: {mesh.size} x {kind}{several}{idle}, "
        f"for batches of {e.batch_size}{parts}"
    )
    if step >= e.steps:
        how = f"has all its {e.steps:,} steps"
    elif step:
        how = f"goes on from step {step:,} of {e.steps:,}"
    else:
        how = f"a new run of {e.steps:,} steps"
    yield f"folder: {workdir}, {how}"
    steps = np.linspace(1, e.steps, 101).astype(int).tolist()
    rate = e.optimizer.schedule(e.batch_size)
    highest = max(steps, key=lambda step: float(rate(step)))
    if highest > e.steps / 2:
        yield (
            f"note: the learning rate rises until step {highest:,} of {e.steps:,}: shorten "
            "its ramp-up (optimizer.rampup_images) for a run this short"
        )
    names = {path[-1].key for path, _ in jax.tree_util.tree_leaves_with_path(params)}
    if e.optimizer.forced_norm and "kernel" in names:
        yield (
            "note: forced weight normalisation brings weights to magnitude 1, which is for "
            "layers that divide by the root of their inputs, as EDM2's, and not for those "
            f"of flax.linen, which {type(e.network).__name__} has: it may diverge; set "
            "optimizer.forced_norm to False, or take another optimizer"
        )


def say_all(lines: Iterable[str]) -> None:
    """Prints them, one after the other."""
    for line in lines:
        say(line)


def of_start(lines: Sequence[str]) -> Iterator[str]:
    """The lines of `setup.Start`, all but the first one indented."""
    if lines and lines[0].startswith("init_from"):
        first, *rest = lines
        yield first
        yield from (f"  {line}" for line in rest)
    else:
        yield from lines
