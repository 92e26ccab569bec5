"""Schedules: the battery that every path goes through, and the published tables."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.schedules import ZeroTerminalBetas
from jaxdiff.types import NoiseLevel, Schedule
from tests.toys import GOLDEN, PURE_NOISE, SCHEDULES, TABLES, on_host

TABLED = np.load(GOLDEN / "iddpm" / "schedules.npz")
CONTINUOUS = np.load(GOLDEN / "iddpm" / "conversions.npz")

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
    assert (np.hypot(at.alpha, at.sigma) > 0.5).all()
    assert at.alpha[0] == 1
    assert at.sigma[0] == (0 if name != "log_sigma" else pytest.approx(0.002, rel=1e-6))
    assert (at.alpha[1] == 0) == (name in PURE_NOISE) == SCHEDULES[name].reaches_pure_noise


@every
def test_gradient_is_finite_and_right_inside(name: str, x64: None) -> None:
    schedule = SCHEDULES[name]
    t = np.linspace(0.0123, 0.9877, 12)  # off the nodes of every table
    for part in ("alpha", "sigma"):
        f = lambda t, part=part: getattr(schedule(t), part)  # noqa: E731
        slope = jax.vmap(jax.grad(f))(t)
        assert np.isfinite(slope).all()
        h = 1e-6
        # central difference: error h^2 |f'''| / 6 + eps |f| / h, at most about 1e-8 of 80
        np.testing.assert_allclose(
            slope, (f(t + h) - f(t - h)) / (2 * h), rtol=1e-6, atol=1e-8
        )


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


@pytest.mark.parametrize("name", [*TABLES, "cosine", "vp_linear"])
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


@pytest.mark.parametrize("name", ["vp_linear", "trig", "rectified_flow"])
def test_closed_forms_against_published_numbers(name: str, x64: None) -> None:
    path = {
        "vp_linear": jd.VPLinear(),
        "trig": jd.Cosine(),
        "rectified_flow": jd.RectifiedFlow(),
    }
    at = path[name](CONTINUOUS["t"])
    for key, value in (("alpha", at.alpha), ("sigma", at.sigma), ("logsnr", at.logsnr)):
        np.testing.assert_allclose(
            value, CONTINUOUS[f"{name}__{key}"], rtol=1e-12, atol=1e-14
        )


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
        (lambda: jd.LogSigma(1.0, 0.5), "0 < sigma_min < sigma_max, got 1.0 and 0.5"),
        (lambda: jd.VPLinear(2.0, 1.0), "0 < beta_min <= beta_max, got 2.0 and 1.0"),
        (lambda: jd.Table(jd.LinearBetas(10)), r"beta\[4\]|must lie in \(0, 1\]"),
        (
            lambda: jd.Table(jd.ListedBetas((0.1, 0.0))),
            r"ListedBetas gives beta\[1\] = 0 of 2",
        ),
        (lambda: jd.Table(jd.ListedBetas((0.1, float("nan")))), r"beta\[1\] = nan"),
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
