"""Magnitudes of a training step, against the numbers themselves and EDM2's promise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from jaxdiff import magnitudes
from jaxdiff.state import init_state
from jaxdiff.train import make_step
from tests.test_train import TINY, batch


def test_rms_is_of_all_elements_in_float32() -> None:
    assert magnitudes.rms(jnp.asarray([[3.0, 4.0]])) == pytest.approx(12.5**0.5)
    big = jnp.full((70_000,), 300, jnp.float16)  # its square is beyond float16
    assert magnitudes.rms(big) == pytest.approx(300)


def test_a_step_s_weights_updates_and_activations() -> None:
    state = init_state(TINY)
    before, step = state.params, jax.jit(make_step(TINY))
    for n in range(2):  # the first step has rate 0
        before, (state, _) = state.params, step(state, batch(n))
    found = magnitudes.probe(TINY)(before, state, batch(1))
    old, new = (traverse_util.flatten_dict(p, sep="/") for p in (before, state.params))
    assert {*found["weights"]} == {k for k, v in new.items() if v.ndim >= 2}
    for name, weight in found["weights"].items():
        # forced normalisation leaves 1 / (1 + 1e-4) [EDM2 eq. 47]
        assert weight == pytest.approx(0.9999, abs=1e-5), name
        change = np.linalg.norm(new[name] - old[name]) / np.linalg.norm(old[name])
        assert found["updates"][name] == pytest.approx(change, rel=1e-4)
    assert max(found["updates"].values()) > 1e-5
    blocks = {name.rpartition("/")[0] for name in new if name.startswith(("enc/", "dec/"))}
    outputs = {"/".join(name.split("/")[:2]) for name in blocks}
    assert {*found["activations"]} == outputs
    for name, activation in found["activations"].items():
        # magnitude-preserving: near 1 before anything is learned, whatever the layer
        assert 0.6 < activation < 1.6, (name, activation)


def test_the_plot_has_a_row_of_panels_a_run() -> None:
    kinds = {kind: {"enc/a": 1.0, "dec/b": 2.0} for kind in magnitudes.KINDS}
    rows = [{"step": n, **kinds} for n in (1, 2)]
    figure = magnitudes.plot({"one": rows, "two": rows})
    assert [axes.get_title() for axes in figure.axes][::3] == [
        f"{name}: {magnitudes.KINDS['activations']}" for name in ("one", "two")
    ]
    assert all(len(axes.lines) == 3 for axes in figure.axes)
