"""The sampling flags of every command that draws images from a run.

`model_from_flags` reads them: the run, the experiment with its sampling settings, and the
networks that guide it. `SAMPLING` is made from the fields of `Sampling`, so a new field
becomes a flag of all these commands.
"""

import dataclasses
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from absl import flags
from jaxtyping import PyTree

from jaxdiff.commands import command, field_flags, suggestions
from jaxdiff.config import Experiment, Sampling, edm2_presets, published
from jaxdiff.data import VAELatents, encoder_of
from jaxdiff.runs import generate, restoring, run_folder
from jaxdiff.runs.guided_denoiser import Guides
from jaxdiff.runs.restoring import Restored
from jaxdiff.types import Source

MOST = 10_000_000
"""Maximal number of images that a command draws."""

WORKDIR = flags.DEFINE_string("workdir", None, "The folder that jaxdiff train wrote.")
STD = flags.DEFINE_float(
    "std", None, "Relative width of the EMA, tracked or reconstructed."
)
STEP = flags.DEFINE_integer("checkpoint", None, "Another checkpoint than the newest.", 0)
LABELS = flags.DEFINE_list(
    "labels", [], "Classes in turn, by name or number, or none for images without a "
    "label; all classes by default."
)  # fmt: skip
PRESET = flags.DEFINE_enum(
    "preset", None, [*published.SAMPLING, *edm2_presets.SAMPLING], "A published way to "
    "sample an imported model; of EDM2 with its models, EMA widths, guide and guidance, "
    "imported to WORKDIR/img512-s and the like by jaxdiff import_model."
)  # fmt: skip
GUIDE = flags.DEFINE_string("guide", None, "Another run, to guide away from.")
GUIDE_STD = flags.DEFINE_float("guide_std", None, "Width of the guide's EMA.")
GUIDE_STEP = flags.DEFINE_integer("guide_checkpoint", None, "The guide's checkpoint.", 0)
ESTIMATOR = flags.DEFINE_string(
    "estimator", None, "A run of --config=digits_nag:level and the like, to guide by."
)
CLASSIFIER = flags.DEFINE_string(
    "classifier", None, "A run of --config=digits_classifier and the like, to guide by."
)
SAMPLING = field_flags.define(Sampling, but=("std", "images"))
"""A flag for each field; other flags set the average and the number of images."""


VAE = flags.DEFINE_string(
    "vae", None, "Of a run on latents: the folder of the VAE that decodes them."
)


@dataclass(frozen=True, eq=False)
class Model:
    """A run, the experiment with its sampling settings, and the networks that guide it."""

    run: Restored
    experiment: Experiment
    guide: Restored | None = None
    guidance: float = 0.0
    estimator: Restored | None = None
    noise_guidance: float = 0.0
    classifier: Restored | None = None

    @property
    def variables(self) -> PyTree:
        """The variables of all networks, in the order of `guided_denoiser.guided`."""
        others = [o for o in (self.guide, self.estimator, self.classifier) if o]
        return (self.run.variables, *(o.variables for o in others)) if others else (
            self.run.variables
        )  # fmt: skip

    @property
    def guides(self) -> Guides:
        """The guides for `generate.sampler`."""
        own = lambda other: other and other.experiment
        return Guides(
            *(own(self.guide), self.guidance, own(self.estimator), self.noise_guidance),
            own(self.classifier),
        )

    @property
    def sampler(self) -> generate.Draw:
        """The compiled sampler."""
        return generate.sampler(self.experiment, self.guides)


def model_from_flags() -> Model:
    """The model that the flags describe.

    Raises:
        ValueError: a flag that another flag makes meaningless, or that needs another, or
            several processes that do not see the same folder.
        FileNotFoundError: there is no such run.
    """
    _check_combinations()
    run_folder.require_shared(beside())
    named = lambda flag: None if flag.value is None else _restored(flag)
    others = named(ESTIMATOR), named(CLASSIFIER)
    return model_of(*_models(), *others)


