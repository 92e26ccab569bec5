"""What is saved can be read, is what was saved, and says what it is of."""

import dataclasses
import json
import os
import re
import shutil
import tarfile
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

import jaxdiff as jd
from jaxdiff import data, train
from jaxdiff.config import Experiment, Sampling
from jaxdiff.networks import UNet
from jaxdiff.optim import EDM2Optimizer
from jaxdiff.runs import checkpoint, orbax_files, record, run_folder, snapshots, state_parts
from jaxdiff.runs.record import DamagedError, Record
from jaxdiff.runs.state import TrainState, init_state
from jaxdiff.runtime import processes, sharding
from tests import buckets
from tests.linear import Linear

GOLDEN = Path(__file__).parents[1] / "golden" / "checkpoints"
TINY = Experiment(
    network=UNet(
        label_dim=10, model_channels=4, channel_mult=(1,), num_blocks=1,
        attn_resolutions=(), channels_per_head=4, logvar_channels=4,
    ),
    optimizer=EDM2Optimizer(ref_batches=10.0, rampup_images=64.0, stds=(0.1,)),
    sampling=Sampling(steps=2, std=0.1, images=4),
    batch_size=2, steps=2, log_every=1, checkpoint_every=1, keep=2, sample_every=0,
)  # fmt: skip
"""As the runs in GOLDEN, which commit 89ee0d8 wrote."""
SMALL = dataclasses.replace(TINY, network=Linear(label_dim=10))
"""For what does not depend on the network: a tenth of the arrays."""
IDENTITY = {"classes": ["cat", "d\N{DOG FACE}\udcffg"], "count": 7, "shape": [8, 8, 1]}


@pytest.fixture(scope="module")
def state() -> TrainState:
    return jax.jit(init_state, static_argnums=0)(SMALL)


def mesh() -> jax.sharding.Mesh:
    return sharding.data_mesh(jax.devices()[:1])


def save(workdir: Path, state: TrainState, *steps: int) -> None:
    with checkpoint.checkpoints(workdir, keep=9) as saved:
        for step in steps or (1,):
            saved.save(step, state, SMALL, data=IDENTITY)


def raw(leaf: Any) -> np.ndarray:
    is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if is_key else leaf)


def same(one: Any, other: Any) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(raw(a), raw(b)), one, other)


# Folders with names that mean something else to Orbax


@pytest.mark.parametrize("name", ["a[1]", r"b\c", "*", "gs:", "d?\n{e}%23", "f\udcff"])
def test_a_name_does_not_matter(name: str, state: TrainState, tmp_path: Path) -> None:
    before = set(os.listdir(tempfile.gettempdir()))
    save(tmp_path / name / "run", state)
    save(tmp_path / "plain", state)
    (tmp_path / "plain").rename(tmp_path / name / "moved")  # healthy, under that name now
    for folder in ("run", "moved"):
        with checkpoint.checkpoints(tmp_path / name / folder) as saved:
            assert saved.steps() == [1]
            restored, about = saved.restore(mesh())
        same(restored, state)
        assert about == Record(1, SMALL, about.checksum, IDENTITY)
        assert os.listdir(tmp_path / name / folder) == ["checkpoints"]
    links = set(os.listdir(tempfile.gettempdir())) - before
    assert not [link for link in links if link.startswith("jaxdiff-")]


def test_a_pattern_takes_no_part_of_another_run(state: TrainState, tmp_path: Path) -> None:
    """Orbax's own search for the parts of run* would find those of run1 too."""
    other = dataclasses.replace(state, step=state.step + 5)
    save(tmp_path / "run1", other)
    save(tmp_path / "run*", state)
    with checkpoint.checkpoints(tmp_path / "run*") as saved:
        same(saved.restore(mesh())[0], state)


def test_a_bucket_s_awkward_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    buckets.in_memory(monkeypatch)
    with (
        pytest.raises(ValueError, match=r"with '\[' in its name: gs://bucket/a\[1\]\. Cho"),
        checkpoint.checkpoints("gs://bucket/a[1]"),
    ):
        pass


