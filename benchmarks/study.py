"""What the studies of this folder share: flags, runs, a book of results, a look.

A study measures runs that jaxdiff train made, or trains them itself (`trained`). What it
measures it writes to OUT/NAME.json at once, a row each: stopped and started again it goes
on, and where nothing is missing it only prints and draws. To measure anew, delete that
file.
"""

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import flags

from jaxdiff import train
from jaxdiff.config import Experiment, from_config
from jaxdiff.config.ready import digits as digits_config
from jaxdiff.runtime.files import lines, write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

from jaxdiff.commands import command

RUNS = flags.DEFINE_string("runs", None, "The folder that holds the runs.")
OUT = flags.DEFINE_string("out", "docs/results", "The folder for figures and numbers.")
flags.mark_flags_as_required(["runs"])
flags.declare_key_flag("cpu_devices")


def run(main: Callable[[], None]) -> None:
    """Runs a study as `command.run` does; --help has the flags of this module, too."""
    for flag in flags.FLAGS.get_key_flags_for_module(__name__):
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
    command.run(main)


@dataclass(frozen=True, eq=False)
class Book:
    """Rows of numbers in a JSON file; the first fields of a row say what it measures."""

    path: Path
    rows: list[dict[str, Any]]

    def find(self, **key: Any) -> dict[str, Any] | None:
        """The first row with these fields."""
        has = lambda row: all(row.get(name) == value for name, value in key.items())
        return next(filter(has, self.rows), None)

    def write(self, key: Mapping[str, Any], results: Mapping[str, Any]) -> None:
        """Adds a row and saves the book, numbers to six digits."""
        self.rows.append({**key, **_rounded(results)})
        text = "[\n" + ",\n".join(map(json.dumps, self.rows)) + "\n]\n"
        write_atomically(self.path, lambda file: file.write(text.encode()))


def book(name: str) -> Book:
    """The book OUT/NAME.json, empty where there is none.

    Raises:
        ValueError: the file is not a book of rows.
    """
    path = command.folder(OUT) / f"{name}.json"
    try:
        rows = json.loads(path.read_text()) if path.exists() else []
    except json.JSONDecodeError as error:
        text = f"{path} is damaged ({error}): delete it to measure anew"
        raise ValueError(text) from error
    return Book(path, rows)


def runs(config: str, names: Iterable[str], seeds: bool = False) -> dict[str, Path]:
    """The folder of each run NAME, or NAME-SEED, in --runs.

    Raises:
        FileNotFoundError: some are missing; the message says how to make the first.
    """
    folder = command.folder(RUNS)
    folders = {name: folder / name for name in names}
    missing = [name for name, run in folders.items() if not (run / "checkpoints").is_dir()]
    if missing:
        recipe, _, seed = missing[0].rpartition("-") if seeds else (missing[0], "", "")
        raise FileNotFoundError(
            f"{folder} lacks {len(missing)} of {len(folders)} runs; make the first with: "
            f"jaxdiff train --config={config}:{recipe} "
            + (f"--config.seed={seed} " if seeds else "")
            + f"--workdir={folders[missing[0]]}"
        )
    return folders


def trained(name: str, experiment: Experiment) -> Path:
    """Trains the run NAME in --runs, or what is missing of it; its folder.

    A signal saves the run and ends the program: the same command goes on.
    """
    folder = command.folder(RUNS) / name
    if not (folder / "checkpoints" / str(experiment.steps)).is_dir():
        try:
            train.fit(experiment, folder, progress=False)
        except train.Stopped as stopped:
            sys.exit(f"{folder} {stopped}: the same command goes on from there")
    return folder


def digits() -> Path:
    """The folder of the config `digits`, trained as the README does."""
    return trained("digits", from_config(digits_config.get_config()))


def commits(folder: Path) -> str:
    """The commits that a run was trained at, shortened, in their order."""
    starts = map(json.loads, lines(folder / "starts.jsonl"))
    return " ".join(dict.fromkeys(short(start.get("commit")) for start in starts))


def short(commit: str | None) -> str:
    """A commit's first seven digits, with the + of modified code; "none" for None."""
    return commit[:7] + commit[40:] if commit else "none"


def save(figure: "Figure", name: str) -> Path:
    """Writes OUT/NAME.png."""
    path = command.folder(OUT) / f"{name}.png"
    write_atomically(path, lambda file: figure.savefig(file, format="png"))
    return path


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown, all but the first column to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _rounded(item) for name, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_rounded(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float | np.floating) else value
