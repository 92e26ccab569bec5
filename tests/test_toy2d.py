"""The 2-D toy: its distribution, its network and its sampler against reference numbers."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdiff as jd
from examples import toy2d
from examples.toy2d import learning
from examples.toy2d.energy_mlp import EnergyMLP
from jaxdiff.optim import averages, normalized
from jaxdiff.optim.ema_profiles import std_to_exponent
from jaxdiff.types import Denoised, Noised, NoiseLevel
from tests.toys import GOLDEN

TOY = np.load(GOLDEN / "edm2" / "toy.npz")
CLASSES = ("A", "B", "AB")
CONFIG = json.loads(str(TOY["model/config"]))
NETWORK = EnergyMLP(features=CONFIG["hidden_dim"], layers=CONFIG["num_layers"])
LAYERS = range(CONFIG["num_layers"] + 1)


def close(actual: Any, expected: np.ndarray, rtol: float) -> None:
    """Within rtol of the largest entry: what float32 sums are good for."""
    np.testing.assert_allclose(actual, expected, rtol=0, atol=rtol * np.abs(expected).max())


def tree(prefix: str) -> dict[str, Any]:
    """The reference's linear layers [out, in] as ours [in, out]."""
    weight = lambda i: {"weight": jnp.asarray(TOY[f"{prefix}/layers.{2 * i}.weight"].T)}
    gain = jnp.asarray(TOY[f"{prefix}/gain"])
    return {"params": {"gain": gain, **{f"layer{i}": weight(i) for i in LAYERS}}}


def edm(sigma: np.ndarray) -> NoiseLevel:
    """Levels [B, 1] on the path alpha = 1."""
    return NoiseLevel(jnp.ones((len(sigma), 1)), jnp.asarray(sigma)[:, None])


def points(group: str) -> tuple[jax.Array, NoiseLevel]:
    return jnp.asarray(TOY[f"{group}/x"]), edm(TOY[f"{group}/sigma"])


@pytest.mark.parametrize("classes", CLASSES)
def test_the_tree_is_the_published_one(classes: str) -> None:
    data = toy2d.fractal(classes)
    arrays = data.weight, data.mean, data.covariance
    for name, array in zip(("phi", "mu", "Sigma"), arrays, strict=True):
        assert array.dtype == np.float32
        # one rounding to float32 on either side
        np.testing.assert_allclose(array, TOY[f"gt/{classes}/{name}"], rtol=1.2e-7)


def test_mean_and_spread_are_what_the_network_is_scaled_for() -> None:
    data = toy2d.fractal("AB")
    mean = data.weight @ data.mean
    inside = np.einsum("k,kii->i", data.weight, data.covariance)
    spread = np.sqrt(data.weight @ (data.mean - mean) ** 2 + inside)
    np.testing.assert_allclose(mean, 0, atol=1e-3)
    np.testing.assert_allclose(spread, EnergyMLP().sigma_data, rtol=5e-3)


def test_a_class_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match='classes are "A", "B" or "AB", got \'C\''):
        toy2d.fractal("C")


@pytest.mark.parametrize("classes", CLASSES)
def test_density_and_score_are_the_reference_s(classes: str) -> None:
    data, (x, at) = toy2d.fractal(classes), points(f"gt/{classes}")
    close(data.log_density(x, at), TOY[f"gt/{classes}/logp"], 1e-6)
    close(data.score(x, at), TOY[f"gt/{classes}/score"], 2e-6)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_density_score_and_denoiser_agree(alpha: float, x64: None) -> None:
    """score = grad ln p, and alpha D = x + sigma^2 score (Tweedie), at scalar levels."""
    data = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), toy2d.fractal("A"))
    x = jax.random.normal(jax.random.key(0), (70, 2), jnp.float64)  # more than one block
    for sigma in (0.05, 1.0):
        at = NoiseLevel(alpha, sigma)
        gradient = jax.grad(lambda x, at=at: data.log_density(x, at).sum())(x)
        score = data.score(x, at)
        np.testing.assert_allclose(score, gradient, rtol=1e-9, atol=1e-9)
        tweedie = x + sigma**2 * score
        np.testing.assert_allclose(alpha * data(x, at).x0, tweedie, rtol=0, atol=1e-12)


