"""EDM2: its ladder, averages and quality are what the JSON says."""

import itertools

import numpy as np
import pytest

from tests.results.pages import SEEDS, over_seeds, row, rows, tables


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
