"""Power-function profiles against the reference's numbers and their own definition."""

import json
from pathlib import Path

import numpy as np
import pytest

from jaxdiff.optim.ema_profiles import (
    coefficients,
    combine,
    exponent_to_std,
    inner_products,
    parse_stds,
    profile,
    std_to_exponent,
)

EMA = np.load(Path(__file__).parent / "golden" / "edm2" / "ema.npz")


def test_exponents_and_widths_are_the_reference_s() -> None:
    exponents = [std_to_exponent(float(std)) for std in EMA["std_to_exp/std"]]
    np.testing.assert_allclose(exponents, EMA["std_to_exp/exp"], rtol=1e-11)
    widths = [exponent_to_std(float(gamma)) for gamma in EMA["exp_to_std/exp"]]
    np.testing.assert_allclose(widths, EMA["exp_to_std/std"], rtol=1e-13)


@pytest.mark.parametrize("std", [1e-4, 0.015, 0.05, 0.1, 0.2886])
def test_each_inverts_the_other(std: float) -> None:
    # the cubic's coefficients reach std^-2, which costs about that many digits of gamma
    assert exponent_to_std(std_to_exponent(std)) == pytest.approx(std, rel=1e-9)


@pytest.mark.parametrize("gamma", [0.5, 6.94, 60.0])
def test_the_width_is_the_standard_deviation_of_tau_to_the_gamma(gamma: float) -> None:
    tau = (np.arange(200_000) + 0.5) / 200_000
    weight = tau**gamma / np.sum(tau**gamma)
    mean = np.sum(weight * tau)
    std = np.sqrt(np.sum(weight * (tau - mean) ** 2))
    # midpoint rule: error O(h^(1 + gamma)) at the origin
    assert exponent_to_std(gamma) == pytest.approx(std, rel=1e-6)


@pytest.mark.parametrize("std", [0.0, -0.1, 12**-0.5, 0.3, float("nan")])
def test_widths_that_no_average_has_are_refused(std: float) -> None:
    with pytest.raises(ValueError, match=r"not in \(0, 0.2887\)"):
        std_to_exponent(std)


@pytest.mark.parametrize("gamma", [0.0, -2.0, float("nan")])
def test_exponents_that_are_not_positive_are_refused(gamma: float) -> None:
    with pytest.raises(ValueError, match="is not positive"):
        exponent_to_std(gamma)


@pytest.mark.parametrize("case", range(3))
def test_profiles_are_the_reference_s_response(case: int) -> None:
    """At whole times, as shares of their sum."""
    args = json.loads(str(EMA[f"response/{case}/args"]))
    actual = profile(np.arange(args["len"], dtype=float), args["ofs"], args["std"])
    np.testing.assert_allclose(actual / actual.sum(), EMA[f"response/{case}/y"], rtol=1e-11)


def test_inner_products_are_the_reference_s() -> None:
    times, stds = EMA["corr/ofs_std"].T
    actual = inner_products(times, stds, times, stds)
    np.testing.assert_allclose(actual, EMA["corr/matrix"], rtol=1e-10)


def test_inner_products_are_integrals_of_profiles() -> None:
    time = (np.arange(300_000) + 0.5) / 100_000
    a, b = profile(time, 3.0, 0.1), profile(time, 2.0, 0.2)
    (product,) = inner_products([3.0], [0.1], [2.0], [0.2]).ravel()
    assert product == pytest.approx(np.mean(a * b) * 3, rel=1e-5)
    assert np.mean(b) * 3 == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("case", range(4))
def test_coefficients_give_the_reference_s_profiles(case: int) -> None:
    """Compared where they matter: the systems' condition numbers reach 1e6 and more."""
    at = lambda name: EMA[f"posthoc/{case}/{name}"]
    actual = coefficients(at("in_ofs"), at("in_std"), float(at("out_ofs")), at("out_std"))
    np.testing.assert_allclose(actual.sum(0), 1, rtol=1e-9)
    digits = 1e-15 * at("cond_A") * np.abs(at("coefs")).max()
    np.testing.assert_allclose(actual, at("coefs"), rtol=0, atol=max(100 * digits, 1e-10))
    parts = zip(at("in_ofs"), at("in_std"), strict=True)
    basis = np.stack([profile(at("profile_t"), t, s) for t, s in parts], axis=1)
    top = np.abs(at("profile")).max()
    np.testing.assert_allclose(basis @ actual, at("profile"), rtol=0, atol=1e-7 * top)


def test_a_traced_trajectory_is_reconstructed_as_the_reference_does() -> None:
    steps, stds = EMA["trace/posthoc_snap_steps"], EMA["trace/posthoc_snap_stds"]
    tracked = EMA["trace/stds"].tolist()
    rows = [(s, std) for s in steps for std in stds]
    share = coefficients(*zip(*rows, strict=True), steps[-1], EMA["trace/posthoc_targets"])
    np.testing.assert_allclose(share, EMA["trace/posthoc_coefs"], rtol=1e-6, atol=1e-12)
    trees = [{"w": EMA["trace/ema"][s - 1, tracked.index(std)]} for s, std in rows]
    made = np.stack([tree["w"] for tree in combine(trees, share)])
    # sums in float32 of terms up to |share| times the result
    np.testing.assert_allclose(made, EMA["trace/posthoc_params"], rtol=2e-5)


@pytest.mark.parametrize("case", range(5))
def test_lists_of_widths_are_read_as_the_reference_does(case: int) -> None:
    stds = parse_stds(str(EMA[f"parse_std_list/{case}/str"]))
    np.testing.assert_allclose(stds, EMA[f"parse_std_list/{case}/val"], rtol=1e-9)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0.1,,0.2", "'' is not a width"),
        ("a", "'a' is not a width"),
        ("0.05,...,0.2", "two widths before"),
        ("0.05,0.10,...", "two widths before ... and one after"),
        ("0.05,0.10,...,0.22", "steps of 0.05 from 0.05 do not meet 0.22"),
        ("0.3", r"not in \(0, 0.2887\)"),
        ("0.1,0.05,...,0.2", "do not meet"),
        ("0.05,0.1,...,inf", r"inf is not in \(0, 0.2887\)"),
        ("0.05,nan,...,0.2", r"nan is not in \(0, 0.2887\)"),
        ("0.0000001,0.0000002,...,0.25", "2499999 widths; 1000 are the most"),
    ],
)
def test_lists_that_say_nothing_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_stds(text)
