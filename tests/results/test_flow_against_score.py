"""Flow against score: the page is what its JSON says."""

from collections.abc import Iterable

import numpy as np
import pytest

from tests.results.pages import SEEDS, over_seeds, page, row, tables

RECIPES = {"ε": "eps", "v": "v", "x₀": "x0", "rectified flow": "flow", "EDM": "edm"}

SOLVERS = {"ODE, Euler": "Euler", "ODE, Heun": "Heun", "SDE, ancestral steps": "SDE"}

COUNTS = (5, 10, 20, 50, 100)

STEPS = 3000


def verdicts(recipe: str, field: str = "frechet", **setting: object) -> np.ndarray:
    """A field of what was said of a recipe, a number a seed."""
    usual = {"grid": "own", "clip": True, "step": STEPS, "images": 1000}
    key = {"what": "quality", "recipe": recipe, **usual, **setting}
    if recipe == "edm" and key["grid"] == "common":
        key["grid"] = "own"  # which is the common one
    return np.array([row("flow_against_score", seed=s, **key)[field] for s in SEEDS])


def quality(
    recipe: str, field: str, style: str = "{:.2f} ± {:.2f}", **setting: object
) -> str:
    return over_seeds(verdicts(recipe, field, **setting), style)


@pytest.mark.parametrize(
    ("number", "field", "style"),
    [(1, "frechet", "{:.2f} ± {:.2f}"), (2, "accuracy", "{:.1%} ± {:.1%}")],
)
def test_flow_against_score(number: int, field: str, style: str) -> None:
    solver, seen = "", 0
    for name, *cells in tables("flow_against_score")[number]:
        if name.strip("*") in SOLVERS:
            solver = SOLVERS[name.strip("*")]
            continue
        settings = [{"solver": solver, "count": count} for count in COUNTS]
        assert cells == [quality(RECIPES[name], field, style, **s) for s in settings]
        seen += 1
    assert seen == len(SOLVERS) * len(RECIPES)


def test_flow_against_score_controls() -> None:
    at = lambda count, **more: {"solver": "Euler", "count": count, **more}
    common = {"grid": "common"}
    controls = [at(10), at(10, **common), at(20), at(20, **common), at(20, clip=False)]
    over = [at(20, step=step) for step in (1500, 2250, STEPS)]
    *found, grids = tables("flow_against_score")[3:6]
    for table, settings in zip(found, (controls, over), strict=True):
        assert [name for name, *_ in table] == [*RECIPES]
        for name, *cells in table:
            assert cells == [quality(RECIPES[name], "frechet", **s) for s in settings]
    for grid, (name, *cells) in zip(("own", "flow"), grids, strict=True):
        assert name == {"own": "EDM, own grid", "flow": "EDM, flow's grid"}[grid]
        assert cells == [quality("edm", "frechet", **at(n, grid=grid)) for n in (10, 20)]


def test_the_answer_of_flow_against_score() -> None:
    def at(recipe: str, solver: str, count: int) -> float:
        setting = {"solver": solver, "count": count}
        return float(quality(recipe, "frechet", "{:.2f}", **setting))

    def best(recipes: Iterable[str], counts: Iterable[int]) -> float:
        return min(at(r, s, n) for r in recipes for s in SOLVERS.values() for n in counts)

    answer = " ".join(page("flow_against_score").split("!")[0].split())
    few, others = best(["flow"], [5]), best(["eps", "v", "x0", "edm"], [5])
    assert (
        f"with 5 its Fréchet distance is {few}, where the best of the others has" in answer
    )
    assert f"of the others has {others}." in answer
    edm, flow = at("edm", "Heun", 20), at("flow", "Heun", 20)
    assert f"EDM under Heun's rule is ahead of it, {edm} to {flow}," in answer
    assert "from 50 on the two are within 0.04 of each other" in answer
    lead: dict[tuple[object, ...], np.ndarray] = {}  # of flow over EDM, by seed
    for solver, count, grid in (
        *(("Heun", count, "own") for count in (20, 50, 100)),
        *(("Euler", count, grid) for count in (10, 20) for grid in ("own", "common")),
    ):
        setting = {"solver": solver, "count": count, "grid": grid}
        lead[*setting.values()] = verdicts("edm", **setting) - verdicts("flow", **setting)
    assert all(abs(lead["Heun", count, "own"].mean()) < 0.04 for count in (50, 100))
    assert all((lead["Heun", count, "own"] < 0).all() for count in (20, 100))
    assert "Most of flow's lead over EDM is its grid" in answer
    for count in (10, 20):  # gone on EDM's grid, and less than half of it on flow's
        own = lead["Euler", count, "own"]
        assert (own > 0.07).all()
        assert abs(lead["Euler", count, "common"].mean()) < 0.03
        setting = {"solver": "Euler", "count": count}
        on_flows = verdicts("edm", grid="flow", **setting) - verdicts("flow", **setting)
        assert ((on_flows > 0) & (on_flows < own / 2)).all()
    table = best(["eps", "v", "x0"], [20, 50, 100])
    assert f"on DDPM's table stay at {table} or more." in answer
    for recipe in RECIPES.values():  # the SDE is behind Euler's rule
        assert all(at(recipe, "SDE", n) > at(recipe, "Euler", n) for n in COUNTS)


def of_flow() -> set[str]:
    """Decimals in prose that no table has, from the rows."""
    real = row("flow_against_score", what="real digits")
    alike = [("Euler", recipe) for recipe in RECIPES.values()] + [("SDE", "flow")]
    among = (quality(r, "among", "{:.2f}", solver=s, count=20) for s, r in alike)
    held = f"{100 * real['accuracy']:.1f}", f"{real['frechet']:.2f}"
    return {*among, *held, f"{real['floor']:.2f}"}
