"""Parameterizations: a network that is right gives the data back, on every path."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.denoisers.parameterizations import AngleLabel, LogSigmaLabel, eps_from_x0
from jaxdiff.schedules import TrigFlow
from jaxdiff.types import NoiseLevel, Parameterization
from tests.toys import GOLDEN, PURE_NOISE, SCHEDULES

CONVERSIONS = np.load(GOLDEN / "iddpm" / "paths.npz")
LAWS = np.load(GOLDEN / "iddpm" / "noise_sampling.npz")
PUBLISHED = sorted({k.removesuffix("__M") for k in CONVERSIONS if k.endswith("__M")})

ROWS = {
    "x0": jd.X0(),
    "eps": jd.Eps(),
    "v": jd.V(),
    "flow": jd.Flow(),
    "score": jd.Score(),
    "edm": jd.EDM(0.5),
}
POLES = {"eps", "score"}

# what a perfect network would say, by the definition of each target
TARGETS: dict[str, Callable[..., Any]] = {
    "x0": lambda x0, eps, a, s: x0,
    "eps": lambda x0, eps, a, s: eps,
    "v": lambda x0, eps, a, s: (a * eps - s * x0) / np.sqrt(a**2 + s**2),
    "flow": lambda x0, eps, a, s: eps - x0,
    "score": lambda x0, eps, a, s: -eps / s * np.sqrt(a**2 + s**2),
    # EDM's F, written on the variance-exploding ray y = x / a, noise s / a [EDM eq. 8]
    "edm": lambda x0, eps, a, s: _edm_target(x0, x0 + s / a * eps, s / a),
}

row = pytest.mark.parametrize("name", ROWS)
path = pytest.mark.parametrize("path", SCHEDULES)


def _edm_target(x0: Any, y: Any, sigma: Any) -> Any:
    skip = 0.25 / (sigma**2 + 0.25)
    return (x0 - skip * y) * np.sqrt(sigma**2 + 0.25) / (sigma * 0.5)


def _draw(*shape: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.uniform(-1, 1, shape), rng.normal(size=shape)


def _constant(raw: Any) -> Callable[..., jd.Output]:
    return lambda params, x, c_noise, cond: jd.Output(jnp.asarray(raw))


def _features(params: Any, x: Any, c_noise: Any, cond: Any) -> jd.Output:
    """A network that is a non-linear function of all it is given."""
    return jd.Output(jnp.tanh(x + 0.3 * x[:, ::-1]) * (2 + jnp.cos(3 * c_noise)))


@row
@path
def test_a_perfect_network_gives_the_data_back(name: str, path: str, x64: None) -> None:
    x0, eps = _draw(12, 5)
    at = SCHEDULES[path](np.linspace(0.04, 0.97, 12).reshape(12, 1))
    raw = TARGETS[name](x0, eps, np.asarray(at.alpha), np.asarray(at.sigma))
    denoise = jd.denoiser(_constant(raw), None, ROWS[name])
    x = at.alpha * x0 + at.sigma * eps
    # eps and score are divided by alpha, 5e-5 at least: some 1e5 eps
    np.testing.assert_allclose(
        denoise(x, at).x0, x0, atol=1e-10 if name in POLES else 1e-13
    )


@row
@pytest.mark.parametrize("k", [0.1, 1.0, 37.0])
def test_denoisers_are_functions_on_rays(name: str, k: float, x64: None) -> None:
    x = jnp.asarray(_draw(6, 5)[0])
    alpha = np.asarray([1.0, 0.9, 0.5, 0.3, 0.1, 0.01]).reshape(6, 1)
    at, scaled = NoiseLevel(alpha, 1.2 - alpha), NoiseLevel(k * alpha, k * (1.2 - alpha))
    denoise = jd.denoiser(_features, None, ROWS[name])
    np.testing.assert_allclose(denoise(k * x, scaled).x0, denoise(x, at).x0, rtol=1e-11)


@row
@pytest.mark.parametrize("path", sorted(PURE_NOISE))
def test_pure_noise_is_finite_or_a_declared_pole(name: str, path: str) -> None:
    scale = ROWS[name](SCHEDULES[path](1.0))
    finite = bool(np.isfinite([scale.c_skip, scale.c_out, scale.c_in]).all())
    assert finite == (name not in POLES) == (not ROWS[name].has_pole_at_pure_noise)


@row
@path
def test_every_coefficient_is_finite_at_both_ends(name: str, path: str) -> None:
    ends = [0.0] if name in POLES and path in PURE_NOISE else [0.0, 1.0]
    scale = ROWS[name](SCHEDULES[path](jnp.asarray(ends)))
    for value in jax.tree.leaves(scale):
        assert value.shape == (len(ends),)
        assert np.isfinite(value).all()


@row
@path
def test_labels_are_finite_at_both_ends_and_grow_with_noise(name: str, path: str) -> None:
    at = SCHEDULES[path](jnp.linspace(0, 1, 65))
    label = np.asarray(ROWS[name](at).c_noise)
    assert np.isfinite(label).all()
    assert (np.diff(label) >= 0).all()
    assert (np.abs(label) <= 2.5 + 1e-6).all()


def test_log_sigma_label_is_edm_s_and_held_to_its_limit(x64: None) -> None:
    sigma = np.asarray([0.002, 0.5, 1.0, 80.0])
    edm = LogSigmaLabel()(NoiseLevel(np.ones(4), sigma))
    np.testing.assert_allclose(edm, np.log(sigma) / 4, rtol=1e-14, atol=1e-16)
    ends = NoiseLevel(jnp.asarray([1.0, 0.0]), jnp.asarray([0.0, 1.0]))
    np.testing.assert_allclose(LogSigmaLabel()(ends), [-2.5, 2.5], rtol=1e-12)
    np.testing.assert_allclose(LogSigmaLabel(8.0)(ends), [-1, 1], rtol=1e-12)


def test_angle_label_is_exact_at_both_ends() -> None:
    at = NoiseLevel(jnp.asarray([1.0, 3.0, 0.0]), jnp.asarray([0.0, 3.0, 0.2]))
    np.testing.assert_allclose(AngleLabel()(at), [0, 0.5, 1], rtol=1e-6)


# jaxdiff.denoisers.parameterizations: the last column, 1 / c_out^2
WEIGHTS: dict[str, Callable[[Any, Any], Any]] = {
    "x0": lambda a, s: np.ones_like(a),
    "eps": lambda a, s: a**2 / s**2,
    "v": lambda a, s: a**2 / s**2 + 1,
    "flow": lambda a, s: ((a + s) / s) ** 2,
    "score": lambda a, s: a**2 * (a**2 + s**2) / s**4,
    "edm": lambda a, s: ((s / a) ** 2 + 0.25) / (s / a * 0.5) ** 2,  # lambda(sigma / alpha)
}


@row
@path
def test_a_uniform_loss_on_the_output_weighs_the_x0_error(
    name: str, path: str, x64: None
) -> None:
    at = SCHEDULES[path](np.linspace(0.05, 0.95, 9))
    weight = 1 / np.asarray(ROWS[name](at).c_out) ** 2
    expected = WEIGHTS[name](np.asarray(at.alpha), np.asarray(at.sigma))
    np.testing.assert_allclose(weight, expected, rtol=1e-12)


@pytest.mark.parametrize("path", PUBLISHED)
@pytest.mark.parametrize("name", ["x0", "eps", "v", "score"])
def test_conversions_against_published_tables(name: str, path: str, x64: None) -> None:
    """To x0 by our table, and from x0 to any prediction by its definition."""
    at = NoiseLevel(CONVERSIONS[f"{path}__alpha"], CONVERSIONS[f"{path}__sigma"])
    table = CONVERSIONS[f"{path}__M"][list(CONVERSIONS["order"]).index(name)]
    r = np.hypot(at.alpha, at.sigma)
    unit = {"v": r, "score": 1 / r}.get(name, 1.0)  # ours trains v / r and r score
    scale = ROWS[name](at)
    of_x, of_pred = np.asarray(scale.c_skip), np.asarray(scale.c_out) / unit
    np.testing.assert_allclose(of_x, table[0, 0], rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(of_pred, table[0, 1], rtol=1e-12, atol=1e-13)
    slopes = (CONVERSIONS[f"{path}__d{k}"] for k in ("alpha", "sigma"))
    of_eps = [(1 - at.alpha * of_x) / at.sigma, -at.alpha * of_pred / at.sigma]
    for target, (to_x0, to_eps) in {
        "eps": (0, 1),
        "v": (-at.sigma, at.alpha),
        "u": tuple(slopes),
        "score": (0, -1 / at.sigma),
    }.items():
        converted = [
            to_x0 * a + to_eps * b for a, b in zip((of_x, of_pred), of_eps, strict=True)
        ]
        published = table[list(CONVERSIONS["order"]).index(target)]
        # differences of terms of some 1e3, divided by a sigma of 0.01
        np.testing.assert_allclose(
            converted, published, rtol=1e-9, atol=1e-9, err_msg=target
        )


@pytest.mark.parametrize("path", PUBLISHED)
def test_published_noised_data_and_targets(path: str, x64: None) -> None:
    """The network's exact outputs give the data back on the published batch."""
    alpha, sigma = (CONVERSIONS[f"{path}__{k}"][:, None] for k in ("alpha", "sigma"))
    at, x = NoiseLevel(alpha, sigma), CONVERSIONS[f"{path}__xt"]
    r = np.hypot(alpha, sigma)
    raw = {"v": CONVERSIONS[f"{path}__v"] / r, "score": r * CONVERSIONS[f"{path}__score"]}
    if path == "rectified_flow":
        raw["flow"] = CONVERSIONS[f"{path}__u"]
    if path == "trig":  # there the path's velocity is v, but for the clock
        raw["v"] = CONVERSIONS[f"{path}__u"] * 2 / np.pi
    for name, output in raw.items():
        scale = ROWS[name](at)
        x0 = scale.c_skip * x + scale.c_out * output
        np.testing.assert_allclose(
            x0, np.broadcast_to(CONVERSIONS["x0"], x.shape), rtol=1e-9, atol=1e-10
        )


