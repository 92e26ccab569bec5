"""Damages saved experiments and expressions at random, and counts what comes of them.

    python benchmarks/foreign.py --number=20000 --seed=1

Every case must give a value or one short line; anything else is printed, and fails.
"""

import collections
import copy
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

from absl import app, flags

import jaxdiff as jd
from jaxdiff.config import Experiment, expressions, from_dict, to_dict
from jaxdiff.runtime import jsontext
from jaxdiff.types import Grid, Solver, Times

NUMBER = flags.DEFINE_integer("number", 20_000, "Cases of each kind.", lower_bound=1)
SEED = flags.DEFINE_integer("seed", 0, "The first case's.")

OTHERS = (
    *([], {}, "", "x", None, True, -1, 0, 1.5, 1e30, 10**40, 10**290, float("nan")),
    *(float("inf"), [[]], [1, 2, 3], {"type": []}, {"type": "x"}, "x" * 5000),
    *(to_dict(value) for value in (jd.Heun(), jd.Cosine(), jd.EDM(), Experiment())),
)
TEXTS = (
    "EulerMaruyama(ConstantW(norm=2.0), clock=Shifted(of=Cosine(), factor=2.0))",
    "DPMSolverPP(order=3, eta=1.0, variant='midpoint')",
    "Karras(sigma_min=0.01, rho=3)",
    "Stratified(of=Uniform(low=0.5))",
)
PIECES = "()[]{},='\"-*.:\n\\\0é0123456789" + "infnNoTrue lambda"


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    inside = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in list(inside):
        yield tree, key
        if isinstance(value, dict | list):
            yield from _places(value)


def _structure(chance: random.Random) -> Callable[[], Any]:
    """An experiment with one to three of its parts replaced, removed or moved."""
    tree = json.loads(WHOLE)
    for _ in range(chance.randint(1, 3)):
        container, key = chance.choice(list(_places(tree)))
        if isinstance(container, dict) and chance.random() < 0.2:
            del container[key]
        else:
            container[key] = copy.deepcopy(chance.choice(OTHERS))
    return lambda: from_dict(tree, "config", Experiment)


def _bytes(chance: random.Random) -> Callable[[], Any]:
    """An experiment's text with one to four bytes changed."""
    text = bytearray(WHOLE.encode())
    for _ in range(chance.randint(1, 4)):
        text[chance.randrange(len(text))] = chance.randrange(256)
    return lambda: from_dict(jsontext.loads(bytes(text), "it"), "config", Experiment)


def _expression(chance: random.Random) -> Callable[[], Any]:
    """An expression with one to three of its parts changed."""
    text = chance.choice(TEXTS)
    for _ in range(chance.randint(1, 3)):
        start = chance.randrange(len(text) + 1)
        piece = "".join(chance.choices(PIECES, k=chance.randint(0, 4)))
        text = text[:start] + piece + text[start + chance.randrange(4) :]
    kind = chance.choice((Solver, Grid, Times))
    return lambda: expressions.parse(text, kind)


WHOLE = json.dumps(to_dict(Experiment(schedule=jd.Table(jd.ListedBetas((0.1, 0.2))))))
KINDS = {"structure": _structure, "bytes": _bytes, "expressions": _expression}


def _outcome(read: Callable[[], Any]) -> str:
    try:
        read()
    except (ValueError, OSError) as error:
        line = str(error)
        return "one line" if line and "\n" not in line and len(line) < 3000 else "long"
    except BaseException as error:
        print(f"{type(error).__name__}: {error}"[:200])
        return type(error).__name__
    return "a value"


def main(argv: list[str]) -> None:
    """Counts outcomes by kind."""
    failed = False
    for name, damage in KINDS.items():
        seeds = range(SEED.value, SEED.value + NUMBER.value)
        outcomes = collections.Counter(_outcome(damage(random.Random(n))) for n in seeds)
        print(f"{name}: {dict(outcomes.most_common())}", flush=True)
        failed |= bool(set(outcomes) - {"one line", "a value"})
    raise SystemExit(failed)


if __name__ == "__main__":
    app.run(main)
