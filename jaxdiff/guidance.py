"""Guidance: denoisers to denoiser, on x0.

    guide(D, (D_1, w_1), ...)(x) = D(x) + sum_i w_i (D(x) - D_i(x))

Every prediction is affine in x0, so this is the same as guiding eps, v, score or flow.
D_i is a weaker denoiser: the same network without the label (classifier-free guidance
[CFG], of scale 1 + w), a smaller or less trained one (autoguidance [AG]), or the same
network without the noise level (noise awareness guidance [NAG]).
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdiff.types import UNCONDITIONAL, Condition, Denoised, Denoiser, NoiseLevel, Real

Weight = float | Float[Array, ""] | Callable[[NoiseLevel], Float[Array, "..."]]
"""A number, traced or not, or a function of the level (a guidance interval, say)."""


@dataclass(frozen=True)
class Without:
    """A denoiser with one field of its condition withheld; made by `without`.

    A value rather than a closure, so that `guide` sees that it is the same network.
    """

    denoise: Denoiser
    field: str

    def __call__(
        self, x: Float[Array, "B ..."], at: NoiseLevel, cond: Condition = UNCONDITIONAL
    ) -> Denoised:
        return self.denoise(x, at, self.blind(cond, x.shape[0]))

    def blind(self, cond: Condition, batch: int) -> Condition:
        """The condition with the field withheld from all images of the batch."""
        withheld = WITHHELD[self.field](getattr(cond, self.field), batch)
        return replace(cond, **{self.field: withheld})


def _no_label(label: Array | None, batch: int) -> Array:
    """-1 for classes, zeros for rows of weights."""
    if label is not None and label.ndim == 2:
        return jnp.zeros_like(label)
    return jnp.full((batch,), -1)


WITHHELD = {
    "label": _no_label,
    "noise": lambda noise, batch: jnp.full((batch,), False),
}
"""For each field of a condition, what (its value, batch size) is when it is withheld."""

UNSAID = WITHHELD | {"noise": lambda noise, batch: jnp.full((batch,), True)}
"""Likewise, what None stands for: no label, but a noise level that is told."""


def without(denoise: Denoiser, field: str) -> Without:
    """The denoiser that is not told `field`: "label" or "noise".

    Raises:
        ValueError: there is no such field.
    """
    if field not in WITHHELD:
        raise ValueError(f"a condition has no field {field!r}; it has {[*WITHHELD]}")
    return Without(denoise, field)


def guide(denoise: Denoiser, *weaker: tuple[Denoiser, Weight]) -> Denoiser:
    """D + sum_i w_i (D - D_i), over pairs (D_i, w_i).

    Evaluations of one network that differ in their condition alone are stacked into one
    batch. w may be traced or a function of the level: changing it compiles nothing.

    >>> from jaxdiff.denoisers import gaussian_denoiser
    >>> strong, weak = gaussian_denoiser(1.0, 0.5), gaussian_denoiser(0.0, 0.5)
    >>> guide(strong, (weak, 0.5))(jnp.zeros((1, 1)), NoiseLevel(1.0, 0.5)).x0
    Array([[0.75]], dtype=float32)
    """
    denoisers = (denoise, *(d for d, _ in weaker))

    def guided(
        x: Float[Array, "B ..."], at: NoiseLevel, cond: Condition = UNCONDITIONAL
    ) -> Denoised:
        first, *others = _evaluate(denoisers, x, at, cond)
        x0 = first.x0
        for other, (_, weight) in zip(others, weaker, strict=True):
            w = weight(at) if callable(weight) else weight
            x0 = x0 + w * (first.x0 - other.x0)
        return Denoised(x0, first.variance, first.uncertainty)

    return guided


def _evaluate(
    denoisers: tuple[Denoiser, ...],
    x: Float[Array, "B ..."],
    at: NoiseLevel,
    cond: Condition,
) -> list[Denoised]:
    """All denoisers at one point, one call for each network that is among them."""
    roots, conds = zip(*(_root(d, cond, x.shape[0]) for d in denoisers), strict=True)
    results: list[Denoised | None] = [None] * len(denoisers)
    for root in {id(r): r for r in roots}.values():
        members = [i for i, r in enumerate(roots) if r is root]
        copies = len(members)
        stacked = root(
            _interleave([x] * copies),
            NoiseLevel(_repeat(at.alpha, x, copies), _repeat(at.sigma, x, copies)),
            _stack([conds[i] for i in members], x.shape[0]),
        )
        for k, i in enumerate(members):
            results[i] = jax.tree.map(lambda a, k=k, n=copies: a[k::n], stacked)
    return results


def _root(denoise: Denoiser, cond: Condition, batch: int) -> tuple[Denoiser, Condition]:
    """The network below any number of `without`, and the condition it sees."""
    while isinstance(denoise, Without):
        denoise, cond = denoise.denoise, denoise.blind(cond, batch)
    return denoise, cond


def _interleave(arrays: list[Array]) -> Array:
    """Batches as one, image by image: an image's copies stay on its device."""
    stacked = jnp.stack(arrays, axis=1)
    return stacked.reshape(-1, *stacked.shape[2:])


def _repeat(a: Real, x: Float[Array, "B ..."], times: int) -> Float[Array, "..."]:
    """A level for the stacked batch: scalars broadcast, [B, 1, ...] repeats."""
    a = jnp.asarray(a)
    per_image = a.ndim == x.ndim and a.shape[0] == x.shape[0] and a.shape[0] > 1
    return _interleave([a] * times) if per_image else a


def _stack(conds: list[Condition], batch: int) -> Condition:
    """Conditions as one batch; a field that only some give is filled for the others."""
    stacked = {}
    for f in fields(Condition):
        values = [getattr(c, f.name) for c in conds]
        given = next((v for v in values if v is not None), None)
        if given is not None:
            unsaid = UNSAID[f.name](given, batch)
            stacked[f.name] = _interleave([unsaid if v is None else v for v in values])
    return Condition(**stacked)
