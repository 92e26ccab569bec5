"""Makes a reference of real images: features, to score others against.

    jaxdiff reference --config=openmoji --out=openmoji.npz

    jaxdiff reference --images=photos --extractors=inception_tf --out=photos.npz

    jaxdiff reference --published=cifar10-32x32.npz --protocol=tf --count=50000 \\
        --out=cifar10.npz

The data of a config (any field can be changed, --config.data.size=64), or all images of a
folder or NPZ unchanged, or statistics that another tool wrote: TTUR's, pytorch-fid's, EDM's
and ADM's NPZ, EDM2's pickle, which are read as data. The file records its extractor,
weights and preprocessing, and jaxdiff evaluate rejects any other. Metrics other than the
Frechet distance need the features of all images, which --moments leaves out.
"""

from absl import flags

from jaxdiff import evaluation
from jaxdiff.commands import command, config_files
from jaxdiff.config import from_config
from jaxdiff.data import pictures
from jaxdiff.evaluation.extractors.extractor import extractor
from jaxdiff.runtime import processes, sharding
from jaxdiff.runtime.files import place, printable

CONFIG = config_files.define()
IMAGES = flags.DEFINE_string("images", None, "A folder of pictures, or an NPZ.")
PUBLISHED = flags.DEFINE_string("published", None, "Statistics of another tool.")
PROTOCOL = flags.DEFINE_enum(
    "protocol", "tf", ["tf", "pytorch", "clean"], "How images were resized for those: tf "
    "for TTUR's, EDM's, EDM2's and ADM's, pytorch for pytorch-fid's, clean for clean-fid's."
)  # fmt: skip
COUNT = flags.DEFINE_integer("count", None, "Of how many images those are.", 2)
SIZE = flags.DEFINE_integer(
    "size", None, "Crop and resize --images to so many pixels a side, as training does.", 1
)
EXTRACTORS = flags.DEFINE_list("extractors", ["lite0", "pixels8"], "What looks at images.")
WEIGHTS = flags.DEFINE_string("weights", None, "Folder of weights; or JAXDIFF_WEIGHTS.")
MOMENTS = flags.DEFINE_bool("moments", False, "Keep means and covariances alone.")
BATCH = flags.DEFINE_integer("batch", 256, "Images at a time.", lower_bound=1)
OUT = flags.DEFINE_string("out", None, "The file to write, such as reference.npz.")
flags.declare_key_flag("cpu_devices")
SEVERAL_PROCESSES = True
"""All look at images; process 0 writes."""


def main() -> None:
    """Computes the features of all images, and writes them."""
    ways = {"config": CONFIG, "images": IMAGES, "published": PUBLISHED}
    chosen = [name for name, flag in ways.items() if flag.value]
    if len(chosen) != 1 or not OUT.value:
        raise ValueError("give --out, and one of --config, --images and --published")
    for flag in (PROTOCOL, COUNT):
        if flag.present and not PUBLISHED.value:
            raise ValueError(f"--{flag.name} needs --published")
    command.need((SIZE, IMAGES))
    out = command.output(OUT, place(OUT.value), "npz")["npz"]
    observed = _published() if PUBLISHED.value else _observed()
    if not processes.first():
        return
    evaluation.save(out, observed)
    for name, seen in observed.seen.items():
        kept = "moments" if seen.features is None else "features"
        print(f"{name}: {kept} of {seen.moments.count} images, {seen.extractor.dims} wide")
    print(f"{out}: {printable(observed.source)}")


def _published() -> evaluation.Observed:
    return evaluation.published(place(PUBLISHED.value), PROTOCOL.value, COUNT.value)


def _observed() -> evaluation.Observed:
    """The features of the images, by extractor."""
    extractors = [extractor(name, WEIGHTS.value) for name in command.names(EXTRACTORS)]
    if IMAGES.value:
        source, images = IMAGES.value, evaluation.images_in(IMAGES.value, size=SIZE.value)
    else:
        data = from_config(CONFIG.value).data
        evaluation.require_pixels(data)
        source, images = str(data), pictures(data, sharding.data_mesh()).source
    return evaluation.observe(
        images,
        extractors,
        sharding.data_mesh(),
        source=source,
        batch=BATCH.value,
        keep=not MOMENTS.value,
        progress=processes.first(),
    )
