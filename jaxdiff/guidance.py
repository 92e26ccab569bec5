"""Guidance: denoisers to denoiser, on x0.

    guide(D, (D_1, w_1), ...)(x) = D(x) + sum_i w_i (D(x) - D_i(x))

Every prediction is affine in x0, so this is the same as guiding eps, v, score or flow.
D_i is a weaker denoiser: the same network without the label (classifier-free guidance
[CFG], of scale 1 + w), a smaller or less trained one (autoguidance [AG]), or the same
network without the noise level (noise awareness guidance [NAG]).

w_i may be a function of the level. An `Interval` [GI] switches guidance on for some steps
of a sampler, and a step is guided in all its evaluations or in none. Heun evaluates the
level between two steps twice, once for each, so the level alone does not tell:
`sample` says from where to where each step goes, `during(denoise, at, to)`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxdiff.denoisers import Clipped
from jaxdiff.types import UNCONDITIONAL, Condition, Denoised, Denoiser, NoiseLevel, Real

Weight = float | Float[Array, ""] | Callable[[NoiseLevel], Float[Array, "..."]]
"""A number, traced or not, or a function of the level, such as `Interval`."""


@dataclass(frozen=True)
class Interval:
    """The weight w for low < sigma / alpha <= high, 0 elsewhere [GI].

    Publications name the steps that are guided by their levels, rounded: of EDM2's 32
    steps, (0.28, 2.90] stands for steps 15 ... 21, counted from 0, but as numbers these
    ends take in steps 16 ... 22. `Interval.of_steps` puts them between levels.

        EDM2 on ImageNet-512   best FID                   best FD-DINOv2
        S                      steps 15 ... 21, w = 1.1   steps 13 ... 19, w = 2.2
        XXL                    steps 17 ... 22, w = 1.0   steps 13 ... 19, w = 1.9

    w is the published scale less 1, beside classifier-free guidance by XS [GI].

    Raises:
        ValueError: not 0 <= low < high.

    >>> interval = Interval(1.0, low=0.3, high=3.0)
    >>> interval(NoiseLevel(jnp.ones(3), jnp.asarray([0.3, 3.0, 4.0]))).tolist()
    [0.0, 1.0, 0.0]
    """

    w: float | Float[Array, ""]
    low: float = 0.0
    high: float = math.inf

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high:
            raise ValueError(
                f"a guidance interval needs 0 <= low < high, got low = {self.low} and "
                f"high = {self.high}; without it, give guide() the number w itself"
            )

    def __call__(self, at: NoiseLevel) -> Float[Array, "..."]:
        return jnp.where(self.contains(at), self.w, 0.0)

    def contains(self, at: NoiseLevel) -> Bool[Array, "..."]:
        """Whether the level lies within; pure noise, alpha = 0, is at infinity."""
        ratio = jnp.divide(at.sigma, at.alpha)
        return (self.low < ratio) & (ratio <= self.high)

    @classmethod
    def of_steps(
        cls, w: float | Float[Array, ""], levels: NoiseLevel, first: int, last: int
    ) -> "Interval":
        """Guides steps first ... last of a grid, counted from 0; step i starts at level i.

        The ends are halfway to the next level, in ln sigma, so rounding moves no step.

        Raises:
            ValueError: not 0 <= first <= last < number of steps.

        >>> levels = NoiseLevel(jnp.ones(5), jnp.asarray([16.0, 4.0, 1.0, 0.25, 0.0]))
        >>> Interval.of_steps(1.0, levels, first=1, last=2)
        Interval(w=1.0, low=0.5, high=8.0)
        """
        ratio = [float(r) for r in jnp.divide(levels.sigma, levels.alpha)]
        if not 0 <= first <= last < len(ratio) - 1:
            raise ValueError(
                f"steps {first} ... {last} are no part of the {len(ratio) - 1} steps of "
                f"the grid: give 0 <= first <= last <= {len(ratio) - 2}"
            )
        high = math.sqrt(ratio[first - 1] * ratio[first]) if first else math.inf
        return cls(w, math.sqrt(ratio[last] * ratio[last + 1]), high)


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


@dataclass(frozen=True, eq=False)
class Guided:
    """A guided denoiser; made by `guide`. A value, so that `during` can look inside."""

    denoise: Denoiser
    weaker: tuple[tuple[Denoiser, Weight], ...]

    def __call__(
        self, x: Float[Array, "B ..."], at: NoiseLevel, cond: Condition = UNCONDITIONAL
    ) -> Denoised:
        denoisers = (self.denoise, *(d for d, _ in self.weaker))
        first, *others = _evaluate(denoisers, x, at, cond)
        x0 = first.x0
        for other, (_, weight) in zip(others, self.weaker, strict=True):
            w = weight(at) if callable(weight) else weight
            x0 = x0 + w * (first.x0 - other.x0)
        return Denoised(x0, first.variance, first.uncertainty)


def guide(denoise: Denoiser, *weaker: tuple[Denoiser, Weight]) -> Guided:
    """D + sum_i w_i (D - D_i), over pairs (D_i, w_i).

    Evaluations of one network that differ in their condition alone are stacked into one
    batch. w may be traced or a function of the level: changing it compiles nothing.

    >>> from jaxdiff.denoisers import gaussian_denoiser
    >>> strong, weak = gaussian_denoiser(1.0, 0.5), gaussian_denoiser(0.0, 0.5)
    >>> guide(strong, (weak, 0.5))(jnp.zeros((1, 1)), NoiseLevel(1.0, 0.5)).x0
    Array([[0.75]], dtype=float32)
    """
    return Guided(denoise, weaker)


def during(denoise: Denoiser, at: NoiseLevel, to: NoiseLevel) -> Denoiser:
    """The denoiser for all evaluations of the step from one level to another.

    Every `Interval` anywhere inside is decided at its start, once; other weights, numbers
    or functions, stay what they are.

    >>> from jaxdiff.denoisers import gaussian_denoiser
    >>> strong, weak = gaussian_denoiser(1.0, 0.5), gaussian_denoiser(0.0, 0.5)
    >>> guided = guide(strong, (weak, Interval(0.5, low=0.7)))
    >>> at, x = NoiseLevel(1.0, 0.5), jnp.zeros((1, 1))
    >>> guided(x, at).x0, during(guided, NoiseLevel(1.0, 1.0), at)(x, at).x0
    (Array([[0.5]], dtype=float32), Array([[0.75]], dtype=float32))
    """
    if isinstance(denoise, Without | Clipped):
        return replace(denoise, denoise=during(denoise.denoise, at, to))
    if not isinstance(denoise, Guided):
        return denoise
    decided = tuple(
        (during(d, at, to), w(at) if isinstance(w, Interval) else w)
        for d, w in denoise.weaker
    )
    return Guided(during(denoise.denoise, at, to), decided)


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
