"""Does a flipped bit, or an awkward name of a folder, ever change a result silently?

    python benchmarks/saves.py --flips=2000 --restores=500

Four campaigns over files of a tiny network, in one process:

* names: a checkpoint saved and read under each of `NAMES`, and one moved there;
* record: every bit of the file that holds what a checkpoint is of, as JSON and digest say;
* metadata: `--restores` random bits of all files of a checkpoint that hold no array, each
  restored in full, with a whole older checkpoint beside;
* snapshot: `--flips` random bits of a snapshot's file.

What comes of each is counted: whole (all as it was saved), older (the checkpoint before it,
and a warning), one line (a refusal). Anything else, a result that differs or an error of
another kind, is listed and makes the exit status 1.
"""

import dataclasses
import json
import random
import shutil
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags
from tqdm import tqdm

from jaxdiff.commands import command
from jaxdiff.config import Experiment, Sampling
from jaxdiff.networks import UNet
from jaxdiff.optim import EDM2Optimizer
from jaxdiff.runs import checkpoint, record, snapshots, state_parts
from jaxdiff.runs.state import TrainState, ema_variables, init_state
from jaxdiff.runtime import sharding

FLIPS = flags.DEFINE_integer("flips", 2000, "Bits of a snapshot.")
RESTORES = flags.DEFINE_integer("restores", 500, "Bits of a checkpoint's metadata.")
SEED = flags.DEFINE_integer("seed", 0, "Of the random bits.")

TINY = Experiment(
    network=UNet(
        label_dim=10, model_channels=4, channel_mult=(1,), num_blocks=1,
        attn_resolutions=(), channels_per_head=4, logvar_channels=4,
    ),
    optimizer=EDM2Optimizer(stds=(0.1,)),
    sampling=Sampling(steps=2, std=0.1, images=4),
    batch_size=1,
)  # fmt: skip
NAMES = (
    *("plain", "a[1]", "a[x", "a]x", r"b\c", "c*", "d?", "e{f}", "g{", "h%20i", "j#k"),
    *("l m", "n\nnew", "ü", "日本", "🙂", "-x", "--y", "x.", "x ", "  y", "q'", 'q"'),
    *("a:b", "gs:", "file:", "a;b", "a&b", "a|b", "a<b>", "$HOME", "a`b", "a!b", "~t"),
    *("(p)", "a^b", ".....", "a\tb", "a\rb", "a\x01b", "x" * 200, "é" * 100, "\u202e"),
    *("f\udcff", "**", "[!a]"),
)


def mesh() -> jax.sharding.Mesh:
    """One device."""
    return sharding.data_mesh(jax.devices()[:1])


def save(workdir: Path, *states: TrainState) -> None:
    """A checkpoint for each state, from step 1 on."""
    with checkpoint.checkpoints(workdir, keep=9) as saved:
        for step, state in enumerate(states, 1):
            saved.save(step, state, TINY, data={"classes": ["a"], "count": 1, "shape": []})


def equal(one: Any, other: Any) -> bool:
    """Whether two states, or trees of arrays, are the same bit for bit."""
    sums = [state_parts.checksum(tree).tolist() for tree in (one, other)]
    return sums[0] == sums[1]


def judged(read: Callable[[], str]) -> str:
    """What comes of reading: what `read` says, or the kind of error."""
    try:
        with warnings.catch_warnings(record=True) as records:
            warnings.simplefilter("always")
            result = read()
        warned = any("passed over" in str(w.message) for w in records)
        return "older without a warning" if result == "older" and not warned else result
    except (ValueError, OSError) as error:
        text = str(error)
        wrong = "\n" in text or "delete" in text or "another experiment" in text
        return f"not one line: {text[:200]!r}" if wrong else "one line"
    except Exception as error:
        return f"traceback: {error!r}"[:200]


def restored(workdir: Path, states: tuple[TrainState, ...]) -> str:
    """Which of the states a folder gives."""
    with checkpoint.checkpoints(workdir) as saved:
        state, about = saved.restore(mesh())
    if about.experiment != TINY or about.classes != ("a",):
        return "silently different"
    kinds = {1: "older", 2: "whole"} if len(states) == 2 else {1: "whole"}
    return (
        kinds[about.step] if equal(state, states[about.step - 1]) else "silently different"
    )


