"""What an imported DiT and SiT draw, by our solvers, guided, and in the published ways."""

import dataclasses
import functools
import runpy
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.config import Experiment, published
from jaxdiff.data import Pixels
from jaxdiff.interop.published import Choices
from jaxdiff.runs import generate, restoring
from jaxdiff.runs import published as importing
from jaxdiff.runtime import sharding
from jaxdiff.sampling import grids
from jaxdiff.sampling.solvers import EulerMaruyama
from jaxdiff.schedules.posterior import LargeVariance, LearnedVariance
from tests.cases.commands import run
from tests.model_goldens import FILES

SEEDS, LABEL = np.arange(3), np.array([1, 0, 5], np.int32)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The two golden files, imported."""
    held = {"dit": ("dit_a.pt", 4), "sit": ("sit_a_training.pt", 2)}
    out = {kind: tmp_path_factory.mktemp(kind) for kind in held}
    for kind, (file, heads) in held.items():
        importing.load(FILES / file, out[kind], choices=Choices(heads=heads)).write()
    return out


@functools.cache
def model(folder: Path) -> restoring.Restored:
    return restoring.restore(folder)


def drawn(
    folder: Path, devices: int = 1, batch: int = 3, noise_dropout: float = 0.0, **how: Any
) -> np.ndarray:
    """x0 of three seeds, sampled as `how` says."""
    e = model(folder).experiment
    sampling = dataclasses.replace(e.sampling, **how)
    e = dataclasses.replace(e, noise_dropout=noise_dropout, sampling=sampling)
    mesh = sharding.data_mesh(jax.devices()[:devices])
    variables = jax.device_put(model(folder).variables, sharding.replicated(mesh))
    draw = generate.sampler(e)
    return generate.images(draw, variables, Raw(), SEEDS, LABEL, mesh, batch)


class Raw(Pixels):
    """x0 as it is."""

    def decode(self, x0: Any, mesh: Any = None) -> Any:
        return np.asarray(x0)


@pytest.mark.parametrize(("kind", "rtol"), [("sit", 1e-3), ("dit", 1.5e-2)])
def test_solvers_of_the_flow_draw_the_same_images(
    kind: str, rtol: float, folders: dict[str, Path]
) -> None:
    """The untrained DiT's are hundreds large, as its eps is divided by alpha = 0.006."""
    runs = [(jd.Heun(), 48), (jd.DPMSolverPP(), 32), (jd.Euler(), 160)]
    exact, *others = [
        drawn(folders[kind], solver=solver, steps=steps) for solver, steps in runs
    ]
    for other in others:
        np.testing.assert_allclose(other, exact, rtol=0, atol=rtol * np.abs(exact).max())
    assert np.abs(exact[0] - exact[1]).max() > 0.1


def test_the_adaptive_way_follows_the_ode_to_the_data(folders: dict[str, Path]) -> None:
    """With a smaller tolerance than the published one, which is off by 4e-3 here."""
    way = published.SAMPLING["sit-adaptive-guided-3"].sampling
    exact = drawn(folders["sit"], solver=jd.Heun(), steps=48, rule=way.rule)
    solver = dataclasses.replace(way.solver, rtol=1e-6)
    how = {"grid": way.grid, "steps": way.steps, "solver": solver, "rule": way.rule}
    adaptive = drawn(folders["sit"], **how)
    np.testing.assert_allclose(adaptive, exact, rtol=0, atol=3e-4 * np.abs(exact).max())


@pytest.mark.parametrize("kind", ["sit", "dit"])
@pytest.mark.parametrize("solver", [EulerMaruyama(), jd.Ancestral(LargeVariance())])
def test_images_guided_by_label_and_noise_depend_on_no_batch_and_no_device(
    kind: str, solver: Any, folders: dict[str, Path]
) -> None:
    how = {"solver": solver, "steps": 12, "guidance": 0.5, "noise_guidance": 0.3}
    one = drawn(folders[kind], noise_dropout=0.1, **how)
    many = drawn(folders[kind], devices=2, batch=2, noise_dropout=0.1, **how)
    scale = np.abs(one).max()
    np.testing.assert_allclose(many, one, rtol=0, atol=2e-5 * scale)
    plain = drawn(folders[kind], **{**how, "noise_guidance": 0.0})
    assert np.isfinite(one).all()
    assert np.abs(one - plain).max() > 1e-3 * scale


