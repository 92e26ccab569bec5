"""Sample quality: what extractors see of images, set against what they see of others.

`observe` turns images into features, `score` two sets of those into metrics, each named for
the extractor that it rests on; `summary` sets repeated blocks of samples side by side.
"""

from jaxdiff.quality.observed import (
    Observed,
    Seen,
    load,
    observe,
    save,
)
from jaxdiff.quality.score import BETTER, score, summary
from jaxdiff.quality.unseen import Copies, copies

__all__ = [
    "BETTER",
    "Copies",
    "Observed",
    "Seen",
    "copies",
    "load",
    "observe",
    "save",
    "score",
    "summary",
]
