"""One small data set of each kind, and a fake tensorflow_datasets that has one too."""

import io
import json
import types
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jaxdiff import data
from jaxdiff.data import prepare

COUNT, SIZE, CLASSES = 12, 8, ("cat", "dog")
PIXELS = np.random.default_rng(0).integers(0, 256, (COUNT, SIZE, SIZE, 3), np.uint8)
LABELS = np.arange(COUNT) % 2
SEED = 1
"""Of the data that are not made of `PIXELS`."""


def png(i: int) -> bytes:
    """Image i as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(PIXELS[i]).save(file, "PNG")
    return file.getvalue()


def folder(at: Path) -> data.Folder:
    """Two sub-folders."""
    for i in range(COUNT):
        path = at / "photos" / CLASSES[i % 2] / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(i))
    return data.Folder(str(at / "photos"), SIZE)


def archive(at: Path) -> data.Folder:
    """The same in a ZIP file."""
    with zipfile.ZipFile(at / "photos.zip", "w") as file:
        for i in range(COUNT):
            file.writestr(f"{CLASSES[i % 2]}/{i:02d}.png", png(i))
    return data.Folder(str(at / "photos.zip"), SIZE)


def edm2(at: Path) -> data.Folder:
    """A ZIP file with a dataset.json, as EDM2 writes it."""
    with zipfile.ZipFile(at / "edm2.zip", "w") as file:
        names = [f"00000/img{i:08d}.png" for i in range(COUNT)]
        for i, name in enumerate(names):
            file.writestr(name, png(i))
        labels = [[name, int(LABELS[i])] for i, name in enumerate(names)]
        file.writestr("dataset.json", json.dumps({"labels": labels}))
    return data.Folder(str(at / "edm2.zip"), SIZE)


def skipping(at: Path) -> data.Folder:
    """A folder of which unreadable images are skipped."""
    made = folder(at)
    (Path(made.path) / "cat" / "99.png").write_bytes(b"no image")
    return data.Folder(made.path, SIZE, on_error="skip")


def records(at: Path) -> data.Records:
    """Shards of raw arrays."""
    prepare.prepare(folder(at), at / "records", "raw", 5, progress=False)
    return data.Records(str(at / "records"), SIZE)


def cifar10(at: Path) -> data.CIFAR10:
    """A CIFAR-10 of two images a file."""
    pixels = np.random.default_rng(SEED).integers(0, 256, (12, 3 * 32 * 32), np.uint8)
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    for k, name in enumerate(names):
        rows = pixels[2 * k : 2 * k + 2]
        both = np.concatenate([np.full((2, 1), k, np.uint8), rows], axis=1)
        (at / f"{name}.bin").write_bytes(both.tobytes())
    return data.CIFAR10(str(at))


def tfds(at: Path) -> data.TFDS:
    """A data set of the fake below."""
    return data.TFDS("photos", data_dir=str(at), size=SIZE)


def _posteriors() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    mean = np.random.default_rng(SEED).normal(size=(COUNT, SIZE, SIZE, 4))
    return mean, np.full_like(mean, 0.1), LABELS


def latents(at: Path) -> data.Latents:
    """Latents in an NPZ file."""
    data.write_latents(at / "latents.npz", COUNT, [_posteriors()], CLASSES, progress=False)
    return data.Latents(str(at / "latents.npz"), SIZE)


def latent_records(at: Path) -> data.LatentRecords:
    """Latents in shards."""
    prepare.prepare(latents(at), at / "records", "raw", 5, progress=False)
    return data.LatentRecords(str(at / "records"), SIZE)


def digits(at: Path) -> data.Digits:
    """Those that come with scikit-learn."""
    return data.Digits()


def synthetic(at: Path) -> data.Synthetic:
    """Noise."""
    return data.Synthetic((SIZE, SIZE, 3), labels=2, count=COUNT)


SOURCES: Mapping[str, Callable[[Path], Any]] = {
    "folder": folder,
    "zip": archive,
    "edm2 zip": edm2,
    "skipping": skipping,
    "records": records,
    "cifar10": cifar10,
    "tfds": tfds,
    "latents": latents,
    "latent records": latent_records,
    "digits": digits,
    "synthetic": synthetic,
}


def fake_tfds() -> types.ModuleType:
    """What jaxdiff reads of tensorflow_datasets, without TensorFlow's own machinery."""

    class Class:
        names = CLASSES

    class Feature(dict):
        pass

    class Builder:
        info = types.SimpleNamespace(
            splits={"train": COUNT, "test": COUNT},
            features=Feature(image=Feature(), label=Class()),
        )

        def as_data_source(self, split: str, decoders: Any = None) -> list[dict]:
            first = 0 if split == "train" else 2
            return [
                {"image": PIXELS[i], "label": int(LABELS[i])} for i in range(first, COUNT)
            ]

    module = types.ModuleType("tensorflow_datasets")
    module.builder = lambda name, **where: Builder()
    module.core = types.SimpleNamespace(DatasetNotFoundError=LookupError)
    module.features = types.SimpleNamespace(Image=int)
    module.decode = types.SimpleNamespace(SkipDecoding=object)
    return module
