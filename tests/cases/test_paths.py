"""Every public function takes a path as text or as a path, and knows what ~ is."""

import ast
import importlib
import inspect
import json
import pkgutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import jaxdiff
from jaxdiff import data, evaluation, train
from jaxdiff.analysis import image_grid
from jaxdiff.config import Experiment, from_dict, to_dict
from jaxdiff.runs import restoring, run_folder, snapshots
from jaxdiff.runtime import files
from jaxdiff.train import writers
from tests.cases.commands import COMMANDS
from tests.test_fit import QUIET
from tests.test_snapshots import snapshot

INSIDE = (
    *("data.", "train.", "runtime.processes.", "runs.orbax_files."),
    *("interop.archives.", "interop.npz.", "evaluation.extractors.lite0."),
)
"""Modules whose functions are called with what `place` made, but for what is exported."""
NO_FILES = {"runtime.xla_flags.kind_of_machine", "analysis.plots.schedules"} | {
    "runtime.files.Resent.__init__",
    "runs.checkpoint.Checkpoints.__init__",
}
"""A path of devices, one of noise levels, and what `append` and `checkpoints` make."""


def functions(module: Any, exported: set[str] | None) -> Iterator[tuple[str, Any]]:
    """Functions and constructors that a module defines, without an underscore."""
    for node in ast.parse(inspect.getsource(module)).body:
        name = getattr(node, "name", "_")
        if name.startswith("_") or not (exported is None or name in exported):
            continue
        if isinstance(node, ast.FunctionDef):
            yield name, node
        for inner in node.body if isinstance(node, ast.ClassDef) else ():
            if isinstance(inner, ast.FunctionDef) and inner.name == "__init__":
                yield f"{name}.__init__", inner


def public() -> Iterator[tuple[str, Any]]:
    """Their names and sources; of a package whose modules are inside, its `__all__`."""
    for module in pkgutil.walk_packages(jaxdiff.__path__, "jaxdiff."):
        short = module.name.removeprefix("jaxdiff.")
        if module.ispkg or short.startswith("commands."):  # defines flags
            continue
        exported = None
        if f"{short}.".startswith(INSIDE):
            package = importlib.import_module(module.name.rpartition(".")[0])
            exported = set(getattr(package, "__all__", ())) if "." in short else set()
        for name, node in functions(importlib.import_module(module.name), exported):
            yield f"{short}.{name}", node


def paths_of(function: Any) -> dict[str, str]:
    """The arguments that are paths, and their annotations."""
    every = function.args.args + function.args.kwonlyargs
    named = {a.arg: ast.unparse(a.annotation) for a in every if a.annotation}
    kinds = {"Path", "Place", "PathLike", "epath.Path"}
    return {a: kind for a, kind in named.items() if kinds & {*kind.split(" | ")}}


@cache
def taking() -> dict[str, tuple[Any, dict[str, str]]]:
    """The functions that take paths, each with the arguments that are paths."""
    return {
        name: (function, paths)
        for name, function in public()
        if name not in NO_FILES and (paths := paths_of(function))
    }


def test_the_exceptions_name_what_exists() -> None:
    names = {name for name, _ in public()}
    assert names >= NO_FILES
    modules = {f"{m.name}." for m in pkgutil.walk_packages(jaxdiff.__path__, "jaxdiff.")}
    for prefix in INSIDE:
        assert any(name.startswith(f"jaxdiff.{prefix}") for name in modules), prefix


def test_no_public_function_wants_a_path_object() -> None:
    assert len(taking()) > 30
    for name, (_, paths) in taking().items():
        assert {kind.removesuffix(" | None") for kind in paths.values()} == {"PathLike"}, (
            name
        )


def test_a_path_is_placed_before_anything_else_is_done_with_it() -> None:
    """Its first use is to go to `place`, or to a function that takes such paths."""
    for name in sorted(taking().keys() - {"evaluation.extractors.extractor.extractor"}):
        _require_placed(name)


def _require_placed(name: str) -> None:
    function, paths = taking()[name]
    takers = {n.removesuffix(".__init__").split(".")[-1] for n in taking()} | {
        "_until",
        "_kept",
    }
    takers |= {"place", "find_spec", "str"} if name == "runtime.files.place" else {"place"}
    calls = [node for node in ast.walk(function) if isinstance(node, ast.Call)]
    for path in paths:
        uses = [n for n in ast.walk(function) if isinstance(n, ast.Name) and n.id == path]
        first = min(uses, key=lambda n: (n.lineno, n.col_offset))
        if isinstance(first.ctx, ast.Store):  # path = place(path): the value comes first
            first = min(uses, key=lambda n: (n.lineno, isinstance(n.ctx, ast.Store)))
        to = [ast.unparse(call.func) for call in calls if first in call.args]
        to += [
            ast.unparse(call.func)
            for call in calls
            if first in [keyword.value for keyword in call.keywords]
        ]
        assert {t.split(".")[-1] for t in to} & takers, f"{name}: {path} at {first.lineno}"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "home"


