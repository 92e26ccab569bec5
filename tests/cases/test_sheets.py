"""Sheets say what is shown: names of classes, rows and columns, for any count of either."""

import io
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import jaxdiff as jd
from jaxdiff.analysis import image_grid
from jaxdiff.analysis.image_grid import by_class, grid

NAMES = ("cat", "dog", "bird")


def shades(count: int, height: int = 50, width: int = 50) -> np.ndarray:
    """Images that can be told apart: image i is i all over."""
    values = np.arange(count, dtype=np.uint8)
    return np.broadcast_to(values[:, None, None, None], (count, height, width, 1))


def test_three_classes_make_no_strip() -> None:
    labels = np.arange(64) % 3
    sheet = by_class(shades(64), labels, NAMES)
    assert (sheet.heads, sheet.columns) == (["cat", "dog", "bird"], 9)
    high, wide, _ = grid(shades(64), labels=labels, classes=NAMES).shape
    assert 0.5 < wide / high < 2
    values = sheet.images[:, 0, 0, 0].reshape(-1, 3, 3)
    for k in range(3):  # the columns of a class hold all of its images, in order
        of_class = [v for v in values[:, k].ravel() if v != 255]
        assert of_class == np.flatnonzero(labels == k).tolist()


@pytest.mark.parametrize("count", [1, 2, 3, 7, 10, 64, 100, 257])
@pytest.mark.parametrize("size", [(8, 8), (8, 32), (32, 8)])
def test_any_count_makes_a_sheet_without_long_strips(
    count: int, size: tuple[int, int]
) -> None:
    images = np.zeros((count, *size, 1), np.uint8)
    for classes in (0, 1, 2, 3, 10, 12, 40, 1000):
        labels = np.arange(count) % classes if classes else np.full(count, -1)
        picture = grid(images, labels=labels)
        high, wide, _ = picture.shape
        shape = size[1] / size[0] if count == 1 else 1.0  # a single one has its own
        assert 0.2 < wide / high / shape < 5
        assert np.count_nonzero(picture == 0) >= count * size[0] * size[1]


def test_every_image_has_the_name_of_its_class() -> None:
    labels = np.array([2, 0, 1, 2, 0, -1])
    sheet = by_class(shades(6), labels, NAMES, columns=2)
    captions = dict(zip(sheet.images[:, 0, 0, 0].tolist(), sheet.captions, strict=True))
    names = {0: "bird", 1: "cat", 2: "dog", 3: "bird", 4: "cat", 5: "no class"}
    assert captions == names
    sheet = by_class(shades(6), labels, NAMES)
    assert sheet.heads == ["cat", "dog", "bird", "no class"]
    assert by_class(shades(4), np.full(4, 1), NAMES).heads == ["dog"]
    assert by_class(shades(4), np.array([0, 0, 7, 7]), NAMES).heads == ["cat", "7"]
    assert by_class(shades(4), np.full(4, -1), NAMES).heads == ()


