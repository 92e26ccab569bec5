"""Plots schedules, laws of t, weightings and grids, with a table.

    jaxdiff analyze --out=analysis
    jaxdiff analyze --out=analysis --config=digits

Without --config: all built-in tables and paths, and well-known recipes. With it: that
experiment's schedule, law, weighting and grid; any field can be changed by a flag such as
--config.times.std=1.4. Writes schedules.png, densities.png, weightings.png, grids.png,
terminal.csv and terminal.json, and prints the table of the signal left at t = 1.
"""

import csv
import dataclasses
import io
import json
import math
from collections.abc import Mapping
from pathlib import Path

from absl import flags

import jaxdiff as jd
from jaxdiff import schedules
from jaxdiff.analysis import curves, plots
from jaxdiff.commands import command, config_files
from jaxdiff.config import Experiment, from_config
from jaxdiff.objectives import timesteps
from jaxdiff.runtime.files import write_atomically
from jaxdiff.sampling import grids
from jaxdiff.types import Grid, Schedule, Times, Weighting

OUT = flags.DEFINE_string("out", "analysis", "The folder to write to, made if need be.")
CONFIG = config_files.define()
STEPS = flags.DEFINE_integer("steps", None, "Steps of the grids; 18, or the config's.",
    1, 10_000)  # fmt: skip
STD = flags.DEFINE_float("std", 0.5, "Standard deviation of the data, for the grids.")

SD, DDPM = jd.Table(jd.ScaledLinearBetas()), jd.Table(jd.LinearBetas())
COSINE_TABLE = jd.Table(jd.CosineBetas())
COSINE, FLOW, EDM = jd.Cosine(), jd.RectifiedFlow(), jd.LogSigma()
DRAWN: Mapping[str, Schedule] = {
    "SD, SDXL (scaled linear)": SD,
    "SD, zero terminal SNR": jd.zero_terminal_snr(SD),
    "DDPM linear": DDPM,
    "IDDPM cosine": COSINE_TABLE,
    "rectified flow": FLOW,
    "EDM": EDM,
}
"""The schedules to plot; the other curves coincide with these."""
SCHEDULES: Mapping[str, Schedule] = {
    **DRAWN,
    "DDPM, zero terminal SNR": jd.zero_terminal_snr(DDPM),
    "IDDPM cosine, zero terminal SNR": jd.zero_terminal_snr(COSINE_TABLE),
    "Diffusion-LM sqrt": jd.Table(schedules.DiffusionLMBetas()),
    "LDM sqrt": jd.Table(schedules.LDMSqrtBetas()),
    "GeoDiff sigmoid": jd.Table(schedules.SigmoidBetas()),
    "exponential": jd.Table(schedules.ExpBetas()),
    "Laplace": jd.Table(schedules.LaplaceBetas()),
    "VP-SDE linear": jd.VPLinear(),
    "cosine path": COSINE,
    "cosine path, offset 0.008": schedules.OffsetCosine(),
    "cosine path, bounded": schedules.BoundedCosine(),
    "Chen's sigmoid": schedules.ChenSigmoid(),
    "Chen's cosine": schedules.ChenCosine(),
    "TrigFlow": schedules.TrigFlow(),
}
LAWS: Mapping[str, tuple[Schedule, Times]] = {
    "DDPM linear, uniform t": (DDPM, timesteps.Uniform()),
    "cosine, uniform t": (COSINE, timesteps.Uniform()),
    "flow, uniform t": (FLOW, timesteps.Uniform()),
    "flow, logit-normal t (SD3)": (FLOW, timesteps.LogitNormal()),
    "EDM, normal ln σ": (EDM, timesteps.NormalLogSigma()),
}
RECIPES: Mapping[str, tuple[str, Weighting]] = {
    "ε, linear (DDPM)": ("DDPM linear, uniform t", jd.UniformOnNetwork(jd.Eps())),
    "ε, cosine": ("cosine, uniform t", jd.UniformOnNetwork(jd.Eps())),
    "min-SNR-5, cosine": ("cosine, uniform t", jd.MinSNR(5.0)),
    "Debias, cosine": ("cosine, uniform t", jd.Debias()),
    "v, cosine = flow, uniform t": ("cosine, uniform t", jd.UniformOnNetwork(jd.V())),
    "flow, logit-normal t (SD3)": (
        "flow, logit-normal t (SD3)",
        jd.UniformOnNetwork(jd.Flow()),
    ),
    "EDM": ("EDM, normal ln σ", jd.UniformOnNetwork(jd.EDM())),
}
GRIDS: Mapping[str, tuple[Schedule, Grid]] = {
    "Karras (EDM)": (EDM, grids.Karras()),
    "flow, uniform t": (FLOW, grids.Uniform()),
    "cosine, uniform t": (COSINE, grids.Uniform()),
    "DDPM, trailing": (DDPM, grids.Trailing()),
}
WRITTEN = (
    *("schedules.png", "densities.png", "weightings.png", "grids.png"),
    *("terminal.csv", "terminal.json"),
)
"""The files written to OUT."""


