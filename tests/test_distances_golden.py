"""Distances against the packages that published numbers come from, case by case."""

import functools
from pathlib import Path

import numpy as np
import pytest

from jaxdiff.evaluation import distances as d

GOLDEN = Path(__file__).parent / "golden"
POOL = "openmoji_e0_pool_n_lt_d"
CASES = ["fullrank_small", "scaled", "shift_only", "identical", "duplicates", "collapsed"]
CASES += ["big_mean", "lowrank", "relu_dead_units", "n_lt_d", "openmoji_e0_s4", POOL, "d1"]
PACKAGES = ["torch_fidelity", "pytorch_fid", "clean_fid"]
OFF = {"lowrank": 3e-6, "n_lt_d": 3e-8, POOL: 4e-7}
"""By how much packages miss the distance of singular covariances, of 1 + it."""


@functools.cache
def case(name: str) -> dict[str, np.ndarray]:
    arrays = dict(np.load(GOLDEN / f"evaluation/metrics_{name}.npz"))
    if name == POOL:
        arrays |= np.load(GOLDEN / f"evaluation/metrics_{name}_real.npz")
    return arrays


def first(name: str) -> dict[str, np.ndarray]:
    """As many real points as fake ones, which is what packages made kernels' numbers of."""
    count = int(case(name)["kid_m"])
    return {key: case(name)[key][:count] for key in ("real", "fake")}


def near(value: float, expected: float, relative: float, absolute: float = 0.0) -> None:
    assert value == pytest.approx(float(expected), rel=relative, abs=absolute)


@pytest.mark.parametrize("name", CASES)
def test_frechet(name: str) -> None:
    c = case(name)
    by_points = d.frechet_of_points(c["real"], c["fake"])
    by_moments = d.frechet(*d.moments(c["real"]), *d.moments(c["fake"]))
    size = 1 + abs(float(c["fd_feat_numpy64"]))
    near(by_points, c["fd_feat_numpy64"], 0, 1e-12 * size)
    near(by_moments, c["fd_feat_numpy64"], 0, 1e-11 * size)
    near(by_moments, c["fd_numpy64"], 0, (5e-9 if name == "n_lt_d" else 1e-11) * size)
    for package in PACKAGES:
        theirs = float(c[f"fd_{package}"])
        if name == "d1":
            assert np.isnan(theirs)
        else:
            near(theirs, by_points, 0, OFF.get(name, 1e-11) * size)


def test_frechet_of_edm2() -> None:
    c = np.load(GOLDEN / "edm2/misc.npz")
    pair = c["fd/real_features"], c["fd/fake_features"]
    for points, whose in zip(pair, ("real", "fake"), strict=True):
        mean, covariance = d.moments(points)
        np.testing.assert_allclose(mean, c[f"fd/{whose}_mu"], rtol=1e-12, atol=1e-14)
        scale = np.abs(covariance).max()
        expected = c[f"fd/{whose}_sigma"]
        np.testing.assert_allclose(covariance, expected, rtol=0, atol=1e-13 * scale)
    moments = [c[f"fd/{key}"] for key in ("real_mu", "real_sigma", "fake_mu", "fake_sigma")]
    near(d.frechet(*moments), c["fd/value"], 1e-12)
    near(d.frechet_of_points(*pair), c["fd/value"], 1e-12)


@pytest.mark.parametrize("name", CASES)
def test_kernels(name: str) -> None:
    c, big = case(name), name == "big_mean"
    value = d.kid(**first(name)).value
    near(value, c["kid_all_numpy64"], 1e-12)
    near(value, c["kid_torch_fidelity"], 1e-12)
    near(value, c["kid_clean_fid"], 2e-9 if big else 1e-12)
    some = d.kid_of_subsets(**first(name), subsets=20, size=int(c["kid20_size"]))
    near(some.value, c["kid20_mean"], 2e-9 if big else 1e-12)
    near(some.error * 20**0.5, c["kid20_std"], 2e-9 if big else 1e-12)
    rbf = d.rbf_mmd(**first(name), bandwidth=10.0).value
    near(rbf, c["mmd_rbf10_torch_fidelity"], 1e-12)
    cmmd = d.cmmd(real=c["real"], fake=c["fake"])
    near(cmmd, c["cmmd_formula_numpy64"], 1e-11, 1e-12)


@pytest.mark.parametrize("name", CASES)
def test_manifolds(name: str) -> None:
    """A mean of N shares k/N has one rounding or two, and ties must not flip."""
    c = case(name)
    sets = {"real": c["real"], "fake": c["fake"]}
    for k in (3, 5):
        ours = d.prdc(**sets, k=k)
        for what in ("precision", "recall", "density", "coverage"):
            near(getattr(ours, what), c[f"prdc_k{k}_{what}"], 1e-15, 1e-15)
    precision, recall = d.precision_recall(**sets)
    near(precision, c["prc_k3_precision_torch_fidelity"], 0, 1e-7)
    near(recall, c["prc_k3_recall_torch_fidelity"], 0, 1e-7)