def test_a_run_whose_folder_is_text_lies_at_home(home: Path) -> None:
    ended = train.fit(QUIET, "~/run", progress=False)
    assert int(ended.step) == QUIET.steps
    assert (home / "run/checkpoints/12").is_dir()
    assert list((home.parent / "here").iterdir()) == []
    assert restoring.restore("~/run").step == QUIET.steps
    other = Experiment(**{**vars(QUIET), "init_from": home / "run", "steps": 1})
    assert from_dict(json.loads(json.dumps(to_dict(other)))) == other
    train.fit(other, str(home / "tuned"), progress=False)


IMAGES = np.zeros((4, 8, 8, 3), np.uint8)


def reference() -> evaluation.Observed:
    from jaxdiff.evaluation.extractors.extractor import extractor
    from jaxdiff.runtime import sharding

    one = (extractor("pixels8"),)
    return evaluation.observe(evaluation.in_memory(IMAGES), one, sharding.data_mesh())


WRITTEN: dict[str, Callable[[str], Any]] = {
    "a.png": lambda path: image_grid.save_grid(path, IMAGES),
    "b.npz": lambda path: evaluation.save(path, reference()),
    "c.jsonl": lambda path: writers.JSONL(path, 0).scalars(1, {"loss": 2.0}),
    "d/x": lambda path: files.append(path).close(),
    "e": lambda path: run_folder.describe(path, QUIET),
    "f": lambda path: snapshots.write(path, snapshot(3, 0.1, [1.0])),
    "g": lambda path: writers.open_all(path, 0, False).close(),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_what_is_written_to_a_text_lies_at_home(name: str, home: Path) -> None:
    WRITTEN[name](f"~/{name}")
    assert (home / name).exists()
    WRITTEN[name](str(home / f"more/{name}"))
    WRITTEN[name](home / f"most/{name}")
    assert list((home.parent / "here").iterdir()) == []


def test_what_is_read_is_named_by_text(home: Path) -> None:
    path = snapshots.write("~/run/snapshots", snapshot(3, 0.1, [1.0]))
    assert path == home / "run/snapshots/0000003-0.1.npz"
    assert snapshots.read("~/run/snapshots/0000003-0.1.npz").step == 3
    assert snapshots.find("~/run") == path
    assert [e.path for e in snapshots.entries("~/run/snapshots")] == [path]
    evaluation.save("~/ref.npz", reference())
    assert evaluation.load("~/ref.npz").seen.keys() == {"pixels8"}
    np.savez(home / "x.npz", images=IMAGES)
    assert len(evaluation.images_in("~/x.npz")) == 4


@pytest.mark.parametrize("kind", [str, Path])
def test_data_are_named_by_text_and_by_paths(kind: type, home: Path) -> None:
    for name in ("cat", "dog"):
        (home / "photos" / name).mkdir(parents=True)
        Image.fromarray(IMAGES[0]).save(home / "photos" / name / "0.png")
    source = data.Folder(kind("~/photos"), size=8)
    assert source.load().classes == source.classes == ("cat", "dog")
    assert source.path == "~/photos"  # the same wherever the run goes on
    assert from_dict(json.loads(json.dumps(to_dict(source)))) == source


def test_the_home_of_nobody_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"~nobody-at-all/x: unknown user; .* write \./~nobody-at-all/x$"
    ):
        files.place("~nobody-at-all/x")


def test_flags_know_what_home_is(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from jaxdiff.commands import command

    for flag in ("--config", "-config"):
        expanded = command._expanded(["train", f"{flag}=~/mine.py:a", flag, "~/b.py"])
        assert expanded == ["train", f"{flag}={home}/mine.py:a", flag, f"{home}/b.py"]
    others = ["--config.steps=3", "--workdir=~/x", "~/y", "--config=a.py", "~/z"]
    assert command._expanded(others) == others  # `place` reads those


def test_no_command_makes_a_path_of_a_flag_by_itself() -> None:
    for command in COMMANDS.glob("*.py"):
        for node in ast.walk(ast.parse(command.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "Path":
                assert ".value" not in ast.unparse(node), f"{command.name}:{node.lineno}"
