"""Sample quality: what extractors see of images, set against what they see of others.

observe    images -> features by extractor, or their moments alone; `save` and `load`
score      metrics of one set against another, each named for its extractor
copies     what those reward: images too near to the training images
draw       images of a run, kept part by part; `images_in`, those of others
judge_of   all of it, for a run's data; `blocks` and `summary` repeat it over seeds
"""

from jaxdiff.quality.drawn import digest, draw, in_memory, labels_like
from jaxdiff.quality.given import images_in
from jaxdiff.quality.judge import Block, Judge, blocks, everything, judge_of, require_pixels
from jaxdiff.quality.observed import Observed, Seen, load, observe, published, save
from jaxdiff.quality.score import BETTER, NEIGHBOURS, score, summary
from jaxdiff.quality.unseen import Copies, copies

__all__ = [
    "BETTER",
    "NEIGHBOURS",
    "Block",
    "Copies",
    "Judge",
    "Observed",
    "Seen",
    "blocks",
    "copies",
    "digest",
    "draw",
    "everything",
    "images_in",
    "in_memory",
    "judge_of",
    "labels_like",
    "load",
    "observe",
    "published",
    "require_pixels",
    "save",
    "score",
    "summary",
]
