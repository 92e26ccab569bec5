"""Config files: Python files with a function `get_config` that returns an experiment."""

import runpy
from pathlib import Path

from jaxdiff.config.experiment import Experiment
from jaxdiff.config.serialization import from_config
from jaxdiff.runtime.files import PathLike, place

READY = Path(__file__).with_name("ready")
"""The folder of the ready configs."""


def ready_names() -> list[str]:
    """The names of the ready configs, such as "digits".

    >>> "digits" in ready_names()
    True
    """
    return sorted(file.stem for file in READY.glob("[!_]*.py"))


def file_of(config: PathLike) -> Path:
    """The file of the ready config of this name, or else the file at this path.

    >>> file_of("digits").name, file_of("my/own.py").name
    ('digits.py', 'own.py')
    """
    path = place(config)
    return READY / f"{path}.py" if str(path) in ready_names() else path


def from_file(config: PathLike, variant: str | None = None) -> Experiment:
    """The experiment of a config file; `variant` is the text after a colon.

    >>> from_file("digits").batch_size
    128

    Args:
        config: a path, or the name of a ready config. Configs start from others like this,
            whatever the working directory:

                DIGITS = from_file("digits")
                MINE = from_file(Path(__file__).with_name("mine.py"))

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file has no `get_config`.
    """
    path = file_of(config)
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no config file {path}; ready configs are {', '.join(ready_names())}"
        )
    get_config = runpy.run_path(str(path)).get("get_config")
    if not callable(get_config):
        raise ValueError(f"{path} has no function get_config: see docs/extending.md")
    return from_config(get_config() if variant is None else get_config(variant))
