"""Every field of every value and network declares what it may hold, and holds that."""

import dataclasses
import json
import math
import re
import typing
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from examples.toy2d.energy_mlp import EnergyMLP
from jaxdiff.config import TYPES, Experiment, from_dict, to_dict
from jaxdiff.config.fields import fields_of
from jaxdiff.types import Solver
from jaxdiff.types.ranges import Positive, Range, Whole, check, checked, quote, rules

NEEDED: dict[str, dict[str, Any]] = {
    "weightings.ELBO": {"schedule": to_dict(jd.Cosine())},
    "weightings.DiscreteELBO": {"schedule": to_dict(jd.Cosine()), "steps": 100},
    "weightings.Sigmoid": {"schedule": to_dict(jd.Cosine())},
    "weightings.UniformOnNetwork": {"parameterization": to_dict(jd.V())},
    "schedules.Table": {"betas": {"type": "schedules.LinearBetas"}},
    "schedules.ListedBetas": {"betas": [0.1, 0.2]},
    "schedules.RespacedBetas": {"of": {"type": "schedules.LinearBetas"}, "kept": [1, 9]},
    "schedules.ZeroTerminalBetas": {"of": {"type": "schedules.LinearBetas"}},
    "schedules.Shifted": {"of": {"type": "schedules.Cosine"}, "factor": 2.0},
    "parameterizations.TimeLabel": {"schedule": {"type": "schedules.RectifiedFlow"}},
    "losses.VariationalBound": {"table": to_dict(jd.Table(jd.LinearBetas()))},
    "losses.WeightedError": {"weighting": to_dict(jd.MinSNR())},
    "losses.Uncertain": {"of": to_dict(jd.WeightedError(jd.MinSNR()))},
    "losses.Total": {"terms": [[0.5, to_dict(jd.WeightedError(jd.Debias()))]]},
    "networks.Classifier": {"backbone": {"type": "networks.UNet"}},
    "networks.LevelEstimator": {"backbone": {"type": "networks.UNet"}},
    "guidance.Projected": {"limit": 2.5},
    "guidance.Rescaled": {"of": {"type": "guidance.Sum"}, "phi": 0.7},
    "levels.Listed": {"sigmas": [2.0, 1.0, 0.0]},
    "data.Folder": {"path": "images"},
    "data.Latents": {"path": "latents.npz"},
}
VALUES = (
    0,
    -1,
    math.nan,
    math.inf,
    -math.inf,
    1e30,
    -1e30,
    10**400,
    True,
    "x",
    None,
    [],
    [[]],
)
"""What fields are set to, in turn."""

ANY = {"solvers.Adaptive": {"method", "controller"}}
"""Checked by the class itself: names of diffrax, or its own values."""


def saved(name: str, /, **fields: Any) -> dict[str, Any]:
    return {"type": name, **NEEDED.get(name, {}), **fields}


OWN = {name: cls for name, cls in TYPES.items() if cls.__module__.startswith("jaxdiff.")}
ALL = [(name, field) for name, cls in OWN.items() for field in fields_of(cls)]


def plain(hint: Any) -> Any:
    return typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint


@pytest.mark.parametrize(("name", "field"), ALL)
def test_each_field_declares_a_range(name: str, field: str) -> None:
    hint = typing.get_type_hints(TYPES[name], include_extras=True)[field]
    if field in ANY.get(name, ()):
        return
    assert field in rules(TYPES[name])
    assert hint not in (int, float), f"{name}.{field} is a number without a range"
    for element in typing.get_args(plain(hint)) if "tuple" in str(hint) else ():
        assert element not in (int, float), f"{name}.{field} holds numbers without a range"


def allows(hint: Any, value: Any) -> bool:
    """What a field says that it may hold, worked out apart from `ranges`."""
    args = typing.get_args(hint)
    limits = next((a for a in args[1:] if isinstance(a, Range)), None)
    if limits is None or isinstance(value, bool | str | list) or value is None:
        return False
    if limits.whole and type(value) is not int:
        return False
    low = value > limits.low if limits.above else value >= limits.low
    high = value < limits.high if limits.below else value <= limits.high
    return (low and high) or (limits.infinite and value == math.inf)


@pytest.mark.parametrize(("name", "field"), ALL)
def test_nonsense_is_one_line_or_has_a_meaning(name: str, field: str) -> None:
    hint = typing.get_type_hints(TYPES[name], include_extras=True)[field]
    kind = plain(hint)
    for value in VALUES:
        try:
            made = from_dict(saved(name, **{field: value}), "it")
        except ValueError as error:
            line = str(error)
            assert line.startswith("it"), line
            assert "\n" not in line
            assert len(line) < 1500
            if allows(hint, value):  # refused for what another field holds, and so says
                example = from_dict(saved(name))
                others = {*fields_of(TYPES[name])} - {field}
                others |= {type(getattr(example, other)).__name__ for other in others}
                assert any(re.search(rf"\b{other}\b", line) for other in others), line
            continue
        meant = (
            allows(hint, value)
            or (kind is bool and value is True)
            or ("str" in str(kind) and value == "x" and "Choice" not in str(hint))
            or (typing.get_origin(kind) is tuple and value == [])
            or (value is None and "None" in str(kind))
            or (field in ANY.get(name, ()) and value is None)
        )
        assert meant, f"{name}.{field} = {quote(value)} makes {made}"


