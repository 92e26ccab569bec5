"""Bits/dim of a run on its data, by the flow or the variational bound.

    jaxdiff likelihood --workdir=runs/digits --split=test

    jaxdiff likelihood --workdir=runs/digits --number=8 --exact

    jaxdiff likelihood --workdir=runs/digits --by=bound

No config file is needed. By default runs on a table of betas use the bound, others the
flow: the bound's decoder is as narrow as a step of the path [IDDPM], and with the small
steps of EDM's path it costs more bits than no model at all. --by chooses.
The bound has --timesteps steps, at t = 1/T ... 1 of the run's schedule: a table's entries
by default, 1000 steps of a closed form. The flow is integrated from the schedule's lowest
noise level, with --steps of order 4 or within a tolerance (--adaptive), and its divergence
is exact or estimated with --probes; pixels are dequantised uniformly. Image i's noise
depends only on --seed and i, not on --batch or the devices.

Writes OUT.json, with the numbers of every image, and OUT.png: for the bound every term and
the loss by logSNR, for the flow the distribution of bits/dim over images, beside that of
the bound if it was measured before on the same images.
"""

import json
import time
import warnings
from typing import Any

from absl import flags

from jaxdiff.commands import command
from jaxdiff.data import Dataset, split_of
from jaxdiff.evaluation import likelihood
from jaxdiff.evaluation.likelihood import (
    RK4,
    AdaptiveRule,
    Divergence,
    Exact,
    Hutchinson,
    Skilling,
    dataset_bound,
    dataset_flow,
)
from jaxdiff.runs import restoring
from jaxdiff.runtime import jsontext, sharding
from jaxdiff.runtime.files import Place, printable, write_atomically
from jaxdiff.runtime.finite import NotFiniteError
from jaxdiff.schedules import Table, posterior
from jaxdiff.types.ranges import Finite, check

Files = dict[str, Place]
"""The files to write, by suffix."""

VARIANCES = ("SmallVariance", "LargeVariance", "LearnedVariance")

WORKDIR = flags.DEFINE_string("workdir", None, "The folder that jaxdiff train wrote.")
BY = flags.DEFINE_enum(
    "by", None, ("bound", "flow"), "What bits/dim are measured by; default: the bound for "
    "a table of betas, else the flow."
)  # fmt: skip
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
"""Flags that only one of the two uses."""


def main() -> None:
    """Restores, measures, prints, writes."""
    chosen = _chosen()
    rule, divergence = _rule(), _divergence()
    run = restoring.restore(command.folder(WORKDIR), STD.value, STEP.value)
    way = chosen or ("bound" if isinstance(run.experiment.schedule, Table) else "flow")
    out = command.output(OUT, command.beside(WORKDIR) / NAMES[way], "json", "png")
    dataset = split_of(run.experiment.data, SPLIT.value).load()
    measured_on = split_of(run.experiment.data, SPLIT.value)
    data = str(measured_on)
    if measured_on == run.experiment.data:
        warnings.warn("measured on the run's own training images", stacklevel=2)
    settings = {"step": run.step, "std": STD.value, "data": data, "seed": SEED.value}
    if way == "bound":
        _bound(run, dataset, settings, out)
    else:
        _flow(run, dataset, settings, out, rule, divergence)


NAMES = {"bound": "bits", "flow": "bits_flow"}
"""Default names of the output files, by method."""


def _bound(
    run: restoring.Restored, dataset: Dataset, settings: dict[str, Any], out: Files
) -> None:
    """Measures the variational bound, and losses by logSNR."""
    experiment = run.experiment
    count = TIMESTEPS.value or getattr(experiment.schedule, "steps", 1000)
    head = experiment.network.learned_variance
    variance = VARIANCE.value or ("LearnedVariance" if head else "LargeVariance")
    process = likelihood.process(experiment.schedule, count)
    measured = dataset_bound.measure(
        dataset_bound.coster(experiment, getattr(posterior, variance)(), CLIP.value),
        run.variables,
        dataset,
        process,
        sharding.data_mesh(),
        number=NUMBER.value,
        batch=BATCH.value or 256,
        seed=SEED.value,
        progress=True,
    )
    results = dataset_bound.report(measured, BINS.value)
    results = {**settings, "variance": variance, "clip": CLIP.value, **results}
    _write(out["json"], results)
    print(dataset_bound.table(results))
    of = f"{settings['data']}, {results['images']} images, {count} steps, {variance}"
    print(f"\n{of}, step {run.step}")
    parts = {name: pair["mean"] for name, pair in results["bits_per_dim"].items()}
    _check_sense(
        parts["total"],
        f"{parts['decoder']:.2f} of them are the decoder's, which is as narrow as a step "
        "of the path and suits tables of betas, not the many small steps of EDM's path, "
        f"and {parts['diffusion']:.2f} the other steps'; --by=flow measures densities",
    )
    try:
        learned = dataset_bound.uncertainty(experiment, run.variables, measured)
    except NotFiniteError as error:
        learned = {}
        warnings.warn(str(error), stacklevel=2)
    if learned:
        _write(out["json"], results := {**results, "uncertainty": learned})
    dataset_bound.save_plot(out["png"], results)
    print(f"{out['png']} and {out['json']}")


