"""The commands that go on from a run."""

import shlex
from collections.abc import Iterator, Sequence

from jaxdiff.train.report.contents import Contents


def without(arguments: Sequence[str], *names: str) -> list[str]:
    """Arguments of a command without some flags, written --name=value or --name value.

    >>> without(["--config=digits", "--workdir", "runs/a", "-workdir=b"], "workdir")
    ['--config=digits']
    """
    kept, rest = [], iter(arguments)
    for argument in rest:
        name, equals, _ = argument.lstrip("-").partition("=")
        if not (argument.startswith("-") and name in names):
            kept.append(argument)
        elif not equals:
            next(rest, None)
    return kept


def going_on(contents: Contents) -> Iterator[tuple[str, str]]:
    """(what it does, the line for the shell), in the order in which a project uses them."""
    workdir = f"--workdir={contents.workdir}"
    started = contents.arguments
    own = [a for a in started if a.startswith(("--import=", "-import="))]
    line = lambda *words: shlex.join(["jaxdiff", *words])
    if started:
        yield "resume, or train on with a larger --config.steps", line("train", *started)
    if contents.experiment.get("sample_every"):
        yield "draw images", line("sample", workdir, "--number=100", *own)
        compared = ("--compare=Heun, UniPC", "--compare_steps=24,6")
        yield "compare solvers", line("sample", workdir, *compared, *own)
        yield "score against the data", line("evaluate", workdir, *own)
        over = "--over=guidance=0,0.5,1,2"
        yield "find the best guidance", line("sweep", workdir, over, *own)
        if contents.snapshots:
            over = "--over=std=0.03,0.05,0.1,0.15,0.2"
            yield "find the best EMA length", line("sweep", workdir, over, *own)
        yield "measure bits/dim", line("likelihood", workdir, *own)
    if contents.magnitudes:
        yield (
            "plot magnitudes by layer",
            line("magnitudes", f"--workdirs={contents.workdir}"),
        )
    if started:
        other = f"--workdir={contents.workdir}-finetuned"
        init = f"--config.init_from={contents.workdir}"
        alike = without(started, "workdir", "config.init_from")
        yield (
            "fine-tune: another run that starts from this network",
            line("train", *alike, other, init),
        )
    yield "write this page again", line("report", workdir)
