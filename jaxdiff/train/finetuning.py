"""Fine-tuning: which arrays of another run's network are loaded, and which are new.

Arrays are matched by name and shape. Three things may differ between the two runs:

* the classes: if their number differs, the label table is initialised anew, or left out;
* the resolution: blocks are named by their resolution, and matched level by level, finest
  first, so that a network for 32 x 32 can continue at 64 x 64 where its blocks fit; a DiT's
  table of positions is fixed, and computed for the new size;
* heads that only the new network has, such as an estimator's, which are initialised anew.

All other differences are errors: arrays of the old network that have no place in the new
one, other new arrays, and fields that change the function but no shape, such as the number
of attention heads.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import jax
from flax import traverse_util
from jaxtyping import PyTree

from jaxdiff import data, networks
from jaxdiff.config import Experiment, to_dict

Shapes = dict[str, tuple[int, ...]]
"""Shapes of arrays by path, such as "params/enc/8x8_conv/weight"."""


@dataclass(frozen=True, eq=False)
class Fitted:
    """Variables for a new network, under its names, and lines for the log."""

    variables: PyTree
    lines: list[str]


def fitted(variables: PyTree, there: Experiment, here: Experiment) -> Fitted:
    """The variables of the run `there` that the run `here` starts from.

    Raises:
        ValueError: inputs or outputs of the networks differ in meaning, or arrays do not
            match; the message names the fields to set.
    """
    require_same_meaning(there, here)
    require_same_function(there, here)
    theirs = traverse_util.flatten_dict(variables, sep="/")
    theirs = _moved(theirs, there.data.shape, here.data.shape)
    ours = networks.shapes(here.network, here.data.shape)
    fits = {k: a for k, a in theirs.items() if ours.get(k) == a.shape}
    new = sorted(ours.keys() - fits.keys())
    wrong = [
        name for name in sorted(theirs.keys() - fits.keys()) if _top(name) != "emb_label"
    ]
    wrong += [name for name in new if _top(name) not in MADE_ANEW]
    if wrong:
        shapes = {name: a.shape for name, a in theirs.items()}
        raise ValueError(_refusal(wrong[0], shapes, ours, there, here))
    lines = [f"{len(fits)} of the {len(ours)} arrays of the network are loaded"]
    lines += _size_note(there, here, ours)
    if new:
        more = f" and {len(new) - SHOWN} more" if len(new) > SHOWN else ""
        lines.append(f"made anew: {', '.join(_short(n) for n in new[:SHOWN])}{more}")
    lines += _classes_note(there.network.label_dim, here.network.label_dim)
    lines += [line for line in _differences(there, here) if "label_dim" not in line]
    return Fitted(traverse_util.unflatten_dict(fits, sep="/"), lines)


MADE_ANEW = (
    *("emb_label", "emb_null", "positions"),
    *("logvar_fourier", "logvar_linear", "variance_conv", "variance_gain"),
    *("level_linear", "level_gain", "class_linear", "class_gain"),
)
"""Modules and arrays that may be new, or have another size, in the new network."""
FREE = (
    *("label_dim", "attn_resolutions", "uncertainty", "logvar_channels"),
    *("learned_variance", "learned_null", "dropout", "dtype", "remat"),
)
"""Fields of a network that may differ if the arrays fit."""
SHOWN = 4
"""Maximal number of new arrays that are named."""


def require_same_meaning(there: Experiment, here: Experiment) -> None:
    """Rejects a network whose inputs or outputs differ in meaning.

    The schedule may differ: a denoiser is a function on rays. An estimator uses only
    features, so for it the prediction may differ, too.

    Raises:
        ValueError: the differences, there and here.
    """
    encoders = (data.encoder_of(there.data), data.encoder_of(here.data))
    channels = (there.data.shape[-1], here.data.shape[-1])
    pairs = [("data's channels", *channels), ("data's encoding", *encoders)]
    if not here.network.estimates:
        pairs += [("parameterization", there.parameterization, here.parameterization)]
    for name, theirs, ours in pairs:
        if theirs != ours:
            raise ValueError(
                f"init_from: {here.init_from} holds a network whose numbers mean something "
                f"else, its {name} is {theirs}, here {ours}: set it to the same"
            )


def require_same_function(there: Experiment, here: Experiment) -> None:
    """Rejects a network in which the same weights would compute another function.

    Raises:
        ValueError: the fields that differ, there and here.
    """
    lines = _differences(there, here, FREE)
    if lines:
        raise ValueError(
            f"init_from: the network of {here.init_from} is another ({'; '.join(lines[:4])}"
            f"{'; ...' if len(lines) > 4 else ''}): set these as they are there"
        )


def _differences(
    there: Experiment, here: Experiment, free: tuple[str, ...] = ()
) -> list[str]:
    """A line for each field that differs in the networks, or in estimators' backbones."""
    before, now = (to_dict(e.network.backbone) for e in (there, here))
    path = "network" if here.network.backbone is here.network else "network.backbone"
    if before["type"] != now["type"]:
        kinds = [tree["type"].rpartition(".")[2] for tree in (before, now)]
        return [f"{path} is a {kinds[0]} there, a {kinds[1]} here"]
    return [
        f"{path}.{name}: {before[name]} there, {now[name]} here"
        for name in now
        if before[name] != now[name] and name not in free
    ]


