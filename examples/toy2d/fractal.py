"""A mixture of Gaussians in the plane whose exact denoiser is known at every level.

With V_k = alpha^2 C_k + sigma^2 I and q_k = V_k^-1 (x - alpha mu_k),

    p(x; alpha, sigma) = sum_k w_k N(x; alpha mu_k, V_k),    r_k = term k / p,
    score(x)  = -sum_k r_k q_k,
    D(x)      = sum_k r_k (mu_k + alpha C_k q_k).

`fractal` is the toy of [AG]: two classes, A and B, each a tree of seven generations
of branches, every branch eight Gaussians in a row.
"""

import math
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from jaxdiff.types import UNCONDITIONAL, Condition, Denoised, Leaf, NoiseLevel, pytree

Point = Callable[[Array, Array, Array], Array]
"""A function of one point: (x [2], alpha, sigma) -> an array."""


@pytree
class Mixture:
    """Gaussians with weights w_k in the plane; calling it evaluates the exact denoiser."""

    weight: Leaf
    """[K], w_k, with sum 1."""
    mean: Leaf
    """[K, 2], mu_k."""
    covariance: Leaf
    """[K, 2, 2], C_k."""

    @jax.jit
    def __call__(
        self, x: Float[Array, "B 2"], at: NoiseLevel, cond: Condition = UNCONDITIONAL
    ) -> Denoised:
        def point(x: Array, alpha: Array, sigma: Array) -> Float[Array, "2"]:
            logits, q = self._terms(x, alpha, sigma)
            r, c = jax.nn.softmax(logits), self.covariance
            towards = [c[:, i, 0] * q[0] + c[:, i, 1] * q[1] for i in (0, 1)]
            return jnp.sum(r * (self.mean.T + alpha * jnp.stack(towards)), axis=-1)

        return Denoised(_each(point, x, at))

    @jax.jit
    def score(self, x: Float[Array, "B 2"], at: NoiseLevel) -> Float[Array, "B 2"]:
        """The gradient of `log_density`."""

        def point(x: Array, alpha: Array, sigma: Array) -> Float[Array, "2"]:
            logits, q = self._terms(x, alpha, sigma)
            return -jnp.sum(jax.nn.softmax(logits) * q, axis=-1)

        return _each(point, x, at)

    @jax.jit
    def log_density(self, x: Float[Array, "B 2"], at: NoiseLevel) -> Float[Array, " B"]:
        """ln p(x; alpha, sigma), in nats."""
        return _each(lambda *point: jax.nn.logsumexp(self._terms(*point)[0]), x, at)

    def draw(self, key: PRNGKeyArray, count: int) -> Float[Array, "count 2"]:
        """Points of the clean distribution."""
        which, where = jax.random.split(key)
        edges = jnp.cumsum(self.weight)
        u = jax.random.uniform(which, (count,)) * edges[-1]
        k = jnp.minimum(jnp.searchsorted(edges, u, side="right"), len(edges) - 1)
        root = jnp.linalg.cholesky(self.covariance)[k]
        eps = jax.random.normal(where, (count, 2))
        return jnp.asarray(self.mean)[k] + jnp.einsum("bij,bj->bi", root, eps)

    def _terms(
        self, x: Float[Array, "2"], alpha: Float[Array, ""], sigma: Float[Array, ""]
    ) -> tuple[Float[Array, " K"], Float[Array, "2 K"]]:
        """At one point: ln of each term of p, and q_k; V_k is inverted in closed form."""
        c = self.covariance
        v00, v11 = (alpha**2 * c[:, i, i] + sigma**2 for i in (0, 1))
        v01 = alpha**2 * c[:, 0, 1]
        d0, d1 = (x[i] - alpha * self.mean[:, i] for i in (0, 1))
        det = v00 * v11 - v01**2
        q0, q1 = (v11 * d0 - v01 * d1) / det, (v00 * d1 - v01 * d0) / det
        log_normal = -(jnp.log(det) + d0 * q0 + d1 * q1) / 2 - math.log(2 * math.pi)
        return jnp.log(self.weight) + log_normal, jnp.stack([q0, q1])


def _each(point: Point, x: Float[Array, "B 2"], at: NoiseLevel) -> Float[Array, "B ..."]:
    """point(x, alpha, sigma) of every x, 64 at a time, to fit into a CPU's cache."""
    level = (jnp.broadcast_to(a, (len(x), 1))[:, 0] for a in (at.alpha, at.sigma))
    return jax.lax.map(lambda args: point(*args), (x, *level), batch_size=64)


def fractal(classes: str = "A") -> Mixture:
    """The data: class "A", class "B", or "AB", both; 1016 Gaussians each, float32.

    Branch k has the length L = 0.292 * 0.8^k (1 + 0.2 N(0, 1)) and two children, turned
    by +-0.7^k (1 + 0.2 N(0, 1)). Mean about 0 and standard deviation about 0.5.

    Raises:
        ValueError: no class, or an unknown one.

    >>> fractal("AB").mean.shape
    (2032, 2)
    """
    if classes not in ("A", "B", "AB"):
        raise ValueError(f'classes are "A", "B" or "AB", got {classes!r}')
    random = np.random.RandomState(2)
    origin = np.array([0.0030, 0.0325])
    trees = {"A": [*_branch(random, 0, origin, math.pi / 4)]}
    trees["B"] = [*_branch(random, 0, origin, 5 * math.pi / 4)]
    rows = [row for name in classes for row in trees[name]]
    weight, mean, covariance = (
        np.array(column, np.float64) for column in zip(*rows, strict=True)
    )
    parts = weight / weight.sum(), mean, covariance
    return Mixture(*(part.astype(np.float32) for part in parts))


STRETCH = np.array([1.3136, 1.3844])
"""Brings the tree to mean 0 and standard deviation 0.5."""


def _branch(
    random: np.random.RandomState, k: int, start: np.ndarray, angle: float
) -> Iterator[tuple[float, np.ndarray, np.ndarray]]:
    """(weight, mean, covariance) of a branch's Gaussians, then of its children's.

    The order of the draws is part of the definition: the length, then, for each child, its
    angle and its whole subtree.
    """
    if k == 7:
        return
    u = np.array([math.cos(angle), math.sin(angle)])
    length = 0.292 * 0.8**k * (1 + 0.2 * random.randn())
    thickness = 0.2 * 0.8**k / length
    size = STRETCH * length * 0.06
    along = np.outer(u, u)
    covariance = (along + (np.eye(2) - along) * thickness**2) * np.outer(size, size)
    for position in np.linspace(0.07, 0.93, 8):
        yield length * 0.5**k, (start + u * length * position) * STRETCH, covariance
    for sign in (1, -1):
        turn = sign * 0.7**k * (1 + 0.2 * random.randn())
        yield from _branch(random, k + 1, start + u * length, angle + turn)
