"""Sanity of metrics: what they say of images whose faults are known.

corruptions   faults of images, by level: noise, blur, darkening, ...
traps         images that no one wants and some metric rewards
splits        random parts of a data set that share no family
study         all that is measured: faults, sizes, traps
verdict       which metrics grow with which fault, and which catch which trap
report        tables and a picture
"""

from jaxdiff.quality.sanity.corruptions import CORRUPTIONS, Corruption
from jaxdiff.quality.sanity.report import around, picture, tables
from jaxdiff.quality.sanity.study import Fault, Study, study
from jaxdiff.quality.sanity.traps import TRAPS
from jaxdiff.quality.sanity.verdict import caught, grows, sentences

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
