"""What EDM2's networks need on accelerators that are not there, one case after the other.

    python benchmarks/accelerators.py --out=docs/results/accelerators.json --case=s-v5e

Needs the extras aot-tpu and aot-gpu. A case that --out has is not compiled again, so that
the same command resumes; a case that failed or took longer than --limit says so.
Cases named plan-... stop before the compiler generates code: memory, types and collectives
come several times faster so, and there is no estimate of time.
"""

import dataclasses
import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
from absl import flags

from jaxdiff.commands import command
from jaxdiff.config import Experiment, edm2_presets
from jaxdiff.data import Folder, Latents
from jaxdiff.runtime import costs, hlo, topologies
from jaxdiff.runtime.files import write_atomically
from jaxdiff.runtime.provenance import commit_of
from jaxdiff.train import forecasting, memory

OUT = flags.DEFINE_string(
    "out", "docs/results/accelerators.json", "Where results are kept."
)
CASE = flags.DEFINE_list("case", [], "Cases to compile, by default all; see CASES.")
LIMIT = flags.DEFINE_integer("limit", 3600, "Seconds that a case may take.", 1)
CHILD = flags.DEFINE_string("child", "", "For this program's own processes.")


@dataclasses.dataclass(frozen=True)
class Case:
    """A network on a topology, with so many images a device."""

    topology: str
    network: str
    images: int
    fsdp: int = 1


CASES = {
    "s-v5e": Case("v5e:2x2", "img512-s", 8),
    "s-v5e-fsdp": Case("v5e:2x2", "img512-s", 8, 4),
    "s-v5e-32": Case("v5e:2x2", "img512-s", 32),
    "s-h100": Case("h100:4", "img512-s", 32),
    "s-h100-fsdp": Case("h100:4", "img512-s", 32, 4),
    "plan-s-v5e-fsdp": Case("v5e:2x2", "img512-s", 8, 4),
    "plan-xs-v5e": Case("v5e:2x2", "img512-xs", 16),
    "plan-s64-v5e": Case("v5e:2x2", "img64-s", 8),
    "plan-s-v6e": Case("v6e:2x2", "img512-s", 16),
    "plan-s-v5p": Case("v5p:2x2x1", "img512-s", 32),
    "plan-s-v5e-64": Case("v5e:8x8", "img512-s", 8),
    "plan-m-v5e": Case("v5e:2x2", "img512-m", 4, 4),
    "plan-xl-v5p": Case("v5p:2x2x1", "img512-xl", 16, 4),
}
"""Full compiles first."""


def main() -> None:
    """Compiles each case in a process of its own, and adds it to the results."""
    if CHILD.value:
        return compile_case(CHILD.value)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # and so its child, too
    if unknown := {*CASE.value} - {*CASES}:
        raise ValueError(f"--case={','.join(unknown)}: there are {', '.join(CASES)}")
    out = Path(OUT.value)
    results = json.loads(out.read_text()) if out.exists() else {}
    for name in CASE.value or CASES:
        if name not in results:
            results[name] = dataclasses.asdict(CASES[name]) | run(name)
            text = json.dumps(results, indent=1)
            write_atomically(out, lambda file, text=text: file.write(text.encode()))
        print(name, json.dumps({k: v for k, v in results[name].items() if k in SHOWN}))


SHOWN = ("memory", "seconds", "share_of_peak", "error", "compile_seconds")


def experiment(case: Case) -> Experiment:
    """The published training of a case's network, with a batch of the case's size."""
    small = case.network.startswith("img64")
    data = Folder(path="none", size=64) if small else Latents(path="none", size=64)
    whole = edm2_presets.experiment(case.network, data)
    devices = len(topologies.topology(case.topology).devices)
    return dataclasses.replace(whole, batch_size=case.images * devices, fsdp=case.fsdp)


