"""Grids: published nodes, both ends, and the error messages."""

import json
from typing import Any

import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.sampling.grids import (
    AYS_SD15,
    AYS_SDXL,
    AYS_SVD,
    Beta,
    Karras,
    Leading,
    Linspace,
    Listed,
    LogLinear,
    Polyexponential,
    Trailing,
    Uniform,
    UniformLogSNR,
)
from jaxdiff.schedules import Shifted
from jaxdiff.types import Grid
from tests.toys import GOLDEN, PURE_NOISE, SCHEDULES, TABLES

GRIDS = np.load(GOLDEN / "samplers" / "grids.npz")
EDM2 = np.load(GOLDEN / "samplers" / "edm2.npz")


@pytest.mark.parametrize("steps", [1, 2, 5, 10, 13, 20])
def test_karras_nodes(steps: int, x64: None) -> None:
    levels = Karras()(None, steps)
    np.testing.assert_allclose(levels.sigma, GRIDS[f"karras/N{steps}"], rtol=1e-12)
    np.testing.assert_array_equal(levels.alpha, np.ones(steps + 1))


COUNTS = pytest.mark.parametrize("steps", [1, 2, 5, 10, 13, 20])
STRAIGHT = jd.RectifiedFlow()


def _shifted(shift: str) -> Shifted:
    return Shifted(STRAIGHT, float(shift))


NODES: dict[str, Any] = {
    "karras_nozero": lambda n: Karras()(None, n + 1)[:-1],
    "exponential": lambda n: Polyexponential()(None, n),
    "polyexponential_rho1.5": lambda n: Polyexponential(rho=1.5)(None, n),
    "vp_sigmas": lambda n: Uniform(last=1e-3)(jd.VPLinear(), n),
    "beta0.6": lambda n: Beta()(None, n),
    "ays_sd15_sigma": lambda n: LogLinear()(None, n),
    "ays_sdxl_sigma": lambda n: LogLinear(AYS_SDXL)(None, n),
}
SHIFTS = ("1.0", "1.7320508075688772", "3.0")


@COUNTS
@pytest.mark.parametrize("name", NODES)
def test_published_sigmas(name: str, steps: int, x64: None) -> None:
    """sigma / alpha; vp_sigmas below float64's square root, where they are differences."""
    levels = NODES[name](steps)
    sigmas = levels.sigma / levels.alpha
    np.testing.assert_allclose(sigmas, GRIDS[f"{name}/N{steps}"], rtol=1e-9)


@COUNTS
@pytest.mark.parametrize("shift", SHIFTS)
def test_published_shifts(shift: str, steps: int, x64: None) -> None:
    """Once over, from 1 to 1 / 1000 and to 1 / N; and over what was shifted before."""
    path = _shifted(shift)
    again = float(path(1e-3).sigma)
    grids = {"": Uniform(last=1e-3), "_uniform": Uniform()}
    grids["_twice_compat"] = Uniform(last=again)
    for kind, grid in grids.items():
        expected = GRIDS[f"flow_shift{kind}{shift}/N{steps}"]
        sigmas = grid(path, steps).sigma
        np.testing.assert_allclose(sigmas, expected, rtol=1e-12, err_msg=kind)


@COUNTS
@pytest.mark.parametrize("tokens", [256, 1024, 4096])
def test_published_shifts_of_flux(tokens: int, steps: int, x64: None) -> None:
    mu = 0.5 + (tokens - 256) / (4096 - 256) * (1.15 - 0.5)
    assert float(GRIDS[f"flux_seq{tokens}/mu"]) == pytest.approx(mu, rel=1e-12)
    sigmas = Uniform()(Shifted(STRAIGHT, float(np.exp(mu))), steps).sigma
    np.testing.assert_allclose(sigmas, GRIDS[f"flux_seq{tokens}/N{steps}"], rtol=1e-12)


LOGSNR = {"flow": STRAIGHT, "cosine": jd.Cosine(), "vp": jd.VPLinear()}


@COUNTS
@pytest.mark.parametrize("name", LOGSNR)
def test_published_times_of_even_logsnr(name: str, steps: int, x64: None) -> None:
    path = LOGSNR[name]
    levels = UniformLogSNR(-8.0, 12.0, lands=False)(path, steps)
    expected = path(GRIDS[f"uniform_logsnr_t_{name}/N{steps}"])
    np.testing.assert_allclose(levels.sigma, expected.sigma, rtol=1e-9)
    np.testing.assert_allclose(levels.alpha, expected.alpha, rtol=1e-9)


def test_even_logsnr_starts_no_earlier_than_its_path() -> None:
    path = SCHEDULES["stable_diffusion"]
    levels = UniformLogSNR()(path, 8)
    assert float(levels.sigma[0]) == pytest.approx(float(path(1.0).sigma), rel=1e-6)
    steps = np.diff(np.asarray(levels.logsnr)[:-1])
    # near 1, sigma and alpha of float32 leave 1e-3 of the smallest logsnr
    np.testing.assert_allclose(steps, steps.mean(), rtol=5e-3)
    assert (levels.alpha[-1], levels.sigma[-1]) == (1, 0)


def test_published_tables_of_align_your_steps(x64: None) -> None:
    for table, name in ((AYS_SD15, "sd15"), (AYS_SDXL, "sdxl"), (AYS_SVD, "svd")):
        np.testing.assert_array_equal(table, GRIDS[f"ays_table/{name}_sigma"])


