"""Distances between sets of points: how alike two sets of images, or of features, are.

All are pure functions of points [N, D], in float64 on the host; only `sums`, which reduces
a batch to its moments, runs on devices. `moments` and `frechet` compare Gaussians,
`kernels` mean embeddings, `manifolds` neighbourhoods, `sliced` projections,
`inception_score` the classes that a classifier assigns; `memorisation` detects copies,
which all of those reward.
"""

from jaxdiff.evaluation.distances.frechet import Gaussian, frechet, frechet_of_points
from jaxdiff.evaluation.distances.inception_score import inception_score, softmax
from jaxdiff.evaluation.distances.kernels import (
    RBF,
    Polynomial,
    biased_mmd,
    cmmd,
    kid,
    kid_of_subsets,
    median_distance,
    mmd,
    rbf_mmd,
)
from jaxdiff.evaluation.distances.manifolds import Manifold, prdc, precision_recall
from jaxdiff.evaluation.distances.memorisation import Memorisation, memorisation
from jaxdiff.evaluation.distances.moments import Moments, Sums, moments, sums
from jaxdiff.evaluation.distances.points import Estimate, Neighbours, nearest
from jaxdiff.evaluation.distances.sliced import sliced_wasserstein

__all__ = [
    "RBF",
    "Estimate",
    "Gaussian",
    "Manifold",
    "Memorisation",
    "Moments",
    "Neighbours",
    "Polynomial",
    "Sums",
    "biased_mmd",
    "cmmd",
    "frechet",
    "frechet_of_points",
    "inception_score",
    "kid",
    "kid_of_subsets",
    "median_distance",
    "memorisation",
    "mmd",
    "moments",
    "nearest",
    "prdc",
    "precision_recall",
    "rbf_mmd",
    "sliced_wasserstein",
    "softmax",
    "sums",
]
