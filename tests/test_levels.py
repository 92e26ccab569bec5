"""Grids: published nodes, both ends, and the error messages."""

import json
from typing import Any

import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.levels import Karras, Leading, Linspace, Trailing, Uniform
from jaxdiff.types import Grid
from tests.toys import GOLDEN, PURE_NOISE, SCHEDULES, TABLES

GRIDS = np.load(GOLDEN / "samplers" / "grids.npz")
EDM2 = np.load(GOLDEN / "samplers" / "edm2.npz")


@pytest.mark.parametrize("steps", [1, 2, 5, 10, 13, 20])
def test_karras_nodes(steps: int, x64: None) -> None:
    levels = Karras()(None, steps)
    np.testing.assert_allclose(levels.sigma, GRIDS[f"karras/N{steps}"], rtol=1e-12)
    np.testing.assert_array_equal(levels.alpha, np.ones(steps + 1))


@pytest.mark.parametrize("case", [0, 1, 2])
def test_edm2_s_nodes(case: int, x64: None) -> None:
    """Every evaluation of its sampler: sigma_0, then sigma_i twice."""
    kwargs = json.loads(str(EDM2[f"sigma/{case}/kwargs"]))
    sigma = Karras(**{k: float(v) for k, v in kwargs.items() if k != "num_steps"})(
        None, kwargs["num_steps"]
    ).sigma
    visited = np.r_[sigma[0], np.repeat(sigma[1:-1], 2)]
    np.testing.assert_allclose(visited, EDM2[f"sigma/{case}/eval_sigmas_f64"], rtol=1e-12)


def test_karras_ends_are_exact_in_float32() -> None:
    sigma = np.asarray(Karras()(None, 32).sigma)
    assert sigma[0] == 80
    assert sigma[-2] == np.float32(0.002)
    assert sigma[-1] == 0


@pytest.mark.parametrize("steps", [1, 2, 5, 10, 13, 20])
def test_trailing_entries(steps: int, x64: None) -> None:
    table = jd.Table(jd.LinearBetas())
    entries = GRIDS[f"ddim_trailing/N{steps}"]
    levels = Trailing()(table, steps)
    abar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    np.testing.assert_allclose(levels.alpha[:-1], np.sqrt(abar[entries]), rtol=1e-12)
    assert (levels.alpha[-1], levels.sigma[-1]) == (1, 0)


ENTRIES = np.load(GOLDEN / "iddpm" / "timesteps.npz")
KINDS = {"leading": Leading(), "linspace": Linspace(), "trailing": Trailing()}


@pytest.mark.parametrize("case", [k for k in ENTRIES if k.startswith("ddim__")])
def test_entries_of_every_spacing(case: str, x64: None) -> None:
    """ddim__<kind>__T<entries>__N<steps>, with __off1 for Stable Diffusion's offset."""
    _, kind, total, steps, *offset = case.split("__")
    grid = Leading(offset=1) if offset else KINDS[kind]
    table = jd.Table(jd.ListedBetas((0.01,) * int(total[1:])))
    levels = grid(table, int(steps[1:]))
    expected = 0.99 ** ((ENTRIES[case] + 1) / 2)
    np.testing.assert_allclose(levels.alpha[:-1], expected, rtol=1e-12)
    assert (levels.alpha[-1], levels.sigma[-1]) == (1, 0)


@pytest.mark.parametrize("steps", [61, 103, 121, 999, 1000])
def test_trailing_has_as_many_steps_as_asked_for(steps: int) -> None:
    """Where a grid built from floats has an entry too many."""
    levels = Trailing()(SCHEDULES["zero_terminal"], steps)
    assert levels.sigma.shape == (steps + 1,)
    assert levels.alpha[0] == 0
    assert (np.diff(levels.sigma) < 0).all()


def test_trailing_is_uniform_on_closed_forms() -> None:
    a, b = Trailing()(jd.Cosine(), 7), Uniform()(jd.Cosine(), 7)
    np.testing.assert_array_equal(a.sigma, b.sigma)


@pytest.mark.parametrize("path", SCHEDULES)
@pytest.mark.parametrize("grid", [Uniform(), Trailing()], ids=str)
def test_grids_start_at_the_path_s_end_and_land_on_the_data(grid: Grid, path: str) -> None:
    schedule = SCHEDULES[path]
    steps = min(17, getattr(schedule, "steps", 17))
    levels = grid(schedule, steps)
    assert levels.alpha.shape == levels.sigma.shape == (steps + 1,)
    first = schedule(1.0)
    np.testing.assert_allclose(levels.alpha[0], first.alpha, rtol=1e-6)
    np.testing.assert_allclose(levels.sigma[0], first.sigma, rtol=1e-6)
    assert (float(levels.alpha[0]) == 0) == (path in PURE_NOISE)
    assert (levels.alpha[-1], levels.sigma[-1]) == (1, 0)
    assert (np.diff(np.arctan2(levels.sigma, levels.alpha)) < 0).all()


def test_uniform_may_stop_before_the_data(x64: None) -> None:
    levels = Uniform(end=0.2)(jd.RectifiedFlow(), 4)
    np.testing.assert_allclose(levels.sigma, [1, 0.8, 0.6, 0.4, 0.2], rtol=1e-14)
    np.testing.assert_allclose(levels.alpha, [0, 0.2, 0.4, 0.6, 0.8], atol=1e-15)
    np.testing.assert_allclose(
        Uniform()(jd.RectifiedFlow(), 4).sigma, [1, 0.75, 0.5, 0.25, 0]
    )


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Karras(sigma_min=2.0, sigma_max=1.0), "0 < sigma_min < sigma_max"),
        (lambda: Karras(rho=0.0), "rho > 0"),
        (lambda: Uniform(end=1.0), r"0 <= end < 1, got 1\.0"),
        (lambda: Karras()(None, 0), "at least 1 step, got 0"),
        (lambda: Uniform()(jd.Cosine(), 0), "at least 1 step, got 0"),
        (lambda: Trailing()(jd.Cosine(), -1), "at least 1 step, got -1"),
        (lambda: Trailing()(TABLES["listed"], 6), "ask for at most 5"),
        (lambda: Linspace()(TABLES["listed"], 6), "ask for at most 5"),
        (lambda: Leading()(jd.Cosine(), 6), r"Leading.* for Cosine.* use Uniform"),
        (lambda: Leading(offset=-1), "offset must not be negative, got -1"),
        (lambda: Leading(offset=3)(TABLES["listed"], 2), "use at most 2"),
    ],
)
def test_grids_that_are_none_are_refused(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
