"""Zero terminal SNR: its two pages are what their JSON says."""

import numpy as np
import pytest

from tests.results.pages import DECIMAL, SEEDS, over_seeds, page, row, tables

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
