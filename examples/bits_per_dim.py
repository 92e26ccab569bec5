"""Bits per dimension of a run, by the probability flow: of held-out images, if it has some.

    python examples/bits_per_dim.py runs/digits

An upper bound on the mean of -log2 p(image) / (number of its values), pixels dequantised
uniformly. Guessing each value at random costs log2(256) = 8 bits.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np

import jaxdiff as jd
from jaxdiff.data import split_of


def main(workdir: str = "runs/digits", count: int = 16) -> float:
    """Measures `count` images from all over the data, and returns their mean."""
    run = jd.restore(workdir)
    data = split_of(run.experiment.data)
    kind = "training" if data == run.experiment.data else "held-out"
    dataset = data.load()
    some = dataset.take(np.linspace(0, len(dataset) - 1, count).astype(int))
    images, labels = (jnp.asarray(a) for a in some.values())
    cond = (
        jd.Condition(label=labels) if run.experiment.network.label_dim else jd.Condition()
    )
    levels = jd.likelihood.rising(run.experiment.schedule, steps=16)
    keys = jax.random.split(jax.random.key(0), count)
    bits = jd.likelihood.flow_bits_per_dim(run.denoise, cond, images, keys, levels).bits
    error = bits.std() / count**0.5
    print(f"{bits.mean():.2f} +- {error:.2f} bits/dim of {count} {kind} images")
    return float(bits.mean())


if __name__ == "__main__":
    main(*sys.argv[1:])
