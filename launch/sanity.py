"""Shows what metrics say of images whose faults are known, for a data set and extractors.

    python launch/sanity.py --data="OpenMoji(size=32)" --out=docs/results/metrics

Half of the images are the reference, the other half are degraded: by growing noise, blur,
darkening, desaturation, JPEG, warp and missing classes. --splits random halves give a mean
and a standard deviation. Then the two halves against each other at several sizes, which is
all bias; and traps, images that no one wants and some metric rewards, made of a third of
the images and scored beside a fresh third, with another third held out.

Writes OUT.json, OUT.md and OUT.png, and prints whether the metrics grow with each fault.
--extractors other than lite0 and pixels8 need the weights that JAXDIFF_WEIGHTS names.
"""

import ast
import functools
import io
import json
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import command
import numpy as np
from absl import flags
from jaxtyping import Int
from tqdm import tqdm

from jaxdiff import sharding
from jaxdiff.config import from_dict
from jaxdiff.data import Dataset, OpenMoji, openmoji
from jaxdiff.features.extractor import extractor
from jaxdiff.files import write_atomically
from jaxdiff.quality import Observed, copies, observe, sanity, score

DATA = flags.DEFINE_string("data", "OpenMoji(size=32)", "The images.")
EXTRACTORS = flags.DEFINE_list("extractors", "lite0,pixels8", "The first is judged.")
NUMBER = flags.DEFINE_integer("number", 2000, "Images in a half, at most.", 24)
SPLITS = flags.DEFINE_integer("splits", 4, "Random halves.", 2)
SEED = flags.DEFINE_integer("seed", 0, "Of halves, noise and traps.", 0)
BATCH = flags.DEFINE_integer("batch", 256, "Images that an extractor sees at once.", 1)
OUT = flags.DEFINE_string("out", "metrics", "Where to write .json, .md and .png.")

JUDGED = ("fd", "fid", "kid", "rbf")
"""Kinds of metrics that should grow with every fault."""
DROPPED = (1, 2, 4)
"""How many classes are missing, the rarest or the commonest first. All levels are of one
size, 0 too, since a Frechet distance falls with the size."""
SIZES = (100, 200, 500, 1000, 2000, 5000, 10000)
CAUGHT = 3.0
"""Standard deviations worse than fresh images, in every split."""

LEAST = 24
"""Images of a set: well more than the neighbours that metrics look at."""
FRESH = "fresh images"

Numbers = Int[np.ndarray, "..."]
"""Of images, or of their classes."""
Values = dict[str, list[float]]
"""Of each metric, a number for each split."""


@dataclass(frozen=True, eq=False)
class Versions:
    """Sets of images, one after another, as one source; each is made when it is read."""

    sizes: tuple[int, ...]
    make: Callable[[int], sanity.Images]

    def __len__(self) -> int:
        return sum(self.sizes)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": self.take(np.array([index]))["image"][0], "label": -1}

    def take(self, indices: Int[np.ndarray, " B"]) -> dict[str, np.ndarray]:
        """Images of one or more sets."""
        ends = np.cumsum(self.sizes)
        which = np.searchsorted(ends, indices, side="right")
        found: list[Any] = [None] * len(indices)
        for k in np.unique(which):
            made, start = self.make(int(k)), ends[k] - self.sizes[k]
            for place in np.flatnonzero(which == k):
                found[place] = made[indices[place] - start]
        return {"image": np.stack(found), "label": np.full(len(indices), -1, np.int32)}

    def parts(self, seen: Observed) -> list[Observed]:
        """What was seen of all, set by set."""
        ends = np.cumsum(self.sizes)
        spans = zip(ends - self.sizes, ends, strict=True)
        return [sanity.rows(seen, np.arange(a, b)) for a, b in spans]


def main() -> None:
    """Reads, corrupts, scores, writes."""
    data = _data(DATA.value)
    made = [extractor(name) for name in EXTRACTORS.value]
    found = data.load()
    family = _families(data, len(found))
    if len(family) < 48:
        raise ValueError(f"--data: {DATA.value} has {len(family)} images; give 48 or more")
    mesh = sharding.data_mesh()
    look = lambda source: observe(source, made, mesh, batch=BATCH.value, progress=True)
    results = study(found, family, look)
    results |= {"grows": grows(results), "caught": caught(results)}
    said = sentences(results)
    print("\n".join(said))
    out = Path(OUT.value)
    command_line = shlex.join(["python", "launch/sanity.py", *sys.argv[1:]])
    files = {
        ".json": json.dumps(results, indent=1).encode(),
        ".md": page(results, command_line, out.name).encode(),
        ".png": picture(results),
    }
    for suffix, content in files.items():
        path = out.with_name(out.name + suffix)
        write_atomically(path, lambda file, content=content: file.write(content))
    print(f"written: {out}.json, {out}.md and {out}.png")


