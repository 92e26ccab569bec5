"""Magnitudes of a training step, against the numbers themselves and EDM2's promise."""

import io
import json
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from jaxdiff.train import magnitudes, make_step
from tests.cases.commands import run
from tests.states import initial
from tests.test_train import TINY, batch


def test_rms_is_of_all_elements_in_float32() -> None:
    assert magnitudes.rms(jnp.asarray([[3.0, 4.0]])) == pytest.approx(12.5**0.5)
    big = jnp.full((70_000,), 300, jnp.float16)  # its square is beyond float16
    assert magnitudes.rms(big) == pytest.approx(300)


def test_a_step_s_weights_updates_and_activations() -> None:
    state = initial(TINY)
    before, step = state.params, jax.jit(make_step(TINY))
    for n in range(2):  # the first step has rate 0
        before, (state, _) = state.params, step(state, batch(n))
    measured = magnitudes.probe(TINY)(before, state, batch(1))
    old, new = (traverse_util.flatten_dict(p, sep="/") for p in (before, state.params))
    assert {*measured["weights"]} == {k for k, v in new.items() if v.ndim >= 2}
    for name, weight in measured["weights"].items():
        # forced normalisation leaves 1 / (1 + 1e-4) [EDM2 eq. 47]
        assert weight == pytest.approx(0.9999, abs=1e-5), name
        change = np.linalg.norm(new[name] - old[name]) / np.linalg.norm(old[name])
        assert measured["updates"][name] == pytest.approx(change, rel=1e-4)
    assert max(measured["updates"].values()) > 1e-5
    blocks = {name.rpartition("/")[0] for name in new if name.startswith(("enc/", "dec/"))}
    outputs = {"/".join(name.split("/")[:2]) for name in blocks}
    assert {*measured["activations"]} == outputs
    for name, activation in measured["activations"].items():
        # magnitude-preserving: near 1 before anything is learned, whatever the layer
        assert 0.6 < activation < 1.6, (name, activation)


def row(step: int, a: float, b: float, c: float) -> dict[str, Any]:
    return {"step": step, "updates": {"enc/a": a, "dec/b": b, "dec/c": c}}


ROWS = (
    row(1, 0.0, 0.0, 0.0),
    row(2, 2.0, 8.0, 0.0),
    row(3, 7.0, 9.0, 3.0),
    row(4, 6.0, 6.0, 1.0),
)
"""As of a run: the first step updates nothing, and c has its first gradient at step 3."""


def test_drift_is_of_the_layers_that_move() -> None:
    drift = magnitudes.drift(ROWS, "updates")
    assert drift.first == pytest.approx(4)
    assert drift.last == pytest.approx(6)
    assert drift.ratio == pytest.approx(1.5)
    assert drift.span == pytest.approx((7 * 9) ** 0.5 / 4)  # step 3 over step 2
    assert (drift.smallest, drift.largest) == (0, 9)
    assert (drift.growth, drift.layer) == (3, "enc/a")
    with pytest.raises(ValueError, match="all updates are 0: log more steps"):
        magnitudes.drift(ROWS[:1], "updates")


@pytest.mark.parametrize("other", [{"enc/a": 1.0, "dec/d": 2.0}, {"enc/a": 1.0}])
def test_rows_of_different_layers_are_no_run(other: dict[str, float]) -> None:
    rows = [*ROWS[1:2], {"step": 3, "updates": other}]
    for order in (rows, rows[::-1]):
        with pytest.raises(ValueError, match=r"updates are of other layers .*dec/c"):
            magnitudes.drift(order, "updates")


