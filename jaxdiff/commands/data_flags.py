"""Flags that name a source of images, and the summary of the records made from it."""

from pathlib import Path
from typing import Any

from absl import flags

from jaxdiff.commands import command, config_files
from jaxdiff.config import from_config
from jaxdiff.data import Folder
from jaxdiff.data.prepare import Prepared
from jaxdiff.data.summary import left_out_lines

CONFIG = config_files.define()
IMAGES = flags.DEFINE_string("images", "", "A folder or a ZIP file of images.")
SIZE = flags.DEFINE_integer("size", 64, "Pixels of a side, of --images.")
ON_ERROR = flags.DEFINE_enum("on_error", "stop", ["stop", "skip"], "Of --images.")


def data() -> Any:
    """The data that the flags name.

    Raises:
        ValueError: the flags name no data, or two.
    """
    if bool(IMAGES.value) == bool(CONFIG.value):
        raise ValueError("name the data: either --images=FOLDER or --config=FILE")
    command.need((SIZE, IMAGES), (ON_ERROR, IMAGES))
    if IMAGES.value:
        return Folder(IMAGES.value, SIZE.value, on_error=ON_ERROR.value)
    return from_config(CONFIG.value).data


def report(out: Path, made: Prepared) -> None:
    """Prints the number of records, and what was left out."""
    header = made.header
    size = sum(shard.bytes for shard in header.shards)
    print(
        f"{out}: {header.count:,} records of {len(header.classes)} classes in "
        f"{header.total} shards ({made.kept} were there), {size / 1e6:,.1f} MB; "
        f"{made.skipped} images could not be read"
    )
    print(*left_out_lines(made.left_out), sep="\n", end="\n" if made.left_out else "")
