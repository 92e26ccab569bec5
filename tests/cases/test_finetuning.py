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
from jaxdiff.networks import ADM, UNet
from jaxdiff.runs import snapshots
from jaxdiff.runs.state import init_state
from jaxdiff.runtime import sharding
from jaxdiff.train import fit, setup
from tests.test_train import TINY

TWO = TINY.network.clone(channel_mult=(1, 2), attn_resolutions=(4,), channels_per_head=8)


def experiment(side: int = 8, network: Any = TINY.network, **changed: Any) -> Experiment:
    data = Synthetic(shape=(side, side, 1), labels=network.label_dim)
    return dataclasses.replace(TINY, data=data, network=network, **changed)


def of(there: Experiment, folder: Path) -> str:
    """The snapshot of a run that was never trained."""
    state = init_state(there)
    variables = {"params": state.params, "constants": state.constants}
    written = snapshots.Snapshot(there, variables, 0.1, 7, 16)
    return str(snapshots.write(folder, written, "float32"))


def flat(tree: Any) -> dict[str, np.ndarray]:
    return traverse_util.flatten_dict(jax.device_get(tree), sep="/")


def loaded(there: Experiment, here: Experiment, folder: Path) -> tuple[dict, dict, str]:
    """Parameters before, normalised as a start does, and after, and what was said."""
    here = dataclasses.replace(here, init_from=of(there, folder))
    fitted = setup.loaded(here)
    state = setup.begun(here, sharding.data_mesh(jax.devices()[:1]), fitted)
    before = there.optimizer.start(init_state(there).params)
    return flat(before), flat(state.params), "\n".join(fitted.lines)


def test_all_of_a_network_is_loaded_and_said(tmp_path: Path) -> None:
    before, after, said = loaded(experiment(), experiment(seed=5), tmp_path)
    assert before.keys() == after.keys()
    for name, value in before.items():
        np.testing.assert_allclose(after[name], value, rtol=1e-6, err_msg=name)
    count = len(before) + len(flat(init_state(experiment()).constants))
    assert f"step 7\n{count} of the {count} arrays of the network are loaded" in said
    assert "made anew" not in said
    assert "class k here takes the place of k there" in said


@pytest.mark.parametrize(
    ("network", "says"),
    [
        (TINY.network.clone(label_dim=3), "10 there, 3 here; labels are made anew"),
        (TINY.network.clone(label_dim=0), "10 there, 0 here; labels are left out"),
    ],
)
def test_another_number_of_classes(network: UNet, says: str, tmp_path: Path) -> None:
    before, after, said = loaded(experiment(), experiment(network=network), tmp_path)
    assert says in said
    label = "emb_label/weight"
    assert (label in after) == (network.label_dim > 0)
    for name in before.keys() - {label}:
        np.testing.assert_allclose(after[name], before[name], rtol=1e-6, err_msg=name)


def test_another_network_s_label_table_too(tmp_path: Path) -> None:
    adm = ADM(label_dim=4, model_channels=8, channel_mult=(1,), num_blocks=1)
    here = adm.clone(label_dim=2)
    plain = {"loss": jd.WeightedError(jd.UniformOnNetwork(jd.EDM()))}
    pair = experiment(network=adm, **plain), experiment(network=here, **plain)
    before, after, said = loaded(*pair, tmp_path)
    assert "4 there, 2 here; labels are made anew" in said
    assert before["emb_label"].shape != after["emb_label"].shape


def test_another_resolution_goes_on_level_by_level(tmp_path: Path) -> None:
    larger = experiment(16, TWO.clone(attn_resolutions=(8,)))
    before, after, said = loaded(experiment(8, TWO), larger, tmp_path)
    assert "trained at 8 x 8, goes on at 16 x 16: blocks matched by level" in said
    assert "made anew" not in said
    for name, value in before.items():
        there = name.replace("8x8", "16x16").replace("4x4", "8x8")
        np.testing.assert_allclose(after[there], value, rtol=1e-6, err_msg=name)


def test_attention_at_other_levels_is_refused_with_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"set network.attn_resolutions to \(8,\)"):
        loaded(experiment(8, TWO), experiment(16, TWO.clone(attn_resolutions=())), tmp_path)


def test_a_network_of_another_size_is_refused_with_what_differs(tmp_path: Path) -> None:
    wide = experiment(network=TINY.network.clone(model_channels=16))
    with pytest.raises(ValueError, match=r"network.model_channels: 8 there, 16 here"):
        loaded(experiment(), wide, tmp_path)


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
        TINY, batch_size=1, steps=2, log_every=2, checkpoint_every=2, sample_every=0
    )
    fit(few, "~/first", progress=False)
    assert (tmp_path / "first/checkpoints/2").is_dir()
    fit(dataclasses.replace(few, init_from="~/first", steps=1), str(tmp_path / "second"))
    said = capsys.readouterr().err
    assert "init_from: ~/first, step 2\n" in said
    assert "arrays of the network are loaded\n" in said
    assert "init_from: ~/first, step 2" in (tmp_path / "second/starts.jsonl").read_text()
