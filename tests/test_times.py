"""Laws of t: held against their distribution functions (Kolmogorov-Smirnov)."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import jaxdiff as jd
from jaxdiff.times import LogitNormal, NormalLogSigma, Uniform
from jaxdiff.types import Times
from tests.toys import SCHEDULES, on_host

COUNT = 40_000
BOUND = 1.95 / math.sqrt(COUNT)
"""Exceeded by one right sample in a thousand; the keys are fixed."""

LAWS = [
    Uniform(),
    Uniform(0.2, 0.7),
    NormalLogSigma(),
    LogitNormal(),
    LogitNormal(0.5, 0.6),
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
        found = np.log(at.sigma / at.alpha)
    low, high = (-np.inf, np.inf) if path == "log_sigma" else (low, high - 1e-3)
    inside = (found > low) & (found < high)
    law = stats.norm(mean, std)
    found = np.sort(found[inside])
    ranks = np.arange(1, found.size + 1) / COUNT
    assert inside.mean() > 0.95
    assert np.abs(ranks - law.cdf(found)).max() < BOUND


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


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Uniform(0.5, 0.5), "0 <= low < high <= 1, got 0.5 and 0.5"),
        (lambda: Uniform(-0.1, 0.5), "got -0.1 and 0.5"),
        (lambda: NormalLogSigma(std=0.0), r"NormalLogSigma needs std > 0, got 0\.0"),
        (lambda: LogitNormal(std=-1.0), r"LogitNormal needs std > 0, got -1\.0"),
    ],
)
def test_laws_that_are_none_are_refused(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