def run(name: str) -> dict[str, Any]:
    """The results of a case from a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        plan = name.startswith("plan-")
        environ = {**os.environ, "JAX_PLATFORMS": "cpu"}
        if plan:
            environ["XLA_FLAGS"] = f"--xla_dump_to={folder} --xla_dump_hlo_as_text"
        line = [sys.executable, __file__, f"--child={name}"]
        start = time.monotonic()
        child = subprocess.Popen(line, stdout=subprocess.PIPE, env=environ, text=True)
        try:
            text = planned(child, Path(folder), name) if plan else waited(child)
            status = child.poll()
        finally:  # also where this program is stopped
            child.kill()
            child.wait()
        seconds = round(time.monotonic() - start)
    common = {"commit": commit_of(__file__), "compile_seconds": seconds}
    late = "not within the limit"
    error = late if status is None else f"its process ended with status {status}"
    return common | (json.loads(text) if text else {"error": error})


def waited(child: subprocess.Popen) -> str:
    """What a process printed; "" if it was stopped for its time."""
    try:
        return child.communicate(timeout=LIMIT.value)[0]
    except subprocess.TimeoutExpired:
        return ""


def planned(child: subprocess.Popen, folder: Path, name: str) -> str:
    """The plan of a process that is stopped once its compiler has written one."""
    deadline = time.monotonic() + LIMIT.value
    while time.monotonic() < deadline and child.poll() is None:
        if ready := list(
            folder.glob("*step*after_optimizations_after_buffer_assignment.txt")
        ):
            report = next(folder.glob("*step*after_optimizations-memory-usage-report.txt"))
            texts = (written(path) for path in (ready[0], report))
            return json.dumps(read_plan(name, *texts))
        time.sleep(2)
    return ""


def written(path: Path) -> str:
    """The text of a file, once it no longer grows."""
    size = -1
    while size != (size := path.stat().st_size):
        time.sleep(5)
    return path.read_text()


def read_plan(name: str, program: str, report: str) -> dict[str, Any]:
    """Memory, products and collectives of a program without code."""
    case = CASES[name]
    where = topologies.topology(case.topology)
    mesh = forecasting.mesh_of(experiment(case), where)
    total = re.search(r"Memory Space: default.*\nTotal bytes: (\d+)", report)
    measured = costs.measure(hlo.read(program), where.chip, mesh.size)
    return {
        "memory": forecasting.state_parts(experiment(case), mesh, False)
        | {"total": int(total[1]) if total else None},
        "flops": measured.total.flops,
        **sizes(measured, forecasting.minimum(experiment(case), mesh)),
    }


def sizes(measured: costs.Costs, minimum: float) -> dict[str, Any]:
    """Types of products, and collectives."""
    types: dict[str, int] = {}
    for product, times, _ in measured.products:
        key = "float32" if "f32" in product.dtypes else product.dtypes[0]
        types[key] = types.get(key, 0) + times
    return {
        "products": types,
        "collectives": {k: (n, sent) for k, n, sent in costs.by_kind(measured.collectives)},
        "minimum_sent": minimum,
    }


def compile_case(name: str) -> None:
    """Prints the results of a whole compile as JSON."""
    jax.config.update("jax_platforms", "cpu")
    case = CASES[name]
    run, where = experiment(case), topologies.topology(case.topology)
    mesh = forecasting.mesh_of(run, where)
    count = memory.count(memory.abstract_state(run, mesh).params)
    try:
        result = forecasting.compile_for(run, where, mesh)
        numbers = json.loads(result.to_json()) | sizes(result.costs, result.minimum)
    except forecasting.TooLarge as error:
        numbers = {"error": str(error)}
    used = resource.getrusage(resource.RUSAGE_SELF)
    numbers |= {"parameters": count, "cpu_seconds": round(used.ru_utime)}
    print(json.dumps(numbers | {"peak_gb": round(used.ru_maxrss / 2**20, 1)}))


if __name__ == "__main__":
    command.run(main)
