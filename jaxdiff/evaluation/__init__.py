"""What a run is worth: metrics of samples against real images, and likelihood.

observe    images -> features by extractor, or their moments alone; `save` and `load`
score      metrics of one set against another, each named for its extractor
copies     what those reward: images too near to the training images
draw       images of a run, kept part by part; `images_in`, those of others
judge_of   all of it, for a run's data; `blocks` and `summary` repeat it over seeds

`extractors` see images, `distances` compare sets of points, `sanity` checks the metrics
themselves; `likelihood` measures bits/dim and `noise_shift` the states of a sampler. Names
are imported when first asked for, so that the mathematics loads without the rest.
"""

from etils import epy

with epy.lazy_api_imports(globals()):
    from jaxdiff.evaluation import distances, extractors, sanity
    from jaxdiff.evaluation.external_images import images_in
    from jaxdiff.evaluation.extractors.extractor import register_extractor
    from jaxdiff.evaluation.judge import (
        Judge,
        SampleBlock,
        blocks,
        everything,
        judge_of,
        require_pixels,
    )
    from jaxdiff.evaluation.memorization import Copies, copies
    from jaxdiff.evaluation.metrics import (
        BETTER,
        NEIGHBOURS,
        register_metric,
        score,
        summary,
    )
    from jaxdiff.evaluation.reference import Observed, Seen, load, observe, published, save
    from jaxdiff.evaluation.sample_cache import digest, draw, in_memory, labels_like

__all__ = [
    "BETTER",
    "NEIGHBOURS",
    "Copies",
    "Judge",
    "Observed",
    "SampleBlock",
    "Seen",
    "blocks",
    "copies",
    "digest",
    "distances",
    "draw",
    "everything",
    "extractors",
    "images_in",
    "in_memory",
    "judge_of",
    "labels_like",
    "load",
    "observe",
    "published",
    "register_extractor",
    "register_metric",
    "require_pixels",
    "sanity",
    "save",
    "score",
    "summary",
]
