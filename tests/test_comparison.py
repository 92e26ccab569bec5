"""Solvers side by side: what is counted, measured and drawn."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import jaxdiff as jd
from jaxdiff import evaluation
from jaxdiff.data import Pixels
from jaxdiff.evaluation import compare_solvers
from jaxdiff.evaluation.extractors.extractor import extractor
from jaxdiff.runs import generate
from jaxdiff.runtime import sharding
from jaxdiff.sampling.grids import Listed
from tests.test_generate import SAMPLED, variables

SEEDS, LABEL = np.arange(6), np.arange(6) % 3
CHOSEN = [jd.Heun(), jd.Euler(), jd.Adaptive(rtol=1e-2, atol=1e-2)]


@pytest.fixture(scope="module")
def rows() -> list[compare_solvers.Row]:
    args = (SAMPLED, variables(0), CHOSEN, [3], SEEDS, LABEL, 4)
    return [*compare_solvers.compare(*args, judge())]


def judge() -> evaluation.Judge:
    """Of eighty images of noise, by their pixels."""
    real = np.random.default_rng(0).integers(0, 256, (80, 8, 8, 1), np.uint8)
    mesh, extractors = sharding.data_mesh(), (extractor("pixels8"),)
    seen = evaluation.observe(evaluation.in_memory(real), extractors, mesh)
    return evaluation.Judge(extractors, seen, mesh)


def test_each_row_is_what_its_solver_draws(rows: Any) -> None:
    for row in rows:
        sampling = dataclasses.replace(SAMPLED.sampling, solver=row.solver, steps=3)
        draw = generate.sampler(dataclasses.replace(SAMPLED, sampling=sampling))
        mesh = sharding.data_mesh()
        images = generate.images(draw, variables(0), Pixels(), SEEDS, LABEL, mesh, 6)
        assert np.abs(row.images.astype(int) - images).max() <= 1
        assert row.seconds > 0


def test_calls_are_counted(rows: Any) -> None:
    heun, euler, adaptive = (row.nfe for row in rows)
    assert (heun, euler) == (5, 3)
    # two rising stretches of at least one step of Tsit5's six, each level once more
    assert adaptive >= 2 * 7


def test_distances_are_to_the_first_row_and_to_the_real_images(rows: Any) -> None:
    assert rows[0].away == 0
    for row in rows[1:]:
        apart = (row.images.astype(float) - rows[0].images) / 127.5
        assert row.away == pytest.approx(np.sqrt(np.mean(apart**2)))
        assert row.away > 0
        assert row.quality == judge()(evaluation.in_memory(row.images))[0]


def test_a_grid_that_does_not_fit_is_refused_before_the_first_row() -> None:
    listed = dataclasses.replace(SAMPLED.sampling, grid=Listed((80.0, 1.0, 0.0)), steps=2)
    experiment = dataclasses.replace(SAMPLED, sampling=listed)
    with pytest.raises(ValueError, match="3 levels make 2 steps, not 3"):
        compare_solvers.compare(experiment, variables(0), CHOSEN, [2, 3], SEEDS, LABEL)


def test_the_table_and_the_sheet(rows: Any, tmp_path: Path) -> None:
    text = compare_solvers.table(rows)
    assert len(text.splitlines()) == 2 + len(rows)
    assert "| Adaptive(rtol=0.01, atol=0.01) | 3 |" in text
    assert text.splitlines()[0].endswith("| away | fd_pixels8 |")
    compare_solvers.save_sheet(tmp_path / "sheet.png", rows)
    assert Image.open(tmp_path / "sheet.png").size[1] >= 3 * 48
