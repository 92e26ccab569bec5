"""The noise shift of a run: its sampler, watched, where all is known; and its command."""

import dataclasses
import itertools
import json
import shlex
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import jaxdiff as jd
from jaxdiff.config import Experiment, Sampling
from jaxdiff.config.expressions import parse
from jaxdiff.data import Digits
from jaxdiff.data.batches import Dataset, Memory
from jaxdiff.denoisers.parameterizations import Unscaled
from jaxdiff.evaluation import noise_shift
from jaxdiff.evaluation.noise_shift import of_run
from jaxdiff.networks import LevelEstimator, UNet
from jaxdiff.runs import snapshots
from jaxdiff.runtime import sharding
from jaxdiff.sampling.grids import Karras
from jaxdiff.types import Output, Solver
from jaxdiff.types.protocols import Network, implements
from tests.cases.commands import run
from tests.linear import Linear
from tests.states import initial

STD, GAIN, W, WITHIN = 0.2, 0.3, 2.0, (0.0, 5.0)
GRID = Karras(sigma_min=0.2, sigma_max=20.0)


@implements(Network)
class Zero(nn.Module):
    """F = 0, or GAIN x where the level is withheld: D = c_skip x, exact for N(0, STD^2)."""

    label_dim: int = 0
    dtype: str = "float32"

    def __call__(self, x: Any, c_noise: Any, cond: Any, train: bool = False) -> Output:
        if cond.noise is None:
            return Output(jnp.zeros_like(x))
        return Output(jnp.where(cond.noise[:, None, None, None], 0.0, GAIN * x))


@implements(Network)
class Rms(nn.Module):
    """ln of the noise's standard deviation in x, for data N(0, STD^2)."""

    label_dim: int = 0
    dtype: str = "float32"

    def __call__(self, x: Any, c_noise: Any, cond: Any, train: bool = False) -> Output:
        noise = jnp.mean(x**2, axis=(1, 2, 3)) - STD**2
        mean = jnp.log(jnp.maximum(noise, 1e-6)) / 2
        return Output(x, level=jnp.stack([mean, mean], axis=-1))


EXACT = Experiment(
    network=Zero(),
    parameterization=jd.EDM(sigma_data=STD),
    loss=jd.WeightedError(jd.UniformOnNetwork(jd.EDM(sigma_data=STD))),
    sampling=Sampling(grid=GRID, steps=8, solver=jd.Euler()),
    noise_dropout=0.1,
)
SAYS = dataclasses.replace(EXACT, network=Rms(), parameterization=Unscaled())


def variances(within: tuple[float, float] | None) -> Any:
    """E x^2 at the inner levels: Euler multiplies x by r + (1 - r) a each step."""
    sigma = np.asarray(GRID(EXACT.schedule, 8).sigma, np.float64)
    v, variance = sigma[0] ** 2, []
    for at, to in itertools.pairwise(sigma[:-1]):
        a = STD**2 / (STD**2 + at**2)
        if within and within[0] < at <= within[1]:
            a -= W * GAIN * at * STD / (STD**2 + at**2)
        v *= (to / at + (1 - to / at) * a) ** 2
        variance.append(v)
    return sigma[1:-1], np.array(variance)


def gaussian_digits() -> Dataset:
    """Pixels that stand for N(0, STD^2) in [-1, 1]: five standard deviations fit in."""
    x = STD * np.random.default_rng(0).normal(size=(400, 8, 8, 1))
    grey = np.clip(np.round(x * 127.5 + 127.5), 0, 255).astype(np.uint8)
    return Dataset(Memory(grey, np.zeros(400, np.int32)), ("0",))


@pytest.mark.parametrize("within", [None, WITHIN])
def test_the_shift_of_a_run_is_that_of_its_steps(within: Any) -> None:
    number, levels = 1500, of_run.inner_levels(EXACT)
    mesh = sharding.data_mesh(jax.devices()[:1])
    ahead, label = of_run.forward(SAYS, {}, gaussian_digits(), number, levels, mesh)
    aware = {"noise_guidance": W, "noise_interval": within} if within else {}
    sampling = dataclasses.replace(EXACT.sampling, **aware)
    watch = of_run.watcher(dataclasses.replace(EXACT, sampling=sampling), SAYS)
    seeds = np.arange(number)
    x0, sampled = of_run.sampled(watch, ({}, {}), seeds, label, mesh, batch=400)
    assert x0.shape == (number, 8, 8, 1)
    assert sampled.shape == ahead.shape == (7, number)
    shift = noise_shift.measure(noise_shift.Estimates(sampled, ahead))
    sigma, v = variances(within)
    high = sigma > 5 * STD  # where both means of a logarithm have the same bias
    expected = np.log((v - STD**2)[high] / sigma[high] ** 2) / 2
    assert high.sum() == 5
    z = (np.asarray(shift.shift)[high] - expected) / np.asarray(shift.error)[high]
    assert np.abs(z).max() < 3.5
    effect = np.log(v / variances(None)[1])[high] / 2
    assert within is None or np.abs(effect[-1]) > 20 * shift.error[4]


