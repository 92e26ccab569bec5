"""Mean and standard deviation of x0 over a data set, channel by channel.

One pass over what is stored. With m and v the mean and variance of x0 given an image,
which an encoder knows without drawing, and E over images and positions,

    mean = E[m],    std^2 = E[v] + E[m^2] - E[m]^2

computed in float64, block by block about each block's own mean, so that nothing
cancels. An experiment's sigma_data should be what `Statistics.sigma_data` says.
"""

import dataclasses
import json
import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxdiff.data.batches import Dataset
from jaxdiff.data.encoders import Encoder, encoder_of
from jaxdiff.files import PathLike, cache_folder, place, write_atomically

BLOCK = 64
"""Images that are added at a time."""


@dataclass(frozen=True)
class Statistics:
    """Of `count` images: mean and std of each channel of x0, in the units of x0.

    >>> Statistics(10, mean=(1.0, -1.0), std=(0.0, 0.0)).sigma_data
    1.0
    """

    count: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def sigma_data(self) -> float:
        """The standard deviation of all elements about their common mean.

        Its square is the mean of the channels' variances and the variance of their means.
        """
        return math.sqrt(np.mean(np.square(self.std)) + np.var(self.mean))


@dataclass(frozen=True, eq=False)
class Sums:
    """How many elements a channel had, their mean, and the sum of squares about it."""

    n: int
    mean: Float[np.ndarray, " C"]
    square: Float[np.ndarray, " C"]

    def __add__(self, other: "Sums") -> "Sums":
        n, apart = self.n + other.n, other.mean - self.mean
        share = other.n / n
        square = self.square + other.square + apart**2 * self.n * share
        return Sums(n, self.mean + apart * share, square)


def measure(dataset: Dataset, encoder: Encoder, *, progress: bool = False) -> Statistics:
    """Reads every image once.

    Raises:
        ValueError: an empty data set.
    """
    from tqdm import tqdm

    count, sums = len(dataset), None
    if not count:
        raise ValueError("the data set has no images, so there is nothing to measure")
    disable = None if progress else True
    with tqdm(total=count, unit="img", desc="Measuring", disable=disable) as bar:
        for first in range(0, count, BLOCK):
            numbers = range(first, min(first + BLOCK, count))
            stored = np.stack([dataset.source[i]["image"] for i in numbers])
            block = _sums(*encoder.moments(stored))
            sums = block if sums is None else sums + block
            bar.update(len(numbers))
    std = np.sqrt(sums.square / sums.n)
    return Statistics(count, tuple(sums.mean.tolist()), tuple(std.tolist()))


def _sums(
    mean: Float[np.ndarray, "B H W C"], variance: Float[np.ndarray, "B H W C"]
) -> Sums:
    mean, variance = (a.reshape(-1, a.shape[-1]) for a in (mean, variance))
    centre = mean.mean(0)
    return Sums(len(mean), centre, ((mean - centre) ** 2 + variance).sum(0))


def measured(source: Any, *, progress: bool = False) -> Statistics:
    """The statistics of a data set's value, from the file beside its data if it is there.

    They are measured if they are not there, or are of another number of images, and kept
    where a file can be written. Of other changes to the data nothing is noticed.
    """
    dataset = source.load()
    found = stored(source)
    if found is None or found.count != len(dataset):
        found = measure(dataset, encoder_of(source), progress=progress)
        try:
            keep(source, found)
        except OSError as error:
            warnings.warn(f"the statistics are not kept: {error}", stacklevel=2)
    return found


def file_of(source: Any) -> Path:
    """Where a data set's statistics are kept: beside its data.

    `statistics.json` in a folder, NAME.statistics.json beside a file NAME.npz, and in the
    cache folder for data that come with a package.
    """
    if not getattr(source, "path", ""):
        return cache_folder() / "statistics.json"
    path = place(source.path)
    return path / "statistics.json" if path.is_dir() else path.with_suffix(SUFFIX)


SUFFIX = ".statistics.json"


def stored(source: Any) -> Statistics | None:
    """What was measured before; None if nothing was.

    Raises:
        ValueError: the file is damaged.
    """
    row = _rows(file_of(source)).get(_name(source))
    if row is None:
        return None
    try:
        return Statistics(int(row["count"]), tuple(row["mean"]), tuple(row["std"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{file_of(source)} is damaged ({error!r}): delete it, to measure again"
        ) from error


def keep(source: Any, statistics: Statistics) -> None:
    """Writes them where `stored` finds them; those of other settings stay."""
    rows = _rows(file_of(source)) | {_name(source): dataclasses.asdict(statistics)}
    text = json.dumps(rows, indent=1).encode()
    write_atomically(file_of(source), lambda file: file.write(text))


def save(path: PathLike, statistics: Statistics) -> None:
    """Writes them as JSON, with sigma_data: for a run's folder."""
    row = dataclasses.asdict(statistics) | {"sigma_data": statistics.sigma_data}
    text = json.dumps(row, indent=1).encode()
    write_atomically(path, lambda file: file.write(text))


def _rows(path: Path) -> dict[str, Any]:
    try:
        rows = json.loads(path.read_text()) if path.exists() else {}
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: delete it, to measure again") from error
    if not isinstance(rows, dict):
        raise ValueError(f"{path} is no table: delete it, to measure again")
    return rows


def _name(source: Any) -> str:
    """The data set with the settings that change its statistics: not where it lies."""
    hidden = ("path", "cache", "data_dir", "flip", "on_error")
    settings = {f.name: getattr(source, f.name) for f in dataclasses.fields(source)}
    named = ", ".join(f"{k}={v!r}" for k, v in settings.items() if k not in hidden)
    return f"{type(source).__name__}({named})"
