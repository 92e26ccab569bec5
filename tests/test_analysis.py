"""Analysis: published residual signals, closed-form densities, identities; the command."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff import schedules
from jaxdiff.analysis import curves, plots
from jaxdiff.objectives import timesteps
from jaxdiff.objectives.losses import Total, Uncertain, WeightedError
from jaxdiff.sampling.grids import Karras, Trailing, Uniform
from jaxdiff.types import NoiseLevel
from tests.cases import commands
from tests.toys import SCHEDULES, follow

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("schedule", "amplitude"),
    [  # [ZTSNR tab. 1]; its cosine is a float32 product, 4.92822e-5
        (jd.Table(jd.ScaledLinearBetas()), 6.8264914217e-02),
        (jd.Table(jd.LinearBetas()), 6.3528180876e-03),
        (jd.Table(jd.CosineBetas()), 4.9282521314e-05),
        (jd.Table(jd.ScaledLinearBetas(start=0.0015, end=0.0195)), 1.1929122985e-02),
        (jd.VPLinear(), 6.5715864949e-03),
    ],
)
def test_residual_signal(schedule: Any, amplitude: float) -> None:
    left = curves.terminal(schedule)
    # ten digits, as published; the table's angle keeps them
    assert left.amplitude == pytest.approx(amplitude, rel=2e-10)
    assert left.power == pytest.approx(amplitude**2, rel=4e-10)
    assert left.snr == pytest.approx(1 / (1 / amplitude**2 - 1), rel=4e-10)
    assert left.logsnr == pytest.approx(math.log(left.snr), abs=1e-9)


@pytest.mark.parametrize("betas", [jd.LinearBetas, jd.ScaledLinearBetas, jd.CosineBetas])
def test_zero_terminal_snr_leaves_exactly_nothing(betas: Any) -> None:
    left = curves.terminal(jd.zero_terminal_snr(jd.Table(betas())))
    assert (left.amplitude, left.power, left.snr) == (0, 0, 0)
    assert left.logsnr == -math.inf


def test_terminal_on_edms_path_is_relative_to_the_noise() -> None:
    left = curves.terminal(jd.LogSigma(sigma_max=80.0))
    assert left.amplitude == pytest.approx(1 / math.sqrt(1 + 80**2), rel=1e-12)


@pytest.mark.parametrize("name", SCHEDULES)
def test_path(name: str) -> None:
    path = curves.path(SCHEDULES[name], points=11)
    assert path.t.tolist() == pytest.approx(np.linspace(0, 1, 11))
    assert (np.diff(path.logsnr) < 0).all()
    inner = slice(1, -1)  # logsnr may be infinite at the ends
    ratio = path.sigma[inner] / path.alpha[inner]
    np.testing.assert_allclose(np.exp(-path.logsnr[inner] / 2), ratio, rtol=1e-10)


def _normal(mean: float, std: float) -> Any:
    return lambda x: np.exp(-(((x - mean) / std) ** 2) / 2) / (std * math.sqrt(2 * math.pi))


LAWS = {
    "cosine": (
        jd.Cosine(),
        timesteps.Uniform(),
        lambda x: 1 / np.cosh(x / 2) / (2 * np.pi),
    ),
    "flow": (
        jd.RectifiedFlow(),
        timesteps.Uniform(),
        lambda x: 1 / np.cosh(x / 4) ** 2 / 8,
    ),
    "edm": (jd.LogSigma(), timesteps.NormalLogSigma(-1.2, 1.2), _normal(2.4, 2.4)),
    "sd3": (jd.RectifiedFlow(), timesteps.LogitNormal(0.5, 0.7), _normal(-1.0, 1.4)),
    "shares": (
        jd.Cosine(),
        timesteps.Stratified(timesteps.Uniform()),
        lambda x: 1 / np.cosh(x / 2) / (2 * np.pi),
    ),
}
"""Laws whose density over logsnr is known, per nat [KG]."""


@pytest.mark.parametrize("name", LAWS)
def test_density_of_quantiles(name: str) -> None:
    schedule, law, exact = LAWS[name]
    density = curves.density(schedule, law)
    # triangles of 0.2 nats smooth: p'' 0.2^2 / 12, 4.9e-4 for the narrowest of these
    np.testing.assert_allclose(density.drawn, exact(density.logsnr), atol=5e-4)
    np.testing.assert_array_equal(density.meant, density.drawn)
    total = density.drawn.sum() * 0.2
    assert total + density.outside == pytest.approx(1, abs=1e-3)


class Skewed:
    """A law that offers draws alone: t = u^m, p = 1 / (2 sqrt t) for m = 2.

    Meant to be uniform; the memory is m.
    """

    def init(self) -> float:
        return 2.0

    def draw(self, memory: float, key: Any, shape: Any, schedule: Any) -> Any:
        t = jax.random.uniform(key, shape) ** memory
        return t, 2 * jnp.sqrt(t)

    def update(self, memory: float, t: Any, loss: Any) -> float:
        return memory


def test_density_of_draws_and_their_importance_weights() -> None:
    """Under p(t) = 1 / (2 sqrt t) of the flow, and back to the uniform law by weights."""
    density = curves.density(jd.RectifiedFlow(), Skewed(), -10.0, 10.0, 101)
    t = 1 / (1 + np.exp(density.logsnr / 2))
    uniform = 1 / np.cosh(density.logsnr / 4) ** 2 / 8
    # 2^21 draws leave sqrt(2 p / (3 n 0.2)) or 6e-4 at the top; five of those
    np.testing.assert_allclose(density.drawn, uniform / (2 * np.sqrt(t)), atol=3e-3)
    np.testing.assert_allclose(density.meant, uniform, atol=3e-3)
    other = curves.density(jd.RectifiedFlow(), Skewed(), memory=1.0)
    assert density.drawn[50] != pytest.approx(other.drawn[75], rel=0.1)


def _exact(name: str) -> tuple[Any, curves.LogSNRDensity]:
    """A schedule and its density, in closed form."""
    schedule, _, exact = LAWS[name]
    logsnr = np.linspace(-9, 9, 61)
    full = np.full(61, np.inf)
    return schedule, curves.LogSNRDensity(logsnr, exact(logsnr), exact(logsnr), full, 0.0)


def _sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def test_debias_on_the_cosine_path_is_the_sigmoid_weighting() -> None:
    """sech(l / 2) exp(-l / 2) = 2 sigmoid(-l), up to the density's factor 2 pi [KG]."""
    schedule, law = _exact("cosine")
    effective = curves.effective(schedule, law, jd.Debias())
    np.testing.assert_allclose(np.pi * effective.eps, _sigmoid(-law.logsnr), rtol=1e-9)