# A save is read back


def lost(folder: Path) -> None:
    """What Orbax left where a name misled it: parts that were never put together."""
    for path in folder.glob("*/state/manifest.ocdbt"):
        path.unlink()


def changed(folder: Path) -> None:
    for path in folder.glob("*/state/d/*"):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)


def renamed(folder: Path) -> None:
    for path in folder.glob("*/_CHECKPOINT_METADATA"):
        path.write_text(path.read_text().replace('\\"seed\\": 0', '\\"seed\\": 1'))


@pytest.mark.parametrize("spoil", [lost, changed, renamed])
def test_a_save_that_cannot_be_read_stops_the_run(
    spoil: Callable[[Path], None],
    state: TrainState,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    writer = orbax_files.writer

    def spoiling(folder: Path, *how: Any) -> Any:
        made = writer(folder, *how)
        wait = made.wait

        def waited() -> None:
            wait()
            spoil(folder)

        made.wait = waited
        return made

    monkeypatch.setattr(orbax_files, "writer", spoiling)
    with pytest.raises(
        OSError, match=r"checkpoint 3 was written to .* cannot be read back"
    ):
        save(tmp_path, state, 3)


def test_only_the_first_save_of_a_start_is_read_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = jax.jit(init_state, static_argnums=0)(TINY)
    read, load = [], orbax_files.load

    def counted(folder: Path, step: int, target: Any) -> Any:
        arrays = [leaf for leaf in jax.tree.leaves(target) if leaf is not ...]
        read.append((step, len(arrays), sum(a.size * a.dtype.itemsize for a in arrays)))
        return load(folder, step, target)

    monkeypatch.setattr(orbax_files, "load", counted)
    monkeypatch.setattr(state_parts, "PART", 1024)
    with checkpoint.checkpoints(tmp_path, keep=9) as saved:
        for step in (1, 2):
            saved.save(step, state, TINY, data=IDENTITY)
    assert {step for step, *_ in read} == {1}
    assert sum(count for _, count, _ in read) == len(jax.tree.leaves(state))
    assert len(read) > 5
    assert all(size <= 1024 or count == 1 for _, count, size in read)


def test_a_checksum_is_its_sum_and_changes_with_any_bit() -> None:
    rng = np.random.default_rng(0)
    whole = {
        "a": rng.normal(size=(3, 5)).astype(np.float32),
        "b": np.asarray([7, -1], np.int32),
        "c": np.asarray([True, False, True]),
    }
    words = [whole["a"].view(np.uint32), whole["b"].view(np.uint32), whole["c"]]
    expected = [
        int(sum((2 * i + 1) * int(w) for i, w in enumerate(np.ravel(part)))) % 2**32
        for part in words
    ]
    assert state_parts.checksum(whole).tolist() == expected
    assert state_parts.checksum([*whole.values()]).tolist() == expected
    for place in np.ndindex(3, 5):
        for bit in range(32):
            flipped = whole["a"].copy()
            flipped.view(np.uint32)[place] ^= np.uint32(1 << bit)
            sums = state_parts.checksum({**whole, "a": flipped}).tolist()
            assert sums[0] != expected[0]
            assert sums[1:] == expected[1:]


@pytest.mark.parametrize("when", ["load", "checksum"])
def test_a_save_that_finds_no_memory_to_be_read_goes_on(
    when: str, state: TrainState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    checksum = state_parts.checksum
    once = lambda tree: full() if isinstance(tree, list) else checksum(tree)
    if when == "load":
        monkeypatch.setattr("orbax.checkpoint.v1.load", full)
    else:
        monkeypatch.setattr(checkpoint, "checksum", once)
    with pytest.warns(UserWarning, match="not read back: there is no memory for another"):
        save(tmp_path, state)


@pytest.mark.parametrize("when", ["record", "arrays"])
def test_what_another_process_cannot_read_stops_this_one(
    when: str, state: TrainState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both do the same collectives: each agrees before it computes a checksum."""
    checksum, answers = state_parts.checksum, []

    def others(yes: bool) -> bool:
        answers.append(yes)
        return yes and (when == "record" or len(answers) != 3)

    def together(tree: Any) -> Any:
        assert not isinstance(tree, list), "the other process has nothing to sum"
        return checksum(tree)

    monkeypatch.setattr(checkpoint, "checksum", together)
    monkeypatch.setattr(processes, "all_agree", others)
    if when == "record":
        monkeypatch.setattr(processes, "from_first", lambda value: {} if value else value)
    with pytest.raises(OSError, match="cannot be read back"):
        save(tmp_path, state)


def test_what_may_not_be_read_is_not_called_damaged(
    state: TrainState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, state)

    def refused(*_: Any) -> None:
        raise ValueError("no handler") from PermissionError(13, "Permission denied")

    monkeypatch.setattr("orbax.checkpoint.v1.load", refused)
    with (
        checkpoint.checkpoints(tmp_path) as saved,
        pytest.raises(OSError, match=r"cannot read .*/1: Permission denied"),
    ):
        saved.restore(mesh())


# The record


def test_every_bit_of_a_record_counts() -> None:
    kept = record.sealed(Record(3, SMALL, (1, 2), IDENTITY, 6))
    assert record.opened(json.loads(json.dumps(kept))) == Record(
        3, SMALL, (1, 2), IDENTITY, 6
    )
    text = json.dumps(kept).encode()
    for bit in range(0, 8 * len(text), 7):
        flipped = bytearray(text)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            damaged = json.loads(flipped)
        except ValueError:
            continue
        if damaged != kept:
            with pytest.raises(DamagedError):
                record.opened(damaged)


def test_a_record_that_holds_statistics_too_is_read() -> None:
    """As those of earlier versions do."""
    fields = json.loads(record.sealed(Record(3, SMALL, (1, 2), IDENTITY, 6))["record"])
    assert "statistics" not in fields
    text = json.dumps(fields | {"statistics": {"count": 7, "mean": [0.1], "std": [0.5]}})
    opened = record.opened({"record": text, "sha256": record.digest(text)})
    assert opened == Record(3, SMALL, (1, 2), IDENTITY, 6)


def test_a_whole_record_of_another_version_is_not_damaged(
    state: TrainState, tmp_path: Path
) -> None:
    kept = record.sealed(Record(1, SMALL, ()))
    text = kept["record"].replace('"batch_size"', '"batch_sizes"')
    with pytest.raises(record.OtherVersionError, match="has no field 'batch_sizes'"):
        record.opened({"record": text, "sha256": record.digest(text)})


def flip(path: Path, what: bytes, by: bytes) -> None:
    content = path.read_bytes()
    assert what in content
    path.write_bytes(content.replace(what, by, 1))


@pytest.mark.parametrize(
    ("what", "by", "reason"),
    [
        (b'label_dim\\": 10', b'label_dim\\": 11', "does not fit its digest"),
        (b'"custom_metadata"', b'"custom_metadbta"', "does not fit its digest|no record"),
        (b'"record"', b'"recore"', "does not fit its digest"),
        (b'"item_handlers"', b'"item_hbndlers"', ""),
    ],
)
def test_a_changed_record_is_passed_over(
    what: bytes, by: bytes, reason: str, state: TrainState, tmp_path: Path
) -> None:
    save(tmp_path, state, 1, 2)
    flip(tmp_path / "checkpoints/2/_CHECKPOINT_METADATA", what, by)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with checkpoint.checkpoints(tmp_path) as saved:
            restored, about = saved.restore(mesh())
    assert about.experiment == SMALL
    same(restored, state)
    lines = [str(w.message) for w in caught if "passed over" in str(w.message)]
    if reason:
        assert about.step == 1
        assert len(lines) == 1
        pattern = rf"checkpoint 2 of .* is damaged \(.*({reason}).*\) and was passed over"
        assert re.search(pattern, lines[0])


@pytest.mark.parametrize("stamp", [b"e9999", b"1" * 40])
def test_a_time_that_is_none_hides_no_other_checkpoint(
    stamp: bytes, state: TrainState, tmp_path: Path
) -> None:
    """Orbax reads the times of all as it opens a folder, and failed on any."""
    save(tmp_path, state, 1, 2)
    path = tmp_path / "checkpoints/2/_CHECKPOINT_METADATA"
    content = path.read_bytes()
    at = content.index(b'"commit_timestamp_nsecs": 1') + 27
    path.write_bytes(content[:at] + stamp + content[at + len(stamp[:18]) :])
    with pytest.warns(UserWarning, match=r"2 is damaged .* renamed to 2\.damaged"):
        save(tmp_path, state, 3)
    with checkpoint.checkpoints(tmp_path) as saved:
        assert saved.steps() == [3, 1]
    shutil.copytree(tmp_path / "checkpoints/2.damaged", tmp_path / "checkpoints/2")
    with pytest.warns(UserWarning, match=r"renamed to 2\.damaged-2 and is passed over"):
        save(tmp_path, state, 3)
    for step in (1, 3):
        shutil.rmtree(tmp_path / f"checkpoints/{step}")
    (tmp_path / "checkpoints/2.damaged").rename(tmp_path / "checkpoints/2")
    with pytest.raises(ValueError, match=r"no checkpoint in .* can be read: 2 is damaged"):
        save(tmp_path, state, 3)  # and does not begin anew without a word


def test_deleting_is_no_advice(state: TrainState, tmp_path: Path) -> None:
    save(tmp_path, state, 1, 2)
    for step in (1, 2):
        flip(tmp_path / f"checkpoints/{step}/_CHECKPOINT_METADATA", b"sha256", b"sha257")
    with (
        pytest.warns(UserWarning, match="going back to checkpoint 1"),
        pytest.raises(ValueError, match=r"2 is damaged .*; 1 is damaged .*Bring back") as e,
        checkpoint.checkpoints(tmp_path) as saved,
    ):
        saved.restore(mesh())
    assert "delete" not in str(e.value)
    for path in (Path(jd.__file__).parent).rglob("*.py"):
        if path.name != "statistics.py" and "data" not in path.parts:
            assert "delete it" not in path.read_text(), path
            assert "delete th" not in path.read_text(), path


def test_a_damaged_checkpoint_that_was_chosen_has_others_beside_it(
    state: TrainState, tmp_path: Path
) -> None:
    save(tmp_path, state, 1, 2, 3)
    flip(tmp_path / "checkpoints/2/_CHECKPOINT_METADATA", b"sha256", b"sha257")
    with pytest.raises(ValueError, match=r"checkpoint 2 is damaged \(.*it has 3, 1$"):
        jd.restore(tmp_path, step=2)


def test_an_absent_checkpoint_is_not_called_damaged(
    state: TrainState, tmp_path: Path
) -> None:
    save(tmp_path, state, 1, 3)
    message = r"checkpoints has no checkpoint 2; it has 3, 1$"
    with (
        checkpoint.checkpoints(tmp_path) as saved,
        pytest.raises(FileNotFoundError, match=message),
    ):
        saved.restore(mesh(), [2])
    with pytest.raises(FileNotFoundError, match=message):
        jd.restore(tmp_path, step=2)
    with (
        checkpoint.checkpoints(tmp_path / "new") as saved,
        pytest.raises(FileNotFoundError, match=r"no checkpoint 2; it has none yet$"),
    ):
        saved.restore(mesh(), [2])


def test_arrays_of_another_network_are_named(state: TrainState, tmp_path: Path) -> None:
    """Whole, but under another experiment."""
    wider = Linear(label_dim=20)
    with checkpoint.checkpoints(tmp_path, keep=2) as saved:
        saved.save(1, state, dataclasses.replace(SMALL, network=wider))
    message = r"is damaged \(\S+ is \[.*\] in it, and \[.*\] in its network\)"
    with (
        checkpoint.checkpoints(tmp_path) as saved,
        pytest.raises(ValueError, match=message),
    ):
        saved.restore(mesh())


# The data of a run


def pictures(folder: Path, **classes: int) -> data.Folder:
    for name, count in classes.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            image = Image.fromarray(np.full((8, 8, 3), 40 * i, np.uint8))
            image.save(folder / name / f"{i}.png")
    return data.Folder(folder, size=8)


def test_a_run_goes_on_with_its_own_data_alone(tmp_path: Path) -> None:
    source = pictures(tmp_path / "one", cat=2, dog=2)
    e = dataclasses.replace(
        SMALL,
        data=source,
        network=Linear(label_dim=2),
        snapshot_every=1,
        steps=1,
    )
    train.fit(e, tmp_path / "run", progress=False)
    run = jd.restore(tmp_path / "run")
    assert run.classes == ("cat", "dog")
    (snapshot,) = (tmp_path / "run/snapshots").iterdir()
    assert jd.restore(snapshot).classes == snapshots.read(snapshot).classes == run.classes
    assert json.loads((tmp_path / "run/classes.json").read_text()) == ["cat", "dog"]

    (tmp_path / "one").rename(tmp_path / "moved")  # the same, elsewhere
    moved = dataclasses.replace(e, data=data.Folder(tmp_path / "moved", 8), steps=2)
    assert int(train.fit(moved, tmp_path / "run", progress=False).step) == 2

    other = pictures(tmp_path / "two", bird=2, dog=2)
    with pytest.raises(ValueError, match=r"other data \(label 0 was 'cat', now 'bird'"):
        train.fit(
            dataclasses.replace(moved, data=other, steps=3),
            tmp_path / "run",
            progress=False,
        )
    fewer = dataclasses.replace(
        moved,
        data=pictures(tmp_path / "three", cat=2),
        network=Linear(label_dim=1),
        steps=3,
    )
    with pytest.raises(ValueError, match="trained on other data"):  # and not label_dim
        train.fit(fewer, tmp_path / "run", progress=False)


def test_names_of_classes_need_be_no_utf_8(tmp_path: Path) -> None:
    run_folder.describe(tmp_path, SMALL, ["d\udcff", "müde"])
    text = (tmp_path / "classes.json").read_text(encoding="utf-8")
    assert json.loads(text) == ["d\udcff", "müde"]
    assert "müde" in text


# What earlier versions wrote


@pytest.fixture(params=["unet", "cosine"])
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    with tarfile.open(GOLDEN / f"{request.param}.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / request.param


def test_a_run_of_version_0_1_goes_on_bit_for_bit(old: Path, tmp_path: Path) -> None:
    run = jd.restore(old)
    assert (run.step, run.classes) == (2, ())
    (path,) = (old / "snapshots").iterdir()
    narrow = jd.restore(path)
    assert (narrow.step, narrow.experiment) == (2, run.experiment)
    near = lambda a, b: np.testing.assert_allclose(a, b, rtol=2**-7, atol=1e-6)
    jax.tree.map(near, narrow.variables, run.variables)

    with checkpoint.checkpoints(old) as saved:
        restored, about = saved.restore(mesh())
    with checkpoint.checkpoints(tmp_path / "new", keep=2) as saved:  # as it is saved now
        saved.save(2, restored, about.experiment)
    more = dataclasses.replace(about.experiment, steps=4)
    ended = [train.fit(more, folder, progress=False) for folder in (old, tmp_path / "new")]
    assert int(ended[0].step) == 4
    same(*ended)


# Compiled code


def test_compiled_code_lies_where_nobody_else_writes(tmp_path: Path) -> None:
    from jaxdiff.runtime.files import private_folder

    folder = private_folder(tmp_path / "cache" / "xla")
    assert folder.stat().st_mode & 0o777 == 0o700
    assert private_folder(folder) == folder
    folder.chmod(0o755)
    assert private_folder(folder) == folder
    for mode in (0o777, 0o775, 0o1777):
        folder.chmod(mode)
        with pytest.raises(ValueError, match=r"may be written to by others.*chmod go-w"):
            private_folder(folder)
