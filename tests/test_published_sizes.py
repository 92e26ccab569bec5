"""All published sizes: the names and shapes of their files' tensors, and exact counts."""

import math
from typing import Any

import numpy as np
import pytest

from jaxdiff.interop import adm, autoencoder, dit
from jaxdiff.networks import AutoencoderKL, DiT
from jaxdiff.networks.dit import SIZES
from tests.model_goldens import keys

DITS = {
    "dit_s_2_256": ("S", 32, 32_963_360),
    "dit_b_2_256": ("B", 32, 130_512_416),
    "dit_l_2_256": ("L", 32, 458_102_816),
    "dit_xl_2_256": ("XL", 32, 675_129_632),
    "dit_xl_2_512": ("XL", 64, 676_014_368),
}
ADMS = {
    "iddpm_cifar10_uncond": ("iddpm-cifar10", 52_546_438),
    "iddpm_imagenet64_uncond": ("iddpm-64", 121_063_942),
    "adm_imagenet64_cond": ("adm-64", 295_904_454),
    "adm_imagenet128_cond": ("adm-128", 421_529_606),
    "adm_imagenet256_cond": ("adm-256", 553_838_086),
    "adm_lsun256_uncond": ("adm-256-uncond", 552_814_086),
    "adm_imagenet512_cond": ("adm-512", 558_997_638),
}
SIXTEEN = AutoencoderKL(latent_channels=16, quant_conv=False, post_quant_conv=False)
VAES = {
    "sd_vae_ft": (AutoencoderKL(), 83_653_863),
    "sd3_vae": (SIXTEEN, 83_819_683),
}


def tensors(name: str) -> dict[str, np.ndarray]:
    """A state dict of zeros with a published file's names and shapes, of no memory."""
    zero = np.zeros((), np.float32)
    return {n: np.broadcast_to(zero, shape) for n, shape in keys()[name].items()}


def check(name: str, sources: Any, count: int) -> None:
    assert {s.name: s.shape for s in sources.values()} == keys()[name]
    assert sum(
        math.prod(s.shape) for s in {s.name: s for s in sources.values()}.values()
    ) == (count)


def test_every_published_size_is_here() -> None:
    assert {*DITS, *ADMS, *VAES} == {*keys()}


@pytest.mark.parametrize("name", DITS)
def test_dits(name: str) -> None:
    size, side, count = DITS[name]
    net, shape = dit.network(tensors(name), "dit")
    assert shape == (side, side, 4)
    assert net == DiT(label_dim=1000, learned_variance=True, **SIZES[size])
    check(name, dit.sources(net, shape, "dit", 8), count)
    velocity, _ = dit.network(tensors(name), "sit")
    assert velocity == net.clone(learned_variance=False)


@pytest.mark.parametrize("name", ADMS)
def test_adms(name: str) -> None:
    known, count = ADMS[name]
    assert adm.recognised(tensors(name)) == known
    published = adm.PUBLISHED[known]
    side, heads_first = published.settings.side, published.settings.heads_first
    check(name, adm.sources(published.network, side, 3, heads_first), count)


@pytest.mark.parametrize("name", VAES)
def test_vaes(name: str) -> None:
    net, count = VAES[name]
    check(name, autoencoder.sources(net), count)
