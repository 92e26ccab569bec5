"""How large activations, weights and updates are in training, by layer [EDM2 fig. 3].

The magnitude of an array is its root mean square. `probe` measures, at one step,

    activations   of each block's output, on the step's batch, at training's noise levels,
    weights       of each weight tensor, after the step,
    updates       |w_after - w_before| / |w_before| of each weight tensor.

In config G of EDM2 all three stay constant; in the earlier configs they drift.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util
from jaxtyping import Array, Float, PyTree

from jaxdiff.analysis import plots
from jaxdiff.config import Experiment
from jaxdiff.runs.programs import kept
from jaxdiff.runs.state import TrainState, labelled
from jaxdiff.train.step import noised_batch

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Magnitudes = dict[str, dict[str, Float[Array, ""]]]
"""{"activations": by block, "weights": by tensor, "updates": by tensor}."""


@kept(4)
def probe(experiment: Experiment) -> Callable[[PyTree, TrainState, PyTree], Magnitudes]:
    """The compiled measurement: (parameters before a step, state after it, its batch)."""

    @jax.jit
    def measure(before: PyTree, state: TrainState, batch: PyTree) -> Magnitudes:
        return {
            "activations": activations(experiment, before, state, batch),
            "weights": _by_name(jax.tree.map(rms, state.params)),
            "updates": _by_name(jax.tree.map(_relative, before, state.params)),
        }

    return measure


def activations(
    experiment: Experiment, params: PyTree, state: TrainState, batch: PyTree
) -> dict[str, Float[Array, ""]]:
    """Magnitude of the output of every block of the encoder and the decoder.

    For a network without these, of its outermost modules, or else of its own output.
    """
    e = experiment
    keys = jax.random.split(jax.random.fold_in(state.key, state.step), 3)
    t_key, noise_key, data_key = keys
    three = data_key, t_key, noise_key
    noised, *_ = noised_batch(e, state.times, three, batch)
    scale = e.parameterization(noised.at)
    _, seen = e.network.apply(
        {"params": params, "constants": state.constants},
        scale.c_in * noised.x,
        scale.c_noise,
        labelled(e, batch["label"]),
        train=False,
        capture_intermediates=_is_near_the_top,
        mutable=["intermediates"],
    )
    flat = traverse_util.flatten_dict(seen["intermediates"])
    outputs = {path[:-1]: _numbers(calls[-1]) for path, calls in flat.items()}
    outputs = {path: numbers for path, numbers in outputs.items() if numbers.size}
    blocks = {p: o for p, o in outputs.items() if len(p) == 2 and p[0] in PARTS}
    layers = {p: o for p, o in outputs.items() if len(p) == 1}
    measured = blocks or layers or {("output",): outputs[()]}
    return {"/".join(path): rms(numbers) for path, numbers in measured.items()}


def rms(x: Float[Array, "..."]) -> Float[Array, ""]:
    """Root mean square, in float32."""
    return jnp.sqrt(jnp.mean(jnp.square(x.astype(jnp.float32))))


Rows = Sequence[Mapping[str, Any]]
"""A run's magnitudes.jsonl: {"step", "activations", "weights", "updates"} each."""


@dataclass(frozen=True)
class Drift:
    """How one kind of magnitude v(step, layer) changed over a run."""

    first: float
    """Geometric mean over layers at the first row."""
    last: float
    """The same at the last row."""
    span: float
    """Largest over smallest of these means, over rows: 1 = constant."""
    smallest: float
    """min v, over all layers and rows."""
    largest: float
    """max v, over all layers and rows."""
    growth: float
    """The largest of any layer, v(last) / v(first)."""
    layer: str
    """The layer that grew most."""

    @property
    def ratio(self) -> float:
        """last / first; also 1 if the magnitude went away and came back."""
        return self.last / self.first


