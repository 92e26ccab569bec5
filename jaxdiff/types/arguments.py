"""Checks of arguments: one line for each of the usual mistakes.

The checks read types and shapes, so they cost nothing inside jit; numbers are read only
where they are concrete. `ranges` does the same for the fields of values.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.types import (
    Denoised,
    Grid,
    NoiseLevel,
    Output,
    Parameterization,
    Schedule,
    Solver,
)
from jaxdiff.types.ranges import check, quote

PIXELS = 32.0
"""Images in [-1, 1] stay far below this; images of 0 ... 255 exceed it."""


def require_denoiser(denoise: Any, name: str = "denoise") -> None:
    """Checks for a denoiser.

    Raises:
        ValueError: a network, a run, a class or another value; the message has the fix.
    """
    if isinstance(denoise, type):
        check(name, denoise, Solver)
    if hasattr(denoise, "apply"):
        raise ValueError(
            f"{name} is the network {type(denoise).__name__}, not a denoiser: give "
            "jd.denoiser(network.apply, variables, parameterization)"
        )
    if hasattr(denoise, "denoise") and hasattr(denoise, "experiment"):
        raise ValueError(f"{name} is a run, not a denoiser: give run.denoise")
    if not callable(denoise):
        raise ValueError(
            f"{name} must be a denoiser, (x, level, condition) -> Denoised, got "
            f"{quote(denoise)}"
        )


def require_network(apply: Any, parameterization: Any) -> None:
    """Checks the arguments of `denoiser`.

    Raises:
        ValueError: `apply` is a module or not callable, or `parameterization` is not one.
    """
    if hasattr(apply, "apply"):
        raise ValueError(
            f"apply is the module {type(apply).__name__} itself: give its function, "
            "jd.denoiser(network.apply, variables, parameterization)"
        )
    if not callable(apply):
        raise ValueError(
            "apply must be a function (params, x, c_noise, condition) -> jd.Output, got "
            f"{quote(apply)}"
        )
    check("parameterization", parameterization, Parameterization)


def require_output(out: Any, x: Any) -> None:
    """Checks that a network returned an `Output` of the shape of its input.

    Raises:
        ValueError: another type or shape; the message has what to return.
    """
    if not isinstance(out, Output):
        raise ValueError(
            f"the network returned {_kind(out)}, not a jd.Output: end it with "
            "`return jd.Output(raw)`"
        )
    if jnp.shape(out.raw) != jnp.shape(x):
        raise ValueError(
            f"the network returned raw of shape {jnp.shape(out.raw)} for x of shape "
            f"{jnp.shape(x)}: both must be the same, [B, H, W, C] for images"
        )


def require_denoised(out: Any, x: Any) -> Denoised:
    """The `Denoised` that a denoiser returned, of the shape of x.

    Raises:
        ValueError: another type or shape; the message has what to return.
    """
    if not isinstance(out, Denoised):
        network = isinstance(out, Output)
        advice = "wrap the network in jd.denoiser" if network else "return jd.Denoised(x0)"
        raise ValueError(f"denoise returned {_kind(out)}, not a jd.Denoised: {advice}")
    if jnp.shape(out.x0) != jnp.shape(x):
        raise ValueError(
            f"denoise returned x0 of shape {jnp.shape(out.x0)} for x of shape "
            f"{jnp.shape(x)}: both must be the same"
        )
    return out


def require_keys(keys: Any, batch: int | None = None) -> None:
    """Checks for one typed key per image, or None.

    Raises:
        ValueError: another value; the message has how to make keys.
    """
    if keys is None:
        return
    dtype = getattr(keys, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jax.dtypes.prng_key):
        raise ValueError(
            f"keys is {_kind(keys)}; give typed keys, one per image: "
            f"jax.random.split(jax.random.key(0), {batch or 'B'})"
        )
    if keys.ndim != 1 or batch not in (None, keys.shape[0]):
        of = "" if batch is None else f" for {batch} images"
        raise ValueError(
            f"keys has shape {keys.shape}{of}; give one key per image: "
            f"jax.random.split(key, {batch or 'B'})"
        )


def require_image_shape(shape: Any, batch: int) -> None:
    """Checks for the shape of one image.

    Raises:
        ValueError: not a shape, or the shape of a batch.
    """
    whole = lambda n: isinstance(n, int | np.integer) and not isinstance(n, bool) and n > 0
    if not isinstance(shape, tuple | list) or not all(whole(n) for n in shape):
        raise ValueError(
            f"shape must be that of one image, such as (32, 32, 3), got {quote(shape)}"
        )
    if len(shape) > 3 and shape[0] == batch:
        raise ValueError(
            f"shape is that of one image, and the number of images that of keys: give "
            f"{tuple(shape[1:])} instead of {tuple(shape)}"
        )


def require_levels(levels: Any) -> None:
    """Checks for the levels of a grid, alpha and sigma [N + 1].

    Raises:
        ValueError: the grid itself, another value or other shapes.
    """
    if isinstance(levels, Grid) and not isinstance(levels, NoiseLevel):
        raise ValueError(
            f"levels is the grid {quote(levels)} itself: call it, levels = "
            "grid(schedule, steps), for example jd.grids.Karras()(None, 32)"
        )
    if not isinstance(levels, NoiseLevel):
        raise ValueError(
            f"levels is {_kind(levels)}; give jd.NoiseLevel(alpha, sigma), with alpha = 1 "
            "everywhere for a list of sigmas, or call a grid, jd.grids.Karras()(None, 32)"
        )
    alpha, sigma = jnp.shape(levels.alpha), jnp.shape(levels.sigma)
    if alpha != sigma or len(sigma) != 1 or sigma[0] < 1:
        raise ValueError(
            f"levels has alpha of shape {alpha} and sigma of shape {sigma}; both must be "
            "[N + 1] for N steps"
        )


def require_solver(solver: Any) -> None:
    """Checks for a solver.

    Raises:
        ValueError: a class, a name or another value.
    """
    check("solver", solver, Solver)


def require_schedule(schedule: Any) -> None:
    """Checks for a schedule.

    Raises:
        ValueError: a class, a name or another value.
    """
    check("schedule", schedule, Schedule)


def require_data(x0: Any, name: str = "x0") -> None:
    """Checks that x0 is floating point and, where its values are concrete, not 0 ... 255.

    Raises:
        ValueError: integers or large values; the message has how to convert.
    """
    convert = f"{name} / 127.5 - 1"
    if not jnp.issubdtype(jnp.asarray(x0).dtype, jnp.floating):
        raise ValueError(
            f"{name} has dtype {jnp.asarray(x0).dtype}, but networks take floats: convert "
            f"pixels of 0 ... 255 by {convert}"
        )
    if isinstance(x0, jax.core.Tracer) or jnp.ndim(x0) != 4:
        return
    known = np.asarray(x0)  # not jax.numpy, which would trace it inside of jit
    if (low := float(known.min())) >= 0 and (high := float(known.max())) > PIXELS:
        raise ValueError(
            f"{name} runs from {low:g} to {high:g}, like pixels of 0 ... 255, but data lie "
            f"in [-1, 1]: convert by {convert}"
        )


def require_pairs(weaker: tuple[Any, ...]) -> None:
    """Checks for pairs (denoiser, weight).

    Raises:
        ValueError: another value; the message has what to write.
    """
    for pair in weaker:
        if not (isinstance(pair, tuple | list) and len(pair) == 2):
            raise ValueError(
                f"guide takes pairs (weaker denoiser, weight), got {_kind(pair)}: write "
                "guide(denoise, (weak, w))"
            )
        require_denoiser(pair[0], "a pair's denoiser")
        if isinstance(pair[1], type) or not (callable(pair[1]) or _numeric(pair[1])):
            raise ValueError(
                f"a pair's weight must be a number or a function of the level, got "
                f"{quote(pair[1])}"
            )


def _numeric(value: Any) -> bool:
    dtype = getattr(value, "dtype", None)
    return isinstance(value, int | float) or (dtype is not None and dtype.kind in "fiuV")


def _kind(value: Any) -> str:
    """What a value is, in a few words."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"an array of shape {tuple(value.shape)} and {value.dtype}"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return f"a {type(value).__name__}"
