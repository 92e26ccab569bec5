"""From photos to pictures through a VAE: encode, train on latents, draw, edit, score."""

import json
import signal
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import PyTree
from PIL import Image

import jaxdiff as jd
from jaxdiff import train
from jaxdiff.data import Folder, LatentRecords, encode, encoder_of, vae
from jaxdiff.data.formats import shards
from tests.cases.commands import run
from tests.model_goldens import cast, vae_folder
from tests.system.commands import command, kill_when, leaves, run_anew, saved_steps

pytest.importorskip("array_record", reason='needs pip install "jaxdiff[records]"')


def photos(at: Path, count: int = 40) -> Path:
    """JPEG files of unequal sizes in two folders, their classes."""
    draw = np.random.default_rng(0)
    for i in range(count):
        (at / f"class{i % 2}").mkdir(parents=True, exist_ok=True)
        pixels = draw.integers(0, 256, (17 + i % 5, 23, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(at / f"class{i % 2}" / f"{i:02d}.jpg")
    return at


KILLED = """
import os, signal, sys
from jaxdiff.commands.main import main
from jaxdiff.data import encode

packed = encode.Run.packed

def mortal(run, numbers, rows):
    if numbers[0] == 20:
        os.kill(os.getpid(), signal.SIGKILL)
    return packed(run, numbers, rows)

encode.Run.packed = mortal
sys.argv = sys.argv[1:]
main("encode")
"""
"""`jaxdiff encode`, killed in its second shard of 16 images."""


def encoded(at: Path, environment: dict[str, str]) -> str:
    """Encodes the photos, is killed, and goes on; what to write to train on the latents."""
    line = (
        f"--images={photos(at / 'photos')}",
        "--size=16",
        f"--vae={vae_folder(at / 'vae')}",
    )
    line += f"--out={at / 'latents'}", "--shard_size=16", "--batch=2"
    killed = run_anew([sys.executable, "-c", KILLED, "encode", *line], environment)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(shards.read_header(at / "latents").shards) == 1
    done = run("encode", *line)
    assert done.status == 0, done.err
    assert "40 records of 2 classes in 3 shards (1 were there)" in done.out
    return done.out.splitlines()[-1].strip()


@pytest.fixture(scope="module")
def workdir(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DiT trained on the latents of 40 photos; the folder `vae` is beside it.

    Both the encoding and the training were killed once, and given again.
    """
    at = tmp_path_factory.mktemp("way")
    environment = {**environment, "JAXDIFF_CACHE": str(at / "cache")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXDIFF_CACHE", str(at / "cache"))
        data = f"--config.data={encoded(at, environment)}"
        line = ("--config=tests/system/tiny_dit.py", f"--workdir={at / 'run'}", data)
        devices = f"--cpu_devices={len(jax.devices())}"
        endless = command("train", *line, devices, "--config.steps=1000000")
        saved = lambda: (at / "run/checkpoints").exists() and saved_steps(at / "run")
        code, output = kill_when(endless, environment, saved, signal.SIGKILL)
        assert code == -signal.SIGKILL, output
        step = max(saved_steps(at / "run"))
        done = run("train", *line, f"--config.steps={step + 2}")
        assert done.status == 0, done.err
        starts = (at / "run/starts.jsonl").read_text().splitlines()
        assert [json.loads(text)["step"] for text in starts] == [0, step]
        assert "preview" not in done.err
    return at / "run"


def test_what_was_killed_ends_as_what_was_not(workdir: Path, tmp_path: Path) -> None:
    """The latents, byte for byte, and the state of the training, bit for bit."""
    at = workdir.parent
    opened = vae.load(at / "vae", batch=2)
    images = Folder(str(at / "photos"), 16)
    encode.encode(images, opened, tmp_path / "latents", shard_size=16, progress=False)
    for path in (at / "latents").iterdir():
        assert path.read_bytes() == (tmp_path / "latents" / path.name).read_bytes()
    whole = jd.restore(workdir).experiment
    train.fit(whole, tmp_path / "run", progress=False)
    expected = leaves(tmp_path / "run")
    for name, value in leaves(workdir).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


def test_encoded_photos_decode_as_by_the_published_network(workdir: Path) -> None:
    """To the byte next to what the network gives in float64, whose numbers are golden."""
    at, some = workdir.parent, np.arange(8)
    opened, photos = vae.load(at / "vae"), Folder(str(at / "photos"), 16).load()
    network = opened.network.clone(dtype="float64")

    @jax.jit
    def around(variables: PyTree, x: jax.Array) -> jax.Array:
        mean, _ = network.apply(variables, x, method="encode")
        return network.apply(variables, mean, method="decode")

    with jax.enable_x64(True):
        x = jnp.asarray(photos.take(some)["image"] / 127.5 - 1)
        exact = np.asarray(around(cast(opened.variables, "float64"), x))
    data = jd.restore(workdir).experiment.data
    x0, _ = data.encoder.moments(data.load().take(some)["image"])
    decoded = data.encoder.decode(x0)
    assert decoded.dtype == np.uint8
    assert np.abs(decoded - 127.5 * (1 + np.clip(exact, -1, 1))).max() < 0.51


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
        (warning,) = [text for text in done.err.splitlines() if "preview" in text]
        assert "pictures are previews of latents: there is no VAE at" in warning
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
