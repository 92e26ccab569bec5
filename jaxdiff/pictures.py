"""Pictures: grids of images as PNG, and curves of a run."""

import json
import math
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from jaxdiff.files import write_atomically

SIDE = 48
"""Pixels that an image in a grid has at least, so that people can see it."""

COLUMNS = 12
"""Images in a line of a sheet that sets several side by side."""

GAP = 2
"""Pixels between images."""


def grid(
    images: UInt8[np.ndarray, "N H W C"], columns: int = 0
) -> UInt8[np.ndarray, "GH GW C"]:
    """N images in rows of `columns` (0: as square as it gets), white between them.

    Images smaller than SIDE are enlarged by a whole factor.
    """
    factor = max(1, SIDE // images.shape[1])
    images = images.repeat(factor, axis=1).repeat(factor, axis=2)
    images = np.pad(images, ((0, 0), (GAP, 0), (GAP, 0), (0, 0)), constant_values=255)
    n, h, w, c = images.shape
    columns = columns or math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    blank = np.full((rows * columns - n, h, w, c), 255, np.uint8)
    cells = np.concatenate([images, blank]).reshape(rows, columns, h, w, c)
    picture = cells.transpose(0, 2, 1, 3, 4).reshape(rows * h, columns * w, c)
    return np.pad(picture, ((0, GAP), (0, GAP), (0, 0)), constant_values=255)


def save_grid(
    path: Path, images: UInt8[np.ndarray, "N H W C"], columns: int = 0
) -> UInt8[np.ndarray, "GH GW C"]:
    """Writes the grid as a PNG, and returns it."""
    picture = grid(images, columns)
    pixels = picture[..., 0] if picture.shape[-1] == 1 else picture
    write_atomically(path, lambda f: Image.fromarray(pixels).save(f, format="PNG"))
    return picture


def save_curves(path: Path, metrics: Path) -> None:
    """Draws loss and learning rate over steps, from a run's metrics.jsonl."""
    from matplotlib.figure import Figure

    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    rows = [row for row in rows if "loss" in row]
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    loss, rate = figure.subplots(1, 2)
    steps = [row["step"] for row in rows]
    loss.plot(steps, [row["loss"] for row in rows], color="tab:blue")
    loss.set(xlabel="step", title="loss")
    rate.plot(steps, [row["learning_rate"] for row in rows], color="tab:orange")
    rate.set(xlabel="step", title="learning rate")
    for axes in (loss, rate):
        axes.grid(alpha=0.3)
    write_atomically(path, lambda f: figure.savefig(f, format="png", dpi=120))
