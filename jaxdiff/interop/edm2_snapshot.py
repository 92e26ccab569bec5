"""Published EDM2 networks: reads their snapshot pickles without running them.

A file `network-snapshot-<kimg>-<std>.pkl`, or `edm2-img512-s-2147483-0.130.pkl`, is one
pickle: a dict with the keys ema, encoder, loss_fn and dataset_kwargs. Each of the first
three is an object that was saved with the source code of its class; the code is dropped
unread, and the object becomes its class's name and its state. A module's state has its
tensors in _parameters and _buffers, and its submodules in _modules; their names joined by
dots name a tensor.
"""

import pickle
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxdiff.interop import archives, pickles, torch_legacy
from jaxdiff.interop.unpickler import Record
from jaxdiff.runtime.files import PathLike, place, printable


@dataclass(frozen=True)
class Published:
    """A published network: its tensors, and the rest of its file."""

    state_dict: Mapping[str, np.ndarray]
    """Tensors by name, in the layout and the dtype (mostly float16) of the file."""
    settings: Mapping[str, Any]
    """img_resolution, img_channels, label_dim, sigma_data, model_channels and so on, by
    their names in the file; missing ones have EDM2's default."""
    loss: Mapping[str, float]
    """P_mean, P_std and sigma_data of the training noise and loss."""
    encoder: str
    """The encoder of images: StandardRGBEncoder (pixels) or StabilityVAEEncoder."""
    images: int | None
    """Images seen in training; None if the file's name lacks it."""
    std: float | None
    """Relative width of this EMA; None if the file's name lacks it."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of what the network denoises."""
        side = self.settings["img_resolution"]
        return (side, side, self.settings["img_channels"])

    @property
    def sigma_data(self) -> float:
        """Standard deviation of the data, in the data's own units."""
        return self.settings["sigma_data"]


def read(path: PathLike) -> Published:
    """Reads a published snapshot. Nothing of the file is run or imported.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: another kind of file, damage, or contents that such files never have;
            the message has the path, the byte offset and what is there.
    """
    path = place(path)
    budget = iter(range(pickles.OPCODES))
    try:
        data = archives.mapped(path)
        _require_pickle(bytes(data[:2]))
        root, _ = pickles.load(data, names(budget), budget=budget)
        return _published(root, len(data), *from_name(path.name))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def from_name(name: str) -> tuple[int | None, float | None]:
    """Images seen and EMA width from a published file's name; None, None if absent.

    The name has thousands of images, rounded down; the true number is a multiple of 1024.

    >>> from_name("edm2-img512-s-2147483-0.130.pkl")
    (2147483648, 0.13)
    """
    match = re.search(r"-(\d+)-(0\.\d+)\.pkl$", name)
    if not match:
        return None, None
    return (1000 * int(match[1]) + 999) // 1024 * 1024, float(match[2])


def names(budget: Iterator[int]) -> dict[str, Callable[..., Any] | None]:
    """All names that a snapshot may use, and what each builds; the list is complete."""
    return {
        "dnnlib.util.EasyDict": lambda: {},
        "torch_utils.persistence._reconstruct_persistent_obj": _persistent,
        "torch.nn.modules.container.ModuleDict": lambda: Record("ModuleDict", {}),
        "torch.storage._load_from_bytes": lambda data: _storage(data, budget),
        **torch_legacy.names(),
        **dict.fromkeys(NUMPY, _opaque),
        "numpy.ndarray": None,
    }


PLAIN = (
    *("img_resolution", "img_channels", "label_dim", "use_fp16", "sigma_data"),
    *("label_balance", "concat_balance"),
)
"""Settings that modules hold outside of their _init_kwargs."""
NUMPY = (
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
)
"""Names in pickles of NumPy arrays. An encoder may hold constants as arrays: they are
skipped, and never built."""


def _require_pickle(start: bytes) -> None:
    """Rejects another kind of file by its first two bytes.

    Raises:
        ValueError: what kind of file it is, and what to give instead.
    """
    if start == b"PK":
        raise ValueError(
            "a zip, as torch.save writes, and no published pickle: give the .pkl of EDM2"
        )
    if start[0] != pickle.PROTO[0] or not 2 <= start[-1] <= 5:
        raise ValueError("no pickle of protocol 2 to 5: give the .pkl that was published")


