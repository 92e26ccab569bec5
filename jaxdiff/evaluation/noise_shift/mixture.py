"""What a state says of its own level, in closed form for data in blobs.

Data sum_k N(m_k, std^2 I) / K have p_t(x) = sum_k N(x; alpha m_k, v I) / K with
v = alpha^2 std^2 + sigma^2. Over a list of levels with prior weights the posterior is
p(level | x) ~ prior p_t(x), and everything that is expected given x alone is a sum over
the list: the mean level, and what a network that is not told the level converges to.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdiff.types import (
    UNCONDITIONAL,
    Condition,
    Denoised,
    NoiseLevel,
    Parameterization,
    Real,
)


@dataclass(frozen=True, eq=False)
class Blobs:
    """K equal blobs N(m_k, std^2 I): a denoiser, E[x0 | x], and the density of x.

    >>> two = Blobs(jnp.array([[-1.0], [1.0]]), std=0.5)
    >>> two(jnp.zeros((1, 1)), NoiseLevel(1.0, 1.0)).x0.tolist()  # half way between them
    [[0.0]]
    """

    means: Float[Array, "K d"]
    std: float

    def __call__(
        self, x: Float[Array, "B d"], at: NoiseLevel, cond: Condition = UNCONDITIONAL
    ) -> Denoised:
        of_x, of_means = self.coefficients(x, at)
        return Denoised(of_x * x + of_means @ self.means)

    def coefficients(
        self, x: Float[Array, "B d"], at: NoiseLevel
    ) -> tuple[Real, Float[Array, "B K"]]:
        """D = a x + sum_k b_k m_k, at one level: a, and b [B, K]."""
        v = at.alpha**2 * self.std**2 + at.sigma**2
        r = jax.nn.softmax(self._logits(x, at))
        return at.alpha * self.std**2 / v, at.sigma**2 / v * r

    def weights(self, x: Float[Array, "B d"], at: NoiseLevel) -> Float[Array, "B K"]:
        """The probability of each blob given x."""
        return jax.nn.softmax(self._logits(x, at))

    def log_density(self, x: Float[Array, "B d"], at: NoiseLevel) -> Float[Array, " B"]:
        """ln p(x) at one level, up to a number that no level changes."""
        v = at.alpha**2 * self.std**2 + at.sigma**2
        each = self._logits(x, at) - x.shape[-1] / 2 * jnp.log(v)
        return jax.nn.logsumexp(each, axis=-1)

    def _logits(self, x: Float[Array, "B d"], at: NoiseLevel) -> Float[Array, "B K"]:
        v = at.alpha**2 * self.std**2 + at.sigma**2
        m = at.alpha * self.means
        square = (x**2).sum(-1)[:, None] - 2 * x @ m.T + (m**2).sum(-1)
        return -square / (2 * v)


@dataclass(frozen=True, eq=False)
class LevelPosterior:
    """p(level | x) over a list of n levels, ln prior [n], for data in blobs.

    Where levels are a grid in some coordinate, a prior of zeros is uniform in it.

    >>> point = Blobs(jnp.zeros((1, 1)), std=0.0)
    >>> levels = NoiseLevel(jnp.ones(2), jnp.array([1.0, 3.0]))
    >>> posterior = LevelPosterior(point, levels, log_prior=jnp.zeros(2))
    >>> weights = posterior.weights(jnp.zeros((1, 1)))  # densities at 0 are as 1 / sigma
    >>> [round(float(p), 4) for p in weights[:, 0]]
    [0.75, 0.25]
    """

    data: Blobs
    levels: NoiseLevel
    log_prior: Float[Array, " n"]

    def log_density(self, x: Float[Array, "B d"]) -> Float[Array, " B"]:
        """ln p(x) of the marginal over levels."""
        return jax.nn.logsumexp(self._joint(x), axis=0)

    def weights(self, x: Float[Array, "B d"]) -> Float[Array, "n B"]:
        """p(level | x); columns sum to 1."""
        return jax.nn.softmax(self._joint(x), axis=0)

    def mean(
        self, x: Float[Array, "B d"], coordinate: Float[Array, " n"]
    ) -> tuple[Float[Array, " B"], Float[Array, " B"]]:
        """E and ln var given x of a coordinate that is listed for each level."""
        p = self.weights(x)
        mean = coordinate @ p
        variance = (p * (coordinate[:, None] - mean) ** 2).sum(0)
        return mean, jnp.log(variance)

    def expected(
        self,
        x: Float[Array, "B d"],
        of_x: Float[Array, " n"],
        of_x0: Float[Array, " n"],
    ) -> Float[Array, "B d"]:
        """E[c x + e D(x; level) | x], for coefficients c and e at each level.

        Every prediction is such: eps is 1 / sigma and -alpha / sigma, the score divides
        that by -sigma, flow by 1 - t is eps - D.
        """
        p = self.weights(x)
        a, b = jax.vmap(lambda at: self.data.coefficients(x, at))(self.levels)
        along = ((of_x + of_x0 * a)[:, None] * p).sum(0)
        means = jnp.einsum("n,nb,nbk->bk", of_x0, p, b)
        return along[:, None] * x + means @ self.data.means

    def _joint(self, x: Float[Array, "B d"]) -> Float[Array, "n B"]:
        each = jax.vmap(lambda at: self.data.log_density(x, at))(self.levels)
        return each + self.log_prior[:, None]


@dataclass(frozen=True, eq=False)
class Unaware:
    """What a network that is not told the level converges to, as a denoiser.

    It sees z = c_in x and answers E[F(z; level) | z] over the levels that it was trained
    on, which its prediction's c_skip and c_out at the nominal level make into x0. Its
    log_prior [n] counts training's law and the loss's weight on F.

    >>> from jaxdiff.denoisers import EDM
    >>> two, at = Blobs(jnp.array([[-1.0], [1.0]]), std=0.5), NoiseLevel(1.0, 0.7)
    >>> one_level = NoiseLevel(jnp.array([1.0]), jnp.array([0.7]))
    >>> unaware, x = Unaware(two, EDM(), one_level, jnp.zeros(1)), jnp.array([[0.3]])
    >>> abs(unaware(x, at).x0 - two(x, at).x0).round(5).tolist()  # knows the one level
    [[0.0]]
    """

    data: Blobs
    parameterization: Parameterization
    levels: NoiseLevel
    log_prior: Float[Array, " n"]

    def __call__(
        self, x: Float[Array, "B d"], at: NoiseLevel, cond: Condition = UNCONDITIONAL
    ) -> Denoised:
        nominal = self.parameterization(at)
        raw = self.network(nominal.c_in * x)
        return Denoised(nominal.c_skip * x + nominal.c_out * raw)

    def network(self, z: Float[Array, "B d"]) -> Float[Array, "B d"]:
        """E[F(z; level) | z], F = (D - c_skip x) / c_out with x = z / c_in."""
        s = self.parameterization(self.levels)
        seen = NoiseLevel(s.c_in * self.levels.alpha, s.c_in * self.levels.sigma)
        posterior = LevelPosterior(self.data, seen, self.log_prior)
        return posterior.expected(z, -s.c_skip / (s.c_in * s.c_out), 1 / s.c_out)
