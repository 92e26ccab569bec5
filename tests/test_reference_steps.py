"""Published DDIM steps from every prediction, zero terminal SNR among them, and guidance.

The reference steps from entry t to t - T / N, whatever entries it lists: here 999 to 899,
499 to 399, and 99 to the data.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.sampling.solvers import DDIM
from jaxdiff.types import NoiseLevel
from tests.toys import GOLDEN, on_host

STEPS = np.load(GOLDEN / "iddpm" / "ddim_steps.npz")
TABLES = {
    "scaled_linear_zt0": jd.Table(jd.ScaledLinearBetas()),
    "scaled_linear_zt1": jd.zero_terminal_snr(jd.Table(jd.ScaledLinearBetas())),
    "cosine_zt0": jd.Table(jd.CosineBetas()),
}
PREDICTIONS = {"epsilon": jd.Eps(), "sample": jd.X0(), "v_prediction": jd.V()}
CASES = [key.removeprefix("x0__") for key in STEPS if key.startswith("x0__")]
CLOSE = {"rtol": 1e-9, "atol": 1e-9}


def _denoiser(prediction: str, raw: Any) -> Any:
    """The network that says `raw`, whatever it is asked."""
    apply = lambda params, x, c_noise, cond: jd.Output(params)
    return jd.denoiser(apply, jnp.asarray(raw), PREDICTIONS[prediction])


def test_every_published_step_is_here() -> None:
    """All predictions on all tables, but for eps where alpha = 0."""
    cases = {f"{t}__{p}__t{i}" for t in TABLES for p in PREDICTIONS for i in (999, 499, 99)}
    assert {*CASES} == cases - {"scaled_linear_zt1__epsilon__t999"}
    assert sum(key.startswith("step__") for key in STEPS) == 3 * len(CASES) == 78


@pytest.mark.parametrize("name", TABLES)
def test_published_levels(name: str, x64: None) -> None:
    published = STEPS[f"alphas_cumprod__{name}"]
    at = on_host(TABLES[name]((STEPS["index"] + 1) / 1000))
    np.testing.assert_allclose(at.alpha**2, published, rtol=1e-9, atol=1e-30)
    np.testing.assert_allclose(at.sigma**2, 1 - published, rtol=1e-9)


@pytest.mark.parametrize("case", CASES)
def test_published_steps(case: str, x64: None) -> None:
    name, prediction, t = case.split("__")
    entry = int(t[1:])
    levels = TABLES[name](np.asarray([entry + 1, entry - 99]) / 1000)
    x, noise = (jnp.asarray(STEPS[key]) for key in ("sample", "variance_noise"))
    denoise = _denoiser(prediction, STEPS["model_output"])
    x0 = denoise(x, levels[0]).x0
    np.testing.assert_allclose(x0, STEPS[f"x0__{case}"], **CLOSE)
    for eta in (0.0, 0.5, 1.0):
        solver = DDIM(eta)
        memory, rows = solver.init(x, levels)
        row = jax.tree.map(lambda a: a[0], rows)
        actual, *_ = solver.step(denoise, x, memory, row, lambda k: noise)
        expected = STEPS[f"step__{case}_N10_eta{eta}"]
        np.testing.assert_allclose(actual, expected, **CLOSE, err_msg=f"eta {eta}")


@pytest.mark.parametrize("scale", [3.0, 7.5])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_published_guidance(prediction: str, scale: float, x64: None) -> None:
    """neg + w (pos - neg) on any prediction is D + (w - 1) (D - D_neg) on x0."""
    denoise = lambda key: _denoiser(prediction, STEPS[key])
    guided = jd.guide(denoise("cfg_pos"), (denoise("cfg_neg"), scale - 1))
    at, x = NoiseLevel(jnp.asarray(0.8), jnp.asarray(0.6)), jnp.asarray(STEPS["sample"])
    expected = denoise(f"cfg_w{scale}")(x, at).x0
    np.testing.assert_allclose(guided(x, at).x0, expected, **CLOSE)
