"""Imported models that training starts from: other classes, sizes, and noise dropout."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import traverse_util

import jaxdiff as jd
from jaxdiff.data import Latents, VAELatents
from jaxdiff.interop.published import Choices
from jaxdiff.networks.dit import grid_positions
from jaxdiff.runs import published as importing
from jaxdiff.runs import restoring
from jaxdiff.runtime import sharding
from jaxdiff.train import setup
from tests.model_goldens import FILES

HELD = {"dit": ("dit_a.pt", 4, 10), "sit": ("sit_a_training.pt", 2, 7)}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    out = {kind: tmp_path_factory.mktemp(kind) for kind in HELD}
    for kind, (file, heads, _) in HELD.items():
        importing.load(FILES / file, out[kind], choices=Choices(heads=heads)).write()
    return out


def started(folder: Path, **changed: Any) -> tuple[dict, dict, str]:
    """The imported arrays, those that a changed run starts with, and what is said."""
    there = restoring.restore(folder)
    network = there.experiment.network.clone(**changed.pop("network", {}))
    here = dataclasses.replace(
        there.experiment, network=network, init_from=str(folder), **changed
    )
    fitted = setup.loaded(here)
    state = setup.initial_state(here, sharding.data_mesh(jax.devices()[:1]), fitted)
    flat = lambda tree: traverse_util.flatten_dict(jax.device_get(tree), sep="/")
    before = flat(there.variables["params"])
    after = flat(state.params) | flat({"constants": state.constants})
    return before, after, "\n".join(fitted.lines)


def same(before: dict, after: dict, but: tuple[str, ...] = ()) -> None:
    for name, value in before.items():
        if name not in but:
            np.testing.assert_array_equal(after[name], value, err_msg=name)


@pytest.mark.parametrize("kind", HELD)
def test_other_classes_make_the_label_table_anew(
    kind: str, folders: dict[str, Path]
) -> None:
    before, after, log = started(folders[kind], network={"label_dim": 3})
    assert f"classes: {HELD[kind][2]} there, 3 here; labels are made anew" in log
    assert "made anew: emb_label\n" in log
    assert after["emb_label"].shape == (4, before["emb_label"].shape[1])
    same(before, after, but=("emb_label",))


@pytest.mark.parametrize("kind", HELD)
def test_noise_awareness_starts_from_the_model_itself(
    kind: str, folders: dict[str, Path]
) -> None:
    """The null of the noise level is learned, from 0; all else is loaded."""
    changed = {"network": {"learned_null": True}, "noise_dropout": 0.1}
    before, after, log = started(folders[kind], **changed)
    assert "made anew: emb_null\n" in log
    assert not after["emb_null"].any()
    same(before, after)


def test_positions_are_made_for_another_resolution(folders: dict[str, Path]) -> None:
    data = Latents("larger.npz", 12, VAELatents.ldm())
    before, after, log = started(folders["dit"], data=data)
    assert "trained at 8 x 8, goes on at 12 x 12: positions are for the new size" in log
    np.testing.assert_array_equal(after["constants/positions"], grid_positions((6, 6), 48))
    same(before, after)


def test_what_a_model_means_stays(folders: dict[str, Path]) -> None:
    """Eps told of a table's entries is no Flow, nor are EDM2's latents those of LDM."""
    plain = jd.WeightedError(jd.UniformOnNetwork(jd.Flow()))
    flow = {"parameterization": jd.Flow(), "schedule": jd.RectifiedFlow(), "loss": plain}
    with pytest.raises(ValueError, match="its parameterization is Eps"):
        started(folders["dit"], times=jd.timesteps.Uniform(), **flow)
    with pytest.raises(ValueError, match="its data's encoding is VAELatents"):
        started(folders["dit"], data=Latents("edm2.npz", 8))