def names(folder: Path, states: tuple[TrainState, ...]) -> Counter[str]:
    """Saves and reads under awkward names, and reads what was moved there."""
    counts: Counter[str] = Counter()
    save(folder / "healthy", states[0])
    for i, name in enumerate(tqdm(NAMES, unit="name", mininterval=10)):
        at = folder / str(i) / name
        at.mkdir(parents=True)
        counts[judged(lambda at=at: (save(at / "run", states[0]), "whole")[1])] += 1
        counts[judged(lambda at=at: restored(at / "run", states[:1]))] += 1
        shutil.copytree(folder / "healthy", at / "moved")
        counts[judged(lambda at=at: restored(at / "moved", states[:1]))] += 1
    return counts


def records(path: Path) -> Counter[str]:
    """Every bit of a checkpoint's record, read as JSON and opened."""
    content = path.read_bytes()
    kept = lambda text: record.opened(json.loads(text).get("custom_metadata"))
    whole = kept(content)

    def read(flipped: bytes) -> str:
        try:
            return "whole" if kept(flipped) == whole else "silently different"
        except (record.DamagedError, UnicodeDecodeError, json.JSONDecodeError):
            return "damaged"  # an older one is taken

    return Counter(
        judged(lambda bit=bit: read(flip(content, bit)))
        for bit in tqdm(range(8 * len(content)), unit="bit", mininterval=10)
    )


def flip(content: bytes, bit: int) -> bytes:
    """The bytes with one bit of them flipped."""
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def metadata(
    workdir: Path, states: tuple[TrainState, ...], chance: random.Random
) -> Counter[str]:
    """Random bits of the newest checkpoint's files that hold no array, restored."""
    files = [p for p in (workdir / "checkpoints/2").rglob("*") if p.is_file()]
    files = [p for p in files if p.parent.name != "d"]
    counts: Counter[str] = Counter()
    for _ in tqdm(range(RESTORES.value), unit="restore", mininterval=10):
        path = chance.choice(files)
        content = path.read_bytes()
        path.write_bytes(flip(content, chance.randrange(8 * len(content))))
        counts[judged(lambda: restored(workdir, states))] += 1
        path.write_bytes(content)
    return counts


def snapshot(folder: Path, state: TrainState, chance: random.Random) -> Counter[str]:
    """Random bits of a snapshot."""
    variables = jax.tree.map(np.asarray, ema_variables(TINY, state, 0.1))
    one = snapshots.Snapshot(TINY, variables, 0.1, 1, 1, ("a",))
    path = snapshots.write(folder, one, "float32")
    content, counts = path.read_bytes(), Counter()

    def read() -> str:
        stored = snapshots.read(path)
        facts = [dataclasses.replace(s, variables=None) for s in (stored, one)]
        same = vars(facts[0]) == vars(facts[1]) and equal(stored.variables, variables)
        return "whole" if same else "silently different"

    for _ in tqdm(range(FLIPS.value), unit="flip", mininterval=10):
        path.write_bytes(flip(content, chance.randrange(8 * len(content))))
        counts[judged(read)] += 1
    return counts


def main() -> None:
    """Runs the campaigns, prints what came of them."""
    chance = random.Random(SEED.value)
    first = jax.jit(init_state, static_argnums=0)(TINY)
    states = first, dataclasses.replace(first, step=first.step + 1)
    with tempfile.TemporaryDirectory() as there:
        folder = Path(there)
        save(folder / "run", *states)
        campaigns = {
            "record": lambda: records(folder / "run/checkpoints/2/_CHECKPOINT_METADATA"),
            "snapshot": lambda: snapshot(folder / "snapshots", first, chance),
            "metadata": lambda: metadata(folder / "run", states, chance),
            "names": lambda: names(folder / "names", states),
        }
        bad = set()
        for campaign, run in campaigns.items():
            counts = run()
            listed = ", ".join(f"{count} {kind}" for kind, count in counts.most_common())
            print(f"{campaign}: {counts.total()} cases: {listed}", flush=True)
            bad |= counts.keys() - GOOD
    if bad:
        sys.exit(1)


GOOD = {"whole", "older", "one line", "damaged"}
"""What may come of a flipped bit or a name."""


if __name__ == "__main__":
    command.run(main)
