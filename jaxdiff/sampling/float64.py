"""Computes constants in float64, on the host, as NumPy arrays."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

T = TypeVar("T")


def in_float64(compute: Callable[[], T]) -> T:
    """The result of `compute` on constants in float64, as NumPy arrays; inside jit too.

    On the CPU, since accelerators lack float64 or round it differently; without a CPU, on
    jax's default device. Integers and flags keep their types.
    """
    with jax.ensure_compile_time_eval(), jax.enable_x64(True), _cpu():
        return jax.tree.map(_float64, compute())


def _float64(a: ArrayLike) -> np.ndarray:
    a = np.asarray(a)
    return a.astype(np.float64) if jnp.issubdtype(a.dtype, jnp.floating) else a


def _cpu() -> AbstractContextManager:
    try:
        return jax.default_device(jax.local_devices(backend="cpu")[0])
    except RuntimeError:
        return nullcontext()
