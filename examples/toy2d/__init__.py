"""The 2-D toy of autoguidance, where the right answer is known [AG].

A small network cannot resolve the twigs of the tree and spreads mass between them. Guidance
by a smaller, less trained version of itself removes that mass; classifier-free guidance
instead pushes samples away from the other class, and loses twigs. This is an example, not
part of the library; `benchmarks/toy2d.py` trains, samples and draws it.

>>> import jax
>>> data, network = fractal("A"), EnergyMLP(features=8)
>>> params = train(data, network, steps=64, key=jax.random.key(0), batch=16)
>>> x = start(data, jax.random.key(1), 5)
>>> follow(learned(network, params), x, steps=8).shape
(9, 5, 2)
"""

from examples.toy2d.energy_mlp import EnergyMLP
from examples.toy2d.fractal import Mixture, fractal
from examples.toy2d.learning import follow, learned, loss, start, train

__all__ = ["EnergyMLP", "Mixture", "follow", "fractal", "learned", "loss", "start", "train"]
