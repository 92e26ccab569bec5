"""Images of others: grey beside RGB, and sizes that differ, as people have them."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxdiff import evaluation
from tests.cases.commands import Done, run

RNG = np.random.default_rng(0)


def pictures(folder: Path, mode: str, sizes: list[tuple[int, int]]) -> Path:
    """PNGs of random pixels."""
    folder.mkdir()
    for i, (width, height) in enumerate(sizes):
        shape = (height, width) if mode == "L" else (height, width, 3)
        Image.fromarray(RNG.integers(0, 256, shape, np.uint8)).save(folder / f"{i}.png")
    return folder


def reference(images: Path, *flags: str) -> tuple[Done, Path]:
    """A reference of pictures."""
    path = images.parent / f"{images.name}.npz"
    arguments = f"--images={images}", f"--out={path}", "--extractors=pixels8"
    return run("reference", *arguments, *flags), path


def scored(images: Path, against: Path, *flags: str) -> Done:
    arguments = f"--images={images}", f"--reference={against}", "--extractors=pixels8"
    return run("evaluate", *arguments, f"--out={images.parent / 'q'}", *flags)


def test_grey_pictures_are_rgb_of_equal_parts(tmp_path: Path) -> None:
    grey = pictures(tmp_path / "grey", "L", [(8, 8)] * 8)
    same = tmp_path / "same"
    same.mkdir()
    for file in grey.iterdir():
        Image.open(file).convert("RGB").save(same / file.name)
    colour = pictures(tmp_path / "colour", "RGB", [(8, 8)] * 8)
    done, against = reference(colour)
    assert done.status == 0, done.err
    first, second = scored(grey, against), scored(same, against)
    assert (first.status, second.status) == (0, 0), first.err
    table = lambda done: [row for row in done.out.splitlines() if row.startswith("| ")]
    assert table(first) == table(second)
    assert "grey images are set against RGB ones" in first.out
    assert "set against RGB" not in second.out
    done, against = reference(grey)
    assert scored(colour, against).status == 0


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_sizes_that_differ_are_refused_or_made_one(mode: str, tmp_path: Path) -> None:
    mixed = pictures(tmp_path / "mixed", mode, [(8, 8)] * 4 + [(9, 12)] * 4)
    done, _ = reference(mixed)
    assert done.status == 1
    assert "all images must be of one size and mode; --size=64 makes them" in done.err
    done, against = reference(mixed, "--size=8")
    assert done.status == 0, done.err
    assert "must be of one size" in scored(mixed, against).err
    done = scored(mixed, against, "--size=8")
    assert done.status == 0, done.err
    rows = {row.split("|")[1].split()[0]: row for row in done.out.splitlines()
            if row.startswith("| ")}  # fmt: skip
    assert float(rows["fd_pixels8"].split("|")[2]) < 1e-6  # the same images
    other = pictures(tmp_path / "other", mode, [(16, 16)] * 8)
    done = scored(other, against)
    assert done.status == 1
    assert "make both of one size" in done.err
    assert scored(other, against, "--size=8").status == 0


def test_a_size_is_for_pictures(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=np.zeros((8, 8, 8, 3), np.uint8))
    done = run("reference", f"--images={tmp_path / 'x.npz'}", "--size=4",
               f"--out={tmp_path / 'r'}", "--extractors=pixels8")  # fmt: skip
    assert done.status == 1
    assert "--size is for pictures" in done.err


def test_a_picture_is_no_folder_of_pictures(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "x", "RGB", [(8, 8)])
    for flags in ((), ("--size=8",)):
        done, _ = reference(folder / "0.png", *flags)
        assert "0.png is one picture: name the folder that it is in" in done.err


def clear(path: Path) -> None:
    Image.new("RGB", (8, 8)).save(path, transparency=(0, 0, 0))


def turned(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 8)).save(path.with_suffix(".jpg"), exif=exif)


def turned_after_its_pixels(path: Path) -> None:
    """A PNG whose EXIF data stand at its end."""
    exif = Image.Exif()
    exif[0x0112] = 3
    body = b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
    Image.new("RGB", (8, 8)).save(path)
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    data = path.read_bytes()
    path.write_bytes(data[:-12] + chunk + data[-12:])


def deep(path: Path) -> None:
    """A PNG of 16 bits a channel, which Pillow cannot write."""
    chunks = [(b"IHDR", struct.pack(">2I5B", 8, 8, 16, 2, 0, 0, 0))]
    chunks += [(b"IDAT", zlib.compress((b"\0" + bytes(48)) * 8)), (b"IEND", b"")]
    file = b"\x89PNG\r\n\x1a\n"
    for kind, data in chunks:
        crc = struct.pack(">I", zlib.crc32(kind + data))
        file += struct.pack(">I", len(data)) + kind + data + crc
    path.write_bytes(file)


def deep_ppm(path: Path) -> None:
    path.with_suffix(".ppm").write_bytes(b"P6 8 8 65535\n" + bytes(8 * 8 * 6))


@pytest.mark.parametrize(
    ("write", "what"),
    [
        (clear, "transparent"),
        (turned, "turned by its EXIF data"),
        (turned_after_its_pixels, "turned by its EXIF data"),
        (deep, "16 bits a channel"),
        (deep_ppm, "16 bits a channel"),
    ],
)
def test_what_training_would_change_is_refused(
    write: Callable[[Path], None], what: str, tmp_path: Path
) -> None:
    for i in range(6):
        write(tmp_path / f"{i}.png")
    with pytest.raises(ValueError, match=rf"is 8 x 8 RGB \({what}\): metrics.*--size=64"):
        evaluation.images_in(tmp_path)
    assert len(evaluation.images_in(tmp_path, size=8)) == 6