@pytest.mark.parametrize(
    ("sigma", "keys"),
    [
        (CONVERSIONS["edm__sigma"], "edm__c_{}"),
        (LAWS["den_sigma"], "den_c_{}"),
    ],
    ids=["paths", "laws"],
)
def test_published_coefficients_of_edm(sigma: Any, keys: str, x64: None) -> None:
    published = {**CONVERSIONS, **LAWS}
    scale = jd.EDM(0.5)(NoiseLevel(np.ones_like(sigma), sigma))
    for name in ("skip", "out", "in", "noise"):
        if keys.format(name) in published:
            coefficient = getattr(scale, f"c_{name}")
            np.testing.assert_allclose(
                coefficient, published[keys.format(name)], rtol=1e-12, atol=1e-15
            )


@pytest.mark.parametrize("std", [0.5, 1.3])
def test_trig_flow_is_edm_s_row_on_its_own_path(std: float, x64: None) -> None:
    """D = cos(phi) x - std sin(phi) F(x / std): ours with F's sign turned, so no row."""
    phi = np.linspace(0, np.pi / 2, 9)
    scale = jd.EDM(std)(TrigFlow(std)(2 / np.pi * phi))
    np.testing.assert_allclose(scale.c_skip, np.cos(phi), atol=1e-15)
    np.testing.assert_allclose(scale.c_out, std * np.sin(phi), atol=1e-15)
    np.testing.assert_allclose(scale.c_in, 1 / std, rtol=1e-14)
    # for data of std 1 it is v on the cosine path
    unit = jd.V()(jd.Cosine()(2 / np.pi * phi))
    edm = jd.EDM(1.0)(TrigFlow(1.0)(2 / np.pi * phi))
    np.testing.assert_allclose(unit.c_skip, edm.c_skip, atol=1e-15)
    np.testing.assert_allclose(unit.c_out, -np.asarray(edm.c_out), atol=1e-15)