def test_a_page_of_three_runs_is_a_small_file() -> None:
    """As many lines as fill 619 KB where an inch has 130 dots."""
    rng, steps, page = np.random.default_rng(0), 41, io.BytesIO()
    names = [f"{part}/{i}" for part in ("enc", "dec") for i in range(5)]

    def walk() -> dict[str, np.ndarray]:
        way = rng.normal(0, 0.03, (len(names), steps)).cumsum(axis=1)
        return dict(zip(names, np.exp(way), strict=True))

    def run() -> list[dict[str, Any]]:
        every = {kind: walk() for kind in magnitudes.KINDS}
        at = lambda n: {k: {name: v[n] for name, v in w.items()} for k, w in every.items()}
        return [{"step": n, **at(n)} for n in range(steps)]

    figure = magnitudes.plot({name: run() for name in "abc"})
    figure.savefig(page, format="png")
    assert len(page.getvalue()) < 250_000


def test_the_command_tells_and_draws(tmp_path: Path) -> None:
    kinds = {kind: row(0, 0.9999, 0.9998, 1.0)["updates"] for kind in magnitudes.KINDS}
    rows = [{**kinds, **one} for one in ROWS]
    rows[1]["weights"] = {**kinds["weights"], "dec/b": 0.75}
    (tmp_path / "run").mkdir()
    lines = "\n".join(map(json.dumps, rows))
    (tmp_path / "run" / "magnitudes.jsonl").write_text(lines + "\n")
    out = f"--out={tmp_path / 'drawn.png'}"
    done = run("magnitudes", f"--workdirs={tmp_path / 'run'}", out)
    assert done.status == 0, done.err
    table = {words[1]: words[2:] for words in map(str.split, done.out.splitlines()[1:-1])}
    assert table["updates"] == ["4", "6", "1.5", "1.98431", "0", "9", "3", "enc/a"]
    assert table["weights"][4:] == ["0.75", "1", "1", "enc/a"]
    assert (tmp_path / "drawn.png").stat().st_size > 1000


def test_runs_of_one_name_are_told_apart_and_damage_is_named(tmp_path: Path) -> None:
    kinds = {kind: {"enc/a": 1.0} for kind in magnitudes.KINDS}
    whole = "".join(json.dumps({"step": n, **kinds}) + "\n" for n in (1, 2))
    paths = [tmp_path / name / "run" / "magnitudes.jsonl" for name in ("a", "b")]
    for path in paths:
        path.parent.mkdir(parents=True)
        path.write_text(whole + '{"step": 3, "act')  # as a kill leaves it
    folders = ",".join(str(path.parent) for path in paths)
    command = "magnitudes", f"--workdirs={folders}", f"--out={tmp_path / 'drawn.png'}"
    out = run(*command).out
    assert "2 runs drawn" in out
    assert all(str(path.parent) in out for path in paths)
    for change, message in (
        (dict.fromkeys(kinds), "activations must be dict, got None"),
        ({"activations": {}}, "'activations' holds no layers"),
        ({"weights": {"enc/a": "x"}}, "weights: enc/a must be a number from 0"),
        ({"updates": {"enc/a": None}}, "updates: enc/a must be a number from 0"),
        ({"updates": {"enc/a": math.nan}}, "updates: enc/a must be a number from 0"),
        ({"step": "x"}, "step must be a whole number"),
    ):
        paths[1].write_text(whole + json.dumps({"step": 3, **kinds} | change) + "\n")
        done = run(*command)
        assert done.status == 1
        assert f"error: {paths[1]}, line 3: " in done.err
        assert message in done.err
    paths[1].write_text(whole + '{"step": 3}\n')
    assert f"error: {paths[1]}, line 3: it has no 'activations'\n" == run(*command).err
    line = "error: --workdirs=: name one at least, as runs/mine\n"
    assert run("magnitudes", "--workdirs=", command[2]).err == line


def test_the_plot_has_a_row_of_panels_a_run() -> None:
    kinds = {kind: {"enc/a": 1.0, "dec/b": 2.0} for kind in magnitudes.KINDS}
    rows = [{"step": n, **kinds} for n in (1, 2)]
    figure = magnitudes.plot({"one": rows, "two": rows})
    assert [axes.get_title() for axes in figure.axes][::3] == [
        f"{name}: {magnitudes.KINDS['activations']}" for name in ("one", "two")
    ]
    assert all(len(axes.lines) == 3 for axes in figure.axes)
