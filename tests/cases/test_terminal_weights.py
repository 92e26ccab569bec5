"""Weights at SNR = 0, where sampling on a trailing grid begins."""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.objectives import weightings as jw
from jaxdiff.train import setup
from jaxdiff.types import NoiseLevel

TABLE = jd.zero_terminal_snr(jd.Table(jd.LinearBetas(20, 0.001, 0.02)))
NOISE = NoiseLevel(jnp.zeros(()), jnp.ones(()))
PREDICTIONS = [jd.X0(), jd.V(), jd.Flow(), jd.EDM()]
VANISHING = [
    *[jw.MinSNR(), jw.SoftMinSNR(), jw.P2(), jw.P2(gamma=0.5), jw.Debias()],
    *[jw.UniformOnNetwork(jd.Eps()), jw.ELBO(jd.Cosine()), jw.Sigmoid(jd.Cosine())],
]
LASTING = [
    *[jw.TruncatedSNR(), jw.UniformOnX0(), jw.DiscreteELBO(TABLE)],
    *[jw.UniformOnNetwork(p) for p in PREDICTIONS],
    *[jw.MinSNR(zero_snr=1.0), jw.P2(zero_snr=1.0), jw.Debias(zero_snr=1.0)],
    jw.SoftMinSNR(zero_snr=1.0),
]


def warned(weighting: Any, prediction: Any, path: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        jw.warn_of_vanishing_weight([(1.0, weighting)], prediction, path)
    return [str(w.message) for w in caught]


@pytest.mark.parametrize("weighting", VANISHING, ids=str)
def test_weights_that_vanish_where_sampling_starts_are_warned_of(weighting: Any) -> None:
    path = getattr(weighting, "schedule", TABLE)
    for prediction in PREDICTIONS:
        [message] = warned(weighting, prediction, path)
        name = type(prediction).__name__
        assert str(weighting) in message
        assert f"the error of {name}'s output by " in message
        assert f"UniformOnNetwork({name}())" in message
        assert ("zero_snr = 1.0" in message) == hasattr(weighting, "zero_snr")


@pytest.mark.parametrize("weighting", LASTING, ids=str)
def test_weights_that_last_are_not(weighting: Any) -> None:
    for prediction in PREDICTIONS:
        assert not warned(weighting, prediction, TABLE)


def test_the_message_has_the_value() -> None:
    [message] = warned(jw.MinSNR(), jd.V(), TABLE)
    assert "by 4.2e-18 at t = 1, where sampling starts" in message  # e^-40
    [message] = warned(jw.Debias(), jd.V(), TABLE)
    assert "by 2.1e-09 at t = 1" in message


def test_a_table_that_nearly_reaches_pure_noise_is_warned_of_under_v_alone() -> None:
    """The cosine table ends at SNR 2.4e-9: on eps the weight is 1 there."""
    table = jd.Table(jd.CosineBetas())
    assert not warned(jw.MinSNR(), jd.Eps(), table)
    [message] = warned(jw.MinSNR(), jd.V(), table)
    assert "zero_snr" not in message.split("Use ")[1]  # its SNR is not 0
    assert not warned(jw.MinSNR(), jd.V(), jd.Table(jd.LinearBetas()))


@pytest.mark.parametrize("kind", [jw.MinSNR, jw.SoftMinSNR, jw.P2, jw.Debias])
def test_zero_snr_is_the_weight_at_pure_noise_alone(kind: type) -> None:
    levels = TABLE(jnp.linspace(0, 1, 21))
    plain, held = kind()(levels), kind(zero_snr=1.0)(levels)
    np.testing.assert_array_equal(held[:-1], plain[:-1])
    assert held[-1] == 1
    assert kind(zero_snr=1.0)(NOISE) * jd.V()(NOISE).c_out ** 2 == 1
    assert np.isfinite(jax.grad(lambda a: kind(zero_snr=1.0)(NoiseLevel(a, 1.0)))(0.3))
    with pytest.raises(ValueError, match="zero_snr must be a number from 0"):
        kind(zero_snr=-1.0)


def experiment(loss: Any, schedule: Any = TABLE) -> jd.Experiment:
    return jd.Experiment(schedule=schedule, parameterization=jd.V(), loss=loss)


def test_training_warns_when_it_starts() -> None:
    forgetful = jd.WeightedError(jw.MinSNR())
    with pytest.warns(UserWarning, match="not trained at pure noise"):
        setup.require_finite_objective(experiment(forgetful))
    other = jd.WeightedError(jw.TruncatedSNR())
    for loss in (
        jd.WeightedError(jw.MinSNR(zero_snr=1.0)),
        jd.Total(((1.0, forgetful), (0.1, other))),  # the sum lasts
        jd.Uncertain(forgetful),  # each level is divided by its own error
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            setup.require_finite_objective(experiment(loss))


def test_the_bound_of_the_straight_path_has_no_pole_at_pure_noise() -> None:
    """-d SNR / dt / 2 = (1 - t) / t^3, which float32's slope of t made 1e17 at t = 1."""
    path = jd.RectifiedFlow()
    for t in (0.3, 0.9, 0.999):
        weight = jw.ELBO(path)(path(jnp.float32(t)))
        np.testing.assert_allclose(weight, (1 - np.float32(t)) / t**3, rtol=1e-4)
    assert jw.ELBO(path)(path(jnp.float32(1))) < 1e-8
    assert warned(jw.ELBO(path), jd.V(), path)


def test_the_clock_of_the_straight_path_keeps_its_slope_at_both_ends() -> None:
    logsnr = jnp.asarray([-60.0, -40.0, -1.0, 0.0, 1.0, 40.0, 60.0])
    slope = jax.vmap(jax.grad(jd.RectifiedFlow().time))(logsnr)
    exact = -0.5 / (2 + np.exp(np.float64(logsnr) / 2) + np.exp(-np.float64(logsnr) / 2))
    np.testing.assert_allclose(slope, exact, rtol=1e-5)
    assert jd.RectifiedFlow().time(jnp.inf) == 0
    assert jd.RectifiedFlow().time(-jnp.inf) == 1
