"""ImageNet-512 in the latents of a VAE: EDM2's networks, xxs to xxl.

    jaxdiff train --config=edm2_img512:s --workdir=runs/img512-s \\
        --config.data.path=my/imagenet512.npz

After the colon: the size xxs, xs, s (the default), m, l, xl or xxl; s-uncond and the like
are unconditional. `jaxdiff.data.write_latents` writes the file. The published S network
took 5.3 days on 32 A100 and reached FID 2.56 without guidance, XXL 9.1 days and 1.91 [EDM2
tab. 2]; nobody has trained these with jaxdiff yet. jaxdiff train --dry_run prints the
memory that each device needs.
"""

from ml_collections import ConfigDict

from jaxdiff.config import edm2_presets, to_config
from jaxdiff.data import Latents


def get_config(size: str = "s") -> ConfigDict:
    """The experiment of a size, as flags can change it."""
    data = Latents(path="my/imagenet512.npz", size=64)
    return to_config(edm2_presets.experiment(edm2_presets.of_size("img512", size), data))
