"""ImageNet at 64x64 pixels: EDM2's networks, xs to xl.

    jaxdiff train --config=edm2_img64:s --workdir=runs/img64-s \\
        --config.data.path=my/imagenet

After the colon: the size xs, s (the default), m, l or xl; s-uncond and the like are
unconditional. The folder has a sub-folder for each of the 1,000 classes; images are
cropped and resized as they are read, so a folder of 64x64 PNG files reads fastest. The
published S network reached FID 1.58 without guidance, M 1.43 and L 1.33 [EDM2 tab. 3];
nobody has trained these with jaxdiff yet.
"""

from ml_collections import ConfigDict

from jaxdiff.config import edm2_presets, to_config
from jaxdiff.data import Folder


def get_config(size: str = "s") -> ConfigDict:
    """The experiment of a size, as flags can change it."""
    data = Folder(path="my/imagenet", size=64)
    return to_config(edm2_presets.experiment(edm2_presets.of_size("img64", size), data))
