"""The tables and figures of docs/results are what the JSON beside them says.

Computed here anew from the rows, without the code of the study that made the page.
"""

import itertools
import json
import re
from collections.abc import Iterable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

RESULTS = Path(__file__).parents[1] / "docs" / "results"
Row = dict[str, Any]


@cache
def rows(name: str) -> list[Row]:
    return json.loads((RESULTS / f"{name}.json").read_text())


PAGES = {"debias_order": "debias"}
"""Of the rows that are on another page."""


def page(name: str) -> str:
    return (RESULTS / f"{PAGES.get(name, name)}.md").read_text()


def row(name: str, **key: object) -> Row:
    """The only row with these fields."""
    (only,) = _by(name, tuple(key))[tuple(key.values())]
    return only


@cache
def _by(name: str, fields: tuple[str, ...]) -> dict[tuple[Any, ...], list[Row]]:
    """The rows that have these fields, by their values."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for one in rows(name):
        if all(field in one for field in fields):
            found.setdefault(tuple(one[field] for field in fields), []).append(one)
    return found


def tables(name: str) -> list[list[list[str]]]:
    """A page's tables in their order: lines of cells, without bold, head and rule."""
    found: list[list[list[str]]] = [[]]
    for line in page(name).splitlines():
        if line.startswith("|"):
            cells = line.replace("**", "").strip()[1:-1].split("|")
            found[-1].append([cell.strip() for cell in cells])
        elif found[-1]:
            found.append([])
    return [table[2:] for table in found if table]


def over_seeds(values: Iterable[float], style: str) -> str:
    values = np.array(list(values))
    return style.format(values.mean(), values.std(ddof=1))


SEEDS = (0, 1, 2)
MEASURED = (
    *("flow_against_score", "table_or_prediction", "debias_order", "edm2_ladder"),
    *("improved_ddpm", "nag"),
)


@pytest.mark.parametrize("name", MEASURED)
def test_each_row_names_its_commits(name: str) -> None:
    made = [row for row in rows(name) if "measured" in row]
    assert made
    for one in made:
        for commits in (one["trained"], one["measured"]):
            assert re.fullmatch(r"[0-9a-f]{7}( [0-9a-f]{7})*", commits), one
            assert all(commit in page(name) for commit in commits.split())


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


TRAININGS = {"ε, SD's table": "eps", "v, SD's table": "v", "v, zero terminal SNR": "v-zero"}
GRIDS = ("leading", "linspace", "trailing")


def brightness(training: str, grid: str, field: str) -> np.ndarray:
    key = {"what": "brightness", "training": training, "grid": grid}
    found = [row("table_or_prediction", seed=seed, **key)[field] for seed in SEEDS]
    return np.array(found)


def perfect(training: str, grid: str) -> tuple[float, float]:
    """Mean and std of what a perfect network draws: the formula in zero_terminal_snr.md."""
    data = row("table_or_prediction", what="data", split="train")
    alpha, sigma = (brightness(training, grid, name)[0] for name in ("alpha", "sigma"))
    m, s, d = data["mean"], data["std"], 3 * 8 * 8
    r = np.sqrt(alpha**2 * s**2 + sigma**2 / d)
    return m - s * alpha * m / r, s * sigma / r / np.sqrt(d)


def test_table_or_prediction() -> None:
    by_run, shares = tables("table_or_prediction")
    signed = lambda values: over_seeds(values, "{:+.3f} ± {:.3f}")
    for line, split in zip(by_run[:2], ("train", "test"), strict=True):
        data = row("table_or_prediction", what="data", split=split)
        assert f"({data['number']:,})" in line[0]
        assert line[3:6] == [f"{data[name]:.3f}" for name in ("mean", "std", "w1")]
    seen = []
    for name, grid, alpha, *cells in by_run[2:]:
        run = TRAININGS[name], grid
        assert alpha == f"{brightness(*run, 'alpha')[0]:.4f}"
        kinds = (brightness(*run, field) for field in ("mean", "std", "w1"))
        measured = [over_seeds(values, "{:.3f} ± {:.3f}") for values in kinds]
        assert cells == [*measured, *(f"{value:.3f}" for value in perfect(*run))]
        seen.append(run)
    assert seen == [(name, grid) for name in TRAININGS.values() for grid in GRIDS]
    assert [grid for grid, *_ in shares] == [*GRIDS]
    for grid, *cells in shares:
        eps, v, zero = (brightness(name, grid, "mean") for name in TRAININGS.values())
        theory = perfect("v-zero", grid)[0] - perfect("v", grid)[0]
        assert cells == [*map(signed, (v - eps, zero - v, zero - eps)), f"{theory:+.3f}"]


def test_the_answer_of_table_or_prediction() -> None:
    at = lambda name: brightness(name, "trailing", "mean").mean()
    answer = " ".join(page("table_or_prediction").split("!")[0].split())
    data = row("table_or_prediction", what="data", split="train")["mean"]
    eps, v, zero = at("eps"), at("v"), at("v-zero")
    assert f"a mean brightness of {data:.2f}, ε on Stable Diffusion's" in answer
    assert f"table draws {eps:.2f}, v on the same table {v:.2f}, and v with zero" in answer
    assert f"terminal SNR {zero:.2f}." in answer
    share = (zero - v) / (zero - eps)
    assert 0.28 < share < 0.38  # a third
    theory = perfect("v-zero", "trailing")[0] - perfect("v", "trailing")[0]
    assert 0.45 < (zero - v) / theory < 0.55  # half
    for name in TRAININGS.values():
        means = [brightness(name, grid, "mean").mean() for grid in GRIDS]
        assert max(means) - min(means) < 0.01


WEIGHTINGS = {"constant": "constant", "P2": "p2", "min-SNR": "min_snr", "Debias": "debias"}
IMAGES = {
    "emoji, 8×8": "emoji8",
    "emoji in colour, 4×4": "colour4",
    "digits, 8×8": "digits",
}
EACH = [(name, like) for name in list(IMAGES)[:2] for like in ("8", "256")]
"""On which all four weightings are compared."""


def arm(
    data: str,
    like: str | int,
    weighting: str,
    field: str = "frechet",
    **setting: object,
) -> np.ndarray:
    """A field of the verdicts on an arm of debias_order.py, a number a seed."""
    of = {"data": data, "like": int(like), "weighting": weighting, "rate": 1e-3}
    main = {"count": 50, "step": 1500, "start": "noise", "images": 1000}
    key = {"what": "quality", **of, **main, **setting}
    return np.array([row("debias_order", seed=seed, **key)[field] for seed in SEEDS])


def perfect_network(data: str, like: str | int, field: str, **setting: object) -> Any:
    key = {"data": data, "like": int(like), "count": 50, "start": "noise", **setting}
    return row("debias_order", what="perfect network", **key)[field]


OVER = (5, 20, 50, 100)
"""Sampling steps."""


def cell(values: np.ndarray, style: str = "{:.2f} ± {:.2f}") -> str:
    return over_seeds(values, style).replace("-", "−")


def test_debias_shares() -> None:
    """From the betas and the formulas of the weightings [DDPM, P2, MinSNR, Debias]."""
    on_eps = (
        np.ones_like,
        lambda snr: 1 / (1 + snr),
        lambda snr: np.minimum(1, 5 / snr),
        lambda snr: snr**-0.5,
    )
    alpha_bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    for name, like, *cells in tables("debias")[0]:
        data = IMAGES[name]
        levels = row("debias_order", what="data", data=data)
        snr = alpha_bar / (1 - alpha_bar) * (int(like) / 8) ** 2
        noisier, clearer = snr < np.exp(levels["noisy"]), snr > np.exp(levels["clear"])
        for weigh, text in zip(on_eps, cells, strict=True):
            weight = weigh(snr) / weigh(snr).sum()
            parts = noisier, ~noisier & ~clearer, clearer
            found = [100 * weight[part].sum() for part in parts]
            assert [float(part) for part in text.split("/")] == pytest.approx(
                found, abs=0.51
            )
    assert len(tables("debias")[0]) == 12


def test_debias_over_sizes() -> None:
    sizes, starts = tables("debias")[1:3]
    for name, like, *cells in sizes:
        expected = []
        for field, places in (("frechet", 2), ("lite0", 0)):
            both = (arm(IMAGES[name], like, w, field) for w in ("constant", "debias"))
            constant, debias = both
            style = f"{{:.{places}f}} ± {{:.{places}f}}"
            signed = style.replace(":", ":+", 1)
            expected += [cell(constant, style), cell(debias, style)]
            expected += [cell(debias - constant, signed)]
        assert cells == expected
    for name, *cells in starts:
        both = (arm(IMAGES[name], 256, w, start="data") for w in ("constant", "debias"))
        constant, debias = both
        less = cell(debias - constant, "{:+.2f} ± {:.2f}")
        best = perfect_network(IMAGES[name], 256, "frechet", start="data")
        assert cells == [cell(constant), cell(debias), less, f"{best:.2f}"]
    assert [name for name, *_ in starts] == list(IMAGES)[:2]
    assert [(name, like) for name, like, *_ in sizes] == EACH[:2]


