"""Mean and standard deviation of x0 over a data set, channel by channel.

One pass over what is stored. With m and v the mean and variance of x0 given an image,
which an encoder knows without drawing, and E over images and positions,

    mean = E[m],    std^2 = E[v] + E[m^2] - E[m]^2

computed in float64, block by block about each block's own mean, so that nothing
cancels. An experiment's sigma_data should be `Statistics.sigma_data`.
"""

import dataclasses
import hashlib
import json
import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from jaxtyping import Float

from jaxdiff.data.batches import Dataset, fingerprint
from jaxdiff.data.encoders import Encoder, encoder_of
from jaxdiff.data.skipping import Skipping
from jaxdiff.runtime import jsontext
from jaxdiff.runtime.files import PathLike, cache_folder, write_atomically
from jaxdiff.runtime.progress import bar as progress_bar
from jaxdiff.types.ranges import Finite, NonNegative, Whole

Count = Annotated[int, Whole(1, 10**12)]
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
    count, sums = len(dataset), None
    if not count:
        raise ValueError("the data set has no images, so there is nothing to measure")
    with progress_bar(total=count, unit="img", desc="Measuring", show=progress) as bar:
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


def measured(
    source: Any, dataset: Dataset | None = None, *, progress: bool = False
) -> Statistics:
    """The statistics of a data set's value, from the cache if the same data were measured.

    Otherwise they are measured and cached, with a warning if the cache cannot be written.
    `dataset` is `source.load()`, if it was loaded already.
    """
    dataset = source.load() if dataset is None else dataset
    known = stored(source, dataset)
    if known is None:
        known = measure(dataset, encoder_of(source), progress=progress)
        try:
            keep(source, known, dataset)
        except OSError as error:
            warnings.warn(f"the statistics are not kept: {error}", stacklevel=2)
    return known


def file_of(source: Any, dataset: Dataset | None = None) -> Path:
    """The file of a data set's statistics: in the cache folder, never beside the data.

    Its name is a hash of the settings that change them and of the data's fingerprint, by
    dates, sizes or checksums: changed data get another file, moved data do not.
    """
    dataset = source.load() if dataset is None else dataset
    images = dataset.source.of if isinstance(dataset.source, Skipping) else dataset.source
    key = f"{_name(source)} {fingerprint(images)}"
    name = hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()[:16]
    return cache_folder() / "statistics" / f"{name}.json"


def stored(source: Any, dataset: Dataset | None = None) -> Statistics | None:
    """The cached statistics of the same data; None without any.

    A damaged file is ignored with a warning.
    """
    path = file_of(source, dataset)
    try:
        row = jsontext.loads(path.read_bytes(), "it")
        row = {k: tuple(v) if isinstance(v, list) else v for k, v in row.items()}
        of = {"mean": tuple[Finite, ...], "std": tuple[NonNegative, ...]}
        count, mean, std = jsontext.fields(row, "it", count=Count, **of)
        if not mean or len(mean) != len(std):
            raise ValueError(f"it has {len(mean)} means and {len(std)} stds")
        return Statistics(count, tuple(map(float, mean)), tuple(map(float, std)))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        warnings.warn(f"{path} is damaged ({error}): measuring again", stacklevel=2)
        return None


def keep(source: Any, statistics: Statistics, dataset: Dataset | None = None) -> Path:
    """Writes them where `stored` finds them, and returns the path.

    Raises:
        OSError: it cannot be written there.
    """
    path = file_of(source, dataset)
    row = {"data": _name(source), **dataclasses.asdict(statistics)}
    text = json.dumps(row, indent=1).encode()
    write_atomically(path, lambda file: file.write(text))
    return path


def try_to_keep(source: Any, statistics: Statistics, dataset: Dataset) -> str:
    """Writes them if possible; returns a line with the path, or the reason why not."""
    try:
        return f"kept in {keep(source, statistics, dataset)}"
    except OSError as error:
        return f"not kept, as the cache folder cannot be written to: {error}"


def save(path: PathLike, statistics: Statistics) -> None:
    """Writes them as JSON, with sigma_data: for a run's folder."""
    row = dataclasses.asdict(statistics) | {"sigma_data": statistics.sigma_data}
    text = json.dumps(row, indent=1).encode()
    write_atomically(path, lambda file: file.write(text))


def _name(source: Any) -> str:
    """The data set with the settings that change its statistics, so without its path."""
    hidden = ("path", "cache", "data_dir", "flip", "on_error")
    fields = [f.name for f in dataclasses.fields(source) if f.compare]
    settings = {name: getattr(source, name) for name in fields if name not in hidden}
    text = lambda v: _name(v) if dataclasses.is_dataclass(v) else repr(v)
    named = ", ".join(f"{k}={text(v)}" for k, v in settings.items())
    return f"{type(source).__name__}({named})"
