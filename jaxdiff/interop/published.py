"""Reads files of published models, and recognises their family and size.

    edm2         a pickle with the averaged network, its settings and its encoder
    dit, sit     x_embedder ..., blocks.N ..., final_layer ...
    adm, iddpm   input_blocks.N.M ..., middle_block.M ..., output_blocks.N.M ...

The family and the size follow from the tensors' names and shapes where possible. Settings
that files do not hold are known for the published networks; for others they are `Choices`.
DiT's and SiT's files have the same names and shapes. Three things distinguish them: the
settings beside the weights, if any; the second half of the last layer, which SiT's training
leaves at 0; and the name of the file.
"""

import dataclasses
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from flax import linen as nn
from jaxtyping import PyTree

from jaxdiff.interop import adm, archives, dit, edm2_snapshot, edm2_weights, torch_legacy
from jaxdiff.interop import weights as files
from jaxdiff.interop.sources import Tensors
from jaxdiff.interop.weights import Weights
from jaxdiff.networks.dit import SIZES, DiT
from jaxdiff.runtime.files import PathLike, Place, place, printable

FAMILIES = ("edm2", "dit", "sit", "adm", "iddpm")
ATTENTION = ("heads-first", "qkv-first")
"""Orders of the qkv channels in ADM: (head, q k v, c) and (q k v, head, c)."""
SCHEDULES = ("linear-1000", "linear-4000", "cosine-1000", "cosine-4000")
"""Tables of betas that ADM's and Improved DDPM's networks were trained on."""
KINDS = ("dit", "sit")
PATCHES, SIDES = (2, 4, 8), (32, 64)

TRANSFORMERS: Mapping[str, tuple[str, int, int]] = MappingProxyType(
    {
        f"{kind}-{size.lower()}{patch}-{8 * side}": (size, patch, side)
        for kind in KINDS
        for size in SIZES
        for patch in PATCHES
        for side in SIDES
    }
)
"""Size, patch and latent side of DiTs and SiTs, by names such as dit-xl2-256."""
NAMES = (*FAMILIES, *TRANSFORMERS, *adm.PUBLISHED)
"""The names that `read` accepts: families and published networks."""
LISTED = "edm2, dit, sit, adm, iddpm, dit-xl2-256, sit-xl2-256, " + ", ".join(adm.PUBLISHED)
_TABLES = {"iddpm": "cosine-4000", "adm-64": "cosine-1000", "adm": "linear-1000"}
"""The tables of the published networks by prefix of their names, longest first."""


@dataclass(frozen=True)
class Choices:
    """Settings that files do not hold, for unpublished networks; 0 or "" = not given.

    `side` is the side of images in pixels, `heads` the number of attention heads, or
    `channels_per_head` the width of one. `attention` is one of `ATTENTION`, `schedule` one
    of `SCHEDULES`. `std` and `images` are EDM2's averaging length and images seen, needed
    if the file's name lacks them. With `sure` a file is imported as the named kind, DiT or
    SiT, even if it looks like the other.

    Raises:
        ValueError: an unknown attention or schedule.
    """

    side: int = 0
    heads: int = 0
    channels_per_head: int = 0
    attention: str = ""
    schedule: str = ""
    std: float | None = None
    images: int | None = None
    sure: bool = False

    def __post_init__(self) -> None:
        for name, choices in (("attention", ATTENTION), ("schedule", SCHEDULES)):
            if (value := getattr(self, name)) and value not in choices:
                raise ValueError(f"{name} is one of {', '.join(choices)}; got {value!r}")


READ_BY: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "edm2": ("std", "images"),
        **dict.fromkeys(KINDS, ("heads", "sure")),
        **dict.fromkeys(
            ("adm", "iddpm"),
            ("side", "heads", "channels_per_head", "attention", "schedule"),
        ),
    }
)
"""The choices that apply to each family."""


