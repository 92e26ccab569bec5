"""Trains a model; the same command again resumes where it stopped.

    jaxdiff train --config=digits --workdir=runs/digits

Any field of the config can be changed: --config.batch_size=64 --config.times.std=1.4;
some also for an existing run, and --config.init_from starts from another run's network
(docs/finetuning.md).
The folder --workdir receives checkpoints, metrics.jsonl, TensorBoard files, pictures, and
report.html, which shows all of it in a browser.
Ctrl-C and SIGTERM save and stop. On several hosts, start the same command on each
(docs/clusters.md). --profile=100:110 traces these steps. --dry_run trains nothing, and
prints the memory and communication of a step on each device, from shapes alone:

    jaxdiff train --config=edm2_img512:s --dry_run --cpu_devices=8 \\
        --config.batch_size=64 --config.fsdp=8

With --topology it compiles for TPUs or GPUs that need not be there, and says whether a step
fits into their memory, and what time their compiler estimates; --sample does the same for
drawing --config.sampling.images images:

    jaxdiff train --config=digits --dry_run --topology=v5e:2x2
"""

import signal
import sys

import jax
from absl import flags

from jaxdiff import train
from jaxdiff.analysis import save_curves
from jaxdiff.commands import command, config_files
from jaxdiff.config import Experiment, from_config, own_files, resolve
from jaxdiff.runtime import processes, sharding
from jaxdiff.train import forecasting, memory

CONFIG = config_files.define()
WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder, made if need be.")
DRY_RUN = flags.DEFINE_bool("dry_run", False, "Only say what a step needs.")
TOPOLOGY = flags.DEFINE_string(
    "topology",
    None,
    "With --dry_run: the accelerators to compile for, as v5e:4x4 or h100:8.",
)
SAMPLE = flags.DEFINE_bool("sample", False, "With --topology: draw instead of train.")
PROFILE = flags.DEFINE_string("profile", "", "Steps to trace, first:last, as 100:110.")
WANDB = flags.DEFINE_string("wandb", "", "A project of Weights & Biases to report to.")
flags.mark_flags_as_required(["config"])
flags.register_multi_flags_validator(
    ["workdir", "dry_run"],
    lambda values: values["dry_run"] or values["workdir"] is not None,
    "--workdir is missing; see --help",
)
flags.register_validator(
    "topology", lambda name: name != "", "name accelerators, as v5e:4x4 or h100:8"
)
flags.register_multi_flags_validator(
    ["topology", "cpu_devices", "coordinator", "processes"],
    lambda v: (
        not (v["topology"] and (v["cpu_devices"] or v["coordinator"] or v["processes"] > 1))
    ),
    "--topology compiles in one process, for devices that are not there: leave out "
    "--cpu_devices, --coordinator and --processes",
)
flags.register_multi_flags_validator(
    ["dry_run", "profile", "wandb"],
    lambda values: not (values["dry_run"] and (values["profile"] or values["wandb"])),
    "--dry_run takes no steps: leave out --profile and --wandb",
)
flags.declare_key_flag("cpu_devices")
SEVERAL_PROCESSES = True
"""The others are started on other hosts."""


def main() -> None:
    """Parses, trains, and prints the next step."""
    command.need((TOPOLOGY, DRY_RUN), (SAMPLE, TOPOLOGY))
    if TOPOLOGY.value:  # only compilers of other devices are used
        jax.config.update("jax_platforms", "cpu")
    experiment = from_config(CONFIG.value)
    if DRY_RUN.value:
        return _dry_run(experiment)
    workdir = command.folder(WORKDIR)
    try:
        how = {"profile": _steps(PROFILE.value), "wandb": WANDB.value}
        how["arguments"] = sys.argv[1:]
        state = train.fit(experiment, workdir, **how)
    except train.Stopped as stopped:
        if processes.first():
            print(f"\n{stopped}. To go on:")
            print(f"  {command.line('train', *sys.argv[1:])}")
        sys.exit(130 if stopped.signal == signal.SIGINT else processes.AGAIN)
    step = int(state.step)
    if not processes.first():
        return
    save_curves(workdir / "curves.png", workdir / "metrics.jsonl")
    more = f" (it has {step})" if step > experiment.steps else ""
    see = "; see report.html there"
    print(f"{workdir} has all its {experiment.steps} steps{more}{see}")
    if not experiment.sample_every:  # such as an estimator, which draws nothing
        return
    own = (f"--import={file}" for file in own_files(experiment))
    print(f"To sample:\n  {command.line('sample', f'--workdir={workdir}', *own)}")


def _steps(text: str) -> tuple[int, int]:
    """The first and the last step that --profile names.

    Raises:
        ValueError: the text is not a pair of steps.
    """
    if not text:
        return 0, 0
    first, _, last = text.partition(":")
    numbers = command.whole(first) and command.whole(last)
    if not (numbers and 0 < int(first) <= int(last)):
        raise ValueError(f"--profile is {text!r}: give the first and last step, as 100:110")
    return int(first), int(last)


def _end_at_once() -> None:
    """Lets signals end the process, as nothing is to be saved.

    Python would wait for the compiler, and that of TPUs prints its stack.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def _dry_run(experiment: Experiment) -> None:
    """Prints the needs of a step, line by line."""
    if experiment.network.label_dim == -1:  # the number of classes in the data
        experiment = resolve(experiment, experiment.data.load())
    if TOPOLOGY.value:
        for line in forecasting.table(experiment, TOPOLOGY.value, SAMPLE.value):
            print(line, flush=True)
            _end_at_once()
        return
    part = experiment.batch_size // experiment.accumulation
    for line in memory.table(experiment, sharding.mesh_for(part, experiment.fsdp)):
        print(line, flush=True)
