"""Configs of the published networks: their exact sizes and settings, and tiny steps."""

import dataclasses
import functools
import math
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from flax import traverse_util

import jaxdiff as jd
from jaxdiff import data, networks, train
from jaxdiff.config import Experiment, from_config, parts, published
from jaxdiff.denoisers.parameterizations import TimeLabel
from jaxdiff.objectives.losses import PixelDecoder, VariationalBound
from jaxdiff.runs.state import init_state
from jaxdiff.train import finetuning

ROOT = Path(__file__).parents[1]


@functools.cache
def config(file: str, name: str) -> Experiment:
    module = runpy.run_path(str(ROOT / "jaxdiff/config/ready" / f"{file}.py"))
    return from_config(module["get_config"](name))


def count(e: Experiment) -> int:
    """Numbers of the network, fixed ones too, from shapes alone."""
    shapes = networks.shapes(e.network, e.data.shape)
    return sum(math.prod(shape) for shape in shapes.values())


COUNTS = {
    # published counts; they include DiT's table of positions
    ("dit", "s2"): 32_963_360,
    ("dit", "b2"): 130_512_416,
    ("dit", "l2"): 458_102_816,
    ("dit", "xl2"): 675_129_632,
    ("dit", "xl2-512"): 676_014_368,
    ("iddpm", "cifar10"): 52_546_438,
    ("iddpm", "imagenet64"): 121_063_942,
}


@pytest.mark.parametrize(("file", "name"), COUNTS)
def test_published_sizes(file: str, name: str) -> None:
    assert count(config(file, name)) == COUNTS[file, name]


@pytest.mark.parametrize("name", ["s2", "xl2", "xl2-512"])
def test_a_sit_is_a_dit_without_the_variance(name: str) -> None:
    """Its last layer has half of the outputs: 4 of 8 channels for each pixel of a patch."""
    width = config("sit", name).network.width
    unused = 2 * 2 * 4 * (width + 1)
    assert count(config("sit", name)) == COUNTS["dit", name] - unused


@pytest.mark.parametrize("file", ["dit", "sit"])
def test_transformers_are_trained_as_published(file: str) -> None:
    e = config(file, "xl2")
    o = e.optimizer
    assert (o.learning_rate, o.weight_decay, o.rampup_images) == (1e-4, 0.0, 0.0)
    assert (o.b1, o.b2, o.decays, e.sampling.std) == (0.9, 0.999, (0.9999,), 0.9999)
    assert (e.batch_size, e.label_dropout, e.steps) == (256, 0.1, 7_000_000)
    assert e.loss_scale * math.prod(e.data.shape) == 1  # the mean over an image
    assert e.data.encoder == data.VAELatents.ldm()
    assert e.network.label_dim == 1000
    assert config(file, "b4").steps == 400_000
    assert config(file, "b4").network.patch == 4


def test_what_the_networks_are_told_and_predict() -> None:
    dit, sit, iddpm = config("dit", "xl2"), config("sit", "xl2"), config("iddpm", "cifar10")
    assert dit.schedule == jd.Table(jd.LinearBetas(1000))
    assert iddpm.schedule == jd.Table(jd.CosineBetas(4000))
    entries = jnp.array([1, 2, 1000]) / 1000
    labels = dit.parameterization.label(dit.schedule(entries))
    assert jnp.allclose(labels, jnp.array([0.0, 1, 999]), atol=2e-2)
    quarters = iddpm.parameterization.label(iddpm.schedule(jnp.array([1, 4000]) / 4000))
    assert jnp.allclose(quarters, jnp.array([0.0, 3999 / 4]), atol=2e-2)
    assert sit.parameterization == jd.Flow(TimeLabel(jd.RectifiedFlow(), -1.0, 1.0))
    assert dit.network.learned_variance
    assert not sit.network.learned_variance


def test_improved_ddpm_is_trained_as_published() -> None:
    for name, steps, dropout in (("cifar10", 500_000, 0.3), ("imagenet64", 1_500_000, 0.0)):
        e = config("iddpm", name)
        assert (e.batch_size, e.steps, e.network.dropout) == (128, steps, dropout)
        assert (e.optimizer.learning_rate, e.optimizer.decays) == (1e-4, (0.9999,))
        assert (e.network.label_dim, e.label_dropout) == (0, 0.0)
        (one, _), (scale, bound) = e.loss.terms
        assert (one, scale) == (
            1.0,
            4.0,
        )  # 0.001 of the sum of T terms [IDDPM eq. 16]
        assert bound.stop_mean


@pytest.mark.parametrize("family", ["dit", "sit"])
def test_fine_tuning_starts_from_the_published_network(family: str) -> None:
    """All arrays of an imported model have a place; the null of the level alone is new."""
    there, here = published.training(f"{family}-xl2-256"), config("nag_finetune", family)
    assert (here.noise_dropout, here.batch_size, here.steps) == (0.1, 256, 50_045)
    assert here.optimizer == there.optimizer
    there, here = (
        dataclasses.replace(e, network=e.network.clone(width=8, depth=1, heads=2))
        for e in (there, here)
    )
    shapes = networks.shapes(there.network, there.data.shape)
    arrays = {name: jnp.zeros(shape) for name, shape in shapes.items()}
    fitted = finetuning.fitted(traverse_util.unflatten_dict(arrays, sep="/"), there, here)
    assert fitted.lines[0].startswith(f"{len(shapes)} of the {len(shapes) + 1} arrays")
    assert "made anew: emb_null" in fitted.lines


@pytest.mark.parametrize("name", ["tiny-digits", "tiny-openmoji"])
@pytest.mark.parametrize("file", ["dit", "sit"])
def test_tiny_ones_make_a_step(file: str, name: str) -> None:
    """Traced, not run: tests/test_config.py makes steps of all configs."""
    e = config(file, name)
    e = dataclasses.replace(e, network=e.network.clone(label_dim=10))
    assert count(e) < 800_000
    assert e.loss_scale * math.prod(e.data.shape) == 1
    image = jax.ShapeDtypeStruct((e.batch_size, *e.data.shape), jnp.uint8)
    label = jax.ShapeDtypeStruct((e.batch_size,), jnp.int32)
    start = jax.eval_shape(lambda: init_state(e))
    state, metrics = jax.eval_shape(
        train.make_step(e), start, {"image": image, "label": label}
    )
    assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, start)
    assert metrics["loss"].shape == ()
    if bounds := [*parts(e.loss, VariationalBound)]:
        assert bounds[0].decoder == PixelDecoder()


@pytest.mark.parametrize(
    ("file", "name", "complaint"),
    [
        ("dit", "m2", "'m2' is not a size: use s, b, l or xl"),
        ("dit", "tiny-digit", "'tiny-digit' is not a size: .*; or tiny-digits"),
        ("sit", "xl2-64", "'xl2-64' is not a size: use s, b, l or xl"),
        ("sit", "", "'' is not a size: use s, b, l or xl"),
        ("iddpm", "lsun", "'lsun' is none of cifar10, imagenet64"),
        ("nag_finetune", "adm", "'adm' is none of dit, sit"),
    ],
)
def test_other_names_are_refused(file: str, name: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        config(file, name)