def _size_note(there: Experiment, here: Experiment, ours: Iterable[str]) -> list[str]:
    if there.data.shape == here.data.shape:
        return []
    before, now = (f"{e.data.shape[0]} x {e.data.shape[1]}" for e in (there, here))
    table = any(_top(name) == "positions" for name in ours)
    how = "positions are for the new size" if table else "blocks matched by level"
    return [f"trained at {before}, goes on at {now}: {how}"]


def _classes_note(there: int, here: int) -> list[str]:
    if there != here:
        what = "made anew" if here else "left out"
        return [f"classes: {there} there, {here} here; labels are {what}"]
    line = "the label table is loaded: class k here takes the place of class k there"
    return [line] if here else []


def _moved(
    arrays: Mapping[str, jax.Array], size: tuple[int, ...], to: tuple[int, ...]
) -> dict[str, jax.Array]:
    """The arrays under their names at another size, without tables of positions.

    Blocks named by resolution take the names of the same levels.
    """
    if size == to:
        return dict(arrays)

    def level(match: re.Match) -> str:
        r = int(match[2]) * to[0] // size[0]
        return f"{match[1]}/{r}x{r}_"

    kept = {name: a for name, a in arrays.items() if _top(name) != "positions"}
    return {re.sub(r"\b(enc|dec)/(\d+)x\2_", level, name): a for name, a in kept.items()}


def _top(name: str) -> str:
    """An array's outermost module, or its own name: "conv" for "params/conv/weight"."""
    return name.split("/")[1]


def _short(name: str) -> str:
    return name.removeprefix("params/")


def _refusal(
    name: str, theirs: Shapes, ours: Shapes, there: Experiment, here: Experiment
) -> str:
    """The message for an array that does not match, with the fields to set."""
    lines = [line for line in _differences(there, here) if "label_dim" not in line]
    kinds = [type(e.network).__name__ for e in (there, here)]
    if kinds[0] != kinds[1]:
        lines.insert(0, f"network is a {kinds[0]} there, a {kinds[1]} here")
    scale = here.data.shape[0] / there.data.shape[0]
    resolutions = tuple(int(r * scale) for r in _attention(there))
    if scale != 1 and resolutions != _attention(here):
        lines.append(
            f"attention must be at the same levels, so set network.attn_resolutions to "
            f"{resolutions}"
        )
    what = "; ".join(lines[:4]) or "which has other arrays than its fields say"
    return (
        f"init_from: {_short(name)} is {theirs.get(name, 'missing')} in its network, "
        f"{ours.get(name, 'missing')} in this one: give this one the "
        f"fields of {here.init_from} ({what})"
    )


def _attention(experiment: Experiment) -> tuple[int, ...]:
    return tuple(experiment.network.backbone.attn_resolutions)
