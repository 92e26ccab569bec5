"""Are the digits right, and are they as varied as real ones? Judges a run of digits.

    python benchmarks/digits_quality.py --workdir=runs/digits

Draws 100 images of each class and prints
  accuracy     how often a classifier trained on all real training digits (an RBF support
               vector machine, 98.7 % on the held-out ones) sees the class asked for;
  to train     mean distance to the nearest training digit, over that from held-out real
               digits to theirs: 1 = neither copied nor far off;
  among        mean distance to the nearest other image of the set, over the same among as
               many training digits: 1 = as varied;
  copies       share nearer to a training digit than 99 % of the held-out digits are.
Distances are Euclidean, in [-1, 1]^64.
"""

import sys
from pathlib import Path

import numpy as np
from absl import flags
from jaxtyping import Float
from sklearn.neighbors import NearestNeighbors
from sklearn.svm import SVC

from jaxdiff import checkpoint, generate, sharding
from jaxdiff.data import Digits, encoder_of

sys.path.append(str(Path(__file__).parents[1] / "launch"))
import command

WORKDIR = flags.DEFINE_string("workdir", None, "The folder that launch/train.py wrote.")
NUMBER = flags.DEFINE_integer("number", 1000, "How many images.", lower_bound=20)
SEED = flags.DEFINE_integer("seed", 1_000_000, "Seed of the first image.", lower_bound=0)
STD = flags.DEFINE_float("std", None, "Relative width of the EMA, else the run's own.")
flags.mark_flags_as_required(["workdir"])


def main() -> None:
    """Draws, judges, prints."""
    run = checkpoint.restore(WORKDIR.value, STD.value)
    std = run.experiment.sampling.std if STD.value is None else STD.value
    seeds = SEED.value + np.arange(NUMBER.value)
    label = np.arange(NUMBER.value) % 10
    images = generate.images(
        generate.sampler(run.experiment),
        run.variables,
        encoder_of(run.experiment.data),
        seeds,
        label,
        sharding.data_mesh(),
        250,
        progress=True,
    )
    drawn = _flat(images)
    (real, truth), (held, held_truth) = (_split(s) for s in ("train", "test"))
    judge = SVC().fit(real, truth)
    to_train, reference = _nearest(drawn, real), _nearest(held, real)
    few = min(len(drawn), len(real))
    among = _nearest(drawn[:few], drawn[:few], skip=1).mean()
    among_real = _nearest(real[:few], real[:few], skip=1).mean()
    print(f"step {run.step}, EMA {std}, {len(drawn)} images, seeds from {SEED.value}")
    print(f"accuracy   {np.mean(judge.predict(drawn) == label):7.1%}")
    print(f"  held-out {judge.score(held, held_truth):7.1%}")
    print(f"to train   {to_train.mean() / reference.mean():7.3f}")
    print(f"among      {among / among_real:7.3f}")
    print(f"copies     {np.mean(to_train < np.quantile(reference, 0.01)):7.1%}")


def _split(name: str) -> tuple[Float[np.ndarray, "N 64"], np.ndarray]:
    source = Digits(name).load().source
    return _flat(source.image), source.label


def _flat(images: np.ndarray) -> Float[np.ndarray, "N 64"]:
    return images.reshape(len(images), -1) / 127.5 - 1


def _nearest(
    points: Float[np.ndarray, "N 64"], among: Float[np.ndarray, "M 64"], skip: int = 0
) -> Float[np.ndarray, " N"]:
    """Distance of each point to its nearest among others; skip=1 leaves out itself."""
    found = NearestNeighbors(n_neighbors=1 + skip).fit(among)
    return found.kneighbors(points)[0][:, skip]


if __name__ == "__main__":
    command.run(main)
