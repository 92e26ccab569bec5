"""The commands that bring a published network in, and out again."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import import_writer as writer

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden" / "edm2" / "net_c_micro.npz"


def run(command: str, *arguments: Any) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, ROOT / "launch" / f"{command}.py", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
    )


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A golden network as a pickle, and the snapshot that the command made of it."""
    folder, z = tmp_path_factory.mktemp("imported"), np.load(GOLDEN)
    sd = {k.removeprefix("sd/"): z[k] for k in z.files if k.startswith("sd/")}
    path = folder / "network-snapshot-0008388-0.100.pkl"
    path.write_bytes(writer.snapshot(sd, json.loads(str(z["config"]))))
    done = run("import_edm2", path, folder / "out")
    assert done.returncode == 0, done.stderr
    return sd, folder, done.stdout


def test_an_imported_network_is_exported_as_it_was(imported: Any) -> None:
    sd, folder, said = imported
    snapshot = folder / "out" / "snapshots" / "0004096-0.1.npz"
    assert f"EMA length 0.1, 8,388,608 images: {snapshot}" in said
    done = run("export_edm2", f"--workdir={snapshot}", f"--out={folder / 'x.npz'}")
    assert done.returncode == 0, done.stderr
    exported = np.load(folder / "x.npz")
    assert sorted(exported.files) == sorted(sd)
    for name, value in sd.items():
        np.testing.assert_array_equal(exported[name], value.astype(np.float32))


def test_a_snapshot_says_what_the_network_is(imported: Any) -> None:
    from jaxdiff import snapshots

    _, folder, _ = imported
    found = snapshots.read(folder / "out" / "snapshots" / "0004096-0.1.npz")
    assert (found.std, found.step, found.images) == (0.1, 4096, 8 * 2**20)
    experiment = found.experiment
    assert experiment.network.label_dim == 4
    assert experiment.data.shape == (8, 8, 3)
    assert experiment.parameterization.sigma_data == 0.5
    assert (experiment.times.mean, experiment.times.std) == (-0.4, 1.0)


def test_mistakes_are_one_line(imported: Any) -> None:
    _, folder, _ = imported
    hostile, nameless = folder / "hostile-0008388-0.100.pkl", folder / "mine.pkl"
    hostile.write_bytes(pickle.dumps(print))
    nameless.write_bytes((folder / "network-snapshot-0008388-0.100.pkl").read_bytes())
    for arguments, complaint in (
        ((hostile, folder / "no"), "it names 'builtins.print', which is refused"),
        ((nameless, folder / "no"), "add --images=2147483648 --std=0.130"),
        ((folder / "none.pkl", folder / "no"), "there is no file"),
    ):
        done = run("import_edm2", *arguments)
        assert done.returncode == 1
        assert len(done.stderr.splitlines()) == 1
        assert complaint in done.stderr
        assert not (folder / "no").exists()
