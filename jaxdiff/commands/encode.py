"""Encodes images to latents with a VAE, as records to train on.

    jaxdiff encode --images=my/photos --size=256 --vae=sd-vae-ft-mse \\
        --out=my/latents

    jaxdiff encode --config=openmoji --config.data.size=256 \\
        --vae=sd-vae-ft-mse --scaling=edm2 --out=my/latents

--vae is a folder in diffusers' format, config.json and weights (.safetensors or .bin),
which are read without running anything. --images is a folder or a ZIP file; a config can
name any data that jaxdiff train takes. All devices encode; the same command again resumes
at the first incomplete shard, and ends with the same bytes.

A record has the mean and the std of the VAE's posterior, from which training draws at each
step; --seed=0 stores one draw of each image instead. --mirror adds the latents of the
mirrored images, as DiT and SiT were trained on. --scaling sets how latents are scaled for
the network, and the VAE's value for black:

    ldm       (latent - shift) factor, from the VAE's config.json; black is -1
    edm2      EDM2's mean and std of each channel, for sd-vae-ft-mse; black is 0
    measured  mean 0 and std 0.5 in each channel of these latents; black is -1

At the end it prints mean and std of each channel, saves them for training, and prints the
config line that trains on the latents.
"""

from absl import flags

from jaxdiff.commands import command, data_flags
from jaxdiff.data import encode
from jaxdiff.data.sources.latents import DTYPES
from jaxdiff.runs import run_folder
from jaxdiff.runtime import processes

VAE = flags.DEFINE_string("vae", "", "The folder of the VAE's config.json and weights.")
OUT = flags.DEFINE_string("out", "", "The folder of the records, made if need be.")
SCALING = flags.DEFINE_enum("scaling", "ldm", encode.SCALINGS, "What x0 is; see above.")
DRAW = flags.DEFINE_integer("seed", None, "Store one draw by this seed.", 0, 2**32 - 1)
MIRROR = flags.DEFINE_bool("mirror", False, "Encode each image mirrored, too.")
STORED = flags.DEFINE_enum("stored", "float32", DTYPES, "Type of the stored numbers.")
DTYPE = flags.DEFINE_enum(
    "vae_dtype", "float32", ["float32", "bfloat16"], "What the VAE computes in."
)
BATCH = flags.DEFINE_integer(
    "batch", 0, "Images that each device encodes at a time; 0: by their size.", 0, 2**16
)
SHARD_SIZE = flags.DEFINE_integer("shard_size", 1024, "Images in a shard.", 1)
flags.declare_key_flag("cpu_devices")
SEVERAL_PROCESSES = True
"""Each encodes shards of its own; process 0 writes the list of them."""
flags.adopt_module_key_flags(data_flags)


def main() -> None:
    """Encodes, measures, and prints the next step."""
    data, out, folder = data_flags.data(), command.new_folder(OUT), command.folder(VAE)
    opened = encode.opened(folder, SCALING.value, dtype=DTYPE.value, batch=BATCH.value)
    how = {"seed": DRAW.value, "dtype": STORED.value, "shard_size": SHARD_SIZE.value}
    how["mirrored"] = MIRROR.value
    run_folder.require_shared(out)
    tells = processes.first()
    made = encode.encode(data, opened, out, progress=tells, **how)
    if tells:
        data_flags.report(out, made)
    if tells and getattr(data, "flip", False) and not MIRROR.value:
        print("data.flip mirrors nothing here: add --mirror for the mirrored images, too")
    records, raw = encode.records(out, opened, VAE.value, SCALING.value, progress=tells)
    if not tells:
        return
    print(f"\n{'channel':>10} {'mean':>10} {'std':>10}")
    for i, (mean, std) in enumerate(zip(raw.mean, raw.std, strict=True)):
        print(f"{i:10d} {mean:10.5f} {std:10.5f}")
    print(f"\nTo train on them, in a config or behind --config.data=\n  {records}")
