"""Plots: densities up to the ends of their support, one direction, one colour a name."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

import jaxdiff as jd
from jaxdiff.analysis import curves, plots
from jaxdiff.evaluation import report
from jaxdiff.evaluation.likelihood import dataset_bound
from jaxdiff.objectives import timesteps

NOTEBOOK = Path(__file__).parents[2] / "notebooks/schedule_analysis.ipynb"


def vp_linear(logsnr: np.ndarray, low: float = 0.1, high: float = 20.0) -> np.ndarray:
    """The density of logsnr under uniform t on the VP-SDE: dt / dl in closed form.

    With B(t) = low t + (high - low) t^2 / 2 the path has SNR = 1 / (e^B - 1), so
    B = ln(1 + 1 / SNR) and |dl/dt| = B' / (1 - e^-B).
    """
    b = np.log1p(np.exp(-logsnr))
    t = (-low + np.sqrt(low**2 + 2 * (high - low) * b)) / (high - low)
    return np.where(t <= 1, -np.expm1(-b) / (low + (high - low) * t), 0.0)


def test_ddpm_linear_has_no_kink_at_the_end_of_its_path() -> None:
    """Beside the jump at its last entry the density is that of the path, as in between."""
    path = curves.density(jd.VPLinear(), timesteps.Uniform())
    np.testing.assert_allclose(path.drawn, vp_linear(path.logsnr), atol=2e-4)
    table = curves.density(jd.Table(jd.LinearBetas()), timesteps.Uniform())
    # 1000 entries follow the continuous path to 1 / 1000 of the density's range and more
    np.testing.assert_allclose(table.drawn, vp_linear(table.logsnr), atol=5e-4)
    last = np.flatnonzero(table.drawn)[0]
    assert table.logsnr[last] == pytest.approx(-10)
    assert table.ends[0] == pytest.approx(-10.1177, abs=1e-4)  # ln(alpha^2 / sigma^2)
    steps = np.diff(table.drawn[last : last + 6])
    assert (steps > 0).all()
    assert steps.max() < 1.5 * steps.min()  # 9 times, with the kink


@pytest.mark.parametrize(
    ("law", "low", "high"),
    [
        (timesteps.Uniform(0.2, 0.6), 0.2, 0.6),
        (timesteps.Stratified(timesteps.Uniform(0.2, 0.6)), 0.2, 0.6),
        (timesteps.Uniform(high=0.9), 0.0, 0.9),
    ],
)
def test_every_law_that_ends_within_the_axis_is_right_there(
    law: Any, low: float, high: float
) -> None:
    """dt / dl of the straight path, sech^2(l / 4) / 8, between the levels of two times."""
    density = curves.density(jd.RectifiedFlow(), law)
    ends = [2 * np.log((1 - t) / t) if t else np.inf for t in (high, low)]
    inside = (density.logsnr >= ends[0]) & (density.logsnr <= ends[1])
    exact = np.where(inside, 1 / np.cosh(density.logsnr / 4) ** 2 / 8 / (high - low), 0)
    np.testing.assert_allclose(density.drawn, exact, atol=3e-3)
    np.testing.assert_allclose(density.ends[0], ends[0], atol=1e-3)


def test_the_axis_may_end_within_the_support() -> None:
    density = curves.density(
        jd.VPLinear(), timesteps.Uniform(), low=-9.0, high=1.0, points=51
    )
    np.testing.assert_allclose(density.drawn, vp_linear(density.logsnr), atol=4e-4)


def test_the_jump_is_drawn_where_the_levels_end() -> None:
    law = curves.density(jd.VPLinear(), timesteps.Uniform())
    (line,) = plots.densities({"VP": law}).axes[0].lines
    x, y = line.get_data()
    (end,) = np.flatnonzero((y[:-1] == 0) & (y[1:] > 0))
    assert x[end] == x[end + 1] == pytest.approx(law.ends[0])
    assert (np.diff(x) >= 0).all()


def test_weights_stop_where_a_table_has_no_levels() -> None:
    """Between its first entries a table has no process: a dip there was its joining."""
    table = jd.Table(jd.LinearBetas())
    law = curves.density(table, timesteps.Uniform())
    effective = curves.effective(table, law, jd.UniformOnNetwork(jd.Eps()))
    known = np.isfinite(effective.x0)
    exact = np.exp(law.logsnr) * vp_linear(law.logsnr)
    np.testing.assert_allclose(effective.x0[known], exact[known], rtol=0.02)
    assert law.logsnr[known].max() > 6.5
    path = curves.effective(jd.VPLinear(), law, jd.UniformOnNetwork(jd.Eps()))
    assert np.isfinite(path.x0[(law.logsnr > -10) & (law.logsnr < 9)]).all()


def _axes_of_logsnr() -> dict[str, list[Any]]:
    """Axes of every plot over logSNR, by module."""
    law = curves.density(jd.Cosine(), timesteps.Uniform())
    effective = curves.effective(jd.Cosine(), law, jd.Debias())
    steps = curves.steps(jd.grids.Karras()(None, 6))
    pair = {"mean": 1.0, "error": 0.1}
    bins = [
        {"logsnr": [a, a + 1], "levels": 3, "x0_mse": pair, "eps_mse": pair}
        for a in (-3.0, 0.0, 2.0)
    ]
    results = {
        "bins": bins,
        "terms": {"logsnr": [-3.0, 0.0, 2.0], "vb_mean": [1.0, 0.5, 0.1]},
        "bits_per_dim": {"total": pair},
        "uncertainty": {"best": [0.0, 1.0, 2.0], "learned": [0.0, 1.0, 2.0]},
    }
    figure, kept = Figure(), []
    report._losses(figure.subplots(), bins)
    save, Figure.savefig = Figure.savefig, lambda self, *a, **k: kept.append(self)
    try:
        dataset_bound.save_plot(Path("/tmp/unused"), results)
    finally:
        Figure.savefig = save
    return {
        "densities": plots.densities({"a": law}).axes,
        "weightings": plots.weightings({"a": effective}).axes,
        "grids": plots.grids({"a": steps}).axes[:1],
        "bound": kept[0].axes,
        "page": figure.axes,
    }


def test_log_snr_runs_one_way_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset_bound, "write_atomically", lambda path, write: write(None))
    for name, panels in _axes_of_logsnr().items():
        for axes in panels:
            left, right = axes.get_xlim()
            assert left < right, name
            text = axes.get_xlabel()
            assert text.startswith("← noise"), name
            assert text.endswith("data →"), name
            assert not axes.texts, f"{name}: text over the curves"


def test_a_name_has_one_colour_in_every_figure() -> None:
    names = [
        [
            "SD, SDXL (scaled linear)",
            "DDPM linear",
            "IDDPM cosine",
            "rectified flow",
            "EDM",
        ],
        ["DDPM linear, uniform t", "flow, uniform t", "EDM, normal ln σ"],
        ["ε, linear (DDPM)", "ε, cosine", "flow, logit-normal t (SD3)", "EDM"],
        ["Karras (EDM)", "flow, uniform t", "DDPM, trailing"],
    ]
    colours = {
        n: look["color"]
        for row in names
        for n, look in zip(row, plots.looks(row), strict=True)
    }
    for word in ("DDPM", "EDM", "flow"):
        shared = {c for n, c in colours.items() if word in n and "cosine" not in n}
        assert len(shared) == 1, word
    assert len(set(colours.values())) == 5
    mine = plots.looks(["my recipe"])[0]["color"]
    assert plots.looks(["another", "EDM", "my recipe"])[2]["color"] == mine


def test_curves_of_one_figure_can_be_told_apart() -> None:
    names = ["ε, cosine", "min-SNR-5, cosine", "v, cosine", *(f"law {i}" for i in range(9))]
    looks = [(look["color"], look["ls"]) for look in plots.looks(names)]
    assert len(set(looks)) == len(looks)


def test_the_notebook_and_the_command_use_names_with_known_paths() -> None:
    text = "".join("".join(c["source"]) for c in json.loads(NOTEBOOK.read_text())["cells"])
    for name in ("Stable Diffusion", "rectified flow", "EDM (Karras)"):
        assert f'"{name}"' in text
        assert plots.looks([name])[0]["color"] in plots.PATHS.values()


def test_names_are_no_mathematics(tmp_path: Path) -> None:
    law = curves.density(jd.Cosine(), timesteps.Uniform())
    steps = curves.steps(jd.grids.Karras()(None, 6))
    for figure in (plots.densities({"$\\frac{$": law}), plots.grids({"$\\frac{$": steps})):
        figure.savefig(tmp_path / "x.png")
