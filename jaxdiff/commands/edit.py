"""Edits images with a run: redraws them from a noise level, or in part.

    jaxdiff edit --workdir=runs/digits --strength=0.6 --labels=3

    jaxdiff edit --workdir=runs/digits --box=0,0.5,1,1 --resample=4,5 \\
        --solver=Ancestral

    jaxdiff edit --workdir=runs/mine --image=photo.png --mask=mask.png --labels=7

Images are the run's own held-out ones, or --image, a picture or a folder of them, cropped
and resized as `data.Folder` does. --strength is how far back along the grid an edit starts
[SDEdit]: 0 returns the image, 1 draws it from noise. --mask is a picture, white where the
image is redrawn and black where it is kept; --box redraws a rectangle. Kept parts are
unchanged. --resample=JUMP,TIMES goes back up JUMP steps and down again, TIMES in all, so
that both parts agree with each other [RePaint]; use it with a stochastic solver. All
sampling flags of jaxdiff sample work here, too.
Writes a sheet as PNG (originals, their kept parts, edits) and the edits as NPZ.
A run on latents needs its VAE, --vae: a latent is kept where all of its pixels are.
"""

import numpy as np
from absl import flags
from jaxtyping import Bool, Float32, Int, UInt8

from jaxdiff.analysis import image_grid
from jaxdiff.commands import command, sampling_flags
from jaxdiff.data import encoder_of, split_of
from jaxdiff.data.formats import image_files, listing
from jaxdiff.data.sources import folder
from jaxdiff.runs import edits, generate
from jaxdiff.runtime import sharding
from jaxdiff.runtime.files import place, write_atomically

IMAGE = flags.DEFINE_string("image", None, "A picture, or a folder of pictures.")
STRENGTH = flags.DEFINE_float("strength", None, "Share of the grid's steps; default 0.6, "
                              "with --mask or --box 1.", 0, 1)  # fmt: skip
MASK = flags.DEFINE_string("mask", None, "A picture: white is drawn anew, black is kept.")
BOX = flags.DEFINE_list("box", None, "LEFT,TOP,RIGHT,BOTTOM of what is drawn anew, 0 to 1.")
RESAMPLE = flags.DEFINE_list("resample", ["1", "1"], "JUMP,TIMES: RePaint's resampling.")
NUMBER = flags.DEFINE_integer("number", 10, "How many images.", 1, 2**20)
SEED = flags.DEFINE_integer("seed", 0, "Seed of the first image.", 0, 2**32 - 1)
BATCH = flags.DEFINE_integer("batch", 256, "Images at a time.", lower_bound=1)
OUT = flags.DEFINE_string("out", None, "OUT.png and OUT.npz; default WORKDIR/edited.")
flags.mark_flags_as_required(["workdir"])
flags.declare_key_flag("cpu_devices")
flags.adopt_module_key_flags(sampling_flags)


def main() -> None:
    """Restores, edits, writes."""
    out = command.output(OUT, sampling_flags.beside() / "edited", "npz", "png")
    model = sampling_flags.model_from_flags()
    experiment = model.experiment
    encoder, mesh = encoder_of(experiment.data), sharding.data_mesh()
    shape = encoder.image_shape(experiment.data.shape)
    if shape is None:
        raise ValueError(
            "this run is on latents, and pictures are edited: name its VAE by --vae"
        )
    x0, image, label = _images(model, shape)
    known = _known(shape)
    if RESAMPLE.present and known is None:
        raise ValueError("--resample needs --mask or --box: it makes two parts agree")
    strength = STRENGTH.value
    strength = (0.6 if known is None else 1.0) if strength is None else strength
    many = None if known is None else _broadcast(known, x0.shape)
    edited = generate.images(
        edits.editor(experiment, strength, _resampling(), model.guides),
        model.variables,
        encoder,
        SEED.value + np.arange(len(image)),
        label,
        mesh,
        BATCH.value,
        more=(x0, many),
        what="edits",
        progress=True,
    )
    edited = edited if known is None else np.where(known, image, edited)
    npz, png = out.values()
    arrays = {"images": edited, "originals": image, "labels": label}
    write_atomically(npz, lambda file: np.savez_compressed(file, **arrays))
    left = image if known is None else np.where(known, image, np.uint8(127))
    lines = {"original": image, "kept": left, "edited": edited}
    lines = {
        n: a[: image_grid.COLUMNS]
        for n, a in lines.items()
        if n != "kept" or known is not None
    }
    count = min(len(image), image_grid.COLUMNS)
    heads = image_grid.names(label[:count], sampling_flags.classes(model.run))
    heads = heads if experiment.network.label_dim else []
    image_grid.save_grid(
        png, np.concatenate([*lines.values()]), count, rows=[*lines], heads=heads
    )
    print(f"{len(edited)} edits by step {model.run.step}: {png} and {npz}")


