"""Imports a published model as a run, to sample and fine-tune.

    jaxdiff import_model DiT-XL-2-256x256.pt runs/dit --vae=sd-vae-ft-ema
    jaxdiff sample --workdir=runs/dit

    jaxdiff import_model SiT-XL-2-256.pt runs/sit --as=sit-xl2-256
    jaxdiff import_model 256x256_diffusion.pt runs/adm
    jaxdiff import_model edm2-img512-s-2147483-0.130.pkl runs/edm2-s

Families are edm2, dit, sit, adm and iddpm (Improved DDPM); their files are torch's .pt, a
training checkpoint with `ema` in it, .safetensors, or EDM2's .pkl. A file is read as data:
nothing that it names is imported or run, and torch is not needed. Family and size are
recognised from names and shapes; --as sets what cannot be recognised, such as DiT or SiT.
For unpublished networks give the settings that files lack: --heads, and for ADM --side,
--attention and --schedule.

OUT/snapshots/ gets the averaged network with its experiment, OUT/LICENCE.txt the licence of
the weights. Several snapshots of one EDM2 training may share an OUT; other EMA lengths can
then be reconstructed from them.
"""

from absl import flags

from jaxdiff.commands import command
from jaxdiff.interop import published
from jaxdiff.runs import published as importing
from jaxdiff.runtime.files import place

FILE = flags.DEFINE_string("file", "", "The published file; or the first argument.")
OUT = flags.DEFINE_string("out", "", "The folder to write to; or the second argument.")
AS = flags.DEFINE_string(
    "as", "", f"What the file is: {published.LISTED}; other sizes likewise, dit-b4-512."
)
HEADS = flags.DEFINE_integer("heads", 0, "Heads of attention, of other sizes.", 0)
WIDTH = flags.DEFINE_integer("channels_per_head", 0, "ADM's, instead of --heads.", 0)
SIDE = flags.DEFINE_integer("side", 0, "Height of ADM's images, in pixels.", 0)
ATTENTION = flags.DEFINE_enum(
    "attention", "", ["", *published.ATTENTION], "Order of the channels of ADM's qkv: "
    "heads-first is Improved DDPM's and most of ADM's, qkv-first ADM's for 64 x 64."
)  # fmt: skip
SCHEDULE = flags.DEFINE_enum(
    "schedule", "", ["", *published.SCHEDULES], "Betas that ADM was trained on."
)
SURE = flags.DEFINE_bool("sure", False, "Trust --as=dit or sit, whatever the file says.")
STD = flags.DEFINE_float("std", None, "EDM2's EMA length, where the name has none.")
IMAGES = flags.DEFINE_integer(
    "images", None, "Images that EDM2's has seen, where the name has none.", 1
)
DATA = flags.DEFINE_string("data", "", "Where the images or latents are, to train on.")
VAE = flags.DEFINE_string(
    "vae", "", "Folder of the VAE that makes pictures of latents, as diffusers has it."
)
DTYPE = flags.DEFINE_enum(
    "dtype", "float32", ["float32", "bfloat16", "float16"],
    "What the network computes in from now on.",
)  # fmt: skip


POSITIONAL = ("file", "out")
"""The flags that the two arguments without a name set."""


def main() -> None:
    """Reads, checks, writes."""
    if not FILE.value or not OUT.value:
        raise ValueError(
            "name the published file and the folder to write to, such as "
            "DiT-XL-2-256x256.pt runs/dit"
        )
    choices = published.Choices(
        SIDE.value, HEADS.value, WIDTH.value, ATTENTION.value, SCHEDULE.value,
        STD.value, IMAGES.value, SURE.value,
    )  # fmt: skip
    options = choices, DATA.value, DTYPE.value, VAE.value
    made = importing.load(FILE.value, place(OUT.value), AS.value, *options)
    command.writes(OUT, made.path)
    made.write()
    print("\n".join(made.lines))
    print(command.line("sample", f"--workdir={OUT.value}"))