def test_texts_take_room_beside_the_images_and_none_of_theirs() -> None:
    images = shades(6)
    plain = grid(images, 3)
    labelled = grid(images, 3, rows=("one", "two\nthree"), heads=("a", "b", "c"))
    left, top = labelled.shape[1] - plain.shape[1], labelled.shape[0] - plain.shape[0]
    assert left > 20
    assert top == image_grid.LINE
    left -= 2 * image_grid.APART  # between three headings
    step = 50 + image_grid.GAP
    for i, value in enumerate(range(6)):
        y = top + image_grid.GAP + i // 3 * step
        x = left + image_grid.GAP + i % 3 * (step + image_grid.APART)
        assert (labelled[y : y + 50, x : x + 50] == value).all()
    assert (labelled[:top, left:] < 128).any()  # headings
    assert (labelled[top : top + step, : left - 2] < 128).any()  # both rows
    assert (labelled[top + step :, : left - 2] < 128).any()
    below = grid(images, 3, captions=list("abcdef"))
    assert below.shape[0] == plain.shape[0] + 2 * image_grid.LINE


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"rows": ("a",)}, "1 names of rows, but the sheet has 2"),
        ({"heads": ("a", "b")}, "2 headings over 3 columns"),
        ({"captions": ("a",)}, "1 captions for 6 images"),
        ({"labels": np.arange(5)}, r"one class number for each of 6 images, got int64"),
        ({"labels": np.zeros(6)}, "got float64 of shape"),
        ({"labels": np.zeros(6, int), "rows": ("a", "b")}, "leave out rows, heads and"),
    ],
)
def test_texts_that_do_not_fit_are_refused(texts: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        grid(shades(6), 3, **texts)


def test_names_from_data_are_texts_and_nothing_else(tmp_path: Path) -> None:
    """No mathematics for matplotlib, no escape sequences, no name beyond its column."""
    from matplotlib.figure import Figure

    hostile = ("$\\frac{$", "\x1b[31mred", "a" * 5000)
    labels = np.arange(6) % 3
    picture = grid(shades(6), labels=labels, classes=hostile)
    assert picture.shape == grid(shades(6), labels=labels, classes=NAMES).shape
    figure = Figure()
    for name in (hostile[0], "$5$", "\\$5$ and $x_1$", "two\nlines"):
        figure.text(0, 0, image_grid.plain(name))
    figure.savefig(tmp_path / "x.png")
    from matplotlib.cbook import is_math_text

    assert not is_math_text(image_grid.plain("$x_1$"))


def test_show_says_how_to_save_outside_a_notebook(capsys: pytest.CaptureFixture) -> None:
    jd.show(shades(3))
    assert capsys.readouterr().out == (
        "3 images, and no notebook to show them in: "
        'jd.analysis.save_grid("images.png", images) writes them\n'
    )
    with pytest.raises(ValueError, match="2 labels for 3 images"):
        jd.show(shades(3), [0, 1])
    with pytest.raises(ValueError, match="one for each image, got shape"):
        jd.show(shades(3), 7)


def test_show_displays_a_png_in_a_notebook(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """With what a kernel offers; tests/test_notebooks.py has a real one."""
    displayed = []
    kernel = SimpleNamespace(kernel=object())
    display = SimpleNamespace(Image=lambda **arguments: arguments, display=displayed.append)
    shell = SimpleNamespace(get_ipython=lambda: kernel, display=display)
    monkeypatch.setitem(sys.modules, "IPython", shell)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    jd.show(shades(1)[0])
    jd.show(shades(500) / np.float32(127.5) - 1, np.arange(500) % 3, classes=NAMES)
    jd.show(shades(2), ["first", "second"])
    assert [part["data"][:4] for part in displayed] == [b"\x89PNG"] * 3
    jd.show(shades(6), columns=3, rows=("one", "two"), heads=("a", "b", "c"))
    shown = np.asarray(Image.open(io.BytesIO(displayed[3]["data"])))
    texts = {"rows": ("one", "two"), "heads": ("a", "b", "c")}
    assert (shown == grid(shades(6), 3, **texts)[..., 0]).all()
    assert capsys.readouterr().out == f"the first {image_grid.MOST} of 500 images\n"


def test_a_sheet_of_edits_and_a_comparison_name_their_rows(tmp_path: Path) -> None:
    from jaxdiff.evaluation import compare_solvers

    rows = [
        compare_solvers.Row(solver, 6, shades(3), 12, 0.1, 0.0, {})
        for solver in (jd.Heun(), jd.Euler())
    ]
    compare_solvers.save_sheet(tmp_path / "b.png", rows, classes=["cat", "dog", "bird"])
    compare_solvers.save_sheet(tmp_path / "a.png", rows)
    assert Image.open(tmp_path / "b.png").height == (
        Image.open(tmp_path / "a.png").height + image_grid.LINE
    )
    sheet = np.asarray(Image.open(tmp_path / "a.png"))
    margin = sheet.shape[1] - (3 * (50 + image_grid.GAP) + image_grid.GAP)
    assert margin > 60
    for i in range(2):
        y = image_grid.GAP + i * (50 + image_grid.GAP)
        assert (sheet[y : y + 50, : margin - 2] < 128).any()
        assert (sheet[y : y + 50, margin + 54 : margin + 104] == 1).all()
