"""Guided denoisers: D and the differences D - D_i, combined by a rule."""

from dataclasses import dataclass, replace

import jax
from jaxtyping import Array, Bool, PyTree

from jaxdiff.denoisers import during, initial
from jaxdiff.denoisers.parameterizations import X0, Flow
from jaxdiff.sampling.guidance.batching import evaluate
from jaxdiff.sampling.guidance.less_likely import LessLikely
from jaxdiff.sampling.guidance.rules import Projected, Rescaled, Rule, Sum, ZeroStar
from jaxdiff.sampling.guidance.weights import Switch, Weight, decided, value
from jaxdiff.sampling.signature import State
from jaxdiff.types import (
    UNCONDITIONAL,
    Condition,
    Denoised,
    Denoiser,
    NoiseLevel,
    Parameterization,
)
from jaxdiff.types.arguments import require_denoiser, require_pairs


@dataclass(frozen=True, eq=False)
class Guided:
    """A guided denoiser; made by `guide`. A value, so that `during` can look inside.

    >>> import jax.numpy as jnp
    >>> from jaxdiff.denoisers import gaussian_denoiser
    >>> weaker = gaussian_denoiser(0.0, 0.5)
    >>> guided: Guided = guide(gaussian_denoiser(1.0, 0.5), (weaker, 0.5))
    >>> guided(jnp.zeros((1, 1)), NoiseLevel(1.0, 0.5)).x0.tolist()  # 0.5 + 0.5 (0.5 - 0)
    [[0.75]]
    """

    denoise: Denoiser
    weaker: tuple[tuple[Denoiser | LessLikely, Weight], ...]
    rule: Rule = Sum()
    memory: PyTree = None
    """(the rule's memory, the denoisers' memories); None before the first step."""

    def __call__(
        self, x: State, at: NoiseLevel, cond: Condition = UNCONDITIONAL
    ) -> Denoised:
        of_rule, _ = self.init(x) if self.memory is None else self.memory
        first, others, memories = self._evaluations(x, at, cond)
        weights = (value(w, at) for _, w in self.weaker)
        pairs = tuple(zip(others, weights, strict=True))
        x0, of_rule = self.rule(x, at, first.x0, pairs, of_rule)
        return replace(first, x0=x0, memory=(of_rule, (first.memory, *memories)))

    def init(self, x: State) -> PyTree:
        denoisers = (self.denoise, *(d for d, _ in self.weaker))
        return self.rule.init(x, len(self.weaker)), tuple(initial(d, x) for d in denoisers)

    def during(self, at: NoiseLevel, to: NoiseLevel, memory: PyTree) -> "Guided":
        each = (None,) * (1 + len(self.weaker)) if memory is None else memory[1]
        decide = lambda d, memory: during(d, at, to, memory)
        weaker = tuple(
            (decide(d, m), decided(w, at, to))
            for (d, w), m in zip(self.weaker, each[1:], strict=True)
        )
        return Guided(decide(self.denoise, each[0]), weaker, self.rule, memory)

    def _evaluations(
        self, x: State, at: NoiseLevel, cond: Condition
    ) -> tuple[Denoised, list[State], list[PyTree]]:
        """D, and each weaker one's x0 and memory; D's x0 for those that are not called."""
        kept = [initial(d, x) for d, _ in self.weaker]
        kept = kept if self.memory is None else self.memory[1][1:]

        def call(chosen: list[bool]) -> tuple[Denoised, list, list]:
            weaker = (d for (d, _), c in zip(self.weaker, chosen, strict=True) if c)
            first, *called = evaluate((self.denoise, *weaker), x, at, cond)
            idle = [Denoised(first.x0, memory=m) for m in kept]
            others = [called.pop(0) if c else i for c, i in zip(chosen, idle, strict=True)]
            return first, [d.x0 for d in others], [d.memory for d in others]

        on = [_on(w) for _, w in self.weaker]
        switches = [o for o in on if not isinstance(o, bool)]
        if not switches:
            return call(on)
        every, fewest = [o is not False for o in on], [o is True for o in on]
        guided = jax.numpy.stack(switches).any()
        return jax.lax.cond(guided, lambda: call(every), lambda: call(fewest))


def _on(weight: Weight) -> bool | Bool[Array, ""]:
    """Whether a weaker denoiser is called: a bool, or an array if the step decides."""
    if isinstance(weight, Switch):
        return True if weight.on.ndim else weight.on
    return not (isinstance(weight, int | float) and weight == 0)


