"""Pictures: grids of images as PNG, and curves of a run."""

import json
import math

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from jaxdiff.files import Place, write_atomically

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
    path: Place, images: UInt8[np.ndarray, "N H W C"], columns: int = 0
) -> UInt8[np.ndarray, "GH GW C"]:
    """Writes the grid as a PNG, and returns it."""
    picture = grid(images, columns)
    pixels = picture[..., 0] if picture.shape[-1] == 1 else picture
    write_atomically(path, lambda f: Image.fromarray(pixels).save(f, format="PNG"))
    return picture


def save_curves(path: Place, metrics: Place) -> None:
    """Draws loss and learning rate over steps, and quality if any, from a metrics.jsonl."""
    from matplotlib.figure import Figure

    every = [json.loads(line) for line in metrics.read_text().splitlines()]
    panels = [("loss", "loss"), ("learning_rate", "learning rate")]
    first = next((row for row in every if "loss" not in row), {})
    panels += [(name, name) for name in first if name.startswith(("fd_", "fid_"))][:1]
    figure = Figure(figsize=(3.5 * len(panels), 3.2), layout="constrained")
    colours = ("tab:blue", "tab:orange", "tab:green")
    for axes, (name, title), colour in zip(
        figure.subplots(1, len(panels)), panels, colours, strict=False
    ):
        rows = [row for row in every if name in row]
        axes.plot([r["step"] for r in rows], [r[name] for r in rows], color=colour)
        axes.set(xlabel="step", title=title)
        axes.grid(alpha=0.3)
    write_atomically(path, lambda f: figure.savefig(f, format="png", dpi=120))
