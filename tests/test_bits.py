"""Bits/dim of a run: what is measured, what is reported, and the command."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import jaxdiff as jd
from jaxdiff.config import Experiment
from jaxdiff.data import Digits
from jaxdiff.data.batches import Dataset, Memory
from jaxdiff.denoisers.parameterizations import Unscaled
from jaxdiff.evaluation import likelihood
from jaxdiff.evaluation.likelihood import (
    Exact,
    Hutchinson,
    Skilling,
    dataset_bound,
    dataset_flow,
)
from jaxdiff.networks import LevelEstimator, UNet
from jaxdiff.runs import checkpoint
from jaxdiff.runs.state import ema_variables, init_state
from jaxdiff.runtime import sharding
from jaxdiff.schedules.posterior import LargeVariance, SmallVariance
from jaxdiff.types import Output
from jaxdiff.types.protocols import Network, implements
from tests.cases import commands
from tests.cases.commands import Done

NETWORK = UNet(
    label_dim=10, model_channels=8, channel_mult=(1,), num_blocks=1, attn_resolutions=()
)
EXPERIMENT = Experiment(network=NETWORK, schedule=jd.LogSigma(0.02, 40.0))


@pytest.fixture(scope="module")
def state() -> Any:
    return jax.jit(init_state, static_argnums=0)(EXPERIMENT)


def measured(state: Any, devices: int, batch: int) -> dataset_bound.Measured:
    cost = dataset_bound.coster(EXPERIMENT, SmallVariance(), clip=True)
    mesh = sharding.data_mesh(jax.devices()[:devices])
    steps = likelihood.process(EXPERIMENT.schedule, 6)
    variables = ema_variables(EXPERIMENT, state, 0.1)
    variables = jax.device_put(variables, sharding.replicated(mesh))
    data = Digits("test").load()
    return dataset_bound.measure(cost, variables, data, steps, mesh, number=5, batch=batch)


def test_neither_the_batch_nor_the_devices_change_a_number(state: Any) -> None:
    whole, split = measured(state, 1, 5), measured(state, 4, 3)
    assert whole.vb.shape == (5, 6)
    for name in ("vb", "x0_mse", "prior", "total"):
        np.testing.assert_allclose(
            getattr(split, name), getattr(whole, name), rtol=2e-5, atol=1e-9
        )


def test_an_untrained_network_costs_what_its_x0_does(state: Any) -> None:
    """F = 0, so D = c_skip x, and with the small variance terms are half a loss of SNR."""
    bound = measured(state, 1, 5)
    snr = bound.steps.at.snr
    kl = (snr[:-1] - snr[1:]) / 2 * bound.x0_mse[:, 1:] / np.log(2)
    np.testing.assert_allclose(bound.vb[:, 1:], kl, rtol=1e-4)
    image = Digits("test").load().source.take(np.arange(5))["image"]
    x0 = image / 127.5 - 1
    # at sigma = 40 D is nothing but noise of 0.25 / 40, next to an x0 of 0.7
    np.testing.assert_allclose(
        bound.x0_mse[:, -1], (x0**2).mean((1, 2, 3)), atol=0.02, rtol=0
    )


def test_the_report_adds_up_and_is_json(state: Any, tmp_path: Path) -> None:
    bound = measured(state, 1, 5)
    report = dataset_bound.report(bound, bins=3)
    assert json.loads(json.dumps(report)) == report
    mean = {name: pair["mean"] for name, pair in report["bits_per_dim"].items()}
    total = bound.vb.sum(1) + bound.prior
    assert mean["total"] == pytest.approx(total.mean(), rel=1e-12)
    assert mean["total"] == pytest.approx(
        mean["prior"] + mean["diffusion"] + mean["decoder"], rel=1e-12
    )
    error = total.std(ddof=1) / np.sqrt(5)
    assert report["bits_per_dim"]["total"]["error"] == pytest.approx(error, rel=1e-12)
    assert [row["levels"] for row in report["bins"]] == [2, 2, 2]
    assert sum(report["terms"]["vb_mean"]) == pytest.approx(bound.vb.sum(1).mean())
    lines = dataset_bound.table(report).splitlines()
    assert f"{mean['total']:.5f}" in lines[1]
    dataset_bound.save_plot(tmp_path / "bits.png", report)
    assert (tmp_path / "bits.png").read_bytes().startswith(b"\x89PNG")


def test_one_image_has_no_standard_error(state: Any) -> None:
    cost, mesh = (lambda *args: None), sharding.data_mesh(jax.devices()[:1])
    steps, data = likelihood.process(EXPERIMENT.schedule, 2), Digits("test").load()
    with pytest.raises(ValueError, match="at least 2 images, got 1"):
        dataset_bound.measure(cost, state, data, steps, mesh, number=1)


def test_clipping_holds_x0_where_the_data_are(state: Any) -> None:
    """White images, D nearly x: without clipping half of it lies above white."""
    clipped, free = (
        dataset_bound.coster(EXPERIMENT, LargeVariance(), clip=clip)
        for clip in (True, False)
    )
    image = np.full((2, 8, 8, 1), 255, np.uint8)
    keys, label = jax.random.split(jax.random.key(0), 2), np.zeros(2, np.int32)
    least = jax.tree.map(jnp.asarray, likelihood.process(EXPERIMENT.schedule, 6)[:1])
    args = (
        ema_variables(EXPERIMENT, state, 0.1),
        keys,
        jnp.asarray(image),
        jnp.asarray(label),
        least,
    )
    held, loose = clipped(*args).x0_mse, free(*args).x0_mse
    assert (held < 0.8 * loose).all()


# ------------------------------------------------------------------ the flow

S, MEANS = 0.2, (0.0, 0.3)
W = 2 / 255


@implements(Network)
class OfClasses(nn.Module):
    """D = (S^2 x + sigma^2 m) / (S^2 + sigma^2), exact for data N(m, S^2) of a class."""

    label_dim: int = 2
    dtype: str = "float32"

    def __call__(self, x: Any, c_noise: Any, cond: Any, train: bool = False) -> Output:
        mean, sigma = jnp.asarray(MEANS)[cond.label], jnp.exp(4 * c_noise.reshape(-1))
        f = mean * sigma / (S * jnp.hypot(S, sigma))
        return Output(jnp.broadcast_to(f[:, None, None, None], x.shape))


GAUSSIAN = Experiment(
    network=OfClasses(),
    schedule=jd.LogSigma(0.002, 80.0),
    parameterization=jd.EDM(sigma_data=S),
    loss=jd.WeightedError(jd.UniformOnNetwork(jd.EDM(sigma_data=S))),
)
LEVELS = likelihood.rising(GAUSSIAN.schedule, 32)


def gaussian_digits(number: int) -> Dataset:
    """Pixels of two classes in turn; three standard deviations and more fit in."""
    label = np.arange(number, dtype=np.int32) % 2
    noise = np.random.default_rng(0).normal(size=(number, 8, 8, 1))
    x = np.asarray(MEANS)[label][:, None, None, None] + S * noise
    grey = np.clip(np.round(x * 127.5 + 127.5), 0, 255).astype(np.uint8)
    return Dataset(Memory(grey, label), ("0", "1"))


def solved(divergence: Any, devices: int, batch: int, number: int) -> likelihood.Bits:
    solve = dataset_flow.solver(GAUSSIAN, LEVELS, divergence=divergence)
    mesh = sharding.data_mesh(jax.devices()[:devices])
    data = gaussian_digits(number)
    return dataset_flow.measure(solve, {}, data, mesh, batch=batch, seed=3)


@pytest.mark.parametrize(
    ("divergence", "devices", "batch"), [(Exact(), 4, 3), (Hutchinson(1), 1, 16)]
)
def test_each_image_has_the_bits_of_its_law(
    divergence: Any, devices: int, batch: int
) -> None:
    """-log2 N(z; 0, 80^2) k W, z = m + k (x - m), x dequantised by the image's own key.

    k^2 = (S^2 + 80^2) / (S^2 + 0.002^2). One probe of signs is exact where the Jacobian is
    a multiple of the identity. 32 steps and float32 leave some 2e-5.
    """
    number = 10
    flow = solved(divergence, devices, batch, number)
    keys = [jax.random.fold_in(jax.random.key(3), i) for i in range(number)]
    rows = gaussian_digits(number).source.take(np.arange(number))
    x = likelihood.dequantise(jnp.stack(keys), jnp.asarray(rows["image"]))
    mean = np.asarray(MEANS)[rows["label"]][:, None, None, None]
    k = np.sqrt((S**2 + 80**2) / (S**2 + 0.002**2))
    z = mean + k * (np.float64(x) - mean)
    density = np.log(k) - ((z / 80) ** 2 + np.log(2 * np.pi * 80**2)).mean((1, 2, 3)) / 2
    expected = -(density + np.log(W)) / np.log(2)
    np.testing.assert_allclose(flow.bits, expected, rtol=0, atol=5e-5)
    np.testing.assert_array_equal(flow.evaluations, 4 * 32)


def test_the_probes_part_of_the_error_is_what_normal_probes_make() -> None:
    """p . p L is 2 d L^2 from certain, L = ln(1 + S^2 / 0.002^2) / 2, of each image."""
    number, probes, d = 64, 16, 64
    flow = solved(Skilling(probes), 1, 64, number)
    report = dataset_flow.report(flow)
    assert json.loads(json.dumps(report)) == report
    pair = report["bits_per_dim"]
    integral = np.log1p(S**2 / 0.002**2) / 2
    single = np.sqrt(2 * d) * integral / (d * np.log(2))
    # 64 estimates of a variance with 15 degrees of freedom: 2.3 % on the error, 4 of those
    assert pair["probes"] == pytest.approx(single / np.sqrt(number * probes), rel=0.1)
    assert pair["error"] == pytest.approx(flow.bits.std(ddof=1) / 8, rel=1e-12)
    exact = solved(Exact(), 1, 64, number).bits.mean()
    assert abs(pair["mean"] - exact) < 4 * pair["probes"]
    assert report["evaluations"] == 128
    assert f"{pair['mean']:.5f}" in dataset_flow.table(report)


def test_one_probe_cannot_say_and_json_can() -> None:
    ones = np.ones(3)
    report = dataset_flow.report(likelihood.Bits(ones, np.nan * ones, 8 * ones))
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert report["bits_per_dim"] == {"mean": 1.0, "error": 0.0, "probes": None}
    lines = dataset_flow.table(
        {**report, "bound": {"mean": 2.0, "error": 0.5}}
    ).splitlines()
    assert lines[1].split() == ["flow", "1.00000", "0.00000", "unknown"]
    assert lines[2].split() == ["bound", "2.00000", "0.50000"]


def test_a_flow_that_ends_nowhere_is_told() -> None:
    data, mesh = gaussian_digits(3), sharding.data_mesh(jax.devices()[:1])

    def solve(variables: Any, keys: Any, image: Any, label: Any) -> likelihood.Bits:
        return likelihood.Bits(jnp.asarray([1.0, jnp.nan, 1.0]), jnp.zeros(3), jnp.ones(3))

    with pytest.raises(
        ValueError, match=r"1 of 3 likelihoods are not finite \(image 1\): loosen"
    ):
        dataset_flow.measure(solve, {}, data, mesh)
    with pytest.raises(ValueError, match="at least 2 images, got 1"):
        dataset_flow.measure(solve, {}, data, mesh, number=1)


def test_what_has_no_bits_is_refused() -> None:
    level = dataclasses.replace(
        EXPERIMENT,
        network=LevelEstimator(NETWORK),
        parameterization=Unscaled(),
        init_from="runs/here",
    )
    with pytest.raises(ValueError, match="the run that it started from, runs/here"):
        dataset_flow.solver(level, LEVELS)
    with pytest.raises(ValueError, match="the run that it started from, runs/here"):
        dataset_bound.coster(level, SmallVariance(), clip=True)


# ------------------------------------------------------------------ the command


@pytest.fixture(scope="module")
def workdir(state: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    with checkpoint.checkpoints(folder, keep=1) as saved:
        saved.save(0, state, EXPERIMENT)
        saved.wait()
    return folder


def run(workdir: Path, *flags: str) -> Done:
    return commands.run("likelihood", f"--workdir={workdir}", *flags)


def refusal(workdir: Path, *flags: str) -> str:
    """What is said, in one line, where a command does nothing."""
    done = run(workdir, *flags)
    assert done.status == 1
    assert done.err.count("\n") == 1
    return done.err.strip()


def test_the_command_by_the_bound_and_by_the_flow(workdir: Path) -> None:
    done = run(workdir, "--number=3", "--timesteps=4", "--cpu_devices=1")
    assert done.status == 0, done.err
    written = json.loads((workdir / "bits.json").read_text())
    assert (written["images"], written["steps"], written["step"]) == (3, 4, 0)
    assert (written["variance"], written["data"]) == (
        "LargeVariance",
        "Digits(split='test')",
    )
    total = written["bits_per_dim"]["total"]["mean"]
    assert f"{total:.5f}" in done.out
    assert np.mean(written["each"]) == pytest.approx(total)
    assert (workdir / "bits.png").exists()
    short = "--by=flow", "--number=3", "--steps=2", "--probes=2", "--batch=2", "--skilling"
    done = run(workdir, *short, "--cpu_devices=1")
    assert done.status == 0, done.err
    written = json.loads((workdir / "bits_flow.json").read_text())
    assert (written["images"], written["evaluations"], written["step"]) == (3, 8, 0)
    assert (written["rule"], written["divergence"]) == ("2 RK4", "Skilling(count=2)")
    assert written["noise"] == pytest.approx(0.02, rel=1e-5)
    assert f"{written['bits_per_dim']['mean']:.5f}" in done.out
    assert "8 evaluations an image" in done.out
    assert written["bound"]["mean"] == total
    assert f"{total:.5f}" in done.out
    assert (workdir / "bits_flow.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--split=fest", "split must be one of 'train', 'test', 'all', got 'fest'"),
        ("--variance=LearnedVariance --number=3 --timesteps=4", "learned_variance = True"),
        (
            "--by=bound --probes=2",
            "--probes is for --by=flow: leave it out, or add --by=flow",
        ),
        ("--by=flow --noclip", "--clip is for --by=bound: leave it out, or add --by=bound"),
        ("--by=flow --exact --probes=2", "--exact has no use for --probes: leave one"),
        ("--by=flow --adaptive=1e-4 --steps=8", "--adaptive has no use for --steps"),
    ],
)
def test_what_the_command_refuses(workdir: Path, flags: str, words: str) -> None:
    error = refusal(workdir, *flags.split())
    assert error.startswith("error: ")
    assert words in error