def test_debias_over_weightings() -> None:
    weightings, errors = tables("debias")[3:5]
    seen = []
    for name, like, weighting, *cells in weightings:
        of = IMAGES[name], like
        seen.append((name, like, weighting))
        if weighting == "a perfect network":
            one = (perfect_network(*of, "frechet", count=n) for n in OVER)
            lite0 = f"{perfect_network(*of, 'lite0'):.0f}" if name == "emoji, 8×8" else ""
            assert cells == [*(f"{value:.2f}" for value in one), "", lite0]
            continue
        at = partial(arm, *of, WEIGHTINGS[weighting])
        found = [*(at(count=count) for count in OVER), at(step=750)]
        lite0 = cell(at("lite0"), "{:.0f} ± {:.0f}") if name == "emoji, 8×8" else ""
        assert cells == [*map(cell, found), lite0]
    each = ("a perfect network", *WEIGHTINGS)
    assert seen == [(*of, weighting) for of in EACH for weighting in each]
    trained = [one for one in seen[: len(seen) // 2] if one[2] in WEIGHTINGS]
    for line, (_, like, name) in zip(errors, trained, strict=True):
        of = {"data": "emoji8", "like": int(like), "weighting": WEIGHTINGS[name]}
        key = {"what": "errors", **of, "rate": 1e-3}
        found = [row("debias_order", seed=seed, **key) for seed in SEEDS]
        over = [np.interp((-3, -1, 1, 3), r["logsnr"], r["x0_mse"]) for r in found]
        cells = [cell(one, "{:.4f} ± {:.4f}") for one in np.transpose(over)]
        assert line == [like, name, *cells]


@pytest.mark.parametrize(("number", "data"), [(5, "emoji8"), (6, "colour4")])
def test_debias_means_of_channels(number: int, data: str) -> None:
    """W1 is the mean over channels."""
    first, *table = tables("debias")[number]
    real, fine = row("debias_order", what="data", data=data)["mean"], "{:.3f} ± {:.3f}"
    assert first[2:] == [*(f"{mean:.3f}" for mean in real), *[""] * 5]
    for name, like, *cells in table:
        if name in WEIGHTINGS:
            at = partial(arm, data, like, WEIGHTINGS[name])
            settings = [*({"count": n} for n in OVER), {"step": 750}]
            w1 = [at("w1", **setting).mean(1) for setting in settings]
            assert cells == [cell(one, fine) for one in [*at("mean").T, *w1]]
        else:
            best = partial(perfect_network, data, like)
            w1 = [np.mean(best("w1", count=count)) for count in OVER]
            assert cells == [*(f"{v:.3f}" for v in (*best("mean"), *w1)), ""]
    each = ("a perfect network", *WEIGHTINGS)
    expected = [(name, like) for like in ("8", "256") for name in each]
    assert [(name, like) for name, like, *_ in table] == expected


def test_debias_over_rates() -> None:
    rates, seen = (1e-3 / 3, 1e-3, 3e-3), []
    for like, name, *cells in tables("debias")[7]:
        at = partial(arm, "emoji8", like, WEIGHTINGS[name])
        measured = rates if like == "8" else rates[1:]
        assert cells[-len(measured) :] == [cell(at(rate=rate)) for rate in measured]
        seen.append((like, name))
    assert seen == [(like, name) for like in ("8", "256") for name in WEIGHTINGS]
    for rate in rates:  # the best of each is the last
        of = [arm("emoji8", 8, w, rate=rate).mean() for w in WEIGHTINGS.values()]
        constant, p2, min_snr, debias = of
        assert constant < min_snr < p2 < debias
    for rate in rates[1:]:
        of = [arm("emoji8", 256, w, rate=rate).mean() for w in WEIGHTINGS.values()]
        constant, p2, min_snr, debias = of
        assert debias < min_snr < p2 < constant


def test_the_answer_of_debias() -> None:
    answer = " ".join(page("debias").split("!")[0].split())
    at = lambda *key, **more: arm("emoji8", *key, **more).mean()
    here = f"{at(8, 'debias'):.2f} under Debias, last of four as on digits, and "
    assert f"{here}{at(8, 'constant'):.2f} under the constant weight;" in answer
    there = f"{at(256, 'debias'):.2f}, first of four, and {at(256, 'constant'):.2f}."
    assert f"in the paper's 256×256 images, {there}" in answer
    decided = {
        (like, name): 100
        * row("debias_order", what="share", data="emoji8", like=like, weighting=name)[
            "decided"
        ]
        for like in (8, 256)
        for name in ("debias", "constant")
    }
    said = "of Debias' {:.0f} % are where 8×8 pixels are decided, shifted {:.0f} %, of"
    assert said.format(decided[8, "debias"], decided[256, "debias"]) in answer
    said = "of the constant weight's {:.0f} % and {:.0f} %."
    assert said.format(decided[8, "constant"], decided[256, "constant"]) in answer
    features = at(256, "debias", "lite0"), at(256, "constant", "lite0")
    assert "to {:.0f} and {:.0f}, and does not turn".format(*features) in answer
    features = at(8, "debias", "lite0"), at(8, "constant", "lite0")
    assert "the gap closes, from {:.0f} and {:.0f} to".format(*features) in answer
    orders = {
        like: sorted(WEIGHTINGS, key=lambda name: at(like, WEIGHTINGS[name]))
        for like in (8, 256)
    }
    assert orders[8] == ["constant", "min-SNR", "P2", "Debias"]
    assert orders[256] == ["Debias", "min-SNR", "P2", "constant"]
    for data, count in itertools.product(("emoji8", "colour4"), OVER):
        of = {
            like: [arm(data, like, w, count=count).mean() for w in WEIGHTINGS.values()]
            for like in (8, 256)
        }
        constant, p2, min_snr, debias = of[8]
        assert constant < min_snr < p2 < debias
        constant, *three = of[256]
        assert max(three) < constant / 2
        assert count == 5 or three[2] < min(three[:2])  # Debias is first
    assert "There Debias mends most of what the constant weight does to" in answer
    for data in ("emoji8", "colour4"):
        of = lambda like, w, d=data: arm(d, like, w, "w1").mean(1)
        assert (of(8, "debias") > of(8, "constant")).all()
        left = of(256, "debias") - np.mean(perfect_network(data, 256, "w1"))
        gap = of(256, "constant") - np.mean(perfect_network(data, 256, "w1"))
        assert (left < gap / 2).all()
    dark = [at(256, w, "mean", start="data") for w in ("constant", "debias")]
    assert dark[0] < dark[1] < row("debias_order", what="data", data="emoji8")["mean"][0]
    for count in (5, 20, 50):
        assert at(256, "debias", count=count) < at(256, "constant", count=count)


def test_debias() -> None:
    """Both tables of the first study's quality."""
    points = [
        [(step, 50) for step in (250, 500, 750, 1000)],
        [(1000, count) for count in (5, 10, 20, 50, 100)],
    ]

    def values(weighting: str, step: int, count: int) -> np.ndarray:
        key = {"what": "quality", "step": step, "sampling_steps": count}
        runs = (f"{weighting}-{seed}" for seed in SEEDS)
        return np.array([row("debias", run=run, **key)["frechet"] for run in runs])

    for table, at in zip(tables("debias")[8:10], points, strict=True):
        less = False
        for name, *cells in table:
            if name.startswith("*"):
                less = True
                continue
            of = [values(WEIGHTINGS[name], *p) - less * values("constant", *p) for p in at]
            style = "{:+.2f} ± {:.2f}" if less else "{:.2f} ± {:.2f}"
            assert cells == [over_seeds(v, style).replace("-", "−") for v in of]


OBJECTIVES = {
    "L_hybrid": "hybrid",
    "L_vlb": "vlb",
    "L_vlb, last entry left out": "out",
    "L_vlb, x₀ held": "held",
    "L_hybrid, x₀ held": "hybrid-held",
    "L_vlb, longer warm-up": "warmed",
    "L_vlb, t uniform": "uniform",
    "L_hybrid, linear": "hybrid-linear",
    "L_vlb, linear": "vlb-linear",
}


PARTS = ("diffusion", "decoder")
CHECKPOINTS = (1000, 2000, 3000)


def bits(arm: str, field: str = "total", step: int = STEPS) -> np.ndarray:
    """A field of the bound of held-out digits, a number a seed."""
    key = {"what": "bound", "arm": arm, "split": "test", "step": step, "images": 300}
    return np.array([row("improved_ddpm", seed=s, **key)[field] for s in SEEDS])


def in_all_seeds(**key: object) -> list[str]:
    """Objectives of Improved DDPM that have a row for each seed, in the order of tables."""
    has = lambda row: all(row.get(field) == value for field, value in key.items())
    found = [one["arm"] for one in rows("improved_ddpm") if has(one)]
    return [name for name, arm in OBJECTIVES.items() if found.count(arm) == len(SEEDS)]


def rounded(value: float, digits: int = 2) -> str:
    return f"{float(f'{value:.{digits}g}'):,.9g}"


def test_improved_ddpm() -> None:
    plain, signed = "{:.3f} ± {:.3f}", "{:+.3f} ± {:.3f}"
    lines = tables("improved_ddpm")[0]
    assert [name for name, *_ in lines] == in_all_seeds(what="bound", step=STEPS)
    for name, *cells in lines:
        arm = OBJECTIVES[name]
        hybrid = "hybrid-linear" if arm.endswith("-linear") else "hybrid"
        less = "" if arm == hybrid else cell(bits(arm) - bits(hybrid), signed)
        total, *parts = (cell(bits(arm, f), plain) for f in ("total", *PARTS))
        last = rounded(bits(arm, "last entry, x0 as it is").mean(), 3)
        assert cells == [total, less, *parts, last]


def test_improved_ddpm_over_training() -> None:
    lines = tables("improved_ddpm")[2]
    assert [name for name, *_ in lines] == in_all_seeds(what="bound", step=CHECKPOINTS[0])
    for name, *cells in lines:
        over = (bits(OBJECTIVES[name], step=step) for step in CHECKPOINTS)
        assert cells == [cell(values, "{:.3f} ± {:.3f}") for values in over]


def drawn(arm: str, field: str, step: int) -> float:
    """A share of the draws of t, the mean over seeds."""
    key = {"what": "draws", "arm": arm, "step": step}
    return np.mean([row("improved_ddpm", seed=s, **key)[field] for s in SEEDS])


def test_the_draws_of_improved_ddpm() -> None:
    lines = tables("improved_ddpm")[3]
    assert [name for name, *_ in lines] == in_all_seeds(what="draws", step=STEPS)
    for name, *cells in lines:
        of = partial(drawn, OBJECTIVES[name])
        shares = [*(of("last", step) for step in CHECKPOINTS), of("first", STEPS)]
        assert cells == [f"{share:.1%}" for share in shares]


def noise(at: str, of: str, field: str = "ratio") -> np.ndarray:
    """Of minibatch gradients at an objective's parameters, a number a seed."""
    key = {"what": "gradient noise", "at": at, "of": of, "batch": 128, "batches": 100}
    return np.array([row("improved_ddpm", seed=s, **key)[field] for s in SEEDS])


GRADIENTS = (
    *("L_vlb, t uniform", "L_vlb, t by importance"),
    *("last entry left out, t uniform", "last entry left out, t by importance"),
    *("x₀ held, t uniform", "x₀ held, t by importance", "L_hybrid, t uniform"),
)


def test_the_gradients_of_improved_ddpm() -> None:
    lines = tables("improved_ddpm")[4]
    both = itertools.product(("L_hybrid", "L_vlb, x₀ held"), GRADIENTS)
    assert [(at, of) for at, of, *_ in lines] == list(both)
    for at, of, *cells in lines:
        ratio = noise(OBJECTIVES[at], of)
        span = f"{rounded(ratio.min())} to {rounded(ratio.max())}"
        signal = noise(OBJECTIVES[at], of, "mean2")
        assert cells == [*(rounded(np.median(v)) for v in (signal, ratio)), span]
    whole, left_out = (np.median(noise("hybrid", of, "mean2")) for of in GRADIENTS[::2][:2])
    assert left_out / whole == pytest.approx(0.001, rel=0.1)
    quiet, hybrid = (np.median(noise("hybrid", of)) for of in (GRADIENTS[3], GRADIENTS[6]))
    assert quiet / hybrid == pytest.approx(3, rel=0.1)


def pixels(arm: str, field: str, t: float) -> float:
    found = [row("improved_ddpm", what="pixels", arm=arm, seed=seed) for seed in SEEDS]
    return np.mean([one[field][one["t"].index(t)] for one in found])


def test_the_background_of_improved_ddpm() -> None:
    lines = tables("improved_ddpm")[1]
    assert [name for name, *_ in lines] == in_all_seeds(what="pixels")
    fields = {
        "exact": "{:.0%}",
        "error on background": "{:.5f}",
        "error elsewhere": "{:.5f}",
    }
    for name, *cells in lines:
        of = partial(pixels, OBJECTIVES[name])
        both = itertools.product((0.03, 0.3), fields.items())
        assert cells == [style.format(of(field, t)) for t, (field, style) in both]
    for field, t in itertools.product(fields, (0.03, 0.3)):
        same = [pixels(arm, field, t) for arm in ("hybrid", "hybrid-held")]
        assert same[0] == pytest.approx(same[1], rel=0.02)
    background = row("improved_ddpm", what="pixels", arm="hybrid", seed=0)["background"]
    assert f"{background:.0%}" == "49%"
    assert "digits' pixels 49 % are exactly −1" in " ".join(page("improved_ddpm").split())


def test_the_answer_of_improved_ddpm() -> None:
    at = lambda arm: f"{bits(arm).mean():.2f}"
    answer = " ".join(page("improved_ddpm").split("!")[0].split())
    both = f"it has {at('vlb')} bits/dim and L_hybrid {at('hybrid')}, and with"
    assert both in answer
    assert f"left out of training it has {at('out')}, which is the paper's order" in answer
    assert f"warm-up of its sampler does not help ({at('warmed')}), and t drawn" in answer
    assert f"uniformly is worse ({at('uniform')})." in answer
    assert f"in the bound, too, brings it to {at('held')}, and L_hybrid" in answer
    order = "held", "out", "hybrid", "vlb", "warmed", "uniform"
    for better, worse in itertools.pairwise(order):
        assert (bits(better) < bits(worse)).all()
    assert f"and L_hybrid to {at('hybrid-held')}, mostly because half" in answer
    assert (bits("hybrid-held") < bits("hybrid")).all()
    assert (bits("out", step=1000) > bits("hybrid", step=1000)).all()
    assert (bits("out", step=2000) < bits("hybrid", step=2000)).all()
    others = ("hybrid", "vlb", "out")
    assert min(pixels("held", "exact", t) for t in (0.03, 0.3)) > 0.9
    assert all(0.3 < pixels(arm, "exact", t) < 0.5 for arm in others for t in (0.03, 0.3))
    for t, share in ((0.3, 3), (0.03, 7)):
        there = [pixels(arm, "error on background", t) for arm in ("hybrid", "held")]
        assert there[0] / there[1] == pytest.approx(share, rel=0.1)
    elsewhere = lambda arm, t: pixels(arm, "error elsewhere", t)
    assert elsewhere("held", 0.03) > 0.97 * min(elsewhere(arm, 0.03) for arm in others)
    assert elsewhere("held", 0.3) > 1.2 * min(elsewhere(arm, 0.3) for arm in others)


def test_the_weight_of_the_last_entry() -> None:
    """The KL of each step of the cosine table for a squared error of eps, in nats."""
    angle = (np.arange(1001) / 1000 + 0.008) / 1.008 * np.pi / 2
    beta = np.minimum(1 - np.cos(angle[1:]) ** 2 / np.cos(angle[:-1]) ** 2, 0.999)
    noise = 1 - np.cumprod(1 - beta)[:-1]  # sigma^2 of the level where a step lands
    weight = beta[1:] / (1 - beta[1:]) / noise / 2
    assert weight[-1] == pytest.approx(500, rel=0.01)
    assert weight[-2] == pytest.approx(1.5, rel=0.01)
    assert np.median(weight) < 0.01
    alpha = np.sqrt(np.prod(1 - beta))
    assert alpha == pytest.approx(0.00005, rel=0.02)
    assert np.sqrt(1 - alpha**2) / alpha == pytest.approx(20_000, rel=0.02)


def test_improved_ddpm_of_the_unet() -> None:
    run = ""
    for name, variance, *cells in tables("improved_ddpm")[-2]:
        run = name or run
        kinds = {"small": "SmallVariance", "large": "LargeVariance"}
        kind = kinds.get(variance.split()[0], "LearnedVariance")
        one = row("improved_ddpm_unet", what="bits/dim", run=run, variance=kind)
        terms = [one[term] for term in ("total", "diffusion", "decoder")]
        assert cells == [f"{term['mean']:.3f} ± {term['error']:.3f}" for term in terms]


def test_the_gradients_of_the_unet() -> None:
    """Numbers as rounded as they are said."""
    at = ""
    for name, of, *cells, ratio, scale in tables("improved_ddpm")[-1]:
        at = name or at
        one = row("improved_ddpm_unet", what="gradient noise", at=at, of=of)
        values = one["mean2"], one["trace"], one["ratio"] * one["batch"]
        for said, value in zip((*cells, scale), values, strict=True):
            number = float(said.replace(",", ""))
            digits = len(said.replace(",", "").replace(".", "").strip("0"))
            assert number == float(f"{value:.{digits - 1}e}")
        for said, value in zip(
            ratio.split(" ± "), (one["ratio"], one["error"]), strict=True
        ):
            assert said == f"{value:.{len(said.partition('.')[2])}f}"


def test_zero_terminal_snr() -> None:
    samplers = ("eps-leading", "eps-trailing", "v-trailing")
    lines = tables("zero_terminal_snr")[0][2:]
    for sampler, (_, alpha, *cells) in zip(samplers, lines, strict=True):
        one = row("zero_terminal_snr", sampler=sampler)
        drawn = np.array(one["brightness"])
        assert float(alpha) == pytest.approx(one["alpha"], abs=1e-4)
        assert cells[:2] == [f"{drawn.mean():.3f}", f"{drawn.std():.3f}"]
        m, s = (float(cell) for cell in tables("zero_terminal_snr")[0][0][2:4])
        r = np.sqrt(one["alpha"] ** 2 * s**2 + one["sigma"] ** 2 / 3072)
        mean, std = m - s * one["alpha"] * m / r, s * one["sigma"] / r / np.sqrt(3072)
        assert [float(cell) for cell in cells[-2:]] == pytest.approx([mean, std], abs=1e-3)


def test_classifier_guidance() -> None:
    for way, w, *cells in tables("classifier_guidance")[0][:-2]:
        one = row("classifier_guidance", way=way, w=float(w))
        expected = [f"{one['accuracy']:.1%}", f"{one['to_train']:.3f}"]
        expected += [f"{one['among']:.3f}", f"{one['copies']:.1%}", f"{one['frechet']:.3f}"]
        assert cells == expected


W = (0.0, 0.5, 1.0, 2.0)


def unet(name: str) -> dict[str, object]:
    """The fields of nag_unet.json for a way to sample, as the page names it."""
    solver, steps, *more = name.split(", ")
    of = {"solver": solver.replace("–", ""), "steps": int(steps.split()[0])}
    of |= {"guidance": 0.0, "low": 0.0, "high": 5.0, "run": "nag"}
    options = {"CFG 0.5": {"guidance": 0.5}, "fine-tuned": {"run": "finetune"}}
    options |= {"σ ≤ 1": {"high": 1.0}, "0.2 < σ": {"low": 0.2}}
    for one in more:
        of |= options[one]
    return of


def blocks(name: str, w: float) -> list[Row]:
    """A way's rows, a block each; without guidance the guided levels do not matter."""
    of = unet(name) | {"w": w} | ({} if w else {"low": 0.0, "high": 5.0})
    has = lambda row: all(row.get(field) == value for field, value in of.items())
    return sorted(filter(has, rows("nag_unet")), key=lambda row: row["block"])


def karras(steps: int) -> np.ndarray:
    """ln sigma of the inner levels between 40 and 0.02 [EDM eq. 5]."""
    at = np.linspace(40 ** (1 / 7), 0.02 ** (1 / 7), steps)
    return 7 * np.log(at[1:])


def shifts(name: str, w: float) -> list[str]:
    """At sigma = 1, at 0.3 and at the last level, in the mean over blocks."""
    shift = np.mean([row["shift"] for row in blocks(name, w)], axis=0)
    u = karras(blocks(name, w)[0]["steps"])
    at = [*np.interp(np.log([1.0, 0.3]), u[::-1], shift[::-1]), shift[-1]]
    return [f"{value:+.3f}".replace("-", "−") for value in at]


def test_nag_unet() -> None:
    _, ways, guided, gains = tables("nag_unet")
    for name, *cells in ways:
        used = max(len(blocks(name, w)) for w in W[1:])
        frechet = [[row["frechet"] for row in blocks(name, w)][:used] for w in W]
        shown = [" / ".join(f"{value:.3f}" for value in one) for one in frechet]
        assert cells == [*shifts(name, 0.0), *shown], name
    for i, (name, _, *cells) in enumerate(guided):
        found = [shifts(name, w)[i % 3] if blocks(name, w) else "" for w in W]
        assert cells == found
    for name, *cells in gains:
        run, sigma = name.split(", σ = ")
        values = row("nag_unet", gain_of=run, sigma=float(sigma))["gains"]
        assert cells == [f"{value:+.2f}".replace("-", "−") for value in values]


Judged = tuple[bool, bool, bool, bool]
"""What three rules say, on the way, last, noise, and whether the guidance helped."""


def judged_unet() -> list[Judged]:
    found = []
    for name, *_ in tables("nag_unet")[1]:
        plain = blocks(name, 0.0)
        shift, error = (np.array(plain[0][field]) for field in ("shift", "error"))
        sigma = np.exp(karras(plain[0]["steps"]))
        useful = (sigma > 0.2) & (sigma <= 1)
        on_the_way = shift[useful].mean() > 3 * error[useful].mean()
        falls = [
            min(1 - b["frechet"] / plain[b["block"]]["frechet"] for b in blocks(name, w))
            for w in W[1:]
            if blocks(name, w)
        ]
        last = shift[-1] > 3 * error[-1]
        found.append((on_the_way, last, "Maruyama" in name, max(falls) > 0.02))
    return found


def judged_toys() -> list[Judged]:
    """Of the toys whose guide is no other than the network without the level."""
    lines = [line for table in tables("nag_toys") for line in table]
    number = lambda text: float(text.replace("−", "-"))
    plain = {name: cells for name, w, *cells in lines if w == "0"}
    gained: dict[str, float] = {}
    for name, w, *_, rho, _ in lines:
        if w != "0" and not name.endswith((", B", ", C")):
            before = number(_plain(plain, name)[-2])
            gain = abs(before - 1) - abs(number(rho) - 1)
            gained[name] = max(gained.get(name, 0.0), gain)
    found = []
    for name, gain in gained.items():
        way, last, *_ = _plain(plain, name)
        noisy = name.startswith(("EM", "churn", "r fast"))
        on_the_way = np.mean([number(one) for one in way.split(" / ")]) > 0
        found.append((on_the_way, number(last) > 0, noisy, gain > 0.01))
    return found


def _plain(plain: dict[str, list[str]], name: str) -> list[str]:
    sampler = name.split(",")[0]
    return next(plain[n] for n in (name, sampler, f"{sampler}, A") if n in plain)


def test_the_rules_of_nag_unet() -> None:
    for i, (_, *cells) in enumerate(tables("nag_unet")[0]):
        found = []
        for judged in (judged_toys(), judged_unet()):
            says, helped = [one[i] for one in judged], [one[3] for one in judged]
            pairs = list(zip(says, helped, strict=True))
            right = sum(a == b for a, b in pairs)
            alarms, missed = pairs.count((True, False)), pairs.count((False, True))
            found += [f"{right} of {len(pairs)}", str(alarms), str(missed)]
        assert cells == found
    answer = " ".join(page("nag_unet").split("!")[0].split())
    positive = sum(one[0] for one in judged_unet())
    assert f"of {len(judged_unet())} ways" in answer
    assert f"says of {positive} that states are too noisy" in answer
    assert not any(one[0] and one[3] for one in judged_unet())


def nag_way(data: str, path: str, name: str) -> dict[str, object]:
    """The fields of nag.json for a way to sample, as the page names it."""
    solver, steps, *more = name.split(", ")
    of = {"what": "quality", "data": data, "path": path, "solver": solver}
    of |= {"steps": int(steps.split()[0]), "guidance": 0.0, "low": 0.0, "m": 0.0}
    options = {"CFG 0.5": {"guidance": 0.5}, "0.2 < σ/α": {"low": 0.2}}
    options |= {"fine-tuned": {"kind": "tuned"}}
    for one in more:
        of |= options[one]
    return {"kind": "scratch", **of}


def nag(way: Row, w: float, field: str = "frechet") -> np.ndarray:
    return np.array([row("nag", seed=seed, w=w, **way)[field] for seed in SEEDS])


def nag_shift(way: Row) -> tuple[float, float]:
    """Without guidance: at 0.2 < sigma / alpha <= 1, and the last."""
    ratio, by_level = nag(way, 0.0, "ratio")[0], nag(way, 0.0, "shift").mean(0)
    return by_level[(ratio > 0.2) & (ratio <= 1)].mean(), by_level[-1]


def nag_changes(way: Row) -> dict[float, np.ndarray]:
    """By weight, seed by seed: the distance over that without guidance, less 1."""
    measured = W[1:3] if way["steps"] == 250 else W[1:]
    return {w: nag(way, w) / nag(way, 0.0) - 1 for w in measured}


def nag_best(way: Row) -> float:
    changes = nag_changes(way)
    return min(changes, key=lambda w: np.log1p(changes[w]).mean())


def nag_verdict(way: Row) -> str:
    return nag_outcome(np.log1p(nag_changes(way)[nag_best(way)]))


def nag_outcome(changes: np.ndarray) -> str:
    """By more than 2 % in the mean, and in each seed."""
    if changes.mean() < -0.02 and max(changes) < 0:
        return "helps"
    return "hurts" if changes.mean() > 0.02 and min(changes) > 0 else "neither"


def nag_percent(changes: np.ndarray) -> str:
    return cell(100 * changes, "{:+.0f} ± {:.0f} %")


@cache
def nag_ways() -> list[tuple[str, Row]]:
    """All ways to sample that the page's tables have, with their names."""
    drawn = {(r["data"], r["path"]) for r in rows("nag") if r.get("m") == 0}
    every = itertools.product(("digits", "emoji"), ("flow", "ddpm"))
    lines = zip((of for of in every if of in drawn), tables("nag")[1:-3], strict=True)
    return [(n, nag_way(*of, n)) for of, table in lines for n, *_ in table]


def test_nag_ways() -> None:
    lines = [line for table in tables("nag")[1:-3] for line in table]
    for (name, *cells), (_, way) in zip(lines, nag_ways(), strict=True):
        changes, best = nag_changes(way), nag_best(way)
        expected = [f"{one:+.3f}".replace("-", "−") for one in nag_shift(way)]
        distances = [nag(way, w) if w in {0.0, *changes} else None for w in W]
        expected += ["" if one is None else cell(one) for one in distances]
        expected += [f"{best:g}", nag_percent(changes[best]), nag_verdict(way)]
        assert cells == expected, name
    of = ("data", "path", "solver", "steps", "guidance", "low", "kind")
    drawn = [r for r in rows("nag") if r["what"] == "quality" and not r["m"]]
    every = {tuple(r[field] for field in of) for r in drawn}
    assert every == {tuple(way[field] for field in of) for _, way in nag_ways()}


def test_nag_made_shifts_and_gains() -> None:
    made, gains = tables("nag")[-3:-1]
    for data, m, known, way_shift, last, plain, *cells in made:
        way = nag_way(data, "flow", "Heun, 10 steps") | {"m": float(m)}
        texts = (f"{one:+.3f}" for one in (np.log(float(m)), *nag_shift(way)))
        assert [known, way_shift, last] == [text.replace("-", "−") for text in texts]
        assert plain == cell(nag(way, 0.0), "{:.3f} ± {:.3f}")
        assert cells == [nag_percent(change) for change in nag_changes(way).values()]
    assert len(made) == 12
    for name, m, *cells in gains:
        data, path, *tuned = name.split(", ")
        of = {"what": "gain", "data": data, "path": path}
        of["kind"] = "tuned" if tuned else "scratch"
        found = np.mean([row("nag", seed=s, **of)["gains"] for s in SEEDS], axis=0)
        values = found[:, (0.8, 1.0, 1.2).index(float(m))]
        assert cells == [f"{value:+.2f}".replace("-", "−") for value in values]
    assert len(gains) == 15


def test_nag_variance() -> None:
    variance = tables("nag")[-1]
    for data, name, *cells in variance:
        sampler, *made = name.split(", from m = ")
        of = nag_way(data, "flow", sampler) | {"what": "spread"}
        of |= {"m": float(made[0])} if made else {}
        every = itertools.product(("leading", "rest", "means"), (0.0, 1.0))
        assert cells == [cell(nag(of, w, field)) for field, w in every]
    assert len(variance) == len([r for r in rows("nag") if r["what"] == "spread"]) / 6


def nag_judged(ways: Iterable[Row]) -> list[Judged]:
    found = []
    for way in ways:
        on_the_way, last = nag_shift(way)
        noisy = way["solver"] in {"Euler–Maruyama", "Ancestral"}
        found.append((on_the_way > 0, last > 0, noisy, nag_verdict(way) == "helps"))
    return found


def nag_made() -> list[Row]:
    every = itertools.product(("digits", "emoji"), (0.9, 1.0, 1.05, 1.1, 1.2, 1.4))
    return [nag_way(data, "flow", "Heun, 10 steps") | {"m": m} for data, m in every]


def nag_groups() -> list[list[Judged]]:
    """Of the toys, of the UNet, and of this study."""
    of = lambda data: (way for _, way in nag_ways() if way["data"] == data)
    ours = map(nag_judged, (of("digits"), of("emoji"), nag_made()))
    return [judged_toys(), judged_unet(), *ours]


def test_the_rules_of_nag() -> None:
    lines = tables("nag")[0]
    for i, (_, *cells) in enumerate(lines):
        found = []
        for judged in nag_groups():
            helped = [one[3] for one in judged]
            says = [one[i - 2] if i > 1 else i == 0 for one in judged]
            pairs = list(zip(says, helped, strict=True))
            alarms, missed = pairs.count((True, False)), pairs.count((False, True))
            right = len(pairs) - alarms - missed
            found.append(f"{right} of {len(pairs)} ({alarms}, {missed})")
        assert cells == found
    assert [name for name, *_ in lines[:2]] == ["everywhere", "nowhere"]
    assert [name for name, *_ in lines[2:]] == [name for name, *_ in tables("nag_unet")[0]]


def nag_spread(of: Row, field: str, w: float) -> float:
    return float(nag(of | {"what": "spread"}, w, field).mean())


def test_the_answer_of_nag() -> None:
    answer = " ".join(page("nag").split("!")[0].split())
    ways = [way for _, way in nag_ways()]
    at_best = lambda way: -100 * nag_changes(way)[nag_best(way)].mean()
    falls = sorted(at_best(way) for way in ways if nag_verdict(way) == "helps")
    assert f"gain in {len(falls)} of {len(ways)} ways to sample, by" in answer
    assert f"by {falls[0]:.0f} to {falls[-1]:.0f} %, with a noise shift" in answer
    by_kid = [nag_kid(way) for way in ways]
    assert f"and without, and by KID in {by_kid.count('helps')}." in answer
    assert {nag_verdict(way) for way in nag_made()} == {"helps"}
    digits = {way["m"]: way for way in nag_made() if way["data"] == "digits"}
    right, clean, noisy = (at_best(digits[m]) for m in (1.0, 0.9, 1.4))
    said = f"gain {right:.0f} % from states made by hand with the right noise, shift "
    assert f"{said}{nag_shift(digits[1.0])[0]:+.3f}, {clean:.0f} % from states" in answer
    assert f"and {noisy:.0f} % from those with 1.4 times the noise" in answer
    positive = sum(one[0] for one in judged_unet())
    assert f"too noisy in {positive} of {len(judged_unet())} ways" in answer
    assert not any(one[0] and one[3] for one in judged_unet())
    variance = (nag_spread(digits[1.0], "leading", w) for w in (0.0, 1.0))
    assert "from {:.2f} to {:.2f} of".format(*variance) in answer
    for of in (r for r in rows("nag") if r["what"] == "gain"):  # whatever the state's noise
        inside = [0.2 <= ratio <= 1 for ratio in of["ratio"]]
        assert np.ptp(of["gains"], axis=1)[inside].max() < 0.045


def nag_kid(way: Row, w: float | None = None) -> str:
    """What KID says of a way, as `nag_verdict`, at a weight or at the best by it."""
    of = {w: nag(way, w, "kid") / nag(way, 0.0, "kid") - 1 for w in nag_changes(way)}
    return nag_outcome(of[min(of, key=lambda w: of[w].mean()) if w is None else w])


def test_the_kid_of_nag() -> None:
    text = " ".join(page("nag").split())
    ways = dict(enumerate(nag_ways()))
    own = {i: nag_kid(way) for i, (_, way) in ways.items()}
    of = lambda data: [own[i] for i, (_, way) in ways.items() if way["data"] == data]
    digits, emoji = of("digits"), of("emoji")
    said = f"{digits.count('helps')} of {len(digits)} on digits and "
    said += f"{emoji.count('helps')} of {len(emoji)} on emoji, and rises as surely in "
    hurt = [(way["data"], name) for i, (name, way) in ways.items() if own[i] == "hurts"]
    assert f"{said}{len(hurt)}, Euler–Maruyama on emoji with 100" in text
    em = "Euler–Maruyama, {} steps"
    names = (em.format("100"), em.format("250"), em.format("50") + ", CFG 0.5")
    assert set(hurt) == {("emoji", name) for name in names}
    at = [nag_kid(way, nag_best(way)) for _, way in ways.values()]
    assert f"it falls in {at.count('helps')} ways and rises in {at.count('hurts')}." in text


def nag_way_shift(way: Row, w: float) -> np.ndarray:
    """The shift at 0.2 < sigma / alpha <= 1, a number a seed."""
    ratio = nag(way, 0.0, "ratio")[0]
    return nag(way, w, "shift")[:, (ratio > 0.2) & (ratio <= 1)].mean(1)


def test_what_nag_does_to_the_shift() -> None:
    text = " ".join(page("nag").split())
    sizes = [
        (way["data"], *(abs(nag_way_shift(way, w)) for w in (0.0, 1.0)))
        for _, way in nag_ways()
    ]
    nearer = [data for data, plain, guided in sizes if (guided < plain).all()]
    farther = [data for data, plain, guided in sizes if (guided > plain).all()]
    said = f"nearer 0 in each seed in {len(nearer)} of {len(sizes)} ways, and farther"
    assert f"{said} from it in {len(farther)}, eight of them digits" in text
    assert farther.count("digits") == 8
    for path, name in (("ddpm", "Ancestral, 50 steps"), ("flow", "Euler, 50 steps")):
        way = nag_way("digits", path, name)
        both = (f"{nag_way_shift(way, w).mean():+.3f}" for w in (0.0, 1.0))
        assert " → ".join(both).replace("-", "−") in text


def of_nag() -> set[str]:
    """Perfect draws, the range without guidance, and what the classifier says."""
    floors = {row("nag", what="real", data=d)["floor"] for d in ("digits", "emoji")}
    digits = [way for _, way in nag_ways() if way["data"] == "digits"]
    plain = [nag(way, 0.0).mean() for way in digits]
    ways = ("flow", "Euler–Maruyama, 50 steps"), ("ddpm", "Ancestral, 50 steps")
    said = (nag(nag_way("digits", *of), w, "accuracy") for of in ways for w in (0.0, 2.0))
    accuracy = {f"{100 * one.mean():.1f}" for one in said}
    guided = (
        nag_way_shift(nag_way("digits", *of), 1.0).mean()
        for of in (("ddpm", "Ancestral, 50 steps"), ("flow", "Euler, 50 steps"))
    )
    shown = {f"{one:.2f}" for one in (*floors, min(plain), max(plain))}
    return accuracy | shown | {f"{abs(one):.3f}" for one in guided}


DECIMAL = re.compile(r"\d+\.\d+")


def test_the_index_has_the_numbers_of_the_pages_that_it_links_to() -> None:
    claims = tables("index")[0]
    assert len(claims) > 10
    for claim, _, ours, verdict in claims:
        links = re.findall(r"\((\w+)\.md\)", verdict)
        said = {n for link in links for n in DECIMAL.findall(page(link))}
        assert set(DECIMAL.findall(ours)) - said == set(), claim
        assert re.match(r"\[(holds|holds in part|does not hold here)\]", verdict), claim


SETTINGS = {
    "classifier_guidance": set(),
    "nag_toys": {"0.6", "0.47", "0.3", "0.1", "0.04", "0.003", "1.5"}
    | {"0.97", "0.4", "0.02", "0.03", "0.05"}
    | {"0.83", "0.78", "0.73", "1.11", "1.36", "1.95"},  # of the tables, rounded
    "zero_terminal_snr": {"4.0"},
    "ema_lengths": {"0.021", "0.013", "0.62", "1.8", "12.7"},  # float16, and sums of shares
    "flow_against_score": {"0.3", "0.75", "0.02", "0.36"},
    "table_or_prediction": {"0.42", "0.33", "4.0"},
    "nag": {"0.2", "0.13", "0.34", "0.11", "0.86", "0.04", "4.0"},
    "nag_unet": {"0.2", "0.47", "0.1", "0.01", "0.0005", "0.02", "0.11", "0.09"},
    "edm2_ladder": {
        *("0.05", "0.10", "0.25"),
        *("8.00", "7.24", "6.96", "3.75", "3.02", "2.71", "2.56"),  # the paper's FIDs
        *("0.0", "1.2", "1.9", "2.15", "2.7", "8.3", "9.4", "14.7"),  # earlier trainings
    },
    "debias_order": {"6.9", "0.01", "0.001", "0.1", "4.0"},
    "improved_ddpm": {
        *("0.3", "0.9", "0.997", "0.999", "0.03"),
        *("0.00005", "1.5", "0.01"),  # test_the_weight_of_the_last_entry
        *("6.08", "5.83"),  # a look before the study
    },
}
"""Decimals of a page's method, and of other pages, which no row of its own measures."""


def of_flow() -> set[str]:
    """Decimals in prose that no table has, from the rows."""
    real = row("flow_against_score", what="real digits")
    alike = [("Euler", recipe) for recipe in RECIPES.values()] + [("SDE", "flow")]
    among = (quality(r, "among", "{:.2f}", solver=s, count=20) for s, r in alike)
    held = f"{100 * real['accuracy']:.1f}", f"{real['frechet']:.2f}"
    return {*among, *held, f"{real['floor']:.2f}"}


def of_table_or_prediction() -> set[str]:
    """Brightness, its differences, and alpha, rounded as prose has them."""
    data = row("table_or_prediction", what="data", split="train")["mean"]
    runs = [(name, grid) for name in TRAININGS.values() for grid in GRIDS]
    means = {run: brightness(*run, "mean").mean() for run in runs}
    eps, v, zero = (means[name, "trailing"] for name in TRAININGS.values())
    over = v - perfect("v", "trailing")[0]
    grids = max(abs(means[name, "leading"] - means[name, "trailing"]) for name, _ in runs)
    shown = data, eps, v, zero, zero - v, data - zero, over, grids
    alphas = (brightness(*run, "alpha")[0] for run in runs)
    return {f"{value:.2f}" for value in shown} | {f"{alpha:.3f}" for alpha in alphas}


def of_nag_unet() -> set[str]:
    """Shifts and distances of the tables, rounded, standard errors, what w = 0.5 costs."""
    cells = (
        cell for table in tables("nag_unet")[1:3] for _, *line in table for cell in line
    )
    numbers = (n for cell in cells for n in re.findall(r"\d+\.\d{3}", cell))
    near = {f"{float(n) + nudge:.2f}" for n in numbers for nudge in (-1e-9, 1e-9)}
    fine = [one for line in tables("nag_unet")[1] for one in blocks(line[0], 0.0)]
    errors = {f"{value:.3f}" for one in fine for value in one["error"]}
    names = [line[0] for line in tables("nag_unet")[1] if "10 steps" not in line[0]]
    pairs = [(n, b) for n in names for b in blocks(n, 0.5)]
    worse = (b["frechet"] - blocks(n, 0.0)[b["block"]]["frechet"] for n, b in pairs)
    return near | errors | {f"{max(worse):.3f}"}


def of_debias() -> set[str]:
    """Log SNR, held-out images, and decimals of the first study."""
    levels = [row("debias_order", what="data", data=d) for d in ("emoji8", "digits")]
    ends = {f"{abs(one[end]):.2f}" for one in levels for end in ("noisy", "clear")}
    held = [row("debias_order", what="held-out images", data=d) for d in IMAGES.values()]
    floor = row("flow_against_score", what="real digits")["floor"]
    distances = {f"{one['frechet']:.2f}" for one in held} | {f"{floor:.2f}"}

    def first(weighting: str, **key: object) -> list[Row]:
        runs = (f"{weighting}-{seed}" for seed in SEEDS)
        return [row("debias", run=run, **key) for run in runs]

    noise = set()
    for weighting in ("debias", "constant"):
        for clip in (False, True):
            found = first(weighting, what="x0 error", clip=clip)
            error = np.mean([one["x0_mse"][-1] for one in found])
            noise |= {f"{error:.1f}", f"{error:.2f}"}
    early, late = (
        {
            w: np.mean([one["accuracy"] for one in first(w, what="quality", **at)])
            for w in WEIGHTINGS.values()
        }
        for at in ({"step": step, "sampling_steps": 50} for step in (250, 1000))
    )
    accuracy = early["debias"], early["constant"], min(late.values()), max(late.values())
    return ends | distances | noise | {f"{100 * one:.1f}" for one in accuracy}


def of_improved_ddpm() -> set[str]:
    """Means of bounds, to two decimals, and the U-Net's and their differences."""
    found = {
        f"{bits(OBJECTIVES[name], step=step).mean():.2f}"
        for step in CHECKPOINTS
        for name in in_all_seeds(what="bound", step=step)
    }
    of = lambda run, variance, part="total": row(
        "improved_ddpm_unet", what="bits/dim", run=run, variance=variance
    )[part]["mean"]
    large = [of(f"simple-{table}", "LargeVariance") for table in ("linear", "cosine")]
    hybrid = [of(f"hybrid-{table}", "LearnedVariance") for table in ("linear", "cosine")]
    less = [a - b for a, b in ((large[0], hybrid[0]), (large[1], hybrid[1]), large, hybrid)]
    totals = [hybrid[1], of("vlb-cosine", "LearnedVariance"), *less]
    error = row("improved_ddpm_unet", what="bits/dim", run="hybrid-cosine")["total"][
        "error"
    ]
    prior = of("hybrid-linear", "LearnedVariance", "prior")
    unet = {f"{value:.2f}" for value in (*totals, error)} | {f"{prior:.5f}"}
    return found | unet


def of_zero_terminal_snr() -> set[str]:
    """Brightness as prose rounds it, its errors, and what SD's last level leaves."""
    found = [row("zero_terminal_snr", sampler=s) for s in ("eps-leading", "eps-trailing")]
    found.append(row("zero_terminal_snr", sampler="v-trailing"))
    cells = (line[2:] for line in tables("zero_terminal_snr")[0])
    near = {f"{float(c):.2f}" for line in cells for c in line if DECIMAL.fullmatch(c)}
    errors = {f"{np.std(one['brightness']) / np.sqrt(512):.3f}" for one in found}
    data = float(tables("zero_terminal_snr")[0][0][2])
    over = np.mean(found[-1]["brightness"]) - data
    alpha, noise = found[1]["alpha"], found[1]["sigma"] / np.sqrt(3072)
    left = {f"{noise:.3f}", f"{alpha * data:.3f}", f"{alpha * data / noise:.1f}"}
    return near | errors | left | {f"{over:.2f}", f"{100 * alpha:.1f}"}


def of_ema_lengths() -> set[str]:
    """Differences over lengths and between blocks, and what images say."""
    at = {
        one["std"]: np.array(one["frechet"])
        for one in rows("ema_lengths")
        if one["what"] == "quality" and one["step"] == 2000
    }
    inside = [distances for std, distances in at.items() if 0.05 <= std <= 0.15]
    least, apart = np.min(inside, axis=0), [abs(a - b) for a, b in inside]
    worse = (value for std in (0.02, 0.25) for value in at[std] - least)
    other = row("ema_lengths", what="images")["other"]
    (scale,) = (one["whole"] for one in rows("ema_lengths") if one.get("every") == 0)
    real = row("flow_against_score", what="real digits")
    errors = (100 * np.sqrt(p * (1 - p) / 1000) for p in (0.991, 0.979))
    return {
        *(f"{value:.3f}" for value in (*worse, min(apart), max(apart))),
        *(f"{value:.2f}" for value in (at[0.0].min(), real["floor"], real["frechet"])),
        *(f"{value:.1f}" for value in (100 * scale, other["mean"], *errors)),
        f"{row('ema_lengths', what='images')['made']['mean']:.3f}",
        f"{100 * other['beyond_8']:.1f}",
    }


def of_edm2_ladder() -> set[str]:
    """The least and most that a rate gains, and config C's ends."""
    gains = [(ladder(low) - ladder(high)).mean() for low, high in rates()]
    shown = min(gains), max(gains), ladder("c-x16").min(), ladder("c-x16").max()
    return {f"{value:.2f}" for value in shown}


COMPUTED = {
    "classifier_guidance": set,
    "nag_toys": set,
    "zero_terminal_snr": of_zero_terminal_snr,
    "ema_lengths": of_ema_lengths,
    "flow_against_score": of_flow,
    "table_or_prediction": of_table_or_prediction,
    "nag_unet": of_nag_unet,
    "nag": of_nag,
    "debias_order": of_debias,
    "edm2_ladder": of_edm2_ladder,
    "improved_ddpm": of_improved_ddpm,
}


@pytest.mark.parametrize("name", SETTINGS)
def test_every_decimal_in_prose_is_in_a_table_or_is_computed(name: str) -> None:
    text = re.sub(r"^```.*?^```", "", page(name), flags=re.MULTILINE | re.DOTALL)
    prose = "\n".join(line for line in text.splitlines() if not line.startswith("|"))
    cells = {
        n for t in tables(name) for line in t for c in line for n in DECIMAL.findall(c)
    }
    more = COMPUTED[name]() | SETTINGS[name]
    assert set(DECIMAL.findall(prose)) - cells - more == set()


def test_ema_lengths() -> None:
    made, over, *_ = tables("ema_lengths")
    errors = [
        (s, f) for s in (0.2, 0.1, 0.05) for f in ("whole", "largest", "profile_error")
    ]
    for (std, field), (_, _, *cells) in zip(errors, made, strict=True):
        for cell, every in zip(cells, (1, 2, 4, 8), strict=True):
            one = row("ema_lengths", what="weights", std=std, every=every)
            decimals = len(cell.split()[0].partition(".")[2])
            assert cell == f"{100 * one[field]:.{decimals}f} %"
    step = 2000
    for name, lack, *cells in over:
        if name.startswith("*"):
            step = 1000
            continue
        std = 0.0 if name == "last weights" else float(name)
        one = row("ema_lengths", what="quality", step=step, std=std)
        assert lack == (f"{100 * one['profile_error']:.2f} %" if std else "")
        styles = {"frechet": "{:.3f}", "accuracy": "{:.1f} %", "to_train": "{:.3f}"}
        for cell, (field, style) in zip(cells, styles.items(), strict=True):
            scale = 100 if field == "accuracy" else 1
            assert cell == ", ".join(style.format(scale * v) for v in one[field])


def test_quality_sweep() -> None:
    """To the four digits of means and two of spreads, of numbers kept to six."""
    metrics = ("fd", "kid", "rbf", "precision", "recall", "density", "coverage")
    names = [[f"{metric}_{by}" for metric in metrics] for by in ("lite0", "pixels8")]
    names.append(["brightness", "copied"])
    every = [(axis, some) for axis in ("std", "guidance", "steps") for some in names]
    found = tables("quality_sweep")
    for (axis, some), table in zip(every, found[: len(every)], strict=True):
        points = rows("quality_sweep")[axis]["rows"]
        at = {float(one["point"][axis]): one["blocks"] for one in points}
        assert [float(point) for point, *_ in table] == [*at]
        for point, *cells in table:
            for cell, name in zip(cells, some, strict=True):
                values = np.array([block[name] for block in at[float(point)]])
                mean, spread = map(float, cell.split(" ± "))
                assert mean == pytest.approx(values.mean(), rel=5.01e-4), (name, point)
                assert spread == pytest.approx(values.std(ddof=1), rel=0.0501)


def test_metrics() -> None:
    """Of faults, sizes and traps, all cells."""
    study, (faults, sizes, traps) = rows("metrics"), tables("metrics")
    spread = lambda values: over_seeds(values, "{:.3g} ± {:.2g}")
    judged = [f"{kind}_lite0" for kind in ("fd", "kid", "rbf", "recall", "coverage")]
    judged.append("brightness")
    lines, clean = iter(faults), None
    for name, fault in study["faults"].items():
        if fault["scores"][0] != clean:
            clean = fault["scores"][0]
            head, *cells = next(lines)
            assert head.startswith("clean")
            assert cells == ["", "", *(spread(clean[metric]) for metric in judged)]
        for level, scores in zip(fault["levels"][1:], fault["scores"][1:], strict=True):
            said, *cells = next(lines)
            assert (said, cells[:2]) == (name, [f"{level:g}", fault["unit"]])
            for cell, metric in zip(cells[2:], judged, strict=True):
                mean = np.mean(scores[metric])
                z = (mean - np.mean(clean[metric])) / np.std(clean[metric], ddof=1)
                value, _, of = cell.strip(")").partition(" (")
                assert value == f"{mean:.3g}"
                assert float(of) == pytest.approx(z, abs=0.51 if abs(z) > 9.9 else 0.051)
    assert next(lines, None) is None
    distances = [
        f"{kind}_{by}" for by in ("lite0", "pixels8") for kind in ("fd", "kid", "rbf")
    ]
    for number, *cells in sizes:
        scores = study["sizes"][number.replace(",", "")]
        assert cells == [spread(scores[metric]) for metric in distances]
    for metric, fresh, *cells in traps:
        of = iter(study["traps"].values())
        assert fresh == spread(next(of)[metric])
        assert cells == [f"{np.mean(scores[metric]):.3g}" for scores in of]


LADDER = tuple(
    f"{rung}-x{factor}"
    for rungs, factors in (("a", (16, 64)), ("bc", (4, 16)), ("defg", (1, 4)))
    for rung in rungs
    for factor in factors
)
"""Rungs and learning rates, times the config's."""
DISTANCES = ("frechet", "fd_lite0")


def ladder(name: str, field: str = "frechet", std: float = 0.1) -> np.ndarray:
    key = {"what": "quality", "arm": name, "std": std}
    return np.array([row("edm2_ladder", seed=seed, **key)[field] for seed in SEEDS])


def magnitude(name: str, kind: str, field: str) -> np.ndarray:
    key = {"what": "magnitudes", "arm": name}
    return np.array([row("edm2_ladder", seed=s, **key)[kind][field] for s in SEEDS])


def rates() -> list[tuple[str, str]]:
    """The lower and the higher arm of each rung."""
    return list(zip(LADDER[::2], LADDER[1::2], strict=True))


def test_the_answer_of_edm2_ladder() -> None:
    """The higher rate is the better one; which steps have one sign in all trainings."""
    for field in DISTANCES:
        for low, high in rates():
            assert ladder(high, field).mean() < ladder(low, field).mean()
    signs = {}
    for field in DISTANCES:
        of = [ladder(high, field) for _, high in rates()]
        signs[field] = [set(np.sign(b - a)) for a, b in itertools.pairwise(of)]
    assert signs["frechet"] == [{-1}, {-1, 1}, {-1, 1}, {-1, 1}, {1}, {-1}]
    assert signs["fd_lite0"] == [{1}, {1}, {-1}, {1}, {1}, {-1}]
    ahead = [(ladder("g-x4") < ladder(high)).sum() for _, high in rates()]
    assert ahead == [3, 3, 3, 3, 2, 3, 0]


def test_edm2_ladder() -> None:
    quality, steps, magnitudes, widths = tables("edm2_ladder")[:4]
    usual = "{:.2f} ± {:.2f}"
    for name, line, moved in zip(LADDER, quality, magnitudes, strict=True):
        rate = row("edm2_ladder", what="magnitudes", arm=name, seed=0)["rate"]
        head = [f"config {name[0].upper()}", f"{rate:.2g}"]
        two = [over_seeds(ladder(name, field), usual) for field in DISTANCES]
        accuracy = over_seeds(ladder(name, "accuracy"), "{:.1%} ± {:.1%}")
        assert line == [*head, *two, accuracy]
        mean = magnitude(name, "activations", "mean")
        share = over_seeds(magnitude(name, "weights", "grew"), "{:.0%} ± {:.0%}")
        growth, most = (magnitude(name, "weights", f) for f in ("growth", "largest_growth"))
        of = mean[:, 0], mean[:, -1], mean[:, -1] / mean[:, 0]
        cells = [over_seeds(growth[:, -1], usual), share, over_seeds(most, usual)]
        assert moved == [*head, *cells, *(over_seeds(v, usual) for v in of)]
    best = {name[0]: name for name in sorted(LADDER, key=lambda n: -ladder(n).mean())}
    for (_, *cells), field in zip(steps, DISTANCES, strict=True):
        of = (ladder(best[rung], field) for rung in "abcdefg")
        less = (over_seeds(b - a, "{:+.2f} ± {:.2f}") for a, b in itertools.pairwise(of))
        assert cells == [cell.replace("-", "−") for cell in less]
    for (_, *cells), field in zip(widths, DISTANCES, strict=True):
        stds = (0.0, 0.02, 0.05, 0.10, 0.15, 0.25)
        assert cells == [over_seeds(ladder("g-x4", field, std), usual) for std in stds]


def compiled(case: str) -> Row:
    """A case of benchmarks/accelerators.py."""
    return json.loads((RESULTS / "accelerators.json").read_text())[case]


def state(case: Row) -> int:
    return sum(case["memory"][part] for part in ("parameters", "averages", "moments"))


def sent(case: Row) -> float:
    return sum(size for _, size in map(_number_and_bytes, case["collectives"].values()))


def _number_and_bytes(collective: list | Row) -> tuple[int, float]:
    return tuple(collective.values() if isinstance(collective, dict) else collective)


PLANNED = (
    "xs-v5e",
    "s-v5e-64",
    "s-v6e",
    "s-v5p",
    "s64-v5e",
    "s-v5e-fsdp",
    "m-v5e",
    "xl-v5p",
)
LEFT = {"v5e": "15.75", "v6e": "31.25", "v5p": "95.74"}
"""GiB for a program."""
COLLECTIVES = {
    "all-gather": "all-gathers",
    "all-reduce": "all-reduces",
    "reduce-scatter": "reduce-scatters",
    "collective-permute": "permutes",
}


def test_planned_networks() -> None:
    lines = tables("accelerators")[8]
    for (name, *cells), case in zip(lines, PLANNED, strict=True):
        plan = compiled(f"plan-{case}")
        size, letters = plan["network"].removeprefix("img").split("-")
        assert name.split(", ")[:2] == [letters.upper(), size]
        named = ((many, plan["collectives"].get(one)) for one, many in COLLECTIVES.items())
        assert cells == [
            plan["topology"],
            str(plan["images"]),
            str(plan["fsdp"]),
            f"{state(plan) / 2**30:.2f}",
            f"{plan['memory']['total'] / 2**30:.2f}",
            LEFT[plan["topology"].split(":")[0]],
            f"{plan['flops'] / 1e12:.2f}",
            ", ".join(f"{found[0]} {many}" for many, found in named if found),
            f"{sent(plan) / 2**20:,.0f}",
            f"{sent(plan) / plan['minimum_sent']:.2f}",
        ]
        assert plan["products"]["float32"] == 112
        assert plan["commit"][:7] in page("accelerators")


def of_one_chip(case: Row) -> list[str]:
    """What the tables of EDM2's S say of it: memory but its parts, then numbers."""
    return [
        f"{case['memory']['total'] / 2**30:.2f}",
        f"{case['flops'] / 1e9:,.0f} G",
        f"{1e3 * case['seconds']:.1f}",
        f"{case['images_per_second']:,.0f}",
        f"{case['share_of_peak']:.1%}".replace("%", " %"),
        f"{sent(case) / 1e6:,.0f}, {sent(case) / case['minimum_sent']:.2f}",
    ]


@pytest.mark.parametrize(
    ("number", "cases"),
    [(5, ("s-v5e-before", "s-v5e", "s-v5e-fsdp")), (7, ("s-h100", "s-h100-fsdp"))],
)
def test_networks_compiled_for_one_chip(number: int, cases: tuple[str, ...]) -> None:
    lines = {name.split(",")[0].split(":")[0]: cells for name, *cells in
             tables("accelerators")[number]}  # fmt: skip
    names = (
        "memory",
        "operations a step",
        "time by the",
        "images a second",
        "share of",
        "sent",
    )
    for column, case in enumerate(cases):
        cells = [
            next(v for k, v in lines.items() if k.startswith(n))[column] for n in names
        ]
        cells[0] = cells[0].split(" = ")[1]
        assert cells == of_one_chip(compiled(case))
        assert compiled(case)["commit"][:7] in page("accelerators")


def test_the_time_of_s_by_kind() -> None:
    of_v5e = [compiled(case)["kinds"] for case in ("s-v5e", "s-v5e-fsdp")]
    of_h100 = [compiled(case)["kinds"] for case in ("s-h100", "s-h100-fsdp")]
    kinds = {name: cells for name, *cells in tables("accelerators")[6]}
    assert {*kinds} == {*of_v5e[0]} == {*of_h100[0]}
    gpu = {name.removeprefix("of it "): cells for name, *cells in tables("accelerators")[7]}
    gpu["convolution and matmul"] = gpu.pop("convolutions and products")
    for name, (_, *cells) in kinds.items():
        assert cells[:2] == [f"{1e3 * kind[name]['seconds']:.1f}" for kind in of_v5e], name
        assert gpu[name] == [f"{1e3 * kind[name]['seconds']:.1f}" for kind in of_h100], name
