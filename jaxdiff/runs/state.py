"""The state of a run: everything the next step depends on, and everything saved."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import traverse_util
from jax.sharding import Mesh
from jaxtyping import PyTree

from jaxdiff import networks, optim
from jaxdiff.config import Experiment
from jaxdiff.denoisers import denoiser
from jaxdiff.networks import require_labels
from jaxdiff.runs.programs import kept
from jaxdiff.runtime import sharding
from jaxdiff.types import UNCONDITIONAL, Condition, Denoiser, Leaf, pytree
from jaxdiff.types.ranges import quote


@pytree
class TrainState:
    """What a step reads and writes. The data's position is `step` times the batch."""

    step: Leaf
    """[] int32, steps made."""
    key: Leaf
    """The run's PRNG key; step n draws from fold_in(key, n)."""
    params: PyTree
    """float32, forcibly normalised."""
    constants: PyTree
    """The network's Fourier frequencies and phases, never trained."""
    opt_state: PyTree
    """Adam's moments, and the averages of the parameters."""
    times: PyTree
    """The state of the law of t."""
    first_bad: Leaf
    """[] int32, the first step whose loss or gradient was not finite; -1 = none."""


def init_state(experiment: Experiment, start_from: PyTree = None) -> TrainState:
    """The state before the first step, a function of the experiment and of `start_from`.

    `start_from` has variables of another run, which replace this network's of the same
    name and shape.

    Raises:
        ValueError: the optimiser makes no chain, or one that keeps other averages than its
            `lengths`, or `start_from` has arrays that fit nowhere.
    """
    params_key, run_key = jax.random.split(jax.random.key(experiment.seed))
    variables = networks.initial(experiment.network, experiment.data.shape, params_key)
    variables = replaced(variables, start_from or {})
    params = experiment.optimizer.start(variables["params"])
    tx = experiment.optimizer.transformation(experiment.batch_size)
    rate = experiment.optimizer.schedule(experiment.batch_size)
    if not (hasattr(tx, "init") and hasattr(tx, "update") and callable(rate)):
        raise ValueError(
            f"{type(experiment.optimizer).__name__} makes {quote(tx)} and the rate "
            f"{quote(rate)}: transformation() returns a chain of Optax, schedule() a "
            "function of the steps made"
        )
    opt_state, lengths = tx.init(params), experiment.optimizer.lengths
    if len(optim.averages(opt_state)) != len(lengths):
        raise ValueError(
            f"{type(experiment.optimizer).__name__}.lengths has {len(lengths)} averages, "
            f"its chain {len(optim.averages(opt_state))}: end the chain with "
            f"jaxdiff.optim.power_ema({lengths})"
        )
    return TrainState(
        step=jnp.int32(0),
        key=run_key,
        params=params,
        constants=variables.get("constants", {}),
        opt_state=opt_state,
        times=experiment.times.init(),
        first_bad=jnp.int32(-1),
    )


@kept(16)
def state_shapes(experiment: Experiment) -> PyTree[jax.ShapeDtypeStruct]:
    """Shapes and types of the arrays of a run's state, nothing computed."""
    return jax.eval_shape(lambda: init_state(experiment))


@kept(4)
def initializer(experiment: Experiment, mesh: Mesh) -> Callable[[PyTree], TrainState]:
    """`init_state` of an experiment, compiled: `start_from` -> the state on its devices."""
    places = sharding.shared(state_shapes(experiment), mesh)
    return jax.jit(functools.partial(init_state, experiment), out_shardings=places)


def replaced(variables: PyTree, others: PyTree) -> PyTree:
    """The variables, with the arrays of `others` in the place of those of the same name.

    Raises:
        ValueError: `others` has arrays that fit nowhere.
    """
    flat = lambda tree: traverse_util.flatten_dict(tree, sep="/")
    ours, theirs = flat(variables), flat(others)
    shapes = lambda arrays: {name: array.shape for name, array in arrays.items()}
    networks.require_shapes(shapes(ours | theirs), shapes(ours))
    return traverse_util.unflatten_dict(ours | theirs, sep="/")


def ema_variables(experiment: Experiment, state: TrainState, std: float) -> PyTree:
    """The network's {"params", "constants"}, averaged over the relative width `std`.

    Raises:
        ValueError: the run tracks no such average.
    """
    stds = experiment.optimizer.lengths
    if std not in stds:
        raise ValueError(
            f"this run tracks no EMA of std {std}; it has {', '.join(map(str, stds))}. "
            "jaxdiff reconstruct makes others of its snapshots"
        )
    params = optim.averages(state.opt_state)[stds.index(std)]
    return {"params": params, "constants": state.constants}


def run_denoiser(experiment: Experiment, variables: PyTree) -> Denoiser:
    """The denoiser of an experiment's network with these variables."""
    return denoiser(experiment.network.apply, variables, experiment.parameterization)


def labelled(experiment: Experiment, label: Leaf) -> Condition:
    """The condition on these classes; empty where the network has none.

    Raises:
        ValueError: the labels are known, and the network has no such classes.
    """
    require_labels(label, experiment.network.label_dim)
    return Condition(label=label) if experiment.network.label_dim else UNCONDITIONAL
