"""Debias: the page is what its JSON says."""

import itertools
from functools import partial
from typing import Any

import numpy as np
import pytest

from tests.results.pages import SEEDS, Row, cell, over_seeds, page, row, tables

WEIGHTINGS = {"constant": "constant", "P2": "p2", "min-SNR": "min_snr", "Debias": "debias"}

IMAGES = {
    "emoji, 8×8": "emoji8",
    "emoji in colour, 4×4": "colour4",
    "digits, 8×8": "digits",
}

EACH = [(name, like) for name in list(IMAGES)[:2] for like in ("8", "256")]
"""On which all four weightings are compared."""

SIZES = [("emoji, 8×8", like) for like in ("8", "16", "64", "128", "256")]
SIZES += [("digits, 8×8", like) for like in ("8", "256")]
"""On which constant and Debias are."""


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
    assert [(name, like) for name, like, *_ in sizes] == SIZES
    less = {
        (data, like): arm(data, like, "debias") - arm(data, like, "constant")
        for data, like in ((IMAGES[name], int(like)) for name, like in SIZES)
    }
    assert all((less["emoji8", like] > 0).all() for like in (8, 16))
    assert all((less["emoji8", like] < 0).all() for like in (128, 256))
    assert abs(less["emoji8", 64].mean()) < less["emoji8", 64].std(ddof=1)
    assert (less["digits", 8] > 0).all()
    assert (less["digits", 256] < 0).all()


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
    there = f"{at(256, 'debias'):.2f}, first of four, and {at(256, 'constant'):.2f};"
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
