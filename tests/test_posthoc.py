"""Power-function profiles against the reference's numbers and their own definition."""

from pathlib import Path

import numpy as np
import pytest

from jaxdiff.posthoc import exponent_to_std, std_to_exponent

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