@dataclass(frozen=True, eq=False)
class Model:
    """A network from a file, and what is known about it."""

    family: str
    """One of `FAMILIES`."""
    name: str
    """The name of the published network, such as dit-xl2-256; "" for any other."""
    network: nn.Module
    shape: tuple[int, int, int]
    """Height, width and channels of what the network denoises."""
    variables: PyTree
    """The network's {"params", "constants"}: float32 arrays, or objects that `np.asarray`
    turns into one, so that a file can be read array by array."""
    dtype: str
    """The type of the file's numbers, float32 at most."""
    schedule: str = ""
    """For ADM and Improved DDPM, the table of betas, one of `SCHEDULES`."""
    lines: tuple[str, ...] = ()
    """How the family was recognised, and what was assumed."""
    snapshot: edm2_snapshot.Published | None = None
    """For EDM2, the snapshot with the file's other contents."""


def named(name: str) -> Model:
    """A published DiT, SiT, ADM or Improved DDPM network without its file or variables.

    Raises:
        ValueError: there is no such network.

    >>> named("dit-xl2-256").shape
    (32, 32, 4)
    """
    family = name.partition("-")[0]
    if name in TRANSFORMERS:
        size, patch, side = TRANSFORMERS[name]
        fields = {"patch": patch, "learned_variance": family == "dit", **SIZES[size]}
        return Model(family, name, DiT(1000, **fields), (side, side, 4), {}, "float32")
    if name in adm.PUBLISHED:
        known = adm.PUBLISHED[name]
        shape = (known.settings.side, known.settings.side, 3)
        return Model(family, name, known.network, shape, {}, "float32", _table(name))
    raise ValueError(f"{name!r} is not a published network: use one of {LISTED}")


def read(path: PathLike, name: str = "", choices: Choices = Choices()) -> Model:
    """The network in a published file. Nothing of the file is run or imported.

    `name` is one of `NAMES`; by default it is recognised from the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: another kind of file, damage, missing or unexpected tensors, a name that
            the file contradicts, or choices that are missing or do not apply; one line.
    """
    path = place(path)
    if name and name not in NAMES:
        raise ValueError(f"{name!r} is not a published model: use one of {LISTED}")
    if path.is_dir():
        raise ValueError(f"{path} is a folder: give the file of the weights in it")
    family = name.partition("-")[0]
    try:
        snapshot = family == "edm2" or (not family and _is_snapshot(path))
        _require_read(choices, "edm2" if snapshot else family)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if snapshot:
        return _edm2(path, choices)
    held = files.read(path)
    try:
        return _of_tensors(held, path, name, choices)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _of_tensors(held: Weights, path: Place, name: str, choices: Choices) -> Model:
    family = name.partition("-")[0] or _architecture(held.tensors)
    if family in KINDS:
        kind, line = _kind(held, path.name, name.partition("-")[0], choices.sure)
        _require_read(choices, kind)
        model = _transformer(held, kind, name, choices)
    else:
        _require_read(choices, family)
        model, line = _adm(held, name, choices), ""
    lines = (f"the weights are the entry {held.part!r}",) if held.part else ()
    lines += (line,) if line else ()
    return dataclasses.replace(model, lines=(*lines, *model.lines))


def _architecture(tensors: Tensors) -> str:
    """ "dit" or "adm", from a tensor that every file of that architecture has."""
    for tensor, family in (
        ("x_embedder.proj.weight", "dit"),
        ("time_embed.0.weight", "adm"),
    ):
        if tensor in tensors:
            return family
    if "decoder.conv_in.weight" in tensors:
        raise ValueError(
            "this is an autoencoder of latents, no model of diffusion: data of latents "
            "name it as their encoder's vae"
        )
    first = ", ".join(printable(name)[:60] for name in list(tensors)[:3])
    raise ValueError(
        f"no published model that is known here: its tensors begin with {first}. Of those "
        f"that are, name one: {LISTED}"
    )


def _is_snapshot(path: Place) -> bool:
    """Whether a file is a plain pickle: not safetensors, nor torch's, which starts with a
    number."""
    start = bytes(archives.mapped(path)[:64])
    pickled = start[:1] == pickle.PROTO and b"\2" <= start[1:2] <= b"\5"
    torch = start.startswith(pickle.dumps(torch_legacy.MAGIC, 2))
    return pickled and not torch and not files.is_safetensors(start)


def _require_read(choices: Choices, family: str) -> None:
    """Rejects choices that do not apply to the family, if it is known."""
    for field in dataclasses.fields(Choices):
        value = getattr(choices, field.name)
        if value != field.default and field.name not in READ_BY.get(family, (field.name,)):
            raise ValueError(
                f"{field.name} = {value} says nothing of a file of {family}: leave it out"
            )


