"""Forward pass, training step and sampling on a CPU: variants taking turns, as ratios.

    git worktree add /tmp/before COMMIT
    python benchmarks/cpu_step.py --variant=before:/tmp/before --variant=now:.

Each variant is NAME:CHECKOUT, and after it any flags for XLA, each after a comma
(`--variant=other:.,--xla_cpu_use_fusion_emitters=false`). It runs in a process of its own,
which compiles its programs and then waits. In each round every variant makes a call in
turn, so that a busy machine slows all alike: only the ratios mean something. The processor
time of a call is given too; it counts the work of all threads, and little of the waiting.
The first variant is the one compared with, and above 1 is faster than it.
"""

import json
import os
import runpy
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import app, flags

CONFIG = flags.DEFINE_string("config", "configs/digits.py", "A file of each checkout.")
VARIANTS = flags.DEFINE_multi_string("variant", ["now:."], "NAME:CHECKOUT[,XLA FLAG]...")
DEVICES = flags.DEFINE_integer("cpu_devices", 2, "Devices to split the CPU into.", 1)
BATCH = flags.DEFINE_integer("batch", 0, "Images; 0 = the config's.", 0)
ROUNDS = flags.DEFINE_integer("rounds", 20, "Calls of each variant and kind.", 1)
KINDS = flags.DEFINE_list("kinds", "forward,training,sampling", "What to measure.")
SETTINGS = flags.DEFINE_multi_string("set", [], "FIELD=NUMBER of the config's network.")
CORES = flags.DEFINE_string("cores", "", "Cores to stay on, such as 0,1; default: all.")
WORKER = flags.DEFINE_bool("worker", False, "Used by this program for its processes.")

Call = Callable[[], Any]


def main(_: list[str]) -> None:
    """Starts the processes, has them take turns, prints the ratios."""
    if WORKER.value:
        return _work()
    workers = {}
    for text in VARIANTS.value:
        name, _, rest = text.partition(":")
        checkout, *options = rest.split(",")
        workers[name] = _started(Path(checkout).resolve(), options)
    for name, worker in workers.items():
        print(f"{name}: {_answer(worker)['ready']}", flush=True)
    print(
        f"\n{'':10} {'variant':12} {'wall ms':>9} {'ratio':>6} {'cpu ms':>9} {'ratio':>6}"
    )
    for kind in KINDS.value:
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in workers}
        for turn in range(ROUNDS.value):
            names = list(workers)
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                print(kind, file=workers[name].stdin, flush=True)
                taken[name].append(_answer(workers[name])["seconds"])
        medians = {name: 1e3 * np.median(times, axis=0) for name, times in taken.items()}
        wall_one, cpu_one = medians[next(iter(workers))]
        for name, (wall, cpu) in medians.items():
            ratios = f"{wall:9.1f} {wall_one / wall:6.3f} {cpu:9.1f} {cpu_one / cpu:6.3f}"
            print(f"{kind:10} {name:12} {ratios}", flush=True)
    for worker in workers.values():
        worker.stdin.close()
        worker.wait()


def _started(checkout: Path, options: list[str]) -> subprocess.Popen:
    environ = {**os.environ, "PYTHONPATH": str(checkout)}
    environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *options]).strip()
    mine = [f"--{f.name}={f.value}" for f in (CONFIG, DEVICES, BATCH, CORES)]
    mine += [
        f"--kinds={','.join(KINDS.value)}",
        *(f"--set={text}" for text in SETTINGS.value),
    ]
    line = [sys.executable, str(Path(__file__).resolve()), "--worker", *mine]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        line, env=environ, cwd=checkout, stdin=pipe, stdout=pipe, text=True
    )


def _answer(worker: subprocess.Popen) -> dict[str, Any]:
    line = worker.stdout.readline()
    if not line:
        sys.exit(f"a process ended with status {worker.wait()}; what it printed is above")
    return json.loads(line)


def _work() -> None:
    """One variant: says that it is ready, then makes one call for each line it reads.

    It keeps freed memory where the checkout's commands do.
    """
    if find_spec("jaxdiff.runtime.heap"):
        import_module("jaxdiff.runtime.heap").keep_freed_memory(os.environ)
    if CORES.value:
        os.sched_setaffinity(0, {int(core) for core in CORES.value.split(",")})
    jax.config.update("jax_num_cpu_devices", DEVICES.value)
    began = time.perf_counter()
    calls = _calls()
    for call in calls.values():
        jax.block_until_ready(call())
    took = time.perf_counter() - began
    print(json.dumps({"ready": f"compiled in {took:.0f} s"}), flush=True)
    for line in sys.stdin:
        call = calls[line.strip()]
        wall, cpu = time.perf_counter(), time.process_time()
        jax.block_until_ready(call())
        seconds = time.perf_counter() - wall, time.process_time() - cpu
        print(json.dumps({"seconds": seconds}), flush=True)


def _calls() -> dict[str, Call]:
    """The compiled programs of a config, by kind, on their inputs."""
    import dataclasses

    from jaxdiff import train
    from jaxdiff.config import from_config, resolve
    from jaxdiff.runs import generate
    from jaxdiff.runs.state import ema_variables, labelled, run_denoiser
    from jaxdiff.runtime import sharding

    e = from_config(runpy.run_path(CONFIG.value)["get_config"]())
    pairs = dict(text.split("=") for text in SETTINGS.value)
    network = e.network.clone(**{name: json.loads(value) for name, value in pairs.items()})
    e = dataclasses.replace(e, network=network, batch_size=BATCH.value or e.batch_size)
    e = resolve(e, e.data.load())
    mesh = sharding.mesh_for(e.batch_size, e.fsdp)
    size, rng = e.batch_size, np.random.default_rng(0)
    label = np.arange(size, dtype=np.int32) % max(e.network.label_dim, 1)
    pixels = rng.integers(0, 256, (size, *e.data.shape)).astype(np.uint8)
    batch = sharding.put_batch({"image": pixels, "label": label}, mesh)
    held = [train.initial_state(e, mesh)]
    variables = jax.tree.map(lambda a: a.copy(), ema_variables(e, held[0], e.sampling.std))
    made = {}
    if "training" in KINDS.value:
        step = train.compiled_step(e, mesh).lower(held[0], batch).compile()

        def training() -> Any:
            held[0], metrics = step(held[0], batch)
            return metrics

        made["training"] = training
    if "sampling" in KINDS.value:
        inputs = generate.image_keys(np.arange(size)), label
        args = variables, *jax.device_put(inputs, sharding.split(mesh))
        draw = jax.jit(generate.sampler(e)).lower(*args).compile()
        made["sampling"] = lambda: draw(*args)
    if "forward" in KINDS.value:
        x = jax.numpy.asarray(rng.normal(size=(size, *e.data.shape)), "float32")
        at = e.schedule(jax.numpy.full((size, 1, 1, 1), 0.5))

        def forward(variables: Any, x: Any, at: Any, label: Any) -> Any:
            return run_denoiser(e, variables)(x, at, labelled(e, label))

        inputs = jax.device_put((x, at, label), sharding.split(mesh))
        once = jax.jit(forward).lower(variables, *inputs).compile()
        made["forward"] = lambda: once(variables, *inputs)
    return made


if __name__ == "__main__":
    app.run(main)
