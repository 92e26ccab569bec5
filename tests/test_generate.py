"""Guided sampling of networks: by themselves, by another, within an interval."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.data import Pixels
from jaxdiff.denoisers.parameterizations import Unscaled
from jaxdiff.networks import LevelEstimator
from jaxdiff.objectives.losses import LevelLikelihood
from jaxdiff.runs import edits, generate, guided_denoiser, restoring, snapshots
from jaxdiff.runs.generate import image_keys
from jaxdiff.runs.guided_denoiser import Guides
from jaxdiff.runs.state import run_denoiser
from jaxdiff.runtime import sharding
from jaxdiff.sampling import editing
from jaxdiff.sampling.grids import Karras, Uniform
from jaxdiff.sampling.guidance import Interval, Projected, Rescaled
from tests.states import initial
from tests.test_train import TINY

SAMPLED = dataclasses.replace(
    TINY, sampling=dataclasses.replace(TINY.sampling, steps=4, grid=Karras())
)
KEYS, LABEL = image_keys(np.arange(3)), np.arange(3, dtype=np.int32)
TOLERANCE = 1e-4
"""Rounding in float32 of steps that begin at sigma = 80."""


@functools.cache
def variables(seed: int) -> dict[str, Any]:
    """Of a network whose output is not zero."""
    state = initial(dataclasses.replace(TINY, seed=seed))
    loud = lambda p: p + 0.5 if p.ndim == 0 else p
    return {"params": jax.tree.map(loud, state.params), "constants": state.constants}


@functools.cache
def drawn(**changed: Any) -> np.ndarray:
    """What the network of seed 0 draws."""
    return np.asarray(generate.sampler(sampled_by(**changed))(variables(0), KEYS, LABEL))


def sampled_by(**changed: Any) -> jd.Experiment:
    """The experiment with other settings of sampling."""
    sampling = dataclasses.replace(SAMPLED.sampling, **changed)
    return dataclasses.replace(SAMPLED, sampling=sampling)


def test_a_guide_is_another_network() -> None:
    main, other = variables(0), variables(1)
    draw = generate.sampler(SAMPLED, Guides(SAMPLED, 0.7))
    d, g = (run_denoiser(SAMPLED, v) for v in (main, other))
    levels = SAMPLED.sampling.grid(SAMPLED.schedule, 4)
    cond = jd.Condition(label=jnp.asarray(LABEL))
    exact = jax.jit(
        lambda keys: jd.sample(
            jd.guide(d, (g, 0.7)), cond, keys, (8, 8, 1), levels, jd.Heun()
        )
    )(KEYS)
    np.testing.assert_allclose(draw((main, other), KEYS, LABEL), exact, atol=TOLERANCE)
    unguided = drawn()
    np.testing.assert_allclose(draw((main, main), KEYS, LABEL), unguided, atol=TOLERANCE)
    assert np.abs(exact - unguided).max() > 1e-2


def test_labels_and_noise_levels_are_withheld_as_the_experiment_says() -> None:
    """All of sampling's guidance against the verbs, composed by hand."""
    main, e = variables(0), dataclasses.replace(SAMPLED, noise_dropout=0.1)
    rule = Rescaled(Projected(2.5), 0.7)
    settings = {"guidance": 0.7, "noise_guidance": 0.4, "noise_interval": (0.0, 9.0)}
    settings |= {"rule": rule, "threshold": 0.9}
    e = dataclasses.replace(e, sampling=dataclasses.replace(e.sampling, **settings))
    drawn = generate.sampler(e)(main, KEYS, LABEL)

    def by_hand(keys: Any, w: float, aware: float) -> Any:
        d, blind = run_denoiser(e, main), Interval(aware, 0.0, 9.0)
        weaker = (jd.without(d, "label"), w), (jd.without(d, "noise"), blind)
        guided = dataclasses.replace(jd.guide(d, *weaker), rule=rule)
        cond = jd.Condition(label=jnp.asarray(LABEL))
        levels = e.sampling.grid(e.schedule, 4)
        guided = jd.thresholded(guided, 0.9)
        return jd.sample(guided, cond, keys, (8, 8, 1), levels, jd.Heun())

    exact = jax.jit(by_hand)
    np.testing.assert_allclose(drawn, exact(KEYS, 0.7, 0.4), atol=TOLERANCE)
    for other in ((0.0, 0.4), (0.7, 0.0)):
        assert np.abs(drawn - exact(KEYS, *other)).max() > 1e-3


