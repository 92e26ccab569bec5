"""SiT's paths, velocities, scores and losses, by our solvers, rows and weightings.

Its t is 1 - ours, its x1 our x0 and its x0 our eps, so that its velocity x1 alpha' +
x0 sigma' is what a step of ours adds, going to the data, per unit of t.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.denoisers.parameterizations import eps_from_x0
from jaxdiff.objectives.weightings import ELBO
from jaxdiff.sampling.solvers import EulerMaruyama
from jaxdiff.sampling.solvers.sde import End, Proportional
from jaxdiff.types import Denoised, NoiseLevel, Schedule
from tests.test_schedules import CLOSED
from tests.toys import GOLDEN

SIT = np.load(GOLDEN / "iddpm" / "sit_paths.npz")
CONVERSIONS = np.load(GOLDEN / "iddpm" / "paths.npz")
PATHS = {"Linear": jd.RectifiedFlow(), "GVP": jd.Cosine(), "VP": jd.VPLinear()}
CLOSE = {"rtol": 1e-9, "atol": 1e-9}

every = pytest.mark.parametrize("name", PATHS)


def velocity(path: Schedule, t: Any, x: Any, x0: Any) -> Any:
    """What a tangent step towards the data adds to x per unit of t, if D is x0.

    t is [B]; x and x0 are [B, d].
    """
    solver = EulerMaruyama(Proportional(0.0), path, tangent=True, limit=math.inf)
    h, x = jnp.asarray(t) / 8, jnp.asarray(x)
    both = path(jnp.stack([t, t - h], axis=1))
    row = jax.vmap(lambda levels: solver.init(x, levels)[1])(both)
    there = solver.step(lambda x, at: Denoised(x0), x, (), row, lambda k: 0 * x)[0]
    return (there - x) / h[:, None]


def x0_of_velocity(path: Schedule, t: Any, x: Any, u: Any) -> Any:
    """The D at which `velocity` is u, in which it is linear."""
    low, high = (velocity(path, t, x, np.full_like(x, one)) for one in (0.0, 1.0))
    return (u - low) / (high - low)


def _level(path: Schedule, t: Any) -> NoiseLevel:
    """Our level at SiT's times [B], shaped to go with images [B, d]."""
    return path(jnp.asarray(1 - t)[:, None])


def _end(path: Schedule, t: Any) -> End:
    """The path at SiT's times, and its tangent per unit of t going to the data."""
    t = jnp.asarray(1 - t)
    at, rate = jax.jvp(path, (t,), (-jnp.ones_like(t),))
    return End(t, jnp.ones_like(t), at, rate)


def _denoise(row: Any, raw: Any) -> Any:
    """The denoiser whose network says `raw`."""
    return jd.denoiser(lambda params, x, c_noise, cond: jd.Output(params), raw, row)


@every
def test_published_paths_and_slopes(name: str, x64: None) -> None:
    end = _end(PATHS[name], SIT["t"])
    slopes = {"alpha": end.at.alpha, "sigma": end.at.sigma}
    slopes |= {"dalpha": end.d.alpha, "dsigma": end.d.sigma}
    slopes["dalpha_over_alpha"] = end.d.alpha / end.at.alpha
    # the reverse SDE's g^2 is twice SiT's D, u = (alpha' / alpha) x + D score
    slopes["drift_var"] = Proportional(1.0)(end) / 2
    for key, value in slopes.items():
        published = SIT[f"{name}__{key}"]
        np.testing.assert_allclose(value, published, rtol=1e-9, err_msg=key)


@every
def test_published_drift_is_the_velocity_without_a_score(name: str, x64: None) -> None:
    path, x = PATHS[name], SIT["x"]
    x0 = _denoise(jd.Score(), jnp.zeros_like(x))(jnp.asarray(x), _level(path, SIT["t"])).x0
    actual = velocity(path, 1 - SIT["t"], x, x0)
    np.testing.assert_allclose(actual, -SIT[f"{name}__drift_x"], **CLOSE)


@every
def test_published_noised_data_and_their_velocity(name: str, x64: None) -> None:
    at = _level(PATHS[name], SIT["t"])
    x = np.asarray(at.alpha * SIT["x1"] + at.sigma * SIT["x0"])
    np.testing.assert_allclose(x, SIT[f"{name}__xt"], **CLOSE)
    actual = velocity(PATHS[name], 1 - SIT["t"], x, SIT["x1"])
    np.testing.assert_allclose(actual, SIT[f"{name}__ut"], **CLOSE)


@every
def test_published_conversions_of_a_velocity(name: str, x64: None) -> None:
    """Velocity, noise and score stand for one D, each by its own row."""
    path, x, at = PATHS[name], jnp.asarray(SIT["x"]), _level(PATHS[name], SIT["t"])
    x0 = x0_of_velocity(path, 1 - SIT["t"], SIT["x"], SIT["vel"])
    actual = eps_from_x0(x, x0, at)
    np.testing.assert_allclose(actual, SIT[f"{name}__noise_from_vel"], **CLOSE)
    actual = -actual / at.sigma
    np.testing.assert_allclose(actual, SIT[f"{name}__score_from_vel"], **CLOSE)
    r = jnp.hypot(at.alpha, at.sigma)
    outputs = {
        jd.Eps(): SIT[f"{name}__noise_from_vel"],
        jd.Score(): r * SIT[f"{name}__score_from_vel"],
    }
    outputs |= {"Linear": {jd.Flow(): -SIT["vel"]}}.get(name, {})
    outputs |= {"GVP": {jd.V(): -SIT["vel"] * 2 / np.pi}}.get(name, {})
    for row, raw in outputs.items():
        actual = _denoise(row, jnp.asarray(raw))(x, at).x0
        # a score of 0.03 away from pure noise is multiplied by sigma / alpha = 100
        np.testing.assert_allclose(actual, x0, rtol=1e-9, atol=1e-8, err_msg=str(row))


