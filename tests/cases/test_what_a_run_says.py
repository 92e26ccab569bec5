"""What a run says when it starts and ends, and what the guide to fine-tuning promises."""

import contextlib
import dataclasses
import importlib.util
import io
import json
import re
import shlex
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from jaxdiff.data import Folder
from jaxdiff.runs.state import init_state
from jaxdiff.runtime import sharding
from jaxdiff.train import fit, summary
from jaxdiff.train.goodput import Clock
from tests.cases.commands import ROOT, run
from tests.linear import Linear
from tests.test_train import PLAIN, TINY

FEW = dataclasses.replace(
    PLAIN, batch_size=1, steps=2, log_every=1, checkpoint_every=2, sample_every=0
)


def pictures(folder: Path, classes: list[str], side: int = 16) -> Path:
    rng = np.random.default_rng(len(classes))
    for name in classes:
        (folder / name).mkdir(parents=True)
        for number in range(3):
            pixels = rng.integers(0, 256, (side, side, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


def test_a_start_says_what_it_found_and_an_end_no_noise(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Of a folder; nothing is written into it, and the run's folder has the statistics."""
    folder = pictures(tmp_path / "mine", ["cat", "dog"])
    (folder / "cat/.hidden.png").write_bytes((folder / "cat/0.png").read_bytes())
    before = sorted(path for path in folder.rglob("*"))
    e = dataclasses.replace(FEW, data=Folder(str(folder), size=8), network=Linear())
    for steps in (2, 3):
        fit(dataclasses.replace(e, steps=steps), tmp_path / "run")
    log = capsys.readouterr().err
    resolved = dataclasses.replace(e, network=Linear(label_dim=2))
    shapes = jax.eval_shape(lambda: init_state(resolved)).params
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    lines = log.splitlines()
    assert lines[0] == "reading the data"
    assert f"data: Folder {folder}, 6 images, 8 x 8 x 3" in lines
    assert "  2 classes: 'cat' (3), 'dog' (3)" in lines
    assert "  left out: hidden files (1, such as 'cat/.hidden.png')" in lines
    assert f"network: Linear, {count:,} parameters, float32" in lines
    assert any(re.match(r"devices: 1 x .*, for batches of 1$", line) for line in lines)
    assert f"folder: {tmp_path / 'run'}, a new run of 2 steps" in lines
    assert f"folder: {tmp_path / 'run'}, goes on from step 2 of 3" in lines
    assert "compiling the training step, about a minute the first time" in lines
    assert "goodput" not in log
    assert sorted(path for path in folder.rglob("*")) == before
    assert json.loads((tmp_path / "run/statistics.json").read_text())["count"] == 6


def test_a_ramp_up_longer_than_the_run_is_told() -> None:
    mesh, params = sharding.mesh_for(2), {"w": np.zeros(3)}
    long = dataclasses.replace(TINY.optimizer, rampup_images=500_000.0)
    lines = [
        [*summary.of_run(e, Path("run"), mesh, params, 0)][-1]
        for e in (
            dataclasses.replace(TINY, steps=100),
            dataclasses.replace(TINY, steps=1000, optimizer=long),
        )
    ]
    assert "note" not in lines[0]
    assert "rises until step 1,000 of 1,000: shorten its ramp-up" in lines[1]


def test_forced_normalisation_of_other_layers_is_told() -> None:
    """A dense layer of 400 inputs is then 20 times as large as it was made."""
    e, mesh = dataclasses.replace(TINY, steps=100), sharding.mesh_for(2)
    assert e.optimizer.forced_norm
    free = dataclasses.replace(
        e, optimizer=dataclasses.replace(e.optimizer, forced_norm=False)
    )
    last = lambda e, params: [*summary.of_run(e, Path("run"), mesh, params, 0)][-1]
    flax, edm2 = ({"layer": {name: np.zeros((4, 2))}} for name in ("kernel", "weight"))
    assert "optimizer.forced_norm to False" in last(e, flax)
    assert "note" not in last(e, edm2)
    assert "note" not in last(free, flax)


def test_goodput_is_told_of_long_runs_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    clock = Clock()
    clock.made, now[0] = 3, 1000.0
    assert not clock.is_meaningful
    clock.made = 300
    assert clock.is_meaningful
    now[0] = 5.0
    assert not clock.is_meaningful


def test_imports_that_take_long_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """At once and now and then; nothing where they are fast, or where nobody wants it."""
    path = ROOT / "jaxdiff/commands/import_notice.py"
    spec = importlib.util.spec_from_file_location("import_notice", path)
    notice = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(notice)
    notice.start()
    assert "importing" not in {thread.name for thread in threading.enumerate()}
    assert notice.FIRST < 5
    assert notice.EVERY < 10
    notice.FIRST = notice.EVERY = 0.01
    monkeypatch.delenv("JAXDIFF_QUIET_IMPORT")
    stderr = io.StringIO()
    with contextlib.redirect_stderr(stderr):
        notice.start()
        time.sleep(0.1)
        notice.done()
        for thread in threading.enumerate():
            if thread.name == "importing":
                thread.join()
    lines = stderr.getvalue().splitlines()
    assert len(lines) >= 2
    assert all(re.match(r"importing JAX and jaxdiff, .* \(0 s\)", line) for line in lines)


TOY = (
    "--config.network.channel_mult=(1,)",  # test_finetuning has networks of several levels
    *("--config.network.model_channels=8", "--config.network.channels_per_head=8"),
    *("--config.network.logvar_channels=8", "--config.sample_every=0"),
)


def test_the_guide_to_fine_tuning_works_as_it_says(tmp_path: Path) -> None:
    """Its commands, in order, with a network and steps of toy size."""
    pictures(tmp_path / "my/images", ["cat", "dog"], 32)
    pictures(tmp_path / "my/others", ["bee", "cow", "fox"], 32)
    text = (ROOT / "docs/finetuning.md").read_text()
    commands = re.findall(r"^\.venv/bin/jaxdiff train (.*)$", text, re.MULTILINE)
    assert len(commands) == 4
    logs = []
    for number, command in enumerate(commands):
        steps = 2 if number < 3 else 3
        arguments = [
            re.sub(r"=(my|runs)/", rf"={tmp_path}/\1/", a)
            for a in shlex.split(command)
            if not re.match(r"--config\.(steps|batch_size)", a)
        ]
        size = f"--config.batch_size={1 if number < 3 else 2}"
        done = run("train", *arguments, *TOY, size, f"--config.steps={steps}")
        assert done.status == 0, done.err
        logs.append(done.err)
    assert "made anew: emb_label/weight\n" in logs[1]
    assert "classes: 2 there, 3 here; labels are made anew\n" in logs[1]
    assert "trained at 16 x 16, goes on at 32 x 32" in logs[2]
    assert "made anew" not in logs[2]
    for line in ("batch_size 1 -> 2", "accumulation 1 -> 2", "learning_rate 0.02 -> 0.01"):
        assert re.search(rf"^from step 2 on: .*{line}$", logs[3], re.MULTILINE)
