"""A denoiser with part of its condition withheld."""

from dataclasses import dataclass, replace

import jax.numpy as jnp
from jaxtyping import Array, PyTree

from jaxdiff.denoisers import during, initial
from jaxdiff.sampling.signature import State
from jaxdiff.types import UNCONDITIONAL, Condition, Denoised, Denoiser, NoiseLevel
from jaxdiff.types.arguments import require_denoiser


@dataclass(frozen=True)
class Without:
    """A denoiser with one field of its condition withheld; made by `without`.

    A value rather than a closure, so that `guide` sees that it is the same network.
    Without "noise", c_noise is withheld, but c_in, c_skip and c_out are still those of the
    level; that makes the difference point from more noise to less [NAG].

    >>> toy = without(lambda x, at, cond: Denoised(x), "label")
    >>> toy.blind(Condition(label=jnp.array([3, 4])), batch=2).label.tolist()
    [-1, -1]
    """

    denoise: Denoiser
    field: str

    def __call__(
        self, x: State, at: NoiseLevel, cond: Condition = UNCONDITIONAL
    ) -> Denoised:
        return self.denoise(x, at, self.blind(cond, x.shape[0]))

    def init(self, x: State) -> PyTree:
        return initial(self.denoise, x)

    def during(self, at: NoiseLevel, to: NoiseLevel, memory: PyTree) -> "Without":
        return replace(self, denoise=during(self.denoise, at, to, memory))

    def blind(self, cond: Condition, batch: int) -> Condition:
        """The condition with the field withheld from all images of the batch."""
        withheld = WITHHELD[self.field](getattr(cond, self.field), batch)
        return replace(cond, **{self.field: withheld})


def _no_label(label: Array | None, batch: int) -> Array:
    """-1 for classes, zeros for rows of weights."""
    if label is not None and jnp.ndim(label) == 2:
        return jnp.zeros_like(label)
    return jnp.full((batch,), -1)


WITHHELD = {
    "label": _no_label,
    "noise": lambda noise, batch: jnp.full((batch,), False),
}
"""For each field of a condition, (its value, batch size) -> the withheld value."""

DEFAULTS = WITHHELD | {"noise": lambda noise, batch: jnp.full((batch,), True)}
"""Likewise, -> the meaning of None: the label is withheld, the noise level is not."""


def without(denoise: Denoiser, field: str) -> Without:
    """The denoiser with `field` withheld: "label" or "noise".

    >>> toy = lambda x, at, cond: Denoised(cond.label)
    >>> x, at = jnp.zeros((1, 2)), NoiseLevel(1.0, 0.5)
    >>> without(toy, "label")(x, at, Condition(label=jnp.array([3]))).x0.tolist()
    [-1]

    Raises:
        ValueError: there is no such field.
    """
    if field not in WITHHELD:
        raise ValueError(f"a condition has no field {field!r}; it has {[*WITHHELD]}")
    require_denoiser(denoise)
    return Without(denoise, field)
