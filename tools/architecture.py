"""Measures the architecture: the figures of docs/architecture.md, from the code itself.

    python tools/architecture.py

The two walks are traced: one training step and one sampled image of a tiny experiment run
under Python's profiler hook, and each room is listed when it is first entered.
"""

import ast
import sys
from collections.abc import Callable, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "jaxdiff"
LONG = 60
"""Lines above which a function is counted as long."""


def modules() -> dict[str, Path]:
    """All modules of the package by their dotted names below `jaxdiff`."""
    names = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        names[".".join(p for p in parts if p not in ("__init__", "__main__"))] = path
    del names[""]
    return names


def room(module: str) -> str:
    """The top-level room that a module belongs to."""
    return module.split(".")[0]


def imports(module: str, known: dict[str, Path]) -> set[str]:
    """Modules of the package that a module imports, wherever in its code."""
    targets = set()
    for node in ast.walk(ast.parse(known[module].read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("jaxdiff"):
            base = node.module.partition(".")[2]
            for alias in node.names:
                name = f"{base}.{alias.name}".strip(".")
                targets.add(name if name in known else base)
    return (targets & known.keys()) - {module}


def arrows() -> set[tuple[str, str]]:
    """Pairs of rooms of which the first imports the second."""
    known = modules()
    pairs = {(room(m), room(t)) for m in known for t in imports(m, known)}
    return {(a, b) for a, b in pairs if a != b}


def rows() -> list[list[str]]:
    """The rooms by layers: a room's imports lie in layers before its own.

    Raises:
        graphlib.CycleError: two rooms import each other.
    """
    graph: dict[str, set[str]] = {room(m): set() for m in modules()}
    for a, b in arrows():
        graph[a].add(b)
    sorter = TopologicalSorter(graph)
    sorter.prepare()
    layers = []
    while ready := sorted(sorter.get_ready()):
        layers.append(ready)
        sorter.done(*ready)
    return layers


def module_cycle() -> list[str]:
    """One cycle of imports among modules, if there is any.

    A package that lists names of its own modules is no part of one: inside of a package,
    modules import modules.
    """
    known = modules()
    plain = {m for m, path in known.items() if path.name != "__init__.py"}
    try:
        TopologicalSorter({m: imports(m, known) & plain for m in plain}).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def functions() -> Iterator[tuple[Path, ast.FunctionDef]]:
    """All functions and methods of the package."""
    for path in modules().values():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                yield path, node


def members(node: ast.ClassDef) -> dict[str, bool]:
    """Names of a class's methods and fields, and whether each has its own docstring."""
    names = {}
    for part in node.body:
        if isinstance(part, ast.FunctionDef):
            names[part.name] = bool(ast.get_docstring(part))
        elif isinstance(part, ast.AnnAssign | ast.Assign):
            targets = getattr(part, "targets", None) or [part.target]
            names |= {
                target.id: False for target in targets if isinstance(target, ast.Name)
            }
    return names


def inherited(node: ast.ClassDef, classes: list[ast.ClassDef]) -> set[str]:
    """Methods that are documented elsewhere for a class, by one of its `parents`."""
    listed = (members(parent) for parent in parents(node, classes))
    return {name for names in listed for name, documented in names.items() if documented}


def parents(node: ast.ClassDef, classes: list[ast.ClassDef]) -> list[ast.ClassDef]:
    """A class's bases in the package, and the protocols of which it has every member."""
    names = {ast.unparse(base) for base in node.bases}
    bases = [other for other in classes if other.name in names]
    present = members(node).keys() | {name for base in bases for name in members(base)}
    implemented = [
        other
        for other in classes
        if any(ast.unparse(base).startswith("Protocol") for base in other.bases)
        and members(other).keys() <= present
    ]
    return [*bases, *implemented]


def public() -> Iterator[tuple[str, bool]]:
    """Public classes, functions and methods, and whether each is documented.

    A method counts if it has a docstring, or overrides one that has (`inherited`).
    """
    trees = {name: ast.parse(path.read_text()) for name, path in modules().items()}
    classes = [n for t in trees.values() for n in t.body if isinstance(n, ast.ClassDef)]
    for name, tree in trees.items():
        for node in tree.body:
            if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name[0] == "_":
                continue
            yield f"{name}.{node.name}", bool(ast.get_docstring(node))
            if isinstance(node, ast.FunctionDef):
                continue
            elsewhere = inherited(node, classes)
            for method in (m for m in node.body if isinstance(m, ast.FunctionDef)):
                if method.name[0] != "_":
                    documented = ast.get_docstring(method) or method.name in elsewhere
                    yield f"{name}.{node.name}.{method.name}", bool(documented)


def walk(run: Callable[[], Any]) -> list[str]:
    """The rooms that a call enters, in the order of their first entries."""
    entered: list[str] = []

    def watch(frame: Any, event: str, _: Any) -> None:
        path = frame.f_code.co_filename
        if event == "call" and path.startswith(str(PACKAGE)):
            name = Path(path).relative_to(PACKAGE).with_suffix("").parts[0]
            if name not in entered:
                entered.append(name)

    sys.setprofile(watch)
    try:
        run()
    finally:
        sys.setprofile(None)
    return entered


def tiny() -> Any:
    """The smallest experiment that trains and samples."""
    from jaxdiff.config import from_config
    from tests.system.tiny import get_config

    return from_config(get_config())


def training_walk() -> list[str]:
    """From a stored image to the next parameters."""
    import jax

    from jaxdiff import data
    from jaxdiff.runs.state import init_state
    from jaxdiff.train import make_step

    experiment = tiny()
    state = jax.eval_shape(lambda: init_state(experiment))
    dataset, step = experiment.data.load(), make_step(experiment)

    def one_step() -> None:
        batch = next(data.batches(dataset, experiment.batch_size, 0))
        jax.eval_shape(step, state, batch)

    return walk(one_step)


def sampling_walk() -> list[str]:
    """From a seed to an image."""
    import numpy as np

    from jaxdiff.data import encoder_of
    from jaxdiff.runs import generate
    from jaxdiff.runs.state import ema_variables, init_state
    from jaxdiff.runtime.sharding import data_mesh

    experiment = tiny()
    variables = ema_variables(experiment, init_state(experiment), 0.1)
    draw, label = generate.sampler(experiment), np.zeros(1, int)
    encoder, mesh = encoder_of(experiment.data), data_mesh()
    seeds = np.zeros(1, int)
    return walk(lambda: generate.images(draw, variables, encoder, seeds, label, mesh, 1))


def figures() -> dict[str, str]:
    """Each figure of docs/architecture.md."""
    lines = {m: len(p.read_text().splitlines()) for m, p in modules().items()}
    longest = max(lines, key=lines.__getitem__)
    sizes = [n.end_lineno - n.lineno + 1 for _, n in functions()]
    long = sum(size > LONG for size in sizes) / len(sizes)
    documented = dict(public())
    return {
        "top-level rooms": str(len({room(m) for m in lines})),
        "arrows between rooms": str(len(arrows())),
        "rows": str(len(rows())),
        "import cycles": " -> ".join(module_cycle()) or "0",
        "longest file": f"{lines[longest]} lines, {longest}",
        "functions above 60 lines": f"{100 * long:.2f} %",
        "public names documented": (
            f"{100 * sum(documented.values()) / len(documented):.1f} % of {len(documented)}"
        ),
        "walk of a training image": " > ".join(training_walk()),
        "walk of a sampling key": " > ".join(sampling_walk()),
    }


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    for name, value in figures().items():
        print(f"{name:26s} {value}")
    for depth, names in enumerate(rows()):
        print(f"row {depth}: {', '.join(names)}")
