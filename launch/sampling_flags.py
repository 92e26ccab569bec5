"""The flags that say how images are drawn from a run, for every command that draws.

`asked()` reads them: the run, the experiment that says how to sample it, and the networks
that guide it.
"""

import dataclasses
import difflib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import command
from absl import flags
from jaxtyping import PyTree

from jaxdiff.config import Experiment, edm2_presets, expressions, published
from jaxdiff.runs import generate, restoring
from jaxdiff.runs.restoring import Restored
from jaxdiff.sampling import grids, solvers
from jaxdiff.sampling.guidance import Rule
from jaxdiff.types import Grid, Solver

MOST = 10_000_000
"""Images that a command draws."""

WORKDIR = flags.DEFINE_string("workdir", None, "The folder that launch/train.py wrote.")
STD = flags.DEFINE_float(
    "std", None, "Relative width of the EMA, tracked or reconstructed."
)
STEP = flags.DEFINE_integer("checkpoint", None, "Another checkpoint than the newest.", 0)
LABELS = flags.DEFINE_list(
    "labels", [], "Classes in turn, by name or number, or none for images without a "
    "label; all classes by default."
)  # fmt: skip
STEPS = flags.DEFINE_integer("steps", None, "Solver steps.", 1, 10_000)
SOLVER = flags.DEFINE_string(
    "solver", None, f"One of {', '.join(solvers.__all__)}, with fields or without."
)
GRID = flags.DEFINE_string(
    "grid", None, f"One of {', '.join(grids.__all__)}, with fields or without."
)
GUIDANCE = flags.DEFINE_float(
    "guidance", None, "w of D + w (D - guide's D), or D without label."
)
PRESET = flags.DEFINE_enum(
    "preset", None, [*published.SAMPLING, *edm2_presets.SAMPLING], "A published way to "
    "sample an imported model; of EDM2 with its models, EMA widths, guide and guidance, "
    "imported to WORKDIR/img512-s and the like by launch/import_model.py."
)  # fmt: skip
GUIDE = flags.DEFINE_string("guide", None, "Another run, to guide away from.")
GUIDE_STD = flags.DEFINE_float("guide_std", None, "Width of the guide's EMA.")
GUIDE_STEP = flags.DEFINE_integer("guide_checkpoint", None, "The guide's checkpoint.", 0)
INTERVAL = flags.DEFINE_list(
    "interval", None, "LOW,HIGH: guide the steps that start at sigma / alpha in between."
)
NOISE_GUIDANCE = flags.DEFINE_float(
    "noise_guidance", None, "w of D + w (D - D without noise level): noise awareness."
)
NOISE_INTERVAL = flags.DEFINE_list("noise_interval", None, "LOW,HIGH: likewise.")
ESTIMATOR = flags.DEFINE_string(
    "estimator", None, "A run of configs/digits_nag.py:level and the like, to guide by."
)
RULE = flags.DEFINE_string("rule", None, "How guidance is added: Projected(limit=2.5), ….")
PLUS_PLUS = flags.DEFINE_bool("plus_plus", None, "--guidance is CFG++'s scale, 0 to 1.")
THRESHOLD = flags.DEFINE_float("threshold", None, "Dynamic thresholding's quantile.")
CLIP = flags.DEFINE_bool("clip", None, "Hold each x0 to [-1, 1], where the data are.")


@dataclass(frozen=True, eq=False)
class Model:
    """A run, the experiment that says how to sample it, and what guides it."""

    run: Restored
    experiment: Experiment
    guide: Restored | None = None
    estimator: Restored | None = None

    @property
    def variables(self) -> PyTree:
        """Of all networks, as `guided_denoiser.guided` reads them."""
        others = [other for other in (self.guide, self.estimator) if other]
        return (self.run.variables, *(o.variables for o in others)) if others else (
            self.run.variables
        )  # fmt: skip

    @property
    def guides(self) -> dict[str, Experiment | None]:
        """What `generate.sampler` takes beside the experiment."""
        others = {"guide": self.guide, "estimator": self.estimator}
        return {name: run and run.experiment for name, run in others.items()}

    @property
    def sampler(self) -> generate.Draw:
        """The compiled sampler."""
        return generate.sampler(self.experiment, **self.guides)


