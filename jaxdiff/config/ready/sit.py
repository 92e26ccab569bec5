"""SiT: DiT's transformer trained as a rectified flow, on the velocity.

    jaxdiff encode --images=my/imagenet --size=256 --vae=my/sd-vae-ft-ema \\
        --mirror --out=my/imagenet256
    jaxdiff train --config=sit:xl2 --workdir=runs/sit-xl2

After the colon: the size s, b, l or xl and the patch 2, 4 or 8, with the suffix "-512" for
512x512 pixels. Training is as for DiT (the config `dit`). SiT-XL/2 reached FID 8.61 after 7
million batches, and 2.06 with guidance; nobody has trained it with jaxdiff yet.

    jaxdiff train --config=sit:tiny-digits --workdir=runs/sit-digits
    jaxdiff train --config=sit:tiny-openmoji --workdir=runs/sit-emoji

train pixels on a CPU. The first takes 6 min 25 s on 2 CPU cores, compilation included
(commit 744dc39). At that commit

    python benchmarks/digits_quality.py --workdir=runs/sit-digits

gives for 1,000 samples: a classifier trained on the real digits sees the requested class in
99.0 % (98.7 % of held-out real digits); the mean distance to the nearest training digit is
1.023 of that of held-out digits, with 1.4 % copies, and to the nearest other sample 1.062
of that among real digits. Another 1,000, with --seed=2000000: 98.9 %, 1.016 and 1.053. The
number of steps was chosen on another run. The emoji have not been trained.
"""

import dataclasses
import re

from ml_collections import ConfigDict

from jaxdiff.config import Experiment, published, to_config
from jaxdiff.data import Digits, LatentRecords, OpenMoji
from jaxdiff.optim import AdamW


def get_config(name: str = "xl2") -> ConfigDict:
    """The experiment of a size, or a tiny one, as flags can change it."""
    tiny = {"tiny-digits": digits, "tiny-openmoji": openmoji}
    return to_config(tiny[name]() if name in tiny else latents(name))


def latents(size: str) -> Experiment:
    """ImageNet in the latents of Stable Diffusion's VAE; size as in xl2 or xl2-512."""
    name, _, pixels = size.partition("-")
    if not re.fullmatch("(s|b|l|xl)[248]", name) or pixels not in ("", "256", "512"):
        raise ValueError(
            f"{size!r} is not a size: use s, b, l or xl with the patch 2, 4 or 8, such as "
            "xl2 or xl2-512; or tiny-digits or tiny-openmoji"
        )
    e = published.training(f"sit-{name}-{pixels or 256}")
    path = f"my/imagenet{pixels or 256}"
    data = LatentRecords(path=path, size=e.data.size, encoder=e.data.encoder)
    return dataclasses.replace(e, data=data)


def digits() -> Experiment:
    """Pixels of 8 x 8 in 16 patches, with a network of 0.3 million parameters."""
    e = latents("s2")
    optimizer = AdamW(
        learning_rate=2e-3, rampup_images=20_000.0, decays=(0.99, 0.995, 0.998)
    )
    sampling = dataclasses.replace(e.sampling, steps=18, guidance=0.0, std=0.995)
    return dataclasses.replace(
        e,
        data=Digits(split="train"),
        network=e.network.clone(width=64, depth=4, heads=4, label_dim=10),
        optimizer=optimizer,
        sampling=dataclasses.replace(sampling, images=100),
        batch_size=128,
        steps=8000,
        loss_scale=1 / 8**2,
    )


def openmoji() -> Experiment:
    """Colour emoji of 32 x 32 in 64 patches, with 0.7 million parameters."""
    e = latents("s2")
    optimizer = AdamW(learning_rate=1e-3, rampup_images=20_000.0, decays=(0.995,))
    sampling = dataclasses.replace(e.sampling, steps=18, guidance=0.5, std=0.995)
    return dataclasses.replace(
        e,
        data=OpenMoji(size=32),
        network=e.network.clone(width=96, depth=4, heads=4, patch=4, label_dim=-1),
        optimizer=optimizer,
        sampling=sampling,
        batch_size=64,
        steps=2000,
        loss_scale=1 / (3 * 32**2),
    )
