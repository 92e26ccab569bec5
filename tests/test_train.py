"""The training step: its loss, its flag, its devices, and that it compiles once."""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import jaxdiff as jd
from jaxdiff import evaluation
from jaxdiff.config import Experiment, Sampling
from jaxdiff.data import Latents, Pixels, VAELatents
from jaxdiff.denoisers.parameterizations import AngleLabel, Unscaled
from jaxdiff.evaluation.extractors.extractor import extractor
from jaxdiff.interop.edm2_weights import from_state_dict
from jaxdiff.networks import LevelEstimator, UNet
from jaxdiff.objectives.losses import LevelLikelihood
from jaxdiff.objectives.timesteps import NormalLogSigma
from jaxdiff.optim import EDM2Optimizer, normalized
from jaxdiff.runs import generate, snapshots
from jaxdiff.runs.state import TrainState, ema_variables, run_denoiser
from jaxdiff.runtime import sharding
from jaxdiff.schedules import corrupt
from jaxdiff.train import examiner, initial_state, make_step, require_finite, withhold
from jaxdiff.types import Noised
from tests.states import initial

GOLDEN = Path(__file__).parent / "golden" / "edm2"
TINY = Experiment(
    network=UNet(
        label_dim=10,
        model_channels=8,
        channel_mult=(1,),
        num_blocks=1,
        attn_resolutions=(),
        channels_per_head=8,
        logvar_channels=8,
        dropout=0.1,
    ),
    times=NormalLogSigma(),
    loss=jd.Uncertain(jd.WeightedError(jd.UniformOnNetwork(jd.EDM()))),
    optimizer=EDM2Optimizer(ref_batches=10.0, rampup_images=64.0, stds=(0.1,)),
    sampling=Sampling(std=0.1),
    batch_size=16,
    label_dropout=0.25,
)


@jd.register
class Small(nn.Module):
    """Where any network will do: it is traced and compiled in a tenth of the time."""

    @nn.compact
    def __call__(self, x: Any, c_noise: Any, cond: Any, train: bool = False) -> jd.Output:
        return jd.Output(nn.Dense(x.shape[-1])(x))


PLAIN = dataclasses.replace(
    TINY, network=Small(), loss=jd.WeightedError(jd.UniformOnNetwork(jd.EDM()))
)


@functools.cache
def compiled(devices: int) -> tuple[jax.stages.Wrapped, jax.sharding.Mesh]:
    mesh = sharding.data_mesh(jax.devices()[:devices])
    everywhere = sharding.replicated(mesh)
    return jax.jit(make_step(TINY), donate_argnums=0, out_shardings=everywhere), mesh


def batch(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (16, 8, 8, 1)).astype(np.uint8)
    return {"image": image, "label": rng.integers(0, 10, 16).astype(np.int32)}


def begin(mesh: jax.sharding.Mesh) -> TrainState:
    return jax.device_put(initial(TINY), sharding.replicated(mesh))


@pytest.mark.parametrize("case", ["net_c_micro", "net_a_uncond"])
def test_loss_is_the_reference_s(case: str) -> None:
    """Denoiser, loss term and loss_scale together give EDM2's objective."""
    golden = np.load(GOLDEN / f"{case}.npz")
    config, meta = (json.loads(str(golden[k])) for k in ("config", "meta"))
    state = {
        k.removeprefix("sd/"): golden[k].astype(np.float32)
        for k in golden.files
        if k.startswith("sd/")
    }
    variables = jax.tree.map(jnp.asarray, from_state_dict(state))
    known = {f.name for f in dataclasses.fields(UNet)}
    tuples = {k: tuple(v) if isinstance(v, list) else v for k, v in config.items()}
    net = UNet(**{k: v for k, v in tuples.items() if k in known} | {"dropout": 0.0})
    edm = jd.EDM(sigma_data=meta["sigma_data"])
    x0 = jnp.asarray(golden["train/images"]).transpose(0, 2, 3, 1)
    eps = jnp.asarray(golden["train/noise"]).transpose(0, 2, 3, 1)
    sigma = jnp.asarray(golden["train/sigma"]).reshape(-1, 1, 1, 1)
    at = jd.NoiseLevel(jnp.ones_like(sigma), sigma)
    label = golden["train/labels"] if "train/labels" in golden.files else None
    cond = jd.Condition(label=None if label is None else jnp.asarray(label))
    noised = Noised(x0=x0, eps=eps, x=x0 + sigma * eps, t=sigma, at=at)
    term = jd.Uncertain(jd.WeightedError(jd.UniformOnNetwork(edm)))

    @jax.jit
    def objective(variables: dict[str, Any]) -> Any:
        unit = variables | {"params": normalized(variables["params"])}
        denoised = jd.denoiser(net.apply, unit, edm)(noised.x, at, cond)
        return x0[0].size * jnp.mean(term(denoised, noised))

    expected = golden["train/loss_scalar"]
    np.testing.assert_allclose(objective(variables), expected, rtol=2e-6)