def test_rows_of_the_kingma_gao_form() -> None:
    """Published weights per nat on the eps error, as functions of logSNR alone."""
    lam = np.linspace(-9, 9, 61)
    uniform = jd.UniformOnNetwork
    for name, weighting, expected in (
        ("cosine", uniform(jd.Eps()), 1 / np.cosh(lam / 2) / (2 * np.pi)),
        ("cosine", uniform(jd.V()), np.exp(-lam / 2) / np.pi),
        ("flow", uniform(jd.Flow()), np.exp(-lam / 2) / 2),
        ("flow", uniform(jd.X0()), np.exp(-lam) / np.cosh(lam / 4) ** 2 / 8),
        (
            "cosine",
            jd.MinSNR(5.0),
            np.minimum(1, 5 * np.exp(-lam)) / np.cosh(lam / 2) / 2 / np.pi,
        ),
        (
            "edm",
            uniform(jd.EDM(0.5)),
            _normal(2.4, 2.4)(lam) * (np.exp(-lam) + 0.25) / 0.25,
        ),
    ):
        schedule, law = _exact(name)
        effective = curves.effective(schedule, law, weighting)
        np.testing.assert_allclose(effective.eps, expected, rtol=1e-9, err_msg=name)
        snr = np.exp(lam)
        np.testing.assert_allclose(effective.x0, snr * expected, rtol=1e-9)
        np.testing.assert_allclose(effective.v, snr / (1 + snr) * expected, rtol=1e-9)
        ratio = snr / (1 + np.sqrt(snr)) ** 2
        np.testing.assert_allclose(effective.flow, ratio * expected, rtol=1e-9)