def study(
    found: Dataset, family: np.ndarray, look: Callable[[Any], Observed]
) -> dict[str, Any]:
    """All numbers, split by split: of faults by level, of sizes and of traps."""
    used = np.sort(sanity.dealt(family, 1, SEED.value)[0][: 2 * NUMBER.value])
    family, every = family[used], found.take(used)
    image, label = every["image"], every["label"]
    deal = lambda parts: [
        _even(sanity.dealt(family, parts, (SEED.value, s))) for s in range(SPLITS.value)
    ]
    halves, thirds = deal(2), deal(3)
    faults = [
        (name, level)
        for name, fault in sanity.CORRUPTIONS.items()
        for level in fault.levels
        if name != "desaturation" or image.shape[-1] == 3
    ]
    source = versions(image, faults, thirds)
    clean, *seen = source.parts(look(source))
    bad, tricks = seen[: len(faults)], seen[len(faults) :]
    made = lambda k: source.make(1 + len(faults) + k)
    return {
        "data": DATA.value, "images": len(image), "shape": image.shape[1:],
        "extractors": EXTRACTORS.value, "splits": SPLITS.value, "seed": SEED.value,
        "half": len(halves[0][0]), "third": len(thirds[0][0]),
        "faults": of_faults(clean, faults, bad, label, halves),
        "sizes": of_sizes(clean, halves),
        "traps": of_traps(clean, tricks, image, thirds, made),
    }  # fmt: skip


