"""Metrics of one set of images against another, each with its extractor in its name.

    fd_*, fid_*      Frechet distance of features: fid_* is the one of an InceptionV3
    kid_*, rbf_*     unbiased MMD^2: a cubic kernel, and a Gaussian one
    precision_*, recall_*, density_*, coverage_*      neighbourhoods of features, k = 5
    is_*             inception score, of networks that name classes
    brightness       mean of the images less that of the real ones, in grey levels
    copied           share of copies of training images, where others are held out
    ...              those that `register_metric` adds

* is the extractor, so `fd_lite0`, `fid_tf`, `kid_dinov2`. None of them is enough alone: a
Gaussian has a good Frechet distance of pixels, white images have a good precision, and
copies of the training images are perfect by all of them (see `memorization.copies`).
"""

import functools
import re
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxdiff.evaluation import distances
from jaxdiff.evaluation.extractors.extractor import Extractor
from jaxdiff.evaluation.reference import ORIGIN, Observed, Seen
from jaxdiff.types.ranges import quote

_BETTER: dict[str, int] = {
    "fd": -1, "fid": -1, "kid": -1, "rbf": -1, "precision": 1, "recall": 1, "density": 1,
    "coverage": 1, "is": 1, "brightness": 0, "copied": 0,
}  # fmt: skip
BETTER: Mapping[str, int] = types.MappingProxyType(_BETTER)
"""By the first part of a metric's name: is less better (-1), more (1), or nearer to what
real images have (0)?"""

Distance = Callable[..., Any]
"""(real features [N, D], fake features [M, D]), both float32 NumPy arrays -> a number."""

_OWN: dict[str, Distance] = {}
"""The metrics that were registered, by name."""


def register_metric(name: str, better: int = -1) -> Callable[[Distance], Distance]:
    """A decorator of functions: `score` measures it too, of every extractor with features.

    It is called f(real, fake) with features [N, D] and [M, D], and reported as
    "NAME_EXTRACTOR". `better` says whether less (-1) or more (1) is better, or what is
    nearer to real images (0).

    Raises:
        ValueError: a name that is not of small letters and digits, or is another metric's.

    >>> @register_metric("meangap")
    ... def mean_gap(real, fake):
    ...     return np.linalg.norm(real.mean(0) - fake.mean(0))
    >>> BETTER["meangap"]  # less is better
    -1
    >>> del _OWN["meangap"], _BETTER["meangap"]  # forgets it
    """
    if not re.fullmatch("[a-z][a-z0-9]*", name):
        raise ValueError(
            f"a metric's name is of small letters and digits, as mygap, got {quote(name)}"
        )
    if better not in (-1, 0, 1):
        raise ValueError(f"better must be -1, 0 or 1, got {quote(better)}")

    def register(distance: Distance) -> Distance:
        there = _OWN.get(name)
        if name in BETTER and getattr(there, "__qualname__", "") != distance.__qualname__:
            raise ValueError(
                f"there is a metric {name} already: give this one another name"
            )
        _OWN[name], _BETTER[name] = distance, better
        return distance

    return register


NEIGHBOURS = 5
"""Nearest neighbours that precision, recall, density and coverage are measured with."""
MANY = 10_000
"""Images from which the inception score is the mean of ten parts, as published."""


def score(*, real: Observed, fake: Observed) -> dict[str, float]:
    """Every metric that both sets have the features for, by name.

    Raises:
        ValueError: the sets have no extractor in common, one differs between them, or a
            set has too few images for the neighbours.

    >>> from jaxdiff.evaluation import in_memory, observe
    >>> from jaxdiff.evaluation.extractors.extractor import extractor
    >>> from jaxdiff.runtime.sharding import data_mesh
    >>> grey = np.random.default_rng(0).integers(0, 200, (12, 8, 8, 1)).astype(np.uint8)
    >>> looks = [extractor("pixels8")], data_mesh()
    >>> real = observe(in_memory(grey), *looks)
    >>> metrics = score(real=real, fake=observe(in_memory(grey + np.uint8(5)), *looks))
    >>> round(metrics["brightness"], 3), round(metrics["fd_pixels8"], 4)  # 192 (2 / 51)^2
    (5.0, 0.2953)
    """
    require_alike(real, [seen.extractor for seen in fake.seen.values()])
    shared = [name for name in fake.seen if name in real.seen]
    metrics: dict[str, float] = {}
    for name in shared:
        ours, theirs = fake.seen[name], real.seen[name]
        short = name.removeprefix("inception_")
        metrics |= {f"{kind}_{short}": v for kind, v in _of_one(theirs, ours, name).items()}
    if "pixels8" in shared:
        gap = fake.seen["pixels8"].moments.mean - real.seen["pixels8"].moments.mean
        metrics["brightness"] = float(gap.mean() * 127.5)
    return metrics


def _of_one(real: Seen, fake: Seen, name: str) -> dict[str, float]:
    """The metrics of one extractor."""
    frechet = "fid" if name.startswith("inception_") else "fd"
    metrics = {frechet: fake.gaussian.frechet(_reference(real))}
    if fake.probabilities is not None:
        splits = 10 if len(fake.probabilities) >= MANY else 1
        metrics["is"] = distances.inception_score(fake.probabilities, splits).value
    if real.features is None or fake.features is None:
        return metrics
    both = {"real": real.features, "fake": fake.features}
    metrics["kid"] = distances.kid(**both).value
    metrics["rbf"] = distances.rbf_mmd(**both).value
    manifold = distances.prdc(**both, k=NEIGHBOURS)
    names = ("precision", "recall", "density", "coverage")
    metrics |= {key: getattr(manifold, key) for key in names}
    return metrics | {
        key: float(f(real.features, fake.features)) for key, f in _OWN.items()
    }


@functools.lru_cache(maxsize=8)
def _reference(real: Seen) -> distances.Gaussian:
    """The reference's Gaussian, factored once for all that is compared with it."""
    return real.gaussian


def require_alike(real: Observed, extractors: Sequence[Extractor]) -> None:
    """Checks that a reference's features were made by the same extractors.

    Raises:
        ValueError: it has none of them, or one with other weights or preparation.
    """
    if not any(extractor.name in real.seen for extractor in extractors):
        raise ValueError(
            f"the reference has features of {', '.join(real.seen)}, the images of "
            f"{', '.join(e.name for e in extractors)}: use one extractor for both"
        )
    for ours in extractors:
        if ours.name not in real.seen:
            continue
        theirs = real.seen[ours.name].extractor
        for key in ORIGIN:
            there, here = getattr(theirs, key), getattr(ours, key)
            unknown = key == "sha256" and not there  # published statistics lack it
            if there != here and not unknown:
                raise ValueError(
                    f"the reference's {ours.name} has {key} {there!r}, the images' "
                    f"{here!r}: numbers of different protocols do not compare; make the "
                    "reference again with jaxdiff reference"
                )


def summary(blocks: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Mean, minimum, maximum and spread (standard deviation) over blocks of samples.

    >>> summary([{"fd_lite0": 1.0}, {"fd_lite0": 3.0}])["fd_lite0"]["mean"]
    2.0
    """
    table = {}
    for name in blocks[0]:
        values = np.array([block[name] for block in blocks])
        spread = float(values.std(ddof=1)) if len(values) > 1 else float("nan")
        table[name] = {
            "mean": float(values.mean()),
            "min": float(values.min()),
            "max": float(values.max()),
            "spread": spread,
        }
    return table
