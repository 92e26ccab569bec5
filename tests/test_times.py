"""Laws of t: held against their distribution functions (Kolmogorov-Smirnov)."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import jaxdiff as jd
from jaxdiff import schedules as js
from jaxdiff.objectives import timesteps as jt
from jaxdiff.objectives.timesteps import (
    LogitNormal,
    LossHistory,
    LossSecondMoment,
    NormalLogSigma,
    Uniform,
)
from jaxdiff.types import Times
from tests.toys import GOLDEN, SCHEDULES, on_host

GIVEN = np.load(GOLDEN / "iddpm" / "noise_sampling.npz")
HISTORY = np.load(GOLDEN / "iddpm" / "resampler.npz")

COUNT = 40_000
BOUND = 1.95 / math.sqrt(COUNT)
"""Exceeded by one right sample in a thousand; the keys are fixed."""

LAWS = [
    Uniform(),
    Uniform(0.2, 0.7),
    NormalLogSigma(),
    LogitNormal(),
    LogitNormal(0.5, 0.6),
    jt.LogUniformSigma(0.01, 50.0),
    jt.Mode(1.29),
    jt.Mode(-0.5),
    jt.CosMap(),
    jt.Stratified(LogitNormal()),
    jt.Antithetic(jt.CosMap()),
]
every = pytest.mark.parametrize("law", LAWS, ids=str)


def _draw(
    law: Times, schedule: Any = None, shape: tuple[int, ...] = (COUNT,)
) -> np.ndarray:
    t, _ = law.draw(law.init(), jax.random.key(3), shape, schedule or jd.LogSigma())
    return np.asarray(t, np.float64)


def test_uniform() -> None:
    assert stats.kstest(_draw(Uniform()), "uniform").statistic < BOUND
    t = _draw(Uniform(0.2, 0.7))
    assert stats.kstest(t, stats.uniform(0.2, 0.5).cdf).statistic < BOUND
    assert t.min() >= np.float32(0.2)
    assert t.max() < 0.7


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.5, 0.6), (-1.0, 2.0)])
def test_logit_normal(mean: float, std: float) -> None:
    t = _draw(LogitNormal(mean, std))
    logit = np.log(t) - np.log1p(-t)
    assert stats.kstest(logit, stats.norm(mean, std).cdf).statistic < BOUND


@pytest.mark.parametrize("path", [k for k in SCHEDULES if k != "listed"])
@pytest.mark.parametrize(("mean", "std"), [(-1.2, 1.2), (-0.4, 1.0)])
def test_log_sigma_is_normal_on_every_path(path: str, mean: float, std: float) -> None:
    at = on_host(SCHEDULES[path](_draw(NormalLogSigma(mean, std), SCHEDULES[path])))
    # a path that begins or ends inside the law holds what is beyond to its ends
    ends = on_host(SCHEDULES[path](np.asarray([0.0, 1.0])))
    with np.errstate(divide="ignore"):
        low, high = np.log(ends.sigma / ends.alpha)
        log_sigma = np.log(at.sigma / at.alpha)
    low, high = (-np.inf, np.inf) if path == "log_sigma" else (low, high - 1e-3)
    inside = (log_sigma > low) & (log_sigma < high)
    law = stats.norm(mean, std)
    log_sigma = np.sort(log_sigma[inside])
    ranks = np.arange(1, log_sigma.size + 1) / COUNT
    assert inside.mean() > 0.95
    assert np.abs(ranks - law.cdf(log_sigma)).max() < BOUND


def test_log_sigma_is_not_cut_off_at_edm_s_range() -> None:
    t = _draw(NormalLogSigma(-1.2, 3.0))
    assert (t < 0).any()
    assert (t > 1).any()


@every
def test_shapes_weights_and_memory(law: Times) -> None:
    memory = law.init()
    t, weight = law.draw(memory, jax.random.key(0), (6, 1, 1, 1), jd.Cosine())
    assert t.shape == weight.shape == (6, 1, 1, 1)
    assert t.dtype == weight.dtype == jnp.float32
    np.testing.assert_array_equal(weight, 1)
    assert len(np.unique(t)) == 6
    assert law.update(memory, t, jnp.ones(6)) == memory == ()
    assert isinstance(law, Times)


@every
def test_draws_are_functions_of_the_key(law: Times) -> None:
    draw = jax.jit(lambda key: law.draw((), key, (8,), jd.Cosine())[0])
    a, b = jax.random.split(jax.random.key(0))
    np.testing.assert_array_equal(draw(a), draw(a))
    assert not np.isclose(draw(a), draw(b)).any()


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.5, 0.6)])
def test_published_logit_normal(mean: float, std: float, x64: None) -> None:
    law, key = LogitNormal(mean, std), f"logit_normal_m{mean}_s{std}"
    u = (stats.norm.cdf(GIVEN["z"]) - 1e-7) / (1 - 2e-7)
    np.testing.assert_allclose(law.quantile(u, jd.Cosine()), GIVEN[f"{key}__t"], rtol=1e-9)
    p = law.density(GIVEN["pdf_grid"], jd.Cosine())
    np.testing.assert_allclose(p, GIVEN[f"{key}__pdf"], rtol=1e-11)


def test_published_laws_of_sd3(x64: None) -> None:
    u, path = GIVEN["u"], jd.RectifiedFlow()
    for scale in (1.29, -0.5):  # published as a function of 1 - u
        t = jt.Mode(scale).quantile(1 - u, path)
        np.testing.assert_allclose(t, GIVEN[f"mode_s{scale}__t"], rtol=1e-12)
    t = jt.CosMap().quantile(u, path)
    np.testing.assert_allclose(t, GIVEN["cosmap__t"], rtol=1e-12)
    p = jt.CosMap().density(GIVEN["pdf_grid"], path)
    np.testing.assert_allclose(p, GIVEN["cosmap__pdf"], rtol=1e-12)


def test_published_laws_of_sigma(x64: None) -> None:
    u, edm = GIVEN["u"], jd.LogSigma()
    normal = edm(NormalLogSigma().quantile(u, edm)).sigma
    # that implementation rounds mean and std to float32
    np.testing.assert_allclose(normal, GIVEN["rand_log_normal_m1.2_s1.2"], rtol=1e-6)
    uniform = edm(jt.LogUniformSigma(0.01, 80.0).quantile(u, edm)).sigma
    np.testing.assert_allclose(uniform, GIVEN["rand_log_uniform_1e-2_80"], rtol=1e-12)


def test_published_laws_that_are_uniform_on_a_path(x64: None) -> None:
    """v-diffusion's, cut to [0.001, 1000], and the log-logistic, to [0.01, 100]."""
    for path, low, high, key in (
        (js.TrigFlow(0.5), 1e-3, 1e3, "rand_v_diffusion_sd0.5_tr"),
        (jd.RectifiedFlow(), 1e-2, 1e2, "rand_log_logistic_0_1_tr"),
    ):
        ends = [float(path.time(-2 * np.log(sigma))) for sigma in (low, high)]
        at = path(Uniform(*ends).quantile(GIVEN["u"], path))
        np.testing.assert_allclose(at.sigma / at.alpha, GIVEN[key], rtol=1e-11)


