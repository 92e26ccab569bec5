"""What else of published samplers and losses ours say in their own way.

Entries and levels of other solvers' grids, k-diffusion's table, VDM in continuous time, and
the importance sampler's settings.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.evaluation.likelihood import prior
from jaxdiff.objectives.timesteps import LossHistory, LossSecondMoment
from jaxdiff.objectives.weightings import ELBO
from jaxdiff.sampling.grids import Leading, Linspace, Trailing
from jaxdiff.schedules import Shifted
from jaxdiff.types import NoiseLevel
from tests.toys import GOLDEN, on_host

GRIDS, LAWS, PATHS, VDM, HISTORY = (
    np.load(GOLDEN / "iddpm" / f"{name}.npz")
    for name in ("other_grids", "noise_sampling", "paths", "vdm", "resampler")
)
KINDS = {"leading": Leading(), "linspace": Linspace(), "trailing": Trailing()}
KEYS = {
    kind: [key for key in GRIDS if key.startswith(f"{kind}__")]
    for kind in ("prev", "euler", "euler_sigmas", "dpmpp", "fm_sigmas")
}


def _case(key: str) -> tuple[Any, int, int]:
    """The grid, T and N of a key <solver>__<spacing>__T<T>__N<N>."""
    _, spacing, total, steps = key.split("__")
    return KINDS[spacing], int(total[1:]), int(steps[1:])


def _entries(grid: Any, total: int, steps: int) -> np.ndarray:
    """The entries that a grid visits, -1 for the data, read off its levels."""
    levels = grid(jd.Table(jd.ListedBetas((0.01,) * total)), steps)
    return np.round(2 * np.log(np.asarray(levels.alpha)) / np.log(0.99)).astype(int) - 1


@pytest.mark.parametrize("key", KEYS["prev"])
def test_published_next_entries(key: str, x64: None) -> None:
    """Where DDIM steps to; below entry 0 it takes the data."""
    entries = _entries(*_case(key))[1:]
    np.testing.assert_array_equal(entries, np.maximum(GRIDS[key], -1))


@pytest.mark.parametrize("key", [*KEYS["euler"], *KEYS["dpmpp"]])
def test_published_entries_of_other_solvers(key: str, x64: None) -> None:
    """Euler's are DDIM's. DPM-Solver++ leaves out the last of N + 1, if it is entry 0."""
    grid, total, steps = _case(key)
    one_less = key.startswith("dpmpp") and not isinstance(grid, Trailing)
    entries = _entries(grid, total, steps + one_less)[:steps]
    np.testing.assert_array_equal(entries, GRIDS[key])


@pytest.mark.parametrize("key", KEYS["euler_sigmas"])
def test_published_levels_of_euler(key: str) -> None:
    """sigma / alpha of Stable Diffusion's table, which are published in float32."""
    grid, total, steps = _case(key)
    levels = grid(jd.Table(jd.ScaledLinearBetas(total)), steps)
    assert levels.sigma.dtype == np.float64
    # sqrt(1 - alpha_bar) of the first entry in float32 is off by 1.3e-5 of itself
    np.testing.assert_allclose(levels.sigma / levels.alpha, GRIDS[key], rtol=2e-5)


@pytest.mark.parametrize("key", KEYS["fm_sigmas"])
def test_published_levels_of_flow_euler_in_float32(key: str) -> None:
    """Evenly from 1 to the shifted 1 / 1000, and shifted once more."""
    _, steps, shift = key.split("__")
    path = Shifted(jd.RectifiedFlow(), float(shift.removeprefix("shift")))
    times = jnp.linspace(1.0, path(1e-3).sigma, int(steps[1:]))
    sigma = jnp.append(path(times).sigma, path(0.0).sigma)
    np.testing.assert_allclose(sigma, GRIDS[key], rtol=2e-5)


