"""Are the digits right, and are they as varied as real ones? Judges a run of digits.

    python benchmarks/digits_quality.py --workdir=runs/digits

Draws 100 images of each class and prints what benchmarks/digits_judge.py measures: the
accuracy of a classifier that is right on 98.7 % of held-out real digits, distances to the
training digits and among the images, copies, and a Frechet distance to the training
digits. Beside the latter stand the 300 held-out real digits, which are few, and as many
draws as images of the Gaussian with the training digits' own mean and covariance.
"""

import digits_judge
import numpy as np
from absl import flags

from jaxdiff.commands import command
from jaxdiff.data import encoder_of
from jaxdiff.runs import generate, restoring
from jaxdiff.runtime import sharding

WORKDIR = flags.DEFINE_string("workdir", None, "The folder that jaxdiff train wrote.")
NUMBER = flags.DEFINE_integer("number", 1000, "How many images.", lower_bound=20)
SEED = flags.DEFINE_integer("seed", 1_000_000, "Seed of the first image.", lower_bound=0)
STD = flags.DEFINE_float("std", None, "Relative width of the EMA, else the run's own.")
flags.mark_flags_as_required(["workdir"])


def main() -> None:
    """Draws, judges, prints."""
    run = restoring.restore(WORKDIR.value, STD.value)
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
    judge = digits_judge.judge()
    quality, (accuracy, frechet) = judge(images, label), judge.reference()
    print(f"step {run.step}, EMA {std}, {len(images)} images, seeds from {SEED.value}")
    print(f"accuracy   {quality.accuracy:7.1%}")
    print(f"  held-out {accuracy:7.1%}")
    print(f"to train   {quality.to_train:7.3f}")
    print(f"among      {quality.among:7.3f}")
    print(f"copies     {quality.copies:7.1%}")
    print(f"frechet    {quality.frechet:7.3f}")
    print(f"  held-out {frechet:7.3f}")
    print(f"  Gaussian {judge.floor(NUMBER.value):7.3f}")


if __name__ == "__main__":
    command.run(main)