def test_eight_devices_are_as_one() -> None:
    losses = {}
    for devices in (1, 8):
        step, mesh = compiled(devices)
        state, losses[devices] = begin(mesh), []
        for n in range(6):
            state, metrics = step(state, sharding.put_batch(batch(n), mesh))
            losses[devices].append(float(metrics["loss"]))
        assert int(state.step) == 6
    # Float rounding of sums alone: the order of additions differs.
    np.testing.assert_allclose(losses[1], losses[8], rtol=1e-5)


def test_a_batch_in_parts_is_as_one() -> None:
    """No dropout, which draws its masks part by part."""
    states = {}
    for rounds in (1, 4):
        e = dataclasses.replace(PLAIN, accumulation=rounds)
        step, state = jax.jit(make_step(e)), initial(e)
        for n in range(3):
            state, metrics = step(state, batch(n))
        states[rounds] = (float(metrics["loss"]), float(metrics["grad_norm"]), state.params)
    # Float rounding of sums alone: the order of additions differs.
    np.testing.assert_allclose(states[1][:2], states[4][:2], rtol=2e-5)
    chex.assert_trees_all_close(states[1][2], states[4][2], rtol=0, atol=1e-4)


def test_a_step_compiles_once_and_donates_its_state() -> None:
    step, mesh = compiled(1)
    state = begin(mesh)
    state, _ = step(state, sharding.put_batch(batch(0), mesh))
    before = step._cache_size()
    old, params = state, jax.tree.leaves(state.params)[0]
    for n in (1, 2):
        state, _ = step(state, sharding.put_batch(batch(n), mesh))
    assert step._cache_size() == before
    assert params.is_deleted()
    assert old is not state


def test_learning_rate_and_count_are_those_of_the_step() -> None:
    step, mesh = compiled(1)
    state, rates = begin(mesh), []
    for n in range(6):
        state, metrics = step(state, sharding.put_batch(batch(n), mesh))
        rates.append(float(metrics["learning_rate"]))
    # 64 images of ramp-up are four steps of 16; the first step has rate 0.
    np.testing.assert_allclose(rates, [0, 0.0025, 0.005, 0.0075, 0.01, 0.01], rtol=1e-6)
    assert float(TINY.optimizer.schedule(16)(40)) == pytest.approx(0.01 / 2)


def test_every_step_draws_anew_and_repeats_exactly() -> None:
    step, mesh = compiled(1)
    same = sharding.put_batch(batch(0), mesh)
    first, a = step(begin(mesh), same)
    _, b = step(first, same)
    _, again = step(begin(mesh), same)
    assert a["loss"] != b["loss"]
    assert a["loss"] == again["loss"]


def test_the_first_bad_step_is_remembered() -> None:
    step, mesh = compiled(1)
    state, _ = step(begin(mesh), sharding.put_batch(batch(0), mesh))
    require_finite(state)
    spoiled = jax.tree.map(lambda a: a.at[...].set(jnp.nan), state.params)
    state = dataclasses.replace(state, params=spoiled)
    for n in (1, 2):
        state, _ = step(state, sharding.put_batch(batch(n), mesh))
    with pytest.raises(ValueError, match="not finite at step 2;"):
        require_finite(state)


def test_a_bad_loss_alone_is_seen() -> None:
    """Also where the chain would clean the gradient away."""
    infinite = dataclasses.replace(PLAIN)
    object.__setattr__(infinite, "loss_scale", 3e38)  # times 64 elements, past its range
    state, _ = jax.jit(make_step(infinite))(initial(PLAIN), batch(0))
    assert int(state.first_bad) == 0


@pytest.mark.parametrize("value", [jnp.nan, jnp.inf, -jnp.inf])
def test_a_weight_that_becomes_bad_in_the_step_is_seen(value: float) -> None:
    """One alone, of loss and gradients that are finite."""

    class Spoiling(type(PLAIN.optimizer)):
        def transformation(self, *how: int) -> optax.GradientTransformation:
            own = super().transformation(*how)

            def update(*given: Any) -> tuple[Any, Any]:
                updates, state = own.update(*given)
                leaves, tree = jax.tree.flatten(updates)
                leaves[-1] = leaves[-1].ravel().at[-1].set(value).reshape(leaves[-1].shape)
                return jax.tree.unflatten(tree, leaves), state

            return optax.GradientTransformation(own.init, update)

    spoiling = Spoiling(**vars(PLAIN.optimizer))
    experiment = dataclasses.replace(PLAIN)
    object.__setattr__(experiment, "optimizer", spoiling)
    state, metrics = jax.jit(make_step(experiment))(initial(PLAIN), batch(0))
    assert jnp.isfinite(metrics["loss"])
    assert jnp.isfinite(metrics["grad_norm"])
    assert int(state.first_bad) == 0