def test_nothing_is_said_where_nothing_is_known() -> None:
    """Beyond the schedule's ends, and where points are few."""
    ddpm = jd.Table(jd.LinearBetas())
    law = curves.density(ddpm, timesteps.Uniform())
    effective = curves.effective(ddpm, law, jd.Debias())
    assert np.isnan(effective.eps[law.logsnr < -10.2]).all()
    assert np.isfinite(effective.eps[(law.logsnr > -10.1) & (law.logsnr < 6.5)]).all()
    # from entry 7 on, at 6.795, entries lie further apart than nodes, 0.2 nats
    assert np.isnan(effective.eps[law.logsnr > 6.795]).all()
    flow = jd.RectifiedFlow()
    law = curves.density(flow, timesteps.LogitNormal())
    effective = curves.effective(flow, law, jd.Debias())
    # 2^21 points of N(0, 2^2) in triangles of 0.2 nats: 100 of them are left at 7.33
    assert np.isfinite(effective.eps[np.abs(law.logsnr) < 7.25]).all()
    assert np.isnan(effective.eps[np.abs(law.logsnr) > 7.35]).all()


def test_weightings_of_a_loss() -> None:
    a, b = WeightedError(jd.Debias()), WeightedError(jd.MinSNR())
    loss = Total(((2.0, Uncertain(a)), (0.5, Total(((3.0, b),)))))
    assert curves.weightings(loss) == ((2.0, jd.Debias()), (1.5, jd.MinSNR()))
    assert curves.weightings(object()) == ()


GRIDS = {
    "karras": Karras()(None, 12),
    "flow": Uniform()(jd.RectifiedFlow(), 12),
    "cosine_stopping": Uniform(end=0.1)(jd.Cosine(), 12),
    "trailing": Trailing()(jd.zero_terminal_snr(jd.Table(jd.LinearBetas())), 12),
}


@pytest.mark.parametrize("name", GRIDS)
def test_steps_are_what_euler_does(name: str, x64: None) -> None:
    """One Euler step on x + delta, less one on x, with the denoiser of N(0, 0.7^2)."""
    levels = GRIDS[name]
    steps = curves.steps(levels, std=0.7)
    toy = jd.gaussian_denoiser(0.0, 0.7)
    for i in range(12):
        pair = NoiseLevel(levels.alpha[i : i + 2], levels.sigma[i : i + 2])
        out = follow(jd.Euler(), toy, np.ones((1, 1)), pair)[-1]
        assert steps.error[i] == pytest.approx(out[0, 0], abs=1e-6)  # float32 levels
    finite = np.isfinite(steps.h)
    np.testing.assert_allclose(steps.kept, np.exp(-steps.h), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(steps.h[finite], np.diff(steps.logsnr)[finite] / 2)
    assert steps.share.sum() == pytest.approx(1)
    # the exact flow keeps x / sqrt(alpha^2 std^2 + sigma^2), over all steps together
    spread = np.hypot(0.7 * np.asarray(levels.alpha), np.asarray(levels.sigma))
    assert steps.exact.prod() == pytest.approx(spread[-1] / spread[0], rel=1e-6)


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="low < high and 2 points, got 1"):
        curves.density(jd.Cosine(), timesteps.Uniform(), low=1.0, high=0.0)
    with pytest.raises(ValueError, match="std must be above 0, got 0"):
        curves.steps(GRIDS["karras"], std=0.0)