def test_the_denoiser_at_pure_noise_is_the_mean() -> None:
    data = toy2d.fractal("A")
    x0 = data(jnp.ones((3, 2)), NoiseLevel(0.0, 1.0)).x0
    np.testing.assert_allclose(x0, np.tile(data.weight @ data.mean, (3, 1)), rtol=1e-5)


def test_the_density_integrates_to_one() -> None:
    at, side = NoiseLevel(0.5, 0.1), np.linspace(-1.5, 1.5, 61)
    grid = jnp.asarray(np.stack(np.meshgrid(side, side), -1).reshape(-1, 2), jnp.float32)
    density = np.exp(toy2d.fractal("A").log_density(grid, at))
    # Gaussians of sigma >= 0.1 on a grid of 0.05: the trapezoid rule is exact to 1e-8
    np.testing.assert_allclose(density.sum() * 0.05**2, 1, rtol=1e-5)


def test_points_are_drawn_from_the_mixture() -> None:
    data, count = toy2d.fractal("A"), 40_000
    x = np.asarray(data.draw(jax.random.key(0), count), np.float64)
    mean = data.weight @ data.mean
    spread = data.mean - mean
    covariance = np.einsum("k,ki,kj->ij", data.weight, spread, spread)
    covariance += np.einsum("k,kij->ij", data.weight, data.covariance)
    error = np.sqrt(np.diag(covariance) / count)
    assert np.all(np.abs(x.mean(0) - mean) < 4 * error)
    np.testing.assert_allclose(np.cov(x.T), covariance, atol=4 * 0.09 / np.sqrt(count))
    # what the covariance of so many branches does not see: the width of a branch
    at = NoiseLevel(1.0, 0.0)
    log_p = np.asarray(data.log_density(jnp.asarray(x[:4000], jnp.float32), at))
    density = np.exp(np.asarray(data.log_density(jnp.asarray(data.mean), at)))
    assert log_p.min() > np.log(density.max()) - 40
    eps = np.random.default_rng(0).standard_normal((4000, 2))
    k = np.random.default_rng(1).choice(
        len(data.weight), 4000, p=data.weight / data.weight.sum()
    )
    root = np.linalg.cholesky(data.covariance)[k]
    other = data.mean[k] + np.einsum("bij,bj->bi", root, eps)
    other_log_p = np.asarray(data.log_density(jnp.asarray(other, jnp.float32), at))
    gap = abs(log_p.mean() - other_log_p.mean())
    assert gap < 4 * np.sqrt(2 / 4000) * other_log_p.std()


def test_the_network_s_energy_and_score_are_the_reference_s() -> None:
    params, (x, at) = tree("model/sd"), points("model")
    y = x / jnp.sqrt(0.25 + at.sigma**2)
    energy = NETWORK.apply(params, y, jnp.log(at.sigma) / 4, method="energy")
    close(energy / at.sigma[:, 0] - (y**2).sum(-1) / 2, TOY["model/G"], 5e-6)
    x0 = toy2d.learned(NETWORK, params)(x, at).x0
    close((x0 - x) / at.sigma**2, TOY["model/score"], 5e-6)


def test_an_untrained_network_is_the_denoiser_of_a_gaussian() -> None:
    x, at = points("model")
    params = jax.jit(NETWORK.init)(jax.random.key(0), x, jnp.zeros(()))
    for level in (at, NoiseLevel(jnp.float32(1.0), jnp.float32(0.3))):
        x0 = toy2d.learned(NETWORK, params)(x, level).x0
        exact = jd.gaussian_denoiser(0.0, 0.5)(x, level).x0
        np.testing.assert_allclose(x0, exact, rtol=2e-6)


