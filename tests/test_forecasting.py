"""What is said of steps on accelerators that are not there; nothing is compiled here."""

import dataclasses
import importlib.util
import json
import re
from typing import Any
from unittest import mock

import jax
import pytest

from jaxdiff.runtime import sharding
from jaxdiff.runtime.chips import CHIPS
from jaxdiff.runtime.costs import Costs, Row
from jaxdiff.runtime.topologies import Topology, topology
from jaxdiff.train import forecasting
from jaxdiff.train.forecasting import Forecast, TooLarge
from tests.test_train import TINY

HERE = Topology("v5e:2x2", CHIPS["v5e"], tuple(jax.devices()[:4]))
"""Four devices of this machine, called TPUs."""
MESH = sharding.data_mesh(HERE.devices)


def result(size: int, **more: Any) -> Forecast:
    costs = Costs(kinds={"elementwise": Row(0.5, 0.1, flops=197e11, bytes=819e8)})
    costs.layers |= {"enc/8x8_block0": Row(0.25, 0.1, flops=1.0, padded=2.0)}
    parts = {"parameters": 2**20, "padding": 0, "temporary": size, "program": 0}
    return Forecast(HERE, MESH, 16, parts, costs, 100.0)


def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every topology is this machine's; what the gradient keeps is not traced."""
    monkeypatch.setattr(forecasting, "topology", lambda name: HERE)
    monkeypatch.setattr(forecasting, "mesh_of", lambda run, where, sample=False: MESH)
    monkeypatch.setattr(forecasting.memory, "kept", lambda run, images: 0)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v9:2x2", r"'v9:2x2' is not a topology: write v5e:4x4, v6e:8x8, .* or a100:8"),
        ("v5e", "'v5e' is not a topology"),
        ("v5e:0x2", "'v5e:0x2' is not a topology"),
        ("v5e:2x2; rm", "is not a topology"),
        ("v5e:4", "TPU v5e has no slice 4: a slice has 2 sides, .* at most 256 chips"),
        ("v5e:512x512", "TPU v5e has no slice 512x512"),
        ("v5p:4x4", "TPU v5p has no slice 4x4: a slice has 3 sides"),
        ("h100:2x2", "H100 80GB HBM3 comes as a number, up to 8 or a multiple .*; got 2x2"),
        ("a100:12", "A100 80GB comes as a number, up to 8 or a multiple of it"),
    ],
)
def test_a_wrong_topology_is_one_line(name: str, message: str) -> None:
    """Whether its compiler is installed or not."""
    with pytest.raises(ValueError, match=message) as caught:
        topology(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a100", "h100", "h200"])
def test_a_program_has_three_quarters_of_a_gpu(name: str) -> None:
    """XLA_PYTHON_CLIENT_MEM_FRACTION's default [JAX, GPU memory allocation]."""
    whole = int(re.search(r"device_memory_size: (\d+)", CHIPS[name].target)[1])
    assert whole * 0.74 < CHIPS[name].memory <= whole * 0.75


@pytest.mark.parametrize(("name", "extra"), [("v5e:2x2", "tpu"), ("h100:8", "gpu")])
def test_a_missing_compiler_is_named(
    name: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=rf'pip install "jaxdiff\[aot-{extra}\]"'):
        topology(name)


def test_a_batch_that_does_not_split_is_refused() -> None:
    devices = tuple(jax.devices()[:3])

    tpu = mock.Mock(spec=jax.Device, platform="tpu")
    where = dataclasses.replace(HERE, devices=(tpu,) * 3)
    with pytest.raises(ValueError, match="accumulation is 16, which does not split over 3"):
        forecasting.mesh_of(TINY, where)
    assert forecasting.padded(TINY, sharding.data_mesh(devices)) == 102  # of 100 images


def test_changes_go_from_the_cheapest_to_the_slowest() -> None:
    groups = forecasting.alternatives(TINY, MESH)
    flags = [[forecasting.flags_of(changes) for changes in group] for group in groups]
    several = [
        "--config.accumulation=2",
        "--config.accumulation=2 --config.network.remat=true",
        "--config.fsdp=4 --config.accumulation=2",
        "--config.fsdp=4 --config.accumulation=2 --config.network.remat=true",
    ]
    one = [
        "--config.network.remat=true",
        "--config.fsdp=4",
        "--config.fsdp=4 --config.network.remat=true",
    ]
    assert flags == [one, several, [flag.replace("=2", "=4") for flag in several]]


def test_what_fits_is_found_by_trying(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def compile_for(run: Any, where: Any, mesh: Any, sample: bool = False) -> Forecast:
        tried.append((run.network.remat, run.fsdp, run.accumulation))
        if run.accumulation < 2:
            raise TooLarge("Used 20.00G of 15.75G hbm")
        return result(2**30 if run.fsdp == 4 else 17 * 2**30)

    here(monkeypatch)
    monkeypatch.setattr(forecasting, "compile_for", compile_for)
    lines = list(forecasting.table(TINY, "v5e:2x2"))
    assert any("does not fit (Used 20.00G of 15.75G hbm)" in line for line in lines)
    assert "it fits with --config.fsdp=4 --config.accumulation=2:" in lines
    assert any("for the gradient of 4 images" in line for line in lines)
    same = [(False, 1, 1), (True, 1, 1), (False, 4, 1), (True, 4, 1)]
    halving, two = (
        [(True, 4, 4), (True, 4, 2)],
        [(False, 1, 2), (True, 1, 2), (False, 4, 2)],
    )
    assert tried == same + halving + two
    assert any("of 15.75 GiB: fits" in line for line in lines)


@pytest.mark.parametrize("enough", [1, 2, 8, 32, 64, 1000])
def test_the_rounds_that_fit_are_found_by_halving(
    enough: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fewest, of 1 to 64, without trying all that have fewer."""
    tried = []

    def compile_for(run: Any, where: Any, mesh: Any, sample: bool = False) -> Forecast:
        tried.append(run.accumulation)
        lean = run.accumulation >= enough and run.fsdp == 4 and run.network.remat
        return result((1 if lean else 17) * 2**30)

    here(monkeypatch)
    monkeypatch.setattr(forecasting, "compile_for", compile_for)
    large = dataclasses.replace(TINY, batch_size=4 * 64)
    lines = forecasting.table(large, "v5e:2x2")
    if enough > 64:
        with pytest.raises(TooLarge, match="it does not fit into"):
            list(lines)
    else:
        rounds = f" --config.accumulation={enough}" if enough > 1 else ""
        found = f"it fits with --config.fsdp=4{rounds} --config.network.remat=true:"
        assert found in list(lines)
    assert len(tried) <= 1 + 3 + 3 + 3


def test_a_gpu_without_enough_memory_has_a_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = iter((17 * 2**30, 2**30))
    here(monkeypatch)
    monkeypatch.setattr(forecasting, "compile_for", lambda *_: result(next(sizes)))
    lines = list(forecasting.table(TINY, "v5e:2x2"))
    assert any("of 15.75 GiB: does not fit" in line for line in lines)
    assert "it fits with --config.network.remat=true:" in lines


def test_a_network_that_never_fits_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def compile_for(*_: Any) -> Forecast:
        raise TooLarge("40.00 GiB of parameters, averages and moments alone")

    here(monkeypatch)
    monkeypatch.setattr(forecasting, "compile_for", compile_for)
    with pytest.raises(
        TooLarge, match=r"too large for v5e:2x2: .* .40.00 GiB of parameters"
    ):
        list(forecasting.table(TINY, "v5e:2x2"))
    with pytest.raises(TooLarge, match=r"100 images .* set --config.sampling.images lower"):
        list(forecasting.table(TINY, "v5e:2x2", sample=True))


def test_a_state_that_is_too_large_is_not_compiled() -> None:
    small = dataclasses.replace(HERE, chip=dataclasses.replace(HERE.chip, memory=1000))
    with pytest.raises(TooLarge, match="of parameters, averages and moments alone"):
        forecasting.compile_for(TINY, small, MESH)


def test_what_cannot_help_is_neither_tried_nor_advised(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here(monkeypatch)
    small = dataclasses.replace(HERE, chip=dataclasses.replace(HERE.chip, memory=1000))
    monkeypatch.setattr(forecasting, "topology", lambda name: small)
    lines = []
    with pytest.raises(TooLarge, match="too large for v5e:2x2"):
        lines.extend(forecasting.table(TINY, "v5e:2x2"))
    with pytest.raises(TooLarge, match="of parameters alone: use chips with more memory"):
        lines.extend(forecasting.table(TINY, "v5e:2x2", sample=True))
    assert any("too much" in line for line in lines)
    assert not any("trying" in line for line in lines)


class Here(Topology):
    """This machine's devices, for which programs are compiled as for any."""

    def compile(self, lowered: jax.stages.Lowered) -> jax.stages.Compiled:
        return lowered.compile()


def test_a_forecast_counts_the_state_once_and_the_images_of_a_call() -> None:
    where = Here(HERE.name, HERE.chip, HERE.devices)
    plan = {name: size for name, size, _ in forecasting.memory.footprint(TINY, MESH)}
    step = forecasting.compile_for(TINY, where, MESH)
    parts = step.memory
    given = parts["parameters"] + parts["averages"] + parts["moments"] + parts["batch"]
    assert (
        given == plan["parameters"] + plan["averages"] + plan["optimizer"] + plan["batch"]
    )
    assert given + parts["padding"] == plan["arguments"]
    assert 0 <= parts["temporary"] - plan["temporary"] < 10_000  # metrics
    assert step.images == TINY.batch_size
    short = dataclasses.replace(TINY.sampling, steps=2, images=6)
    draw = forecasting.compile_for(
        dataclasses.replace(TINY, sampling=short), where, MESH, sample=True
    )
    assert draw.images == 8  # of 6, on 4 devices
    assert draw.bytes < step.bytes


def test_the_report_has_its_numbers() -> None:
    text = str(result(3 * 2**30))
    assert "total                          3.00 GiB   of 15.75 GiB: fits" in text
    assert "time                          500.00 ms" in text
    assert "images                      32 a second" in text
    assert "share of bf16 peak                20.0%" in text  # 197e11 in 0.5 s of 197e12
    assert "roofline of the whole         100.00 ms" in text
    assert "50%, 40% of it backward, fills 50% of its tiles" in text
    assert "nothing was run" in text
    assert "does not fit" in str(result(16 * 2**30))
    numbers = json.loads(result(3 * 2**30).to_json())
    assert numbers["images_per_second"] == 32
    assert numbers["memory"]["total"] == 3 * 2**30 + 2**20
    assert numbers["share_of_peak"] == pytest.approx(0.2)


def test_a_sampler_draws_a_batch_that_splits_over_the_devices() -> None:
    short = dataclasses.replace(TINY.sampling, steps=2, images=6)
    lowered = forecasting.sampling(dataclasses.replace(TINY, sampling=short), MESH)
    assert lowered.out_info.shape == (8, 8, 8, 1)
    parts = forecasting.state_parts(TINY, MESH, True)
    assert list(parts) == ["parameters"]  # no optimizer, no averages