# ---------------------------------------------------------------- the published ways


@pytest.mark.parametrize("name", ["linear-1000", "cosine-4000"])
def test_respaced_steps_are_told_by_their_numbers(name: str) -> None:
    """250 entries from the last to the first, as Improved DDPM spaces them."""
    path = published.table(name)
    levels = published.SAMPLING["adm"].sampling.grid(path, 250)
    kept = np.array(jd.section_spacing(path.steps, (250,)))[::-1]
    alpha_bar = np.cumprod(1 - path.betas())[kept]
    np.testing.assert_allclose(levels.alpha[:-1] ** 2, alpha_bar, rtol=1e-9)
    assert levels.sigma[-1] == 0
    with jax.enable_x64(True):
        at = levels[:-1]
        plain = published.index_label(path, scaled=False)(at)
        scaled = published.index_label(path, scaled=True)(at)
    np.testing.assert_allclose(plain, kept, rtol=0, atol=1e-6)
    np.testing.assert_allclose(scaled, kept * 1000 / path.steps, rtol=0, atol=1e-6)


def test_steps_of_sit_s_sde_end_with_one_of_0_04() -> None:
    way = published.SAMPLING["sit-sde"].sampling
    levels = way.grid(jd.RectifiedFlow(), way.steps)
    expected = np.append(1 - np.linspace(0, 1 - 0.04, 250), 0.0)
    np.testing.assert_allclose(levels.sigma, expected, rtol=0, atol=1e-12)


def test_guidance_of_three_channels_is_offered_and_all_is_the_default() -> None:
    for name, way in published.SAMPLING.items():
        s = way.sampling
        assert s.guidance == (0.5 if "guided" in name else 0.0)
        three = isinstance(s.rule, jd.guidance.FirstChannels)
        assert three == name.endswith("-3")
        if three:
            assert s.rule.count == 3
    fids = {name: way.fid for name, way in published.SAMPLING.items() if way.fid}
    assert fids["dit-guided-3"] == {"dit-xl2-256": 2.27, "dit-xl2-512": 3.04}
    assert {*fids} == {"adm", "dit", "dit-guided-3", "sit-sde", "sit-sde-guided-3",
                       "sit-adaptive-guided-3"}  # fmt: skip


def test_only_the_adaptive_way_needs_diffrax(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffrax", None)
    ways = runpy.run_path(published.__file__)["SAMPLING"]
    needs = []
    for name, way in ways.items():
        try:
            assert way.sampling.steps > 0
        except ImportError:
            needs.append(name)
    assert needs == ["sit-adaptive-guided-3"]


def test_a_way_keeps_the_run_s_average_and_needs_its_table(
    folders: dict[str, Path],
) -> None:
    dit, sit = (model(folders[kind]).experiment for kind in ("dit", "sit"))
    assert dit.sampling.solver == jd.Ancestral(LearnedVariance())
    assert (dit.sampling.grid, dit.sampling.steps) == (grids.Linspace(), 250)
    sde = published.sampled_as(sit, "sit-sde-guided-3")
    assert isinstance(sde.sampling.solver, EulerMaruyama)
    assert (sde.sampling.std, sde.sampling.images) == (0.9999, 64)
    for experiment, name, needed in (
        (sit, "dit", "trained on a Table, and this one was on a RectifiedFlow"),
        (dit, "sit-ode", "trained on a RectifiedFlow, and this one was on a Table"),
    ):
        with pytest.raises(ValueError, match=f"'{name}' samples networks .*{needed}"):
            published.sampled_as(experiment, name)
    unlabelled: Experiment = dataclasses.replace(
        sit, network=sit.network.clone(label_dim=0), label_dropout=0.0,
        sampling=dataclasses.replace(sit.sampling, guidance=0.0),
    )  # fmt: skip
    with pytest.raises(ValueError, match="needs a network trained with and without label"):
        published.sampled_as(unlabelled, "sit-ode-guided")


def test_pictures_by_the_command(folders: dict[str, Path]) -> None:
    folder = folders["sit"]
    flags = f"--workdir={folder}", "--number=3", "--steps=3", "--preset=sit-sde-guided-3"
    done = run("sample", *flags)
    assert done.status == 0, done.err
    held = np.load(folder / "sit-sde-guided-3.npz")
    assert held["images"].shape == (3, 8, 8, 4)
    assert (folder / "sit-sde-guided-3.png").stat().st_size > 0
