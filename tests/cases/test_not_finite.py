"""Numbers that are not finite stop a command with one line, and leave no file behind."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import evaluation, train
from jaxdiff.data import Pixels
from jaxdiff.data.batches import Dataset, Memory
from jaxdiff.evaluation import in_memory, reference
from jaxdiff.evaluation.extractors import extractor as extractors
from jaxdiff.evaluation.likelihood import Bits, dataset_bound, dataset_flow, process
from jaxdiff.evaluation.noise_shift import of_run
from jaxdiff.runs import generate, snapshots
from jaxdiff.runtime import sharding
from jaxdiff.runtime.finite import NotFiniteError, require_finite
from jaxdiff.schedules.posterior import LargeVariance
from tests.cases.commands import run
from tests.states import initial
from tests.test_nag_commands import EXACT, LINEAR

MESH = sharding.data_mesh(jax.devices()[:1])
FEW = Dataset(Memory(np.zeros((4, 8, 8, 1), np.uint8), np.zeros(4, np.int32)), ("0",))


def spoiled(variables: Any, keys: Any, label: Any, *rest: Any) -> jax.Array:
    """x0 of images, of which those of label 1 are NaN and those of label 2 infinite."""
    value = jnp.select([label == 1, label == 2], [jnp.nan, jnp.inf], 0.0)
    return jnp.broadcast_to(value[:, None, None, None], (len(label), 8, 8, 1))


def test_the_message_names_seeds_and_what_to_try() -> None:
    draw = lambda label: generate.images(
        spoiled, {}, Pixels(), np.arange(40, 44), np.array(label), MESH, 3
    )
    assert draw([0, 0, 0, 0]).shape == (4, 8, 8, 1)
    with pytest.raises(NotFiniteError) as caught:
        draw([0, 1, 2, 0])
    assert str(caught.value) == (
        "2 of 3 samples are not finite (seeds 41, 42): try another solver, more steps, "
        "less guidance, or another checkpoint or average"
    )
    with pytest.raises(NotFiniteError, match=r"1 of 1 samples .* \(seed 43\)"):
        draw([0, 0, 0, 1])


def test_images_that_fill_a_batch_up_are_not_looked_at() -> None:
    whole = generate.images(
        lambda v, keys, label: jnp.where(
            jnp.arange(len(label))[:, None, None, None] < 2, 0.5, jnp.nan
        )
        * jnp.ones((1, 8, 8, 1)),
        {}, Pixels(), np.arange(2), np.zeros(2, int), sharding.data_mesh(), 2,
    )  # fmt: skip
    assert (whole == 191).all()


def test_a_long_list_is_cut() -> None:
    with pytest.raises(NotFiniteError, match="seeds 0, 1, 2, 3, 4, 5, 6, 7 and 92 more"):
        require_finite(np.full((100, 2), np.inf), "samples")
    require_finite(np.zeros((0, 2)), "samples")


@pytest.fixture(scope="module")
def lost(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose weights are finite, and whose sums are not."""
    state = initial(LINEAR)
    huge = lambda path, a: a * 0 + 3e38 if path[-1].key == "kernel" else a
    params = jax.tree_util.tree_map_with_path(huge, state.params)
    variables = {"params": params, "constants": state.constants}
    folder = tmp_path_factory.mktemp("runs")
    snapshot = snapshots.Snapshot(LINEAR, variables, 0.1, 1, 1)
    return snapshots.write(folder, snapshot, "float32")


@pytest.mark.parametrize(
    ("script", "flags", "words"),
    [
        ("sample", ("--number=4",), "4 of 4 samples are not finite (seeds 0, 1, 2, 3)"),
        ("sample", ("--number=4", "--seed=7", "--compare=Heun", "--compare_steps=2"),
         "4 of 4 samples are not finite (seeds 7, 8, 9, 10)"),
        ("edit", ("--number=2",), "2 of 2 edits are not finite (seeds 0, 1)"),
        ("evaluate", ("--number=8", "--blocks=1", "--extractors=pixels8"),
         "8 of 8 samples are not finite"),
        ("sweep", ("--over=steps=2,3", "--number=8", "--blocks=1", "--extractors=pixels8"),
         "8 of 8 samples are not finite"),
        ("likelihood", ("--number=2", "--timesteps=2", "--noclip"),
         "2 of 2 bounds are not finite (images 0, 1)"),
        ("likelihood", ("--number=2", "--by=flow", "--steps=1", "--probes=1"),
         "2 of 2 likelihoods are not finite (images 0, 1)"),
    ],
    ids=lambda value: value if isinstance(value, str) and " " not in value else "",
)  # fmt: skip
def test_commands_say_it_in_a_line_and_write_nothing(
    script: str, flags: tuple[str, ...], words: str, lost: Path, tmp_path: Path
) -> None:
    steps = () if script in ("likelihood", "sweep") else ("--steps=2",)
    out = f"--out={tmp_path / 'out'}"
    done = run(script, f"--workdir={lost}", out, *steps, *flags)
    assert done.status == 1, done
    line = done.err.strip().splitlines()[-1]
    assert line.startswith(f"error: {words}")
    assert list(tmp_path.iterdir()) == []