def guide(denoise: Denoiser, *weaker: tuple[Denoiser | LessLikely, Weight]) -> Guided:
    """D + sum_i w_i (D - D_i), over pairs (D_i, w_i); `less_likely` makes a D_i from D.

    Evaluations of one network that differ only in their condition are stacked into one
    batch. w may be traced, and then a new value compiles nothing, or a function of the
    level.

    Raises:
        ValueError: an argument that is not a pair (denoiser, weight).

    >>> from jaxdiff.denoisers import gaussian_denoiser
    >>> import jax.numpy as jnp
    >>> strong, weak = gaussian_denoiser(1.0, 0.5), gaussian_denoiser(0.0, 0.5)
    >>> guide(strong, (weak, 0.5))(jnp.zeros((1, 1)), NoiseLevel(1.0, 0.5)).x0
    Array([[0.75]], dtype=float32)
    """
    require_denoiser(denoise)
    require_pairs(weaker)
    return Guided(denoise, tuple((weak, w) for weak, w in weaker))


def rescaled(guided: Denoiser, phi: float, on: Parameterization = X0()) -> Guided:
    """Guidance rescaled, by the fraction phi, to the unguided standard deviation.

    `on` is the prediction that is rescaled, in the papers the network's own: `Eps()`, which
    has no value at alpha = 0, or `V()` [ZTSNR sec. 3.4].

    >>> from jaxdiff.denoisers import gaussian_denoiser
    >>> import jax.numpy as jnp
    >>> strong, weak = gaussian_denoiser(1.0, 0.5), gaussian_denoiser(0.0, 0.25)
    >>> x, at = jnp.array([[0.0, 1.0]]), NoiseLevel(1.0, 0.5)
    >>> guided = guide(strong, (weak, 1.0))
    >>> spread = lambda denoise: round(float(denoise(x, at).x0.std()), 3)
    >>> spread(strong), spread(guided), spread(rescaled(guided, phi=1.0))
    (0.25, 0.4, 0.25)

    Raises:
        TypeError: `guided` is not what `guide` returns.
        ValueError: phi outside [0, 1].
    """
    return replace(guided, rule=Rescaled(_guided(guided, "rescaled").rule, phi, on))


def projected(
    guided: Denoiser, limit: float, momentum: float = -0.5, parallel: float = 0.0
) -> Guided:
    """Guidance without its component along D, with momentum over steps [APG alg. 1].

    `limit` is the longest difference over an image: 2.5 on EDM2's latents, 15 on SDXL's.

    >>> from jaxdiff.denoisers import gaussian_denoiser
    >>> import jax.numpy as jnp
    >>> strong, weak = gaussian_denoiser(1.0, 0.5), gaussian_denoiser(0.0, 0.5)
    >>> guided = projected(guide(strong, (weak, 1.0)), limit=10.0)
    >>> x0 = guided(jnp.zeros((1, 2)), NoiseLevel(1.0, 0.5)).x0
    >>> x0.round(3).tolist()  # the difference is along D, which is 0.5 here
    [[0.5, 0.5]]

    Raises:
        TypeError: `guided` is not what `guide` returns.
        ValueError: limit <= 0, or the guidance has another rule already.
    """
    return _ruled(guided, Projected(limit, momentum, parallel), "projected")


def zero_star(guided: Denoiser, on: Parameterization = Flow()) -> Guided:
    """CFG-Zero*: guidance away from the weaker prediction's optimal multiple [CFG-Zero].

    >>> from jaxdiff.denoisers import gaussian_denoiser
    >>> import jax.numpy as jnp
    >>> strong, weak = gaussian_denoiser(1.0, 0.5), gaussian_denoiser(0.5, 0.5)
    >>> guided = zero_star(guide(strong, (weak, 1.0)))
    >>> x0 = guided(jnp.zeros((1, 2)), NoiseLevel(1.0, 0.5)).x0
    >>> x0.round(3).tolist()  # D is a multiple of the weaker one
    [[0.5, 0.5]]

    Raises:
        TypeError: `guided` is not what `guide` returns.
        ValueError: the guidance has another rule already.
    """
    return _ruled(guided, ZeroStar(on), "zero_star")


def _ruled(guided: Denoiser, rule: Rule, verb: str) -> Guided:
    if (old := _guided(guided, verb).rule) != Sum():
        raise ValueError(
            f"{verb}() replaces the plain sum, but this guidance is {old} already: give "
            f"it what guide() returns, and rescale afterwards"
        )
    return replace(guided, rule=rule)


def _guided(guided: Denoiser, verb: str) -> Guided:
    if not isinstance(guided, Guided):
        raise TypeError(
            f"{verb}() needs what guide() returns, as it compares with the unguided "
            f"prediction, got {type(guided).__name__}: {verb}(guide(denoise, (weak, w)))"
        )
    return guided