def test_flow_is_the_velocity_of_the_rectified_flow(x64: None) -> None:
    at = NoiseLevel(*(CONVERSIONS[f"rectified_flow__{k}"] for k in ("alpha", "sigma")))
    scale, to_x0 = jd.Flow()(at), CONVERSIONS["rectified_flow__M"][3, 0]
    np.testing.assert_allclose(scale.c_skip, to_x0[0], rtol=1e-12)
    np.testing.assert_allclose(scale.c_out, to_x0[1], rtol=1e-12)


@row
def test_inputs_have_unit_scale_on_every_path(name: str, x64: None) -> None:
    """c_in x has variance 1 on data of the standard deviation that the row assumes."""
    at = NoiseLevel(np.asarray([1.0, 0.6, 0.2]), np.asarray([0.3, 0.6, 2.0]))
    std = {"edm": 0.5}.get(name, 1.0)
    scale = np.asarray(ROWS[name](at).c_in)
    if name == "flow":  # the point (1 - t) x0 + t eps of the straight path
        np.testing.assert_allclose(scale * (at.alpha + at.sigma), 1, rtol=1e-14)
    else:
        np.testing.assert_allclose(
            scale**2 * (at.alpha**2 * std**2 + at.sigma**2), 1, rtol=1e-14
        )