def model_of(
    run: Restored,
    guide: Restored | None,
    estimator: Restored | None,
    classifier: Restored | None,
) -> Model:
    """The model with these networks, which `model_from_flags` restores, and the flags.

    Raises:
        ValueError: a flag that needs another, or does not fit these networks.
    """
    preset = edm2_presets.SAMPLING.get(PRESET.value)
    flagged = field_flags.values(SAMPLING)
    if preset:
        flagged.setdefault("interval", preset.interval)
    if preset and guide:
        flagged["guidance"] = preset.guidance
    for other, name, example in (
        (guide, "guidance", "1.1 for a scale of 2.1"),
        (estimator, "noise_guidance", "1.0"),
        (classifier, "classifier_guidance", "1.0"),
    ):
        if other and not math.isfinite(flagged.get(name, math.nan)):
            flag = {"guidance": GUIDE, "noise_guidance": ESTIMATOR}.get(name, CLASSIFIER)
            raise ValueError(f"--{flag.name} needs --{name}, such as {example}")
    others = {
        "guidance": flagged.pop("guidance") if guide else 0.0,
        "noise_guidance": flagged.pop("noise_guidance") if estimator else 0.0,
    }
    way = run.experiment
    if PRESET.value in published.SAMPLING:
        way = published.sampled_as(way, PRESET.value)
    s = dataclasses.replace(way.sampling, **flagged)
    by_label = guide or s.guidance or "guidance" in flagged
    by_noise = estimator or s.noise_guidance or "noise_guidance" in flagged
    for name, guided, need in (
        ("interval", by_label, "--guidance"),
        ("plus_plus", by_label, "--guidance"),
        ("noise_interval", by_noise, "--noise_guidance"),
        ("classifier_guidance", classifier, "--classifier"),
        ("classifier_interval", classifier, "--classifier"),
        ("classifier_shift", classifier, "--classifier"),
        ("rule", by_label or by_noise or classifier, "--guidance or --noise_guidance"),
    ):
        if SAMPLING[name].flag.value and not guided:
            raise ValueError(f"--{name} changes nothing without {need}: give that too")
    data = way.data if VAE.value is None else _decoded(way.data)
    experiment = dataclasses.replace(way, sampling=s, data=data)
    networks = {"guide": guide, "estimator": estimator, "classifier": classifier}
    return Model(run, experiment, **networks, **others)


def _decoded(data: Source) -> Source:
    """The data with --vae as their decoder.

    Raises:
        ValueError: the data are pixels, or the VAE does not exist.
    """
    encoder = encoder_of(data)
    if not isinstance(encoder, VAELatents):
        raise ValueError("--vae decodes latents, and this run is on pixels: leave it out")
    encoder = dataclasses.replace(encoder, vae=VAE.value)
    if encoder.image_shape(data.shape) is None:
        raise FileNotFoundError(f"--vae: there is no folder {str(VAE.value)!r}")
    return dataclasses.replace(data, encoder=encoder)


def labels(run: Restored) -> list[int]:
    """The labels in --labels, by number or name; all of them by default.

    Raises:
        ValueError: a label that the run does not have; lists those that it has.
    """
    count = run.experiment.network.label_dim
    if not LABELS.value:
        return list(range(max(count, 1)))
    names = classes(run)
    labels = [_label(text.strip(), count, names) for text in LABELS.value]
    if count and -1 in labels and not run.experiment.label_dropout:
        raise ValueError(
            "--labels: this run has label_dropout 0 and has never seen an image without "
            "its label, so it cannot draw one: name classes"
        )
    return labels


NO_LABEL = ("-1", "none")
"""Values of --labels for an image without a label."""
LISTED = 20
"""Maximal number of classes that a message lists."""


def classes(run: Restored) -> tuple[str, ...]:
    """The names of a run's labels; () if they are not known."""
    kept = getattr(run, "classes", ())
    if kept:
        return tuple(kept)
    try:
        names = tuple(run.experiment.data.classes)
    except (OSError, ValueError, ImportError):  # the data are not available here
        return ()
    return names if len(names) == run.experiment.network.label_dim else ()


def _label(text: str, count: int, names: Sequence[str]) -> int:
    """The number of the label that a text names.

    Raises:
        ValueError: there is no such label; lists the existing ones.
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
    near = suggestions.nearest(text, names)[:1]
    meant = suggestions.did_you_mean(map(repr, near))
    raise ValueError(
        f"--labels: {text!r} is not a class of this run{meant}; there are {known}, and "
        "none for images without a label"
    )


def beside() -> Path:
    """The default folder for images: the run's folder, or the one of its snapshot."""
    return command.beside(WORKDIR)


def _models() -> tuple[Restored, Restored | None]:
    """The run to sample, and another run to guide it, if any."""
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
    """A preset's model, imported or reconstructed."""
    try:
        return restoring.restore(folder, model.std, model.step)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{folder} has no average of std {model.std:g} at step {model.step}: import "
            f"{model.file} with jaxdiff import_model to {folder}, or make it with "
            f"jaxdiff reconstruct --workdir={folder} --std={model.std:g}"
        ) from error


def _fitting(run: Restored, guide: Restored) -> Restored:
    """The guide, if it has the run's image shape and the same classes or none."""
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


def _check_combinations() -> None:
    """Rejects flags that another flag makes meaningless, or that need another."""
    preset = edm2_presets.SAMPLING.get(PRESET.value)
    fixed = (STD, STEP, GUIDE, GUIDE_STD, GUIDE_STEP) if preset else ()
    guidance = (SAMPLING["guidance"].flag,) if preset and preset.guide else ()
    for flag in (*fixed, *guidance):
        if flag.value is not None:
            raise ValueError(f"--preset={PRESET.value} sets --{flag.name}: leave that out")
    command.need((GUIDE_STD, GUIDE), (GUIDE_STEP, GUIDE))
