"""The experiment's three forms say the same, and what is wrong is said where it is."""

import dataclasses
import importlib.util
import json
from pathlib import Path

import pytest

import jaxdiff as jd
from jaxdiff import data, networks
from jaxdiff.config import (
    TYPES,
    Experiment,
    Optimizer,
    Sampling,
    from_config,
    from_dict,
    resolve,
    to_config,
    to_dict,
)

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(ROOT.glob("configs/*.py"))


def load(path: Path) -> Experiment:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return from_config(module.get_config())


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_config_survives_json(path: Path) -> None:
    experiment = load(path)
    again = from_dict(json.loads(json.dumps(to_dict(experiment))))
    assert again == experiment
    assert hash(again) == hash(experiment)
    assert from_config(to_config(experiment)) == experiment


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_config_says_how_to_run_it(path: Path) -> None:
    assert f"--config=configs/{path.name}" in path.read_text()


def test_every_type_of_the_table_round_trips() -> None:
    needs = {
        "data.Folder": {"path": "images"},
        "schedules.Table": {"betas": {"type": "schedules.CosineBetas"}},
        "schedules.ListedBetas": {"betas": [0.1, 0.2]},
        "schedules.ZeroTerminalBetas": {"of": {"type": "schedules.LinearBetas"}},
        "losses.WeightedError": {"weighting": {"type": "weightings.Debias"}},
        "losses.Uncertain": {"of": to_dict(jd.WeightedError(jd.MinSNR()))},
        "losses.Total": {"terms": [[0.5, to_dict(jd.WeightedError(jd.Debias()))]]},
        "weightings.UniformOnNetwork": {"parameterization": to_dict(jd.V())},
    }
    for name in TYPES:
        value = from_dict({"type": name, **needs.get(name, {})})
        assert type(value) is TYPES[name]
        assert from_dict(json.loads(json.dumps(to_dict(value)))) == value


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"batchsize": 3}, r"config .* has no field 'batchsize'; it has .*batch_size"),
        (
            {"times": {"type": "times.Normal"}},
            r"config.times.type is 'times.Normal'; known",
        ),
        ({"times": {"type": "os.system"}}, r"times.type is 'os.system'; known"),
        ({"times": {"type": "times.Uniform", "low": 2.0}}, r"config.times: .* got 2.0"),
        ({"batch_size": "64"}, r"config.batch_size must be a int, got '64'"),
        ({"batch_size": True}, r"config.batch_size must be a int, got True"),
        ({"batch_size": 0}, r"batch_size must be at least 1, got 0"),
        ({"label_dropout": 1.5}, r"label_dropout is a probability, got 1.5"),
        ({"schedule": {"type": "times.Uniform"}}, r"config.schedule must be a Schedule"),
        ({"optimizer": {"type": "config.Optimizer", "stds": [0.3]}}, r"got 0.3"),
        (
            {"optimizer": {"type": "config.Optimizer", "stds": [0.2]}},
            r"sampling.std is 0.1",
        ),
        ({"network": {"type": "networks.UNet", "width": 3}}, r"network .*'width'"),
    ],
)
def test_mistakes_are_named(change: dict, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint) as error:
        from_dict({**to_dict(Experiment()), **change})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("prediction", [jd.Eps(), jd.Score()])
@pytest.mark.parametrize(
    "schedule",
    [jd.Cosine(), jd.RectifiedFlow(), jd.zero_terminal_snr(jd.Table(jd.LinearBetas()))],
)
def test_poles_are_refused_where_they_matter(
    prediction: jd.Eps | jd.Score, schedule: jd.Cosine | jd.RectifiedFlow | jd.Table
) -> None:
    with pytest.raises(ValueError, match="reaches alpha = 0"):
        Experiment(parameterization=prediction, schedule=schedule)
    Experiment(parameterization=prediction, schedule=jd.Table(jd.LinearBetas()))
    Experiment(parameterization=jd.V(), schedule=schedule)


def test_guidance_needs_label_dropout() -> None:
    guided = Sampling(guidance=0.5)
    with pytest.raises(ValueError, match="label_dropout is 0"):
        Experiment(sampling=guided)
    Experiment(sampling=guided, label_dropout=0.1)


def test_label_dim_is_that_of_the_data_or_checked() -> None:
    digits = data.Digits().load()
    asked = Experiment(network=networks.UNet(label_dim=-1))
    assert resolve(asked, digits).network.label_dim == 10
    assert resolve(Experiment(), digits).network.label_dim == 0
    with pytest.raises(ValueError, match="label_dim is 7, but the data have 10 classes"):
        resolve(Experiment(network=networks.UNet(label_dim=7)), digits)


def test_integers_pass_as_floats() -> None:
    tree = to_dict(Optimizer())
    assert from_dict({**tree, "ref_batches": 100}).ref_batches == 100.0
    assert isinstance(from_dict({**tree, "ref_batches": 100}).ref_batches, float)


def test_an_experiment_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Experiment().batch_size = 3