def asked() -> Model:
    """The model that the flags ask for.

    Raises:
        ValueError: a flag that another makes meaningless, or that needs another.
        FileNotFoundError: there is no such run.
    """
    _refuse_unread()
    return described(*_models(), None if ESTIMATOR.value is None else _restored(ESTIMATOR))


def described(run: Restored, guide: Restored | None, estimator: Restored | None) -> Model:
    """The model that the flags make of these networks, which `asked` restores.

    Raises:
        ValueError: a flag that needs another, or that these networks do not fit.
    """
    preset = edm2_presets.SAMPLING.get(PRESET.value)
    guidance = preset.guidance if preset and guide else GUIDANCE.value
    if guide and guidance is None:
        raise ValueError("--guide needs --guidance, such as 1.1 for a scale of 2.1")
    if estimator and NOISE_GUIDANCE.value is None:
        raise ValueError("--estimator needs --noise_guidance, such as 1.0")
    chosen = {
        "steps": STEPS.value,
        "solver": _read(SOLVER, Solver),
        "grid": _read(GRID, Grid),
        "guidance": guidance,
        "interval": command.interval(INTERVAL) or (preset and preset.interval),
        "noise_guidance": NOISE_GUIDANCE.value,
        "noise_interval": command.interval(NOISE_INTERVAL),
        "rule": _read(RULE, Rule),
        "plus_plus": PLUS_PLUS.value,
        "threshold": THRESHOLD.value,
        "clip": CLIP.value,
    }
    given = {name: value for name, value in chosen.items() if value is not None}
    way = run.experiment
    if PRESET.value in published.SAMPLING:
        way = published.sampled_as(way, PRESET.value)
    sampling = dataclasses.replace(way.sampling, **given)
    labelled = guide or sampling.guidance or GUIDANCE.value is not None
    noisy = estimator or sampling.noise_guidance or NOISE_GUIDANCE.value is not None
    for flag, guided, need in (
        (INTERVAL, labelled, "--guidance"),
        (PLUS_PLUS, labelled, "--guidance"),
        (NOISE_INTERVAL, noisy, "--noise_guidance"),
        (RULE, labelled or noisy, "--guidance or --noise_guidance"),
    ):
        if flag.value and not guided:
            raise ValueError(f"--{flag.name} changes nothing without {need}: give that too")
    experiment = dataclasses.replace(run.experiment, sampling=sampling)
    return Model(run, experiment, guide, estimator)


def labels(run: Restored) -> list[int]:
    """The labels that --labels names, by number or name; all of them by default.

    Raises:
        ValueError: one that the run does not have; lists those that it has.
    """
    count = run.experiment.network.label_dim
    if not LABELS.value:
        return list(range(max(count, 1)))
    names = classes(run)
    found = [_label(text.strip(), count, names) for text in LABELS.value]
    if count and -1 in found and not run.experiment.label_dropout:
        raise ValueError(
            "--labels: this run has label_dropout 0 and has never seen an image without "
            "its label, so it cannot draw one: name classes"
        )
    return found


NO_LABEL = ("-1", "none")
"""What --labels calls an image without a label."""
LISTED = 20
"""Classes that a message lists, at most."""


def classes(run: Restored) -> tuple[str, ...]:
    """The names of a run's labels; () where they are not known."""
    kept = getattr(run, "classes", ())
    if kept:
        return tuple(kept)
    try:
        names = tuple(run.experiment.data.classes)
    except (OSError, ValueError, ImportError):  # the data are elsewhere
        return ()
    return names if len(names) == run.experiment.network.label_dim else ()


