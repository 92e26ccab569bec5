"""The published tables: exact parameter counts, and the experiments made of them."""

import dataclasses
import math
from functools import lru_cache

import jax
import jax.numpy as jnp
import pytest

import jaxdiff as jd
from jaxdiff.config import edm2_presets
from jaxdiff.config.edm2_presets import SAMPLING, TRAINING, Model
from jaxdiff.data import Folder, Latents
from jaxdiff.networks import UNet

COUNTS = {
    "img512-xs-uncond": 124_201_253,
    **{name: preset.params for name, preset in TRAINING.items()},
}


@lru_cache
def count(model_channels: int, channels: int, label_dim: int) -> int:
    """Trainable numbers of a network, by its shapes alone."""
    network = UNet(label_dim=label_dim, model_channels=model_channels)
    x, c_noise = jnp.zeros((1, 64, 64, channels)), jnp.zeros(())
    shapes = jax.eval_shape(network.init, jax.random.key(0), x, c_noise, jd.UNCONDITIONAL)
    return sum(math.prod(a.shape) for a in jax.tree.leaves(shapes["params"]))


@pytest.mark.parametrize("name", COUNTS)
def test_networks_have_the_published_number_of_parameters(name: str) -> None:
    model = Model(name, 0, 0.1)
    channels = 4 if name.startswith("img512") else 3
    parameters = count(model.preset.model_channels, channels, model.label_dim)
    assert parameters == COUNTS[name] == model.preset.parameters(model.label_dim)


def test_training_lasts_as_published() -> None:
    assert TRAINING["img512-s"].steps == 2**20
    assert TRAINING["img512-xxl"].steps == 896 * 512
    for name, preset in TRAINING.items():
        assert preset.name == name
        assert preset.steps * 2048 == preset.duration


def test_snapshots_lie_within_their_training() -> None:
    """A main model is the last snapshot, named by its thousands of images, cut off."""
    for name, way in SAMPLING.items():
        main = way.main
        assert name.startswith(main.network.removesuffix("-uncond"))
        assert main.kimg == main.preset.duration // 1000
        if way.guide:
            assert way.guide.kimg <= way.guide.preset.duration // 1000
            assert way.guide.network.split("-")[0] == main.network.split("-")[0]


def test_published_values() -> None:
    """Rows of EDM2's and autoguidance's tables, said here again."""
    assert len(SAMPLING) == 24 + 4 + 4 + 8
    main = Model("img512-s", 2147483, 0.130)
    assert SAMPLING["img512-s-fid"] == edm2_presets.Guided(main, None, 1.0, "FID", 2.56)
    xxl = SAMPLING["img512-xxl-guid-dino"]
    assert (xxl.main.std, xxl.guide.std, xxl.scale, xxl.value) == (
        0.015,
        0.015,
        1.7,
        33.09,
    )
    assert xxl.guide.network == "img512-xs-uncond"
    auto = SAMPLING["img512-xxl-autog-fid"]
    assert auto.main.file == "edm2-img512-xxl-0939524-0.075.pkl"
    assert auto.guide.file == "edm2-img512-m-0268435-0.155.pkl"
    assert (auto.scale, auto.guidance, auto.metric, auto.value) == (
        2.05,
        1.05,
        "FID",
        1.25,
    )
    small = SAMPLING["img64-s-autog-dino"]
    assert (small.metric, small.value, small.main.std) == ("FDD", 31.85, 0.105)
    some = SAMPLING["img512-xxl-interval-dino"]
    assert (some.main.std, some.guide.std, some.scale, some.value) == (
        0.015,
        0.015,
        2.9,
        29.16,
    )
    free = SAMPLING["img512-s-uncond-autog-fid"]
    assert free.main.label_dim == free.guide.label_dim == 0
    assert free.value == 3.86


