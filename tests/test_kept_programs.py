"""Programs are kept for experiments that no program can tell apart, and only for these."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import chex
import jax
import numpy as np
import pytest

from jaxdiff import data, train
from jaxdiff.config import Experiment
from jaxdiff.networks import UNet
from jaxdiff.optim import EDM2Optimizer
from jaxdiff.runs import generate, programs
from jaxdiff.runs.programs import identity, kept
from jaxdiff.runs.state import init_state, initializer, state_shapes
from jaxdiff.runtime import sharding
from jaxdiff.train import step as train_step
from tests.test_train import PLAIN, TINY, batch

UNREAD: dict[str, Any] = {
    "data": data.Digits(split="test"),
    "steps": 7,
    "init_from": "elsewhere",
    "log_every": 7,
    "sample_every": 7,
    "checkpoint_every": 7,
    "keep": 7,
    "keep_every": 7,
    "snapshot_every": 7,
    "snapshot_dtype": "float32",
    "magnitudes_every": 7,
    "eval_every": 7,
    "eval_images": 77,
    "eval_extractors": ("pixels8",),
}
OTHER = dataclasses.replace(TINY, **UNREAD)
"""Another experiment with the same programs."""


def test_the_fields_that_no_program_reads() -> None:
    fields = {f.name for f in dataclasses.fields(Experiment)}
    unread = {name for name in fields if name.startswith(programs.UNREAD)}
    assert unread | {"data"} == UNREAD.keys()
    for name, value in UNREAD.items():
        assert getattr(TINY, name) != value
        assert identity(dataclasses.replace(TINY, **{name: value})) == identity(TINY)


def test_programs_of_the_same_identity_are_the_same() -> None:
    """As text: nothing in them is of what was changed."""
    mesh = sharding.data_mesh(jax.devices()[:1])
    state, keys, label = (
        state_shapes(TINY),
        jax.random.split(jax.random.key(0), 2),
        [0, 1],
    )
    variables = {"params": state.params, "constants": state.constants}

    def texts(e: Experiment) -> list[str]:
        draw = generate._program.__wrapped__(generate.from_noise, e, (None,) * 3)
        weights = generate.Guides().weights(e.sampling)
        traced = (
            train.compiled_step.__wrapped__(e, mesh).trace(state, batch(0)),
            initializer.__wrapped__(e, mesh).trace(None),
            draw.trace(variables, keys, np.array(label), weights),
        )
        return [str(one.jaxpr) for one in traced]

    assert texts(TINY) == texts(OTHER)


@pytest.mark.parametrize(
    "changed",
    [
        {"seed": 1},
        {"batch_size": 8},
        {"on_nonfinite": "skip"},
        {"label_dropout": 0.3},
        {"network": TINY.network.clone(dropout=0.2)},
        {"sampling": dataclasses.replace(TINY.sampling, steps=3)},
        {"optimizer": dataclasses.replace(TINY.optimizer, b2=0.9)},
        {"data": data.Synthetic((8, 8, 1))},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_what_a_program_reads_makes_another(changed: dict[str, Any]) -> None:
    assert identity(dataclasses.replace(TINY, **changed)) != identity(TINY)


def test_flipped_images_are_others_though_their_encoders_are_equal() -> None:
    one, other = (data.Folder("images", 8, flip=flip) for flip in (False, True))
    assert data.encoder_of(one) == data.encoder_of(other)
    experiments = [Experiment(data=source) for source in (one, other)]
    assert identity(experiments[0]) != identity(experiments[1])
    moved = Experiment(data=data.Folder("elsewhere", 8))
    assert identity(moved) == identity(experiments[0])


def test_identity_tells_types_and_numbers_of_arrays_apart() -> None:
    values = [
        1,
        1.0,
        True,
        "1",
        (1,),
        [1],
        {"a": 1},
        np.array(1),
        np.array(2),
        UNet,
        UNet(),
    ]
    values += [EDM2Optimizer(), np.array([1]), np.array([1], np.float32), None]
    keys = [identity(value) for value in values]
    for i, key in enumerate(keys):
        assert [other == key for other in keys] == [j == i for j in range(len(keys))]
        assert identity(values[i]) == key
        assert hash(identity(values[i])) == hash(key)


def counted() -> tuple[Callable[..., object], list[tuple[Any, ...]]]:
    """A function that is kept, and the arguments it was called with."""
    calls: list[tuple[Any, ...]] = []

    @kept(2)
    def make(experiment: Any, more: int = 0) -> object:
        calls.append((experiment, more))
        return object()

    return make, calls


def test_the_last_are_kept() -> None:
    make, calls = counted()
    first = make(TINY)
    assert make(OTHER, more=0) is make(OTHER, 0) is first
    assert calls == [(TINY, 0)]
    assert make(TINY, 1) is not first
    make(TINY, 2)
    assert make(TINY) is not first
    make.cache_clear()
    make(TINY)
    assert [more for _, more in calls] == [0, 1, 2, 0, 0]


def test_what_cannot_be_hashed_is_made_each_time() -> None:
    make, calls = counted()
    assert make({1, 2}) is not make({1, 2})
    assert len(calls) == 2


def test_a_mistake_is_not_kept() -> None:
    @kept(2)
    def make(value: int) -> int:
        raise ValueError("a mistake")

    for _ in range(2):
        with pytest.raises(ValueError, match="a mistake"):
            make(3)


def test_a_second_run_compiles_no_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does one that goes on, or is like it but for what no step reads."""
    made = []
    make_step = lambda e, more: made.append(e) or train.make_step(e, more)
    monkeypatch.setattr(train_step, "make_step", make_step)
    train.compiled_step.cache_clear()
    quick = dataclasses.replace(PLAIN, batch_size=1, steps=2, sample_every=0)
    one = train.fit(quick, tmp_path / "one", progress=False)
    longer = dataclasses.replace(quick, log_every=1, steps=4)
    train.fit(longer, tmp_path / "one", progress=False)
    other = train.fit(quick, tmp_path / "two", progress=False)
    chex.assert_trees_all_equal(one.params, other.params)
    assert made == [quick]
    train.compiled_step.cache_clear()


def test_a_state_is_that_of_init_state() -> None:
    mesh = sharding.data_mesh(jax.devices()[:1])
    same = initializer(TINY, mesh)(None), jax.jit(init_state, static_argnums=0)(TINY)
    chex.assert_trees_all_equal(*(state.params for state in same))
    chex.assert_trees_all_equal_shapes_and_dtypes(
        *(state.opt_state for state in (state_shapes(TINY), same[1]))
    )
