"""Noise shift of a run's sampler, without and with guidance [NAG].

    jaxdiff noise_shift --workdir=runs/nag --estimator=runs/level
    jaxdiff noise_shift --workdir=runs/nag --estimator=runs/level \\
        --solver=EulerMaruyama --steps=25 --noise_guidance=1 --noise_interval=0,5

The estimator predicts ln(sigma / alpha) of the sampler's states and of forward states of
data, with the same classes; the shift is the difference of the means. Prints it level by
level and whether guidance can lower it, and plots the estimates at six levels and the shift
over all. Writes OUT.png, and OUT.json with all numbers. To train an estimator see
--config=digits_nag:level.

The verdict is about states. No rule is known that tells from the shift whether images gain
by the guidance (docs/results/nag.md), so the command ends with the sweep that measures it.
"""

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import flags
from jaxtyping import Float

from jaxdiff.analysis import plots
from jaxdiff.commands import command, field_flags
from jaxdiff.config import Experiment, Sampling
from jaxdiff.data import split_of
from jaxdiff.evaluation import noise_shift
from jaxdiff.evaluation.noise_shift import of_run
from jaxdiff.runs import generate, restoring
from jaxdiff.runtime import sharding
from jaxdiff.runtime.files import write_atomically
from jaxdiff.types import NoiseLevel

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WORKDIR = flags.DEFINE_string("workdir", None, "The folder of the run to sample from.")
ESTIMATOR = flags.DEFINE_string("estimator", None, "The folder of a run of the estimator.")
NOISE_GUIDANCE = flags.DEFINE_float(
    "noise_guidance", 0.0, "w of D + w (D - D without noise level); 0 = only without it."
)
NOISE_INTERVAL = flags.DEFINE_list(
    "noise_interval", ["0", "5"], "LOW,HIGH: sigma / alpha where that is on."
)
SAMPLING = field_flags.define(Sampling, only=("solver", "guidance"))
STEPS = flags.DEFINE_integer("steps", None, "Solver steps.", 3, 10_000)
NUMBER = flags.DEFINE_integer("number", 512, "How many states.", 2, 2**20)
SPLIT = flags.DEFINE_string("split", None, "Split of the data; test if there is one.")
SEED = flags.DEFINE_integer(
    "seed", 0, "Seed of the first image, and of the noise.", 0, 2**32 - 1
)
STD = flags.DEFINE_float("std", None, "Relative width of the EMA.")
BATCH = flags.DEFINE_integer("batch", 256, "Images at a time.", lower_bound=1)
OUT = flags.DEFINE_string("out", None, "OUT.json and OUT.png; default WORKDIR/noise_shift.")
flags.mark_flags_as_required(["workdir"])
flags.declare_key_flag("cpu_devices")

EstimatesByKind = dict[str, Float[np.ndarray, "N n"]]
"""Estimates at N levels for each kind of states, forward ones first."""
FORWARD, SAMPLED = "forward", "sampled"


def main() -> None:
    """Restores, samples, prints, writes."""
    if not ESTIMATOR.value:
        raise ValueError(
            "--estimator is missing: name a run that estimates the level; train one with: "
            "jaxdiff train --config=digits_nag:level "
            f"--config.init_from={WORKDIR.value} --workdir=runs/level"
        )
    run = restoring.restore(command.folder(WORKDIR), STD.value)
    estimator = restoring.restore(ESTIMATOR.value)
    experiment = chosen(run.experiment)
    of_run.check(experiment, estimator.experiment, aware=bool(NOISE_GUIDANCE.value))
    levels = of_run.inner_levels(experiment)
    out = command.output(OUT, command.beside(WORKDIR) / "noise_shift", "json", "png")
    levels_of = estimates(run, estimator, experiment, levels)
    shifts = {k: v for k, v in shifts_of(levels_of).items() if k != FORWARD}
    text = json.dumps(as_numbers(experiment, levels, shifts), indent=2).encode()
    write_atomically(out["json"], lambda file: file.write(text))
    figure = draw(levels, levels_of, shifts)
    write_atomically(out["png"], lambda file: figure.savefig(file, format="png"))
    for kind, shift in shifts.items():
        print(f"\n{kind}\n{table(levels, shift)}\n{kind}: {shift.verdict(levels)}")
    if experiment.noise_dropout:
        print(f"\n{advice(experiment.sampling)}")
    print(f"\n{NUMBER.value} states of step {run.step}: {out['json']} and {out['png']}")


def chosen(experiment: Experiment) -> Experiment:
    """The run's experiment with the sampling settings of the flags."""
    flagged = field_flags.values(SAMPLING)
    if STEPS.value is not None:
        flagged["steps"] = STEPS.value
    sampling = dataclasses.replace(experiment.sampling, **flagged)
    return dataclasses.replace(experiment, sampling=sampling)