def test_conditions_are_withheld_as_often_as_asked() -> None:
    label = jnp.tile(jnp.arange(10), 2000)
    both = dataclasses.replace(TINY, noise_dropout=0.1)
    cond = withhold(jax.random.key(0), label, both)
    hidden, untold = np.asarray(cond.label == -1), ~np.asarray(cond.noise)
    error = lambda p: 4 * (p * (1 - p) / label.size) ** 0.5
    assert abs(hidden.mean() - 0.25) < error(0.25)
    assert abs(untold.mean() - 0.1) < error(0.1)
    assert abs((hidden & untold).mean() - 0.025) < error(0.025)
    np.testing.assert_array_equal(cond.label[~hidden], label[~hidden])
    assert withhold(jax.random.key(0), label, TINY).noise is None
    unlabelled = dataclasses.replace(TINY, network=UNet(label_dim=0))
    assert withhold(jax.random.key(0), label, unlabelled) == jd.UNCONDITIONAL


def test_a_tiny_network_learns() -> None:
    """One image, many steps: the denoiser finds it, at levels the training saw."""
    step, mesh = compiled(1)
    state, one = begin(mesh), batch(0)
    one = {k: np.repeat(v[:1], 16, axis=0) for k, v in one.items()}
    placed = sharding.put_batch(one, mesh)
    for _ in range(300):
        state, _ = step(state, placed)
    x0 = jnp.asarray(one["image"], jnp.float32) / 127.5 - 1
    level = jnp.full((16, 1, 1, 1), jd.LogSigma().time(0.0))
    noised = corrupt(jax.random.key(1), x0, level, jd.LogSigma())
    cond = jd.Condition(label=jnp.asarray(one["label"]))

    @jax.jit
    def error(state: TrainState) -> Any:
        denoise = run_denoiser(TINY, ema_variables(TINY, state, 0.1))
        return jnp.mean((denoise(noised.x, noised.at, cond).x0 - x0) ** 2)

    assert error(state) < error(begin(mesh)) / 4


def start_from(folder: Path, **changed: Any) -> None:
    """A run that starts from TINY's averages."""
    state = initial(TINY)
    variables = {"params": state.params, "constants": state.constants}
    snapshot = snapshots.Snapshot(TINY, variables, 0.1, 1, 16)
    path = snapshots.write(folder, snapshot, "float32")
    here = dataclasses.replace(TINY, init_from=str(path), **changed)
    initial_state(here, sharding.data_mesh(jax.devices()[:1]))


GREY = VAELatents(mean=(0.0,), std=(1.0,))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"parameterization": jd.V()}, r"parameterization is EDM\(.*, here V\("),
        ({"parameterization": jd.EDM(label=AngleLabel())}, "here EDM.*AngleLabel"),
        ({"parameterization": jd.Flow()}, r"here Flow\("),
        (
            {"data": Latents("a.npz", 16, GREY)},
            r"data's encoding is Pixels\(.*, here VAELatents\(",
        ),
    ],
)
def test_a_network_that_means_something_else_starts_no_run(
    changed: dict[str, Any], message: str, tmp_path: Path
) -> None:
    """Arrays of one shape, which the new run would read otherwise."""
    with pytest.raises(ValueError, match=f"init_from.*{message}"):
        start_from(tmp_path, **changed)


def test_another_path_or_an_estimator_may_start_from_a_network(tmp_path: Path) -> None:
    start_from(tmp_path, schedule=jd.Cosine())
    network, term = LevelEstimator(TINY.network), LevelLikelihood()
    level = {"network": network, "parameterization": Unscaled(), "loss": term}
    start_from(tmp_path, **level)


def test_a_run_is_scored_by_the_images_that_its_average_draws(tmp_path: Path) -> None:
    """Of the data's labels, by the judge of the data, and the same for the same state."""
    sampling = dataclasses.replace(TINY.sampling, steps=2, images=8)
    settings = {"eval_images": 20, "eval_extractors": ("pixels8",), "sampling": sampling}
    e = dataclasses.replace(TINY, **settings)
    mesh, dataset = sharding.data_mesh(jax.devices()[:2]), e.data.load()
    draw = generate.sampler(e)
    examine = examiner(e, tmp_path, dataset, draw, mesh)
    state = initial(e)
    variables = ema_variables(e, state, e.sampling.std)
    seeds, label = np.arange(20), evaluation.labels_like(dataset, 20)
    images = generate.images(draw, variables, Pixels(), seeds, label, mesh, 20)
    judge = evaluation.judge_of(e.data, [extractor("pixels8")], mesh, tmp_path / "other")
    exact, _ = judge(evaluation.in_memory(images))
    scores = examine(state)
    assert scores.keys() == exact.keys()
    for name, value in exact.items():
        np.testing.assert_allclose(scores[name], value, rtol=1e-3, atol=1e-3, err_msg=name)
    assert examine(state) == scores
    wrong = dataclasses.replace(e, eval_extractors=("none",))
    with pytest.raises(ValueError, match="unknown extractor 'none'"):
        examiner(wrong, tmp_path, dataset, draw, mesh)
