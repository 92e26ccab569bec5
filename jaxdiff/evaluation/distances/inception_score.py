"""The Inception Score: how sure a classifier is of each image, and how unsure of all.

IS = exp( mean_x KL(p(. | x), mean_x p(. | x)) )  in [1, classes]         [IS]
"""

import itertools

import numpy as np
from jaxtyping import Float, Float64

from jaxdiff.evaluation.distances.points import Estimate, checked


def softmax(logits: Float[np.ndarray, "N classes"]) -> Float64[np.ndarray, "N classes"]:
    """Probabilities of logits.

    >>> softmax(np.array([[0.0, 0.0]])).tolist()
    [[0.5, 0.5]]
    """
    logits = checked(logits, "logits", least=1)
    p = np.exp(logits - logits.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True)


def inception_score(
    probabilities: Float[np.ndarray, "N classes"],
    splits: int = 10,
    seed: int | None = 2020,
) -> Estimate:
    """Mean of the scores of `splits` parts, and their standard deviation, as papers give.

    The rows are shuffled first, by NumPy's RandomState(seed) as in torch-fidelity: parts
    of images that are sorted by class have low scores. None leaves them as they are.

    Raises: ValueError unless rows are probabilities, and as many as parts.

    >>> inception_score(np.eye(4)[[0, 1, 2, 3, 0, 1, 2, 3]], splits=1)
    Estimate(value=4.0, error=0.0)
    """
    p = checked(probabilities, "probabilities", least=1)
    off = np.abs(p.sum(1) - 1).max()
    if p.min() < 0 or off > 1e-3:
        raise ValueError(
            f"rows with entries from {p.min():.3g} on and sums off 1 by {off:.3g} are not "
            f"probabilities: give softmax(logits)"
        )
    if not 1 <= splits <= len(p):
        raise ValueError(f"{splits} splits of {len(p)} rows: give 1 to {len(p)}")
    if seed is not None:
        p = p[np.random.RandomState(seed).permutation(len(p))]
    ends = [i * len(p) // splits for i in range(splits + 1)]
    parts = [p[a:b] for a, b in itertools.pairwise(ends)]
    scores = np.array([_score(part) for part in parts])
    return Estimate(float(scores.mean()), float(scores.std()))


def _score(p: Float64[np.ndarray, "n classes"]) -> float:
    """exp(H(mean p) - mean H(p)), which is the mean KL's exponential."""
    entropy = lambda q: -np.sum(q * np.log(np.where(q > 0, q, 1)), -1)
    return float(np.exp(entropy(p.mean(0)) - entropy(p).mean()))
