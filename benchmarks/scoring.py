"""How long, and in how much memory, are many images scored by the offline default?

    python benchmarks/scoring.py --number=10000

Writes that many 32 x 32 images of OpenMoji twice, shifted and dimmed at random so that no
two are alike, makes a reference of one set with jaxdiff reference, scores the other with
jaxdiff evaluate, each as a user would, and prints seconds and the peak of resident
memory of each command.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from absl import flags
from jaxtyping import UInt8

from jaxdiff.commands import command
from jaxdiff.data import OpenMoji

ROOT = Path(__file__).parents[1]
NUMBER = flags.DEFINE_integer("number", 10_000, "Images in each set.", lower_bound=10)


def main() -> None:
    """Writes the sets, times the commands."""
    with tempfile.TemporaryDirectory() as folder:
        real, fake, reference = (Path(folder) / n for n in ("a.npz", "b.npz", "ref.npz"))
        for seed, path in enumerate((real, fake)):
            np.savez(path, images=varied(NUMBER.value, seed))
        print(f"{NUMBER.value} images of 32 x 32")
        timed("reference.py", f"--images={real}", f"--out={reference}")
        options = f"--images={fake}", f"--reference={reference}", "--blocks=1"
        print(timed("evaluate.py", *options))


def varied(number: int, seed: int) -> UInt8[np.ndarray, "N 32 32 3"]:
    """Emojis, each rolled by up to 3 pixels and dimmed by up to a quarter."""
    rng = np.random.default_rng(seed)
    source = OpenMoji(size=32).load().source
    images = source.take(rng.integers(len(source), size=number))["image"]
    for image, (dy, dx) in zip(images, rng.integers(-3, 4, (number, 2)), strict=True):
        image[:] = np.roll(image, (dy, dx), (0, 1))
    dimmed = images * rng.uniform(0.75, 1, (number, 1, 1, 1))
    return np.round(dimmed).astype(np.uint8)


def timed(script: str, *arguments: str) -> str:
    """Runs a command, prints what it took, and returns what it said."""
    line = [sys.executable, str(ROOT / "launch" / script), *arguments]
    start = time.perf_counter()
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as process:
        output = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise ValueError(f"{script} failed: {output}")
    seconds, cpu = time.perf_counter() - start, used.ru_utime + used.ru_stime
    peak = used.ru_maxrss / 1024  # kB on Linux
    print(f"{script}: {seconds:.0f} s, {cpu:.0f} s of CPU, peak {peak:.0f} MiB", flush=True)
    return output


if __name__ == "__main__":
    command.run(main)