def test_published_levels_of_k_diffusion(x64: None) -> None:
    """Stable Diffusion's entries, and the nearest entry of a level."""
    table = jd.Table(jd.ScaledLinearBetas())
    at = on_host(table(np.arange(1, 1001) / 1000))
    np.testing.assert_allclose(at.sigma / at.alpha, LAWS["ds_sigmas"], rtol=1e-9)
    t = table.time(-2 * np.log(LAWS["ds_query_sigma"]))
    entry = np.round(np.asarray(t) * 1000 - 1)
    np.testing.assert_array_equal(entry, LAWS["ds_sigma_to_t_quant"])


def test_published_logsnr_of_edm(x64: None) -> None:
    sigma = PATHS["edm__sigma"]
    logsnr = NoiseLevel(np.ones_like(sigma), sigma).logsnr
    np.testing.assert_allclose(logsnr, PATHS["edm__logsnr"], rtol=1e-9, atol=1e-12)


def _linear_logsnr() -> tuple[jd.LogSigma, NoiseLevel]:
    """VDM's path as EDM's: the same rays, on which logsnr is linear in t, and its batch."""
    low, high = np.exp(VDM["gamma_minmax"] / 2)
    path = jd.LogSigma(float(low), float(high))
    return path, path(jnp.asarray(VDM["t"])[:, None])


def test_published_noised_data_of_vdm(x64: None) -> None:
    """On the ray's unit circle, which is what a network is told."""
    _, at = _linear_logsnr()
    x = jd.X0()(at).c_in * (at.alpha * VDM["f"] + at.sigma * VDM["eps"])
    np.testing.assert_allclose(x, VDM["z_t"], rtol=1e-9)


def test_published_continuous_loss_of_vdm(x64: None) -> None:
    path, at = _linear_logsnr()
    x0, eps = jnp.asarray(VDM["f"]), jnp.asarray(VDM["eps"])
    apply = lambda params, x, c_noise, cond: jd.Output(jnp.asarray(VDM["eps_hat"]))
    x = at.alpha * x0 + at.sigma * eps
    denoised = jd.denoiser(apply, None, jd.Eps())(x, at)
    noised = jd.Noised(x0, eps, x, VDM["t"], at)
    nats = jd.WeightedError(ELBO(path))(denoised, noised) * x0.shape[1]
    np.testing.assert_allclose(nats, VDM["loss_diff_cont"], rtol=1e-9)


def test_published_unit_of_the_bound(x64: None) -> None:
    """From nats an image to bits/dim, by the prior's term."""
    snr = np.exp(-VDM["gamma_minmax"][1])
    last = NoiseLevel(np.sqrt(snr / (1 + snr)), np.sqrt(1 / (1 + snr)))
    # the bytes are the centres of 256 bins in [-1, 1] there
    x0 = jnp.asarray((VDM["x_uint8"] + 0.5) / 128 - 1)
    bits = VDM["loss_klz"] * VDM["bpd_factor"]
    np.testing.assert_allclose(prior(x0, last), bits, rtol=1e-9)


def test_published_settings_of_the_importance_sampler(x64: None) -> None:
    settings = {f.name: f.default for f in dataclasses.fields(LossSecondMoment)}
    assert settings["length"] == HISTORY["history_per_term"]
    assert settings["uniform"] == HISTORY["uniform_prob"]
    law, start = LossSecondMoment(16), 0
    update = jax.jit(law.update)
    memory = LossHistory(jnp.zeros((16, 10)), jnp.zeros(16, jnp.int32))
    t, losses = (HISTORY["ts"] + 1) / 16, HISTORY["losses"]
    for end, weights in zip(HISTORY["snap"], HISTORY["weights_after"], strict=True):
        memory = update(memory, t[start:end], losses[start:end])
        # its weights are all 1 until every entry is full
        actual = law.probabilities(memory) * weights.sum()
        np.testing.assert_allclose(actual, weights, rtol=1e-9)
        start = end