def _images(
    model: sampling_flags.Model, shape: tuple[int, int, int]
) -> tuple[
    Float32[np.ndarray, "N h w c"], UInt8[np.ndarray, "N H W C"], Int[np.ndarray, " N"]
]:
    """The images to edit, as x0 and as pictures, and their target classes."""
    experiment, mesh = model.experiment, sharding.data_mesh()
    encoder, classes = encoder_of(experiment.data), experiment.network.label_dim
    if IMAGE.value is None:
        data = split_of(experiment.data).load()
        rows = data.take(np.arange(min(NUMBER.value, len(data))))
        label = rows["label"]
        if sampling_flags.LABELS.value:
            label = np.resize(sampling_flags.labels(model.run), len(label))
        x0 = encoder.moments(rows["image"])[0].astype(np.float32)
        return x0, encoder.decode(x0, mesh), label
    if classes and not sampling_flags.LABELS.value:
        raise ValueError(f"--image needs --labels: this run knows {classes} classes")
    path = place(IMAGE.value)
    pictures = [path]
    if path.is_dir():
        pictures, left_out = listing.pictures(path)
        listing.check(path, pictures, left_out)
    height, width, channels = shape
    if height != width:
        raise ValueError(f"--image are squares, this run's images are {height} by {width}")
    files = pictures[: NUMBER.value]
    image = np.stack([folder.read_image(file, height, channels) for file in files])
    label = np.resize(sampling_flags.labels(model.run), len(image))
    return encoder.of_images(image, mesh), image, label


def _broadcast(
    known: Bool[np.ndarray, "H W 1"], shape: tuple[int, int, int, int]
) -> Bool[np.ndarray, "N h w c"]:
    """The mask of kept elements of x0 [N, h, w, c]: those whose pixels are all kept."""
    _, height, width, _ = shape
    blocks = known.reshape(height, known.shape[0] // height, width, -1)
    return np.broadcast_to(blocks.all(axis=(1, 3))[None, ..., None], shape)


def _known(shape: tuple[int, int, int]) -> Bool[np.ndarray, "H W 1"] | None:
    """The mask of kept pixels; None if all may change."""
    from PIL import Image

    height, width, _ = shape
    if MASK.value is not None and BOX.value is not None:
        raise ValueError("--mask and --box both choose what is redrawn: give one")
    if MASK.value is not None:
        try:
            with image_files.opened(listing.content(place(MASK.value))) as file:
                grey = image_files.converted(file, 1)
                picture = grey.resize((width, height), Image.Resampling.BOX)
        except ValueError as error:
            raise ValueError(f"--mask: {MASK.value} is not a picture: {error}") from error
        return np.asarray(picture)[..., None] < 128
    if BOX.value is None:
        return None
    try:
        left, top, right, bottom = map(float, BOX.value)
    except ValueError:
        left = top = right = bottom = np.nan
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        box = ",".join(BOX.value)
        raise ValueError(f"--box is LEFT,TOP,RIGHT,BOTTOM from 0 to 1, got {box!r}")
    y, x = (np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width
    inside = ((y >= top) & (y < bottom))[:, None] & (x >= left) & (x < right)
    return ~inside[..., None]


def _resampling() -> tuple[int, int]:
    texts = RESAMPLE.value
    if len(texts) != 2 or not all(command.whole(t, 10_000) and int(t) for t in texts):
        raise ValueError(
            f"--resample is JUMP,TIMES, such as 4,5, each at most 10,000; got "
            f"{','.join(texts)!r}"
        )
    return int(texts[0]), int(texts[1])
