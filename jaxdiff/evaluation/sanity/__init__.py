"""Sanity checks of metrics, on images with known faults.

corruptions   faults of images, by level: noise, blur, darkening, ...
traps         useless images that some metric rewards
splits        random parts of a data set that share no family
study         all that is measured: faults, sizes, traps
verdict       which metrics grow with which fault, and which catch which trap
report        tables and a picture
"""

from jaxdiff.evaluation.sanity.corruptions import CORRUPTIONS, Corruption
from jaxdiff.evaluation.sanity.report import around, picture, tables
from jaxdiff.evaluation.sanity.study import Fault, Study, study
from jaxdiff.evaluation.sanity.traps import TRAPS
from jaxdiff.evaluation.sanity.verdict import caught, grows, sentences

__all__ = [
    "CORRUPTIONS",
    "TRAPS",
    "Corruption",
    "Fault",
    "Study",
    "around",
    "caught",
    "grows",
    "picture",
    "sentences",
    "study",
    "tables",
]
