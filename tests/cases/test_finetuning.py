"""Training that starts from another run's network."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import traverse_util

import jaxdiff as jd
from jaxdiff.config import Experiment
from jaxdiff.data import Synthetic
from jaxdiff.denoisers.parameterizations import Unscaled
from jaxdiff.networks import ADM, DiT, LevelEstimator, UNet
from jaxdiff.objectives.losses import LevelLikelihood
from jaxdiff.runs import snapshots
from jaxdiff.runs.state import init_state
from jaxdiff.runtime import sharding
from jaxdiff.train import fit, setup
from tests.states import initial
from tests.test_train import TINY, Small

DIT = DiT(label_dim=4, width=8, depth=1, heads=2)
PLAIN = {"loss": jd.WeightedError(jd.UniformOnNetwork(jd.EDM()))}
TWO = TINY.network.clone(channel_mult=(1, 2), attn_resolutions=(4,), channels_per_head=8)


def experiment(side: int = 8, network: Any = TINY.network, **changed: Any) -> Experiment:
    data = Synthetic(shape=(side, side, 1), labels=network.label_dim)
    return dataclasses.replace(TINY, data=data, network=network, **changed)


def of(there: Experiment, folder: Path) -> str:
    """The snapshot of a run that was never trained."""
    state = initial(there)
    variables = {"params": state.params, "constants": state.constants}
    written = snapshots.Snapshot(there, variables, 0.1, 7, 16)
    return str(snapshots.write(folder, written, "float32"))


def flat(tree: Any) -> dict[str, np.ndarray]:
    return traverse_util.flatten_dict(jax.device_get(tree), sep="/")


def loaded(there: Experiment, here: Experiment, folder: Path) -> tuple[dict, dict, str]:
    """Parameters before, normalised as a start does, and after, and what was said."""
    here = dataclasses.replace(here, init_from=of(there, folder))
    fitted = setup.loaded(here)
    state = setup.initial_state(here, sharding.data_mesh(jax.devices()[:1]), fitted)
    before = there.optimizer.start(initial(there).params)
    return flat(before), flat(state.params), "\n".join(fitted.lines)


def test_all_of_a_network_is_loaded_and_said(tmp_path: Path) -> None:
    before, after, log = loaded(experiment(), experiment(seed=5), tmp_path)
    assert before.keys() == after.keys()
    for name, value in before.items():
        np.testing.assert_allclose(after[name], value, rtol=1e-6, err_msg=name)
    count = len(before) + len(flat(initial(experiment()).constants))
    assert f"step 7\n{count} of the {count} arrays of the network are loaded" in log
    assert "made anew" not in log
    assert "class k here takes the place of class k there" in log


@pytest.mark.parametrize(
    ("network", "line"),
    [
        (TINY.network.clone(label_dim=3), "10 there, 3 here; labels are made anew"),
        (TINY.network.clone(label_dim=0), "10 there, 0 here; labels are left out"),
    ],
)
def test_another_number_of_classes(network: UNet, line: str, tmp_path: Path) -> None:
    before, after, log = loaded(experiment(), experiment(network=network), tmp_path)
    assert line in log
    label = "emb_label/weight"
    assert (label in after) == (network.label_dim > 0)
    for name in before.keys() - {label}:
        np.testing.assert_allclose(after[name], before[name], rtol=1e-6, err_msg=name)


def test_another_network_s_label_table_too(tmp_path: Path) -> None:
    adm = ADM(label_dim=4, model_channels=8, channel_mult=(1,), num_blocks=1)
    here = adm.clone(label_dim=2)
    pair = experiment(network=adm, **PLAIN), experiment(network=here, **PLAIN)
    before, after, log = loaded(*pair, tmp_path)
    assert "4 there, 2 here; labels are made anew" in log
    assert before["emb_label"].shape != after["emb_label"].shape


def test_another_resolution_goes_on_level_by_level(tmp_path: Path) -> None:
    larger = experiment(16, TWO.clone(attn_resolutions=(8,)))
    before, after, log = loaded(experiment(8, TWO), larger, tmp_path)
    assert "trained at 8 x 8, goes on at 16 x 16: blocks matched by level" in log
    assert "made anew" not in log
    for name, value in before.items():
        there = name.replace("8x8", "16x16").replace("4x4", "8x8")
        np.testing.assert_allclose(after[there], value, rtol=1e-6, err_msg=name)


def test_a_transformer_goes_on_at_another_resolution(tmp_path: Path) -> None:
    """Its positions are a fixed table, so they are those of the new size."""
    pair = experiment(8, DIT, **PLAIN), experiment(16, DIT, **PLAIN)
    before, after, log = loaded(*pair, tmp_path)
    assert "trained at 8 x 8, goes on at 16 x 16: positions are for the new size" in log
    assert "made anew: constants/positions\n" in log
    assert before.keys() == after.keys()
    for name, value in before.items():
        np.testing.assert_allclose(after[name], value, rtol=1e-6, err_msg=name)


def test_positions_of_as_many_patches_are_made_anew_too(tmp_path: Path) -> None:
    """4 x 16 and 16 x 4 pixels have 16 patches each, at other places."""
    wide, tall = (
        dataclasses.replace(experiment(8, DIT, **PLAIN), data=Synthetic(shape, labels=4))
        for shape in ((4, 16, 1), (16, 4, 1))
    )
    here = dataclasses.replace(tall, init_from=of(wide, tmp_path))
    state = setup.initial_state(here, sharding.data_mesh(jax.devices()[:1]))
    expected = initial(tall).constants["positions"]
    np.testing.assert_array_equal(state.constants["positions"], expected)
    assert (expected != initial(wide).constants["positions"]).any()


@pytest.mark.parametrize(
    ("there", "here", "message"),
    [
        (DIT, {"depth": 2}, r"network.depth: 1 there, 2 here"),
        (DIT, {"heads": 4}, r"network.heads: 2 there, 4 here"),
        (TWO, {"num_blocks": 2}, r"network.num_blocks: 1 there, 2 here"),
        (TWO, {"channels_per_head": 16}, r"network.channels_per_head: 8 there, 16 here"),
        (TWO, {"res_balance": 0.5}, r"network.res_balance: 0.3 there, 0.5 here"),
        (TWO, {"clip_act": 0.0}, r"network.clip_act: 256.0 there, 0.0 here"),
        (TWO, {"weight_norm": False}, r"network.weight_norm: True there, False here"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_another_function_of_the_same_weights_is_refused(
    there: Any, here: dict[str, Any], message: str, tmp_path: Path
) -> None:
    pair = experiment(8, there, **PLAIN), experiment(8, there.clone(**here), **PLAIN)
    with pytest.raises(ValueError, match=f"init_from: .*{message}.*set these as they are"):
        loaded(*pair, tmp_path)


def test_an_estimator_of_another_backbone_is_refused(tmp_path: Path) -> None:
    level = LevelEstimator(TWO.clone(channels_per_head=16))
    here = experiment(8, level, loss=LevelLikelihood(), parameterization=Unscaled())
    message = r"network.backbone.channels_per_head: 8 there, 16 here"
    with pytest.raises(ValueError, match=message):
        loaded(experiment(8, TWO), here, tmp_path)


def test_a_network_of_another_kind_is_refused(tmp_path: Path) -> None:
    pair = experiment(8, DIT, **PLAIN), experiment(8, TWO, **PLAIN)
    with pytest.raises(ValueError, match="network is a DiT there, a UNet here"):
        loaded(*pair, tmp_path)


def test_more_attention_is_refused_with_what_differs(tmp_path: Path) -> None:
    more = TWO.clone(attn_resolutions=(8, 4))
    message = (
        r"dec/8x8_block0/attn_proj/weight is missing in its network, .*"
        r"attn_resolutions: \(4,\) there, \(8, 4\) here"
    )
    with pytest.raises(ValueError, match=message):
        loaded(experiment(8, TWO), experiment(8, more), tmp_path)


def test_new_heads_are_made_anew_and_other_settings_are_said(tmp_path: Path) -> None:
    here = TWO.clone(learned_variance=True, dropout=0.3)
    _, after, log = loaded(experiment(8, TWO), experiment(8, here), tmp_path)
    assert "made anew: variance_conv/weight, variance_gain\n" in log
    assert "network.dropout: 0.1 there, 0.3 here" in log
    assert after["variance_gain"] == 0


def test_attention_at_other_levels_is_refused_with_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"set network.attn_resolutions to \(8,\)"):
        loaded(experiment(8, TWO), experiment(16, TWO.clone(attn_resolutions=())), tmp_path)


def test_a_network_of_another_size_is_refused_with_what_differs(tmp_path: Path) -> None:
    wide = experiment(network=TINY.network.clone(model_channels=16))
    with pytest.raises(ValueError, match=r"network.model_channels: 8 there, 16 here"):
        loaded(experiment(), wide, tmp_path)


def test_a_state_takes_no_arrays_that_its_network_has_not() -> None:
    others = {"params": {"out_conv": {"weight": np.ones((1, 8, 3, 4), np.float32)}}}
    with pytest.raises(ValueError, match=r"params/out_conv/weight is \(1, 8, 3, 4\)"):
        init_state(experiment(), others)
    with pytest.raises(ValueError, match=r"params/nothing .* its network does not have"):
        init_state(experiment(), {"params": {"nothing": np.ones(1)}})


def test_other_channels_are_refused(tmp_path: Path) -> None:
    colour = dataclasses.replace(TINY, data=Synthetic((8, 8, 3)))
    with pytest.raises(
        ValueError, match="data's channels is 1, here 3: set it to the same"
    ):
        loaded(experiment(), colour, tmp_path)


def test_a_run_starts_from_a_run_under_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """By `fit`, with ~ and text as paths, and the folder's history says it too."""
    monkeypatch.setenv("HOME", str(tmp_path))
    few = dataclasses.replace(
        TINY, network=Small(), steps=2, log_every=2, checkpoint_every=2, sample_every=0
    )
    few = dataclasses.replace(few, batch_size=1, **PLAIN)
    fit(few, "~/first", progress=False)
    assert (tmp_path / "first/checkpoints/2").is_dir()
    fit(dataclasses.replace(few, init_from="~/first", steps=1), str(tmp_path / "second"))
    log = capsys.readouterr().err
    assert "init_from: ~/first, step 2\n" in log
    assert "arrays of the network are loaded\n" in log
    assert "init_from: ~/first, step 2" in (tmp_path / "second/starts.jsonl").read_text()
