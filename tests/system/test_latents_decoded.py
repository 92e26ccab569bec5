"""From photos to pictures through a VAE: encode, train on latents, draw, edit, score."""

import dataclasses
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxdiff import train
from jaxdiff.config import Experiment, from_config
from jaxdiff.data import Folder, LatentRecords, encode, encoder_of, statistics, vae
from tests.cases.commands import run
from tests.model_goldens import vae_folder
from tests.system.tiny import get_config

pytest.importorskip("array_record", reason='needs pip install "jaxdiff[records]"')


def photos(at: Path, count: int = 40) -> Path:
    """JPEG files of unequal sizes in two folders, their classes."""
    draw = np.random.default_rng(0)
    for i in range(count):
        (at / f"class{i % 2}").mkdir(parents=True, exist_ok=True)
        pixels = draw.integers(0, 256, (17 + i % 5, 23, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(at / f"class{i % 2}" / f"{i:02d}.jpg")
    return at


def experiment(data: LatentRecords) -> Experiment:
    """The smallest run, on latents of 2 classes."""
    tiny = from_config(get_config())
    network = tiny.network.clone(label_dim=2)
    sampling = dataclasses.replace(tiny.sampling, images=4)
    return dataclasses.replace(
        tiny, data=data, network=network, sampling=sampling, steps=2, sample_every=2,
        eval_every=0, checkpoint_every=2,
    )  # fmt: skip


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the latents of 40 photos; the folder `vae` is beside it."""
    at = tmp_path_factory.mktemp("way")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXDIFF_CACHE", str(at / "cache"))
        opened = vae.load(vae_folder(at / "vae"), batch=2)
        images = Folder(str(photos(at / "photos")), 16)
        encode.encode(images, opened, at / "latents", shard_size=16, progress=False)
        data, _ = encode.records(
            at / "latents", opened, at / "vae", "measured", progress=False
        )
        scaled = dataclasses.replace(data.encoder, sigma_data=0.75)
        data = dataclasses.replace(data, encoder=scaled)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # nothing is a preview
            train.fit(experiment(data), at / "run", progress=False)
        assert statistics.stored(data, data.load()) is not None
    return at / "run"


def test_training_draws_pictures(workdir: Path) -> None:
    (path,) = workdir.glob("samples*.png")
    assert Image.open(path).mode == "RGB"


def test_samples_are_decoded(workdir: Path, tmp_path: Path) -> None:
    line = "sample", f"--workdir={workdir}", "--number=5", f"--out={tmp_path / 'out'}"
    done = run(*line)
    assert done.status == 0, done.err
    assert "preview" not in done.err
    images = np.load(tmp_path / "out.npz")["images"]
    assert (images.dtype, images.shape) == (np.uint8, (5, 16, 16, 3))
    assert Image.open(tmp_path / "out.png").size[0] >= 5 * 16
    one = run(*line, "--number=1", "--seed=3", "--labels=class1")
    assert one.status == 0, one.err
    alone = np.load(tmp_path / "out.npz")["images"][0]
    assert np.abs(alone.astype(int) - images[3]).max() <= 2


def test_without_the_vae_there_is_a_preview_and_a_line(
    workdir: Path, tmp_path: Path
) -> None:
    (workdir.parent / "vae").rename(workdir.parent / "moved")
    try:
        line = "sample", f"--workdir={workdir}", "--number=2", f"--out={tmp_path / 'out'}"
        done = run(*line)
        assert done.status == 0, done.err
        (said,) = [text for text in done.err.splitlines() if "preview" in text]
        assert "pictures are previews of latents: there is no VAE at" in said
        assert np.load(tmp_path / "out.npz")["images"].shape == (2, 8, 8, 4)
        named = run(*line, f"--vae={workdir.parent / 'moved'}")
        assert named.status == 0, named.err
        assert np.load(tmp_path / "out.npz")["images"].shape == (2, 16, 16, 3)
        wrong = run(*line, "--vae=nowhere")
        assert wrong.status == 1
        assert wrong.err.splitlines()[-1] == "error: --vae: there is no folder 'nowhere'"
    finally:
        (workdir.parent / "moved").rename(workdir.parent / "vae")


def test_latents_are_edited_where_the_mask_is_white(workdir: Path, tmp_path: Path) -> None:
    line = "edit", f"--workdir={workdir}", f"--out={tmp_path / 'out'}", "--number=2"
    done = run(*line, "--box=0.5,0,1,1")
    assert done.status == 0, done.err
    with np.load(tmp_path / "out.npz") as file:
        edited, originals = file["images"], file["originals"]
    assert edited.shape == originals.shape == (2, 16, 16, 3)
    np.testing.assert_array_equal(edited[:, :, :8], originals[:, :, :8])
    assert (edited[:, :, 8:] != originals[:, :, 8:]).mean() > 0.5
    photo = next((workdir.parent / "photos").glob("*/00.jpg"))
    done = run(*line, f"--image={photo}", "--labels=0", "--strength=0")
    assert done.status == 0, done.err
    with np.load(tmp_path / "out.npz") as file:
        again, image = file["images"], file["originals"]
    opened = vae.load(workdir.parent / "vae")
    expected = opened.decode(opened.encode(image)[0]).astype(int)
    assert np.abs(again - expected).max() <= 1


def test_a_run_on_latents_is_scored_by_its_pictures(workdir: Path, tmp_path: Path) -> None:
    line = "evaluate", f"--workdir={workdir}", "--number=8", "--blocks=1"
    done = run(*line, "--extractors=pixels8", f"--out={tmp_path / 'out'}")
    assert done.status == 0, done.err
    assert "fd_pixels8" in (tmp_path / "out.json").read_text()
    data = LatentRecords(str(workdir.parent / "latents"), 8)
    assert encoder_of(data).image_shape(data.shape) is None
