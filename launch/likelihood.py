"""Bits/dim of a run on its data: by the variational bound, or by the probability flow.

    python launch/likelihood.py --workdir=runs/digits --split=test

    python launch/likelihood.py --workdir=runs/digits --by=flow --number=96 --steps=16

    python launch/likelihood.py --workdir=runs/digits --by=flow --number=8 --exact

No config file is needed. The bound has --timesteps steps, at t = 1/T ... 1 of the run's
schedule: a table's entries by default, 1000 steps of a closed form. The flow is integrated
from the least noise of the schedule, by --steps of order 4 or within a tolerance
(--adaptive), and its divergence is exact or estimated by --probes; pixels are dequantised
uniformly. Image i's noise depends on --seed and i alone, not on --batch or the devices.

Writes OUT.json, with the numbers of every image, and OUT.png: of the bound every term and
the loss by logSNR, of the flow how bits/dim are spread over images, beside those of the
bound where that was measured before on the same images.
"""

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import command
from absl import flags

from jaxdiff import checkpoint, likelihood, posterior, sharding
from jaxdiff.bits import bound, flow
from jaxdiff.data import Dataset
from jaxdiff.files import place, write_atomically
from jaxdiff.likelihood import RK4, Adaptive, Divergence, Exact, Hutchinson, Skilling

VARIANCES = ("SmallVariance", "LargeVariance", "LearnedVariance")

WORKDIR = flags.DEFINE_string("workdir", None, "The folder that launch/train.py wrote.")
BY = flags.DEFINE_enum("by", "bound", ("bound", "flow"), "What bits/dim are measured by.")
SPLIT = flags.DEFINE_string("split", None, "Split of the run's data; test if there is one.")
TIMESTEPS = flags.DEFINE_integer("timesteps", None, "Steps T of the bound.", lower_bound=1)
VARIANCE = flags.DEFINE_enum(
    "variance", None, VARIANCES, "The bound's variance; by default LearnedVariance for a "
    "network with that head, else LargeVariance."
)  # fmt: skip
CLIP = flags.DEFINE_bool("clip", True, "In the bound, hold x0 to [-1, 1].")
BINS = flags.DEFINE_integer("bins", 20, "The bound's bins of logSNR.", lower_bound=1)
STEPS = flags.DEFINE_integer("steps", 16, "The flow's steps, 4 evaluations each.", 1)
ADAPTIVE = flags.DEFINE_float(
    "adaptive", None, "Instead of --steps: the tolerance, relative and absolute; 1e-4."
)
PROBES = flags.DEFINE_integer("probes", 4, "The divergence's probes an image.", 1)
SKILLING = flags.DEFINE_bool("skilling", False, "Normal probes instead of signs.")
EXACT = flags.DEFINE_bool(
    "exact", False, "The exact divergence: as many tangents as an image has elements."
)
NUMBER = flags.DEFINE_integer("number", 0, "How many images; 0 = all.", lower_bound=0)
SEED = flags.DEFINE_integer("seed", 0, "Seed of the noise.", 0, 2**32 - 1)
STD = flags.DEFINE_float(
    "std", None, "Relative width of the EMA, tracked or reconstructed."
)
STEP = flags.DEFINE_integer("checkpoint", None, "Another checkpoint than the newest.", 0)
BATCH = flags.DEFINE_integer(
    "batch", None, "Images at a time, 256 of the bound and 64 of the flow.", lower_bound=1
)
OUT = flags.DEFINE_string(
    "out", None, "OUT.json and OUT.png; default WORKDIR/bits, or WORKDIR/bits_flow."
)
flags.mark_flags_as_required(["workdir"])
flags.declare_key_flag("cpu_devices")

OWN = {"bound": (TIMESTEPS, VARIANCE, CLIP, BINS), "flow": (STEPS, ADAPTIVE, PROBES)}
OWN["flow"] += (SKILLING, EXACT)
"""Flags that one way alone reads."""


def main() -> None:
    """Restores, measures, prints, writes."""
    _refuse_unread()
    rule, divergence = _rule(), _divergence()
    run = checkpoint.restore(command.folder(WORKDIR), STD.value, STEP.value)
    data = _split(run.experiment.data)
    asked = {"step": run.step, "std": STD.value, "data": str(data), "seed": SEED.value}
    if BY.value == "bound":
        _bound(run, data.load(), asked)
    else:
        _flow(run, data.load(), asked, rule, divergence)


