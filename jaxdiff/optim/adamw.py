"""Adam with decoupled weight decay, as DiT, SiT, ADM and Improved DDPM are trained.

    clip the gradient, Adam, weight decay, learning rate, averages.

Without decay it is Adam. The averages' memory is constant (`constant_ema`).
"""

from dataclasses import dataclass
from typing import Annotated

import optax

from jaxdiff.optim.edm2 import inverse_sqrt_schedule
from jaxdiff.optim.ema import constant_ema
from jaxdiff.optim.ema_profiles import WIDEST
from jaxdiff.types import Optimizer, implements
from jaxdiff.types.ranges import (
    Fraction,
    FractionBelowOne,
    Items,
    NonNegative,
    Positive,
    Range,
    checked,
)

Decay = Annotated[
    float,
    Range(WIDEST, 1, above=True, below=True, note="it is what an average keeps in a step"),
]
"""What a moving average keeps of itself in a step, such as 0.9999."""


@implements(Optimizer)
@dataclass(frozen=True)
@checked
class AdamW:
    """AdamW at a constant rate after an optional ramp-up; its defaults are DiT's and SiT's.

    The rate grows from 0 over the first `rampup_images`, then stays. With `max_grad_norm`
    > 0 a gradient of a larger norm is scaled down to it. `decays` are those of the averages
    that are tracked, each average <- decay average + (1 - decay) params in every step.

    Raises:
        ValueError: a rate that is not positive, a beta outside [0, 1), a negative count,
            no decays, one outside (12^(-1/2), 1), or one twice.

    >>> AdamW(decays=(0.999, 0.9999)).lengths
    (0.999, 0.9999)
    """

    learning_rate: Positive = 1e-4
    rampup_images: NonNegative = 0.0
    b1: FractionBelowOne = 0.9
    b2: FractionBelowOne = 0.999
    eps: Fraction = 1e-8
    weight_decay: NonNegative = 0.0
    max_grad_norm: NonNegative = 0.0
    decays: Annotated[tuple[Decay, ...], Items(1, 100, "such as (0.9999,)")] = (0.9999,)

    def __post_init__(self) -> None:
        if len(set(self.decays)) < len(self.decays):
            raise ValueError(f"decays has one twice: {self.decays}")

    @property
    def lengths(self) -> tuple[float, ...]:
        """The averages that are tracked, by their decays."""
        return self.decays

    def schedule(self, batch_size: int, more_images: int = 0) -> optax.Schedule:
        """Steps made -> learning rate; `more_images` as in `inverse_sqrt_schedule`."""
        return inverse_sqrt_schedule(
            self.learning_rate, 0, self.rampup_images, batch_size, more_images
        )

    def transformation(
        self, batch_size: int, more_images: int = 0
    ) -> optax.GradientTransformation:
        """The Optax chain; `more_images` as in `inverse_sqrt_schedule`."""
        norm, decay = self.max_grad_norm, self.weight_decay
        return optax.chain(
            *([optax.clip_by_global_norm(norm)] if norm else []),
            optax.scale_by_adam(b1=self.b1, b2=self.b2, eps=self.eps),
            *([optax.add_decayed_weights(decay)] if decay else []),
            optax.scale_by_learning_rate(self.schedule(batch_size, more_images)),
            constant_ema(self.decays),
        )
