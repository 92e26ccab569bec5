"""Improved DDPM: the page is what its JSON says."""

import itertools
from functools import partial

import numpy as np
import pytest

from tests.results.pages import SEEDS, cell, page, rounded, row, rows, tables
from tests.results.test_flow_against_score import STEPS

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
