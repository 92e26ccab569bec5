"""One judge of drawn digits for all benchmarks: are they right, varied, distributed alike?

    accuracy     how often a classifier trained on all real training digits (an RBF support
                 vector machine) sees the class asked for;
    to_train     mean distance to the nearest training digit, over that from held-out real
                 digits to theirs: 1 = neither copied nor far off;
    among        mean distance to the nearest other image of the set, over the same among as
                 many training digits: 1 = as varied;
    copies       share nearer to a training digit than 99 % of the held-out digits are;
    frechet      Frechet distance between two Gaussians, one with the mean and covariance of
                 the set and one with those of the 1,497 training digits:
                 |m - m'|^2 + tr(C + C' - 2 (C C')^(1/2)), 0 = alike.

All in pixels, [-1, 1]^64. The Frechet distance of a small set is too large, as its
covariance is noisy (`Judge.floor`): compare only sets of as many images.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int, UInt8
from sklearn.neighbors import NearestNeighbors
from sklearn.svm import SVC

from jaxdiff.data import Digits

Points = Float[np.ndarray, "N 64"]


@dataclass(frozen=True)
class Verdict:
    """What the judge says of a set; the fields are explained above."""

    accuracy: float
    to_train: float
    among: float
    copies: float
    frechet: float


@dataclass(frozen=True, eq=False)
class Judge:
    """Real digits, and a classifier that was trained on them; made by `judge`."""

    train: Points
    held: Points
    held_label: Int[np.ndarray, " M"]
    classifier: SVC

    def __call__(
        self, images: UInt8[np.ndarray, "N 8 8 1"], label: Int[np.ndarray, " N"]
    ) -> Verdict:
        """The verdict on images that were asked to be of these classes."""
        drawn = _flat(images)
        to_train, reference = nearest(drawn, self.train), nearest(self.held, self.train)
        few = min(len(drawn), len(self.train))
        among = nearest(drawn[:few], drawn[:few], skip=1).mean()
        among_train = nearest(self.train[:few], self.train[:few], skip=1).mean()
        return Verdict(
            accuracy=float(np.mean(self.classifier.predict(drawn) == label)),
            to_train=float(to_train.mean() / reference.mean()),
            among=float(among / among_train),
            copies=float(np.mean(to_train < np.quantile(reference, 0.01))),
            frechet=frechet(*moments(drawn), *moments(self.train)),
        )

    def reference(self) -> tuple[float, float]:
        """Accuracy and Frechet distance of the 300 held-out real digits."""
        accuracy = self.classifier.score(self.held, self.held_label)
        return float(accuracy), frechet(*moments(self.held), *moments(self.train))

    def floor(self, number: int) -> float:
        """Frechet distance of as many draws of the training digits' very Gaussian."""
        alike = moments(self.train)
        drawn = np.random.default_rng(0).multivariate_normal(*alike, number)
        return frechet(*moments(drawn), *alike)


def judge() -> Judge:
    """Loads the digits and trains the classifier."""
    train, held = (Digits(split).load().source for split in ("train", "test"))
    classifier = SVC().fit(_flat(train.image), train.label)
    return Judge(_flat(train.image), _flat(held.image), held.label, classifier)


def nearest(points: Points, among: Points, skip: int = 0) -> Float[np.ndarray, " N"]:
    """Distance of each point to its nearest among others; skip=1 leaves out itself."""
    found = NearestNeighbors(n_neighbors=1 + skip).fit(among)
    return found.kneighbors(points)[0][:, skip]


def moments(
    points: Float[np.ndarray, "N D"],
) -> tuple[Float64[np.ndarray, " D"], Float64[np.ndarray, "D D"]]:
    """Mean and covariance, the latter over N - 1."""
    points = np.asarray(points, np.float64)
    return points.mean(0), np.cov(points, rowvar=False)


def frechet(
    mean: Float64[np.ndarray, " D"],
    covariance: Float64[np.ndarray, "D D"],
    other_mean: Float64[np.ndarray, " D"],
    other_covariance: Float64[np.ndarray, "D D"],
) -> float:
    """Squared 2-Wasserstein distance of two Gaussians; singular covariances are fine.

    >>> frechet(np.zeros(2), np.eye(2), np.array([3.0, 0.0]), 4 * np.eye(2))
    11.0
    """
    # tr (C C')^(1/2) is the sum of the singular values of C^(1/2) C'^(1/2)
    cross = np.linalg.svd(_root(covariance) @ _root(other_covariance), compute_uv=False)
    gap = np.sum((mean - other_mean) ** 2)
    return float(gap + np.trace(covariance + other_covariance) - 2 * cross.sum())


def _root(matrix: Float64[np.ndarray, "D D"]) -> Float64[np.ndarray, "D D"]:
    """The root of a symmetric matrix; eigenvalues that are mere rounding count as 0."""
    value, vector = np.linalg.eigh(matrix)
    rounding = len(value) * np.finfo(np.float64).eps * value.max()
    return (vector * np.sqrt(np.where(value > rounding, value, 0))) @ vector.T


def _flat(images: UInt8[np.ndarray, "N 8 8 1"]) -> Points:
    return images.reshape(len(images), -1) / 127.5 - 1
