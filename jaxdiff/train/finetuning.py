"""Training that starts from another run's network: what of it fits, and what is made anew.

Arrays are matched by name and shape. Three things may differ between the two runs:

* the classes: with another number of them the label table is made anew, or left out;
* the resolution: blocks are named by their resolution, and matched level by level, finest
  first, so that a network for 32 x 32 goes on at 64 x 64 where its blocks fit;
* heads that only the new network has, such as an estimator's, which are made anew.

Whatever else of the old network has no place in the new one is refused.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import traverse_util
from jaxtyping import PyTree

from jaxdiff import data, networks
from jaxdiff.config import Experiment, differences
from jaxdiff.types import UNCONDITIONAL

Shapes = dict[str, tuple[int, ...]]
"""Shapes of arrays by path, such as "params/enc/8x8_conv/weight"."""


@dataclass(frozen=True, eq=False)
class Fitted:
    """Variables for a new network, under its names, and what is said of them."""

    variables: PyTree
    lines: list[str]


def fitted(variables: PyTree, there: Experiment, here: Experiment) -> Fitted:
    """What of a network's variables, of the run `there`, the run `here` starts from.

    Raises:
        ValueError: the networks mean something else, or one has no place for the other's
            arrays; the message says what to set.
    """
    require_same_meaning(there, here)
    theirs = traverse_util.flatten_dict(variables, sep="/")
    theirs = _renamed(theirs, there.data.shape[0], here.data.shape[0])
    ours = shapes_of(here)
    fits = {k: a for k, a in theirs.items() if ours.get(k) == a.shape}
    rest = sorted(theirs.keys() - fits.keys())
    if lost := [name for name in rest if not _is_label_table(name)]:
        raise ValueError(_refusal(lost[0], theirs[lost[0]].shape, ours, there, here))
    new = sorted(ours.keys() - fits.keys())
    lines = [f"{len(fits)} of the {len(ours)} arrays of the network are loaded"]
    if there.data.shape[0] != here.data.shape[0]:
        before, now = (f"{e.data.shape[0]} x {e.data.shape[1]}" for e in (there, here))
        lines.append(f"trained at {before}, goes on at {now}: blocks matched by level")
    if new:
        more = f" and {len(new) - SHOWN} more" if len(new) > SHOWN else ""
        lines.append(f"made anew: {', '.join(_short(n) for n in new[:SHOWN])}{more}")
    classes = there.network.label_dim, here.network.label_dim
    if classes[0] != classes[1]:
        what = "made anew" if classes[1] else "left out"
        lines.append(f"classes: {classes[0]} there, {classes[1]} here; labels are {what}")
    elif classes[0]:
        lines.append("the label table is loaded: class k here takes the place of k there")
    return Fitted(traverse_util.unflatten_dict(fits, sep="/"), lines)


SHOWN = 4
"""New arrays that are named."""


def shapes_of(experiment: Experiment) -> Shapes:
    """The shapes of a network's parameters and constants; nothing is computed."""
    x = jnp.zeros((1, *experiment.data.shape))

    def init() -> PyTree:
        return experiment.network.init(jax.random.key(0), x, jnp.zeros(()), UNCONDITIONAL)

    flat = traverse_util.flatten_dict(jax.eval_shape(init), sep="/")
    return {name: a.shape for name, a in flat.items()}


def require_same_meaning(there: Experiment, here: Experiment) -> None:
    """Refuses to start from a network whose inputs or outputs mean something else.

    The schedule may be another: a denoiser is a function on rays. An estimator of the
    level takes features alone, so what they were trained to predict is free as well.

    Raises:
        ValueError: what differs, there and here.
    """
    encoders = (data.encoder_of(there.data), data.encoder_of(here.data))
    channels = (there.data.shape[-1], here.data.shape[-1])
    pairs = [("data's channels", *channels), ("data's encoding", *encoders)]
    if not isinstance(here.network, networks.LevelEstimator):
        pairs += [("parameterization", there.parameterization, here.parameterization)]
    for name, theirs, ours in pairs:
        if theirs != ours:
            raise ValueError(
                f"init_from: {here.init_from} holds a network whose numbers mean something "
                f"else, its {name} is {theirs}, here {ours}: set it to the same"
            )


def _renamed(arrays: Mapping[str, jax.Array], side: int, to: int) -> dict[str, jax.Array]:
    """Blocks named by resolution, as those of the same level at another resolution."""

    def level(found: re.Match) -> str:
        r = int(found[2]) * to // side
        return f"{found[1]}/{r}x{r}_"

    return {re.sub(r"\b(enc|dec)/(\d+)x\2_", level, k): a for k, a in arrays.items()}


def _is_label_table(name: str) -> bool:
    return "emb_label" in name.split("/")


def _short(name: str) -> str:
    return name.removeprefix("params/")


def _refusal(
    name: str, shape: tuple[int, ...], ours: Shapes, there: Experiment, here: Experiment
) -> str:
    """Why an array has no place, and which fields to set."""
    lines = [
        line
        for line in differences(there, here, free=())
        if line.startswith("network.") and "label_dim" not in line
    ]
    scale = here.data.shape[0] / there.data.shape[0]
    resolutions = tuple(int(r * scale) for r in _attention(there))
    if scale != 1 and resolutions != _attention(here):
        lines.append(
            f"attention must be at the same levels, so set network.attn_resolutions to "
            f"{resolutions}"
        )
    what = "; ".join(lines[:4]) or "the networks are of two kinds"
    return (
        f"init_from: its network has {_short(name)} {shape}, this one "
        f"{ours.get(name, 'none')}: give this one the fields of {here.init_from} ({what})"
    )


def _attention(experiment: Experiment) -> tuple[int, ...]:
    network = experiment.network
    network = getattr(network, "backbone", network)
    return tuple(getattr(network, "attn_resolutions", ()))
