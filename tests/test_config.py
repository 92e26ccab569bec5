"""The experiment's three forms say the same, and what is wrong is said where it is."""

import dataclasses
import importlib.util
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import jaxdiff as jd
from jaxdiff import data, networks, train
from jaxdiff.config import (
    TYPES,
    Experiment,
    Sampling,
    differences,
    from_config,
    from_dict,
    from_file,
    resolve,
    to_config,
    to_dict,
)
from jaxdiff.config.fields import fields_of
from jaxdiff.objectives import timesteps
from jaxdiff.optim import EDM2Optimizer
from jaxdiff.runs.state import init_state

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(ROOT.glob("jaxdiff/config/ready/[!_]*.py"))


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
    assert f"--config={path.stem}" in path.read_text()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_config_takes_a_step_at_toy_size(path: Path) -> None:
    experiment = load(path)
    toy = {"model_channels": 8, "channels_per_head": 8, "num_blocks": 1, "dropout": 0.5}
    toy |= {"channel_mult": (1,), "width": 8, "depth": 1, "heads": 2, "label_dim": 3}
    whole = experiment.network
    has = fields_of(type(whole.backbone))
    network = whole.backbone.clone(**{k: v for k, v in toy.items() if k in has})
    network = network if whole.backbone is whole else whole.clone(backbone=network)
    source = experiment.data
    if "size" in fields_of(type(source)):
        source = dataclasses.replace(source, size=16)
    tiny = dataclasses.replace(experiment, data=source, network=network, batch_size=4)
    stored = data.encoder_of(tiny.data).stored((4, *tiny.data.shape))
    image = jnp.zeros(stored.shape, stored.dtype).at[:, ::2].set(255)
    batch = {"image": image, "label": jnp.arange(4) % 3}
    step = jax.jit(train.make_step(tiny))
    state = init_state(tiny)  # op by op, which the configs compile once together
    for _ in range(2):
        state, metrics = step(state, batch)
        assert all(jnp.isfinite(value).all() for value in metrics.values())
    assert int(state.step) == 2
    assert int(state.first_bad) == -1


def test_every_type_of_the_table_round_trips() -> None:
    needs = {
        "data.Folder": {"path": "images"},
        "data.Latents": {"path": "latents.npz"},
        "schedules.Table": {"betas": {"type": "schedules.CosineBetas"}},
        "schedules.ListedBetas": {"betas": [0.1, 0.2]},
        "schedules.RespacedBetas": {
            "of": {"type": "schedules.LinearBetas"},
            "kept": [0, 500, 999],
        },
        "schedules.Shifted": {"of": {"type": "schedules.Cosine"}, "factor": 3.0},
        "losses.VariationalBound": {"table": to_dict(jd.Table(jd.LinearBetas()))},
        "times.Stratified": {"of": to_dict(timesteps.Uniform())},
        "times.Antithetic": {"of": to_dict(timesteps.Uniform())},
        "weightings.ELBO": {"schedule": {"type": "schedules.Cosine"}},
        "weightings.DiscreteELBO": {"schedule": {"type": "schedules.Cosine"}, "steps": 9},
        "weightings.Sigmoid": {"schedule": {"type": "schedules.Cosine"}},
        "schedules.ZeroTerminalBetas": {"of": {"type": "schedules.LinearBetas"}},
        "losses.WeightedError": {"weighting": {"type": "weightings.Debias"}},
        "losses.Uncertain": {"of": to_dict(jd.WeightedError(jd.MinSNR()))},
        "networks.Classifier": {"backbone": {"type": "networks.UNet"}},
        "networks.LevelEstimator": {"backbone": {"type": "networks.UNet"}},
        "guidance.Projected": {"limit": 2.5},
        "guidance.Rescaled": {"of": {"type": "guidance.Sum"}, "phi": 0.7},
        "levels.Listed": {"sigmas": [2.0, 1.0, 0.0]},
        "parameterizations.TimeLabel": {"schedule": {"type": "schedules.Cosine"}},
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
            r"times.type is 'times.Normal', a name that is not registered: .*; known",
        ),
        ({"times": {"type": "os.system"}}, r"times.type is 'os.system', a name .*; known"),
        (
            {"times": {"type": "times.Uniform", "low": 2.0}},
            r"config.times.low must be .* got 2.0",
        ),
        ({"batch_size": "64"}, r"config.batch_size must be a whole number .*, got '64'"),
        ({"batch_size": True}, r"config.batch_size must be a whole number .*, got True"),
        ({"batch_size": 0}, r"batch_size must be a whole number from 1 to .*, got 0"),
        ({"label_dropout": 1.5}, r"label_dropout must be a number from 0 to 1, got 1.5"),
        (
            {"schedule": {"type": "times.Uniform"}},
            r"config.schedule must be one of schedules.Bo",
        ),
        (
            {"optimizer": {"type": "optim.EDM2Optimizer", "stds": [0.3]}},
            r"std = 0.3 is not in",
        ),
        ({"optimizer": {"type": "optim.EDM2Optimizer", "stds": [0.2]}}, r"std is 0.1"),
        ({"optimizer": {"type": "optim.EDM2Optimizer", "b1": 7.0}}, r"b1 .* got 7.0"),
        (
            {"optimizer": {"type": "times.Uniform"}},
            r"optimizer must be one of optim.",
        ),
        (
            {"data": {"type": "times.Uniform"}},
            r"config.data must be one of data.CIFAR10, data.Digits, .*; got Uniform",
        ),
        ({"loss": {"type": "weightings.Debias"}}, r"config.loss must be one of losses."),
        ({"seed": -1}, r"config.seed must be a whole number from 0 .* got -1"),
        (
            {"sampling": {"type": "config.Sampling", "steps": 0}},
            r"config.sampling.steps must be",
        ),
        (
            {"network": {"type": "networks.UNet", "dtype": "foo"}},
            r"config.network.dtype must be one of .*, got 'foo'",
        ),
        ({"parameterization": to_dict(jd.EDM(0.7))}, r"sigma_data is .0.5, 0.7. in"),
        ({"network": {"type": "networks.UNet", "dropout": 1.5}}, r"dropout .* got 1.5"),
        ({"loss_scale": float("nan")}, r"config.loss_scale must be a number .*, got nan"),
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
    labelled = networks.UNet(label_dim=10)
    with pytest.raises(ValueError, match=r"label_dim is 10 and label_dropout 0.0"):
        Experiment(network=labelled, sampling=guided)
    with pytest.raises(ValueError, match=r"label_dim is 0 and label_dropout 0.1"):
        Experiment(sampling=guided, label_dropout=0.1)
    Experiment(network=labelled, sampling=guided, label_dropout=0.1)


