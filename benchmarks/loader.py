"""Decoded JPEG images per second of one core, cropped and mirrored, against plain Pillow.

    python benchmarks/loader.py

The images, 256 x 320, are made here, about as large as photos of that size. Plain Pillow
opens, crops the centre, mirrors every other image and makes an array, in one thread. Other
rows are batches as training reads them, with grain's threads. Seconds are of CPU, summed
over the threads, so that a busy machine and its number of cores say little; the rounds of
all rows alternate, and medians are given with the range. Mirroring is a part of the
compiled step, so encoding with it is a row of its own, and those above do not mirror. Raw
records decode nothing, and show what is left for grain and the disk.
"""

import io
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import numpy as np
from absl import flags
from PIL import Image, ImageOps

from jaxdiff.commands import command
from jaxdiff.data import Folder, Pixels, Records, prepare
from jaxdiff.data.batches import Stream

NUMBER = flags.DEFINE_integer("number", 512, "Images read in a round of each row.")
ROUNDS = flags.DEFINE_integer("rounds", 5, "Rounds.")
SIZE, WIDE, BATCH = 256, 320, 16
FILES = 128
"""Different images."""

Read = Callable[[int], object]
"""Reads so many images."""


def main() -> None:
    """Makes the images, measures, prints a table."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        photos(path / "photos")
        rows = readers(path)
        seconds = {name: [] for name in rows}
        for _ in range(ROUNDS.value):
            for name, read in rows.items():
                start = time.process_time()
                read(NUMBER.value)
                seconds[name].append((time.process_time() - start) / NUMBER.value)
    plain = np.median(seconds["plain Pillow"])
    size = sum(len(jpeg(i)) for i in range(8)) / 8
    print(f"JPEG files of {size / 1e3:.0f} kB, {WIDE}x{SIZE}, cropped to {SIZE}x{SIZE}")
    print(f"{'':32} {'images/CPU s':>12} {'range':>15} {'of Pillow':>10}")
    for name, times in seconds.items():
        rate = sorted(1 / np.array(times))
        spread = f"{rate[0]:,.0f} ... {rate[-1]:,.0f}"
        print(
            f"{name:32} {np.median(rate):12,.0f} {spread:>15} "
            f"{plain / np.median(times):9.2f}x"
        )


def readers(path: Path) -> Mapping[str, Read]:
    """The rows, each ready to read."""
    files = sorted((path / "photos").iterdir())
    with zipfile.ZipFile(path / "photos.zip", "w") as archive:
        for file in files:
            archive.write(file, file.name)
    folder = Folder(str(path / "photos"), SIZE)
    rows = {"plain Pillow": lambda number: plainly(files, number)}
    sources = {
        "Folder": folder,
        "Folder, of a ZIP file": Folder(f"{path}/photos.zip", SIZE),
    }
    for encoding in prepare.ENCODINGS:
        out = path / encoding
        prepare.prepare(folder, out, encoding, 64, progress=False)
        sources[f"Records, {encoding}"] = Records(str(out), SIZE)
    for name, data in sources.items():
        rows[name] = reading(data)
    rows["mirroring, in the compiled step"] = mirroring()
    return rows


def plainly(files: list[Path], number: int) -> None:
    """Reads with Pillow and nothing else."""
    batch = np.empty([BATCH, SIZE, SIZE, 3], np.uint8)
    for i in range(number):
        with Image.open(files[i % len(files)]) as image:
            left = (image.width - SIZE) // 2
            cropped = image.convert("RGB").crop((left, 0, left + SIZE, SIZE))
            batch[i % BATCH] = np.asarray(ImageOps.mirror(cropped) if i % 2 else cropped)


def reading(data: Folder | Records) -> Read:
    """Reads the batches of `data.batches` with its threads, and not one more."""
    import grain

    stream = Stream(data.load().source, BATCH, seed=0, rows=np.arange(BATCH))
    ahead = grain.ReadOptions(num_threads=8, prefetch_buffer_size=8)

    def read(number: int) -> None:
        some = grain.MapDataset.source(stream)[: number // BATCH]
        assert sum(1 for _ in some.to_iter_dataset(ahead)) == number // BATCH

    return read


def mirroring() -> Read:
    """Encodes batches with mirroring, on one device."""
    image = np.zeros([BATCH, SIZE, SIZE, 3], np.uint8)
    image = jax.device_put(image, jax.devices()[0])
    key = jax.random.key(0)
    encode = jax.jit(Pixels(flip=True).encode)

    def read(number: int) -> None:
        for _ in range(number // BATCH):
            encode(key, image).block_until_ready()

    read(BATCH)
    return read


def jpeg(seed: int) -> bytes:
    """A JPEG file of blurred noise at three scales: edges and gradients, as photos have."""
    rng, image = np.random.default_rng(seed), np.zeros([SIZE, WIDE, 3])
    for side, share in ((8, 0.5), (32, 0.3), (128, 0.2)):
        small = rng.integers(0, 256, (side, side * WIDE // SIZE, 3), np.uint8)
        resized = Image.fromarray(small).resize((WIDE, SIZE), Image.Resampling.BICUBIC)
        image += share * np.asarray(resized)
    file = io.BytesIO()
    Image.fromarray(image.astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def photos(path: Path) -> None:
    """Writes the images."""
    path.mkdir()
    for i in range(FILES):
        (path / f"{i:04d}.jpg").write_bytes(jpeg(i))


if __name__ == "__main__":
    command.run(main)
