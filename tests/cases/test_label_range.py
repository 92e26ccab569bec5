"""Classes that a network does not have: one line in eager code, nan inside jit."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.networks.unet_skeleton import label_rows
from jaxdiff.runs import generate, state
from jaxdiff.runs.guided_denoiser import Guides
from jaxdiff.types import Condition, Output

CLASSES = 10
LEVELS = jd.grids.Karras()(None, 3)
KEYS = jax.random.split(jax.random.key(0), 2)
MISSING = r"label 77 does not exist: this network has the 10 classes 0 to 9, and -1 stands"


def network(params: Any, x: Any, c_noise: Any, cond: Condition) -> Output:
    rows = label_rows(cond, len(x), CLASSES)
    return Output(x + rows.sum(1)[:, None])


DENOISE = jd.denoiser(network, {}, jd.EDM())


def sample(denoise: Any, *labels: int) -> Any:
    cond = Condition(label=jnp.asarray(labels))
    return jd.sample(denoise, cond, KEYS, (2,), LEVELS, jd.Euler())


@pytest.mark.parametrize(
    "denoise",
    [
        DENOISE,
        jd.guide(DENOISE, (jd.without(DENOISE, "label"), 0.5)),
        jd.guide(DENOISE, (jd.gaussian_denoiser(0.0, 0.5), jd.guidance.Interval(1.0, 0.5))),
        jd.thresholded(DENOISE, 0.9),
    ],
    ids=["alone", "without labels", "within an interval", "thresholded"],
)
def test_sampling_refuses_a_class_that_does_not_exist(denoise: Any) -> None:
    with pytest.raises(ValueError, match=MISSING):
        sample(denoise, 3, 77)
    with pytest.raises(ValueError, match="label -2 does not exist"):
        sample(denoise, -2, 0)
    assert np.isfinite(sample(denoise, -1, 9)).all()


def test_one_number_for_all_images_is_refused_by_its_range_first() -> None:
    for label, message in (
        (77, MISSING),
        (7, r"label has shape \(\); give int labels \[2\]"),
    ):
        with pytest.raises(ValueError, match=message):
            jd.sample(DENOISE, Condition(label=label), KEYS, (2,), LEVELS, jd.Euler())


@pytest.mark.parametrize("label", [[3, 77], [-2, 3]])
def test_traced_classes_that_do_not_exist_make_nan(label: list[int]) -> None:
    run = jax.jit(lambda label: label_rows(Condition(label=label), 2, CLASSES))
    rows = run(jnp.asarray(label))
    bad = [i for i, k in enumerate(label) if not -1 <= k < CLASSES]
    assert np.isnan(rows[bad[0]]).all()
    np.testing.assert_array_equal(rows[1 - bad[0]], np.eye(CLASSES)[3])
    np.testing.assert_array_equal(run(jnp.asarray([-1, 0]))[0], np.zeros(CLASSES))


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (jnp.full((2, CLASSES), jnp.nan), "weights that are not finite"),
        (
            jnp.zeros((2, 3)),
            r"label has shape \(2, 3\); give int labels \[2\] or float rows",
        ),
        (jnp.asarray([True, False]), "label has dtype bool; give ints from 0 to 9"),
        (jnp.zeros((3,), jnp.int32), r"label has shape \(3,\); give int labels \[2\]"),
    ],
)
def test_labels_of_another_kind_are_refused(label: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        label_rows(Condition(label=label), 2, CLASSES)


def _experiment(classes: int) -> jd.Experiment:
    return jd.Experiment(network=jd.UNet(label_dim=classes))


def test_compiled_samplers_check_before_they_are_called() -> None:
    """No weights are read, and nothing is compiled."""
    draw = generate.sampler(_experiment(CLASSES))
    for label in (np.asarray([3, 77]), jnp.asarray([77, 3])):
        with pytest.raises(ValueError, match=MISSING):
            draw({}, KEYS, label)
    with pytest.raises(ValueError, match=MISSING):
        state.labelled(_experiment(CLASSES), np.asarray([77]))


def test_a_guide_with_other_classes_is_refused_by_the_library() -> None:
    with pytest.raises(ValueError, match="the guide knows 7 classes, the run 10"):
        generate.sampler(_experiment(CLASSES), Guides(_experiment(7), 1.0))
    generate.sampler(_experiment(CLASSES), Guides(_experiment(0), 1.0))


def test_levels_of_an_estimator_are_of_its_backbone() -> None:
    backbone = jd.UNet(label_dim=CLASSES)
    experiment = dataclasses.replace(
        _experiment(CLASSES), network=jd.networks.LevelEstimator(backbone)
    )
    with pytest.raises(ValueError, match=MISSING):
        state.labelled(experiment, np.asarray([77]))
