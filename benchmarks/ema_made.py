"""One of a run's averages made of the others' snapshots, beside itself as tracked.

Its weights, |made - tracked| / |tracked|, the tracked one in float32; and what is drawn
with it from the same seeds.
"""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import study
from flax import traverse_util
from jaxtyping import PyTree, UInt8
from tqdm import tqdm

from jaxdiff.analysis import image_grid
from jaxdiff.runs import ema_lengths, restoring, snapshots

CADENCES = (1, 2, 4, 8)
"""Of how many snapshots one is used."""
SHEET = 2
"""Rows of the sheet, of each of its three kinds."""

Stds = Sequence[float]
Images = UInt8[np.ndarray, "N 8 8 1"]


def made_of(
    run: Path, stds: Stds, every: int, target: float
) -> tuple[snapshots.Snapshot, float]:
    """An average made of every n-th snapshot of some widths, and its profile's error."""
    entries = [e for e in snapshots.entries(run / snapshots.TRACKED) if e.std in stds]
    steps = sorted({e.step for e in entries})[::-1][::every]
    entries = [e for e in entries if e.step in steps]
    times, widths = [e.step for e in entries], [e.std for e in entries]
    with tempfile.TemporaryDirectory() as folder:
        for entry in entries:
            (Path(folder) / entry.path.name).symlink_to(entry.path.absolute())
        (made,) = snapshots.reconstruct(Path(folder), [target])
    return made, float(ema_lengths.profile_errors(times, widths, made.step, [target])[0])


def differences(made: PyTree, exact: PyTree) -> dict[str, Any]:
    """|made - exact| / |exact| of all arrays together, and the largest of any one.

    >>> differences({"a": np.ones(3), "b": np.ones(1)}, {"a": np.ones(3), "b": -np.ones(1)})
    {'whole': 1.0, 'largest': 2.0, 'tensor': 'b'}
    """
    flat = lambda tree: traverse_util.flatten_dict(tree, sep="/")
    made, exact = flat(made), flat(exact)
    square = lambda a: float(np.sum(np.square(np.asarray(a, np.float64))))
    lack = {k: square(np.asarray(made[k], np.float64) - exact[k]) for k in exact}
    own = {k: square(exact[k]) for k in exact}
    of = {k: (lack[k] / own[k]) ** 0.5 for k in exact if own[k]}
    worst = max(of, key=of.__getitem__)
    whole = (sum(lack.values()) / sum(own.values())) ** 0.5
    return {"whole": whole, "largest": of[worst], "tensor": worst}


def weights_key(target: float, stds: Stds, every: int) -> dict[str, Any]:
    """What a row of weights is found by; every = 0 is a tracked width as it is."""
    return {"what": "weights", "std": target, "of": [*stds], "every": every}


def weights_rows(stds: Stds) -> list[tuple[float, list[float], int]]:
    """(width, the widths it is made of, cadence); the last for scale."""
    others = lambda std: [other for other in stds if other != std]
    rows = [(std, others(std), every) for std in stds[::-1] for every in CADENCES]
    return [*rows, (stds[-1], [stds[-2]], 0)]


def tracked(run: Path, std: float) -> PyTree:
    """A tracked average at the end of the run, float32."""
    return jax.device_get(restoring.restore(run, std=std).variables)


def measure_weights(book: study.Book, run: Path, stds: Stds) -> None:
    """Errors of weights made of others."""
    rows = weights_rows(stds)
    missing = [row for row in rows if not book.find(**weights_key(*row))]
    for std, of, every in tqdm(missing, desc="weights", disable=None):
        if every:
            made, error = made_of(run, of, every, std)
            params, errors = made.variables["params"], {"profile_error": error}
        else:
            params, errors = tracked(run, of[0])["params"], {}
        errors |= differences(params, tracked(run, std)["params"])
        book.write(weights_key(std, of, every), errors)


def measure_images(
    book: study.Book, run: Path, stds: Stds, draw: Callable[[PyTree], Images]
) -> None:
    """Differences of pixels, and a sheet: tracked, made, and for scale another width."""
    *narrow, std = stds
    key = {"what": "images", "std": std}
    if book.find(**key):
        return
    made, _ = made_of(run, narrow, CADENCES[0], std)
    sources = (tracked(run, std), made.variables, tracked(run, narrow[-1]))
    exact, *others = (draw(variables) for variables in sources)
    results = {}
    for name, images in zip(("made", "other"), others, strict=True):
        apart = np.abs(images.astype(int) - exact)
        results[name] = {
            "mean": float(apart.mean()),
            "largest": int(apart.max()),
            "beyond_8": float(np.mean(apart > 8)),
        }
    rows = (slice(10 * i, 10 * i + 10) for i in range(SHEET))
    sheet = np.concatenate([images[row] for row in rows for images in (exact, *others)])
    path = study.command.folder(study.OUT) / "ema_lengths_samples.png"
    image_grid.save_grid(path, sheet, columns=10)
    book.write(key, results)


def print_tables(book: study.Book, stds: Stds) -> None:
    """Errors of weights, by cadence: of all, of the worst tensor, and of the profile."""
    rows = []
    for std in stds[::-1]:
        of = [other for other in stds if other != std]
        errors = [book.find(**weights_key(std, of, every)) for every in CADENCES]
        for name in ("whole", "largest", "profile_error"):
            cells = [f"{row[name]:.3%}" for row in errors]
            rows.append([f"{std:g} of {of[0]:g} and {of[1]:g}: {name}", *cells])
    print(study.table(["of every n-th snapshot, n =", *map(str, CADENCES)], rows))
    scale = book.find(**weights_key(stds[-1], [stds[-2]], 0))
    print(f"\n{stds[-2]:g} from {stds[-1]:g}: {scale['whole']:.2%}")
    pixels = book.find(what="images", std=stds[-1])
    for name, of in (("made", "made of the others"), ("other", f"{stds[-2]:g}")):
        numbers = ", ".join(f"{k} {v:.3g}" for k, v in pixels[name].items())
        print(f"pixels of {stds[-1]:g} from {of}: {numbers}")
