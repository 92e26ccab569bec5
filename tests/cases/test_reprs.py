"""Whatever a notebook shows is short and tells what it is, and never prints an array."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff import evaluation
from jaxdiff.analysis import curves
from jaxdiff.config import from_config
from jaxdiff.data import Digits
from jaxdiff.evaluation.extractors.extractor import extractor
from jaxdiff.objectives import timesteps
from jaxdiff.runs.restoring import Restored
from jaxdiff.runs.snapshots import Snapshot
from jaxdiff.runs.state import run_denoiser
from jaxdiff.runtime import sharding
from jaxdiff.types import reprs
from tests.states import initial
from tests.system import tiny

E = dataclasses.replace(from_config(tiny.get_config()), eval_every=0)


@pytest.fixture(scope="module")
def state() -> Any:
    return initial(E)


@pytest.fixture(scope="module")
def values(state: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    variables = {"params": state.params, "constants": state.constants}
    denoise = run_denoiser(E, variables)
    mesh, cache = sharding.data_mesh(), tmp_path_factory.mktemp("cache")
    judge = evaluation.judge_of(Digits(split="train"), [extractor("pixels8")], mesh, cache)
    law = curves.density(jd.Cosine(), timesteps.Uniform(), count=2**12)
    levels = jd.grids.Karras()(None, 1000)
    x = jnp.zeros((8, 32, 32, 3))
    return {
        "Restored": Restored(denoise, E, variables, 40),
        "TrainState": state,
        "Dataset": Digits().load(),
        "Snapshot": Snapshot(E, jax.device_get(variables), 0.1, 40, 640),
        "Judge": judge,
        "Observed": judge.reference,
        "NoiseLevel": levels,
        "Experiment": E,
        "LogSNRDensity": law,
        "Steps": curves.steps(levels),
        "Denoised": jd.Denoised(x, uncertainty=jnp.zeros(8)),
        "Condition": jd.Condition(label=jnp.zeros((8, 1000))),
        "Noised": jd.corrupt(
            jax.random.key(0), x, jnp.full((8, 1, 1, 1), 0.5), jd.Cosine()
        ),
        "denoiser": denoise,
        "guided": jd.guide(denoise, (denoise, 1.0)),
    }


CASES = {
    "Restored": ["step 40 of 40", "8 x 8 x 1, 10 classes", "UNet with 8,118 parameters",
                 "Heun() on Karras()", "LogSigma()"],
    "TrainState": ["params={30 arrays, 8,118 numbers}", "step=Array(0, dtype=int32)"],
    "Dataset": ["uint8[1497, 8, 8, 1]", "'9': 10 items"],
    "Snapshot": ["std=0.1", "step=40", "34 arrays"],
    "Judge": ["uint8[1497, 8, 8, 1]", "pixels8"],
    "Observed": ["count=1497", "Digits(split='train')"],
    "NoiseLevel": ["alpha=float64[1001] 1 ... 1", "sigma=float64[1001] 80 ... 0"],
    "Experiment": ["\n    data=Digits(),\n", "UNet(label_dim=10", "\n    batch_size=16,\n"],
    "LogSNRDensity": ["logsnr=float64[151] -15 ... 15"],
    "Steps": ["h=float64[1000] "],
    "Denoised": ["x0=float32[8, 32, 32, 3]", "variance=None"],
    "Condition": ["label=float32[8, 1000]"],
    "Noised": ["eps=float32[8, 32, 32, 3]", "at=NoiseLevel("],
    "denoiser": [],
    "guided": [],
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_prints_are_short_and_say_what_it_is(name: str, values: dict[str, Any]) -> None:
    text = repr(values[name])
    assert len(text) < 1000
    assert text.count("\n") < 25
    for part in CASES[name]:
        assert part in text
    assert str(values[name]) == text


def test_components_of_an_experiment_print_so_that_python_reads_them() -> None:
    """Only what differs from the defaults, and equal when evaluated."""

    names: dict[str, Any] = {**vars(jd.losses), **vars(jd.grids), **vars(timesteps)}
    names |= {name: getattr(jd, name) for name in jd.__all__} | {"Digits": Digits}
    assert eval(repr(E), names) == E


def test_a_donated_or_traced_array_prints(state: Any) -> None:
    x = jnp.arange(100.0)
    x.delete()
    assert reprs.array(x) == "float32[100] deleted"
    seen = []

    @jax.jit
    def traced(level: jd.NoiseLevel) -> Any:
        seen.append(repr(level))
        return level.sigma

    traced(jd.NoiseLevel(jnp.ones(9), jnp.ones(9)))
    assert seen == ["NoiseLevel(alpha=float32[9], sigma=float32[9])"]
    split = jax.device_put(np.zeros((8, 4)), sharding.split(sharding.data_mesh()))
    assert reprs.array(split) == "float32[8, 4]"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.float32(0.5), "np.float32(0.5)"),
        (np.arange(3), "array([0, 1, 2])"),
        (np.arange(30), "int64[30] 0 ... 29"),
        (np.array(["a"] * 30), "<U1[30]"),
        ([1, 2], "[1, 2]"),
        ((1,), "(1,)"),
        ((np.zeros((3, 4)),), "(float64[3, 4],)"),
        (list(range(99)), "[0, 1, 2, ..., 98: 99 items]"),
        (
            {i: i for i in range(99)},
            "{0: 0, 1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 6, 7: 7, ...}",
        ),
        ({}, "{}"),
        ((), "()"),
        ("a" * 999, "'" + "a" * 198 + "…"),
        (Path("a"), repr(Path("a"))),
        (jd.Heun, repr(jd.Heun)),
    ],
)
def test_any_value_in_few_words(value: Any, text: str) -> None:
    assert reprs.brief(value) == text


def test_defaults_are_left_out_and_arrays_compared() -> None:
    @dataclasses.dataclass(frozen=True)
    class Mine:
        table: Any = None
        make: Callable = float
        many: tuple = dataclasses.field(default_factory=tuple)

    assert reprs.short(Mine()) == "Mine()"
    assert reprs.short(Mine(np.zeros((40, 2)))) == "Mine(table=float64[40, 2])"
    assert reprs.short(Mine(many=(jd.Heun(), jd.Euler()))) == "Mine(many=(Heun(), Euler()))"
