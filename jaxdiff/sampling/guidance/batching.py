"""Evaluates several denoisers at one point, with one call per distinct network."""

from dataclasses import fields

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdiff.sampling.guidance.less_likely import LessLikely
from jaxdiff.sampling.guidance.without import DEFAULTS, Without
from jaxdiff.sampling.signature import State
from jaxdiff.types import Condition, Denoised, Denoiser, NoiseLevel, Real


def evaluate(
    denoisers: tuple[Denoiser | LessLikely, ...],
    x: State,
    at: NoiseLevel,
    cond: Condition,
) -> list[Denoised]:
    """All denoisers at one point; those that differ only in their condition share a batch.

    A `LessLikely` is computed from the first denoiser's result.
    """
    called = [d for d in denoisers if not isinstance(d, LessLikely)]
    with jax.ensure_compile_time_eval():  # concrete labels stay concrete, to be checked
        roots, conds = zip(*(_root(d, cond, x.shape[0]) for d in called), strict=True)
    results: list[Denoised | None] = [None] * len(called)
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
    first, rest = results[0], iter(results)
    made = lambda d: d(first, x, at, cond) if isinstance(d, LessLikely) else next(rest)
    return [made(d) for d in denoisers]


def _root(denoise: Denoiser, cond: Condition, batch: int) -> tuple[Denoiser, Condition]:
    """The network below any number of `without`, and the condition it sees."""
    while isinstance(denoise, Without):
        denoise, cond = denoise.denoise, denoise.blind(cond, batch)
    return denoise, cond


def _interleave(arrays: list[Array]) -> Array:
    """Merges batches image by image, so an image's copies stay on its device."""
    stacked = jnp.stack(arrays, axis=1)
    return stacked.reshape(-1, *stacked.shape[2:])


def _repeat(a: Real, x: State, times: int) -> Float[Array, "..."]:
    """A level for the stacked batch: scalars broadcast, [B, 1, ...] repeats."""
    a = jnp.asarray(a)
    per_image = a.ndim == x.ndim and a.shape[0] == x.shape[0] and a.shape[0] > 1
    return _interleave([a] * times) if per_image else a


def _stack(conds: list[Condition], batch: int) -> Condition:
    """Conditions as one batch; a field that only some have is filled in for the others."""
    stacked = {}
    for f in fields(Condition):
        values = [getattr(c, f.name) for c in conds]
        template = next((v for v in values if v is not None), None)
        if template is None:
            continue
        with jax.ensure_compile_time_eval():
            default = DEFAULTS[f.name](template, batch)
            stacked[f.name] = _interleave([default if v is None else v for v in values])
    return Condition(**stacked)