def test_one_training_step_is_the_reference_s() -> None:
    """Normalised weights, the loss against the exact score, the gradient of its mean."""
    data, params, (x, at) = (
        toy2d.fractal("A"),
        normalized(tree("model/sd")),
        points("model"),
    )
    after = tree("model/train_after")["params"]
    jax.tree.map(lambda a, b: close(a, b, 2e-7), params["params"], after)
    noised = Noised(x0=x, eps=x, x=x, t=at.sigma, at=at)  # x0 is not looked at
    loss = lambda params: toy2d.loss(NETWORK, params, data, noised)
    close(loss(params), TOY["model/train_loss"], 5e-6)
    gradient = jax.grad(lambda params: loss(params).mean())(params)["params"]
    expected = tree("model/train_grad")["params"]
    jax.tree.map(lambda a, b: close(a, b, 5e-6), gradient, expected)


def test_trajectories_are_the_reference_s() -> None:
    a, ab = toy2d.fractal("A"), toy2d.fractal("AB")
    x, steps = jnp.asarray(TOY["sample/x_init"]), int(TOY["sample/num_steps"])
    close(toy2d.follow(a, x, steps), TOY["sample/traj_gt"], 2e-6)
    args = json.loads(str(TOY["sample/guided_args"]))
    assert (args["net"], args["gnet"]) == ("gt A", "gt AB")
    guided = jd.guide(a, (ab, args["guidance"] - 1))  # its weight is the whole scale
    close(toy2d.follow(guided, x, steps), TOY["sample/traj_guided"], 2e-6)


def test_sampling_starts_at_the_distribution_s_own_noisy_form() -> None:
    """Mean and variance of p(x; 5), which is not N(0, 25 I)."""
    data, count = toy2d.fractal("A"), 200_000
    x = np.asarray(toy2d.start(data, jax.random.key(0), count), np.float64)
    mean = data.weight @ data.mean
    assert np.abs(mean).min() > 8 * 5 / np.sqrt(count)  # so the next line can fail
    np.testing.assert_allclose(x.mean(0), mean, atol=4 * 5.1 / np.sqrt(count))
    np.testing.assert_allclose(x.var(0), 25, rtol=0.02)


def test_a_guidance_interval_is_decided_where_steps_start() -> None:
    """One step within: the others are the unguided ones from where that step ended."""
    a, ab = toy2d.fractal("A"), toy2d.fractal("AB")
    x, levels = jnp.asarray(TOY["sample/x_init"]), learning.GRID(None, 12)
    interval = jd.guidance.Interval.of_steps(1.0, levels, first=3, last=3)
    states = toy2d.follow(jd.guide(a, (ab, interval)), x, 12)
    close(states[:4], TOY["sample/traj_gt"][:4], 2e-6)
    row = jax.tree.map(lambda v: v[3], jd.Heun().init(x, levels)[1])
    for w, same in ((1.0, True), (0.0, False)):
        denoise = jd.guide(a, (ab, w))
        after, *_ = jd.Heun().step(denoise, states[3], (), row, jnp.zeros)
        assert np.allclose(states[4], after, rtol=0, atol=1e-5) == same


def test_the_optimiser_is_the_published_one() -> None:
    rate = learning.OPTIMIZER.schedule(4096)
    for step, expected in (
        (0, 0.01),
        (512, 0.01),
        (2048, 0.005),
        (4095, 0.01 / np.sqrt(4095 / 512)),
    ):
        np.testing.assert_allclose(rate(step), expected, rtol=1e-6)
    assert (learning.OPTIMIZER.b1, learning.OPTIMIZER.b2) == (0.9, 0.99)
    assert learning.OPTIMIZER.stds == (0.010,)