@every
@pytest.mark.parametrize("path", ["cosine", "vp_linear", "rectified_flow", "iddpm"])
def test_density_is_that_of_the_quantiles(law: jt.Law, path: str, x64: None) -> None:
    """p(t) dt / du = 1, and the slope of t(u) comes from another formula."""
    schedule, u = SCHEDULES[path], np.linspace(0.0312, 0.9, 14)
    t = law.quantile(u, schedule)
    inside = (t > 1e-4) & (t < 0.999)  # a sigma law holds what is beyond a path's end
    slope = jax.vmap(jax.grad(lambda u: law.quantile(u, schedule)))(u)
    # the normal quantile moves u by 1e-7 of its distance from 1 / 2
    p = law.density(t, schedule)
    np.testing.assert_allclose((p * slope)[inside], 1, rtol=1e-6)
    assert inside.sum() > 8
    assert isinstance(law, jt.Law)


@every
def test_draws_have_the_law_of_the_quantiles(law: Times) -> None:
    t = np.sort(_draw(law, jd.Cosine()))
    ranks = (np.arange(COUNT) + 0.5) / COUNT
    # compared in u, where the law is uniform: the places of the quantiles among the draws
    u = np.linspace(0.01, 0.99, 99)
    place = np.interp(np.asarray(law.quantile(u, jd.Cosine())), t, ranks)
    assert np.abs(place - u).max() < BOUND


@pytest.mark.parametrize("law", [Uniform(0.2, 0.7), jt.CosMap(), LogitNormal()], ids=str)
def test_stratified_draws_once_from_every_share(law: jt.Law, x64: None) -> None:
    """Images in order of their share; and not the same u in each."""
    t = np.asarray(
        jt.Stratified(law).draw((), jax.random.key(0), (64, 1, 1, 1), jd.Cosine())[0]
    )
    ends = np.asarray(law.quantile(np.arange(65) / 64, jd.Cosine()))
    assert ((t.ravel() >= ends[:-1]) & (t.ravel() <= ends[1:])).all()
    u = _draw(jt.Stratified(), shape=(64,)) * 64 % 1
    assert np.std(u) == pytest.approx(12**-0.5, abs=0.06)


