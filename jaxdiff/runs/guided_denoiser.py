"""The denoiser that an experiment samples with: its network, guided as `Sampling` says."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from jaxdiff.config import Experiment, Sampling
from jaxdiff.denoisers import Clipped
from jaxdiff.runs.state import run_denoiser
from jaxdiff.sampling.guidance import Interval, PlusPlus, noise_aware, thresholded, without
from jaxdiff.sampling.guidance import guide as differences
from jaxdiff.types import Denoiser, NoiseLevel

Weights = Mapping[str, Array | float]
"""The weights w, `guidance` and `noise_guidance`, as `Sampling` has them."""


@dataclass(frozen=True)
class Guides:
    """Other networks that guide, and by how much.

    The weights are not in `Sampling`, which has those of guidance by the network itself:
    an experiment refuses them where its own network was not trained for that.

    Raises:
        ValueError: a weight that is not finite.
    """

    guide: Experiment | None = None
    guidance: float = 0.0
    """w of the guide, in place of `sampling.guidance`."""
    estimator: Experiment | None = None
    noise_guidance: float = 0.0
    """w of the estimator, in place of `sampling.noise_guidance`."""

    def __post_init__(self) -> None:
        for name in ("guidance", "noise_guidance"):
            if not math.isfinite(weight := getattr(self, name)):
                raise ValueError(f"{name} must be finite, got {weight}")

    def weights(self, sampling: Sampling) -> Weights:
        """What the weights are, by the names of the fields of `Sampling`."""
        return {
            "guidance": (self if self.guide else sampling).guidance,
            "noise_guidance": (self if self.estimator else sampling).noise_guidance,
        }


def guided(
    experiment: Experiment,
    guide: Experiment | None = None,
    estimator: Experiment | None = None,
) -> Callable[[PyTree, Weights], Denoiser]:
    """What makes the denoiser that `experiment.sampling` describes: (variables, weights).

    The weights, by the names of their fields, are those of this call. With `guide`, another
    network's experiment, `guidance` is away from it: autoguidance [AG], or [CFG] by an
    unconditional network of its own. With `estimator`, of the noise level,
    `noise_guidance` is by it [NAG].
    Variables are the network's, or a tuple of the network's, guide's and estimator's.

    Raises:
        ValueError: the network, or the guide, estimates noise levels, the estimator does
            not or knows another path than the one that is sampled, or sizes differ.
    """
    s, others = experiment.sampling, [e for e in (guide, estimator) if e]
    _require_fit(experiment, guide, estimator)

    def make(variables: PyTree, weights: Weights) -> Denoiser:
        network, *rest = variables if others else (variables,)
        denoise, weaker = run_denoiser(experiment, network), []
        w = weights["guidance"]
        w = PlusPlus(w) if s.plus_plus else w
        if guide:
            weaker += [(run_denoiser(guide, rest.pop(0)), within(s.interval, w))]
        elif s.guidance or s.plus_plus:
            weaker += [(without(denoise, "label"), within(s.interval, w))]
        aware = within(s.noise_interval, weights["noise_guidance"])
        if s.noise_guidance and not estimator:
            weaker += [(without(denoise, "noise"), aware)]
        if weaker:
            denoise = dataclasses.replace(differences(denoise, *weaker), rule=s.rule)
        if estimator:
            level = run_denoiser(estimator, rest.pop())
            says = lambda x: tuple(jnp.moveaxis(level(x, UNREAD).level, -1, 0))
            denoise = noise_aware(denoise, says, aware)
        denoise = thresholded(denoise, s.threshold) if s.threshold else denoise
        return Clipped(denoise) if s.clip else denoise

    return make


def _require_fit(
    experiment: Experiment, guide: Experiment | None, estimator: Experiment | None
) -> None:
    """Refuses guidance that has no meaning for this experiment; see `guided`."""
    for e in (experiment, *([guide] if guide else [])):
        if e.network.estimates_level:
            raise ValueError(
                "this run estimates noise levels and draws no images: use the run that it "
                f"started from, {e.init_from or 'a denoiser'}"
            )
    for e in (e for e in (guide, estimator) if e):
        if e.data.shape != experiment.data.shape:
            raise ValueError(
                f"images of {experiment.data.shape} cannot be guided by a network of "
                f"{e.data.shape}: both must be of one size"
            )
    ours = experiment.network.label_dim
    if guide and guide.network.label_dim not in (0, ours):
        raise ValueError(
            f"the guide knows {guide.network.label_dim} classes, the run {ours}: guide by "
            "a run with as many, or with none"
        )
    s = experiment.sampling
    if s.plus_plus and not (guide or experiment.label_dropout):
        raise ValueError(
            "sampling.plus_plus takes each step's noise from the network without labels, "
            "which needs one trained with and without them, but this run has label_dropout "
            "0: use another run's guide, or plus_plus = False"
        )
    if estimator and not estimator.network.estimates_level:
        raise ValueError(
            "the estimator is a denoiser: train one with configs/digits_nag.py:level"
        )
    if estimator:
        _require_path(experiment, estimator)


def _require_path(experiment: Experiment, estimator: Experiment) -> None:
    """Refuses guided levels that are not on the path where the estimator saw its states.

    A path and a logSNR give one level; off the path it is k times that, and so is x.

    Raises:
        ValueError: k is not 1 somewhere; says which grid goes with which path.
    """
    s, path = experiment.sampling, estimator.schedule
    levels = s.grid(experiment.schedule, s.steps)[:-1]
    asked = np.asarray(
        Interval(1.0, *s.noise_interval).contains(levels) & (levels.alpha > 0)
    )
    there = path(path.time(levels.logsnr))
    size = lambda at: np.hypot(np.asarray(at.alpha), np.asarray(at.sigma))[asked]
    if not np.allclose(size(there), size(levels), rtol=1e-3):
        raise ValueError(
            f"the estimator was trained on {path}, and sampling.grid = {s.grid} on "
            f"{experiment.schedule} leads past states it never saw: sample with a grid on "
            "the estimator's path, or train an estimator on this one"
        )


UNREAD = NoiseLevel(1.0, 1.0)
"""A level for estimators, which read none."""


def within(interval: tuple[float, float], w: Any) -> Any:
    """The weight on the steps that start within an interval; w itself on all."""
    return w if interval == (0.0, math.inf) else Interval(w, *interval)