def _bound(run: checkpoint.Restored, dataset: Dataset, asked: dict[str, Any]) -> None:
    """The variational bound, and losses by logSNR."""
    experiment = run.experiment
    count = TIMESTEPS.value or getattr(experiment.schedule, "steps", 1000)
    head = experiment.network.learned_variance
    variance = VARIANCE.value or ("LearnedVariance" if head else "LargeVariance")
    measured = bound.measure(
        bound.coster(experiment, getattr(posterior, variance)(), CLIP.value),
        run.variables,
        dataset,
        likelihood.process(experiment.schedule, count),
        sharding.data_mesh(),
        number=NUMBER.value,
        batch=BATCH.value or 256,
        seed=SEED.value,
        progress=True,
    )
    found = bound.report(measured, BINS.value)
    if learned := bound.uncertainty(experiment, run.variables, measured):
        found["uncertainty"] = learned
    path = _write("bits", {**asked, "variance": variance, "clip": CLIP.value, **found})
    bound.save_plot(path.with_suffix(".png"), found)
    print(bound.table(found))
    of = f"{asked['data']}, {found['images']} images, {count} steps, {variance}"
    print(f"\n{of}, step {run.step}\n{path} and {path.with_suffix('.png')}")


def _flow(
    run: checkpoint.Restored,
    dataset: Dataset,
    asked: dict[str, Any],
    rule: Adaptive | None,
    divergence: Divergence,
) -> None:
    """Densities by the flow."""
    levels = likelihood.rising(run.experiment.schedule, STEPS.value)
    start = time.perf_counter()
    measured = flow.measure(
        flow.solver(run.experiment, levels, rule or RK4, divergence),
        run.variables,
        dataset,
        sharding.data_mesh(),
        number=NUMBER.value,
        batch=BATCH.value or 64,
        seed=SEED.value,
        progress=True,
    )
    seconds = time.perf_counter() - start
    found, low = flow.report(measured), float(levels.sigma[0] / levels.alpha[0])
    how = {"rule": str(rule or f"{STEPS.value} RK4"), "divergence": str(divergence)}
    found = {**asked, **how, "noise": low, "seconds": seconds, **found}
    if beside := _bound_beside(found):
        found["bound"] = beside["bits_per_dim"]["total"]
    path = _write("bits_flow", found)
    flow.save_plot(path.with_suffix(".png"), found, beside.get("each"))
    print(flow.table(found))
    of = f"{asked['data']}, {found['images']} images, {', '.join(how.values())}"
    cost = f"{found['evaluations']:.0f} evaluations an image, {seconds:.1f} s"
    print(f"\n{of}, step {run.step}\nfrom sigma / alpha = {low:.3g} of noise, {cost}")
    print(f"{path} and {path.with_suffix('.png')}")


def _refuse_unread() -> None:
    """Flags that the way asked for does not read, or that another one replaces."""
    for way, owned in OWN.items():
        for flag in owned if way != BY.value else ():
            if flag.present:
                raise ValueError(
                    f"--{flag.name} is for --by={way}: leave it out, or add --by={way}"
                )
    for flag, others in ((EXACT, (PROBES, SKILLING)), (ADAPTIVE, (STEPS,))):
        for other in others if flag.present and flag.value else ():
            if other.present:
                raise ValueError(
                    f"--{flag.name} has no use for --{other.name}: leave one of them out"
                )


def _rule() -> Adaptive | None:
    """Adaptive steps, if they were asked for."""
    tolerance = ADAPTIVE.value
    return None if tolerance is None else Adaptive(tolerance, tolerance)


def _divergence() -> Divergence:
    if EXACT.value:
        return Exact()
    return (Skilling if SKILLING.value else Hutchinson)(PROBES.value)


def _split(data: Any) -> Any:
    """The data asked for: another split of the run's own."""
    if not any(field.name == "split" for field in dataclasses.fields(data)):
        if SPLIT.value:
            raise ValueError(
                f"--split: {type(data).__name__} has no splits; leave --split out to "
                "measure on all of it"
            )
        return data
    return dataclasses.replace(data, split=SPLIT.value or "test")


def _folder() -> Path:
    """Where results go by default: into the run's folder, or beside its snapshot."""
    workdir = command.folder(WORKDIR)
    return workdir.parent if workdir.suffix == ".npz" else workdir


def _write(name: str, found: dict[str, Any]) -> Path:
    """OUT.json, or NAME.json by default."""
    out = place(OUT.value) if OUT.value else _folder() / name
    path = out.with_name(f"{out.name}.json")
    text = json.dumps(found, indent=2).encode()
    write_atomically(path, lambda file: file.write(text))
    return path


def _bound_beside(found: dict[str, Any]) -> dict[str, Any]:
    """The bound of the same images and weights, if WORKDIR/bits.json has it; else {}."""
    path = _folder() / "bits.json"
    earlier = json.loads(path.read_text()) if path.is_file() else {}
    same = ("step", "std", "data", "images")
    return earlier if all(earlier.get(k, "") == found[k] for k in same) else {}


if __name__ == "__main__":
    command.run(main)
