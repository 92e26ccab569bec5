"""Weightings, on the x0 error, against the published weights on each prediction."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.types import NoiseLevel, Weighting
from tests.toys import GOLDEN, SCHEDULES

WEIGHTS = np.load(GOLDEN / "iddpm" / "weights.npz")
INDEX = WEIGHTS["index"]
TABLES = {
    "linear_T1000": jd.Table(jd.LinearBetas()),
    "scaled_linear_T1000": jd.Table(jd.ScaledLinearBetas()),
}
ALL = {
    "debias": jd.Debias(),
    "minsnr_g5": jd.MinSNR(5.0),
    "minsnr_g1": jd.MinSNR(1.0),
    "x0": jd.UniformOnX0(),
    "eps": jd.UniformOnNetwork(jd.Eps()),
    "v": jd.UniformOnNetwork(jd.V()),
    "flow": jd.UniformOnNetwork(jd.Flow()),
    "score": jd.UniformOnNetwork(jd.Score()),
    "edm": jd.UniformOnNetwork(jd.EDM(0.5)),
}


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("name", ["debias", "minsnr_g5", "minsnr_g1"])
@pytest.mark.parametrize("on", ["eps", "x0", "v"])
def test_published_weights(name: str, on: str, table: str, x64: None) -> None:
    snr = WEIGHTS[f"snr__{table}"]
    # |x0 error|^2 = |eps error|^2 / SNR = |v error|^2 / (SNR + 1)
    to_x0 = {"x0": 1.0, "eps": snr, "v": snr + 1}[on]
    weight = ALL[name](TABLES[table]((INDEX + 1) / 1000))
    np.testing.assert_allclose(weight, WEIGHTS[f"{name}__{on}__{table}"] * to_x0, rtol=1e-9)


def test_edm_s_weight(x64: None) -> None:
    sigma = np.asarray([0.002, 0.3, 0.5, 80.0])
    expected = (sigma**2 + 0.25) / (0.5 * sigma) ** 2
    weight = jd.UniformOnNetwork(jd.EDM(0.5))(NoiseLevel(np.ones(4), sigma))
    np.testing.assert_allclose(weight, expected, rtol=1e-13)


def test_uniform_weights_by_hand(x64: None) -> None:
    at = NoiseLevel(np.asarray([0.8]), np.asarray([0.6]))
    by_hand = {"x0": 1, "eps": 16 / 9, "v": 25 / 9, "flow": 49 / 9, "debias": 4 / 3}
    for name, value in (by_hand | {"minsnr_g5": 16 / 9, "minsnr_g1": 1}).items():
        np.testing.assert_allclose(ALL[name](at), value, rtol=1e-13, err_msg=name)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("path", SCHEDULES)
def test_weights_are_finite_and_of_the_level_s_shape(name: str, path: str) -> None:
    at = SCHEDULES[path](jnp.linspace(0, 1, 33).reshape(33, 1, 1, 1))
    weight = ALL[name](at)
    assert weight.shape == (33, 1, 1, 1)
    assert weight.dtype == jnp.float32
    assert np.isfinite(weight).all()
    assert (weight >= 0).all()
    assert isinstance(ALL[name], Weighting)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("k", [0.1, 10.0])
def test_weights_are_functions_on_rays(name: str, k: float, x64: None) -> None:
    alpha = np.asarray([0.9, 0.5, 0.1])
    at, scaled = NoiseLevel(alpha, 1 - alpha), NoiseLevel(k * alpha, k * (1 - alpha))
    np.testing.assert_allclose(ALL[name](scaled), ALL[name](at), rtol=1e-12)


@pytest.mark.parametrize("name", ["debias", "minsnr_g5"])
def test_the_bound_on_snr_is_out_of_the_way(name: str, x64: None) -> None:
    """Within |logsnr| < 40 nothing is clipped, beyond it the weight stays."""
    sigma = np.exp(-np.asarray([-19.9, 19.9, 25.0, 30.0]))
    weight: Any = np.asarray(ALL[name](NoiseLevel(np.ones(4), sigma)))
    power = {"debias": sigma**-1.0, "minsnr_g5": np.minimum(sigma**-2.0, 5)}[name]
    np.testing.assert_allclose(weight[:2], power[:2], rtol=1e-12)
    assert weight[2] == weight[3]
