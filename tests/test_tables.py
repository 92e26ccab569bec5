"""Tables: the published recipes of betas, zero terminal SNR, and respacing."""

import json
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import schedules as js
from jaxdiff.schedules.posterior import SmallVariance, chain, posterior
from tests.toys import GOLDEN, on_host

TABLES = np.load(GOLDEN / "iddpm" / "tables.npz")
TERMINAL = np.load(GOLDEN / "iddpm" / "ztsnr.npz")
RESPACED = np.load(GOLDEN / "iddpm" / "respace.npz")

RECIPES: dict[str, js.Betas] = {
    "linear_T1000": js.LinearBetas(),
    "linear_T100": js.LinearBetas(100),
    "linear_T4000": js.LinearBetas(4000),
    "cosine_T1000": js.CosineBetas(),
    "cosine_T100": js.CosineBetas(100),
    "cosine_T4000": js.CosineBetas(4000),
    "scaled_linear_T1000": js.ScaledLinearBetas(),
    "scaled_linear_ldm_T1000": js.ScaledLinearBetas(start=0.0015, end=0.0195),
    "ldm_sqrt_T100": js.LDMSqrtBetas(100),
    "sqrt_difflm_T1000": js.DiffusionLMBetas(),
    "geodiff_sigmoid_T1000": js.SigmoidBetas(),
    "laplace_T1000": js.LaplaceBetas(),
    "exp_T1000": js.ExpBetas(),
}
DIFFUSERS = {
    "diffusers_linear_T1000": js.LinearBetas(),
    "diffusers_scaled_linear_T1000": js.ScaledLinearBetas(),
    "diffusers_squaredcos_cap_v2_T1000": js.CosineBetas(),
    "diffusers_sigmoid_T1000": js.SigmoidBetas(),
}


def test_every_published_table_is_here() -> None:
    assert {k.rsplit("__", 1)[0] for k in TABLES} == {*RECIPES, *DIFFUSERS}


@pytest.mark.parametrize("name", RECIPES)
def test_published_betas(name: str, x64: None) -> None:
    betas, index = RECIPES[name](), TABLES[f"{name}__index"]
    # a beta that is one minus a ratio is off by eps: all of it in laplace's first ones
    np.testing.assert_allclose(
        betas[index], TABLES[f"{name}__betas"], rtol=1e-10, atol=5e-16
    )
    at = on_host(js.Table(RECIPES[name])((index + 1) / betas.size))
    abar = TABLES[f"{name}__alphas_cumprod"]
    np.testing.assert_allclose(at.alpha, np.sqrt(abar), rtol=1e-11)
    np.testing.assert_allclose(at.sigma**2, 1 - abar, rtol=1e-11, atol=5e-16)
    np.testing.assert_allclose(at.alpha[-1], TABLES[f"{name}__sqrt_abar_T"], rtol=1e-11)


