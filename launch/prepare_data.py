"""Writes a data set as array_record shards, which any number of threads read at random.

    python launch/prepare_data.py --images=my/photos --size=256 --out=my/records
    python launch/prepare_data.py --config=configs/openmoji.py --out=my/records

--images is a folder or a ZIP file, as configs/folder.py takes it; a config gives any data.
The same command again goes on where it was stopped, at the first shard that is not whole.

--encoding says what a record holds: png, the images as they are after cropping; raw, their
bytes, or latents; file, the image files themselves, which are cropped when they are read.
--on_error=skip leaves out images that cannot be read, and counts them.
"""

import shlex
import sys

import command
import data_flags
from absl import flags

from jaxdiff.data import Pixels, encoder_of, prepare

OUT = flags.DEFINE_string("out", "", "The folder of the records, made if need be.")
ENCODING = flags.DEFINE_enum(
    "encoding", None, prepare.ENCODINGS, "What a record holds; png, of latents raw."
)
SHARD_SIZE = flags.DEFINE_integer("shard_size", 4096, "Images in a shard.")
flags.adopt_module_key_flags(data_flags)


def main() -> None:
    """Writes, counts, and says what to do next."""
    data = data_flags.data()
    latents = not isinstance(encoder_of(data), Pixels)
    encoding = ENCODING.value or ("raw" if latents else "png")
    out = command.folder(OUT)
    made = prepare.prepare(data, out, encoding, SHARD_SIZE.value)
    data_flags.report(out, made)
    if latents:
        print(f'To train on them: data=LatentRecords("{out}", size={data.shape[0]})')
        return
    following = [sys.executable, "launch/train.py", "--config=configs/folder.py:records"]
    following += ["--workdir=runs/mine", f"--config.data.path={out}"]
    following += [f"--config.data.size={data.shape[0]}"]
    following += ["--config.data.channels=1"] if data.shape[2] == 1 else []
    print(f"To train on them:\n  {shlex.join(following)}")


if __name__ == "__main__":
    command.run(main)
