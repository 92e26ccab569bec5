"""Is plain einsum or jax.nn.dot_product_attention the faster attention of a block?

    python benchmarks/attention.py

Forward and gradient, medians and quartiles in milliseconds over calls that take turns; the
results are compared first. float32, one device, batch 16, 64 channels a head. On 2 CPU
cores that had much other work, jax 0.10.2, the commit before this file's:

| positions, heads | einsum | jax.nn | ratio |
|---|---:|---:|---:|
| 16, 2 | 0.27 / 0.28 / 0.32 | 0.27 / 0.29 / 0.34 | 0.95 |
| 64, 2 | 1.61 / 1.88 / 2.60 | 3.29 / 3.57 / 3.79 | 0.53 |
| 64, 12 | 10.94 / 11.42 / 14.12 | 13.40 / 14.17 / 15.83 | 0.81 |
| 256, 6 | 110.13 / 116.34 / 127.42 | 137.27 / 142.01 / 160.51 | 0.82 |

So blocks use einsum. No accelerator was asked.
"""

import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Heads = Float[Array, "B L H D"]
SHAPES = ((16, 2), (64, 2), (64, 12), (256, 6))
"""(positions, heads): digits at 4x4 and 8x8, EDM2-S at 8x8, and at 16x16."""


def plain(q: Heads, k: Heads, v: Heads) -> Heads:
    """As jaxdiff.networks.edm2_block attends: k is divided by sqrt(d) before."""
    weight = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k))
    return jnp.einsum("bhqk,bkhd->bqhd", weight, v)


def library(q: Heads, k: Heads, v: Heads) -> Heads:
    """jax.nn's, which chooses an implementation for the device."""
    return jax.nn.dot_product_attention(q, k, v, scale=1.0)


def gradient(attend: Callable[..., Heads]) -> Callable[..., tuple]:
    """The compiled gradient of a sum of squares in q, k and v."""
    return jax.jit(jax.grad(lambda *qkv: jnp.sum(attend(*qkv) ** 2), argnums=(0, 1, 2)))


def main() -> None:
    """Compares, times, prints."""
    print("| positions, heads | einsum | jax.nn | ratio |\n|---|---:|---:|---:|")
    for positions, heads in SHAPES:
        keys = jax.random.split(jax.random.key(0), 3)
        q, k, v = (jax.random.normal(key, (16, positions, heads, 64)) for key in keys)
        k, steps = k / 8, (gradient(plain), gradient(library))
        for a, b in zip(*(step(q, k, v) for step in steps), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
        taken: tuple[list[float], list[float]] = ([], [])
        for _ in range(40):
            for step, times in zip(steps, taken, strict=True):
                start = time.perf_counter()
                jax.block_until_ready(step(q, k, v))
                times.append(1e3 * (time.perf_counter() - start))
        quartiles = [statistics.quantiles(times, n=4) for times in taken]
        cells = [" / ".join(f"{value:.2f}" for value in row) for row in quartiles]
        ratio = quartiles[0][1] / quartiles[1][1]
        print(
            f"| {positions}, {heads} | {cells[0]} | {cells[1]} | {ratio:.2f} |", flush=True
        )


if __name__ == "__main__":
    main()