def test_plots_have_titles_units_and_every_name(tmp_path: Path) -> None:
    named = {f"law {i}": curves.density(jd.Cosine(), timesteps.Uniform()) for i in range(9)}
    paths = {"a": curves.path(jd.Cosine()), "b": curves.path(jd.LogSigma())}
    recipes = {
        "d": curves.effective(jd.Cosine(), named["law 0"], jd.Debias()),
        "m": curves.effective(jd.Cosine(), named["law 0"], jd.MinSNR()),
    }
    for figure, panels, names in (
        (plots.schedules(paths), 3, paths),
        (plots.densities(named), 1, named),
        (plots.weightings(recipes, on=("eps", "x0", "v", "flow")), 4, recipes),
        (plots.grids({k: curves.steps(g) for k, g in GRIDS.items()}), 3, GRIDS),
    ):
        assert len(figure.axes) == panels
        assert figure.get_suptitle()
        texts = [t.get_text() for legend in figure.legends for t in legend.get_texts()]
        texts += [t.get_text() for t in figure.axes[0].get_yticklabels()]
        assert set(names) <= set(texts)
        assert all("[" in a.get_xlabel() or "step" in a.get_xlabel() for a in figure.axes)
        file = tmp_path / "plot.png"
        figure.savefig(file)
        assert file.read_bytes()[:4] == b"\x89PNG"
    looks = [(line.get_color(), line.get_linestyle()) for line in
             plots.densities(named).axes[0].lines]  # fmt: skip
    assert len(set(looks)) == len(looks)


def test_the_command_writes_pictures_and_tables(tmp_path: Path) -> None:
    done = commands.run("analyze", f"--out={tmp_path}")
    assert done.status == 0, done.err
    for name in ("schedules", "densities", "weightings", "grids"):
        assert (tmp_path / f"{name}.png").stat().st_size > 20_000
    with open(tmp_path / "terminal.csv") as file:
        rows = {row["schedule"]: row for row in csv.DictReader(file)}
    assert float(rows["SD, SDXL (scaled linear)"]["amplitude"]) == pytest.approx(
        0.068265, abs=5e-7
    )
    assert float(rows["DDPM linear"]["amplitude"]) == pytest.approx(0.0063528, abs=5e-8)
    assert float(rows["IDDPM cosine"]["amplitude"]) == pytest.approx(4.92825e-5, abs=5e-11)
    assert float(rows["SD, zero terminal SNR"]["amplitude"]) == 0
    for name in ("0.0682649", "0.00635282", "4.92825e-05"):
        assert name in done.out
    table = json.loads((tmp_path / "terminal.json").read_text())
    assert table["rectified flow"]["logsnr"] == "-inf"
    assert {n: float(r["snr"]) for n, r in rows.items()} == {
        n: r["snr"] for n, r in table.items()
    }


def test_the_command_on_one_experiment(tmp_path: Path) -> None:
    config = f"--config={ROOT / 'configs/digits.py'}"
    changed = "--config.schedule.sigma_max=10.0"
    done = commands.run("analyze", config, f"--out={tmp_path}", changed)
    assert done.status == 0, done.err
    (row,) = json.loads((tmp_path / "terminal.json").read_text()).values()
    assert row["sigma"] == pytest.approx(10)


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--std=-1", "--std must be above 0 and finite, got -1.0"),
        ("--std=inf", "--std must be above 0 and finite, got inf"),
        ("--std=nan", "--std must be above 0 and finite, got nan"),
        ("--out=", "--out is missing or empty: name a folder, as runs/mine"),
    ],
)
def test_the_command_refuses_before_it_writes(
    flag: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = commands.run("analyze", flag)
    assert (done.status, done.err) == (1, f"error: {message}\n")
    assert not list(tmp_path.iterdir())


def test_every_built_in_schedule_is_in_the_table() -> None:
    """A recipe of betas, or a path, that is added has to be listed."""
    text = (ROOT / "jaxdiff" / "commands" / "analyze.py").read_text()
    listed = {"Betas", "ListedBetas", "RespacedBetas", "ZeroTerminalBetas", "Table"}
    others = {"Shifted", "SmallVariance", "LargeVariance", "LearnedVariance"}
    for name in schedules.__all__:
        if name[0].isupper() and name not in listed | others:
            assert name in text
