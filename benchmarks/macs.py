"""Parameters and multiply-accumulates of EDM2's networks, counted without computing.

    python benchmarks/macs.py

prints both for the published sizes and for the rungs of the ablation, beside the paper's
table. A convolution or matrix product counts outputs times fan-in, per image. The paper's
figures have the rest of the arithmetic in them, one operation an element, which is the
last column here [EDM2 tab. 1, 2].
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.extend import core

from jaxdiff.config import edm2_presets
from jaxdiff.config.ready import edm2_ablation
from jaxdiff.networks import UNet
from jaxdiff.types import Condition

PAPER = {
    "img512-xs": 45.5,
    "img512-s": 102.2,
    "img512-m": 180.8,
    "img512-l": 282.2,
    "img512-xl": 405.9,
    "img512-xxl": 552.1,
    "img64-s": 101.9,
    "img64-m": 180.8,
    "img64-l": 282.1,
    "img64-xl": 405.9,
}
"""10^9 operations per evaluation [EDM2 tab. 2, 3]."""

LADDER = {
    "a": (295.9, 110.4),
    "b": (291.8, 100.4),
    "c": (277.8, 100.3),
    "d": (277.8, 101.2),
    "e": (277.8, 101.2),
    "f": (280.2, 102.1),
    "g": (280.2, 102.2),
}
"""10^6 parameters and 10^9 operations of each config [EDM2 tab. 1]."""


ARITHMETIC = frozenset(
    [
        *("abs", "add", "add_any", "cos", "div", "exp", "integer_pow", "log", "logistic"),
        *("max", "min", "mul", "neg", "pow", "reduce_max", "reduce_sum", "rsqrt", "sin"),
        *("sqrt", "square", "sub", "tanh"),
    ]
)
"""Primitives that count one operation an element."""


def macs(function: Callable, *args: object) -> tuple[int, int]:
    """(multiply-accumulates, all operations) of a function, from its shapes alone.

    >>> x = jax.ShapeDtypeStruct((2, 3), jnp.float32)
    >>> macs(lambda x: jnp.exp(x @ x.T), x)
    (12, 16)
    """
    products, rest = count(jax.make_jaxpr(function)(*args).jaxpr)
    return products, products + rest


def count(jaxpr: core.Jaxpr) -> tuple[int, int]:
    """(multiply-accumulates, other arithmetic); a scan's steps, a cond's dearest branch."""
    products, rest = 0, 0
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        if name == "while":
            raise ValueError("a while loop has no count that is known before it runs")
        inner = [count(sub) for sub in inside(params)]
        if inner:
            each = zip(*inner, strict=True)
            more = max(inner) if name == "cond" else tuple(map(sum, each))
            times = params["length"] if name == "scan" else 1
            products, rest = products + times * more[0], rest + times * more[1]
        else:
            products += product(equation)
            rest += elements(equation) if name in ARITHMETIC else 0
    return products, rest


def product(equation: core.JaxprEqn) -> int:
    """Outputs times fan-in of a convolution or a matrix product, 0 of all else."""
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        fan_in = math.prod(shape[axis] for axis in contracted)
    elif name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        fan_in = math.prod(kernel) // kernel[params["dimension_numbers"].rhs_spec[0]]
    else:
        return 0
    return fan_in * math.prod(equation.outvars[0].aval.shape)


def elements(equation: core.JaxprEqn) -> int:
    """Elements that arithmetic goes over: its outputs, or what a reduction reads."""
    of = equation.invars if equation.primitive.name.startswith("reduce") else None
    return math.prod((of or equation.outvars)[0].aval.shape)


def inside(params: dict) -> Iterator[core.Jaxpr]:
    """The jaxprs that an equation calls."""
    for value in params.values():
        for part in value if isinstance(value, tuple | list) else (value,):
            if isinstance(part, core.ClosedJaxpr):
                yield part.jaxpr
            elif isinstance(part, core.Jaxpr):
                yield part


def measure(network: nn.Module, channels: int = 4, size: int = 64) -> tuple[Any, int, int]:
    """(parameters, multiply-accumulates, operations) of one evaluation on one image.

    The parameters are a tree of shapes.
    """
    of = jax.ShapeDtypeStruct
    label = of((1,), jnp.int32) if network.label_dim else None
    x, c_noise = of((1, size, size, channels), jnp.float32), of((1,), jnp.float32)
    args = (x, c_noise, Condition(label=label))
    variables = jax.eval_shape(network.init, jax.random.key(0), *args)
    return variables["params"], *macs(network.apply, variables, *args)


def total(parameters: Any) -> int:
    """The numbers in all arrays of a tree."""
    return sum(p.size for p in jax.tree.leaves(parameters))


def main() -> None:
    """Prints the table."""
    print(f"{'':12} {'parameters':>14} {'10^9 MACs':>10} {'10^9 op.':>9} {'paper':>7}")
    for name, preset in edm2_presets.TRAINING.items():
        network = UNet(label_dim=1000, model_channels=preset.model_channels)
        row(name, measure(network, 4 if "512" in name else 3), PAPER.get(name))
    for name, (_, paper) in LADDER.items():
        row(f"config {name}", measure(edm2_ablation.experiment(name).network), paper)


def row(name: str, measured: tuple[Any, int, int], paper: float | None) -> None:
    """One line of the table."""
    parameters, products, operations = measured
    line = (
        f"{name:12} {total(parameters):14,} {products / 1e9:10.2f} {operations / 1e9:9.2f}"
    )
    print(line if paper is None else f"{line} {paper:7.1f}", flush=True)


if __name__ == "__main__":
    main()