@pytest.mark.parametrize("scale", [0.6, 0.0])
def test_cfg_plus_plus_is_its_step(scale: float) -> None:
    """x' = alpha' D_scale + sigma' eps_unlabelled, by hand; scale 0 reads no label."""
    main = variables(0)
    images = drawn(guidance=scale, plus_plus=True, solver=jd.Euler())
    d, levels = run_denoiser(SAMPLED, main), SAMPLED.sampling.grid(SAMPLED.schedule, 4)
    cond = jd.Condition(label=jnp.asarray(LABEL))
    told, untold = (jax.jit(one) for one in (d, jd.without(d, "label")))
    x = levels.sigma[0] * jd.sampling.normal(KEYS, (8, 8, 1))
    for i in range(4):
        at, to = levels[i], levels[i + 1]
        c, u = told(x, at, cond).x0, untold(x, at, cond).x0
        x = to.alpha * (u + scale * (c - u)) + to.sigma * (x - at.alpha * u) / at.sigma
    np.testing.assert_allclose(images, x, atol=TOLERANCE)


def test_cfg_plus_plus_needs_a_network_that_was_not_always_told() -> None:
    sampling = dataclasses.replace(SAMPLED.sampling, plus_plus=True, solver=jd.Euler())
    conditional = dataclasses.replace(SAMPLED, sampling=sampling, label_dropout=0.0)
    with pytest.raises(ValueError, match=r"plus_plus .* label_dropout 0"):
        guided_denoiser.guided(conditional)
    guided_denoiser.guided(conditional, guide=SAMPLED)


ESTIMATES = dataclasses.replace(
    SAMPLED,
    network=LevelEstimator(SAMPLED.network),
    parameterization=Unscaled(),
    loss=LevelLikelihood(),
)


def test_an_estimator_guides_instead_of_the_blind_network() -> None:
    main, e = variables(0), ESTIMATES
    estimator = initial(e, main)
    estimator = {"params": estimator.params, "constants": estimator.constants}
    estimator["params"]["level_gain"] = jnp.ones(2)

    def draw(w: float) -> np.ndarray:
        program = generate.sampler(SAMPLED, Guides(estimator=e, noise_guidance=w))
        return np.asarray(program((main, estimator), KEYS, LABEL))

    np.testing.assert_allclose(draw(0.0), drawn(), atol=TOLERANCE)
    assert np.abs(draw(0.5) - drawn()).max() > 1e-3
    with pytest.raises(ValueError, match="the estimator says x0"):
        generate.sampler(SAMPLED, Guides(estimator=SAMPLED))


@pytest.mark.parametrize(
    ("grid", "path", "guided_by", "accepted"),
    [
        (Karras(), jd.LogSigma(), jd.Cosine(), False),
        (Karras(), jd.Cosine(), jd.Cosine(), False),
        (Uniform(), jd.Cosine(), jd.LogSigma(), False),
        (Uniform(), jd.RectifiedFlow(), jd.Cosine(), False),
        (Karras(), jd.Cosine(), jd.LogSigma(0.01, 50.0), True),
        (Uniform(), jd.Cosine(), jd.Cosine(), True),
        (Uniform(), jd.RectifiedFlow(), jd.RectifiedFlow(), True),
    ],
)
def test_an_estimator_guides_on_its_own_path(
    grid: Any, path: Any, guided_by: Any, accepted: bool
) -> None:
    """A network samples on any path, but an estimator knows the states of its own."""
    sampling = dataclasses.replace(SAMPLED.sampling, grid=grid)
    e = dataclasses.replace(SAMPLED, sampling=sampling, schedule=path)
    estimator = dataclasses.replace(ESTIMATES, schedule=guided_by)
    if accepted:
        guided_denoiser.guided(e, estimator=estimator)
        return
    with pytest.raises(ValueError, match=r"estimator was trained on .* sampling.grid"):
        guided_denoiser.guided(e, estimator=estimator)
    none = dataclasses.replace(sampling, noise_interval=(1e3, 1e4))
    guided_denoiser.guided(dataclasses.replace(e, sampling=none), estimator=estimator)


def test_noise_awareness_needs_a_network_that_was_not_always_told() -> None:
    sampling = dataclasses.replace(SAMPLED.sampling, noise_guidance=0.5)
    with pytest.raises(ValueError, match="noise_dropout is 0"):
        dataclasses.replace(SAMPLED, sampling=sampling)
    x0 = dataclasses.replace(SAMPLED, parameterization=jd.X0(), noise_dropout=0.1)
    with pytest.raises(ValueError, match="wrong sign"):
        dataclasses.replace(x0, sampling=sampling)


