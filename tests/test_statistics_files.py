"""Reference statistics as they are published, and files that are none."""

import io
import os
import pickle
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxdiff.interop import fid_statistics, numpy_pickles, pickles
from jaxdiff.interop import npz as npz_files

WIDE, NARROW = 2048, 1024


def moments(dims: int, dtype: type = np.float64) -> dict[str, np.ndarray]:
    """A mean and a covariance of rank one and a diagonal, exact in float32."""
    mu = (np.arange(dims) % 7 - 3).astype(dtype)
    return {"mu": mu, "sigma": (np.outer(mu, mu) / 8 + np.eye(dims)).astype(dtype)}


FID, DINO = moments(WIDE), moments(NARROW)


def npz(save: Callable[..., None] = np.savez_compressed, **arrays: Any) -> bytes:
    save(file := io.BytesIO(), **arrays)
    return file.getvalue()


def read(path: Path, data: bytes) -> dict[str, fid_statistics.FIDStatistics]:
    path.write_bytes(data)
    return fid_statistics.read(path)


def check(
    statistics: fid_statistics.FIDStatistics, expected: dict[str, np.ndarray]
) -> None:
    for value, name in ((statistics.mu, "mu"), (statistics.sigma, "sigma")):
        np.testing.assert_array_equal(value, expected[name].astype(float), strict=True)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("dtype", ["<f8", "<f4", ">f8"])
def test_npz_files(tmp_path: Path, save: Callable[..., None], dtype: str) -> None:
    """TTUR's, pytorch-fid's and EDM's {mu, sigma}; any width of floats and byte order."""
    arrays = {name: value.astype(dtype) for name, value in FID.items()}
    by_metric = read(tmp_path / "a.npz", npz(save, **arrays))
    assert by_metric.keys() == {"fid"}
    assert by_metric["fid"].count is None
    check(by_metric["fid"], FID)


def test_adm_s_files_hold_images_too(tmp_path: Path) -> None:
    images, spatial = np.zeros((9, 4, 4, 3), np.uint8), moments(23)
    others = {"arr_0": images, "mu_s": spatial["mu"], "sigma_s": spatial["sigma"]}
    by_metric = read(tmp_path / "a.npz", npz(**others, **FID))
    check(by_metric["fid"], FID)


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize("count", [{}, {"num_images": 50_000}, {"num_images": np.int64(9)}])
def test_edm2_s_pickles(tmp_path: Path, protocol: int, count: dict[str, Any]) -> None:
    stats = {**count, "fid": FID, "fd_dinov2": DINO}
    by_metric = read(tmp_path / "a.pkl", pickle.dumps(stats, protocol))
    assert list(by_metric) == ["fid", "fd_dinov2"]
    for name, expected in (("fid", FID), ("fd_dinov2", DINO)):
        assert by_metric[name].count == count.get("num_images")
        assert type(by_metric[name].count) in (int, type(None))
        check(by_metric[name], expected)


def test_arrays_are_pickled_in_either_order_of_axes_and_bytes(tmp_path: Path) -> None:
    skew = {"mu": DINO["mu"].astype(">f4"), "sigma": np.asfortranarray(DINO["sigma"])}
    by_metric = read(tmp_path / "a.pkl", pickle.dumps({"fd_dinov2": skew}, 4))
    check(by_metric["fd_dinov2"], DINO)


def test_either_order_of_axes_is_kept() -> None:
    table = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    stored = npz_files.arrays(memoryview(npz(table=table)))["table"]
    np.testing.assert_array_equal(stored.read(), table, strict=True)
    value = pickles.load(memoryview(pickle.dumps(table, 4)), numpy_pickles.NAMES)[0]
    np.testing.assert_array_equal(numpy_pickles.array(value, ("f8",)), table)


class Runs:
    """Pickles as a call, as pickle itself would write it."""

    def __reduce__(self) -> Any:
        return os.system, ("touch pwned",)


def other(**changes: Any) -> dict[str, Any]:
    """DINOv2's moments with others in their place."""
    return {"fd_dinov2": {**DINO, **changes}}


def changed(row: int, column: int, value: float) -> np.ndarray:
    sigma = DINO["sigma"].copy()
    sigma[row, column] = value
    return sigma


def objects() -> bytes:
    return npz(mu=FID["mu"], sigma=np.array([Runs()], object))


def unparsable() -> bytes:
    """The header of mu is no Python literal."""
    return npz(np.savez, **FID).replace(b"'shape': (2048,)", b"'shape': (2048((", 1)


def lying() -> bytes:
    """The header of mu says 10^12 numbers."""
    data = npz(np.savez, mu=np.zeros(4), sigma=np.zeros(4))
    return data.replace(b"(4,), }            ", b"(1000000000000,), }", 1)


