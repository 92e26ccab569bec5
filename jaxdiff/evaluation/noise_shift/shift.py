"""The shift of a sampler's states: what an estimator of the level says of them and of
forward states of the same nominal level.

    Delta = mean mu(sampled) - mean mu(forward)

and never mean mu - nominal: at a fixed level even the exact posterior's mean is drawn
towards its prior's, and that is no shift.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jaxdiff.types import Leaf, NoiseLevel, pytree

Mean = Callable[[Float[Array, "B ..."]], Float[Array, " B"]]
"""x -> the estimated level, in any coordinate that grows with the noise."""

CERTAIN = 3.0
"""Standard errors beyond which a shift is one."""


USEFUL = (0.2, 1.0)
"""Where the guidance takes noise away from states that have too much and from no others,
as sigma / alpha of digits in [-1, 1], with a UNet; small networks' takes it from all states
alike there (docs/results/nag.md). Above it says nothing of the level, and below, where
the data's own detail hides the noise, it takes noise from all states alike."""


@pytree
class Estimates:
    """What an estimator says of n states at each of N levels: [N, n].

    >>> import numpy as np
    >>> both = Estimates(sampled=np.array([[2.0, 4.0]]), forward=np.array([[1.0, 3.0]]))
    >>> measure(jax.tree.map(jnp.asarray, both)).shift.tolist()
    [1.0]
    """

    sampled: Leaf
    forward: Leaf


@pytree
class Shift:
    """The shift at each of N levels, from most noise to least; all fields are [N].

    >>> ones = np.ones(3)
    >>> shift = Shift(np.array([0.4, -0.4, 0.1]), 0.1 * ones, spread=ones, narrowing=ones)
    >>> shift.signs().tolist()  # beyond 3 standard errors
    [1.0, -1.0, 0.0]
    >>> shift.verdict()
    'no shift beyond 3 standard errors: there is nothing to guide'
    """

    shift: Leaf
    """mean mu(sampled) - mean mu(forward), in the estimator's coordinate."""
    error: Leaf
    """Its standard error."""
    spread: Leaf
    """The standard deviation of mu(forward): shift / spread says if one state shows it."""
    narrowing: Leaf
    """std mu(sampled) / std mu(forward): below 1, states are too much alike."""

    def signs(self) -> Float[np.ndarray, " N"]:
        """+1 too noisy, -1 too clean, 0 none that the standard error lets see."""
        shift, error = np.asarray(self.shift), np.asarray(self.error)
        return np.where(np.abs(shift) > CERTAIN * error, np.sign(shift), 0.0)

    def mean(self) -> tuple[float, float]:
        """The mean over levels, and at most how large its standard error is.

        Each level counts once, as guidance acts once a step. The same images pass all of
        them, so errors do not average out: std(mean) <= mean(std), alike if they are one.
        """
        return float(np.mean(np.asarray(self.shift))), float(
            np.mean(np.asarray(self.error))
        )

    def verdict(
        self, levels: NoiseLevel | None = None, within: tuple[float, float] = USEFUL
    ) -> str:
        """Whether guidance without the noise level can lower this sampler's shift.

        By the mean shift over those of the N levels where low < sigma / alpha <= high;
        over all if `levels` are not given. It is about the shift alone, and tells nothing
        of images: those of a UNet did not gain by the guidance in 10 ways to sample of a
        positive shift, and small networks' did where it is negative (docs/results/nag.md).
        """
        if not np.isfinite(np.asarray(self.shift)).all():
            return "not finite: states or estimates blew up, look at them first"
        judged, where = self, ""
        if levels is not None:
            ratio = np.asarray(levels.sigma) / np.asarray(levels.alpha)
            inside = (within[0] < ratio) & (ratio <= within[1])
            where = f"{within[0]:g} < sigma / alpha <= {within[1]:g}"
            if not inside.any():
                return f"not judged: no level has {where}, take more steps"
            judged, where = jax.tree.map(lambda a: a[inside], self), f", {where}"
        mean, error = judged.mean()
        if abs(mean) <= CERTAIN * error:
            return f"no shift beyond {CERTAIN:g} standard errors: there is nothing to guide"
        size = f"{mean:+.4f} ± {error:.4f} over {len(judged.shift)} levels{where}"
        if mean > 0:
            return f"positive ({size}): states are too noisy, guidance can lower it"
        return f"negative ({size}): states are too clean, guidance may enlarge it"


def forward(
    keys: Key[Array, " N"], x0: Float[Array, "B ..."], levels: NoiseLevel
) -> Float[Array, "N B ..."]:
    """Forward states alpha x0 + sigma eps, with fresh noise at each of N levels.

    >>> levels = NoiseLevel(jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0]))
    >>> states = forward(jax.random.split(jax.random.key(0), 2), jnp.ones((3, 4)), levels)
    >>> states.shape, bool((states[0] == 1).all())
    ((2, 3, 4), True)
    """
    noisy = lambda key, at: at.alpha * x0 + at.sigma * jax.random.normal(key, x0.shape)
    return jax.vmap(noisy)(keys, levels)


def estimates(
    mean: Mean, sampled: Float[Array, "N B ..."], forward: Float[Array, "N C ..."]
) -> Estimates:
    """What the estimator says of a trajectory's states and of forward ones, level by level.

    Leave out where alpha = 0 or sigma = 0: `trajectory(...).x[1:-1]`.

    >>> first = lambda x: x[:, 0]  # stands for a network
    >>> both = estimates(first, jnp.ones((2, 3, 1)), jnp.zeros((2, 3, 1)))
    >>> both.sampled.shape, float(both.sampled.max()), float(both.forward.max())
    ((2, 3), 1.0, 0.0)
    """
    return Estimates(jax.lax.map(mean, sampled), jax.lax.map(mean, forward))


def measure(estimates: Estimates) -> Shift:
    """The shift, with its standard error, of estimates in both kinds of states.

    >>> import jax.numpy as jnp
    >>> estimates = Estimates(jnp.asarray([[0.4, 0.6]]), jnp.asarray([[0.2, 0.4]]))
    >>> shift = measure(estimates)
    >>> round(float(shift.shift[0]), 6), round(float(shift.error[0]), 6)
    (0.2, 0.141421)
    """
    std = lambda a: jnp.std(a, axis=1, ddof=1)
    square = lambda a: std(a) ** 2 / a.shape[1]
    return Shift(
        estimates.sampled.mean(1) - estimates.forward.mean(1),
        jnp.sqrt(square(estimates.sampled) + square(estimates.forward)),
        std(estimates.forward),
        std(estimates.sampled) / std(estimates.forward),
    )
