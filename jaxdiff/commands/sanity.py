"""Tests how metrics respond to known faults of images.

    jaxdiff sanity --config=openmoji --out=docs/results/metrics

Half of the images are the reference, the other half are degraded: by increasing noise,
blur, darkening, desaturation, JPEG, warp and missing classes. --splits random halves give a
mean and a standard deviation. It also scores the two halves against each other at several
sizes, which shows only bias; and traps, bad images that some metric rewards, beside a
quarter of the images, with another quarter held out.

Writes OUT.json, OUT.png and OUT.md, where only the text between the markers is replaced,
and prints whether the metrics grow with each fault. Any field of the data can be changed,
--config.data.size=64. --extractors other than lite0 and pixels8 need weights.
"""

import dataclasses
import json
import shlex
import sys
from pathlib import Path

import numpy as np
from absl import flags

from jaxdiff.commands import command, config_files
from jaxdiff.config import from_config
from jaxdiff.data import OpenMoji, Pixels, encoder_of
from jaxdiff.evaluation import in_memory, observe, sanity
from jaxdiff.evaluation.extractors.extractor import extractor
from jaxdiff.runtime import sharding
from jaxdiff.runtime.files import place, write_atomically

CONFIG = config_files.define()
EXTRACTORS = flags.DEFINE_list("extractors", "lite0,pixels8", "The first is judged.")
WEIGHTS = flags.DEFINE_string("weights", None, "Folder of weights; or JAXDIFF_WEIGHTS.")
NUMBER = flags.DEFINE_integer("number", 2000, "Images in a half, at most.", 24)
SPLITS = flags.DEFINE_integer("splits", 4, "Random halves.", 2)
SEED = flags.DEFINE_integer("seed", 0, "Of halves, noise and traps.", 0)
BATCH = flags.DEFINE_integer("batch", 256, "Images that an extractor sees at once.", 1)
OUT = flags.DEFINE_string("out", "metrics", "Where to write .json, .md and .png.")
flags.mark_flags_as_required(["config"])
flags.declare_key_flag("cpu_devices")


def main() -> None:
    """Loads, measures, writes."""
    data, out = from_config(CONFIG.value).data, place(OUT.value)
    if encoder_of(data) != Pixels():
        raise ValueError(f"metrics are of pixels, and {data} has latents")
    md, png, js = (out.with_name(out.name + end) for end in (".md", ".png", ".json"))
    command.writes(OUT, png, js)
    title = f"What metrics say of degraded images: {data}"
    page = md.read_text(encoding="utf-8") if md.exists() else ""
    before, after = sanity.around(page, title)
    made = [extractor(name, WEIGHTS.value) for name in command.names(EXTRACTORS)]
    dataset, mesh = data.load(), sharding.data_mesh()
    study = sanity.study(
        dataset,
        lambda x: observe(in_memory(x), made, mesh, batch=BATCH.value),
        np.array(data.families()) if isinstance(data, OpenMoji) else None,
        number=NUMBER.value,
        splits=SPLITS.value,
        seed=SEED.value,
    )
    failed, trapped = sanity.sentences(study)
    print("\n".join([*failed, *trapped]))
    summary = {
        "command": shlex.join(["jaxdiff", "sanity", *sys.argv[1:]]),
        "data": str(data),
        "grows": sanity.grows(study),
        "caught": sanity.caught(study),
    }
    text = before + sanity.tables(study, png.name) + after
    numbers = json.dumps(summary | dataclasses.asdict(study), indent=1)
    _write(md, text.encode())
    _write(js, numbers.encode())
    _write(png, sanity.picture(study))
    print(f"written: {md}, {js} and {png}")


def _write(path: Path, content: bytes) -> None:
    write_atomically(path, lambda file: file.write(content))