# ---------------------------------------------------------------------- DiT and SiT


def _kind(held: Weights, file: str, named: str, sure: bool) -> tuple[str, str]:
    """ "dit" or "sit", and a line with the reason.

    Raises:
        ValueError: the file is of the other kind, or could be either.
    """
    args = str(held.args.get("model", "")).lower()[:3]
    halves = _by_last_layer(held.tensors)
    words = set(re.findall(r"(?<![a-z])(dit|sit)(?![a-z])", file.lower()))
    by_name = words.pop() if len(words) == 1 else ""
    evidence = {
        "its settings": args if args in KINDS else "",
        "its last layer": "" if args in KINDS else halves,
        "its name": "" if args in KINDS else by_name,
    }
    kinds = {kind: source for source, kind in reversed(evidence.items()) if kind}
    if named:
        evidence.pop("its name")
        other = {k: s for s, k in evidence.items() if k not in ("", named)}
        if other and not sure:
            kind, source = next(iter(other.items()))
            raise ValueError(
                f"a file of {dit.NAME[kind]}, as {source} {REASONS[kind, source]}: import "
                f"it --as={kind}, or add --sure"
            )
        return named, ""
    if len(kinds) == 1:
        ((kind, source),) = kinds.items()
        return kind, f"a file of {dit.NAME[kind]}, as {source} {REASONS[kind, source]}"
    why = (
        "nothing in the file says which" if not kinds else "its name and last layer differ"
    )
    raise ValueError(
        f"DiT and SiT have the same tensors, and {why}: say --as=dit or --as=sit"
    )


REASONS: Mapping[tuple[str, str], str] = MappingProxyType(
    {
        ("dit", "its settings"): "say",
        ("sit", "its settings"): "say",
        ("dit", "its last layer"): "uses all its channels (SiT's leaves the second half 0)",
        ("sit", "its last layer"): "leaves the second half of its channels 0",
        ("dit", "its name"): "says",
        ("sit", "its name"): "says",
    }
)
"""The reason for DiT or SiT, for each kind of evidence."""


def _by_last_layer(tensors: Tensors) -> str:
    """ "sit" if the second half of a trained last layer is 0, else "dit"."""
    patch, layer = (
        tensors.get(name)
        for name in ("x_embedder.proj.weight", "final_layer.linear.weight")
    )
    if patch is None or layer is None or patch.ndim != 4 or layer.ndim != 2:
        return ""
    channels, pixels = patch.shape[1], patch.shape[2] * patch.shape[3]
    if layer.shape[0] != 2 * channels * pixels:
        return ""
    used, unused = np.split(layer.reshape(pixels, 2 * channels, -1), 2, axis=1)
    if not used.any() and not unused.any():
        return ""
    return "dit" if unused.any() else "sit"


def _transformer(held: Weights, kind: Any, name: str, choices: Choices) -> Model:
    if kind == "sit":
        _require_linear(held.args)
    net, shape, variables = dit.opened(held.tensors, kind, choices.heads)
    size = _named_transformer(net, shape, kind)
    if name not in ("", kind, size):
        size_name, patch, side = TRANSFORMERS[name]
        raise ValueError(
            f"no {name}, which has width {SIZES[size_name]['width']}, depth "
            f"{SIZES[size_name]['depth']}, patches of {patch} and latents of {side}: this "
            f"one has {net.width}, {net.depth}, {net.patch} and {shape[0]}"
            + (f", as {size}" if size else "")
        )
    return Model(kind, size, net, shape, variables, _dtype(held.tensors))


def _named_transformer(net: DiT, shape: tuple[int, int, int], kind: str) -> str:
    """The published name of a latent network; "" if it has none."""
    for name, (size, patch, side) in TRANSFORMERS.items():
        fields = {**SIZES[size], "patch": patch, "mlp_ratio": 4.0}
        same = all(getattr(net, field) == value for field, value in fields.items())
        if same and shape == (side, side, 4) and name.startswith(kind):
            return name
    return ""


