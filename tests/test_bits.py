"""Bits/dim of a run: what is measured, what is reported, and the command."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff import bits, checkpoint, likelihood, sharding
from jaxdiff.config import Experiment
from jaxdiff.data import Digits
from jaxdiff.networks import UNet
from jaxdiff.posterior import LargeVariance, SmallVariance
from jaxdiff.state import ema_variables, init_state

ROOT = Path(__file__).parents[1]
NETWORK = UNet(label_dim=10, model_channels=8, channel_mult=(1,), num_blocks=1)
EXPERIMENT = Experiment(network=NETWORK, schedule=jd.LogSigma(0.02, 40.0))


@pytest.fixture(scope="module")
def state() -> Any:
    return jax.jit(init_state, static_argnums=0)(EXPERIMENT)


def measured(state: Any, devices: int, batch: int) -> bits.Measured:
    cost = bits.coster(EXPERIMENT, SmallVariance(), clip=True)
    mesh = sharding.data_mesh(jax.devices()[:devices])
    steps = likelihood.process(EXPERIMENT.schedule, 6)
    variables = ema_variables(EXPERIMENT, state, 0.1)
    variables = jax.device_put(variables, sharding.replicated(mesh))
    data = Digits("test").load()
    return bits.measure(cost, variables, data, steps, mesh, number=5, batch=batch)


def test_neither_the_batch_nor_the_devices_change_a_number(state: Any) -> None:
    whole, split = measured(state, 1, 5), measured(state, 4, 3)
    assert whole.vb.shape == (5, 6)
    for name in ("vb", "x0_mse", "prior", "total"):
        np.testing.assert_allclose(
            getattr(split, name), getattr(whole, name), rtol=2e-5, atol=1e-9
        )


def test_an_untrained_network_costs_what_its_x0_does(state: Any) -> None:
    """F = 0, so D = c_skip x, and with the small variance terms are half a loss of SNR."""
    found = measured(state, 1, 5)
    snr = found.steps.at.snr
    kl = (snr[:-1] - snr[1:]) / 2 * found.x0_mse[:, 1:] / np.log(2)
    np.testing.assert_allclose(found.vb[:, 1:], kl, rtol=1e-4)
    image = Digits("test").load().source.take(np.arange(5))["image"]
    x0 = image / 127.5 - 1
    # at sigma = 40 D is nothing but noise of 0.25 / 40, next to an x0 of 0.7
    np.testing.assert_allclose(
        found.x0_mse[:, -1], (x0**2).mean((1, 2, 3)), atol=0.02, rtol=0
    )


def test_the_report_adds_up_and_is_json(state: Any, tmp_path: Path) -> None:
    found = measured(state, 1, 5)
    report = bits.report(found, bins=3)
    assert json.loads(json.dumps(report)) == report
    mean = {name: pair["mean"] for name, pair in report["bits_per_dim"].items()}
    total = found.vb.sum(1) + found.prior
    assert mean["total"] == pytest.approx(total.mean(), rel=1e-12)
    assert mean["total"] == pytest.approx(
        mean["prior"] + mean["diffusion"] + mean["decoder"], rel=1e-12
    )
    error = total.std(ddof=1) / np.sqrt(5)
    assert report["bits_per_dim"]["total"]["error"] == pytest.approx(error, rel=1e-12)
    assert [row["levels"] for row in report["bins"]] == [2, 2, 2]
    assert sum(report["terms"]["vb_mean"]) == pytest.approx(found.vb.sum(1).mean())
    lines = bits.table(report).splitlines()
    assert f"{mean['total']:.5f}" in lines[1]
    bits.save_plot(tmp_path / "bits.png", report)
    assert (tmp_path / "bits.png").read_bytes().startswith(b"\x89PNG")


def test_one_image_has_no_standard_error(state: Any) -> None:
    cost, mesh = (lambda *args: None), sharding.data_mesh(jax.devices()[:1])
    steps, data = likelihood.process(EXPERIMENT.schedule, 2), Digits("test").load()
    with pytest.raises(ValueError, match="at least 2 images, got 1"):
        bits.measure(cost, state, data, steps, mesh, number=1)


def test_clipping_holds_x0_where_the_data_are(state: Any) -> None:
    """White images, D nearly x: without clipping half of it lies above white."""
    clipped, free = (
        bits.coster(EXPERIMENT, LargeVariance(), clip=clip) for clip in (True, False)
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


def test_the_command(state: Any, tmp_path: Path) -> None:
    with checkpoint.checkpoints(tmp_path, keep=1) as saved:
        saved.save(0, state, EXPERIMENT)
        saved.wait()

    def run(*flags: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "launch/likelihood.py", f"--workdir={tmp_path}", *flags]
        env = {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": ""}
        return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)

    done = run("--number=3", "--timesteps=4", "--cpu_devices=1")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "bits.json").read_text())
    assert (found["images"], found["steps"], found["step"]) == (3, 4, 0)
    assert (found["variance"], found["data"]) == ("LargeVariance", "Digits(split='test')")
    assert f"{found['bits_per_dim']['total']['mean']:.5f}" in done.stdout
    assert (tmp_path / "bits.png").exists()
    done = run("--split=fest")
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == (
        "error: split must be one of ('train', 'test', 'all'), got 'fest'"
    )
    done = run("--number=3", "--timesteps=4", "--variance=LearnedVariance")
    assert done.returncode == 1
    assert "network.learned_variance = True" in done.stderr
