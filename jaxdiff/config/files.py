"""Config files: Python files with a function `get_config` that returns an experiment."""

import runpy

from jaxdiff.config.experiment import Experiment
from jaxdiff.config.serialization import from_config
from jaxdiff.runtime.files import PathLike, place


def from_file(path: PathLike, variant: str | None = None) -> Experiment:
    """Runs a config file and returns its experiment; `variant` is the text after a colon.

    A config that varies another one loads it like this, whatever the working directory:

        DIGITS = from_file(Path(__file__).with_name("digits.py"))

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file has no `get_config`.
    """
    path = place(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no config file {path}")
    get_config = runpy.run_path(str(path)).get("get_config")
    if not callable(get_config):
        raise ValueError(f"{path} has no function get_config: see configs/digits.py")
    return from_config(get_config() if variant is None else get_config(variant))
