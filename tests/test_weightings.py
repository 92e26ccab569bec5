"""Weightings, on the x0 error, against the published weights on each prediction."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff import schedules as js
from jaxdiff.objectives import timesteps as jt
from jaxdiff.objectives import weightings as jw
from jaxdiff.types import NoiseLevel, Weighting
from tests.toys import GOLDEN, SCHEDULES

WEIGHTS = np.load(GOLDEN / "iddpm" / "every_weight.npz")
PATHS = np.load(GOLDEN / "iddpm" / "paths.npz")
LAWS = np.load(GOLDEN / "iddpm" / "noise_sampling.npz")
TABLES = {
    "linear_T1000": jd.Table(jd.LinearBetas()),
    "scaled_linear_T1000": jd.Table(jd.ScaledLinearBetas()),
    "cosine_T100": jd.Table(jd.CosineBetas(100)),
}
ALL = {
    "debias": jd.Debias(),
    "minsnr_g5": jd.MinSNR(5.0),
    "minsnr_g1": jd.MinSNR(1.0),
    "x0": jd.UniformOnX0(),
    "eps": jd.UniformOnNetwork(jd.Eps()),
    "v": jd.UniformOnNetwork(jd.V()),
    "flow": jd.UniformOnNetwork(jd.Flow()),
    "score": jd.UniformOnNetwork(jd.Score()),
    "edm": jd.UniformOnNetwork(jd.EDM(0.5)),
    "softminsnr_g5": jw.SoftMinSNR(5.0),
    "p2_k1_g1": jw.P2(1.0, 1.0),
    "p2_k1_g0.5": jw.P2(1.0, 0.5),
    "trunc_snr": jw.TruncatedSNR(),
}
ON_A_PATH = {
    "elbo": jw.ELBO,
    "elbo_of_9": lambda path: jw.DiscreteELBO(path, 9),
    "sigmoid": lambda path: jw.Sigmoid(path, -1.0),
}
"""Weightings that know the schedule they are used on."""


PUBLISHED = {
    "debias": ("eps", "x0", "v"),
    "minsnr_g5": ("eps", "x0", "v"),
    "minsnr_g1": ("eps", "x0", "v"),
    "p2_k1_g1": ("eps", "x0", "v"),
    "p2_k1_g0.5": ("eps", "x0", "v"),
    "trunc_snr": ("eps", "x0", "v"),
    "softminsnr_g5": ("eps", "x0"),
    "snr": ("x0",),
    "inv_snr": ("x0",),
}


def _at(table: str) -> tuple[NoiseLevel, np.ndarray]:
    t = (WEIGHTS[f"index__{table}"] + 1) / TABLES[table].steps
    return TABLES[table](t), t


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize(
    ("name", "on"), [(k, on) for k, v in PUBLISHED.items() for on in v]
)
def test_published_weights(name: str, on: str, table: str, x64: None) -> None:
    snr = WEIGHTS[f"snr__{table}"]
    # |x0 error|^2 = |eps error|^2 / SNR = |v error|^2 / (SNR + 1)
    to_x0 = {"x0": 1.0, "eps": snr, "v": snr + 1}[on]
    # 1 / SNR on x0 is P2's limit of k = 0 with gamma = 2
    others = {"snr": ALL["eps"], "inv_snr": jw.P2(1e-30, 2.0)}
    weight = (ALL | others)[name](_at(table)[0])
    np.testing.assert_allclose(weight, WEIGHTS[f"{name}__{on}__{table}"] * to_x0, rtol=1e-9)


@pytest.mark.parametrize("table", TABLES)
def test_published_weights_of_one_prediction(table: str, x64: None) -> None:
    """The eps weights that a training measured, and min-SNR as another project has it."""
    at, snr = _at(table)[0], WEIGHTS[f"snr__{table}"]
    keys = {"debias": "ref_ratio_debias__eps", "minsnr_g5": "debias_repo_noise_MinSNR"}
    for name, key in keys.items():
        # measured as a ratio of two losses: 1e-7 there
        np.testing.assert_allclose(
            ALL[name](at) / snr, WEIGHTS[f"{key}__{table}"], rtol=1e-7
        )


def test_published_min_snr_on_a_zero_terminal_table(x64: None) -> None:
    """All but the last entry: SNR is 0, the formula says 0, and they force 1."""
    table = js.zero_terminal_snr(jd.Table(jd.LinearBetas()))
    at = table((WEIGHTS["index__linear_T1000"] + 1) / 1000)
    weight = np.asarray(ALL["minsnr_g5"](at))
    for on, to_x0 in (("x0", 1.0), ("v", np.asarray(at.snr) + 1)):
        published = WEIGHTS[f"ztsnr_minsnr_g5__{on}__linear_T1000"] * to_x0
        np.testing.assert_allclose(weight[:-1], published[:-1], rtol=1e-7)
        assert published[-1] == 1
    assert weight[-1] < 1e-17


@pytest.mark.parametrize("table", TABLES)
def test_published_bound_of_a_table(table: str, x64: None) -> None:
    at, t = _at(table)
    weight = np.asarray(jw.DiscreteELBO(TABLES[table])(at)) / TABLES[table].steps
    published = WEIGHTS[f"elbo_discrete__x0__{table}"]
    np.testing.assert_allclose(weight[1:], published, rtol=1e-9)
    assert weight[0] == 0  # the decoder's step
    # float32 finds the entry, too: its own t is 1e-7 off
    near = TABLES[table](jnp.asarray(t, jnp.float32))
    weights = np.asarray(jw.DiscreteELBO(TABLES[table])(near)) / TABLES[table].steps
    # each SNR is 1e-6 off, their difference as much more as it is smaller
    np.testing.assert_allclose(weights[1:], published, rtol=5e-3)


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("bias", [0.0, -3.0, 2.0])
def test_published_sigmoid(bias: float, table: str, x64: None) -> None:
    """As a factor on the bound, which is what it is under the integral over logsnr."""
    at, factor = _at(table)[0], WEIGHTS[f"sigmoid_b{bias:.0f}__w_lambda__{table}"]
    sigmoid = jw.Sigmoid(jd.Cosine(), bias)(at) / jw.ELBO(jd.Cosine())(at)
    np.testing.assert_allclose(sigmoid, factor, rtol=1e-9)


CLOSED = {
    "vp_linear": jd.VPLinear(),
    "trig": jd.Cosine(),
    "rectified_flow": jd.RectifiedFlow(),
    "cosine_iddpm": js.OffsetCosine(),
    "sigmoid_chen": js.ChenSigmoid(),
    "cosine_shift_64_256": js.Shifted(js.Cosine(), 4.0),
}


@pytest.mark.parametrize("path", CLOSED)
def test_bound_in_continuous_time(path: str, x64: None) -> None:
    """-d SNR / dt / 2 from published levels and slopes."""
    logsnr, slope = (PATHS[f"{path}__{k}"] for k in ("logsnr", "dlogsnr"))
    weight = jw.ELBO(CLOSED[path])(CLOSED[path](PATHS["t"]))
    np.testing.assert_allclose(weight, -slope * np.exp(logsnr) / 2, rtol=1e-11)
    weights = jw.ELBO(CLOSED[path])(CLOSED[path](jnp.asarray(PATHS["t"], jnp.float32)))
    np.testing.assert_allclose(weights, -slope * np.exp(logsnr) / 2, rtol=2e-5)


def test_bound_of_many_steps_is_that_of_continuous_time(x64: None) -> None:
    path, t = jd.Cosine(), np.asarray([0.1, 0.4, 0.8])
    fine = jw.DiscreteELBO(path, 100_000)(path(t))
    # the step's SNR is that of its middle, 1 / 2T away: relative 3 / (2 T t)
    np.testing.assert_allclose(fine, jw.ELBO(path)(path(t)), rtol=2e-4)


def test_bound_with_a_finite_start_weighs_its_first_step(x64: None) -> None:
    path = jd.LogSigma(0.1, 1.0)
    at = path(np.asarray([0.25, 1.0]))
    sigma = 10.0 ** np.asarray([-1.0, -0.75, -0.25, 0.0])
    expected = 4 * (sigma[[0, 2]] ** -2 - sigma[[1, 3]] ** -2) / 2
    np.testing.assert_allclose(jw.DiscreteELBO(path, 4)(at), expected, rtol=1e-9)
    # beyond the ends of EDM's line its slope is the same
    far = path(np.asarray([-0.5, 1.5]))
    slope = 2 * np.log(10) * np.asarray(far.snr) / 2
    np.testing.assert_allclose(jw.ELBO(path)(far), slope, rtol=1e-9)


def test_debias_on_the_cosine_path_is_the_sigmoid_of_bias_0(x64: None) -> None:
    at = jd.Cosine()(np.linspace(0.02, 0.98, 25))
    sigmoid = jw.Sigmoid(jd.Cosine(), 0.0)(at)
    np.testing.assert_allclose(sigmoid, np.pi / 2 * jw.Debias()(at), rtol=1e-11)


def test_snr_plus_1_is_the_uniform_weight_on_v_on_every_path(x64: None) -> None:
    for path in SCHEDULES.values():
        at = path(np.linspace(0.05, 0.95, 9))
        np.testing.assert_allclose(ALL["v"](at), at.snr + 1, rtol=1e-12)


def test_published_weights_on_edm_s_output(x64: None) -> None:
    sigma = LAWS["den_sigma"]
    at = NoiseLevel(np.ones_like(sigma), sigma)
    to_f = np.asarray(jd.EDM(0.5)(at).c_out) ** 2
    soft = jw.SoftMinSNR(1 / 0.5**2)(at) * to_f * 0.5**2
    for weight, key in (
        (ALL["edm"](at) * to_f, "karras"),
        (ALL["eps"](at) * to_f, "snr"),
        (soft / 0.5**2, "soft-min-snr"),
    ):
        np.testing.assert_allclose(weight, LAWS[f"den_weight_{key}"], rtol=1e-12)


def test_published_weights_of_edm(x64: None) -> None:
    sigma = PATHS["edm__sigma"]
    weight = np.asarray(ALL["edm"](NoiseLevel(np.ones_like(sigma), sigma)))
    c_out = np.asarray(jd.EDM(0.5)(NoiseLevel(np.ones_like(sigma), sigma)).c_out)
    np.testing.assert_allclose(weight, PATHS["edm__weight_x0"], rtol=1e-12)
    np.testing.assert_allclose(weight * sigma**2, PATHS["edm__weight_eps"], rtol=1e-12)
    np.testing.assert_allclose(weight * c_out**2, PATHS["edm__weight_F"], rtol=1e-12)


def test_edm_s_weight(x64: None) -> None:
    sigma = np.asarray([0.002, 0.3, 0.5, 80.0])
    expected = (sigma**2 + 0.25) / (0.5 * sigma) ** 2
    weight = jd.UniformOnNetwork(jd.EDM(0.5))(NoiseLevel(np.ones(4), sigma))
    np.testing.assert_allclose(weight, expected, rtol=1e-13)


def test_uniform_weights_by_hand(x64: None) -> None:
    at = NoiseLevel(np.asarray([0.8]), np.asarray([0.6]))
    by_hand = {"x0": 1, "eps": 16 / 9, "v": 25 / 9, "flow": 49 / 9, "debias": 4 / 3}
    for name, value in (by_hand | {"minsnr_g5": 16 / 9, "minsnr_g1": 1}).items():
        np.testing.assert_allclose(ALL[name](at), value, rtol=1e-13, err_msg=name)


@pytest.mark.parametrize("name", [*ALL, *ON_A_PATH])
@pytest.mark.parametrize("path", SCHEDULES)
def test_weights_are_finite_and_of_the_level_s_shape(name: str, path: str) -> None:
    at = SCHEDULES[path](jnp.linspace(0, 1, 33).reshape(33, 1, 1, 1))
    weighting = ALL[name] if name in ALL else ON_A_PATH[name](SCHEDULES[path])
    weight = weighting(at)
    assert weight.shape == (33, 1, 1, 1)
    assert weight.dtype == jnp.float32
    assert np.isfinite(weight).all()
    assert (weight >= 0).all()
    assert isinstance(weighting, Weighting)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("k", [0.1, 10.0])
def test_weights_are_functions_on_rays(name: str, k: float, x64: None) -> None:
    alpha = np.asarray([0.9, 0.5, 0.1])
    at, scaled = NoiseLevel(alpha, 1 - alpha), NoiseLevel(k * alpha, k * (1 - alpha))
    np.testing.assert_allclose(ALL[name](scaled), ALL[name](at), rtol=1e-12)


@pytest.mark.parametrize("name", ["debias", "minsnr_g5"])
def test_the_bound_on_snr_is_out_of_the_way(name: str, x64: None) -> None:
    """Within |logsnr| < 40 nothing is clipped, beyond it the weight stays."""
    sigma = np.exp(-np.asarray([-19.9, 19.9, 25.0, 30.0]))
    weight: Any = np.asarray(ALL[name](NoiseLevel(np.ones(4), sigma)))
    power = {"debias": sigma**-1.0, "minsnr_g5": np.minimum(sigma**-2.0, 5)}[name]
    np.testing.assert_allclose(weight[:2], power[:2], rtol=1e-12)
    assert weight[2] == weight[3]


@pytest.mark.parametrize("path", ["vp_linear", "ddpm", "iddpm", "log_sigma"])
def test_bound_at_the_last_level_is_the_limit_from_inside(path: str, x64: None) -> None:
    """The noise end of a path that stops there: no pole, and no place without a slope."""
    schedule, inside = SCHEDULES[path], 1 - 1e-9
    expected = -js.logsnr_slope(schedule, inside) * schedule(inside).snr / 2
    weight = jw.ELBO(schedule)(schedule(jnp.asarray(1.0, jnp.float32)))
    # the slope is taken 1e-3 nats inside
    np.testing.assert_allclose(weight, expected, rtol=1.5e-3)


@pytest.mark.parametrize(
    ("weighting", "row", "path", "law"),
    [
        (ALL["eps"], jd.X0(), "vp_linear", jt.Uniform()),
        (ALL["debias"], jd.X0(), "cosine", jt.Stratified()),
        (ALL["v"], jd.X0(), "rectified_flow", jt.Mode()),
        (ALL["trunc_snr"], jd.X0(), "rectified_flow", jt.CosMap()),
        (jw.ELBO(jd.RectifiedFlow()), jd.Flow(), "rectified_flow", jt.Uniform()),
        (jw.ELBO(jd.VPLinear()), jd.Eps(), "vp_linear", jt.Antithetic()),
    ],
)
def test_weights_that_divide_by_zero_at_the_data_are_refused(
    weighting: Weighting, row: Any, path: str, law: Any
) -> None:
    with pytest.raises(ValueError, match=r"mean loss is infinite\. Use weightings\.MinSNR"):
        jw.require_finite_mean(weighting, row, SCHEDULES[path], law)
    # the ways out that the message names
    jw.require_finite_mean(weighting, row, SCHEDULES[path], jt.Uniform(low=0.001))
    jw.require_finite_mean(jd.MinSNR(), row, SCHEDULES[path], law)


@pytest.mark.parametrize(
    ("weighting", "row", "path", "law"),
    [
        (ALL["eps"], jd.Eps(), "vp_linear", jt.Uniform()),
        (ALL["eps"], jd.V(), "cosine", jt.Uniform()),
        (ALL["flow"], jd.Flow(), "rectified_flow", jt.Mode()),
        (ALL["debias"], jd.X0(), "vp_linear", jt.Uniform()),  # t^-1/2 has a mean
        (ALL["edm"], jd.EDM(), "log_sigma", jt.NormalLogSigma()),
        (ALL["eps"], jd.X0(), "ddpm", jt.UniformEntries()),  # no entry at the data
        (ALL["eps"], jd.X0(), "ddpm", jt.LossSecondMoment()),
        (ALL["eps"], jd.X0(), "cosine", jt.NormalLogSigma()),
        (ALL["eps"], jd.X0(), "rectified_flow", jt.LogitNormal()),
        (jw.ELBO(jd.LogSigma()), jd.EDM(), "log_sigma", jt.Uniform()),
    ],
)
def test_weights_with_a_finite_mean_are_not_refused(
    weighting: Weighting, row: Any, path: str, law: Any
) -> None:
    jw.require_finite_mean(weighting, row, SCHEDULES[path], law)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: jd.MinSNR(0.0),
            r"gamma must be a number above 0, at most 1e\+15, got 0.0",
        ),
        (
            lambda: jw.SoftMinSNR(-1.0),
            r"gamma must be a number above 0, at most 1e\+15, got -1.0",
        ),
        (lambda: jw.P2(k=0.0), r"k must be a number above 0, at most 1e\+15, got 0.0"),
        (lambda: jw.P2(gamma=-1.0), r"gamma must be a number from 0 to 1e\+15, got -1.0"),
        (
            lambda: jw.DiscreteELBO(jd.Cosine()),
            r"steps on Cosine\(\), got 0: use steps=1000",
        ),
    ],
)
def test_weightings_that_are_none_are_refused(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
