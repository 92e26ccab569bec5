"""A summary of a data set: lines for people, and an identity that is kept with a run.

`describe` has the lines that a run prints when it starts. `identity` must stay the same
when a run is resumed; it leaves out the path, so data may be moved.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Int

from jaxdiff.data.batches import Dataset, Images, LeftOut
from jaxdiff.data.skipping import Skipping
from jaxdiff.data.sources.folder import Files

SHOWN = 12
"""Classes that are listed one by one; of more, the first ones and the last."""


def describe(dataset: Dataset) -> list[str]:
    """Lines for people: the images and their size, the classes, and what is not used.

    Images of a class are counted where the source holds its labels apart from its images,
    so nothing is decoded.

    >>> from jaxdiff.data.batches import Memory
    >>> image, label = np.zeros([3, 8, 8, 1], np.uint8), np.array([0, 1, 1], np.int32)
    >>> print("\\n".join(describe(Dataset(Memory(image, label), ("cat", "dog")))))
    3 images, 8 x 8 x 1
    2 classes: 'cat' (1), 'dog' (2)
    """
    count, sides = len(dataset), " x ".join(map(str, dataset.shape))
    lines = [f"{count:,} image{'s' * (count != 1)}, {sides}"]
    lines += _classes(dataset)
    return lines + left_out_lines(dataset.left_out)


def left_out_lines(left_out: Mapping[str, LeftOut]) -> list[str]:
    """A line for each reason for which files are not used."""
    return [
        f"left out: {reason} ({left.count:,}, such as {left.example!r})"
        for reason, left in sorted(left_out.items())
    ]


def _classes(dataset: Dataset) -> list[str]:
    """The names of the classes, each with how many images it has."""
    names, label = dataset.classes, labels_of(dataset.source)
    if not names:
        return ["no classes: training is unconditional"]
    counts = None
    if label is not None:
        counts = np.bincount(label[label >= 0], minlength=len(names))
    numbers = range(len(names))
    if len(names) > SHOWN:
        numbers = [*range(SHOWN // 2), -1, len(names) - 1]
    each = [
        "..."
        if i < 0
        else f"{names[i]!r}" + ("" if counts is None else f" ({counts[i]:,})")
        for i in numbers
    ]
    lines = [f"{len(names):,} class{'es' * (len(names) != 1)}: {', '.join(each)}"]
    if counts is not None and len(names) > SHOWN:
        lines.append(f"images of a class: {counts.min():,} to {counts.max():,}")
    if counts is not None and (empty := np.flatnonzero(counts == 0)).size:
        lines.append(
            f"{len(empty):,} of the classes have no image, such as {names[empty[0]]!r}"
        )
    if label is not None and (missing := int((label < 0).sum())):
        lines.append(f"{missing:,} of the images have no label")
    if moved := _renumbered(dataset):
        lines.append(
            f"labels follow the numbers of the folders: label {moved[0]} is "
            f"{names[moved[0]]!r}, and was {sorted(names)[moved[0]]!r} in version 0.1, "
            "whose runs on these data should not be resumed"
        )
    return lines


def _renumbered(dataset: Dataset) -> list[int]:
    """The labels that are other folders than in version 0.1, which sorted them as text."""
    source = dataset.source
    source = source.of if isinstance(source, Skipping) else source
    if not (isinstance(source, Files) and source.from_folders):
        return []
    pairs = zip(dataset.classes, sorted(dataset.classes), strict=True)
    return [i for i, (now, before) in enumerate(pairs) if now != before]


def labels_of(source: Images) -> Int[np.ndarray, " N"] | None:
    """The labels of all images, -1 = none; None where they are read with the images."""
    source = source.of if isinstance(source, Skipping) else source
    label = getattr(source, "label", None)
    return None if label is None else np.asarray(label)


def identity(dataset: Dataset) -> dict[str, Any]:
    """What must stay the same when a run is resumed: a dict that JSON can hold.

    Names of the classes in the order of their labels, number of images, and height, width
    and channels of what is stored of one.

    >>> from jaxdiff.data import Digits
    >>> identity(Digits("test").load())["count"], identity(Digits("test").load())["shape"]
    (300, [8, 8, 1])
    """
    return {
        "classes": list(dataset.classes),
        "count": len(dataset),
        "shape": list(dataset.shape),
    }


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """How two identities differ, in one line; "" where they are the same.

    >>> one = {"classes": ["cat"], "count": 3, "shape": [8, 8, 3]}
    >>> differences(one, one | {"classes": ["bird", "cat"], "count": 5})
    "label 0 was 'cat', now 'bird'; there was 1 class, now 2; there were 3 images, now 5"
    """
    lines = []
    names, others = before.get("classes", []), now.get("classes", [])
    changed = [
        i for i, pair in enumerate(zip(names, others, strict=False)) if len({*pair}) > 1
    ]
    if changed:
        i = changed[0]
        more = f", and {len(changed) - 1} more labels changed" if len(changed) > 1 else ""
        more += ": the same names in another order" * (sorted(names) == sorted(others))
        lines.append(f"label {i} was {names[i]!r}, now {others[i]!r}{more}")
    if len(names) != len(others):
        lines.append(f"{_were(len(names), 'class', 'classes')}, now {len(others):,}")
    if before.get("count") != now.get("count"):
        lines.append(f"{_were(before['count'], 'image', 'images')}, now {now['count']:,}")
    if list(before.get("shape", ())) != list(now.get("shape", ())):
        old, new = (" x ".join(map(str, side["shape"])) for side in (before, now))
        lines.append(f"an image was {old}, now {new}")
    return "; ".join(lines)


def _were(count: int, one: str, many: str) -> str:
    return f"there was 1 {one}" if count == 1 else f"there were {count:,} {many}"