def test_label_dim_is_that_of_the_data_or_checked() -> None:
    digits = data.Digits().load()
    unresolved = Experiment(network=networks.UNet(label_dim=-1))
    assert resolve(unresolved, digits).network.label_dim == 10
    assert resolve(Experiment(), digits).network.label_dim == 0
    with pytest.raises(ValueError, match="label_dim is 7, but the data have 10 classes"):
        resolve(Experiment(network=networks.UNet(label_dim=7)), digits)


def test_integers_pass_as_floats() -> None:
    tree = to_dict(EDM2Optimizer())
    assert from_dict({**tree, "ref_batches": 100}).ref_batches == 100.0
    assert isinstance(from_dict({**tree, "ref_batches": 100}).ref_batches, float)


def test_an_experiment_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Experiment().batch_size = 3


def test_a_run_may_change_what_its_steps_do_not_show() -> None:
    run = Experiment(data=data.Folder(path="here"))
    moved = dataclasses.replace(
        run,
        data=data.Folder(path="there"),
        steps=77,
        keep=9,
        sampling=Sampling(steps=3, solver=jd.Euler()),
    )
    assert differences(run, moved) == []
    other = dataclasses.replace(run, loss_scale=2.0, times=timesteps.LogitNormal())
    assert "loss_scale: 1.0 there, 2.0 here" in differences(run, other)
    assert any(line.startswith("times.type: ") for line in differences(run, other))


def test_a_type_of_ones_own_works_but_is_not_saved() -> None:
    @dataclasses.dataclass(frozen=True)
    class Mine(type(timesteps.Uniform())):
        pass

    experiment = Experiment(times=Mine())
    with pytest.raises(ValueError, match=r"Mine has no name .*: write @jaxdiff.register"):
        to_dict(experiment)


TABLE = jd.Table(jd.CosineBetas(steps=100))
BOUND = jd.Total(((1.0, jd.WeightedError(jd.MinSNR())), (0.1, jd.VariationalBound(TABLE))))


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"times": timesteps.UniformEntries()}, "draws a table's entries, but .* is none"),
        (
            {"schedule": TABLE, "times": timesteps.LossSecondMoment(steps=7)},
            "has 7 steps, but the table has 100",
        ),
        (
            {"loss": jd.WeightedError(jd.ELBO(jd.Cosine())), "schedule": jd.VPLinear()},
            "is made for another schedule than VPLinear",
        ),
        ({"loss": BOUND, "schedule": jd.VPLinear()}, "the bound is of .* VPLinear"),
        (
            {"loss": BOUND, "schedule": TABLE, "times": timesteps.Uniform()},
            "needs t on a table's entries, but Uniform",
        ),
        (
            {"loss": BOUND, "schedule": TABLE, "times": timesteps.UniformEntries()},
            "LearnedVariance needs network.learned_variance = True",
        ),
    ],
)
def test_what_is_made_for_another_schedule_is_refused(fields: dict, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Experiment(**fields)


def test_improved_ddpm_is_an_experiment() -> None:
    hybrid = Experiment(
        network=networks.UNet(learned_variance=True),
        schedule=TABLE,
        times=timesteps.LossSecondMoment(steps=100),
        parameterization=jd.Eps(),
        loss=BOUND,
        sampling=Sampling(solver=jd.Ancestral()),
    )
    assert from_dict(json.loads(json.dumps(to_dict(hybrid)))) == hybrid


@pytest.mark.parametrize("name", ["flow", "ddpm", "iddpm", "nag"])
def test_the_digits_configs_vary_one(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Also where they are loaded from another folder; each says itself what it changes."""
    monkeypatch.chdir(tmp_path)
    digits, other = (
        from_file(ROOT / f"configs/{f}.py") for f in ("digits", f"digits_{name}")
    )
    assert other.network.clone(learned_variance=False) == digits.network
    assert (other.data, other.batch_size) == (digits.data, digits.batch_size)
    assert other.optimizer.learning_rate == digits.optimizer.learning_rate
    assert other != digits
    assert other.network.learned_variance == (name == "iddpm")


def test_a_config_file_is_named_where_it_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no config file .*none\.py"):
        from_file(tmp_path / "none.py")
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(ValueError, match=r"empty\.py has no function get_config"):
        from_file(tmp_path / "empty.py")
    assert from_file(ROOT / "configs/digits_ddpm.py", "p2") != from_file(
        ROOT / "configs/digits_ddpm.py"
    )
