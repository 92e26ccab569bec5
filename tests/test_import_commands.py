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
from tests.cases import commands

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden" / "edm2" / "net_c_micro.npz"


def run(command: str, *arguments: Any) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "jaxdiff", command, *map(str, arguments)],
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
    done = run("import_model", path, folder / "out")
    assert done.returncode == 0, done.stderr
    return sd, folder, done.stdout


def test_an_imported_network_is_exported_as_it_was(imported: Any) -> None:
    sd, folder, out = imported
    snapshot = folder / "out" / "snapshots" / "0004096-0.1.npz"
    assert f"EMA length 0.1, 8,388,608 images: {snapshot}" in out
    done = run("export_edm2", f"--workdir={snapshot}", f"--out={folder / 'x.npz'}")
    assert done.returncode == 0, done.stderr
    exported = np.load(folder / "x.npz")
    assert sorted(exported.files) == sorted(sd)
    for name, value in sd.items():
        np.testing.assert_array_equal(exported[name], value.astype(np.float32))


def test_a_snapshot_says_what_the_network_is(imported: Any) -> None:
    from jaxdiff.runs import snapshots

    _, folder, _ = imported
    snapshot = snapshots.read(folder / "out" / "snapshots" / "0004096-0.1.npz")
    assert (snapshot.std, snapshot.step, snapshot.images) == (0.1, 4096, 8 * 2**20)
    experiment = snapshot.experiment
    assert experiment.network.label_dim == 4
    assert experiment.data.shape == (8, 8, 3)
    assert experiment.parameterization.sigma_data == 0.5
    assert (experiment.times.mean, experiment.times.std) == (-0.4, 1.0)


def test_numbers_that_are_none_are_called_so(imported: Any) -> None:
    sd, folder, _ = imported
    config = json.loads(str(np.load(GOLDEN)["config"]))
    path = folder / "nan-0008388-0.100.pkl"
    wrong = {**sd, "unet.out_gain": np.float16(np.nan).reshape(sd["unet.out_gain"].shape)}
    path.write_bytes(writer.snapshot(wrong, config))
    done = commands.run("import_model", f"--file={path}", f"--out={folder / 'nan'}")
    assert done.status == 1
    assert done.err.endswith("params/out_gain of step 4096 has nan or inf in it\n")
    assert not list(folder.glob("nan/**/*.npz"))


EXPORT = """
import sys, types
from absl import flags
from jaxdiff.commands import export_edm2
from jaxdiff.networks import UNet

def restored(**options):
    run = types.SimpleNamespace(network=UNet(**options))
    return types.SimpleNamespace(experiment=run, step=1, variables={
        "params": {"out_gain": 1.0}, "constants": {}})

flags.FLAGS(["export", "--workdir=run", "--out=" + sys.argv[1]])
for name in ("fixed_magnitudes", "weight_norm", "uncertainty", "group_norm",
             "learned_variance", "remat"):
    other = {name: not getattr(UNet(), name)}
    export_edm2.restoring.restore = lambda *_: restored(**other)
    try:
        export_edm2.main()
    except ValueError as error:
        print(error)
"""


def test_only_config_g_is_exported_and_names_are_kept(tmp_path: Path) -> None:
    """Each option by itself; recomputing blocks changes no number, so it is config G."""
    done = subprocess.run(
        [sys.executable, "-c", EXPORT, tmp_path / "c-0.130"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    *refused, written = done.stdout.splitlines()
    names = ("fixed_magnitudes", "weight_norm", "uncertainty")
    expected = [f"{name} = False; EDM2's" for name in names]
    expected += [f"{name} = True; EDM2's" for name in ("group_norm", "learned_variance")]
    assert len(refused) == 5, done.stderr
    for line, part in zip(refused, expected, strict=True):
        assert part in line
    assert written.endswith("c-0.130.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["c-0.130.npz"]


def test_mistakes_are_one_line(imported: Any) -> None:
    _, folder, _ = imported
    hostile, nameless = folder / "hostile-0008388-0.100.pkl", folder / "mine.pkl"
    hostile.write_bytes(pickle.dumps(print))
    good = folder / "network-snapshot-0008388-0.100.pkl"
    nameless.write_bytes(good.read_bytes())
    out, most = f"--out={folder / 'no'}", 2**40 + 1
    for arguments, complaint in (
        ((), "name the published file and the folder to write to"),
        ((f"--file={good}", out, "--std=nan"), "std = nan is not in (0, 0.2887)"),
        ((f"--file={good}", out, "--images=2047"), "images = 2047 is not in [2048, 1"),
        ((f"--file={good}", out, f"--images={most}"), "is not in [2048, 1099511627776]"),
        ((f"--file={good}", out, "--heads=2"), "says nothing of a file of edm2: leave it"),
        ((f"--file={hostile}", out), "it names 'builtins.print', which is refused"),
        ((f"--file={nameless}", out), "add --images=2147483648 --std=0.130"),
        ((f"--file={folder / 'none.pkl'}", out), "there is no file"),
    ):
        done = commands.run("import_model", *arguments)
        assert done.status == 1
        assert len(done.err.splitlines()) == 1
        assert complaint in done.err
        assert not (folder / "no").exists()
