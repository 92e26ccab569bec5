"""Flags made from a dataclass's fields: the fields of `Sampling` are all flags."""

import dataclasses
from types import ModuleType
from typing import Annotated, Any

import pytest
from absl import flags

from jaxdiff.config import Sampling
from jaxdiff.sampling.guidance import Projected, Rule
from jaxdiff.sampling.solvers import DDIM
from jaxdiff.types import Solver
from jaxdiff.types.ranges import Finite, Whole, checked


@dataclasses.dataclass(frozen=True)
@checked
class Settings:
    """One field of each kind; names that no command has."""

    toy_count: Annotated[int, Whole(1, 9), "How many."] = 3
    toy_weight: Annotated[Finite, "How much."] = 0.5
    toy_on: Annotated[bool, "Whether."] = False
    toy_range: Annotated[tuple[float, float], "from where to where."] = (0.0, 1.0)
    toy_solver: Annotated[Solver, "By what."] = DDIM()
    toy_rule: Annotated[Rule, "How."] = Projected(1.0)
    toy_hidden: int = 1


@pytest.fixture
def field_flags(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    from jaxdiff.commands import field_flags

    return field_flags


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> flags.FlagValues:
    """Flags of this test alone."""
    own = flags.FlagValues()
    for kind in ("bool", "integer", "float", "list", "string"):
        define = getattr(flags, f"DEFINE_{kind}")
        alone = lambda *a, define=define, **k: define(*a, flag_values=own, **k)
        monkeypatch.setattr(flags, f"DEFINE_{kind}", alone)
    return own


def test_each_kind_of_field_is_a_flag(field_flags: Any, parsed: flags.FlagValues) -> None:
    fields = field_flags.define(Settings, but=("toy_hidden",))
    lines = "toy_count=4 toy_weight=-2 toy_on toy_range=0.3,inf toy_solver=DDIM(eta=1.0)"
    parsed(["", *(f"--{line}" for line in lines.split()), "--toy_rule=Projected(2.5)"])
    assert dataclasses.replace(Settings(), **field_flags.values(fields)) == Settings(
        4, -2.0, True, (0.3, float("inf")), DDIM(eta=1.0), Projected(2.5)
    )
    assert parsed["toy_weight"].help == "How much."
    assert parsed["toy_rule"].help.startswith("How. One of FirstChannels, Projected, ")
    with pytest.raises(flags.IllegalFlagValueError, match=r"range \[1, 9\]"):
        parsed["toy_count"].parse("10")


def test_flags_that_are_not_given_change_nothing(
    field_flags: Any, parsed: flags.FlagValues
) -> None:
    fields = field_flags.define(Settings, only=("toy_on", "toy_weight"))
    parsed(["", "--notoy_on"])
    assert field_flags.values(fields) == {"toy_on": False}
    assert set(parsed) & {f.name for f in dataclasses.fields(Settings)} == set(fields)


def test_every_field_of_sampling_is_a_flag_with_help(
    field_flags: Any, parsed: flags.FlagValues
) -> None:
    """All but those that other flags say; see commands/sampling_flags.py."""
    fields = field_flags.define(Sampling, but=("std", "images"))
    assert fields.keys() == {f.name for f in dataclasses.fields(Sampling)} - {
        "std",
        "images",
    }
    assert all(parsed[name].help for name in fields)
