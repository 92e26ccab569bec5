"""A classifier of noisy images: the network, its loss, and guidance of a run by it."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

import jaxdiff as jd
from jaxdiff import train
from jaxdiff.config import from_dict, resolve, to_dict
from jaxdiff.data import Digits
from jaxdiff.denoisers.parameterizations import Unscaled
from jaxdiff.networks import Classifier, LevelEstimator
from jaxdiff.objectives.losses import CrossEntropy
from jaxdiff.objectives.timesteps import LogUniformSigma
from jaxdiff.optim import EDM2Optimizer
from jaxdiff.runs import generate, guided_denoiser, restoring
from jaxdiff.runs.guided_denoiser import Guides
from jaxdiff.runs.state import run_denoiser
from jaxdiff.sampling.guidance import Interval, Projected
from tests.states import initial
from tests.test_generate import KEYS, LABEL, SAMPLED, TOLERANCE, variables

CLASSIFIES = dataclasses.replace(
    SAMPLED,
    network=Classifier(SAMPLED.network),
    times=LogUniformSigma(0.02, 40.0),
    loss=CrossEntropy(),
    sample_every=0,
)
WEIGHTS = np.random.default_rng(0)


@functools.cache
def classifier() -> dict[str, Any]:
    """Variables of a classifier to which classes differ."""
    state = initial(dataclasses.replace(CLASSIFIES, seed=3))
    loud = lambda p: p + 0.5 if p.ndim == 0 else p  # gains start at 0
    params = jax.tree.map(loud, state.params) | {"class_gain": jnp.float32(5.0)}
    return {"params": params, "constants": state.constants}


def guided(w: float, **changes: Any) -> np.ndarray:
    sampling = dataclasses.replace(SAMPLED.sampling, classifier_guidance=w, **changes)
    e = dataclasses.replace(SAMPLED, sampling=sampling)
    draw = generate.sampler(e, Guides(classifier=CLASSIFIES))
    return np.asarray(draw((variables(0), classifier()), KEYS, LABEL))


def test_the_loss_is_the_cross_entropy_and_no_label_teaches_nothing() -> None:
    x, label = jnp.zeros((3, 2, 2, 1)), jnp.asarray([2, -1, 0])
    logits = WEIGHTS.normal(size=(3, 4)).astype(np.float32)
    at = jd.NoiseLevel(jnp.ones(3), jnp.ones(3))
    noised = jd.Noised(x, x, x, jnp.zeros(3), at, label)
    loss = CrossEntropy()(jd.Denoised(x, logits=jnp.asarray(logits)), noised)
    ln_p = log_softmax(logits, axis=1)
    np.testing.assert_allclose(loss, [-ln_p[0, 2], 0, -ln_p[2, 0]], rtol=1e-5)
    with pytest.raises(ValueError, match="wrap it"):
        CrossEntropy()(jd.Denoised(x), noised)
    unlabelled = dataclasses.replace(noised, label=None)
    with pytest.raises(ValueError, match="needs the labels"):
        CrossEntropy()(jd.Denoised(x, logits=jnp.asarray(logits)), unlabelled)


def test_it_reads_x_and_the_level_and_never_the_label() -> None:
    net, x = CLASSIFIES.network, jax.random.normal(jax.random.key(1), (3, 8, 8, 1))
    weights = classifier()
    classify = jax.jit(lambda *args: net.apply(weights, *args).logits)
    cond = jd.Condition(label=jnp.asarray(LABEL), noise=jnp.asarray([True, False, True]))
    logits = classify(x, jnp.zeros(()), cond)
    assert logits.shape == (3, net.label_dim)
    np.testing.assert_array_equal(classify(x, jnp.zeros(()), jd.UNCONDITIONAL), logits)
    for other in (classify(x + 1, jnp.zeros(()), cond), classify(x, jnp.ones(()), cond)):
        assert np.abs(other - logits).max() > 1e-3
    every = dataclasses.replace(
        CLASSIFIES, network=Classifier(SAMPLED.network.clone(label_dim=-1))
    )
    assert resolve(every, Digits().load()).network.label_dim == 10
    assert from_dict(to_dict(CLASSIFIES)) == CLASSIFIES


def test_it_learns_starting_from_a_denoiser() -> None:
    fast = EDM2Optimizer(learning_rate=0.02, rampup_images=0.0, stds=(0.1,))
    e = dataclasses.replace(CLASSIFIES, optimizer=fast)
    state = initial(e, variables(0))
    images = Digits("train").load().source
    batch = {"image": images.image[:32], "label": images.label[:32]}
    step, losses = jax.jit(train.make_step(e)), []
    for _ in range(60):
        state, metrics = step(state, jax.tree.map(jnp.asarray, batch))
        losses.append(float(metrics["loss"]))
    np.testing.assert_allclose(losses[0], np.log(10), rtol=1e-3)  # all classes alike
    assert np.mean(losses[-10:]) < 0.9 * np.log(10)


def test_a_run_is_saved_and_restored(tmp_path: Path) -> None:
    short = dataclasses.replace(CLASSIFIES, batch_size=1, steps=1, checkpoint_every=1)
    train.fit(short, tmp_path / "run", progress=False)
    run = restoring.restore(tmp_path / "run")
    assert run.experiment == short
    x = jnp.ones((1, 8, 8, 1))
    level = jd.NoiseLevel(1.0, 1.0)
    assert jax.eval_shape(run.denoise, x, level).logits.shape == (1, 10)
    with pytest.raises(ValueError, match="estimates the class and draws no images"):
        generate.sampler(run.experiment)


def test_a_classifier_guides_as_the_verbs_do() -> None:
    """Beside guidance without labels, by the rule, within its interval."""
    rule, d = Projected(2.5), run_denoiser(SAMPLED, variables(0))
    classify = run_denoiser(CLASSIFIES, classifier())
    log_prob = jd.class_log_prob(lambda x, at: classify(x, at).logits)
    weaker = (
        (jd.without(d, "label"), 0.7),
        (jd.less_likely(log_prob), Interval(3.0, 0.1, 9.0)),
    )
    by_hand = dataclasses.replace(jd.guide(d, *weaker), rule=rule)
    cond = jd.Condition(label=jnp.asarray(LABEL))
    levels = SAMPLED.sampling.grid(SAMPLED.schedule, 4)
    sample = lambda keys: jd.sample(by_hand, cond, keys, (8, 8, 1), levels, jd.Heun())
    both = {"guidance": 0.7, "rule": rule}
    drawn = guided(3.0, classifier_interval=(0.1, 9.0), **both)
    np.testing.assert_allclose(drawn, jax.jit(sample)(KEYS), atol=TOLERANCE)
    assert np.abs(drawn - guided(0.0, **both)).max() > 1e-2


def test_the_shift_of_the_mean_needs_steps_that_have_one() -> None:
    with pytest.raises(ValueError, match="classifier_shift moves the means of Ancestral"):
        dataclasses.replace(SAMPLED.sampling, classifier_shift=True)
    ancestral = {"solver": jd.Ancestral(), "steps": 3}
    whole, shift = guided(3.0, **ancestral), guided(3.0, classifier_shift=True, **ancestral)
    assert np.isfinite(shift).all()
    assert np.abs(whole - shift).max() > 1e-3


UNLABELLED = dataclasses.replace(
    SAMPLED, network=SAMPLED.network.clone(label_dim=0), label_dropout=0.0
)
FEWER = dataclasses.replace(
    CLASSIFIES, network=Classifier(SAMPLED.network.clone(label_dim=3))
)
LEVEL = dataclasses.replace(SAMPLED, network=LevelEstimator(SAMPLED.network))
UNTOLD = dataclasses.replace(CLASSIFIES, parameterization=Unscaled())
LARGE = dataclasses.replace(CLASSIFIES, data=jd.data.Synthetic((16, 16, 1)))


@pytest.mark.parametrize(
    ("run", "other", "words"),
    [
        (SAMPLED, SAMPLED, "the classifier says x0 and no class"),
        (SAMPLED, LEVEL, "the classifier says the noise level and no class"),
        (UNLABELLED, CLASSIFIES, "the run knows no labels"),
        (SAMPLED, FEWER, "the classifier knows 3 classes, the run 10"),
        (SAMPLED, UNTOLD, "not told the noise level"),
        (SAMPLED, LARGE, "both must be of one size"),
    ],
)
def test_what_does_not_fit_is_refused(run: Any, other: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        guided_denoiser.guided(run, classifier=other)


def test_a_classifier_is_asked_for_where_there_is_none() -> None:
    sampling = dataclasses.replace(SAMPLED.sampling, classifier_guidance=1.0)
    with pytest.raises(ValueError, match=r"classifier_guidance is 1.0, .* as --classifier"):
        guided_denoiser.guided(dataclasses.replace(SAMPLED, sampling=sampling))


def test_another_path_leads_past_the_same_states() -> None:
    """A classifier is a function on rays: on any path its slope is the same of x0."""
    classify = run_denoiser(CLASSIFIES, classifier())
    log_prob = jd.class_log_prob(lambda x, at: classify(x, at).logits)
    pair = jd.less_likely(log_prob), 2.0
    made = jax.jit(jd.guide(run_denoiser(SAMPLED, variables(0)), pair))
    x = jax.random.normal(jax.random.key(1), (3, 8, 8, 1))
    cond = jd.Condition(label=jnp.asarray(LABEL))
    one = made(x, jd.NoiseLevel(1.0, 0.5), cond).x0
    other = made(0.2 * x, jd.NoiseLevel(0.2, 0.1), cond).x0
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