NUMBERS = [
    (cls, field, hint)
    for cls in (*OWN.values(), EnergyMLP)
    for field, hint in typing.get_type_hints(cls, include_extras=True).items()
    if field in rules(cls) and any(isinstance(a, Range) for a in typing.get_args(hint))
]


@pytest.mark.parametrize(("cls", "field", "hint"), NUMBERS)
def test_python_refuses_the_same(cls: type, field: str, hint: Any) -> None:
    name = {c: n for n, c in TYPES.items()}.get(cls, "")
    example = cls() if not NEEDED.get(name) else from_dict(saved(name))
    hold = plain(hint)
    values = (0, -2, 10**30) if hold is int else (0.0, -2.0, math.nan, math.inf, 1e30)
    for value in values:
        if not allows(hint, value):
            with pytest.raises(ValueError, match=rf"^{field} must be .*, got"):
                dataclasses.replace(example, **{field: value})


def test_open_ends_may_be_infinite() -> None:
    assert jd.Heun(churn_max=math.inf).churn_max == math.inf
    assert from_dict(saved("guidance.Projected", limit=math.inf)).limit == math.inf
    sampling = from_dict(saved("config.Sampling", interval=[0.5, math.inf]))
    assert sampling.interval == (0.5, math.inf)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"schedule": {"type": "schedules.LogSigma", "sigma_max": math.inf}}, "sigma_max"),
        ({"schedule": {"type": "schedules.VPLinear", "beta_max": math.inf}}, "beta_max"),
        ({"times": {"type": "times.NormalLogSigma", "std": math.inf}}, "times.std"),
        ({"optimizer": {"type": "optim.EDM2Optimizer", "learning_rate": math.inf}}, "rate"),
        ({"loss_scale": 1e30}, "loss_scale must be a number above 0"),
        ({"steps": 10**30}, "config.steps must be a whole number from 1 to 1,000,000,000"),
        ({"network": {"type": "networks.UNet", "num_blocks": 10**9}}, "from 1 to 100"),
        ({"network": {"type": "networks.UNet", "model_channels": 10**9}}, "8,192"),
        ({"network": {"type": "networks.UNet", "attn_balance": -0.1}}, "attn_balance"),
        ({"network": {"type": "networks.UNet", "clip_act": -1.0}}, "clip_act"),
        ({"data": {"type": "data.Synthetic", "shape": [8, 8]}}, "shape must have 3"),
        ({"data": {"type": "data.Synthetic", "shape": [8, 8, "3"]}}, r"shape\[2\] must be"),
        ({"data": {"type": "data.Synthetic", "labels": 50_000_000}}, "labels must be"),
    ],
)
def test_infinite_and_huge_numbers_are_refused_at_once(change: dict, line: str) -> None:
    with pytest.raises(ValueError, match=line):
        from_dict({**to_dict(Experiment()), **change})


def test_what_real_runs_use_is_allowed() -> None:
    xxl = {"type": "networks.UNet", "model_channels": 448, "label_dim": 21_841}
    changed = {**to_dict(Experiment()), "steps": 10_000_000, "network": xxl}
    made = from_dict({**changed, "batch_size": 2**14})
    assert (made.steps, made.network.label_dim) == (10_000_000, 21_841)
    assert from_dict(json.loads(json.dumps(to_dict(made)))) == made


def test_a_class_instead_of_a_value_says_how_to_make_one() -> None:
    with pytest.raises(ValueError, match=r"^solver is the class Euler.*Euler\(\)$"):
        check("solver", jd.Euler, Solver)


def test_traced_and_abstract_values_are_left_alone() -> None:
    @dataclasses.dataclass(frozen=True)
    @checked
    class Scaled:
        by: Positive

    assert jax.jit(lambda x: Scaled(x).by * 2)(3.0) == 6
    assert jax.grad(lambda x: Scaled(x).by ** 2)(3.0) == 6
    abstract = jax.ShapeDtypeStruct((), jnp.float32)
    assert Scaled(abstract).by is abstract
    assert Scaled(np.float32(2)).by == 2
    two = np.array([1.0, 2.0])
    assert jax.vmap(lambda x: Scaled(x).by)(two).tolist() == [1, 2]
    for wrong in (np.float32(-1), jnp.float32(jnp.inf), np.array(np.nan), two, jnp.ones(1)):
        with pytest.raises(ValueError, match="by must be a number above 0"):
            Scaled(wrong)


def test_messages_are_short_whatever_the_value() -> None:
    deep: Any = ()
    for _ in range(10_000):
        deep = (deep,)
    for value in ("x" * 10**6, 10**5000, [0] * 10**6, {"a": "b" * 10**6}, deep, jd.Heun):
        assert len(quote(value)) <= 100
        with pytest.raises(ValueError, match=r"^steps must be a whole number") as error:
            check("steps", value, Annotated[int, Whole(1, 5)])
        assert len(str(error.value)) < 200