def test_forward_states_do_not_depend_on_the_batch() -> None:
    levels = of_run.inner_levels(EXACT)
    mesh = sharding.data_mesh(jax.devices()[:1])
    image = gaussian_digits().take(np.arange(1))["image"]
    one = Dataset(Memory(image, np.zeros(1, np.int32)), ("0",))  # again and again
    inputs = SAYS, {}, one, 10, levels, mesh
    whole, split = (of_run.forward(*inputs, batch=size)[0] for size in (10, 3))
    np.testing.assert_array_equal(split, whole)
    assert np.ptp(whole, axis=1).min() > 0.01  # each image under noise of its own
    other, _ = of_run.forward(*inputs, seed=1)
    assert not np.allclose(other, whole, rtol=0, atol=1e-3)


def test_an_image_is_its_seeds_whatever_the_batch() -> None:
    watch = of_run.watcher(EXACT, SAYS)
    mesh = sharding.data_mesh(jax.devices()[:1])
    ask = lambda seeds, batch: of_run.sampled(
        watch, ({}, {}), seeds, np.zeros(len(seeds), np.int32), mesh, batch
    )
    whole, split = ask(np.arange(10), 10), ask(np.arange(3, 10), 3)
    np.testing.assert_array_equal(whole[0][3:], split[0])
    np.testing.assert_array_equal(whole[1][:, 3:], split[1])


TINY = UNet(
    label_dim=10, model_channels=8, channel_mult=(1,), num_blocks=1, attn_resolutions=()
)
DRAWS = dataclasses.replace(EXACT, network=TINY, data=Digits())
LINEAR = dataclasses.replace(DRAWS, network=Linear(label_dim=10))
ESTIMATES = dataclasses.replace(
    SAYS, network=LevelEstimator(TINY), data=Digits(), init_from="runs/here"
)


@pytest.mark.parametrize(
    ("experiment", "estimator", "aware", "words"),
    [
        (DRAWS, DRAWS, False, "digits_nag:level --config.init_from=RUN"),
        (ESTIMATES, ESTIMATES, False, "measure the run that it started from, runs/here"),
        (dataclasses.replace(DRAWS, noise_dropout=0.0), ESTIMATES, True, ":finetune"),
        (dataclasses.replace(DRAWS, schedule=jd.Cosine()), ESTIMATES, False, "schedule"),
    ],
)
def test_what_has_no_shift_is_refused(
    experiment: Experiment, estimator: Experiment, aware: bool, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        of_run.check(experiment, estimator, aware)


def test_what_has_a_shift_is_not() -> None:
    of_run.check(DRAWS, ESTIMATES, aware=True)
    of_run.check(dataclasses.replace(DRAWS, noise_dropout=0.0), ESTIMATES, aware=False)


def untrained(folder: Path, experiment: Experiment) -> Path:
    """A run's snapshot before the first step, with a U-Net's gains of 1 in place of 0."""
    state = initial(experiment)
    opened = lambda path, a: jnp.ones_like(a) if path[-1].key.endswith("_gain") else a
    params = jax.tree_util.tree_map_with_path(opened, state.params)
    variables = {"params": params, "constants": state.constants}
    folder.mkdir()
    return snapshots.write(folder, snapshots.Snapshot(experiment, variables, 0.1, 1, 1))


def test_the_command_prints_draws_and_writes(tmp_path: Path) -> None:
    denoiser = untrained(tmp_path / "run", LINEAR)
    estimator = untrained(tmp_path / "level", ESTIMATES)
    flags = f"--workdir={denoiser}", f"--estimator={estimator}", "--steps=4"
    flags = (*flags, "--number=12", "--batch=8", "--noise_interval=10,30")
    done = run("noise_shift", *flags, "--noise_guidance=50", "--solver=EulerMaruyama")
    assert done.status == 0, done.err
    written = json.loads((tmp_path / "run" / "noise_shift.json").read_text())
    assert (written["steps"], written["noise_interval"]) == (4, [10.0, 30.0])
    assert "EulerMaruyama" in written["solver"]
    sigma = np.asarray(GRID(None, 4).sigma)[1:-1]
    np.testing.assert_allclose(written["ln_sigma"], np.log(sigma), atol=1e-6)
    kinds = ["sampled", "sampled with NAG, w = 50"]
    assert list(written["shifts"]) == kinds
    for kind, shift in written["shifts"].items():
        assert f"{kind}: {shift['verdict']}" in done.out
    _, last = done.out.split("whether images gain by the guidance, but this does:")
    sweep = shlex.split(last.splitlines()[1])
    assert sweep[-6:-5] + sweep[-4:] == [
        "sweep",
        "--over=noise_guidance=0,0.5,1,2",
        "--noise_interval=10,30",
        f"--solver={written['solver']}",
        "--steps=4",
    ]
    assert parse(written["solver"], Solver) == jd.EulerMaruyama()
    first = [shift["shift"][0] for shift in written["shifts"].values()]
    assert abs(first[0] - first[1]) > 1e-3  # only the step from sigma = 20 is guided
    assert (tmp_path / "run" / "noise_shift.png").read_bytes()[1:4] == b"PNG"
    done = run("noise_shift", f"--workdir={denoiser}")
    assert done.status == 1
    assert done.err.startswith("error: --estimator is missing")
    assert "digits_nag:level" in done.err
    assert done.err.count("\n") == 1
