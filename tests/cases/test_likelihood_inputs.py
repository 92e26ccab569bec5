"""One convention for images in likelihoods: uint8 k and floats 2 k / 255 - 1."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.evaluation import likelihood
from jaxdiff.types import Condition

KEYS = jax.random.split(jax.random.key(0), 2)
PIXELS = jnp.asarray(np.random.default_rng(0).integers(0, 256, (2, 6)), jnp.uint8)
DATA = 2 * jnp.float32(PIXELS) / 255 - 1
TOY = jd.gaussian_denoiser(0.0, 0.5)
RISING = likelihood.rising(jd.Cosine(), 8)
STEPS = likelihood.process(jd.Cosine(), 8)


def flow(image: Any) -> Any:
    return likelihood.flow_bits_per_dim(TOY, Condition(), image, KEYS, RISING).bits


def bound(image: Any) -> Any:
    return likelihood.bits_per_dim(TOY, Condition(), image, KEYS, STEPS)


def prior(image: Any) -> Any:
    return likelihood.prior(image, STEPS.at[-1])


def terms(image: Any) -> Any:
    return likelihood.terms(TOY, Condition(), image, KEYS, STEPS).vb


def dequantised(image: Any) -> Any:
    return likelihood.dequantise(KEYS, image)


ALL = pytest.mark.parametrize("measure", [flow, bound, prior, terms, dequantised])


@ALL
def test_bytes_and_floats_give_one_number(measure: Callable) -> None:
    np.testing.assert_allclose(measure(PIXELS), measure(DATA), rtol=2e-5, atol=1e-6)
    traced = jax.jit(measure)(DATA)
    np.testing.assert_allclose(traced, measure(DATA), rtol=2e-5, atol=1e-6)


@ALL
def test_bytes_as_floats_are_refused(measure: Callable) -> None:
    with pytest.raises(
        ValueError, match=r"values of 2\d\d: pixels in 0 \.\.\. 255 are uint8"
    ):
        measure(jnp.float32(PIXELS))


@ALL
def test_other_integers_are_refused(measure: Callable) -> None:
    with pytest.raises(ValueError, match=r"int32: .*(uint8 pixels|flow_bits_per_dim)"):
        measure(jnp.int32(PIXELS))


@pytest.mark.parametrize(
    ("image", "bad"), [(PIXELS / 255, "0"), (DATA * 1.5, "1"), (DATA + 0.3 / 255, "-?0")]
)
def test_flow_refuses_floats_that_are_no_pixels(image: Any, bad: str) -> None:
    """Images in [0, 1], and images that were resized or scaled."""
    with pytest.raises(
        ValueError, match="is the value of no pixel: floats are 2 k / 255 - 1"
    ):
        flow(image)
    assert np.isnan(jax.jit(flow)(image)).any()


def test_densities_are_of_floats() -> None:
    with pytest.raises(
        ValueError, match="x is of uint8: give data and their noise, or pixels"
    ):
        likelihood.log_density(TOY, Condition(), PIXELS, KEYS, RISING)
