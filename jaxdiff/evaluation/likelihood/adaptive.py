"""Adaptive integration by diffrax, which is imported when it is first used."""

import importlib.util
from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from jaxdiff.evaluation.likelihood.integrate import Field
from jaxdiff.types.ranges import Tolerance, Whole, checked


@dataclass(frozen=True)
@checked
class AdaptiveRule:
    """A Runge-Kutta method of diffrax with error control, from the first to the last node.

    Each image has steps of its own, so that no other image changes it; nodes between the
    ends are left out. An image that is not done after `max_steps` steps, rejected ones
    included, is nan.

    Raises:
        ImportError: diffrax is not installed.
        ValueError: tolerances that are not positive, or a method that diffrax has not.

    >>> decay = lambda u, y: -y
    >>> end, evaluations = AdaptiveRule()(decay, jnp.ones(()), jnp.array([0.0, 1.0]))
    >>> round(float(end), 4)  # exp(-1)
    0.3679
    """

    rtol: Tolerance = 1e-5
    atol: Tolerance = 1e-5
    method: str = "Tsit5"
    max_steps: Annotated[int, Whole(1, 10**6)] = 4096

    def __post_init__(self) -> None:
        if importlib.util.find_spec("diffrax") is None:
            raise ImportError("AdaptiveRule needs diffrax: pip install 'jaxdiff[adaptive]'")
        import diffrax

        tableau = getattr(getattr(diffrax, self.method, None), "tableau", None)
        if not isinstance(tableau, diffrax.ButcherTableau):
            raise ValueError(
                f"{self.method!r} is not a Runge-Kutta method of diffrax; use 'Tsit5', "
                "'Dopri5' or 'Dopri8'"
            )

    def __call__(
        self, field: Field, start: PyTree, nodes: Float[Array, " N1"]
    ) -> tuple[PyTree, Int[Array, ""]]:
        import diffrax

        method = getattr(diffrax, self.method)()
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(lambda u, y, args: field(u, y)),
            method,
            nodes[0],
            nodes[-1],
            None,
            start,
            stepsize_controller=diffrax.PIDController(self.rtol, self.atol),
            max_steps=self.max_steps,
            throw=False,
        )
        done = solution.result == diffrax.RESULTS.successful
        end = jax.tree.map(lambda y: jnp.where(done, y[0], jnp.nan), solution.ys)
        reused = int(method.tableau.fsal)  # a step's last stage, as the next one's first
        stages = method.tableau.num_stages - reused
        return end, stages * solution.stats["num_steps"] + reused
