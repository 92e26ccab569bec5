"""Writes snapshot pickles of the published form, of any state dict, without torch.

Classes of torch and of the reference are stood in for by classes of the same names: what
is pickled is the names, so the bytes are those that the real ones would be written as.
"""

import io
import pickle
from collections import OrderedDict
from typing import Any, ClassVar

import numpy as np


def standing_in(name: str, *bases: type, **attributes: Any) -> type:
    """A class that pickles as `name`, whether or not there is anything of that name."""
    module, _, last = name.rpartition(".")
    return type(last, bases, {"__module__": module, "__qualname__": last, **attributes})


class Writer(pickle._Pickler):
    """Python's own pickler, except that it does not look whether a name exists."""

    def save_global(self, obj: Any, name: str | None = None) -> None:
        if self.proto >= 4:
            self.save(obj.__module__)
            self.save(obj.__qualname__)
            self.write(pickle.STACK_GLOBAL)
        else:
            line = f"{obj.__module__}\n{obj.__qualname__}\n"
            self.write(pickle.GLOBAL + line.encode())
        self.memoize(obj)

    dispatch: ClassVar = {**pickle._Pickler.dispatch, type: save_global}

    def persistent_id(self, obj: Any) -> Any:
        return obj.entry if isinstance(obj, Persistent) else None


class Persistent:
    """Pickles as the persistent id `entry`."""

    def __init__(self, entry: Any) -> None:
        self.entry = entry


class Calling:
    """Pickles as a call of the named function with these arguments."""

    def __init__(self, name: str, *args: Any) -> None:
        self.call = standing_in(name), args

    def __reduce__(self) -> Any:
        return self.call


def dumps(value: Any, protocol: int = 4) -> bytes:
    file = io.BytesIO()
    Writer(file, protocol).dump(value)
    return file.getvalue()


EasyDict = standing_in("dnnlib.util.EasyDict", dict)
ModuleDict = standing_in("torch.nn.modules.container.ModuleDict", object)
CLASSES = {"float16": "Half", "float32": "Float", "float64": "Double"}


def torch_file(
    values: np.ndarray,
    kind: str = "",
    layout: str = "tuple",
    count: int | None = None,
) -> bytes:
    """A storage in the legacy layout, as a tuple of 5 or 6, a view or a persistent id."""
    kind = kind or f"torch.{CLASSES[values.dtype.name]}Storage"
    count = values.size if count is None else count
    entry: tuple = ("storage", standing_in(kind), "94325714713072", "cpu", values.size)
    entry += {"tuple": (), "view": (("94", 1, values.size - 1),)}.get(layout, (None,))
    sizes = {"short": 2, "int": 4, "long": 4}
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": sizes}
    stored = Persistent(entry) if layout == "persistent" else entry
    parts = (0x1950A86A20F9469CFC6C, 1001, system, stored, [entry[2]])
    head = b"".join(dumps(part, 2) for part in parts)
    return head + count.to_bytes(8, "little") + values.tobytes()


def tensor(value: np.ndarray, trained: bool = False) -> Calling:
    """A tensor, or a parameter, in a storage of its own."""
    size = value.shape
    strides = tuple(step // value.itemsize for step in value.strides)
    storage = Calling("torch.storage._load_from_bytes", torch_file(value))
    rebuild = "torch._utils._rebuild_tensor_v2"
    plain = Calling(rebuild, storage, 0, size, strides, False, OrderedDict())
    if not trained:
        return plain
    return Calling("torch._utils._rebuild_parameter", plain, True, OrderedDict())


def persistent(class_name: str, state: dict[str, Any]) -> Calling:
    """An object with its class's source code, which no reader may run."""
    return Calling(
        "torch_utils.persistence._reconstruct_persistent_obj",
        EasyDict(
            type="class",
            version=6,
            module_src="raise SystemExit('this source was run')\n",
            class_name=class_name,
            state=state,
        ),
    )


def module_state(tensors: dict[str, Any], modules: dict[str, Any]) -> dict[str, Any]:
    """What torch keeps of a module, empty hooks included."""
    buffers = {k: tensor(v) for k, v in tensors.items() if k in ("freqs", "phases")}
    trained = {k: tensor(v, True) for k, v in tensors.items() if k not in buffers}
    return {
        "training": False,
        "_parameters": OrderedDict(trained),
        "_buffers": OrderedDict(buffers),
        "_non_persistent_buffers_set": set(),
        "_backward_hooks": OrderedDict(),
        "_is_full_backward_hook": None,
        "_forward_hooks": OrderedDict(),
        "_modules": OrderedDict(modules),
    }


def module(name: str, tree: dict[str, Any], config: dict[str, Any]) -> Any:
    """The module of this name, from a tree of arrays by their paths."""
    modules = {k: module(k, v, config) for k, v in tree.items() if isinstance(v, dict)}
    state = module_state({k: v for k, v in tree.items() if k not in modules}, modules)
    if name in ("enc", "dec"):
        stored = ModuleDict()
        stored.__dict__.update(state)
        return stored
    outer = ("label_dim", "img_resolution", "img_channels", "use_fp16", "sigma_data")
    if name == "unet":
        modules.setdefault("emb_label", None)
        state["_modules"] = OrderedDict(modules)
        hidden = ("use_fp16", "sigma_data", "logvar_channels")
        balances = {"label_balance": 0.5, "concat_balance": 0.5}
        state |= {k: config.get(k, v) for k, v in balances.items()}
        kwargs = {k: v for k, v in config.items() if k not in hidden}
    elif name == "ema":
        state |= {"use_fp16": True, "sigma_data": 0.5}
        state |= {k: v for k, v in config.items() if k in outer}
        kwargs = config
    else:
        kwargs = {}
    state |= {"_init_args": (), "_init_kwargs": EasyDict(kwargs)}
    class_name = {"unet": "UNet", "ema": "Precond"}.get(name, "Block")
    return persistent(class_name, state)


def nested(state_dict: dict[str, np.ndarray]) -> dict[str, Any]:
    """A tree of the names' parts."""
    tree: dict[str, Any] = {}
    for name, value in state_dict.items():
        *path, last = name.split(".")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[last] = value
    return tree


def snapshot(
    state_dict: dict[str, np.ndarray],
    config: dict[str, Any],
    encoder: Any = "StandardRGBEncoder",
    **root: Any,
) -> bytes:
    """A snapshot of this state; `root` puts other values in the place of its own."""
    init = {"_init_args": (), "_init_kwargs": EasyDict()}
    loss = {"P_mean": -0.4, "P_std": 1.0, "sigma_data": 0.5}
    values = {
        "encoder": persistent(encoder, init) if isinstance(encoder, str) else encoder,
        "dataset_kwargs": EasyDict(path="images.zip", use_labels=True),
        "loss_fn": persistent("EDM2Loss", {**loss, **init}),
        "ema": module("ema", nested(state_dict), config),
    }
    return dumps({**values, **root})