def test_antithetic_draws_are_equally_spaced(x64: None) -> None:
    """t_i = (t_0 + i / B) mod 1, t_0 uniform: the published formula [VDM]."""
    draw = lambda key: jt.Antithetic().draw((), key, (8,), jd.Cosine())[0].ravel()
    first = [np.asarray(draw(jax.random.key(k))) for k in range(300)]
    for t in first:
        np.testing.assert_allclose(t, (t[0] + np.arange(8) / 8) % 1, atol=1e-12)
    assert stats.kstest([t[3] for t in first], "uniform").pvalue > 0.001


def test_entries_are_drawn_alike_and_are_a_table_s_own() -> None:
    law, table = jt.UniformEntries(), jd.Table(jd.CosineBetas(10))
    entry = np.round(_draw(law, table) * 10).astype(int)
    np.testing.assert_allclose(_draw(law, table) * 10, entry, atol=1e-6)
    counts = np.bincount(entry, minlength=11)
    assert counts[0] == 0
    assert stats.chisquare(counts[1:]).pvalue > 0.001
    ends = np.asarray(law.quantile(np.asarray([0.0, 1.0]), table))
    np.testing.assert_allclose(ends, [0.1, 1.0], rtol=1e-6)
    density = law.density(np.asarray([0.04, 0.06, 0.5, 1.04, 1.06]), table)
    np.testing.assert_array_equal(density, [0, 1, 1, 1, 0])
    t, weight = law.draw((), jax.random.key(0), (3, 1, 1, 1), table)
    assert t.shape == weight.shape == (3, 1, 1, 1)
    np.testing.assert_array_equal(weight, 1)


def test_extreme_quantiles_are_finite_and_on_the_path() -> None:
    u = jnp.asarray([0.0, 1e-8, 1 - 6e-8, 1.0])
    for law in LAWS:
        t = np.asarray(law.quantile(u, jd.Cosine()))
        assert np.isfinite(t).all()
        assert ((t >= 0) & (t <= 1)).all()


update = jax.jit(LossSecondMoment.update, static_argnums=0)


def _fed(law: LossSecondMoment, memory: Any, t: Any, losses: Any, sizes: list[int]) -> Any:
    """The memory after batches of these sizes."""
    i = 0
    for size in sizes:
        part = t[i : i + size].reshape(-1, 1, 1, 1), losses[i : i + size]
        memory = update(law, memory, *part)
        i += size
    return memory


