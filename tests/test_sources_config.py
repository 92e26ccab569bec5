"""Every source is a data set that an experiment takes, saves and reads again."""

import dataclasses
import json
import runpy
from pathlib import Path

import pytest

from jaxdiff.config import TYPES, Experiment, from_config, from_dict, to_dict
from jaxdiff.data import CIFAR10, Folder, Records, VAELatents, encoder_of, statistics

ROOT = Path(__file__).parents[1]
NAMES = [n for n, c in TYPES.items() if n.startswith("data.") and c is not VAELatents]


@pytest.mark.parametrize("name", NAMES)
def test_an_experiment_takes_it(name: str) -> None:
    needs = {"data.Folder": {"path": "x"}, "data.Latents": {"path": "x"}}
    data = from_dict({"type": name, **needs.get(name, {})})
    experiment = Experiment(data=data)
    again = from_dict(json.loads(json.dumps(to_dict(experiment))))
    assert again == experiment
    height, width, channels = data.shape
    stored = encoder_of(data).stored((5, *data.shape)).shape
    assert stored in ((5, height, width, channels), (5, height, width, 2 * channels))


@pytest.mark.parametrize(
    ("argument", "kind"), [((), Folder), (("images",), Folder), (("records",), Records)]
)
def test_the_folders_config_takes_either(argument: tuple, kind: type) -> None:
    config = runpy.run_path(str(ROOT / "jaxdiff/config/ready" / "folder.py"))["get_config"]
    assert isinstance(from_config(config(*argument)).data, kind)
    with pytest.raises(ValueError, match="'zip' is none of images, records and try"):
        config("zip")


def test_cifar10s_config_is_conditional_and_mirrors() -> None:
    config = runpy.run_path(str(ROOT / "jaxdiff/config/ready" / "cifar10.py"))["get_config"]
    experiment = from_config(config())
    assert isinstance(experiment.data, CIFAR10)
    assert encoder_of(experiment.data).flip
    assert (experiment.batch_size, experiment.label_dropout) == (512, 0.1)


def test_mirroring_and_skipping_leave_the_statistics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAXDIFF_CACHE", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.png").touch()
    data = Folder(str(tmp_path / "data"), size=8)
    kept = statistics.Statistics(3, (0.1,) * 3, (0.2,) * 3)
    statistics.keep(data, kept)
    other = dataclasses.replace(data, flip=True, on_error="skip")
    assert statistics.stored(other) == kept
    assert statistics.stored(dataclasses.replace(data, size=9)) is None