def _label(text: str, count: int, names: Sequence[str]) -> int:
    """The number of the label that a text names.

    Raises:
        ValueError: there is none; lists those that there are.
    """
    if command.whole(text) and int(text) < count:
        if text in names and names.index(text) != int(text):
            warnings.warn(
                f"--labels={text} is label {text}, {names[int(text)]!r}; the class with "
                f"that name is label {names.index(text)}",
                stacklevel=2,
            )
        return int(text)
    if text in names:
        return names.index(text)
    if text.lower() in NO_LABEL:
        return -1
    alike = [k for k, name in enumerate(names) if name.lower() == text.lower()]
    if len(alike) == 1:
        return alike[0]
    if not count:
        raise ValueError(f"--labels={text}: this run has no classes: leave out --labels")
    listed = [f"{k} {name!r}" for k, name in enumerate(names[:LISTED])]
    more = f", ... {count - 1} {names[-1]!r}" if len(names) > LISTED else ""
    known = ", ".join(listed) + more if names else f"0 to {count - 1}"
    near = difflib.get_close_matches(text, names, 1)
    meant = f" (did you mean {near[0]!r}?)" if near else ""
    raise ValueError(
        f"--labels: {text!r} is no class of this run{meant}; there are {known}, and none "
        "for images without a label"
    )


def beside() -> Path:
    """Where images go by default: into the run's folder, or beside its snapshot."""
    return command.beside(WORKDIR)


def _read(flag: flags.FlagHolder, kind: type) -> Any:
    """The value that a flag writes as Python prints it; None where it is not given."""
    return None if flag.value is None else expressions.read(flag.value, kind)


def _models() -> tuple[Restored, Restored | None]:
    """What to sample, and another run to guide it, if any."""
    folder = command.folder(WORKDIR)
    if PRESET.value in edm2_presets.SAMPLING:
        preset = edm2_presets.SAMPLING[PRESET.value]
        main, guide = (
            model and _published(folder / model.network, model)
            for model in (preset.main, preset.guide)
        )
        return main, guide and _fitting(main, guide)
    run = restoring.restore(folder, STD.value, STEP.value)
    if GUIDE.value is None:
        return run, None
    guide = _restored(GUIDE, GUIDE_STD.value, GUIDE_STEP.value)
    return run, _fitting(run, guide)


def _restored(flag: flags.FlagHolder, *which: Any) -> Restored:
    """The other run that a flag names."""
    return restoring.restore(command.folder(flag), *which)


def _published(folder: Path, model: edm2_presets.Model) -> Restored:
    """A preset's model, as it was imported or reconstructed."""
    try:
        return restoring.restore(folder, model.std, model.step)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{folder} has no average of std {model.std:g} at step {model.step}: import "
            f"{model.file} with launch/import_model.py to {folder}, or make it with "
            f"launch/reconstruct.py --workdir={folder} --std={model.std:g}"
        ) from error


def _fitting(run: Restored, guide: Restored) -> Restored:
    """The guide, if it denoises the same images with the same classes or none."""
    if guide.shape != run.shape:
        raise ValueError(
            f"the guide's images are {guide.shape}, the run's {run.shape}: guide by a run "
            "on the same data"
        )
    its, ours = (r.experiment.network.label_dim for r in (guide, run))
    if its not in (0, ours):
        raise ValueError(
            f"the guide knows {its} classes, the run {ours}: guide by a run with as many, "
            "or with none"
        )
    return guide


def _refuse_unread() -> None:
    """Flags that another flag makes meaningless, or that need another."""
    preset = edm2_presets.SAMPLING.get(PRESET.value)
    fixed = (STD, STEP, GUIDE, GUIDE_STD, GUIDE_STEP) if preset else ()
    for flag in (*fixed, *((GUIDANCE,) if preset and preset.guide else ())):
        if flag.value is not None:
            raise ValueError(f"--preset={PRESET.value} says it: leave out --{flag.name}")
    command.need((GUIDE_STD, GUIDE), (GUIDE_STEP, GUIDE))
