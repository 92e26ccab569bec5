"""Memory and time of a VAE of the published size, with random weights, by batch.

    python benchmarks/vae.py --out=vae.json
    python benchmarks/vae.py --images=64 --batches=1 --out=vae_time.json  (and the time)

Of each way, type and number of images that a device takes at a time: the parameters, and
what XLA plans for temporary arrays, of which nothing is allocated. With --images it
encodes and decodes so many as jaxdiff encode and jaxdiff sample do: the process' peak
memory, and seconds an image beside the speed of a large matrix product of the same run:
machines differ, and shared ones from minute to minute.
"""

import json
import os
import resource
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from flax import traverse_util

from jaxdiff import networks
from jaxdiff.commands import command
from jaxdiff.data import vae
from jaxdiff.data.vae import DECODER, ENCODER, VAE
from jaxdiff.networks import AutoencoderKL
from jaxdiff.runtime import sharding
from jaxdiff.runtime.files import place, write_atomically

SIZE = flags.DEFINE_integer("size", 256, "Pixels of a side.", 8)
BATCHES = flags.DEFINE_list("batches", ["1", "4", "16"], "Images that a device takes.")
DTYPES = flags.DEFINE_list("dtypes", ["float32", "bfloat16"], "What it computes in.")
IMAGES = flags.DEFINE_integer("images", 0, "How many to encode and decode; 0 none.", 0)
OUT = flags.DEFINE_string("out", None, "The JSON file to write.")
MIB = 2**20


def main() -> None:
    """Measures, prints a table, writes."""
    rows = []
    print(f"jax {jax.__version__}, {jax.device_count()} x {jax.devices()[0].device_kind}")
    for dtype in command.names(DTYPES):
        network = AutoencoderKL(dtype=dtype)
        for batch in map(int, command.names(BATCHES)):
            for way in ("decode", "encode"):
                rows.append(planned(network, way, batch, SIZE.value))
                print(rows[-1], flush=True)
    made = {"load": os.getloadavg(), "device": jax.devices()[0].device_kind, "plans": rows}
    if IMAGES.value:
        made["runs"] = measured(IMAGES.value, SIZE.value, int(BATCHES.value[0]))
        print(*made["runs"], sep="\n")
    if OUT.value:
        text = json.dumps(made, indent=1).encode()
        write_atomically(place(OUT.value), lambda file: file.write(text))


def planned(network: AutoencoderKL, way: str, batch: int, size: int) -> dict[str, Any]:
    """What XLA plans for one device and `batch` images, in MiB, and FLOPs an image."""
    modules = DECODER if way == "decode" else ENCODER
    every = networks.shapes(network, (16, 16, 3))
    own = {n: s for n, s in every.items() if n.split("/")[1] in modules}
    abstract = {n: jax.ShapeDtypeStruct(s, jnp.float32) for n, s in own.items()}
    variables = traverse_util.unflatten_dict(abstract, "/")
    latent = (batch, size // network.factor, size // network.factor, 4)
    rows = jax.ShapeDtypeStruct(latent, jnp.float32)
    if way == "encode":
        rows = jax.ShapeDtypeStruct((batch, size, size, 3), jnp.uint8)
    program = vae._decode if way == "decode" else vae._encode
    lowered = program.lower(network, -1, variables, rows)
    plan = lowered.compile().memory_analysis()
    return {
        "way": way,
        "dtype": network.dtype,
        "size": size,
        "batch": batch,
        "parameters": sum(int(np.prod(shape)) for shape in own.values()),
        "temporary_mib": round(plan.temp_size_in_bytes / MIB),
        "arguments_mib": round(plan.argument_size_in_bytes / MIB),
        "gflop_an_image": round(lowered.cost_analysis()["flops"] / batch / 1e9),
    }


def measured(count: int, size: int, batch: int) -> list[dict[str, Any]]:
    """Time and peak memory of `count` images on all devices; the first call compiles."""
    network, mesh = AutoencoderKL(), sharding.data_mesh()
    draw = np.random.default_rng(0)
    every = networks.shapes(network, (16, 16, 3)).items()
    weights = {n: 0.02 * draw.standard_normal(s, np.float32) for n, s in every}
    opened = VAE(network, traverse_util.unflatten_dict(weights, "/"), batch=batch)
    pixels = draw.integers(0, 256, (count, size, size, 3)).astype(np.uint8)
    side = size // network.factor
    latents = draw.normal(size=(count, side, side, 4)).astype(np.float32)
    ways = {"encode": (opened.encode, pixels), "decode": (opened.decode, latents)}
    rows = []
    for way, (call, inputs) in ways.items():
        call(inputs[: mesh.size * batch], mesh)
        before, start = os.getloadavg()[0], time.perf_counter()
        call(inputs, mesh)
        seconds = (time.perf_counter() - start) / count
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        row = {"way": way, "images": count, "size": size, "batch": batch}
        row |= {"seconds_an_image": round(seconds, 2), "gflops_of_matmul": matmul()}
        rows.append(row | {"peak_rss_mib": round(peak), "load_before": round(before, 1)})
    return rows


def matmul(n: int = 3072) -> int:
    """GFLOP/s of a float32 product of n x n matrices, the best of three."""
    a = jnp.ones((n, n))
    product = jax.jit(lambda a: a @ a)
    product(a).block_until_ready()
    best = np.inf
    for _ in range(3):
        start = time.perf_counter()
        product(a).block_until_ready()
        best = min(best, time.perf_counter() - start)
    return round(2 * n**3 / best / 1e9)


if __name__ == "__main__":
    command.run(main)