def bomb() -> bytes:
    """Half a gigabyte of zeros, which takes seconds to write."""
    return npz(mu=np.zeros(2**26), sigma=np.zeros(2))


HOSTILE: dict[str, tuple[bytes | dict[str, Any] | Callable[[], bytes], str]] = {
    "os.system": (pickle.dumps(Runs(), 4), "'posix.system', which is refused"),
    "os.system in a mean": (other(mu=Runs()), "'posix.system', which is refused"),
    "pickled objects in an NPZ": (objects(), "'sigma.npy' holds pickled objects"),
    "texts in an NPZ": (npz(mu=np.array(["a"]), sigma=FID["mu"]), "'mu.npy' holds no num"),
    "pickled objects": (other(mu=np.array([{}], object)), "must be arrays of numbers"),
    "complex numbers": (other(mu=DINO["mu"] + 0j), "an array of 'c16'"),
    "no arrays": (other(mu=[0.0] * NARROW), "must be arrays of numbers"),
    "a list of metrics": ({"fd_dinov2": [1, 2]}, "fd_dinov2 is not a dict with mu"),
    "no covariance": ({"fd_dinov2": {"mu": DINO["mu"]}}, "not a dict with mu and sigma"),
    "another pickle": ({"ema": 1}, "not a dict with fid or fd_dinov2"),
    "an NPZ of images": (npz(arr_0=np.zeros((2, 4, 4, 3))), "only arr_0"),
    "an NPZ of nothing": (npz(), "not an NPZ: it does not begin like a zip"),
    "a bomb": (bomb, "mu of fid has shape (67108864"),
    "a header that lies": (lying(), "'mu.npy' has 160 bytes, which do not fit (10000000"),
    "a header that is none": (unparsable(), "'mu.npy' has no header of an array"),
    "DINOv2's as an NPZ": (lambda: npz(**DINO), "its features' is (2048,)"),
    "FID's as DINOv2's": ({"fd_dinov2": FID}, "mu of fd_dinov2 has shape (2048,); its"),
    "a covariance of others": (other(sigma=np.eye(3)), "sigma of fd_dinov2 has shape (3"),
    "whole numbers": (other(mu=DINO["mu"].astype(int)), "that are not finite floats"),
    "nan": (other(sigma=changed(5, 5, np.nan)), "sigma of fd_dinov2 has values that are"),
    "infinity": (other(mu=DINO["mu"] + np.inf), "mu of fd_dinov2 has values that are"),
    "half a matrix": (other(sigma=changed(2, 1, 9.0)), "is not symmetric: entries differ"),
    "a negative variance": (other(sigma=changed(3, 3, -0.5)), "a negative variance, -0.5"),
    "half an image": ({**other(), "num_images": 0.5}, "num_images must be a whole number"),
    "no images": ({**other(), "num_images": np.int64(0)}, "num_images must be a whole"),
    "a file cut short": (npz(np.savez, **FID)[:-9], "truncated"),
    "a pickle cut short": (pickle.dumps(other(), 4)[:-9], "truncated"),
    "an empty file": (b"", "the file is empty"),
    "text": (b"mu,sigma\n1,2\n", "not a file of statistics: give an .npz, or"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_it_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data, message = HOSTILE[name]
    data = data() if callable(data) else data
    Path("a").write_bytes(data if type(data) is bytes else pickle.dumps(data, 4))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"^a: ") as error:
            fid_statistics.read("a")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    text = str(error.value)
    assert message in text, text
    assert len(text) < 200
    assert len(text.splitlines()) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert peak < 2**26


def test_damaged_numbers_are_refused(tmp_path: Path) -> None:
    """A bit that is another in an NPZ's numbers: its checksum says so."""
    data = bytearray(npz(np.savez, **FID))
    data[len(data) // 2] ^= 1
    with pytest.raises(
        ValueError, match=r"sigma\.npy is damaged: its checksum does not match"
    ):
        read(tmp_path / "a.npz", bytes(data))


def test_rounding_is_no_asymmetry(tmp_path: Path) -> None:
    """float32's rounding, up to 1e-5 of the largest entry."""
    for off, fits in ((0.9e-5, True), (1.2e-5, False)):
        largest = DINO["sigma"].max()
        data = pickle.dumps(other(sigma=changed(2, 1, DINO["sigma"][1, 2] + off * largest)))
        if fits:
            assert read(tmp_path / "a.pkl", data)
        else:
            with pytest.raises(ValueError, match="not symmetric"):
                read(tmp_path / "a.pkl", data)


def test_no_file() -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no file nothing\.npz"):
        fid_statistics.read("nothing.npz")
