"""Writes a data set as shards of array_record, to read at random.

    jaxdiff prepare_data --images=my/photos --size=256 --out=my/records
    jaxdiff prepare_data --config=openmoji --out=my/records

--images is a folder or a ZIP file, as for --config=folder; a config can name any data.
The same command again resumes at the first incomplete shard.

--encoding is what a record holds: png, the cropped images; raw, their bytes, or latents;
file, the original image files, which are cropped when they are read.
--on_error=skip leaves out images that cannot be read, and counts them.
"""

from absl import flags

from jaxdiff.commands import command, data_flags
from jaxdiff.data import Pixels, encoder_of, prepare

OUT = flags.DEFINE_string("out", "", "The folder of the records, made if need be.")
ENCODING = flags.DEFINE_enum(
    "encoding", None, prepare.ENCODINGS, "What a record holds; png, of latents raw."
)
SHARD_SIZE = flags.DEFINE_integer("shard_size", 4096, "Images in a shard.")
flags.adopt_module_key_flags(data_flags)


def main() -> None:
    """Writes, counts, and prints the next step."""
    data = data_flags.data()
    latents = not isinstance(encoder_of(data), Pixels)
    encoding = ENCODING.value or ("raw" if latents else "png")
    out = command.new_folder(OUT)
    made = prepare.prepare(data, out, encoding, SHARD_SIZE.value)
    data_flags.report(out, made)
    if latents:
        print(f'To train on them: data=LatentRecords("{out}", size={data.shape[0]})')
        return
    size = f"--config.data.path={out}", f"--config.data.size={data.shape[0]}"
    grey = ["--config.data.channels=1"] if data.shape[2] == 1 else []
    config = "--config=folder:records", "--workdir=runs/mine"
    print(f"To train on them:\n  {command.line('train', *config, *size, *grey)}")
