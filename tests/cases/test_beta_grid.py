"""Quantiles of beta laws as a grid, and grids whose levels would repeat."""

import numpy as np
import pytest
from scipy.special import betaincinv

from jaxdiff.sampling.grids import Beta, Karras, Polyexponential, UniformLogSNR, sigmas
from jaxdiff.schedules import BoundedCosine

LAWS = [
    *[(a, a) for a in (0.1, 0.3, 0.6, 1.0, 2.0, 7.5, 40.5, 150.0, 500.0, 1e4)],
    *[(0.1, 3.0), (3.0, 0.1), (0.6, 80.0), (80.0, 0.6), (40.5, 3.0), (500.0, 20.0)],
    *[(1.0, 500.0), (500.0, 1.0), (2.0, 1e4), (0.2, 500.0)],
]


@pytest.mark.parametrize(("a", "b"), LAWS)
def test_quantiles_are_those_of_scipy(a: float, b: float) -> None:
    sigma = Beta(sigma_min=0.5, sigma_max=80.0, a=a, b=b)(None, 7).sigma
    expected = 0.5 + 79.5 * betaincinv(a, b, np.linspace(1, 0, 7))
    np.testing.assert_allclose(sigma[:-1], expected, rtol=1e-10)


def test_shapes_are_bounded_and_a_fraction_that_does_not_converge_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ValueError, match="a must be a number above 0, at most 10000"):
        Beta(a=1e12, b=1e12)
    monkeypatch.setattr(sigmas, "TERMS", 5)
    with pytest.raises(ValueError, match=r"does not converge in 5 terms .*500.*: take"):
        Beta(a=500.0, b=500.0)(None, 7)


@pytest.mark.parametrize("steps", [2, 6, 50])
def test_levels_of_a_narrow_law_fall(steps: int) -> None:
    assert (np.diff(Beta(a=40.5, b=40.5)(None, steps).sigma) < 0).all()


@pytest.mark.parametrize(
    ("grid", "path"),
    [
        (Beta(a=0.1, b=0.1), None),  # the quantile of 1 - 1/400 is 1 - 3e-23
        (Polyexponential(rho=40.0), None),
        (Karras(rho=1e15), None),
        (UniformLogSNR(logsnr_max=12.0), BoundedCosine(logsnr_max=10.0)),
    ],
)
def test_levels_that_would_repeat_are_refused(grid: object, path: object) -> None:
    with pytest.raises(ValueError, match=r"repeats a level, .* use fewer steps"):
        grid(path, 400)