def estimates(
    run: restoring.Restored,
    estimator: restoring.Restored,
    experiment: Experiment,
    levels: NoiseLevel,
) -> EstimatesByKind:
    """Estimates for forward states of data, then sampled ones, unguided and guided."""
    mesh, batch = sharding.data_mesh(), BATCH.value
    seeds = SEED.value + np.arange(NUMBER.value)
    generate.require_seeds(seeds)
    variables = run.variables, estimator.variables
    data = split_of(experiment.data, SPLIT.value).load()
    inputs = estimator.experiment, estimator.variables, data, NUMBER.value, levels, mesh
    ahead, label = of_run.forward(*inputs, SEED.value, batch, progress=True)
    estimated, ways = {FORWARD: ahead}, {SAMPLED: 0.0}
    if w := NOISE_GUIDANCE.value:
        ways[f"{SAMPLED} with NAG, w = {w:g}"] = w
    within = command.interval(NOISE_INTERVAL)
    for kind, guidance in ways.items():
        aware = {"noise_guidance": guidance, "noise_interval": within}
        sampling = dataclasses.replace(experiment.sampling, **aware)
        guided = dataclasses.replace(experiment, sampling=sampling)
        watch = of_run.watcher(guided, estimator.experiment)
        inputs = watch, variables, seeds, label, mesh, batch
        _, estimated[kind] = of_run.sampled(*inputs, progress=True)
    return estimated


def shifts_of(estimated: EstimatesByKind) -> dict[str, noise_shift.Shift]:
    """The shift of each kind of states from the forward ones."""
    pair = lambda sampled: noise_shift.Estimates(sampled, estimated[FORWARD])
    return {kind: noise_shift.measure(pair(values)) for kind, values in estimated.items()}


def advice(sampling: Sampling) -> str:
    """That the shift does not tell whether images gain by the guidance, and what does."""
    how = [f"--workdir={WORKDIR.value}", "--over=noise_guidance=0,0.5,1,2"]
    how += [f"--noise_interval={','.join(NOISE_INTERVAL.value)}"]
    how += [f"--solver={sampling.solver}", f"--steps={sampling.steps}"]
    how += [f"--guidance={sampling.guidance:g}"] if sampling.guidance else []
    text = "the shift does not tell whether images gain by the guidance, but this does:"
    return f"{text}\n{command.line('sweep', *how)}"


def table(levels: NoiseLevel, shift: noise_shift.Shift) -> str:
    """The shift in ln(sigma / alpha), level by level."""
    lines = ["level    sigma    shift   ± s.e.   spread  narrowing"]
    columns = (getattr(shift, f.name) for f in dataclasses.fields(shift))
    sigma = np.asarray(levels.sigma) / np.asarray(levels.alpha)
    for i, row in enumerate(zip(sigma, *columns, strict=True)):
        at, *rest = map(float, row)
        form = "{:5d} {:8.4f} {:+8.4f} {:8.4f} {:8.4f} {:10.3f}"
        lines.append(form.format(i, at, *rest))
    return "\n".join(lines)


def as_numbers(
    experiment: Experiment, levels: NoiseLevel, shifts: dict[str, noise_shift.Shift]
) -> dict[str, Any]:
    """All measurements, as values for JSON."""
    s = experiment.sampling
    listed = lambda shift: {k: np.asarray(v).tolist() for k, v in vars(shift).items()}
    return {
        "solver": str(s.solver),
        "steps": s.steps,
        "guidance": s.guidance,
        "noise_guidance": NOISE_GUIDANCE.value,
        "noise_interval": command.interval(NOISE_INTERVAL),
        "states": NUMBER.value,
        "ln_sigma": (-np.asarray(levels.logsnr) / 2).tolist(),
        "shifts": {
            k: {**listed(v), "verdict": v.verdict(levels)} for k, v in shifts.items()
        },
    }


def draw(
    levels: NoiseLevel, estimated: EstimatesByKind, shifts: dict[str, noise_shift.Shift]
) -> "Figure":
    """Densities of the estimates at six levels, and the shift at all levels."""
    nominal = -np.asarray(levels.logsnr) / 2
    figure = plots.figure("Noise shift: what an estimator says of states", 7.2)
    grid = figure.add_gridspec(3, 3)
    picked = np.unique(np.linspace(0, len(nominal) - 1, 6).round().astype(int))
    for cell, i in enumerate(picked):
        axes = figure.add_subplot(grid[cell // 3, cell % 3])
        plots.quiet(axes)
        axes.set_prop_cycle(color=[plots.GREY, *plots.COLOURS])
        kinds = {kind: values[i] for kind, values in estimated.items()}
        noise_shift.draw_densities(axes, float(nominal[i]), kinds)
        axes.set(
            title=f"σ/α = {np.exp(nominal[i]):.3g}", xlabel="estimated ln σ/α   [nats]"
        )
        axes.set_yticks([])
        if not cell:
            plots.legend(axes)
    axes = figure.add_subplot(grid[2, :])
    plots.quiet(axes)
    axes.axhline(0, color=plots.GREY, lw=0.8)
    for (kind, shift), colour in zip(shifts.items(), plots.COLOURS, strict=False):
        look = {"color": colour, "label": kind, "marker": "o", "ms": 3, "capsize": 2}
        axes.errorbar(nominal, shift.shift, shift.error, **look)
    axes.set(xlabel="nominal ln σ/α   [nats]", ylabel="shift of the estimate   [nats]")
    axes.invert_xaxis()
    plots.legend(axes)
    return figure
