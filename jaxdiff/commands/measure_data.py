"""Mean and std of a data set, and the sigma_data to train with.

    jaxdiff measure_data --config=digits

Reads every image once, prints each channel's mean and std of x0, and saves them in the
cache folder ($JAXDIFF_CACHE or ~/.cache/jaxdiff) for training; --again repeats an earlier
measurement. Any field of the config can be changed: --config.data.path=my/images.
"""

from absl import flags

from jaxdiff.commands import config_files
from jaxdiff.config import from_config, parts
from jaxdiff.data import describe, encoder_of, statistics
from jaxdiff.denoisers.parameterizations import EDM

CONFIG = config_files.define()
AGAIN = flags.DEFINE_bool("again", False, "Measure, whatever was measured before.")
flags.mark_flags_as_required(["config"])


def main() -> None:
    """Measures, saves, prints."""
    experiment = from_config(CONFIG.value)
    data = experiment.data
    dataset = data.load()
    measured = None if AGAIN.value else statistics.stored(data, dataset)
    where = f"known from {statistics.file_of(data, dataset)}"
    if measured is None:
        measured = statistics.measure(dataset, encoder_of(data), progress=True)
        where = statistics.try_to_keep(data, measured, dataset)
    print(data, *describe(dataset), "", sep="\n")
    print(f"{'channel':>10} {'mean':>10} {'std':>10}")
    for i, (mean, std) in enumerate(zip(measured.mean, measured.std, strict=True)):
        print(f"{i:10d} {mean:10.5f} {std:10.5f}")
    print(f"\nsigma_data {measured.sigma_data:.4f}", end="")
    trained = sorted({edm.sigma_data for edm in parts(experiment, EDM)})
    print(f"; the config has {trained[0]}" if trained else "; the config needs none")
    print(where)