@pytest.mark.parametrize(
    ("name", "inside", "outside"),
    [  # levels t_i as [GI] has them, by step
        ("img512-s-interval-fid", (2.902, 0.41), (0.283, 3.8)),
        ("img512-s-interval-dino", (4.999, 0.79), (0.598, 6.7)),
        ("img512-xxl-interval-fid", (1.609, 0.283), (0.189, 2.17)),
        ("img512-xxl-interval-dino", (4.999, 0.79), (0.598, 6.7)),
    ],
)
def test_intervals_are_of_the_published_steps(
    name: str, inside: tuple[float, float], outside: tuple[float, float]
) -> None:
    way = SAMPLING[name]
    low, high = way.interval
    assert all(low < level <= high for level in inside)
    assert not any(low < level <= high for level in outside)
    assert SAMPLING[name.replace("interval", "guid")].interval == (0.0, math.inf)
    assert way.value < SAMPLING[name.replace("interval", "guid")].value


def test_guidance_and_quality_go_together() -> None:
    """Guided FID beats unguided of the same network; only w = 1 has no guide."""
    for name, way in SAMPLING.items():
        assert (way.guide is None) == (way.scale == 1)
        assert 0.015 <= way.main.std <= 0.205
        if "-guid-" in name:
            assert way.value < SAMPLING[name.replace("-guid", "")].value
            assert way.guide.std == way.main.std


def test_an_experiment_is_the_published_run() -> None:
    experiment = edm2_presets.experiment("img512-m", Latents("a.npz"))
    assert experiment.data.shape == (64, 64, 4)
    network = UNet(label_dim=1000, model_channels=256, dropout=0.1, dtype="bfloat16")
    assert experiment.network == network
    assert (experiment.batch_size, experiment.steps) == (2048, 2**20)
    assert experiment.times == jd.timesteps.NormalLogSigma(-0.4, 1.0)
    rate = experiment.optimizer.schedule(experiment.batch_size)
    assert float(rate(5000)) == pytest.approx(0.009)  # past 10 M images
    assert float(rate(4 * 70_000)) == pytest.approx(0.009 / 2)
    assert experiment.optimizer.stds == (0.05, 0.10)
    assert experiment.snapshot_every * experiment.batch_size == 8 * 2**20
    assert isinstance(experiment.loss, jd.Uncertain)
    grid = experiment.sampling.grid(experiment.schedule, experiment.sampling.steps)
    assert grid.sigma.shape == (33,)
    assert float(grid.sigma[0]) == 80
    pixels = edm2_presets.experiment("img64-s", Folder("images", 64))
    assert pixels.times == jd.timesteps.NormalLogSigma(-0.8, 1.6)
    assert float(pixels.optimizer.schedule(2048)(4 * 35_000)) == pytest.approx(0.005)


def test_without_classes() -> None:
    data = Latents("a.npz")
    labelled, free = (
        edm2_presets.experiment(n, data) for n in ("img512-s", "img512-s-uncond")
    )
    assert free.network.label_dim == 0
    assert dataclasses.replace(free, network=labelled.network) == labelled


@pytest.mark.parametrize("name", ["img512-xxxl", "s", "img64-xxs", "img512-s-uncond-fid"])
def test_unknown_names_are_refused(name: str) -> None:
    with pytest.raises(
        ValueError, match=rf"'{name}' is not a preset: use one of img512-xxs"
    ):
        edm2_presets.experiment(name, Latents("a.npz"))


@pytest.mark.parametrize(("family", "size"), [("img512", "q"), ("img64", "xxs")])
def test_unknown_sizes_are_refused_with_those_of_the_family(family: str, size: str) -> None:
    known = [name.split("-")[1] for name in TRAINING if name.startswith(family)]
    with pytest.raises(
        ValueError, match=f"'{size}' is not a size: use one of {known[0]}, "
    ):
        edm2_presets.of_size(family, size)
    for size in (known[-1], f"{known[0]}-uncond"):
        assert edm2_presets.of_size(family, size) == f"{family}-{size}"