def test_training_draws_the_published_law_and_returns_the_average(monkeypatch: Any) -> None:
    """64 steps by hand: the levels drawn, what is minimised, and what comes back."""
    seen: list[Any] = []
    exact = toy2d.Mixture.__call__

    def spy(self: Any, x: Any, at: NoiseLevel, cond: Any = None) -> Denoised:
        jax.debug.callback(
            lambda s, x: seen.append((np.asarray(s), np.asarray(x))), at.sigma, x
        )
        return exact(self, x, at)

    monkeypatch.setattr(toy2d.Mixture, "__call__", spy)
    data, network = toy2d.fractal("A"), EnergyMLP(features=8, layers=1)
    variables = toy2d.train(data, network, 64, jax.random.key(0), batch=64)
    monkeypatch.undo()
    jax.effects_barrier()
    assert len(seen) == 64

    log_sigma = np.log(np.concatenate([s for s, _ in seen]))
    assert abs(log_sigma.mean() + 2.3) < 4 * 1.5 / 64
    assert abs(log_sigma.std() - 1.5) < 4 * 1.5 / 64 / np.sqrt(2)
    score = [
        np.asarray(toy2d.fractal("A").score(jnp.asarray(x), edm(s[:, 0]))) for s, x in seen
    ]
    noise = np.concatenate(
        [-(s * g).ravel()[:64] for (s, _), g in zip(seen, score, strict=True)]
    )
    # one key for both would give both the same normal numbers, in order
    assert abs(np.corrcoef(log_sigma[:, 0], noise)[0, 1]) < 4 / 64

    first, _ = jax.random.split(jax.random.key(0))
    params = jax.jit(network.init)(first, jnp.zeros((1, 2)), jnp.zeros(()))
    params, tx = normalized(params), learning.OPTIMIZER.transformation(64)
    state, history = tx.init(params), []

    @jax.jit
    def step(params: Any, state: Any, x: Any, sigma: Any) -> Any:
        level = NoiseLevel(jnp.ones_like(sigma), sigma)
        score = data.score(x, level)

        def mean(params: Any) -> Any:
            learned = (toy2d.learned(network, params)(x, level).x0 - x) / sigma**2
            return jnp.mean(sigma**2 * (score - learned) ** 2)

        updates, state = tx.update(jax.grad(mean)(params), state, params)
        return optax.apply_updates(params, updates), state

    for sigma, x in seen:
        params, state = step(params, state, x, sigma)
        history.append(float(params["params"]["gain"]))
    # the average of a power profile, from its definition
    average, power = history[0], std_to_exponent(0.010) + 1
    for t, gain in enumerate(history[1:], 2):
        beta = (1 - 1 / t) ** power
        average = beta * average + (1 - beta) * gain
    gain = float(variables["params"]["gain"])
    assert gain != 0
    np.testing.assert_allclose(
        float(averages(state)[0]["params"]["gain"]), average, rtol=1e-4
    )
    np.testing.assert_allclose(gain, average, rtol=1e-3)  # 64 steps of Adam apart


def test_training_learns() -> None:
    """After 128 steps the error is a fraction of what the best Gaussian leaves."""
    data, network = toy2d.fractal("A"), EnergyMLP(features=16, layers=2)
    trained = toy2d.train(data, network, 128, jax.random.key(0), batch=64)
    x0 = data.draw(jax.random.key(1), 512)
    noised = jd.corrupt(jax.random.key(2), x0, jnp.full((512, 1), 0.6), learning.SCHEDULE)
    exact = data(noised.x, noised.at).x0
    error = lambda x0: float(jnp.mean((x0 - exact) ** 2))
    gaussian = jd.gaussian_denoiser(x0.mean(0), 0.4)(noised.x, noised.at).x0
    assert error(toy2d.learned(network, trained)(noised.x, noised.at).x0) < 0.5 * error(
        gaussian
    )


def test_steps_come_in_chunks() -> None:
    with pytest.raises(ValueError, match="64 at a time: use a multiple, not 100"):
        toy2d.train(toy2d.fractal("A"), NETWORK, 100, jax.random.key(0))
