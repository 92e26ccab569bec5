"""Estimators of the noise level: the network, its loss, and starting from another run."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import jaxdiff as jd
from jaxdiff import train
from jaxdiff.config import Experiment, Sampling
from jaxdiff.data import Digits
from jaxdiff.denoisers.parameterizations import Unscaled
from jaxdiff.networks import ADM, LevelEstimator, UNet
from jaxdiff.objectives.losses import LevelLikelihood
from jaxdiff.objectives.timesteps import LogUniformSigma
from jaxdiff.optim import EDM2Optimizer
from jaxdiff.runs import generate, state
from tests.states import initial

UNET = UNet(label_dim=10, model_channels=8, channel_mult=(1,), num_blocks=1)
DENOISER = Experiment(
    data=Digits(split="train"),
    network=UNET.clone(attn_resolutions=(), channels_per_head=8),
    optimizer=EDM2Optimizer(learning_rate=0.01, rampup_images=0.0, stds=(0.1,)),
    sampling=Sampling(steps=2, images=1),
    batch_size=32,
)
ESTIMATOR = dataclasses.replace(
    DENOISER,
    network=LevelEstimator(DENOISER.network),
    times=LogUniformSigma(0.02, 40.0),
    parameterization=Unscaled(),
    loss=LevelLikelihood(),
    sample_every=0,
)


def _noised(sigma: Any) -> jd.Noised:
    at = jd.NoiseLevel(jnp.full_like(sigma, 0.5), jnp.asarray(sigma))
    x = jnp.zeros((len(sigma), 2, 2, 1))
    return jd.Noised(x, x, x, jnp.zeros(len(sigma)), at)


def test_the_loss_is_the_log_density_of_a_normal_law() -> None:
    sigma = jnp.asarray([0.02, 1.0, 40.0]).reshape(-1, 1, 1, 1)
    level = np.asarray([[-1.0, 0.3], [0.5, -0.7], [4.0, 0.0]], np.float32)
    noised = _noised(sigma)
    loss = LevelLikelihood()(jd.Denoised(noised.x0, level=jnp.asarray(level)), noised)
    u = np.log(np.asarray(sigma).ravel() / 0.5)
    law = stats.norm(level[:, 0], np.exp(level[:, 1] / 2))
    np.testing.assert_allclose(loss, -law.logpdf(u) - np.log(2 * np.pi) / 2, rtol=1e-5)


def test_ends_of_paths_have_a_finite_level() -> None:
    at = jd.NoiseLevel(jnp.asarray([1.0, 0.0]), jnp.asarray([0.0, 1.0]))
    noised = dataclasses.replace(_noised(jnp.ones(2)), at=at)
    denoised = jd.Denoised(noised.x0, level=jnp.zeros((2, 2)))
    np.testing.assert_allclose(LevelLikelihood()(denoised, noised), 50.0)


def test_a_denoiser_has_no_level_to_train() -> None:
    noised = _noised(jnp.ones((1, 1, 1, 1)))
    with pytest.raises(ValueError, match="wrap it"):
        LevelLikelihood()(jd.Denoised(noised.x0), noised)


@pytest.mark.parametrize("backbone", [DENOISER.network, ADM(8, 8, (1,), 1, (), 8)])
def test_an_estimator_reads_x_and_its_label_alone(backbone: Any) -> None:
    net = LevelEstimator(backbone)
    x = jax.random.normal(jax.random.key(1), (4, 8, 8, 1)) * 3
    label = jd.Condition(label=jnp.arange(4) % backbone.label_dim)
    variables = jax.jit(net.init)(jax.random.key(0), x, jnp.zeros(()), label)
    # gains and last layers start at 0, where labels have no way to the output
    variables["params"] = jax.tree.map(lambda a: a + 0.1, variables["params"])
    variables["params"]["level_gain"] = jnp.full(2, 10.0)
    estimate = jax.jit(lambda x, c, cond: net.apply(variables, x, c, cond).level)
    level = estimate(x, jnp.zeros(()), label)
    assert level.shape == (4, 2)
    assert np.ptp(level[:, 0]) > 1e-3
    partly = dataclasses.replace(label, noise=jnp.asarray([True, False, True, False]))
    np.testing.assert_array_equal(estimate(x, jnp.full((4,), 1.7), partly), level)
    assert np.abs(estimate(x, jnp.zeros(()), jd.Condition()) - level).max() > 1e-4
    # the scale of x is seen, though the backbone's input is of unit mean square
    assert np.abs(estimate(2 * x, jnp.zeros(()), label) - level).max() > 1e-4


def test_the_input_of_an_estimator_says_nothing_of_the_level_but_x() -> None:
    x = jnp.ones((1, 1))
    for sigma in (0.0, 0.3, 80.0):
        scale = Unscaled()(jd.NoiseLevel(jnp.float32(0.5), jnp.float32(sigma)))
        np.testing.assert_array_equal(scale.c_in * x, x)
        assert scale.c_noise == 0


def test_uncertainty_learns_nothing_from_images_without_a_level() -> None:
    net, x = DENOISER.network, jnp.ones((2, 8, 8, 1))
    variables = jax.jit(net.init)(jax.random.key(0), x, jnp.zeros(()), jd.UNCONDITIONAL)
    blind = jd.Condition(noise=jnp.asarray([True, False]))

    def u(params: Any, image: int) -> Any:
        out = net.apply({**variables, "params": params}, x, jnp.ones(2), blind)
        return out.uncertainty[image]

    both = jax.jit(jax.value_and_grad(u))
    (u0, slope0), (u1, slope1) = (both(variables["params"], i) for i in (0, 1))
    assert np.abs(slope0["logvar_linear"]["weight"]).max() > 0
    assert np.abs(slope1["logvar_linear"]["weight"]).max() == 0
    assert u0 == u1 != 0


def test_an_estimator_starts_from_a_denoiser_s_weights_and_learns() -> None:
    before = initial(dataclasses.replace(DENOISER, seed=5))
    variables = {"params": before.params, "constants": before.constants}
    start = initial(ESTIMATOR, variables)
    for name, array in before.constants["emb_fourier"].items():
        np.testing.assert_array_equal(start.constants["emb_fourier"][name], array)
    kernel = lambda s: s.params["enc"]["8x8_conv"]["weight"]
    # normalised twice: unit(w) divides by rms + 1e-4
    np.testing.assert_allclose(kernel(start), kernel(before), rtol=2e-4)
    assert np.abs(kernel(initial(ESTIMATOR)) - kernel(before)).max() > 0.1
    images = Digits(split="train").load().source
    batch = {"image": images.image[:32], "label": images.label[:32]}
    batch = jax.tree.map(jnp.asarray, batch)
    step, losses = jax.jit(train.make_step(ESTIMATOR)), []
    for _ in range(60):
        start, metrics = step(start, batch)
        losses.append(float(metrics["loss"]))
    # (ln v + 1) / 2 of the law of u itself, uniform over 7.6 nats, is 1.29
    assert np.mean(losses[-10:]) < 0.9


def test_weights_that_fit_nowhere_are_refused() -> None:
    wide = dataclasses.replace(DENOISER, network=DENOISER.network.clone(model_channels=16))
    shapes = jax.eval_shape(lambda: state.init_state(wide)).params
    larger = jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), shapes)
    with pytest.raises(ValueError, match=r"is \(3, 3, 32, 16\), its network wants"):
        initial(DENOISER, {"params": larger})
    with pytest.raises(ValueError, match="an array that its network does not have"):
        initial(DENOISER, {"params": {"other": jnp.zeros(1)}})


def test_an_estimator_draws_no_images() -> None:
    with pytest.raises(ValueError, match="estimates the noise level"):
        generate.sampler(ESTIMATOR)