def test_edm_output_and_target_have_unit_variance(x64: None) -> None:
    rng = np.random.default_rng(0)
    x0, eps = 0.5 * rng.normal(size=400_000), rng.normal(size=400_000)
    for sigma in (0.01, 0.5, 20.0):
        scale = jd.EDM(0.5)(NoiseLevel(1.0, sigma))
        target = (x0 - scale.c_skip * (x0 + sigma * eps)) / scale.c_out
        # the standard error of a variance of n normals is sqrt(2 / n) = 0.0022
        assert float(jnp.var(target)) == pytest.approx(1, abs=0.009)


def test_eps_from_x0_is_the_noise_that_went_in(x64: None) -> None:
    x = jnp.asarray(CONVERSIONS["vp_linear__xt"])
    at = NoiseLevel(*(CONVERSIONS[f"vp_linear__{k}"][:, None] for k in ("alpha", "sigma")))
    eps = eps_from_x0(x, jnp.broadcast_to(CONVERSIONS["x0"], x.shape), at)
    np.testing.assert_allclose(
        eps, np.broadcast_to(CONVERSIONS["eps"], x.shape), rtol=1e-11
    )


@row
def test_the_network_computes_in_bfloat16_and_the_denoiser_does_not(name: str) -> None:
    raw = jnp.full((2, 3), 0.3, jnp.bfloat16)
    denoise = jd.denoiser(_constant(raw), None, ROWS[name])
    exact = jd.denoiser(_constant(raw.astype(jnp.float32)), None, ROWS[name])
    at = NoiseLevel(0.9, 0.37)  # numbers: of no dtype, so the output's would win
    x0 = denoise(jnp.ones((2, 3)), at).x0
    assert x0.dtype == jnp.float32
    np.testing.assert_allclose(x0, exact(jnp.ones((2, 3)), at).x0, rtol=1e-6)


def test_the_denoiser_hands_over_params_label_condition_and_heads() -> None:
    cond = jd.Condition(label=jnp.asarray([3, -1]))

    def apply(params: Any, x: Any, c_noise: Any, c: jd.Condition) -> jd.Output:
        assert c is cond
        np.testing.assert_allclose(c_noise, np.log(2.0) / 4, rtol=1e-6)
        np.testing.assert_allclose(x, 5 / np.sqrt(5), rtol=1e-6)
        return jd.Output(params * jnp.ones_like(x), 2 * x, x[:, 0])

    x = jnp.full((2, 3), 5.0)
    out = jd.denoiser(apply, 7.0, jd.X0())(
        x, NoiseLevel(jnp.asarray(1.0), jnp.asarray(2.0)), cond
    )
    np.testing.assert_allclose(out.x0, 7.0)
    np.testing.assert_allclose(out.variance, 2 * x / np.sqrt(5), rtol=1e-6)
    np.testing.assert_allclose(out.uncertainty, x[:, 0] / np.sqrt(5), rtol=1e-6)


def test_gaussian_denoiser_is_the_posterior_mean(x64: None) -> None:
    """Held against numerical integration of x0 p(x0) p(x | x0)."""
    mean, std = 0.3, 0.7
    grid = np.linspace(-12, 12, 200_001)
    for alpha, sigma, x in ((1.0, 0.5, 0.9), (0.2, 1.1, -2.0), (0.0, 1.0, 0.4)):
        p = np.exp(-(((grid - mean) / std) ** 2 + ((x - alpha * grid) / sigma) ** 2) / 2)
        denoised = jd.gaussian_denoiser(mean, std)(
            jnp.full((1, 1), x), NoiseLevel(alpha, sigma)
        )
        np.testing.assert_allclose(denoised.x0, (grid * p).sum() / p.sum(), rtol=1e-10)


@row
def test_rows_are_values(name: str) -> None:
    assert isinstance(ROWS[name], Parameterization)
    assert hash(ROWS[name]) == hash(type(ROWS[name])())
    assert ROWS[name] == type(ROWS[name])()


def test_sigma_data_must_be_positive() -> None:
    with pytest.raises(
        ValueError, match=r"sigma_data must be a number above 0, at most 1e\+15, got 0.0"
    ):
        jd.EDM(0.0)