def _require_linear(args: Mapping[str, Any]) -> None:
    """Rejects SiTs with another path or prediction than the published ones."""
    for setting, known in (("path_type", "linear"), ("prediction", "velocity")):
        value = args.get(setting, known)
        if str(value).lower() != known:
            raise ValueError(
                f"its settings say {setting} = {printable(value)[:40]}; only SiTs of the "
                "linear path that predict the velocity, as the published ones, are read"
            )


# ------------------------------------------------------------- ADM and Improved DDPM


def _adm(held: Weights, name: str, choices: Choices) -> Model:
    tensors = held.tensors
    known = name if name in adm.PUBLISHED else ""
    known = known or adm.recognised(tensors) or ""
    settings = _settings(known, choices)
    if known:
        _require_network(known, adm.network(tensors, settings))
    net, shape, variables = adm.opened(tensors, settings)
    named, own = name.partition("-")[0], known.partition("-")[0]
    if own and named not in ("", own):
        raise ValueError(f"this is {known}, no network of {named}: import it --as={known}")
    family = own or named or "adm"
    table = choices.schedule or _table(known)
    line = (
        f"no file says the order of attention, {_order(settings)}, and the table, {table}"
    )
    lines = (f"recognised as {known}, so {line}",) if known else ()
    return Model(family, known, net, shape, variables, _dtype(tensors), table, lines)


def _table(known: str) -> str:
    """The table of a published network of ADM or Improved DDPM."""
    return next(table for start, table in _TABLES.items() if known.startswith(start))


def _order(settings: adm.Settings) -> str:
    return ATTENTION[0] if settings.heads_first else ATTENTION[1]


def _settings(known: str, choices: Choices) -> adm.Settings:
    """The settings that the file does not hold: a published network's, or the choices.

    Raises:
        ValueError: the network is not published, and a choice is missing.
    """
    missing = [] if known else [
        text for text, value in (
            ("--side=64, the height of its images in pixels", choices.side),
            ("--heads=4 or --channels_per_head=64",
             choices.heads or choices.channels_per_head),
            (f"--attention={' or '.join(ATTENTION)}", choices.attention),
            (f"--schedule={' or '.join(SCHEDULES)}", choices.schedule),
        ) if not value
    ]  # fmt: skip
    if missing:
        raise ValueError(
            f"none of the published networks ({', '.join(adm.PUBLISHED)}), and no file "
            f"says: {'; '.join(missing)}"
        )
    base = adm.PUBLISHED[known].settings if known else adm.Settings(choices.side)
    heads = choices.heads or (0 if choices.channels_per_head else base.heads)
    return adm.Settings(
        side=choices.side or base.side,
        heads=heads,
        channels_per_head=choices.channels_per_head or base.channels_per_head,
        heads_first=(choices.attention or _order(base)) == ATTENTION[0],
    )


def _require_network(known: str, net: adm.ADM) -> None:
    """Rejects a network that differs from the published one in more than its classes."""
    published = adm.PUBLISHED[known].network
    fields = ("model_channels", "channel_mult", "num_blocks", "attn_resolutions",
              "scale_shift", "resample_blocks", "learned_variance")  # fmt: skip
    wrong = [
        f"{field} {getattr(published, field)}, here {getattr(net, field)}"
        for field in fields
        if getattr(published, field) != getattr(net, field)
    ]
    if wrong:
        raise ValueError(f"no {known}, which has {'; '.join(wrong[:3])}")


# ------------------------------------------------------------------------------ EDM2


def _edm2(path: Place, choices: Choices) -> Model:
    held = edm2_snapshot.read(path)
    held = dataclasses.replace(
        held,
        std=held.std if choices.std is None else choices.std,
        images=held.images if choices.images is None else choices.images,
    )
    if held.std is None or held.images is None:
        raise ValueError(
            f"the name {path.name} does not say how long the network was trained and "
            "averaged: add --images=2147483648 --std=0.130, as they are"
        )
    return Model(
        "edm2",
        "",
        edm2_weights.network(held),
        held.shape,
        edm2_weights.variables(held),
        _dtype(held.state_dict),
        snapshot=held,
    )


def _dtype(tensors: Tensors) -> str:
    """The narrowest type that holds all numbers, float32 at most."""
    types = {value.dtype.name for value in tensors.values()}
    return types.pop() if types in ({"float16"}, {"bfloat16"}) else "float32"
