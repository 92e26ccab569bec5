"""Published reference statistics: mean and covariance of features.

    TTUR, pytorch-fid, ADM, EDM: an NPZ with FID's mu [2048] and sigma [2048, 2048];
    EDM2: a pickle {"num_images", "fid": {"mu", "sigma"}, "fd_dinov2": {"mu", "sigma"}},
    the latter of width 1024.

All divide by N - 1. ADM's images and the moments of its spatial features, arr_0, mu_s and
sigma_s, are not read. No file holds how images were resized before Inception saw them:
EDM's, EDM2's and ADM's are made as TensorFlow 1 does, pytorch-fid's are not.
"""

import pickle
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from jaxdiff.interop import archives, npz, numpy_pickles, pickles
from jaxdiff.interop.unpickler import Record
from jaxdiff.runtime.files import PathLike, place


class FIDStatistics(NamedTuple):
    """Mean and covariance of a data set's features, and the number of its images."""

    mu: Float64[np.ndarray, " D"]
    sigma: Float64[np.ndarray, "D D"]
    count: int | None
    """None where the file does not have it."""


DIMS: Mapping[str, int] = {"fid": 2048, "fd_dinov2": 1024}
"""The metrics that statistics are published for, and the width of their features."""
SYMMETRIC = 1e-5
"""How far sigma may be from its transpose, of its largest entry; float32's own is 1e-7."""


def read(path: PathLike) -> dict[str, FIDStatistics]:
    """The statistics in a published file, by metric. Nothing of the file is run.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: another kind of file, damage, or numbers that cannot be such
            statistics; one line.
    """
    path = place(path)
    try:
        data = archives.mapped(path)
        layout = LAYOUTS.get(bytes(data[:1]))
        if layout is None:
            raise ValueError("not a file of statistics: give an .npz, or the .pkl of EDM2")
        count, moments = layout(data)
        return {name: _checked(name, *pair, count) for name, pair in moments.items()}
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


Published = tuple[int | None, dict[str, tuple[np.ndarray, np.ndarray]]]
"""A count, and mu and sigma by metric."""


def _from_npz(data: memoryview) -> Published:
    """The moments of an NPZ, which are read when they have FID's shapes."""
    stored = npz.arrays(data)
    if not {"mu", "sigma"} <= stored.keys():
        held = ", ".join(name[:40] for name in list(stored)[:6]) or "nothing"
        raise ValueError(f"the NPZ has no mu and sigma, only {held}")
    for name, shape in _shapes("fid").items():
        _require_shape("fid", name, stored[name].shape, shape)
    return None, {"fid": (stored["mu"].read(), stored["sigma"].read())}


def _from_pickle(data: memoryview) -> Published:
    """The moments of EDM2's pickle."""
    root, _ = pickles.load(data, numpy_pickles.NAMES)
    if type(root) is not dict or not DIMS.keys() & root.keys():
        raise ValueError(f"not a dict with {' or '.join(DIMS)}, unlike EDM2's statistics")
    by_metric = {}
    for name in (name for name in DIMS if name in root):
        moments = root[name]
        if type(moments) is not dict or not {"mu", "sigma"} <= moments.keys():
            raise ValueError(f"{name} is not a dict with mu and sigma")
        by_metric[name] = tuple(
            numpy_pickles.array(moments[part], CODES) for part in ("mu", "sigma")
        )
    count = root.get("num_images")
    count = numpy_pickles.array(count, CODES).item() if type(count) is Record else count
    if count is not None and (type(count) is not int or not 1 < count < 2**48):
        raise ValueError("num_images must be a whole number above 1")
    return count, by_metric


LAYOUTS = {archives.HEADER[:1]: _from_npz, pickle.PROTO: _from_pickle}
"""The reader of files that begin with this byte."""
CODES = ("f4", "f8", "i4", "i8")
"""The types of the arrays in EDM2's pickle."""


def _shapes(metric: str) -> dict[str, tuple[int, ...]]:
    return {"mu": (DIMS[metric],), "sigma": (DIMS[metric],) * 2}


def _require_shape(
    metric: str, name: str, shape: tuple[int, ...], wanted: tuple[int, ...]
) -> None:
    if shape != wanted:
        raise ValueError(f"{name} of {metric} has shape {shape}; its features' is {wanted}")


def _checked(
    metric: str, mu: np.ndarray, sigma: np.ndarray, count: int | None
) -> FIDStatistics:
    """Moments that features can have, in float64.

    Raises:
        ValueError: other shapes, nan or inf, or a sigma that is not a covariance.
    """
    for name, value in (("mu", mu), ("sigma", sigma)):
        _require_shape(metric, name, value.shape, _shapes(metric)[name])
        if value.dtype.kind != "f" or not np.isfinite(value).all():
            raise ValueError(f"{name} of {metric} has values that are not finite floats")
    sigma = sigma.astype(np.float64)
    off = np.abs(sigma - sigma.T).max()
    if off > SYMMETRIC * np.abs(sigma).max():
        raise ValueError(f"sigma of {metric} is not symmetric: entries differ by {off:.3g}")
    if (least := sigma.diagonal().min()) < 0:
        raise ValueError(f"sigma of {metric} has a negative variance, {least:.3g}")
    return FIDStatistics(mu.astype(np.float64), sigma, count)