@pytest.mark.parametrize("name", DIFFUSERS)
def test_published_betas_in_float32(name: str) -> None:
    betas, index = DIFFUSERS[name](), TABLES[f"{name}__index"]
    # one minus a ratio of float32 is off by 6e-8
    np.testing.assert_allclose(
        betas[index], TABLES[f"{name}__betas_f32"], rtol=2e-5, atol=1.2e-7
    )
    at = js.Table(DIFFUSERS[name])(jnp.asarray((index + 1) / betas.size))
    abar = TABLES[f"{name}__alphas_cumprod_f32"]
    np.testing.assert_allclose(at.alpha**2, abar, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("name", sorted({k.split("__")[0] for k in TERMINAL}))
def test_published_zero_terminal_tables(name: str, x64: None) -> None:
    table = js.zero_terminal_snr(js.Table(RECIPES[name]))
    betas, index = table.betas(), TERMINAL[f"{name}__index"]
    np.testing.assert_allclose(
        RECIPES[name]()[index], TERMINAL[f"{name}__betas_in"], rtol=1e-10
    )
    np.testing.assert_allclose(betas[index], TERMINAL[f"{name}__betas_out"], rtol=1e-10)
    # in float32 the root of the signal loses 6e-8 of 1 near its end, where it is small
    np.testing.assert_allclose(
        betas[index], TERMINAL[f"{name}__betas_out_f32"], rtol=2e-5, atol=2e-5
    )
    at = on_host(table((index + 1) / betas.size))
    abar = TERMINAL[f"{name}__alphas_cumprod_out"]
    np.testing.assert_allclose(at.alpha, np.sqrt(abar), rtol=1e-11)
    assert (betas[-1], at.alpha[-1], at.sigma[-1], abar[-1]) == (1, 0, 1, 0)


def test_residual_signal_of_the_cosine_table_falls_as_1_over_T(x64: None) -> None:
    published = {50: 9.85e-4, 250: 1.971e-4, 500: 9.856e-5, 2000: 2.464e-5, 4000: 1.232e-5}
    for steps, amplitude in published.items():
        alpha = float(js.Table(js.CosineBetas(steps))(1.0).alpha)
        assert alpha == pytest.approx(amplitude, rel=1e-3)
    for steps, amplitude in {500: 6.137e-3, 2000: 6.462e-3, 4000: 6.517e-3}.items():
        alpha = float(js.Table(js.LinearBetas(steps))(1.0).alpha)
        assert alpha == pytest.approx(amplitude, rel=1e-3)


@pytest.mark.parametrize(
    "recipe",
    [
        js.CosineBetas,
        js.DiffusionLMBetas,
        js.ExpBetas,
        js.LDMSqrtBetas,
        js.LaplaceBetas,
        js.ScaledLinearBetas,
        js.SigmoidBetas,
    ],
)
def test_recipes_have_any_number_of_entries(recipe: Callable[[int], js.Betas]) -> None:
    for steps in (1, 2, 7, 300):
        table = js.Table(recipe(steps))
        assert table.steps == steps
        at = on_host(table(np.linspace(0, 1, steps + 1)))
        assert (np.diff(np.arctan2(at.sigma, at.alpha)) > 0).all()


def test_linear_ends_on_1_at_20_entries() -> None:
    table = js.Table(js.LinearBetas(20))
    assert table.betas()[-1] == 1
    assert table.reaches_pure_noise


def test_no_signal_to_float32_is_pure_noise() -> None:
    """sqrt(beta) tables of many entries leave alpha = 1e-22, which nothing divides by."""
    assert js.Table(js.LDMSqrtBetas(1000)).reaches_pure_noise
    assert not js.Table(js.LDMSqrtBetas(100)).reaches_pure_noise


SPACINGS = [k for k in RESPACED if k.startswith("steps__")]


@pytest.mark.parametrize("key", SPACINGS)
def test_published_spacings(key: str) -> None:
    _, steps, spec = key.split("__")
    steps = int(steps[1:])
    if spec.startswith("ddim"):
        entries = js.ddim_spacing(steps, int(spec[4:]))
    else:
        counts = tuple(int(n) for n in spec.removeprefix("list_").split("_"))
        entries = js.section_spacing(steps, counts)
    assert entries == tuple(RESPACED[key])


def test_accumulated_rounding_is_not_rounding_of_equal_spaces() -> None:
    differ = [
        n
        for n in range(2, 1001)
        if js.section_spacing(1000, (n,))
        != tuple(int(i) for i in np.round(np.linspace(0, 999, n)))
    ]
    assert len(differ) == 278
    assert differ[:6] == [21, 23, 31, 35, 39, 43]


def test_published_spacings_that_do_not_exist() -> None:
    errors = json.loads(str(RESPACED["errors"]))
    assert len(errors) == 2
    for steps, spec, _ in errors:
        make = (
            (lambda t, n: js.ddim_spacing(t, n))
            if spec.startswith("ddim")
            else (lambda t, n: js.section_spacing(t, (n,)))
        )
        with pytest.raises(ValueError, match=spec.removeprefix("ddim")):
            make(steps, int(spec.removeprefix("ddim")))


SPACED = {
    "linear_T1000_10": (js.LinearBetas(), js.section_spacing(1000, (10,))),
    "cosine_T1000_25": (js.CosineBetas(), js.section_spacing(1000, (25,))),
    "cosine_T4000_ddim50": (js.CosineBetas(4000), js.ddim_spacing(4000, 50)),
    "linear_T1000_ddim10": (js.LinearBetas(), js.ddim_spacing(1000, 10)),
}


@pytest.mark.parametrize("name", SPACED)
def test_published_respaced_tables(name: str, x64: None) -> None:
    of, kept = SPACED[name]
    published = {
        k.split("__")[2]: RESPACED[k] for k in RESPACED if k.startswith(f"spaced__{name}__")
    }
    np.testing.assert_array_equal(kept, published["timestep_map"])
    table = js.Table(js.RespacedBetas(of, kept))
    np.testing.assert_allclose(table.betas(), published["betas"], rtol=1e-10)
    entries = np.arange(1, len(kept) + 1) / len(kept)
    at = on_host(table(entries))
    np.testing.assert_allclose(at.alpha**2, published["alphas_cumprod"], rtol=1e-10)
    # the levels are those of the entries that were kept
    before = on_host(js.Table(of)((np.asarray(kept) + 1) / of().size))
    np.testing.assert_allclose(at.alpha, before.alpha, rtol=1e-10)
    np.testing.assert_allclose(at.sigma, before.sigma, rtol=1e-10)
    levels = on_host(table(np.arange(len(kept) + 1) / len(kept)))
    between = chain(levels)
    for key, actual in {
        "posterior_variance": posterior(levels[1:], levels[:-1]).small,
        "posterior_log_variance_clipped": SmallVariance()(between),
        "posterior_mean_coef1": between.c_x0,
        "posterior_mean_coef2": between.c_x,
    }.items():
        np.testing.assert_allclose(actual, published[key], rtol=1e-9, err_msg=key)


def test_keeping_all_entries_changes_nothing(x64: None) -> None:
    of = js.CosineBetas(50)
    kept = js.ddim_spacing(50, 50)
    assert kept == tuple(range(50)) == js.section_spacing(50, (50,))
    np.testing.assert_allclose(js.RespacedBetas(of, kept)(), of(), rtol=1e-13)


def test_a_zero_terminal_table_can_be_respaced(x64: None) -> None:
    of = js.ZeroTerminalBetas(js.ScaledLinearBetas())
    assert js.Table(js.RespacedBetas(of, (99, 999))).reaches_pure_noise
    assert not js.Table(js.RespacedBetas(of, (99, 899))).reaches_pure_noise


def _table(*betas: float) -> js.Table:
    return js.Table(js.ListedBetas(betas))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: js.LinearBetas(10),
            r"LinearBetas\(steps=10\) would end on beta = 2.*>= 20",
        ),
        (lambda: js.LinearBetas(19), r"steps=19.*or CosineBetas\(19\)"),
        (
            lambda: js.LinearBetas(0),
            "steps must be a whole number from 1 to 1,000,000, got 0",
        ),
        (
            lambda: js.ScaledLinearBetas(0),
            "steps must be a whole number from 1 to 1,000,000, got 0",
        ),
        (
            lambda: js.CosineBetas(0),
            "steps must be a whole number from 1 to 1,000,000, got 0",
        ),
        (
            lambda: js.DiffusionLMBetas(-1),
            "steps must be a whole number from 1 to 1,000,000, got -1",
        ),
        (
            lambda: js.LDMSqrtBetas(0),
            "steps must be a whole number from 1 to 1,000,000, got 0",
        ),
        (
            lambda: js.SigmoidBetas(0),
            "steps must be a whole number from 1 to 1,000,000, got 0",
        ),
        (lambda: js.ExpBetas(0), "steps must be a whole number from 1 to 1,000,000, got 0"),
        (
            lambda: js.LaplaceBetas(0),
            "steps must be a whole number from 1 to 1,000,000, got 0",
        ),
        (lambda: _table(), r"betas must have 1 to 1,000,000 elements, got 0: \(\)"),
        (lambda: _table(0.1, 1e-17), r"so that noise increases.*beta\[1\] = 1e-17 of 2"),
        (
            lambda: _table(0.1, -0.2),
            r"betas\[1\] must be a number above 0, at most 1, got -0.2",
        ),
        (
            lambda: _table(0.1, 1.5),
            r"betas\[1\] must be a number above 0, at most 1, got 1.5",
        ),
        (lambda: _table(0.1, 1.0, 0.5), r"only the last beta may be 1, but beta\[1\] of 3"),
        (lambda: js.zero_terminal_snr(_table(0.1)), "a table of 1 entry"),
        (
            lambda: js.RespacedBetas(js.CosineBetas(9), ()),
            r"kept must have 1 to 1,000,000 elements, got 0: \(\)",
        ),
        (lambda: js.RespacedBetas(js.CosineBetas(9), (0, 9)), "entry 9, but.*0 to 8"),
        (
            lambda: js.RespacedBetas(js.CosineBetas(9), (-1, 3)),
            r"kept\[0\] must be a whole number from 0 to 1,000,000, got -1",
        ),
        (lambda: js.RespacedBetas(js.CosineBetas(9), (3, 3)), "increase, but 3 follows 3"),
        (lambda: js.ddim_spacing(1000, 300), "keeps 300 of 1000 entries; 250 or 334 is"),
        (lambda: js.ddim_spacing(1000, 1), r"keeps 1 of 1000 entries; 2 is possible"),
        (lambda: js.ddim_spacing(1000, 1001), r"keeps 1001 of 1000 entries; 1000 is"),
        (lambda: js.section_spacing(10, (11,)), r"counts\[0\] = 11, but section 0 has 10"),
        (lambda: js.section_spacing(7, (3, 4)), r"counts\[1\] = 4, but section 1 has 3"),
        (lambda: js.section_spacing(7, (-1,)), r"counts\[0\] = -1"),
        (lambda: js.section_spacing(7, ()), r"counts = \(\) keeps no entry"),
        (lambda: js.section_spacing(7, (0,)), r"counts = \(0,\) keeps no entry"),
        (lambda: js.ddim_spacing(7, 20), "keeps 20 of 7 entries; 7 is possible$"),
        (lambda: js.RespacedBetas(js.Table(js.LinearBetas()), (0,)), r"table\.betas"),
    ],
)
def test_tables_that_are_none_are_refused(build: Callable, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_computed_in_float32(dtype: Any) -> None:
    table = js.Table(js.LinearBetas())
    t = jnp.asarray([0.0, 0.5, 1.0], dtype)
    at, expected = table(t), table(t.astype(jnp.float32))
    np.testing.assert_array_equal(at.sigma, expected.sigma)
    logsnr = jnp.asarray([-3.0, 0.0, 4.0], dtype)
    np.testing.assert_array_equal(
        table.time(logsnr), table.time(logsnr.astype(jnp.float32))
    )