def _published(root: Any, size: int, images: int | None, std: float | None) -> Published:
    """The contents of a snapshot's root; its tensors are copied out of the file."""
    if type(root) is not dict or not {"ema", "encoder", "loss_fn"} <= root.keys():
        raise ValueError("not an EDM2 snapshot: no dict with ema, encoder and loss_fn")
    ema, encoder, loss = (root[name] for name in ("ema", "encoder", "loss_fn"))
    for name, value in (("ema", ema), ("encoder", encoder), ("loss_fn", loss)):
        if type(value) is not Record:
            raise ValueError(f"{name} is not an object with a class and a state")
    settings = _settings(ema)
    tensors = dict(_tensors(ema))
    if sum(tensor.nbytes for tensor in tensors.values()) > size:
        raise ValueError("its tensors are larger than the file: parts of it are repeated")
    return Published(
        {name: np.array(tensor) for name, tensor in tensors.items()},
        settings,
        {k: v for k, v in loss.state.items() if type(v) in (int, float)},
        encoder.name,
        images,
        std,
    )


def _settings(ema: Record) -> dict[str, Any]:
    """The settings of the denoiser and of the U-Net in it."""
    unet = _dict(ema, "_modules").get("unet")
    if type(unet) is not Record:
        raise ValueError(f"ema is a {ema.name[:80]!r}, in which there is no module `unet`")
    settings: dict[str, Any] = {}
    for record in (unet, ema):
        settings |= {k: record.state[k] for k in PLAIN if k in record.state}
        settings |= _dict(record, "_init_kwargs")
    for name, least in (("img_resolution", 1), ("img_channels", 1), ("label_dim", 0)):
        value = settings.get(name)
        if type(value) is not int or not least <= value < 2**16:
            raise ValueError(f"{name} must be a whole number, at least {least}")
    if type(settings.setdefault("sigma_data", 0.5)) not in (int, float):
        raise ValueError("sigma_data must be a number")
    return settings


def _tensors(module: Record, prefix: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """The names and tensors of a module and its submodules, in order."""
    own = {**_dict(module, "_parameters"), **_dict(module, "_buffers")}
    for name, tensor in own.items():
        if tensor is None:
            continue
        if type(tensor) is not np.ndarray or tensor.dtype.name not in FLOATS:
            raise ValueError(
                f"{printable(prefix + name)[:80]} is not a tensor of {', '.join(FLOATS)}"
            )
        yield prefix + name, tensor
    for name, inner in _dict(module, "_modules").items():
        if type(inner) is Record:
            yield from _tensors(inner, f"{prefix}{name}.")
        elif inner is not None:
            raise ValueError(f"{printable(prefix + name)[:80]} is not a module")


FLOATS = ("float16", "bfloat16", "float32", "float64")


def _dict(record: Record, name: str) -> dict[str, Any]:
    """A dict in a record's state; {} if absent."""
    value = record.state.get(name, {})
    if type(value) is not dict:
        raise ValueError(f"{name} of a {printable(record.name)[:80]} is not a dict")
    return value


def _persistent(saved: Any) -> Record:
    """An object saved with its class's source code, which is dropped here."""
    if type(saved) is not dict or type(saved.get("class_name")) is not str:
        raise ValueError("a persistent object is a dict with class_name and state")
    if type(saved.get("state")) is not dict:
        raise ValueError(f"the state of {saved['class_name'][:80]!r} is not a dict")
    return Record(saved["class_name"], saved["state"])


def _storage(data: Any, budget: Iterator[int]) -> np.ndarray:
    """The flat array stored in the bytes of a torch file."""
    if type(data) is not memoryview:
        raise ValueError("a storage must be given as bytes")
    storage = torch_legacy.load(data, budget)
    if type(storage) is not np.ndarray or storage.ndim != 1:
        raise ValueError("the bytes hold something else than one storage")
    return storage


def _opaque(*_: Any) -> Record:
    return Record("numpy", {})
