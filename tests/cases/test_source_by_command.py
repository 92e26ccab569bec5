"""Every kind of source with every command: it runs, or says in a line why it cannot.

Pixels are a folder, a ZIP file, one with a dataset.json, a folder with unreadable images
that are skipped, shards, CIFAR-10's archive, TFDS, digits and synthetic noise; latents
are an NPZ file or shards whose VAE is not at hand, as it is in test_latents_decoded.

    command                 pixels   latents
    train                   runs     runs
    resume                  runs     runs
    eval_every              runs     metrics need pixels: decode them
    measure_data            runs     runs
    prepare_data            runs     runs
    sample                  runs     runs
    sample --reference      runs     metrics need pixels: decode them
    evaluate                runs     metrics need pixels: decode them
    reference               runs     metrics need pixels: decode them
    sweep                   runs     metrics need pixels: decode them
    edit                    runs     pictures are edited: name their VAE
    likelihood              runs     bits/dim are of pixels
"""

import re
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from jaxdiff import EDM, Euler, LogSigma, UniformOnNetwork, WeightedError, train
from jaxdiff.config import Experiment, Sampling
from jaxdiff.data.batches import fingerprint
from jaxdiff.optim import EDM2Optimizer
from jaxdiff.sampling.grids import Karras
from tests.cases import sources
from tests.cases.commands import run
from tests.linear import Linear

SCORED = {"eval_every": 1, "eval_images": 10, "eval_extractors": ("pixels8",)}
LATENT = ("latents", "latent records")
SCORE = ("--number=8", "--blocks=1", "--extractors=pixels8")

DRAWING = {
    "sample": ("sample", "--number=4", "--steps=2"),
    "compare": ("sample", "--number=8", "--compare=Heun,Euler", "--compare_steps=2",
                "--reference", "--extractors=pixels8"),
    "evaluate": ("evaluate", "--steps=2", *SCORE),
    "edit": ("edit", "--number=2", "--steps=2"),
    "likelihood": ("likelihood", "--number=2", "--timesteps=2", "--by=bound"),
    "sweep": ("sweep", "--over=steps=2,3", *SCORE),
}  # fmt: skip
OF_DATA = {
    "reference": ("reference", "--extractors=pixels8"),
    "prepare": ("prepare_data",),
    "measure": ("measure_data",),
}
REFUSED = {
    "compare": "metrics need pixels, but .* has latents: decode them by setting",
    "evaluate": "metrics need pixels, but .* has latents: decode them by setting",
    "sweep": "metrics need pixels, but .* has latents: decode them by setting",
    "reference": "metrics need pixels, but .* has latents: decode them by setting",
    "edit": "this run is on latents, and pictures are edited: name its VAE by --vae",
    "likelihood": "bits/dim are of pixels of 256 levels, but .* has none",
}
"""What latents are told, where a command looks at pixels."""

CONFIG = """
from jaxdiff import data
from jaxdiff.config import to_config
from jaxdiff.data import *
from tests.cases.test_source_by_command import experiment

def get_config():
    return to_config(experiment({data!r}))
"""


def experiment(data: Any, **fields: Any) -> Experiment:
    """The smallest that draws."""
    edm = EDM(sigma_data=0.5)
    return Experiment(
        data=data,
        network=Linear(),
        schedule=LogSigma(),
        parameterization=edm,
        loss=WeightedError(UniformOnNetwork(edm)),
        optimizer=EDM2Optimizer(ref_batches=10.0, rampup_images=64.0, stds=(0.1,)),
        sampling=Sampling(grid=Karras(), steps=2, solver=Euler(), std=0.1, images=4),
        batch_size=8,
        **{"steps": 1, "log_every": 1, "checkpoint_every": 1, **fields},
    )


@pytest.fixture(scope="module", autouse=True)
def _fake() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "tensorflow_datasets", sources.fake_tfds())
        yield


Made = tuple[str, Any, Path]
"""The name of a kind, data of it, and the folder of a run on them."""


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Made]:
    """What makes data of a kind and a run on them of one step, once."""

    @cache
    def made(kind: str) -> Made:
        folder = tmp_path_factory.mktemp("source")
        data = sources.SOURCES[kind](folder)
        scored = {} if kind in LATENT else SCORED
        train.fit(experiment(data, **scored), folder / "run")
        (folder / "config.py").write_text(CONFIG.format(data=data))
        return kind, data, folder

    return made


@pytest.fixture(scope="module", params=sources.SOURCES)
def source(request: pytest.FixtureRequest, make: Callable[[str], Made]) -> Made:
    return make(request.param)


@pytest.fixture(scope="module")
def run_on_tfds(make: Callable[[str], Made]) -> Path:
    """The folder of a run on TFDS."""
    return make("tfds")[2]


def command_line(name: str, folder: Path, out: Path) -> list[str]:
    """A command on the run or the data of a folder."""
    script, *flags = DRAWING.get(name) or OF_DATA[name]
    flags += [] if name == "measure" else [f"--out={out / 'out'}"]
    of = f"--workdir={folder / 'run'}"
    return [script, *flags, of if name in DRAWING else f"--config={folder / 'config.py'}"]


@pytest.mark.parametrize("name", [*DRAWING, *OF_DATA])
def test_commands(source: Made, name: str, tmp_path: Path) -> None:
    kind, _, folder = source
    done = run(*command_line(name, folder, tmp_path))
    errors = [line for line in done.err.splitlines() if line.startswith("error: ")]
    if kind in LATENT and name in REFUSED:
        assert done.status == 1
        (line,) = errors
        assert re.search(REFUSED[name], line), done.err
        assert not list(tmp_path.iterdir())
    else:
        assert done.status == 0, done.err
        assert name == "measure" or list(tmp_path.iterdir())


def test_a_run_resumes(source: Made) -> None:
    _, data, folder = source
    longer = experiment(data, steps=2)
    assert int(train.fit(longer, folder / "run").step) == 2


def test_training_scores_pixels(source: Made) -> None:
    kind, data, folder = source
    if kind in LATENT:
        with pytest.raises(ValueError, match=REFUSED["evaluate"]):
            train.fit(experiment(data, **SCORED), folder / "scored")
    else:
        assert "fd_pixels8" in (folder / "run" / "metrics.jsonl").read_text()


def test_a_stamp_changes_with_the_images(source: Made) -> None:
    kind, data, folder = source
    first = fingerprint(data.load().source)
    assert fingerprint(data.load().source) == first
    if kind in ("digits", "synthetic", "tfds"):
        return
    other = folder / "other"
    other.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "PIXELS", 255 - sources.PIXELS)
        patch.setattr(sources, "SEED", 7)
        changed = sources.SOURCES[kind](other)
    assert fingerprint(changed.load().source) != first


@pytest.mark.parametrize("name", [*DRAWING, *OF_DATA])
def test_tfds_says_how_to_install_it(
    name: str, run_on_tfds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every command that reads the data reaches the hint; sampling alone reads none."""
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    done = run(*command_line(name, run_on_tfds, tmp_path))
    if name == "sample":
        assert done.status == 0, done.err
        return
    assert done.status == 1
    assert done.err.splitlines()[-1] == (
        "error: TFDS needs tensorflow-datasets, which comes with: pip install "
        '"jaxdiff[tfds]"'
    )


def test_training_on_tfds_says_how_to_install_it(
    run_on_tfds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    config = f"--config={run_on_tfds / 'config.py'}"
    done = run("train", config, f"--workdir={tmp_path / 'run'}")
    assert done.status == 1
    assert 'pip install "jaxdiff[tfds]"' in done.err.splitlines()[-1]
