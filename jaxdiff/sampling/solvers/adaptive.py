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
from jaxtyping import Array, Float, Int, PyTree

from jaxdiff.sampling.solvers.euler_heun_ddim import (
    Denoise,
    Interval,
    Noise,
    intervals,
    left_endpoint,
)
from jaxdiff.types import Denoised, NoiseLevel
from jaxdiff.types.ranges import Tolerance, Whole, checked, shown

TINY = 1e-4
"""Where the clock bends: at sigma / alpha = 1 / TINY."""


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
            f"{self} asks as often as the data make it: its memory has the number, "
            "sampling.trajectory(...).memory"
        )

    def init(
        self, x: Float[Array, "B ..."], levels: NoiseLevel
    ) -> tuple[Int[Array, ""], Interval]:
        return jnp.zeros((), jnp.int32), intervals(jax.tree.map(jnp.asarray, levels))

    def step(
        self,
        denoise: Denoise,
        x: Float[Array, "B ..."],
        memory: Int[Array, ""],
        row: Interval,
        noise: Noise,
    ) -> tuple[Float[Array, "B ..."], PyTree, Denoised]:
        at, to = row.at, row.to
        first = denoise(x, at)
        lands = lambda: (left_endpoint(x, first.x0, at, to), jnp.zeros((), jnp.int32))
        flow = lambda: self._flow(denoise, x, at, to)
        x, calls = jax.lax.cond(to.sigma > 0, flow, lands)
        return x, memory + 1 + calls, first

    def _flow(
        self, denoise: Denoise, x: Float[Array, "B ..."], at: NoiseLevel, to: NoiseLevel
    ) -> tuple[Float[Array, "B ..."], Int[Array, ""]]:
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


def _velocity(
    denoise: Denoise, u: Float[Array, ""], y: Float[Array, "B ..."], args: None
) -> Float[Array, "B ..."]:
    cot = jnp.exp(-u) - TINY
    sin = jax.lax.rsqrt(1 + cot**2)
    at = NoiseLevel(jnp.maximum(cot, 0) * sin, sin)
    x0 = denoise(y, at).x0
    eps = (y - at.alpha * x0) / at.sigma
    return (at.alpha * eps - at.sigma * x0) * jnp.exp(-u) * sin**2


def _calls(solver: Any, steps: Int[Array, ""]) -> Int[Array, ""]:
    """Evaluations in so many steps; of an implicit method those before it iterates."""
    tableau = getattr(solver, "tableau", None)
    stages = getattr(tableau, "num_stages", 1)
    reuses = bool(getattr(tableau, "fsal", False))
    return (steps * (stages - reuses) + reuses).astype(jnp.int32)


def _solver(method: Any) -> Any:
    """The solver itself, None if there is none of the name."""
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
    """Refuses what diffrax could not integrate an ordinary equation with.

    Raises:
        ValueError: no solver, one of other equations, or a controller that is none.
    """
    dfx, solver = _diffrax(), _solver(method)
    own = "Tsit5, Dopri5, Dopri8, Bosh3 and Kvaerno5 are among its own"
    if not isinstance(solver, dfx.AbstractSolver):
        raise ValueError(f"diffrax has no solver {shown(method)}; {own}")
    if solver.term_structure is not dfx.AbstractTerm:
        raise ValueError(f"method {shown(method)} of diffrax is none of an ODE; {own}")
    if controller is None and not isinstance(solver, dfx.AbstractAdaptiveSolver):
        raise ValueError(f"method {shown(method)} does not estimate its error; {own}")
    if not isinstance(controller, dfx.AbstractStepSizeController | None):
        raise ValueError(
            "controller must be one of diffrax, such as diffrax.PIDController(rtol=1e-5, "
            f"atol=1e-5), or None for it, got {shown(controller)}"
        )


def _diffrax() -> ModuleType:
    try:
        return importlib.import_module("diffrax")
    except ImportError as error:
        raise ImportError(
            "Adaptive needs diffrax, which is not installed: pip install "
            "'jaxdiff[adaptive]', or pip install diffrax"
        ) from error
