"""Every mode of Pillow's becomes bytes by its range, or is refused by name."""

import io
import threading
import time
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxdiff.config import from_dict
from jaxdiff.data import Folder, Records, prepare
from jaxdiff.data.formats import image_files
from jaxdiff.evaluation import images_in

RAMP = np.tile(np.linspace(0, 255, 16).round().astype(np.uint8), (16, 1))
RGB = np.repeat(RAMP[..., None], 3, -1)


def file(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def read(data: bytes, channels: int = 3) -> np.ndarray:
    return image_files.decoded(data, 16, 16, channels)


WIDE = RAMP.astype(np.uint16) * 257


def pgm(values: np.ndarray, white: int) -> bytes:
    return b"P5 16 16 %d\n" % white + values.astype(">u2").tobytes()


def tiff(values: np.ndarray, bits: int, photometric: int = 1) -> bytes:
    """A TIFF of one strip, little-endian, of these bytes."""
    raw = values.tobytes()
    rows = {256: 16, 257: 16, 258: bits, 259: 1, 262: photometric, 273: 8}
    rows |= {277: 1, 278: 16, 279: len(raw)}
    entries = b"".join(
        tag.to_bytes(2, "little") + b"\x04\0\1\0\0\0" + value.to_bytes(4, "little")
        for tag, value in rows.items()
    )
    place = (8 + len(raw)).to_bytes(4, "little")
    return b"II*\0" + place + raw + len(rows).to_bytes(2, "little") + entries + bytes(4)


def twelve_bits() -> bytes:
    """A TIFF of 12 bits a pixel, two in three bytes."""
    value = np.round(RAMP / 255 * 4095).astype(np.uint16).reshape(-1, 2)
    high, low = value[:, 0], value[:, 1]
    packed = np.stack([high >> 4, (high & 15) << 4 | low >> 8, low & 255], -1)
    return tiff(packed.astype(np.uint8), 12)


GREY: dict[str, bytes] = {
    "L": file(Image.fromarray(RAMP)),
    "I;16, PNG": file(Image.fromarray(WIDE)),
    "I;16, TIFF": tiff(WIDE, 16),
    "I;16B, TIFF": file(Image.fromarray(WIDE.astype(">u2")), "TIFF"),
    "I;16, white is zero": tiff(65535 - WIDE, 16, 0),
    "I;12, TIFF": twelve_bits(),
    "I, PGM of 16 bits": pgm(WIDE, 65535),
    "I, PGM of 10 bits": pgm(np.round(RAMP / 255 * 1023), 1023),
    "I;16, JPEG 2000": file(Image.fromarray(WIDE), "JPEG2000", irreversible=False),
    "P": file(Image.fromarray(RAMP).convert("P")),
    "RGB": file(Image.fromarray(RGB)),
    "RGBA": file(Image.fromarray(RGB).convert("RGBA")),
    "LA": file(Image.fromarray(RAMP).convert("LA")),
    "RGBX": file(Image.fromarray(RGB).convert("RGBX"), "TIFF"),
    "CMYK": file(Image.fromarray(RGB).convert("CMYK"), "TIFF"),
    "YCbCr": file(Image.fromarray(RGB).convert("YCbCr"), "TIFF"),
    "1": file(Image.fromarray(RAMP >= 128)),
}
ONE_BIT = {"1": np.where(RAMP >= 128, 255, 0)}
LOOSE = {"YCbCr": 2}


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("name", GREY)
def test_a_ramp_is_the_same_ramp_in_every_mode(name: str, channels: int) -> None:
    image = read(GREY[name], channels).astype(int)
    assert image.shape == (16, 16, channels)
    expected = ONE_BIT.get(name, RAMP)[..., None]
    assert np.abs(image - expected).max() <= LOOSE.get(name, 0)


MODES = ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr"]


@pytest.mark.parametrize("mode", [*MODES, "HSV", "I;16", "I;16B", "I;16L", "I;16N"])
def test_modes_that_files_may_have(mode: str) -> None:
    """As Pillow holds them, whatever file they come from; red keeps its hue."""
    if mode.startswith("I;16"):
        image = Image.frombytes(
            mode, (16, 16), WIDE.astype(">u2" if mode[-1] == "B" else "<u2")
        )
        made = np.asarray(image_files.converted(image, 3))
        np.testing.assert_array_equal(made, RGB)
        return
    image = Image.new("RGB", (4, 4), (255, 0, 0))
    between = {"La": "LA", "RGBa": "RGBA", "PA": "P", "HSV": "RGB"}.get(mode, mode)
    image = image.convert(between).convert(mode)
    made = np.asarray(image_files.converted(image, 3))[0, 0].astype(int)
    grey = mode in ("1", "L", "LA", "La")
    expected = (made[0],) * 3 if grey else (255, 0, 0)
    assert np.abs(made - expected).max() <= (80 if mode == "CMYK" else 1)
    assert grey <= (mode == "1" or made[0] == 76)  # 0.299 of 255


REFUSED = {
    "F": Image.fromarray(np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)),
    "I": Image.fromarray(np.arange(256, dtype=np.int32).reshape(16, 16)),
    "LAB": Image.new("LAB", (16, 16)),
}


