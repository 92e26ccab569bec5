"""The probability flow by any solver and step-size controller of diffrax.

In the clock u with alpha / sigma = e^-u - tiny, which is ln(sigma / alpha) but for being
finite at pure noise, and on the unit circle, y = x / hypot(alpha, sigma), at an angle phi
with cot(phi) = alpha / sigma,

    dy/du = (cos(phi) eps_hat - sin(phi) D) dphi/du,     dphi/du = e^-u sin^2(phi),

which is smooth from alpha = 0 down to the last level above sigma = 0. Steps in sigma itself
would be rejected nearly half of the time.
"""

import functools
import importlib
from dataclasses import dataclass
from types import ModuleType
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxdiff.sampling.signature import Denoise, Noise, State, Step
from jaxdiff.sampling.solvers.euler_heun_ddim import (
    StepLevels,
    intervals,
    left_endpoint,
)
from jaxdiff.types import NoiseLevel
from jaxdiff.types.ranges import Tolerance, Whole, checked, quote

TINY = 1e-4
"""Where the clock bends: at sigma / alpha = 1 / TINY."""

Count = Int[Array, ""]
"""Evaluations so far."""


@dataclass(frozen=True)
@checked
class Adaptive:
    """As many evaluations as the tolerance takes from each level of the grid to the next.

    The grid may be as short as [start, smallest, data]: `Karras()(None, 2)`. The batch is
    one state and takes one sequence of steps. An error is the worst image's, its root mean
    square over rtol max |y| + atol, so every image is within the tolerance, and those of
    another batch split agree to it. `method` is a solver of diffrax or its name, and
    `controller`, if given, stands in for `PIDController(rtol, atol)`. Memory counts the
    evaluations so far, of explicit methods; images that took more than `max_steps` from
    one level to the next are nan.

    >>> from jaxdiff.denoisers import gaussian_denoiser
    >>> from jaxdiff.sampling import follow
    >>> from jaxdiff.sampling.grids import Karras
    >>> from jaxdiff.types import Condition
    >>> toy, x = gaussian_denoiser(0.0, 0.5), jnp.full((1, 1), 80.0)
    >>> x0 = follow(toy, Condition(), None, x, Karras()(None, 2), Adaptive())
    >>> round(float(x0[0, 0]), 3)  # 80 * 0.5 / hypot(80, 0.5)
    0.5
    """

    rtol: Tolerance = 1e-5
    atol: Tolerance = 1e-5
    method: Any = "Tsit5"
    controller: Any = None
    max_steps: Annotated[int, Whole(1, 10**6)] = 4096

    def __post_init__(self) -> None:
        _check_method(self.method, self.controller)

    def evaluations(self, lands: bool) -> int:
        if lands:
            return 1
        raise ValueError(
            f"{self} evaluates as often as its tolerance needs, which depends on the data: "
            "read the number from sampling.trajectory(...).memory"
        )

    def init(self, x: State, levels: NoiseLevel) -> tuple[Count, StepLevels]:
        return jnp.zeros((), jnp.int32), intervals(jax.tree.map(jnp.asarray, levels))

    def step(
        self,
        denoise: Denoise,
        x: State,
        memory: Count,
        row: StepLevels,
        noise: Noise,
    ) -> Step:
        at, to = row.at, row.to
        first = denoise(x, at)
        lands = lambda: (left_endpoint(x, first.x0, at, to), jnp.zeros((), jnp.int32))
        flow = lambda: self._flow(denoise, x, at, to)
        x, calls = jax.lax.cond(to.sigma > 0, flow, lands)
        return x, memory + 1 + calls, first

    def _flow(
        self, denoise: Denoise, x: State, at: NoiseLevel, to: NoiseLevel
    ) -> tuple[State, Count]:
        dfx, solver = _diffrax(), _solver(self.method)
        norm = lambda y: jnp.sqrt(jnp.square(y).reshape(y.shape[0], -1).mean(1)).max()
        controller = self.controller or dfx.PIDController(self.rtol, self.atol, norm=norm)
        y, r = x / jnp.hypot(at.alpha, at.sigma), jnp.hypot(to.alpha, to.sigma)
        clock = lambda level: -jnp.log(level.alpha / level.sigma + TINY)
        last = NoiseLevel(to.alpha, jnp.where(to.sigma > 0, to.sigma, 1))
        done = dfx.diffeqsolve(
            dfx.ODETerm(functools.partial(_velocity, denoise)),
            solver,
            clock(at),
            clock(last),
            None,
            y,
            stepsize_controller=controller,
            max_steps=self.max_steps,
            throw=False,
        )
        end = jnp.where(done.result == dfx.RESULTS.successful, done.ys[-1], jnp.nan)
        return r * end, _calls(solver, done.stats["num_steps"])


def _velocity(denoise: Denoise, u: Float[Array, ""], y: State, args: None) -> State:
    cot = jnp.exp(-u) - TINY
    sin = jax.lax.rsqrt(1 + cot**2)
    at = NoiseLevel(jnp.maximum(cot, 0) * sin, sin)
    x0 = denoise(y, at).x0
    eps = (y - at.alpha * x0) / at.sigma
    return (at.alpha * eps - at.sigma * x0) * jnp.exp(-u) * sin**2


def _calls(solver: Any, steps: Count) -> Count:
    """Evaluations in `steps` steps; an implicit method's own iterations are not counted."""
    tableau = getattr(solver, "tableau", None)
    stages = getattr(tableau, "num_stages", 1)
    reuses = bool(getattr(tableau, "fsal", False))
    return (steps * (stages - reuses) + reuses).astype(jnp.int32)


def _solver(method: Any) -> Any:
    """The solver itself; None if diffrax has no solver of that name."""
    if not isinstance(method, str):
        return method
    made = getattr(_diffrax(), method, None)
    if not (isinstance(made, type) and hasattr(made, "step")):
        return None
    try:
        return made()
    except TypeError:  # abstract, or of another solver
        return None


def _check_method(method: Any, controller: Any) -> None:
    """Checks that diffrax integrates ordinary differential equations with these.

    Raises:
        ValueError: `method` is not a solver of diffrax for ODEs, or `controller` is not a
            step-size controller.
    """
    dfx, solver = _diffrax(), _solver(method)
    examples = "use for example Tsit5, Dopri5, Dopri8, Bosh3 or Kvaerno5"
    if not isinstance(solver, dfx.AbstractSolver):
        raise ValueError(f"diffrax has no solver {quote(method)}; {examples}")
    if solver.term_structure is not dfx.AbstractTerm:
        raise ValueError(f"diffrax's {quote(method)} does not solve ODEs; {examples}")
    if controller is None and not isinstance(solver, dfx.AbstractAdaptiveSolver):
        raise ValueError(f"method {quote(method)} does not estimate its error; {examples}")
    if not isinstance(controller, dfx.AbstractStepSizeController | None):
        raise ValueError(
            "controller must be a step-size controller of diffrax, such as "
            "diffrax.PIDController(rtol=1e-5, atol=1e-5), or None for that one, got "
            f"{quote(controller)}"
        )


def _diffrax() -> ModuleType:
    try:
        return importlib.import_module("diffrax")
    except ImportError as error:
        raise ImportError(
            "Adaptive needs diffrax, which is not installed: pip install "
            "'jaxdiff[adaptive]', or pip install diffrax"
        ) from error
