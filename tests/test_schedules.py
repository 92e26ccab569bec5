"""Schedules: the battery that every path goes through, and the published tables."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff import schedules as js
from jaxdiff.schedules import ZeroTerminalBetas
from jaxdiff.schedules.alpha_bar import invert
from jaxdiff.types import NoiseLevel, Schedule
from tests import toys
from tests.toys import GOLDEN, TABLES, on_host

TABLED = np.load(GOLDEN / "iddpm" / "schedules.npz")
CONTINUOUS = np.load(GOLDEN / "iddpm" / "paths.npz")
LAWS = np.load(GOLDEN / "iddpm" / "noise_sampling.npz")

SCHEDULES = toys.SCHEDULES | {
    "offset_cosine": js.OffsetCosine(),
    "trig_flow": js.TrigFlow(0.5),
    "chen_sigmoid": js.ChenSigmoid(),
    "chen_sigmoid_aside": js.ChenSigmoid(0.0, 3.0, 0.7),
    "chen_cosine": js.ChenCosine(0.2, 1.0, 1.0),
    "chen_cosine_cut": js.ChenCosine(0.1, 0.9, 0.7),
    "bounded": js.BoundedCosine(),
    "bounded_interpolated": js.BoundedCosine(-12.0, 14.0, 1.0, 8.0),
    "shifted_flow": js.Shifted(js.RectifiedFlow(), 3.0),
    "shifted_cosine": js.Shifted(js.Cosine(), 4.0),
    "shifted_vp": js.Shifted(js.VPLinear(), 0.5),
    "diffusion_lm": js.Table(js.DiffusionLMBetas()),
    "ldm_sqrt": js.Table(js.LDMSqrtBetas(100)),
    "geodiff": js.Table(js.SigmoidBetas()),
    "exp": js.Table(js.ExpBetas()),
    "laplace": js.Table(js.LaplaceBetas()),
    "respaced": js.Table(
        js.RespacedBetas(js.CosineBetas(), js.section_spacing(1000, (25,)))
    ),
}
PURE_NOISE = toys.PURE_NOISE | {
    "offset_cosine",
    "trig_flow",
    "chen_sigmoid",
    "chen_sigmoid_aside",
    "chen_cosine",
    "chen_cosine_cut",
    "shifted_flow",
    "shifted_cosine",
}
FIRST = {
    "log_sigma": (1, 0.002),
    "bounded": ((1 + np.exp(-15)) ** -0.5, (1 + np.exp(15)) ** -0.5),
    "bounded_interpolated": ((1 + np.exp(-14)) ** -0.5, (1 + np.exp(14)) ** -0.5),
}
"""Levels at t = 0 of the paths that do not start at the data."""
CIRCLES = [
    *(k for k, s in SCHEDULES.items() if isinstance(s, js.Table)),
    "cosine",
    "vp_linear",
    "offset_cosine",
    "chen_sigmoid",
    "chen_sigmoid_aside",
    "chen_cosine",
    "chen_cosine_cut",
    "bounded",
    "bounded_interpolated",
    "shifted_cosine",
    "shifted_vp",
]

every = pytest.mark.parametrize("name", SCHEDULES)


@every
def test_snr_falls_from_data_to_noise(name: str) -> None:
    at = on_host(SCHEDULES[name](np.linspace(0, 1, 501)))
    assert (np.diff(np.arctan2(at.sigma, at.alpha)) > 0).all()
    assert (np.diff(at.alpha) <= 0).all()
    assert (np.diff(at.sigma) > 0).all()


@every
def test_jit_vmap_and_broadcast_agree(name: str) -> None:
    schedule, t = SCHEDULES[name], jnp.linspace(0, 1, 24).reshape(2, 3, 4)
    at = schedule(t)
    assert at.alpha.shape == at.sigma.shape == t.shape
    single = jax.vmap(schedule)(t.reshape(-1))
    # eager and compiled code may differ in the last bits
    for other in (jax.jit(schedule)(t), jax.tree.map(lambda a: a.reshape(t.shape), single)):
        np.testing.assert_allclose(other.alpha, at.alpha, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(other.sigma, at.sigma, rtol=1e-6, atol=1e-7)


@every
def test_float32_in_float32_out(name: str, x64: None) -> None:
    at = SCHEDULES[name](jnp.asarray([0.0, 0.3, 1.0], jnp.float32))
    assert at.alpha.dtype == at.sigma.dtype == jnp.float32
    at = SCHEDULES[name](jnp.asarray([0.0, 0.3, 1.0], jnp.float64))
    assert at.alpha.dtype == at.sigma.dtype == jnp.float64


@every
def test_both_ends_are_finite_and_not_both_zero(name: str) -> None:
    at = on_host(SCHEDULES[name](jnp.asarray([0.0, 1.0])))
    assert np.isfinite([at.alpha, at.sigma]).all()
    assert (np.hypot(at.alpha, at.sigma) > 0.49).all()  # TrigFlow(0.5) ends on 0.5
    if name in FIRST:
        # 2 ln(tan) of the bounded paths is off by some 1e-6, twice that of sigma
        np.testing.assert_allclose([at.alpha[0], at.sigma[0]], FIRST[name], rtol=2e-6)
    else:
        assert (at.alpha[0], at.sigma[0]) == (1, 0)
    assert (at.alpha[1] == 0) == (name in PURE_NOISE) == SCHEDULES[name].reaches_pure_noise


@every
def test_gradient_is_finite_and_right_inside(name: str, x64: None) -> None:
    schedule = SCHEDULES[name]
    t = np.linspace(0.0123, 0.9877, 12)  # off the nodes of every table
    for part in ("alpha", "sigma"):
        f = lambda t, part=part: getattr(schedule(t), part)
        slope = jax.vmap(jax.grad(f))(t)
        assert np.isfinite(slope).all()
        h = 1e-6
        # central difference: error h^2 |f'''| / 6 + eps |f| / h, at most about 1e-8 of 80
        np.testing.assert_allclose(
            slope, (f(t + h) - f(t - h)) / (2 * h), rtol=1e-6, atol=1e-8
        )


@every
def test_gradient_is_finite_close_to_both_ends_in_float32(name: str) -> None:
    t = jnp.asarray([1e-6, 1e-4, 1 - 1e-4, 1 - 2e-6, 1 - 2**-23])
    for part in ("alpha", "sigma", "logsnr"):
        f = lambda t, part=part: getattr(SCHEDULES[name](t), part)
        assert np.isfinite(jax.vmap(jax.grad(f))(t)).all()


@every
def test_time_inverts(name: str, x64: None) -> None:
    schedule, t = SCHEDULES[name], np.linspace(0.01, 0.99, 33)
    np.testing.assert_allclose(schedule.time(schedule(t).logsnr), t, rtol=1e-10)


@every
def test_time_inverts_in_float32(name: str) -> None:
    schedule, t = SCHEDULES[name], jnp.linspace(0.02, 0.98, 33)
    # angles near pi/2 have 1e-7 to tell tables' last entries apart by
    np.testing.assert_allclose(schedule.time(schedule(t).logsnr), t, atol=2e-4)


@pytest.mark.parametrize("name", [k for k in SCHEDULES if k != "log_sigma"])
def test_times_beyond_the_ends_are_the_ends(name: str) -> None:
    logsnr = jnp.asarray([jnp.inf, -jnp.inf])
    np.testing.assert_allclose(SCHEDULES[name].time(logsnr), [0, 1], atol=1e-6)
    assert np.isfinite(
        jax.vmap(jax.grad(SCHEDULES[name].time))(jnp.asarray([3.0, 0.5]))
    ).all()


def test_log_sigma_goes_on_beyond_its_ends(x64: None) -> None:
    path = jd.LogSigma(0.01, 1.0)
    np.testing.assert_allclose(path(path.time(-2 * np.log(7.0))).sigma, 7.0, rtol=1e-12)


def test_constant_beta_is_allowed(x64: None) -> None:
    path = jd.VPLinear(3.0, 3.0)
    np.testing.assert_allclose(path(0.5).alpha, np.exp(-0.75), rtol=1e-14)
    np.testing.assert_allclose(path.time(path(0.5).logsnr), 0.5, rtol=1e-12)


@pytest.mark.parametrize("name", CIRCLES)
def test_variance_preserving_paths_are_circles(name: str, x64: None) -> None:
    at = SCHEDULES[name](np.linspace(0, 1, 1777))
    np.testing.assert_allclose(at.alpha**2 + at.sigma**2, 1, atol=1e-15)


@pytest.mark.parametrize("name", TABLES)
def test_tables_run_straight_between_their_entries(name: str, x64: None) -> None:
    steps = TABLES[name].steps
    nodes = np.arange(steps) / steps

    def angle(t: np.ndarray) -> np.ndarray:
        at = on_host(TABLES[name](t))
        return np.arctan2(at.sigma, at.alpha)

    ends = angle(nodes), angle(nodes + 1 / steps)
    for u in (0.25, 0.8):
        between = angle(nodes + u / steps)
        np.testing.assert_allclose(between, (1 - u) * ends[0] + u * ends[1], atol=1e-13)


PUBLISHED: dict[str, Callable[[], Schedule]] = {
    "linear_T1000": lambda: jd.Table(jd.LinearBetas()),
    "linear_T100": lambda: jd.Table(jd.LinearBetas(100)),
    "linear_T4000": lambda: jd.Table(jd.LinearBetas(4000)),
    "cosine_T1000": lambda: jd.Table(jd.CosineBetas()),
    "cosine_T100": lambda: jd.Table(jd.CosineBetas(100)),
    "scaled_linear_T1000": lambda: jd.Table(jd.ScaledLinearBetas()),
}
ZERO_TERMINAL = {
    f"zt_{k}": (lambda k=k: jd.zero_terminal_snr(PUBLISHED[k]()))
    for k in ("linear_T1000", "scaled_linear_T1000", "cosine_T1000")
}


@pytest.mark.parametrize("name", [*PUBLISHED, *ZERO_TERMINAL])
def test_tables_are_exact_on_their_entries(name: str, x64: None) -> None:
    table = (PUBLISHED | ZERO_TERMINAL)[name]()
    index = TABLED[f"{name.removeprefix('zt_')}__index"]
    abar, betas = TABLED[f"{name}__alphas_cumprod"], TABLED[f"{name}__betas"]
    # 1 - abar_i/abar_j loses eps/beta, and a product of T factors T eps
    np.testing.assert_allclose(table.betas()[index], betas, rtol=1e-10)
    at = on_host(table((index + 1) / table.steps))
    np.testing.assert_allclose(at.alpha, np.sqrt(abar), rtol=1e-11, atol=1e-17)
    np.testing.assert_allclose(at.sigma, np.sqrt(1 - abar), rtol=1e-11)


@pytest.mark.parametrize("name", [*PUBLISHED, *ZERO_TERMINAL])
def test_tables_on_their_entries_in_float32(name: str) -> None:
    table = (PUBLISHED | ZERO_TERMINAL)[name]()
    index = TABLED[f"{name.removeprefix('zt_')}__index"]
    at = table(jnp.asarray((index + 1) / table.steps, jnp.float32))
    # the position t T in float32 is off by 6e-8 T entries, an entry is pi/2 T^-1 or less
    # of angle on average
    np.testing.assert_allclose(
        at.alpha, np.sqrt(TABLED[f"{name}__alphas_cumprod"]), atol=1e-6
    )


@pytest.mark.parametrize(
    ("name", "amplitude"),
    [
        ("scaled_linear_T1000", 6.8264914217e-02),
        ("linear_T1000", 6.3528180876e-03),
        ("cosine_T1000", 4.9282521314e-05),
    ],
)
def test_residual_signal_of_published_tables(
    name: str, amplitude: float, x64: None
) -> None:
    assert float(PUBLISHED[name]()(1.0).alpha) == pytest.approx(amplitude, rel=1e-10)
    assert amplitude == pytest.approx(float(TABLED[f"{name}__sqrt_abar_T"]), rel=1e-10)


def test_residual_signal_survives_float32() -> None:
    assert float(jd.Table(jd.CosineBetas())(1.0).alpha) == pytest.approx(
        4.92825e-5, rel=1e-5
    )
    assert float(jd.VPLinear()(1.0).alpha) == pytest.approx(6.5715865e-3, rel=1e-5)


@pytest.mark.parametrize("name", ZERO_TERMINAL)
def test_zero_terminal_snr_keeps_the_first_level_and_ends_on_noise(name: str) -> None:
    before, after = PUBLISHED[name.removeprefix("zt_")](), ZERO_TERMINAL[name]()
    assert after.betas()[-1] == 1
    assert after.betas()[0] == pytest.approx(before.betas()[0], rel=1e-12)
    assert (float(after(1.0).alpha), float(after(1.0).sigma)) == (0, 1)
    assert after.reaches_pure_noise
    assert not before.reaches_pure_noise
    np.testing.assert_allclose(ZeroTerminalBetas(after.betas)(), after.betas(), rtol=1e-9)


CLOSED = {
    "vp_linear": jd.VPLinear(),
    "trig": jd.Cosine(),
    "rectified_flow": jd.RectifiedFlow(),
    "cosine_iddpm": js.OffsetCosine(),
    "sigmoid_chen": js.ChenSigmoid(),
    "cosine_shift_64_64": js.Shifted(js.Cosine(), 1.0),
    "cosine_shift_64_256": js.Shifted(js.Cosine(), 256 / 64),
    "cosine_shift_64_512": js.Shifted(js.Cosine(), 512 / 64),
}


@pytest.mark.parametrize("name", CLOSED)
def test_closed_forms_against_published_numbers(name: str, x64: None) -> None:
    path, t = CLOSED[name], CONTINUOUS["t"]
    at = path(t)
    computed = {"alpha": at.alpha, "sigma": at.sigma, "logsnr": at.logsnr}
    computed["dlogsnr"] = js.logsnr_slope(path, t)
    for part in ("alpha", "sigma"):
        f = lambda t, part=part: getattr(path(t), part)
        computed[f"d{part}"] = jax.vmap(jax.grad(f))(t)
    for key, value in computed.items():
        np.testing.assert_allclose(
            value, CONTINUOUS[f"{name}__{key}"], rtol=1e-12, atol=1e-13, err_msg=key
        )


def test_resolution_shift_of_the_straight_path(x64: None) -> None:
    for k in (1.0, 3.0):
        at = js.Shifted(jd.RectifiedFlow(), k)(LAWS["u"])
        np.testing.assert_allclose(at.sigma, LAWS[f"time_shift_{k}"], rtol=1e-13)
        np.testing.assert_allclose(at.alpha + at.sigma, 1, rtol=1e-14)


@every
@pytest.mark.parametrize("k", [0.25, 3.0])
def test_shift_moves_the_logsnr_of_every_path(name: str, k: float, x64: None) -> None:
    t = np.linspace(0.01, 0.99, 9)
    moved, path = js.Shifted(SCHEDULES[name], k), SCHEDULES[name]
    expected = path(t).logsnr - 2 * np.log(k)
    np.testing.assert_allclose(moved(t).logsnr, expected, atol=1e-12)
    np.testing.assert_allclose(moved.time(expected), t, rtol=1e-9)
    assert moved.reaches_pure_noise == path.reaches_pure_noise


@pytest.mark.parametrize(
    ("key", "image", "low", "high"),
    [
        ("rand_cosine_interpolated_64_32_64_sd0.5", 64, 32, 64),
        ("rand_cosine_interpolated_256_64_64_sd0.5", 256, 64, 64),
    ],
)
def test_bounded_cosine_against_published_levels(
    key: str, image: int, low: int, high: int, x64: None
) -> None:
    """Published for u = 1 - t, sigma in [0.001, 1000] times sigma / sigma_data = 0.5."""
    ends = [-2 * np.log(sigma / 0.5) for sigma in (1e3, 1e-3)]
    path = js.BoundedCosine(*ends, shift_data=image / high, shift_noise=image / low)
    at = path(1 - LAWS["u"])
    np.testing.assert_allclose(0.5 * at.sigma / at.alpha, LAWS[key], rtol=1e-11)
    # the shift leaves both ends where they are
    np.testing.assert_allclose(path(np.asarray([1.0, 0.0])).logsnr, ends, rtol=1e-12)


def test_chen_s_paths_are_their_definition(x64: None) -> None:
    t, logistic = np.linspace(0, 1, 41), lambda z: 1 / (1 + np.exp(-z))
    for s, e, tau in ((-3, 3, 1), (0, 3, 0.3), (-3, 3, 0.1)):
        f = lambda z, tau=tau: logistic(z / tau)
        gamma = (f(e) - f(s + t * (e - s))) / (f(e) - f(s))
        at = js.ChenSigmoid(float(s), float(e), float(tau))(t)
        np.testing.assert_allclose(at.alpha**2, gamma, atol=1e-14)
    for s, e, tau in ((0, 1, 1), (0.2, 1, 3), (0, 1, 0.5), (0.1, 0.8, 0.7)):
        f = lambda z, tau=tau: np.cos(np.pi / 2 * z) ** (2 * tau)
        gamma = (f(e) - f(s + t * (e - s))) / (f(e) - f(s))
        at = js.ChenCosine(float(s), float(e), float(tau))(t)
        np.testing.assert_allclose(at.alpha**2, gamma, atol=1e-14)
    np.testing.assert_allclose(js.ChenCosine()(t).sigma, jd.Cosine()(t).sigma, atol=1e-15)


def test_offset_cosine_is_the_table_without_its_cap(x64: None) -> None:
    """All levels of T = 1000 but the last, which is capped."""
    t = np.arange(1, 1000) / 1000
    table, path = jd.Table(jd.CosineBetas())(t), js.OffsetCosine()(t)
    np.testing.assert_allclose(table.alpha, path.alpha, rtol=1e-9)
    np.testing.assert_allclose(table.sigma, path.sigma, rtol=1e-9)


@every
def test_float32_is_as_good_as_float64_rounded(name: str, x64: None) -> None:
    """Each of alpha and sigma to its own last digits, at both ends too."""
    t = np.r_[1e-6, 1e-4, np.linspace(0.01, 0.99, 33), 1 - 2**-12].astype(np.float32)
    exact, single = (SCHEDULES[name](jnp.asarray(t, d)) for d in ("float64", "float32"))
    assert single.alpha.dtype == jnp.float32
    # a product of a few rounded factors; LogSigma's exp and the bounded paths' lose
    # |ln sigma| eps, and a table's position among T entries is off by T eps of one
    scale = 2e-5 if isinstance(SCHEDULES[name], js.Table) else 4e-6
    np.testing.assert_allclose(single.alpha, exact.alpha, rtol=scale)
    np.testing.assert_allclose(single.sigma, exact.sigma, rtol=scale)


def test_invert_is_exact_and_differentiable(x64: None) -> None:
    f = lambda t: jnp.exp(-3 * t) + 1
    y = f(jnp.asarray([0.0, 0.3, 1.0]))
    np.testing.assert_allclose(invert(f, y), [0, 0.3, 1], atol=1e-15)
    np.testing.assert_allclose(invert(f, jnp.asarray([9.0, 0.1])), [0, 1], atol=1e-15)
    slope = jax.grad(lambda y: invert(f, y))(y[1])
    np.testing.assert_allclose(slope, 1 / (-3 * np.exp(-0.9)), rtol=1e-12)


def test_log_sigma_is_linear_in_log_sigma(x64: None) -> None:
    at = jd.LogSigma(0.5, 32.0)(np.asarray([0.0, 1 / 3, 0.5, 1.0]))
    np.testing.assert_allclose(at.sigma, [0.5, 2.0, 4.0, 32.0], rtol=1e-14)
    np.testing.assert_array_equal(at.alpha, 1.0)


def test_levels_know_their_snr(x64: None) -> None:
    at = NoiseLevel(jnp.asarray([0.0, 0.5, 1.0]), jnp.asarray([1.0, 0.25, 0.0]))
    np.testing.assert_array_equal(at.snr, [0, 4, np.inf])
    np.testing.assert_allclose(at.logsnr, [-np.inf, np.log(4), np.inf], rtol=1e-15)


@every
def test_corrupt_is_the_forward_process(name: str) -> None:
    schedule = SCHEDULES[name]
    x0 = jax.random.uniform(jax.random.key(1), (4, 5, 4, 2)) - 0.5
    t = jnp.asarray([0.0, 0.2, 0.7, 1.0]).reshape(4, 1, 1, 1)
    noised = jd.corrupt(jax.random.key(0), x0, t, schedule)
    for i in range(4):  # image by image, with numbers for levels: nothing to broadcast
        at = schedule(float(t[i, 0, 0, 0]))
        expected = float(at.alpha) * x0[i] + float(at.sigma) * noised.eps[i]
        np.testing.assert_allclose(noised.x[i], expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(
        noised.eps, jax.random.normal(jax.random.key(0), x0.shape)
    )
    np.testing.assert_array_equal(noised.x0, x0)
    np.testing.assert_array_equal(noised.t, t)


def test_times_that_would_broadcast_along_the_image_are_refused() -> None:
    x0 = jnp.zeros((4, 4, 4, 4))
    with pytest.raises(ValueError, match=r"the shape \(4, 1, 1, 1\)"):
        jd.corrupt(jax.random.key(0), x0, jnp.full((4,), 0.5), jd.Cosine())
    assert jd.corrupt(jax.random.key(0), x0, 0.5, jd.Cosine()).x.shape == x0.shape


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: jd.LogSigma(1.0, 0.5),
            "LogSigma needs sigma_min < sigma_max, got 1.0 and 0.5",
        ),
        (
            lambda: jd.VPLinear(2.0, 1.0),
            "VPLinear needs beta_min <= beta_max, got 2.0 and 1.0",
        ),
        (
            lambda: js.OffsetCosine(0.0),
            r"s must be a number above 0, at most 1e\+15, got 0.0",
        ),
        (
            lambda: js.TrigFlow(0.0),
            r"sigma_data must be a number above 0, at most 1e\+15, got 0.0",
        ),
        (lambda: js.ChenSigmoid(3.0, -3.0), "start < end.*got 3.0, -3.0 and tau 1.0"),
        (lambda: js.ChenSigmoid(tau=0.01), r"\(end - start\) / tau <= 80.*tau 0.01"),
        (
            lambda: js.ChenCosine(0.5, 0.5),
            "ChenCosine needs start < end, got 0.5, 0.5 and tau 1.0",
        ),
        (
            lambda: js.ChenCosine(tau=0.0),
            r"tau must be a number above 0, at most 1e\+15, got 0.0",
        ),
        (lambda: js.BoundedCosine(3.0, -3.0), "logsnr_min < logsnr_max, got 3.0 and -3.0"),
        (lambda: js.BoundedCosine(shift_data=2.0), "got 2.0 and 1.0"),
        (
            lambda: js.Shifted(js.Cosine(), 0.0),
            r"factor must be a number above 0, at most 1e\+15, got 0.0",
        ),
        (
            lambda: jd.Table(jd.ListedBetas((0.1, 0.0))),
            r"betas\[1\] must be a number above 0, at most 1, got 0.0",
        ),
        (
            lambda: jd.Table(jd.ListedBetas((0.1, float("nan")))),
            r"betas\[1\] must be a number above 0, at most 1, got nan",
        ),
        (lambda: jd.Table(jd.ListedBetas((1.0, 0.5))), "only the last beta may be 1"),
    ],
)
def test_values_that_make_no_path_are_refused(build: Callable, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


@every
def test_schedules_are_values(name: str) -> None:
    assert hash(SCHEDULES[name]) == hash(SCHEDULES[name])
    assert isinstance(SCHEDULES[name], Schedule)
    with pytest.raises(AttributeError):
        SCHEDULES[name].steps = 3