def test_an_interval_guides_the_steps_that_start_in_it() -> None:
    main = variables(0)
    everywhere, nowhere = drawn(guidance=2.0), drawn()
    within = lambda *interval: drawn(guidance=2.0, interval=interval)
    np.testing.assert_allclose(within(0.0, 80.0), everywhere, atol=TOLERANCE)
    np.testing.assert_allclose(within(80.0, 99.0), nowhere, atol=TOLERANCE)
    levels = SAMPLED.sampling.grid(SAMPLED.schedule, 4)
    d = run_denoiser(SAMPLED, main)
    interval = Interval.of_steps(2.0, levels, 1, 2)
    guided = jd.guide(d, (jd.without(d, "label"), interval))
    cond = jd.Condition(label=jnp.asarray(LABEL))
    exact = jax.jit(
        lambda keys: jd.sample(guided, cond, keys, (8, 8, 1), levels, jd.Heun())
    )(KEYS)
    np.testing.assert_allclose(within(interval.low, interval.high), exact, atol=TOLERANCE)


def test_a_snapshot_is_restored_alone(tmp_path: Path) -> None:
    main = jax.device_get(variables(0))
    taken = snapshots.Snapshot(SAMPLED, main, 0.13, 40, 640)
    path = snapshots.write(tmp_path / "run" / snapshots.POSTHOC, taken, "float32")
    by_file, by_folder = (
        restoring.restore(path),
        restoring.restore(tmp_path / "run", 0.13),
    )
    draw = generate.sampler(SAMPLED)
    for run in (by_file, by_folder):
        assert (run.step, run.experiment) == (40, SAMPLED)
        images = draw(jax.device_get(run.variables), KEYS, LABEL)
        np.testing.assert_array_equal(images, draw(main, KEYS, LABEL))
    with pytest.raises(FileNotFoundError, match="no such snapshot"):
        restoring.restore(tmp_path / "run", 0.2)
    assert restoring.restore(path, 0.13, 40).step == 40
    with pytest.raises(ValueError, match=r"average of std 0.13, not 0.2"):
        restoring.restore(path, 0.2)
    with pytest.raises(ValueError, match="of step 40, not 39"):
        restoring.restore(path, step=39)


def test_an_image_depends_on_its_seed_alone() -> None:
    main, mesh = variables(0), sharding.data_mesh(jax.devices()[:1])
    draw = generate.sampler(SAMPLED)
    args = (draw, main, Pixels(), np.arange(3), LABEL, mesh)
    whole, split = generate.images(*args, 3), generate.images(*args, 2)
    assert whole.dtype == np.uint8
    np.testing.assert_allclose(whole.astype(int), split.astype(int), atol=1)


PICTURE = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1), np.uint8)
X0 = jnp.asarray(PICTURE / np.float32(127.5) - 1)
KNOWN = np.broadcast_to((np.arange(8) < 4)[:, None, None], PICTURE.shape)


def test_an_edit_starts_from_the_image_at_its_level() -> None:
    main = variables(0)
    levels = SAMPLED.sampling.grid(SAMPLED.schedule, 4)
    denoise, cond = run_denoiser(SAMPLED, main), jd.Condition(label=jnp.asarray(LABEL))
    options = levels, 0.5, jd.Heun()
    exact = jax.jit(lambda k: editing.image_to_image(denoise, cond, k, X0, *options))(KEYS)
    edited = edits.editor(SAMPLED, 0.5)(main, KEYS, LABEL, X0, None)
    np.testing.assert_allclose(edited, exact, atol=TOLERANCE)
    still = edits.editor(SAMPLED, 0.0)(main, KEYS, LABEL, X0, None)
    np.testing.assert_array_equal(still, X0)
    drawn_anew = edits.editor(SAMPLED, 1.0)(main, KEYS, LABEL, X0, None)
    np.testing.assert_allclose(drawn_anew, drawn(), atol=TOLERANCE)


def test_what_is_known_is_kept_and_the_rest_drawn() -> None:
    main, mesh = variables(0), sharding.data_mesh(jax.devices()[:1])
    draw = edits.editor(SAMPLED, resampling=(1, 2))
    images = lambda batch, x0=X0: generate.images(
        *(draw, main, Pixels(), np.arange(3), LABEL, mesh, batch),
        more=(np.asarray(x0), KNOWN),
    )
    whole, split = images(3), images(2)
    np.testing.assert_array_equal(whole[KNOWN], PICTURE[KNOWN])
    np.testing.assert_allclose(whole.astype(int), split.astype(int), atol=1)
    unseen = images(
        3, jnp.where(KNOWN, X0, -X0)
    )  # the part that is drawn anew says nothing
    np.testing.assert_array_equal(unseen, whole)
    once = edits.editor(SAMPLED)(main, KEYS, LABEL, X0, KNOWN)
    assert np.abs(Pixels().decode(np.asarray(once)).astype(int) - whole).max() > 2