def versions(
    image: sanity.Images,
    faults: Sequence[tuple[str, float]],
    thirds: Sequence[Sequence[Numbers]],
) -> Versions:
    """The images, as they are, at each fault and level, and each trap of each split."""
    tricks = [(trap, s) for trap in sanity.TRAPS for s in range(len(thirds))]

    @functools.lru_cache(maxsize=2)
    def make(k: int) -> sanity.Images:
        if k == 0:
            return image
        if k <= len(faults):
            name, level = faults[k - 1]
            parts = enumerate(np.array_split(image, -(-len(image) // 500)))
            apply = sanity.CORRUPTIONS[name].apply
            return np.concatenate([apply(x, level, (SEED.value, k, i)) for i, x in parts])
        trap, s = tricks[k - 1 - len(faults)]
        train, fresh, _ = (image[numbers] for numbers in thirds[s])
        return sanity.TRAPS[trap](train, fresh, (SEED.value, k))

    third = len(thirds[0][0])
    return Versions((len(image),) * (1 + len(faults)) + (third,) * len(tricks), make)


def of_faults(
    clean: Observed,
    faults: Sequence[tuple[str, float]],
    bad: Sequence[Observed],
    label: Numbers,
    halves: Sequence[Sequence[Numbers]],
) -> dict[str, Any]:
    """The second halves degraded, against the first as they are; level 0 is clean."""
    real = [sanity.rows(clean, first) for first, _ in halves]
    against = lambda seen, numbers: _together(
        [
            score(real=r, fake=sanity.rows(seen, n))
            for r, n in zip(real, numbers, strict=True)
        ]
    )
    second = [numbers for _, numbers in halves]
    none, found = against(clean, second), {}
    bar = tqdm(zip(faults, bad, strict=True), "Scoring faults", len(bad), disable=None)
    for (name, level), seen in bar:
        unit = sanity.CORRUPTIONS[name].unit
        fault = found.setdefault(name, {"unit": unit, "levels": [0], "scores": [none]})
        fault["levels"].append(level)
        fault["scores"].append(against(seen, second))
    classes, counts = np.unique(label, return_counts=True)
    rare = classes[np.argsort(counts, kind="stable")]
    for which, order in (("rare", rare), ("common", rare[::-1])):
        levels = [0, *(level for level in DROPPED if level < len(classes))]
        left = [
            [n[sanity.kept(label[n], order[:level])] for n in second] for level in levels
        ]
        size = min(len(numbers) for numbers in left[-1])
        if len(levels) > 1 and size >= LEAST:
            scores = [against(clean, [n[:size] for n in numbers]) for numbers in left]
            fault = {"unit": f"of {len(classes)}, {size} images", "levels": levels}
            found[f"missing {which} classes"] = fault | {"scores": scores}
    return found


def of_sizes(clean: Observed, halves: Sequence[Sequence[Numbers]]) -> list[dict[str, Any]]:
    """Half against half, N images of each, up to four times a split."""
    half, found = len(halves[0][0]), []
    for size in [*(n for n in SIZES if n < half), half]:
        starts = range(0, half - size + 1, size)[:4]
        pairs = [[n[a : a + size] for n in pair] for pair in halves for a in starts]
        sets = ((sanity.rows(clean, a), sanity.rows(clean, b)) for a, b in pairs)
        scores = _together([score(real=a, fake=b) for a, b in sets])
        found.append({"images": size, "scores": scores})
    return found


def of_traps(
    clean: Observed,
    tricks: Sequence[Observed],
    image: sanity.Images,
    thirds: Sequence[Sequence[Numbers]],
    made: Callable[[int], sanity.Images],
) -> dict[str, Values]:
    """Traps against the third they may know, with as many held out; fresh images first.

    `made` gives the images that `tricks` are of. Fresh images are scored in all three
    turns of each split.
    """

    def judged(seen: Observed, x: sanity.Images, real: Numbers, out: Numbers) -> Any:
        near = copies(x, image[real], image[out])
        found = score(real=sanity.rows(clean, real), fake=seen)
        return found | {"nearer": near.nearer, "ratio": near.ratio}

    turns = [(p[i], p[i - 2], p[i - 1]) for p in thirds for i in range(3)]
    bar = tqdm(total=len(turns) + len(tricks), desc="Scoring traps", disable=None)
    fresh = []
    for real, new, out in turns:
        fresh.append(judged(sanity.rows(clean, new), image[new], real, out))
        bar.update()
    found = {FRESH: _together(fresh)}
    for t, trap in enumerate(sanity.TRAPS):
        scores = []
        for s, (real, _, out) in enumerate(thirds):
            k = t * len(thirds) + s
            scores.append(judged(tricks[k], made(k), real, out))
            bar.update()
        found[trap] = _together(scores)
    bar.close()
    return found


def grows(results: Mapping[str, Any]) -> dict[str, dict[str, bool]]:
    """Of the metrics judged and each fault: whether the mean grows level by level."""
    judged = [m for m in _metrics(results) if _judged(m, results["extractors"][0])]
    faults = results["faults"].items()
    return {m: {name: _grows(_means(f, m)) for name, f in faults} for m in judged}


def caught(results: Mapping[str, Any]) -> dict[str, list[str]]:
    """Of each trap, the metrics that catch it."""
    traps = (trap for trap in results["traps"] if trap != FRESH)
    return {t: [m for m in results["traps"][t] if _caught(results, t, m)] for t in traps}


def sentences(results: Mapping[str, Any]) -> list[str]:
    """What `grows` and `caught` have found."""
    failed = [
        f"{metric} does not grow with {fault}: {_said(results, fault, metric)}"
        for metric, found in results["grows"].items()
        for fault, well in found.items()
        if not well
    ]
    whole = f"{', '.join(results['grows'])} grow with every fault, level by level."
    traps = results["caught"].items()
    return (failed or [whole]) + [
        f"{trap}: caught by {', '.join(by) or 'NO METRIC'}" for trap, by in traps
    ]


def page(results: Mapping[str, Any], command_line: str, name: str) -> str:
    """What is found, as Markdown."""
    r, said = results, sentences(results)
    count = len(said) - len(r["caught"])
    lines = [
        f"# What metrics say of degraded images: {r['data']}", "",
        f"    {command_line}", "",
        f"{r['images']:,} images, {r['splits']} random splits; reference and degraded half "
        f"of {r['half']:,} images each.", "",
        f"![Metrics under faults]({name}.png)", "",
        "## Faults", "",
        *(f"**{line}**\n" for line in said[:count]),
        "Means over splits; in brackets z = (metric − mean of clean) / sd of clean. "
        "Missing are the rarest classes or the commonest, of sets of one size, of which a "
        "clean row is given too.",
        *_fault_table(r), "",
        "Grows (▲), falls (▼) or neither (–), level by level:", "",
        *_table(["metric", *r["faults"]], (
            [m, *(_trend(_means(f, m)) for f in r["faults"].values())]
            for m in _metrics(r)
        )), "",
        "## Half against half: the bias over N", "",
        *_size_table(r), "",
        "## Traps", "",
        f"Thirds of {r['third']:,} images. Bold: more than {CAUGHT:g} standard deviations "
        "worse than fresh images, in every split.", "",
        *_table(["metric", *r["traps"]], (
            [m, *(_trapped(r, trap, m) for trap in r["traps"])] for m in r["traps"][FRESH]
        )), "",
        *(f"* {line}" for line in said[count:]), "",
    ]  # fmt: skip
    return "\n".join(lines)


def _fault_table(results: Mapping[str, Any]) -> list[str]:
    """A table for each extractor; clean rows wherever they differ from those above."""
    lines: list[str] = []
    for names in _columns(results):
        cells, clean = [], None
        for fault, found in results["faults"].items():
            for level, scores in zip(found["levels"], found["scores"], strict=True):
                if level:
                    texts = [_cell(scores[m], clean[m]) for m in names]
                    cells.append([fault, f"{level:g}", found["unit"], *texts])
                elif scores != clean:
                    clean = scores
                    which = f"clean, for {fault}" if cells else "clean"
                    cells.append([which, "", "", *(_spread(scores[m]) for m in names)])
        lines += ["", *_table(["fault", "level", "unit", *names], cells, left=3)]
    return lines


def _size_table(results: Mapping[str, Any]) -> list[str]:
    names = [m for m in _metrics(results) if m.split("_")[0] in JUDGED]
    sizes = results["sizes"]
    cells = [[f"{s['images']:,}", *(_spread(s["scores"][m]) for m in names)] for s in sizes]
    return _table(["N", *names], cells)


def picture(results: Mapping[str, Any]) -> bytes:
    """z over level, a panel a fault, and the Frechet distance over N: a PNG."""
    from matplotlib.figure import Figure

    faults = results["faults"]
    figure = Figure(figsize=(13, 8.6), dpi=80, layout="constrained")
    panels = figure.subplots(3, 3).flat
    names = [m for m in _metrics(results) if m.split("_")[0] in JUDGED]
    look = {m: (COLOURS[i % 3], DASHES[i // 3 % 3]) for i, m in enumerate(names)}
    for axes, (fault, found) in zip(panels, faults.items(), strict=False):
        for m in names:
            clean = np.array(found["scores"][0][m])
            z = sanity.deviation(np.array(_means(found, m)), clean)
            colour, dash = look[m]
            axes.plot(found["levels"], z, color=colour, ls=dash, marker="o", ms=3)
        axes.axhline(CAUGHT, color="#999999", lw=0.7)
        axes.set_yscale("symlog", linthresh=CAUGHT)
        axes.set_ylim(bottom=-CAUGHT)
        axes.set(title=fault, xlabel=found["unit"], ylabel="z   [sd of clean]")
    *_, axes = figure.axes
    sizes = [size["images"] for size in results["sizes"]]
    for m in (m for m in names if m.startswith(("fd", "fid"))):
        means = [np.mean(size["scores"][m]) for size in results["sizes"]]
        axes.loglog(sizes, means, color=look[m][0], ls=look[m][1], marker="o", ms=3)
        fall = means[0] * sizes[0] / np.array(sizes)
        axes.loglog(sizes, fall, color="#999999", lw=0.7)
    axes.set(title="half against half", xlabel="N   (thin: 1 / N)", ylabel="FD")
    axes.set_xticks(sizes[::2], [str(n) for n in sizes[::2]])
    axes.minorticks_off()
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#E6E6E6", lw=0.6)
    for axes in list(figure.axes)[len(faults) : -1]:
        axes.set_visible(False)
    lines = [figure.axes[0].lines[i] for i in range(len(names))]
    figure.legend(lines, names, loc="outside right center", frameon=False)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


COLOURS, DASHES = ("#0072B2", "#D55E00", "#009E73"), ("-", (0, (4, 1.5)), (0, (1, 1)))


def _data(text: str) -> Any:
    """The data that a command line names, as in OpenMoji(size=32).

    Raises:
        ValueError: no such data, or data that are no images.
    """
    try:
        node = ast.parse(text, mode="eval").body
        call = node if isinstance(node, ast.Call) else ast.Call(node, [], [])
        fields = {k.arg: ast.literal_eval(k.value) for k in call.keywords}
        if call.args or not isinstance(call.func, ast.Name):
            raise ValueError
    except (SyntaxError, ValueError):
        raise ValueError(
            f"--data: {text!r} names no data: write such as OpenMoji(size=32), Digits() or "
            'Folder(path="photos", size=64)'
        ) from None
    data = from_dict({"type": f"data.{call.func.id}", **fields}, "--data")
    if len(getattr(data, "shape", ())) != 3 or data.shape[-1] not in (1, 3):
        raise ValueError(f"--data: {text} is no set of images; take OpenMoji or Folder")
    return data


def _families(data: Any, count: int) -> np.ndarray:
    """What each image is a variant of: OpenMoji's base; of others, itself."""
    if not isinstance(data, OpenMoji) or not data.skin_tones:
        return np.arange(count)
    codes = [path.stem for path in openmoji.drawings()]
    image = openmoji.rendered(data.size, data.cache)
    chosen = (codes[i] for i in openmoji.chosen(image, codes, data.skin_tones))
    wanted = data.split == "test"
    kept = (c for c in chosen if data.split == "all" or openmoji.is_test(c) == wanted)
    return np.array([openmoji.base(code) for code in kept])


def _even(parts: Sequence[Numbers]) -> list[Numbers]:
    """All as long as the shortest."""
    least = min(len(part) for part in parts)
    return [part[:least] for part in parts]


def _together(scores: Sequence[Mapping[str, float]]) -> Values:
    return {name: [score[name] for score in scores] for name in scores[0]}


def _metrics(results: Mapping[str, Any]) -> list[str]:
    return list(results["sizes"][0]["scores"])


def _judged(metric: str, name: str) -> bool:
    kind, _, of = metric.partition("_")
    return kind in JUDGED and of == name.removeprefix("inception_")


def _means(found: Mapping[str, Any], metric: str) -> list[float]:
    """Of each level, over splits."""
    return [float(np.mean(scores[metric])) for scores in found["scores"]]


def _grows(means: Sequence[float]) -> bool:
    return bool(np.all(np.diff(means) > 0))


def _trend(means: Sequence[float]) -> str:
    return "▲" if _grows(means) else "▼" if _grows([-m for m in means]) else "–"


def _caught(results: Mapping[str, Any], trap: str, metric: str) -> bool:
    values, clean = (np.array(results["traps"][t][metric]) for t in (trap, FRESH))
    return sanity.worse(metric, values, clean) > CAUGHT


def _columns(results: Mapping[str, Any]) -> list[list[str]]:
    """Metrics by extractor; those of none go with the last."""
    shorts = [n.removeprefix("inception_") for n in results["extractors"]]
    tables = [[m for m in _metrics(results) if m.endswith(f"_{s}")] for s in shorts]
    tables[-1] += [m for m in _metrics(results) if not any(m in t for t in tables)]
    return tables


def _cell(values: Sequence[float], clean: Sequence[float]) -> str:
    z = sanity.deviation(np.array([np.mean(values)]), np.array(clean))[0]
    return f"{np.mean(values):.3g} ({z:.{int(abs(z) < 9.95)}f})"


def _spread(values: Sequence[float]) -> str:
    return f"{np.mean(values):.3g} ± {np.std(values, ddof=1):.2g}"


def _said(results: Mapping[str, Any], fault: str, metric: str) -> str:
    return ", ".join(f"{m:.4g}" for m in _means(results["faults"][fault], metric))


def _trapped(results: Mapping[str, Any], trap: str, metric: str) -> str:
    values = results["traps"][trap][metric]
    if trap == FRESH:
        return _spread(values)
    mean = f"{np.mean(values):.3g}"
    return f"**{mean}**" if _caught(results, trap, metric) else mean


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> list[str]:
    rule = ["---"] * left + ["---:"] * (len(head) - left)
    return [f"| {' | '.join(row)} |" for row in (head, rule, *rows)]


if __name__ == "__main__":
    command.run(main)
