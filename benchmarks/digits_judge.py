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
from jaxtyping import Float, Int, UInt8
from sklearn.neighbors import NearestNeighbors
from sklearn.svm import SVC

from jaxdiff.data import Digits
from jaxdiff.evaluation.distances import frechet, moments

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
    neighbours = NearestNeighbors(n_neighbors=1 + skip).fit(among)
    return neighbours.kneighbors(points)[0][:, skip]


def _flat(images: UInt8[np.ndarray, "N 8 8 1"]) -> Points:
    return images.reshape(len(images), -1) / 127.5 - 1