def _flow(
    run: restoring.Restored,
    dataset: Dataset,
    settings: dict[str, Any],
    out: Files,
    rule: AdaptiveRule | None,
    divergence: Divergence,
) -> None:
    """Measures densities by the flow."""
    levels = likelihood.rising(run.experiment.schedule, STEPS.value)
    earlier, start = _earlier(), time.perf_counter()
    measured = dataset_flow.measure(
        dataset_flow.solver(run.experiment, levels, rule or RK4, divergence),
        run.variables,
        dataset,
        sharding.data_mesh(),
        number=NUMBER.value,
        batch=BATCH.value or 64,
        seed=SEED.value,
        progress=True,
    )
    seconds = time.perf_counter() - start
    results, low = dataset_flow.report(measured), float(levels.sigma[0] / levels.alpha[0])
    how = {"rule": str(rule or f"{STEPS.value} RK4"), "divergence": str(divergence)}
    results = {**settings, **how, "noise": low, "seconds": seconds, **results}
    same = ("step", "std", "data", "images")
    each = None
    if earlier and all(earlier.get(k, "") == results[k] for k in same):
        results["bound"], each = earlier["bits_per_dim"]["total"], earlier["each"]
    _write(out["json"], results)
    print(dataset_flow.table(results))
    of = f"{settings['data']}, {results['images']} images, {', '.join(how.values())}"
    cost = f"{results['evaluations']:.0f} evaluations an image, {seconds:.1f} s"
    print(f"\n{of}, step {run.step}\nfrom sigma / alpha = {low:.3g} of noise, {cost}")
    _check_sense(
        results["bits_per_dim"]["mean"],
        "the run is too weak, or its average too short: train longer, or try another "
        "--std or --checkpoint",
    )
    dataset_flow.save_plot(out["png"], results, each)
    print(f"{out['png']} and {out['json']}")


def _check_sense(bits: float, why: str) -> None:
    """Warns about more than 8 bits/dim, the cost of bytes without any model."""
    if bits > BITS:
        warnings.warn(
            f"{bits:.2f} bits/dim are more than the {BITS} that an image of bytes costs "
            f"without any model: {why}",
            stacklevel=2,
        )


BITS = 8
"""log2 of the number of values of a pixel."""


def _chosen() -> str:
    """The method chosen by --by, or by a flag that only one method uses; "" if neither.

    Raises:
        ValueError: a flag that this method does not use, or that another flag replaces.
    """
    read = {way: [f for f in owned if f.present] for way, owned in OWN.items()}
    ways = [BY.value] if BY.value else [way for way, owned in read.items() if owned]
    for way, owned in read.items():
        if owned and way != ways[0]:
            raise ValueError(
                f"--{owned[0].name} is for --by={way}: leave it out, or add --by={way}"
            )
    for flag, others in ((EXACT, (PROBES, SKILLING)), (ADAPTIVE, (STEPS,))):
        for other in others if flag.present and flag.value else ():
            if other.present:
                raise ValueError(
                    f"--{flag.name} has no use for --{other.name}: leave one of them out"
                )
    return ways[0] if ways else ""


def _rule() -> AdaptiveRule | None:
    """Adaptive steps, if chosen."""
    tolerance = ADAPTIVE.value
    return None if tolerance is None else AdaptiveRule(tolerance, tolerance)


def _divergence() -> Divergence:
    if EXACT.value:
        return Exact()
    return (Skilling if SKILLING.value else Hutchinson)(PROBES.value)


def _write(path: Place, results: dict[str, Any]) -> None:
    text = json.dumps(results, indent=2).encode()
    write_atomically(path, lambda file: file.write(text))


def _earlier() -> dict[str, Any]:
    """The bound in WORKDIR/bits.json, if it can be read; else {}."""
    path = command.beside(WORKDIR) / "bits.json"
    if not path.exists():
        return {}
    try:
        earlier = jsontext.loads(path.read_bytes(), "it")
        bits, each = jsontext.fields(earlier, "it", bits_per_dim=dict, each=list)
        check("each", tuple(each), tuple[Finite, ...])
        (total,) = jsontext.fields(bits, "bits_per_dim", total=dict)
        jsontext.fields(total, "bits_per_dim.total", mean=Finite, error=Finite)
    except (OSError, ValueError) as error:
        warnings.warn(f"the bound is left out: {path}: {printable(error)}", stacklevel=2)
        return {}
    return earlier