@pytest.mark.parametrize("mode", REFUSED)
def test_modes_without_a_known_white_are_refused_by_name(mode: str, tmp_path: Path) -> None:
    REFUSED[mode].save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=rf"a\.tif' .* mode {mode}, .* 8 or 16 bits"):
        Folder(tmp_path, 16).load().source[0]


def test_a_training_run_and_its_records_see_the_same_16_bits(tmp_path: Path) -> None:
    pytest.importorskip("array_record")
    (tmp_path / "d").mkdir()
    (tmp_path / "d/ramp.png").write_bytes(GREY["I;16, PNG"])
    data = Folder(tmp_path / "d", 16)
    np.testing.assert_array_equal(data.load().source[0]["image"], RGB)
    for encoding in prepare.ENCODINGS:
        prepare.prepare(data, tmp_path / encoding, encoding, 8, progress=False)
        row = Records(tmp_path / encoding, 16).load().source[0]
        np.testing.assert_array_equal(row["image"], RGB)
    (tmp_path / "d/again.png").write_bytes(GREY["I;16, PNG"])
    with pytest.raises(ValueError, match="16 x 16 I;16: metrics are of RGB"):
        images_in(tmp_path / "d")


def test_transparent_parts_are_white_in_every_mode() -> None:
    clear = np.zeros((16, 16), np.uint8)
    colours = Image.fromarray(np.zeros((16, 16, 3), np.uint8))
    alpha = Image.fromarray(clear)
    grey = Image.merge("LA", [Image.fromarray(RAMP), alpha])
    for image in (grey, Image.merge("RGBA", [*colours.split(), alpha])):
        assert (read(file(image)) == 255).all()
    palette = Image.fromarray(clear).convert("P")
    assert (read(file(palette, transparency=0)) == 255).all()
    assert (read(file(Image.fromarray(clear), transparency=0)) == 255).all()
    wide = read(file(Image.fromarray(WIDE), transparency=0))  # black is what is left out
    np.testing.assert_array_equal(wide, np.where(RGB == 0, 255, RGB))


def chunk(kind: bytes, data: bytes) -> bytes:
    check = zlib.crc32(kind + data).to_bytes(4, "big")
    return len(data).to_bytes(4, "big") + kind + data + check