def main() -> None:
    """Computes, draws, writes, prints."""
    if not 0 < STD.value < math.inf:
        raise ValueError(f"--std must be above 0 and finite, got {STD.value}")
    out = command.folder(OUT)
    command.writes(OUT, *(out / name for name in WRITTEN))  # before any work
    table, drawn, laws, recipes, grids, steps = (
        SCHEDULES, DRAWN, LAWS, RECIPES, GRIDS, 18
    )  # fmt: skip
    if CONFIG.value is not None:
        experiment = from_config(CONFIG.value)
        drawn, laws, recipes, grids = _of(experiment)
        table = drawn
        steps = experiment.sampling.steps
    density = {name: curves.density(*law) for name, law in laws.items()}
    weights = {
        name: curves.effective(laws[law][0], density[law], weighting)
        for name, (law, weighting) in recipes.items()
    }
    contraction = {
        name: curves.steps(grid(schedule, STEPS.value or steps), STD.value)
        for name, (schedule, grid) in grids.items()
    }
    figures = {
        "schedules": plots.schedules({n: curves.path(s) for n, s in drawn.items()}),
        "densities": plots.densities(density),
        "weightings": plots.weightings(weights),
        "grids": plots.grids(contraction),
    }
    rows = {n: dataclasses.asdict(curves.terminal(s)) for n, s in table.items()}
    _write_table(out, rows)
    for name, figure in figures.items():
        png = out / f"{name}.png"
        write_atomically(png, lambda f, p=figure: p.savefig(f, format="png"))
    print(f"\n{', '.join(WRITTEN)}: {out}")


def _of(experiment: Experiment) -> tuple[dict, dict, dict, dict]:
    """An experiment's schedule, law and grid, and the weightings of its loss."""
    schedule, law = experiment.schedule, experiment.times
    weightings = curves.weightings(experiment.loss)
    if not weightings:
        kind = type(experiment.loss).__name__
        raise ValueError(f"config.loss is a {kind}, which has no weighting to plot")
    path, grid = type(schedule).__name__, experiment.sampling.grid
    name = f"{path}, {type(law).__name__}"
    recipes = {f"{name}, {type(w).__name__}": (name, w) for _, w in weightings}
    grids = {type(grid).__name__: (schedule, grid)}
    return {path: schedule}, {name: (schedule, law)}, recipes, grids


def _write_table(out: Path, rows: Mapping[str, Mapping[str, float]]) -> None:
    """Prints the residual signals, and writes them as CSV and JSON."""
    fields = [field.name for field in dataclasses.fields(curves.Terminal)]
    width = max(len(name) for name in rows)
    print("What is left of the data at t = 1 (amplitude alpha / r, power its square):\n")
    print(f"{'schedule':<{width}}  " + "".join(f"{field:>13}" for field in fields))
    for name, row in rows.items():
        print(f"{name:<{width}}  " + "".join(f"{row[field]:>13.6g}" for field in fields))

    text = io.StringIO()
    lines = csv.writer(text)
    lines.writerow(["schedule", *fields])
    lines.writerows([name, *(row[f] for f in fields)] for name, row in rows.items())
    finite = {n: {k: _json(v) for k, v in row.items()} for n, row in rows.items()}
    written = {"csv": text.getvalue(), "json": json.dumps(finite, indent=1) + "\n"}
    for suffix, content in written.items():
        path = out / f"terminal.{suffix}"
        write_atomically(path, lambda f, c=content: f.write(c.encode()))


def _json(value: float) -> float | str:
    """Infinity as a string, since JSON has none."""
    return value if abs(value) < float("inf") else str(value)
