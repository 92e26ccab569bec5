"""Metrics of images with known faults, split by split.

Of every split one half are the real images, and scored against them are

    faults   the other half degraded, level by level, or without some classes
    sizes    N images of the other half against N real ones: all bias
    traps    a quarter, in place of fresh images; the last is held out, for `copied`
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, Shaped

from jaxdiff.data.batches import Dataset
from jaxdiff.evaluation.distances import Moments
from jaxdiff.evaluation.memorization import copies
from jaxdiff.evaluation.metrics import score
from jaxdiff.evaluation.reference import Observed, Seen
from jaxdiff.evaluation.sanity.corruptions import CORRUPTIONS, Images
from jaxdiff.evaluation.sanity.splits import Numbers, Split, deal, dealt, kept
from jaxdiff.evaluation.sanity.traps import TRAPS
from jaxdiff.runtime.progress import bar

Values = dict[str, list[float]]
"""Of each metric, a number for each split."""
Look = Callable[[Images], Observed]

DROPPED = (1, 2, 4)
"""How many classes are missing, the rarest or the commonest first. All levels are of one
size, 0 too, since a Frechet distance falls with the size."""
SIZES = (100, 200, 500, 1000, 2000, 5000, 10000)
LEAST = 12
"""Images of a set: well more than the neighbours that metrics look at."""
FRESH = "fresh images"


@dataclass(frozen=True, eq=False)
class Fault:
    """Metrics under one fault: of each level, of which the first, 0, is clean.

    >>> scores = {"fd_lite0": [1.0, 3.0]}, {"fd_lite0": [4.0, 6.0]}
    >>> Fault("pixels", (0, 2), scores).means("fd_lite0")
    [2.0, 5.0]
    """

    unit: str
    levels: tuple[float | int, ...]
    scores: tuple[Values, ...]

    def means(self, metric: str) -> list[float]:
        """Of each level, over splits."""
        return [float(np.mean(scores[metric])) for scores in self.scores]


@dataclass(frozen=True, eq=False)
class Study:
    """All that was measured; lists of values are over splits.

    >>> clean = {"fd_pixels8": [1.0, 1.2]}
    >>> blur = {"blur": Fault("pixels", (0, 1), (clean, {"fd_pixels8": [2.0, 2.2]}))}
    >>> sizes, traps = {2: clean, 4: clean}, {FRESH: clean}
    >>> of_8 = Study(8, (8, 8, 3), ("pixels8",), 2, blur, sizes, traps)
    >>> of_8.half, of_8.metrics
    (4, ['fd_pixels8'])
    """

    images: int
    shape: tuple[int, ...]
    extractors: tuple[str, ...]
    splits: int
    faults: Mapping[str, Fault]
    sizes: Mapping[int, Values]
    """By the number of images; the last is half of all."""
    traps: Mapping[str, Values]
    """Fresh images first, of every turn of every split."""

    @property
    def half(self) -> int:
        """Images that are the reference, and that are degraded."""
        return max(self.sizes)

    @property
    def metrics(self) -> list[str]:
        """The names of all but `copied`, which traps alone have."""
        return list(self.sizes[self.half])


def study(
    data: Dataset,
    look: Look,
    family: Shaped[np.ndarray, " N"] | None = None,
    *,
    number: int = 2000,
    splits: int = 4,
    seed: int = 0,
) -> Study:
    """Everything, with at most `number` images in a half; `look` makes the features.

    Images of one `family` stay together; without families, all are independent.

    Raises:
        ValueError: too few images.

    >>> from jaxdiff.data import Digits
    >>> study(Digits("test").load(), look=lambda images: None, number=20)
    Traceback (most recent call last):
    ValueError: 40 images are too few: give 60 or more
    """
    family = np.arange(len(data)) if family is None else family
    used = np.sort(dealt(family, 1, seed)[0][: 2 * number])
    every = data.take(used)
    image, label = every["image"], every["label"]
    deals = [deal(family[used], (seed, s)) for s in range(splits)]
    if len(deals[0].quarters[0]) < LEAST:
        raise ValueError(f"{len(used)} images are too few: give {5 * LEAST} or more")
    clean = look(image)
    return Study(
        images=len(image),
        shape=image.shape[1:],
        extractors=tuple(clean.seen),
        splits=splits,
        faults=of_faults(clean, image, look, deals, seed) | of_missing(clean, label, deals),
        sizes=of_sizes(clean, deals),
        traps=of_traps(clean, image, look, deals, seed),
    )


def of_faults(
    clean: Observed, image: Images, look: Look, deals: Sequence[Split], seed: int
) -> dict[str, Fault]:
    """Half of the images against the other half, degraded."""
    against, by_name = _against(clean, deals), {}
    other = [split.other for split in deals]
    none = against(clean, other)
    coloured = image.shape[-1] == 3
    faults = {n: c for n, c in CORRUPTIONS.items() if coloured or not c.of_colour}
    done = bar(total=sum(len(c.levels) for c in faults.values()), desc="faults")
    for i, (name, fault) in enumerate(faults.items()):
        scores = [none]
        for k, level in enumerate(fault.levels):
            scores.append(against(look(fault(image, level, (seed, i, k))), other))
            done.update()
        by_name[name] = Fault(fault.unit, (0, *fault.levels), tuple(scores))
    done.close()
    return by_name


def of_missing(clean: Observed, label: Numbers, deals: Sequence[Split]) -> dict[str, Fault]:
    """Half of the images against the other, without its rarest or commonest classes."""
    against, by_name = _against(clean, deals), {}
    classes, counts = np.unique(label, return_counts=True)
    rare = classes[np.argsort(counts, kind="stable")]
    levels = (0, *(level for level in DROPPED if level < len(classes)))
    for which, order in (("rare", rare), ("common", rare[::-1])):
        left = [[kept(s.other, label, order[:level]) for s in deals] for level in levels]
        size = min(len(numbers) for numbers in left[-1])
        if len(levels) > 1 and size >= LEAST:
            scores = tuple(against(clean, [n[:size] for n in level]) for level in left)
            unit = f"of {len(classes)}, {size} images"
            by_name[f"missing {which} classes"] = Fault(unit, levels, scores)
    return by_name


def of_sizes(clean: Observed, deals: Sequence[Split]) -> dict[int, Values]:
    """Half against half, N images of each, up to four times a split."""
    half, by_size = len(deals[0].real), {}
    for size in [*(n for n in SIZES if n < half), half]:
        starts = range(0, half - size + 1, size)[:4]
        spans = [(s, slice(a, a + size)) for s in deals for a in starts]
        pairs = [
            (rows(clean, s.real[span]), rows(clean, s.other[span])) for s, span in spans
        ]
        by_size[size] = together([score(real=a, fake=b) for a, b in pairs])
    return by_size


def of_traps(
    clean: Observed, image: Images, look: Look, deals: Sequence[Split], seed: int
) -> dict[str, Values]:
    """Fresh images, and traps that may know the real ones."""

    def judged(seen: Observed, x: Images, split: Split) -> dict[str, float]:
        near = copies(x, image[split.real], image[split.quarters[3]])
        metrics = score(real=rows(clean, split.real), fake=seen)
        return metrics | {"copied": near.copied}

    turns = [turn for split in deals for turn in split.turns]
    done = bar(total=len(turns) + len(TRAPS) * len(deals), desc="traps")
    scores = []
    for turn in turns:
        new = turn.quarters[2]
        scores.append(judged(rows(clean, new), image[new], turn))
        done.update()
    by_trap = {FRESH: together(scores)}
    for k, (name, trap) in enumerate(TRAPS.items()):
        scores = []
        for s, split in enumerate(deals):
            x = trap(image[split.real], image[split.quarters[2]], (seed, k, s))
            scores.append(judged(look(x), x, split))
            done.update()
        by_trap[name] = together(scores)
    done.close()
    return by_trap


def rows(observed: Observed, numbers: Int[np.ndarray, " N"]) -> Observed:
    """The features of some of the images."""
    seen = {}
    for name, all_of in observed.seen.items():
        features = all_of.features[numbers]
        seen[name] = Seen(all_of.extractor, Moments.of(features), features)
    return Observed(observed.source, observed.shape, seen)


def together(scores: Sequence[Mapping[str, float]]) -> Values:
    """Of each metric, the list of its values."""
    return {name: [metrics[name] for metrics in scores] for name in scores[0]}


def _against(
    clean: Observed, deals: Sequence[Split]
) -> Callable[[Observed, Sequence[Numbers]], Values]:
    """(features, their rows in each split) -> metrics against the split's real images."""
    real = [rows(clean, split.real) for split in deals]
    return lambda seen, numbers: together(
        [score(real=r, fake=rows(seen, n)) for r, n in zip(real, numbers, strict=True)]
    )