@pytest.mark.parametrize("size", [1, 7, 100, 528])
def test_published_history_and_probabilities(size: int, x64: None) -> None:
    """One stream in batches of any size: the order within a batch is that of the stream."""
    law = LossSecondMoment(16)
    t, losses = (HISTORY["ts"] + 1) / 16, HISTORY["losses"]
    shape = jax.tree.map(lambda a: a.shape, law.init())
    assert (shape.losses, shape.counts) == ((16, 10), (16,))
    empty = LossHistory(jnp.zeros((16, 10)), jnp.zeros(16, jnp.int32))
    for k, count in enumerate(HISTORY["snap"]):
        sizes = [size] * (int(count) // size)
        sizes += [int(count) - sum(sizes)] if sum(sizes) < count else []
        memory = _fed(law, empty, t, losses, sizes)
        p = law.probabilities(memory)
        np.testing.assert_allclose(p, HISTORY["probs_after"][k], rtol=1e-12)
        np.testing.assert_allclose(1 / (16 * p), HISTORY["iw_after"][k], rtol=1e-12)
        assert (count < HISTORY["warm_at"]) == bool((memory.counts < 10).any())
    final = _fed(
        law, empty, t, losses, [528 % size] * (528 % size > 0) + [size] * (528 // size)
    )
    np.testing.assert_array_equal(final.losses, HISTORY["final_history"])


def test_history_enters_in_order_whatever_the_batch() -> None:
    """Against a list that is appended to; entries that one batch overfills among them."""
    rng, law = np.random.default_rng(1), LossSecondMoment(5, length=4)
    memory, lists = law.init(), [[] for _ in range(5)]
    for size in (3, 1, 40, 8, 2, 16):
        entry, loss = rng.integers(0, 5, size), rng.random(size).astype(np.float32)
        memory = update(law, memory, (entry + 1) / np.float32(5), loss)
        for e, value in zip(entry, loss, strict=True):
            lists[e] = [*lists[e], value][-4:]
        for e in range(5):
            n, kept = int(memory.counts[e]), np.asarray(memory.losses[e])
            np.testing.assert_array_equal(kept[:n], np.float32(lists[e]))
            np.testing.assert_array_equal(kept[n:], 0)


def test_importance_sampler_draws_by_its_probabilities_and_is_unbiased() -> None:
    law, table = LossSecondMoment(6, length=2), jd.Table(jd.CosineBetas(6))
    rms = np.asarray([0.1, 5.0, 1.0, 1.0, 0.0, 2.0])
    memory = LossHistory(
        jnp.asarray(np.c_[rms, rms], jnp.float32), jnp.full(6, 2, jnp.int32)
    )
    expected = 0.999 * rms / rms.sum() + 0.001 / 6
    np.testing.assert_allclose(law.probabilities(memory), expected, rtol=1e-6)
    t, weight = law.draw(memory, jax.random.key(0), (COUNT,), table)
    entry = np.round(np.asarray(t) * 6).astype(int) - 1
    np.testing.assert_allclose(weight, 1 / (6 * expected[entry]), rtol=1e-5)
    counts = np.bincount(entry, minlength=6)
    assert stats.chisquare(counts, COUNT * expected).pvalue > 0.001
    # the weighted mean of what was drawn is the plain mean over the entries
    value = np.asarray([1.0, 5.0, 2.0, 1.0, 0.0, 3.0])
    terms = value[entry] * np.asarray(weight)
    assert abs(terms.mean() - value.mean()) < 4 * terms.std() / math.sqrt(COUNT)


def test_importance_sampler_is_uniform_until_every_entry_is_full() -> None:
    law = LossSecondMoment(4, length=3)
    memory = law.init()
    t = jnp.asarray([0.25, 0.5, 0.75] * 5 + [1.0] * 2)
    memory = law.update(memory, t, jnp.arange(17.0))
    np.testing.assert_array_equal(law.probabilities(memory), 0.25)
    _, weight = law.draw(memory, jax.random.key(0), (5, 1, 1, 1), jd.Cosine())
    np.testing.assert_array_equal(weight, 1)
    memory = law.update(memory, jnp.asarray([1.0]), jnp.asarray([3.0]))
    assert not np.allclose(law.probabilities(memory), 0.25)
    # losses that are all 0 leave it uniform
    zeros = LossHistory(jnp.zeros((4, 3)), jnp.full(4, 3, jnp.int32))
    np.testing.assert_array_equal(law.probabilities(zeros), 0.25)


def test_importance_sampler_finds_entries_of_long_tables_in_float32() -> None:
    law, entries = LossSecondMoment(4000, length=1), np.arange(4000)
    t = jnp.asarray((entries + 1) / 4000, jnp.float32)
    memory = law.update(law.init(), t, jnp.asarray(entries, jnp.float32))
    np.testing.assert_array_equal(memory.losses[:, 0], entries)


def test_importance_sampler_is_one_over_devices() -> None:
    """A batch that lies on 8 devices updates the memory as on one."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    law, rng = LossSecondMoment(3, length=4), np.random.default_rng(0)
    t, loss = (rng.integers(1, 4, 32) / 3).astype(np.float32), rng.random(32)
    one = law.update(law.init(), jnp.asarray(t), jnp.asarray(loss, jnp.float32))
    args = jax.device_put((t, loss.astype(np.float32)), spread)
    several = jax.jit(law.update)(law.init(), *args)
    np.testing.assert_array_equal(several.losses, one.losses)
    np.testing.assert_array_equal(several.counts, one.counts)
    assert isinstance(law, Times)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Uniform(0.5, 0.5), "Uniform needs low < high, got 0.5 and 0.5"),
        (lambda: Uniform(-0.1, 0.5), "low must be a number from 0 to 1, got -0.1"),
        (
            lambda: NormalLogSigma(std=0.0),
            "std must be a number above 0, at most 100, got 0.0",
        ),
        (
            lambda: LogitNormal(std=-1.0),
            "std must be a number above 0, at most 100, got -1.0",
        ),
        (lambda: jt.LogUniformSigma(2.0, 1.0), "sigma_max, got 2.0 and 1.0"),
        (lambda: jt.Mode(2.0), "scale must be a number from -1 to 1.75194, got 2.0"),
        (
            lambda: LossSecondMoment(0),
            "steps must be a whole number from 1 to 100,000, got 0",
        ),
        (
            lambda: LossSecondMoment(9, 0),
            "length must be a whole number from 1 to 1,000, got 0",
        ),
        (
            lambda: LossSecondMoment(uniform=0.0),
            "uniform must be a number above 0, at most 1, got 0.0",
        ),
        (
            lambda: jt.UniformEntries().quantile(0.5, jd.Cosine()),
            r"Cosine\(\) is not a table",
        ),
        (
            lambda: LossSecondMoment(10).draw(
                LossSecondMoment(10).init(),
                jax.random.key(0),
                (1,),
                jd.Table(jd.CosineBetas(9)),
            ),
            "table of 9 entries: use steps=9",
        ),
    ],
)
def test_laws_that_are_none_are_refused(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