def test_bounds_and_flows_name_their_images() -> None:
    def cost(variables: Any, keys: Any, image: Any, label: Any, steps: Any) -> Any:
        exact = dataset_bound.coster(EXACT, LargeVariance(), clip=False)
        terms = exact(variables, keys, image, label, steps)
        return dataclasses.replace(terms, x0_mse=terms.x0_mse.at[0, 2].set(jnp.inf))

    with pytest.raises(NotFiniteError, match=r"1 of 4 bounds .* \(image 2\): .*checkpoint"):
        dataset_bound.measure(cost, {}, FEW, process(EXACT.schedule, 4), MESH)

    def solve(variables: Any, keys: Any, image: Any, label: Any) -> Bits:
        return Bits(jnp.asarray([1.0, jnp.nan]), jnp.zeros(2), jnp.ones(2))

    with pytest.raises(NotFiniteError, match=r"1 of 2 likelihoods .* \(image 3\)"):
        dataset_flow.measure(
            lambda v, k, image, label: solve(v, k, image, label)
            if int(label[0]) else Bits(jnp.ones(2), jnp.zeros(2), jnp.ones(2)),
            {}, Dataset(Memory(FEW.source.image, np.array([0, 0, 1, 1], np.int32)), ("0",)),
            MESH, batch=2,
        )  # fmt: skip


def test_features_name_their_extractor_and_images(monkeypatch: pytest.MonkeyPatch) -> None:
    images = in_memory(np.random.default_rng(0).integers(0, 256, (9, 8, 8, 1), np.uint8))
    pixels, look, calls = extractors.extractor("pixels8"), reference._look, []

    def damaged(extractor: Any, variables: Any, some: Any) -> Any:
        features = look(extractor, variables, some)
        calls.append(len(some))
        bad = jnp.nan if len(calls) == 2 else 0.0
        return dataclasses.replace(features, pooled=features.pooled.at[1].add(bad))

    monkeypatch.setattr(reference, "_look", damaged)
    with pytest.raises(NotFiniteError, match=r"features of pixels8 .*\(image 5\)"):
        evaluation.observe(images, [pixels], MESH, batch=4)
    assert calls == [4, 4]


def test_a_watched_sampler_and_its_estimator() -> None:
    seeds, label = np.arange(3), np.zeros(3, np.int32)
    watch = lambda variables, estimating, keys, label: (
        jnp.ones((3, 8, 8, 1)),
        jnp.asarray([[0.0, jnp.nan, 0.0]]),
    )
    with pytest.raises(NotFiniteError, match=r"estimates of the level .* \(seed 1\)"):
        of_run.sampled(watch, ({}, {}), seeds, label, MESH)
    blown = lambda *_: (jnp.full((3, 8, 8, 1), jnp.inf), jnp.zeros((1, 3)))
    with pytest.raises(NotFiniteError, match=r"3 of 3 samples .* \(seeds 0, 1, 2\)"):
        of_run.sampled(blown, ({}, {}), seeds, label, MESH)


def test_training_goes_on_without_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sampler that blows up early in training costs its picture, not the run."""
    experiment = dataclasses.replace(
        LINEAR, batch_size=8, steps=2, log_every=1, checkpoint_every=2, sample_every=1,
        eval_every=1, eval_images=10, eval_extractors=("pixels8",),
        sampling=dataclasses.replace(LINEAR.sampling, images=4, std=0.1),
        optimizer=dataclasses.replace(LINEAR.optimizer, stds=(0.1,)),
    )  # fmt: skip
    ones = lambda variables, keys, label: spoiled(variables, keys, label * 0 + 1)
    monkeypatch.setattr(generate, "sampler", lambda experiment: ones)
    with pytest.warns(UserWarning, match="not finite") as warned:
        state = train.fit(experiment, tmp_path / "run")
    texts = [str(w.message) for w in warned if "not finite" in str(w.message)]
    assert texts[0].startswith("no picture at step 1: 4 of 4 samples are not finite (seeds")
    assert texts[1].startswith("no scores at step 1: 8 of 8 samples are not finite (seeds")
    assert int(state.step) == 2
    assert not (tmp_path / "run" / "samples.png").exists()
    rows = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert "fd_pixels8" not in rows
