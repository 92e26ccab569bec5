"""Loss terms: (Denoised, Noised) -> [B], a mean over the elements of each image.

Frozen values rather than closures, so that an experiment can be saved with its loss:

    WeightedError(w)       w(at) (D(x) - x0)^2
    Uncertain(term)        term exp(-u) + u,  u the learned log-variance [EDM2 eq. 14]
    Total(((a, term), ...))        a term + ...
"""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdiff.types import Denoised, LossTerm, Noised, Weighting


@dataclass(frozen=True)
class WeightedError:
    """The squared x0 error, weighted by the level it was made at."""

    weighting: Weighting

    def __call__(self, denoised: Denoised, noised: Noised) -> Float[Array, " B"]:
        error = self.weighting(noised.at) * (denoised.x0 - noised.x0) ** 2
        return jnp.mean(error, axis=tuple(range(1, error.ndim)))


@dataclass(frozen=True)
class Uncertain:
    """A term balanced by its own learned log-variance u(level) [EDM2 eq. 14].

    At the optimum u is the log of the term's expectation at that level, so that every
    level contributes alike. Needs a network with an uncertainty head.
    """

    of: LossTerm

    def __call__(self, denoised: Denoised, noised: Noised) -> Float[Array, " B"]:
        if denoised.uncertainty is None:
            raise ValueError(
                "Uncertain needs a network with an uncertainty head: set "
                "network.uncertainty = True, or use the term without Uncertain"
            )
        u = denoised.uncertainty
        return self.of(denoised, noised) * jnp.exp(-u) + u


@dataclass(frozen=True)
class Total:
    """A weighted sum of terms."""

    terms: tuple[tuple[float, LossTerm], ...]

    def __call__(self, denoised: Denoised, noised: Noised) -> Float[Array, " B"]:
        return sum(scale * term(denoised, noised) for scale, term in self.terms)
