"""Values as command lines write them: what repr prints comes back, and nothing is run."""

import math

import pytest

import jaxdiff as jd
from jaxdiff.config import TYPES, expressions
from jaxdiff.sampling.grids import Karras, Listed
from jaxdiff.sampling.guidance import Projected, Rescaled, Rule, Sum
from jaxdiff.sampling.solvers.sde import SigmaW
from jaxdiff.types import Grid, Solver

SOLVERS = [
    jd.Heun(),
    jd.Heun(churn=4.0, churn_max=math.inf),
    jd.DPMSolverPP(order=3, variant="exact"),
    jd.EulerMaruyama(SigmaW(norm=2.0), clock=jd.RectifiedFlow(), limit=math.inf),
    jd.Ancestral(),
    jd.Adaptive(rtol=1e-3),
]


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_what_repr_prints_is_read_back(solver: Solver) -> None:
    assert expressions.parse(repr(solver), Solver) == solver


def test_lists_and_nested_values() -> None:
    values = expressions.parse_all(", ".join(map(repr, SOLVERS)), Solver)
    assert values == SOLVERS
    assert expressions.parse("Karras", Grid) == Karras()
    assert expressions.parse("Listed((2.0, 1.0, 0.0))", Grid) == Listed((2.0, 1.0, 0.0))
    rule = expressions.parse("Rescaled(Projected(2.5, momentum=-0.5), phi=0.7)", Rule)
    assert rule == Rescaled(Projected(2.5), 0.7)
    assert expressions.parse("Sum()", Rule) == Sum()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Foo", "none of Adaptive, Ancestral"),
        ("SigmaW()", "none of"),
        ("Heun(", "not a list of values: write names, such as Adaptive"),
        ("Heun(eta=1)", "no field 'eta'; it has churn"),
        ("Heun(1, 2, 3, 4, 5)", "5 values"),
        ("Heun(1.0, churn=2.0)", "once"),
        ("Heun(churn=-1.0)", "Heun.churn must be a number from 0"),
        ("Heun(churn=__import__('os').getpid())", "is not a plain value"),
        ("Heun(churn=[].__class__)", "neither a value nor a type"),
        ("__import__('os')", "none of"),
        (
            "DPMSolverPP(order=9)",
            "^DPMSolverPP.order must be a whole number .*, got 9$",
        ),
        ("RungeKutta(3)", "^RungeKutta.clock must be one of schedules.*; got 3$"),
        ("EulerMaruyama(clock=3)", "clock must be one of schedules.*, None; got 3$"),
        ("EulerMaruyama(clock=Heun())", "is none of BoundedCosine"),
        ("Heun, Euler", "names 2 values"),
        ("", "names 0 values"),
        ("Heun(**{})", "by its name"),
        ("Heun] + [Euler", "not a list"),
        ("Heun for x in y", "not a list"),
        ("Heun(churn={[]: 1})", "neither a value nor a type"),
    ],
)
def test_what_is_wrong_is_said(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        expressions.parse(text, Solver)


def test_what_has_no_default_is_asked_for() -> None:
    with pytest.raises(ValueError, match=r"^Rescaled needs values for of and phi$"):
        expressions.parse("Rescaled", Rule)
    with pytest.raises(ValueError, match=r"^Rescaled.of needs a value for limit$"):
        expressions.parse("Rescaled(Projected(), 0.7)", Rule)


def test_every_solver_and_grid_can_be_named() -> None:
    needs = {"Listed": "(2.0, 0.0),", "Projected": "2.5", "Rescaled": "Sum(), 0.7"}
    for kind, group in ((Solver, "solvers"), (Grid, "levels"), (Rule, "guidance")):
        for name in TYPES:
            cls = TYPES[name]
            if name.startswith(group) and not cls.__name__.endswith(("W", "Proportional")):
                text = f"{cls.__name__}({needs.get(cls.__name__, '')})"
                assert type(expressions.parse(text, kind)) is cls