@pytest.mark.parametrize(("kind", "channels"), [(2, 3), (6, 4), (4, 2)])
def test_16_bit_colours_keep_their_upper_8(kind: int, channels: int) -> None:
    """RGB, RGB with alpha and grey with alpha, as Pillow gives them."""
    value = np.repeat(WIDE[..., None], channels, -1)
    if channels in (2, 4):
        value[..., -1] = 65535
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in value)
    head = (16).to_bytes(4, "big") * 2 + bytes([16, kind, 0, 0, 0])
    data = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    np.testing.assert_array_equal(read(b"\x89PNG\r\n\x1a\n" + data), RGB)


def test_a_flipped_bit_of_a_png_is_damage() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    whole = file(Image.fromarray(noise))
    np.testing.assert_array_equal(read(whole), noise)
    for at in range(8, len(whole), 7):
        data = bytearray(whole)
        data[at] ^= 1 << at % 8
        with pytest.raises(ValueError, match=r".+"):
            read(bytes(data))


@pytest.mark.parametrize(("width", "height"), [(100_000, 1), (1, 70_000), (20_000, 3)])
def test_long_images_stay_small(width: int, height: int) -> None:
    y, x = np.mgrid[:height, :width]
    grey = np.where(abs(x - width // 2) + abs(y - height // 2) < 64, 200, 10)
    data = file(Image.fromarray(grey.astype(np.uint8)))
    tracemalloc.start()
    image = read(data)
    assert tracemalloc.get_traced_memory()[1] < 4e6
    tracemalloc.stop()
    assert (image == 200).all()  # it is the middle


def test_what_is_not_very_long_is_fitted_as_ever(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (20, 150, 3), np.uint8)
    image = Image.fromarray(noise)
    whole = image.resize((120, 16), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(read(file(image)), np.asarray(whole)[:, 52:68])


def test_too_many_pixels_are_refused_with_the_way_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    Image.new("RGB", (60, 20), "red").save(tmp_path / "a.png")
    Image.new("RGB", (60, 20), "red").save(tmp_path / "b.webp", lossless=True)
    source = Folder(tmp_path, 16).load().source
    monkeypatch.setenv("JAXDIFF_MAX_PIXELS", "1199")
    with pytest.raises(
        ValueError, match=r"a\.png' .* 60 x 20 pixels, .* set JAXDIFF_MAX_PIXELS=1200 \(now"
    ):
        source[0]
    monkeypatch.setenv("JAXDIFF_MAX_PIXELS", "1200")
    assert (source[0]["image"] == (255, 0, 0)).all()
    with pytest.raises(ValueError, match=r"b\.webp' .* set JAXDIFF_MAX_PIXELS=2400"):
        source[1]
    for wrong in ("many", "0", "-3", "1e9", "9" * 5000):
        monkeypatch.setenv("JAXDIFF_MAX_PIXELS", wrong)
        with pytest.raises(ValueError, match="JAXDIFF_MAX_PIXELS must be a number"):
            source[0]


def test_pillows_own_limit_is_a_line_and_may_be_raised(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = file(Image.fromarray(RGB))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match=r"it has 256 pixels.*JAXDIFF_MAX_PIXELS"):
        read(data)
    monkeypatch.setenv("JAXDIFF_MAX_PIXELS", "1000")
    np.testing.assert_array_equal(read(data), RGB)


def test_images_in_memory_are_bounded_together() -> None:
    budget, inside, most = image_files.Budget(), [], []

    def work(amount: int) -> None:
        with budget.of(amount, 10):
            inside.append(amount)
            most.append(sum(inside))
            time.sleep(0.002)
            inside.remove(amount)

    amounts = [4, 4, 4, 9, 1, 1, 30, 2, 5, 5]
    threads = [threading.Thread(target=work, args=(a,)) for a in amounts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) == len(amounts)
    assert max(n for n in most if n != 30) <= 10  # and what is larger is alone


def test_a_size_of_two_numbers_is_refused() -> None:
    saved = {"type": "data.Folder", "path": "x", "size": (64, 96)}
    with pytest.raises(
        ValueError, match=r"size must .*got \(64, 96\); the side of a square"
    ):
        from_dict(saved)