@COUNTS
@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
def test_published_entries(spacing: str, steps: int, x64: None) -> None:
    """DDIM's, and DPM-Solver's, which leave out the last of N + 1, if it is entry 0."""
    grid, table = KINDS[spacing], jd.Table(jd.LinearBetas())
    abar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    for family in ("ddim", "dpm"):
        more = family == "dpm" and spacing != "trailing"
        levels = grid(table, steps + more)
        expected = np.sqrt(abar[GRIDS[f"{family}_{spacing}/N{steps}"]])
        np.testing.assert_allclose(levels.alpha[:steps], expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "betas"),
    {
        "linear": jd.LinearBetas(),
        "scaled_linear": jd.ScaledLinearBetas(),
        "cosine": jd.CosineBetas(),
    }.items(),
)
def test_published_tables(name: str, betas: Any, x64: None) -> None:
    """Every 50th entry of alpha^2, and with no signal in the last."""
    t = (np.arange(0, 1000, 50) + 1) / 1000
    for table, suffix in (
        (jd.Table(betas), ""),
        (jd.zero_terminal_snr(jd.Table(betas)), "_ztsnr"),
    ):
        expected = GRIDS[f"alpha_bar_{name}{suffix}"]
        np.testing.assert_allclose(table(t).alpha ** 2, expected, rtol=1e-9)


def test_lists() -> None:
    levels = Listed((1.0, 0.6, 0.0), (0.0, 0.8, 1.0))(None, 2)
    np.testing.assert_array_equal(levels.sigma, [1.0, 0.6, 0.0])
    np.testing.assert_array_equal(levels.alpha, [0.0, 0.8, 1.0])


@pytest.mark.parametrize("case", [0, 1, 2])
def test_edm2_s_nodes(case: int, x64: None) -> None:
    """Every evaluation of its sampler: sigma_0, then sigma_i twice."""
    kwargs = json.loads(str(EDM2[f"sigma/{case}/kwargs"]))
    sigma = Karras(**{k: float(v) for k, v in kwargs.items() if k != "num_steps"})(
        None, kwargs["num_steps"]
    ).sigma
    visited = np.r_[sigma[0], np.repeat(sigma[1:-1], 2)]
    np.testing.assert_allclose(visited, EDM2[f"sigma/{case}/eval_sigmas_f64"], rtol=1e-12)


def test_karras_ends_are_exact() -> None:
    sigma = np.asarray(Karras()(None, 32).sigma)
    assert sigma[0] == 80
    assert sigma[-2] == 0.002
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
        (
            lambda: Karras(sigma_min=2.0, sigma_max=1.0),
            "Karras needs sigma_min < sigma_max",
        ),
        (lambda: Karras(rho=0.0), r"rho must be a number above 0, at most 1e\+15, got 0.0"),
        (lambda: Uniform(end=1.0), "end must be a number from 0 to below 1, got 1.0"),
        (lambda: Karras()(None, 0), "at least 1 step, got 0"),
        (lambda: Uniform()(jd.Cosine(), 0), "at least 1 step, got 0"),
        (lambda: Trailing()(jd.Cosine(), -1), "at least 1 step, got -1"),
        (lambda: Trailing()(TABLES["listed"], 6), "at most 5 steps, got 6"),
        (lambda: Linspace()(TABLES["listed"], 6), "at most 5 steps, got 6"),
        (lambda: Leading()(jd.Cosine(), 6), r"Leading.* for Cosine.* use Uniform"),
        (lambda: Uniform(last=1.0), "last must be a number from 0 to below 1, got 1.0"),
        (lambda: Uniform(end=0.1, last=0.1), "end before the data or a last time"),
        (lambda: UniformLogSNR(3.0, 3.0), "logsnr_min < logsnr_max, in nats, got 3.0"),
        (
            lambda: UniformLogSNR(-9.0, -8.0)(TABLES["stable_diffusion"], 4),
            "begins at a logsnr of -5.3.*set that higher",
        ),
        (lambda: Polyexponential(2.0, 1.0), "Polyexponential needs sigma_min < sigma_max"),
        (
            lambda: Polyexponential(rho=-1.0),
            r"rho must be a number above 0, at most 1e\+15, got -1.0",
        ),
        (lambda: Beta(a=0.0), r"a must be a number above 0, at most 10000, got 0.0"),
        (
            lambda: LogLinear((1.0,)),
            r"sigmas must have 2 to 1,000,000 elements, got 1: \(1.0,\)",
        ),
        (lambda: LogLinear((2.0, 1.0, 0.0)), "leave out the 0 at the end"),
        (lambda: Listed((1.0, 2.0)), "levels 0 and 1 have .*most noise to least"),
        (lambda: Listed((2.0, 1.0, 1.0)), "levels 1 and 2 have"),
        (lambda: Listed((1.0, 1.0), (0.0, 0.0)), "noise must fall"),
        (
            lambda: Listed((1.0, -1.0)),
            r"sigmas\[1\] must be a number from 0 to 1e\+15, got -1.0",
        ),
        (
            lambda: Listed((1.0, float("nan"))),
            r"sigmas\[1\] must be a number from 0 to 1e\+15, got nan",
        ),
        (
            lambda: Listed((1.0,)),
            r"sigmas must have 2 to 1,000,000 elements, got 1: \(1.0,\)",
        ),
        (lambda: Listed((2.0, 1.0), (1.0,)), "1 alphas and 2 sigmas"),
        (lambda: Listed((2.0, 1.0))(None, 2), "2 levels make 1 steps, not 2: use 1"),
        (
            lambda: Leading(offset=-1),
            "offset must be a whole number from 0 to 1,000,000, got -1",
        ),
        (lambda: Leading(offset=3)(TABLES["listed"], 2), "use at most 2"),
    ],
)
def test_grids_that_are_none_are_refused(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