def drift(rows: Rows, kind: str) -> Drift:
    """How "activations", "weights" or "updates" changed from the first row to the last.

    Raises:
        ValueError: they are all 0, like the updates of a run's first step, or the rows
            have different layers.

    >>> rows = [{"weights": {"a": 1.0, "b": 4.0}}, {"weights": {"a": 3.0, "b": 3.0}}]
    >>> round(drift(rows, "weights").ratio, 9), drift(rows, "weights").layer
    (1.5, 'a')
    """
    used, layers = _moving(rows, kind)
    mean, every = _geometric_mean(layers), [v for row in used for v in row[kind].values()]
    growth = {layer: float(v[-1] / v[0]) for layer, v in layers.items()}
    most = max(growth, key=growth.__getitem__)
    moved = float(mean[0]), float(mean[-1]), float(mean.max() / mean.min())
    return Drift(*moved, min(every), max(every), growth[most], most)


def _moving(rows: Rows, kind: str) -> tuple[Rows, dict[str, np.ndarray]]:
    """Rows with a nonzero value, and the layers that are nonzero in all of these.

    The first step's updates are 0, as its learning rate is, and some layers start at 0.
    """
    rows = [row for row in rows if any(row[kind].values())]
    names = rows[0][kind] if rows else {}
    for row in rows:
        if others := row[kind].keys() ^ names.keys():
            raise ValueError(
                f"{kind} are of other layers in some rows ({', '.join(sorted(others))} are "
                "not in all): give the rows of one run"
            )
    values = {name: np.array([row[kind][name] for row in rows]) for name in names}
    layers = {k: v for k, v in values.items() if v.min() > 0}
    if not layers:
        raise ValueError(
            f"all {kind} are 0: log more steps, with --config.magnitudes_every"
        )
    return rows, layers


def _geometric_mean(layers: Mapping[str, np.ndarray]) -> np.ndarray:
    return np.exp(np.mean(np.log([*layers.values()]), axis=0))


def plot(runs: Mapping[str, Rows]) -> "Figure":
    """Activations, weights and updates of runs over steps, one row of panels per run.

    A run is given by the rows of its magnitudes.jsonl. Thin lines are layers, blue in the
    encoder and orange in the decoder; the thick line is their geometric mean.
    """
    columns, how = len(KINDS), {"sharey": "col", "dpi": 80}  # a small file
    figure, panels = plots.panels("", 2.7 * len(runs), len(runs), columns, **how)
    for i, (name, rows) in enumerate(runs.items()):
        line = panels[i * columns : (i + 1) * columns]
        for axes, (kind, title) in zip(line, KINDS.items(), strict=True):
            used, layers = _moving(rows, kind)
            steps = [row["step"] for row in used]
            for layer, values in layers.items():
                axes.plot(steps, values, color=_colour(layer), lw=0.7, alpha=0.55)
            axes.plot(steps, _geometric_mean(layers), color=plots.BLACK, lw=1.8)
            axes.set(yscale="log", xlabel="training step", title=f"{name}: {title}")
    return figure


KINDS = {
    "activations": "activations   [rms of a block's output]",
    "weights": "weights   [rms of a tensor]",
    "updates": "relative update of a step",
}


def _colour(layer: str) -> str:
    parts = {"enc": plots.BLUE, "dec": plots.ORANGE}
    return parts.get(layer.split("/")[0], plots.GREY)


def _is_near_the_top(module: nn.Module, method: str) -> bool:
    return method == "__call__" and len(module.path) <= 2


def _numbers(output: PyTree) -> Float[Array, " n"]:
    """All numbers of a module's output, which may be a tree, in float32."""
    arrays = [jnp.asarray(a) for a in jax.tree.leaves(output)]
    real = [a for a in arrays if jnp.issubdtype(a.dtype, jnp.floating)]
    empty = jnp.zeros(0, jnp.float32)
    return jnp.concatenate([empty, *(a.astype(jnp.float32).reshape(-1) for a in real)])


PARTS = ("enc", "dec")
"""The modules whose children are a network's blocks."""


def _relative(before: Float[Array, "..."], after: Float[Array, "..."]) -> Array:
    return rms(after - before) / jnp.maximum(rms(before), 1e-12)


def _by_name(tree: PyTree) -> dict[str, Array]:
    """Weights by path, without gains; all arrays if none is named weight or kernel."""
    flat = traverse_util.flatten_dict(tree, sep="/")
    return {k: v for k, v in flat.items() if k.endswith(("weight", "kernel"))} or flat
