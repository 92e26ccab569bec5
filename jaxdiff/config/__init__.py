"""The experiment as one value, and its two other forms: ConfigDict and JSON.

An `Experiment` holds everything that a run needs. A config file builds one and returns
`to_config(experiment)`, so that flags like --config.times.std=1.4 can change any field;
`from_config` builds and checks it again. Every value is written as a dictionary
{"type": "times.NormalLogSigma", "mean": -1.2, "std": 1.2}. Only types in the table of
`registry` can be named, to which `register` adds others: reading a config imports and runs
nothing. `experiment` has the values and their checks, `serialization` converts them both
ways, `files` loads the experiments of config files, which other configs can start from, and
`ready` is the folder of the ready ones.
"""

from jaxdiff.config.experiment import (
    SNAPSHOT_DTYPES,
    Experiment,
    Sampling,
    resolve,
)
from jaxdiff.config.fields import parts
from jaxdiff.config.files import READY, file_of, from_file, ready_names
from jaxdiff.config.registration import own_files, register
from jaxdiff.config.registry import KINDS, NAMES, TYPES, allowed
from jaxdiff.config.serialization import (
    FREE,
    FROM_HERE_ON,
    PLACES,
    changed_fields,
    changes,
    differences,
    from_config,
    from_dict,
    to_config,
    to_dict,
)

__all__ = [
    "FREE",
    "FROM_HERE_ON",
    "KINDS",
    "NAMES",
    "PLACES",
    "READY",
    "SNAPSHOT_DTYPES",
    "TYPES",
    "Experiment",
    "Sampling",
    "allowed",
    "changed_fields",
    "changes",
    "differences",
    "file_of",
    "from_config",
    "from_dict",
    "from_file",
    "own_files",
    "parts",
    "ready_names",
    "register",
    "resolve",
    "to_config",
    "to_dict",
]
