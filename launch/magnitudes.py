"""Draws how large activations, weights and updates were in training, layer by layer.

    python launch/train.py --config=configs/digits.py --workdir=runs/digits \\
        --config.magnitudes_every=50
    python launch/magnitudes.py --workdirs=runs/digits,runs/other --out=magnitudes.png

A row of panels a run [EDM2 fig. 3], and a table of how far each quantity moved.
"""

import json
from pathlib import Path
from typing import Any

import command
import numpy as np
from absl import flags

from jaxdiff import magnitudes
from jaxdiff.files import write_atomically

WORKDIRS = flags.DEFINE_list("workdirs", None, "Runs with --config.magnitudes_every.")
OUT = flags.DEFINE_string("out", "magnitudes.png", "The picture.")
flags.mark_flags_as_required(["workdirs"])


def main() -> None:
    """Reads, draws, prints."""
    runs = {Path(w).name: _rows(Path(w) / "magnitudes.jsonl") for w in WORKDIRS.value}
    figure = magnitudes.plot(runs)
    write_atomically(Path(OUT.value), lambda f: figure.savefig(f, format="png"))
    print(
        f"{'run':>16} {'':>12} {'first':>10} {'last':>10} {'smallest':>10} {'largest':>10}"
    )
    for name, rows in runs.items():
        for kind in magnitudes.KINDS:
            first, last = (np.array([*rows[i][kind].values()]) for i in (0, -1))
            numbers = (_mean(first), _mean(last), last.min(), last.max())
            print(f"{name:>16} {kind:>12} " + " ".join(f"{v:10.5g}" for v in numbers))
    print(f"first and last are geometric means over layers; {OUT.value}")


def _mean(values: np.ndarray) -> float:
    positive = values[values > 0]
    return float(np.exp(np.log(positive).mean())) if positive.size else 0.0


def _rows(path: Path) -> list[dict[str, Any]]:
    if not path.is_file() or not path.read_text().strip():
        raise FileNotFoundError(
            f"{path} tells nothing: train with --config.magnitudes_every=50"
        )
    return [json.loads(line) for line in path.read_text().splitlines()]


if __name__ == "__main__":
    command.run(main)