@every
def test_published_velocity_of_a_score(name: str, x64: None) -> None:
    at, x = _level(PATHS[name], SIT["t"]), jnp.asarray(SIT["x"])
    raw = jnp.hypot(at.alpha, at.sigma) * SIT["vel"]
    x0 = _denoise(jd.Score(), raw)(x, at).x0
    actual = velocity(PATHS[name], 1 - SIT["t"], x, x0)
    np.testing.assert_allclose(actual, SIT[f"{name}__vel_from_score"], **CLOSE)


def on_velocity(path: Schedule) -> Any:
    """A uniform weight on SiT's velocity, for any path: (alpha ELBO / SNR)^2 on x0."""
    return lambda at: (ELBO(path)(at) / at.snr * at.alpha) ** 2


@every
def test_published_weights_on_the_noise(name: str, x64: None) -> None:
    """SiT's "likelihood" is the bound in continuous time, "velocity" uniform on it."""
    path, at = PATHS[name], _level(PATHS[name], SIT["t"])[:, 0]
    likelihood = ELBO(path)(at) / at.snr
    np.testing.assert_allclose(likelihood, SIT[f"{name}__lossw_likelihood"], rtol=1e-9)
    weight, published = on_velocity(path)(at), SIT[f"{name}__lossw_velocity"]
    np.testing.assert_allclose(weight / at.snr, published, rtol=1e-9)
    rows = {"Linear": (jd.Flow(), 1.0), "GVP": (jd.V(), np.pi / 2)}
    if name in rows:
        row, scale = rows[name]
        weight = scale**2 * jd.UniformOnNetwork(row)(at)
        np.testing.assert_allclose(weight / at.snr, published, rtol=1e-9)


LOSSES = [key for key in SIT if key.startswith("loss__")]


def test_every_published_loss_is_here() -> None:
    assert len(LOSSES) == 3 * (1 + 3 + 3)


@pytest.mark.parametrize("key", LOSSES)
def test_published_losses(key: str, x64: None) -> None:
    """loss__<path>__<what the network predicts>__<weight>, of a toy network."""
    _, name, kind, weight = key.split("__")
    path = {k.upper(): p for k, p in PATHS.items()}[name]
    t, x0, eps = SIT["loss_t"], *(jnp.asarray(SIT[f"loss_{k}"]) for k in ("x1", "x0"))
    at = path((1 - t).reshape(4, 1, 1))
    x = at.alpha * x0 + at.sigma * eps
    p = SIT["toy"]
    raw = jnp.tanh(p[0] * x + p[1] * jnp.cos(p[2] * t.reshape(4, 1, 1)))
    if kind == "VELOCITY":
        flat = (np.asarray(a).reshape(4, -1) for a in (x, raw))
        denoised = Denoised(x0_of_velocity(path, 1 - t, *flat).reshape(x.shape))
    elif kind == "SCORE":
        denoised = _denoise(jd.Score(), jnp.hypot(at.alpha, at.sigma) * raw)(x, at)
    else:
        denoised = _denoise(jd.Eps(), raw)(x, at)
    weighting = {
        "NONE": on_velocity(path) if kind == "VELOCITY" else jd.UniformOnNetwork(jd.Eps()),
        "VELOCITY": on_velocity(path),
        "LIKELIHOOD": ELBO(path),
    }[weight]
    noised = jd.Noised(x0, eps, x, 1 - t, at)
    loss = jd.WeightedError(weighting)(denoised, noised)
    np.testing.assert_allclose(loss, SIT[key], rtol=1e-9)


@pytest.mark.parametrize("path", CLOSED)
def test_published_conversions_of_any_path_s_velocity(path: str, x64: None) -> None:
    """The row of u = alpha' x0 + sigma' eps, to which no parameterization belongs."""
    t, order = CONVERSIONS["t"], list(CONVERSIONS["order"])
    table = CONVERSIONS[f"{path}__M"][order.index("u")]
    at = NoiseLevel(*(CONVERSIONS[f"{path}__{k}"] for k in ("alpha", "sigma")))
    # the velocity going to the data is -u, and D is affine in x and u
    unit = np.stack([[1.0, 0.0], [0.0, 1.0]] * t.size).reshape(t.size, 2, 2)
    x, u = unit[..., 0], unit[..., 1]
    x0 = x0_of_velocity(CLOSED[path], t, x, -u)
    level = NoiseLevel(at.alpha[:, None], at.sigma[:, None])
    eps = np.asarray(eps_from_x0(jnp.asarray(x), x0, level))
    converted = {"x0": x0, "eps": eps, "u": u, "score": -eps / level.sigma}
    converted["v"] = level.alpha * eps - level.sigma * x0
    for target, value in converted.items():
        published = table[order.index(target)].T
        scale = np.abs(published).max()
        np.testing.assert_allclose(
            value, published, rtol=1e-9, atol=1e-9 * max(scale, 1), err_msg=target
        )
    # and on the published batch
    xt, u = CONVERSIONS[f"{path}__xt"], CONVERSIONS[f"{path}__u"]
    x0 = x0_of_velocity(CLOSED[path], t, xt, -u)
    expected = np.broadcast_to(CONVERSIONS["x0"], xt.shape)
    np.testing.assert_allclose(x0, expected, rtol=1e-9, atol=1e-9)
