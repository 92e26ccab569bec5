"""Noise awareness guidance: the page is what its JSON says."""

import itertools
from collections.abc import Iterable
from functools import cache

import numpy as np

from tests.results.pages import SEEDS, Row, cell, page, row, rows, tables
from tests.results.test_nag_unet import Judged, W, judged_toys, judged_unet


def nag_way(data: str, path: str, name: str) -> dict[str, object]:
    """The fields of nag.json for a way to sample, as the page names it."""
    solver, steps, *more = name.split(", ")
    of = {"what": "quality", "data": data, "path": path, "solver": solver}
    of |= {"steps": int(steps.split()[0]), "guidance": 0.0, "low": 0.0, "m": 0.0}
    options = {"CFG 0.5": {"guidance": 0.5}, "0.2 < σ/α": {"low": 0.2}}
    options |= {"fine-tuned": {"kind": "tuned"}}
    for one in more:
        of |= options[one]
    return {"kind": "scratch", **of}


def nag(way: Row, w: float, field: str = "frechet") -> np.ndarray:
    return np.array([row("nag", seed=seed, w=w, **way)[field] for seed in SEEDS])


def nag_shift(way: Row) -> tuple[float, float]:
    """Without guidance: at 0.2 < sigma / alpha <= 1, and the last."""
    ratio, by_level = nag(way, 0.0, "ratio")[0], nag(way, 0.0, "shift").mean(0)
    return by_level[(ratio > 0.2) & (ratio <= 1)].mean(), by_level[-1]


def nag_changes(way: Row) -> dict[float, np.ndarray]:
    """By weight, seed by seed: the distance over that without guidance, less 1."""
    measured = W[1:3] if way["steps"] == 250 else W[1:]
    return {w: nag(way, w) / nag(way, 0.0) - 1 for w in measured}


def nag_best(way: Row) -> float:
    changes = nag_changes(way)
    return min(changes, key=lambda w: np.log1p(changes[w]).mean())


def nag_verdict(way: Row) -> str:
    return nag_outcome(np.log1p(nag_changes(way)[nag_best(way)]))


def nag_outcome(changes: np.ndarray) -> str:
    """By more than 2 % in the mean, and in each seed."""
    if changes.mean() < -0.02 and max(changes) < 0:
        return "helps"
    return "hurts" if changes.mean() > 0.02 and min(changes) > 0 else "neither"


def nag_percent(changes: np.ndarray) -> str:
    return cell(100 * changes, "{:+.0f} ± {:.0f} %")


@cache
def nag_ways() -> list[tuple[str, Row]]:
    """All ways to sample that the page's tables have, with their names."""
    drawn = {(r["data"], r["path"]) for r in rows("nag") if r.get("m") == 0}
    every = itertools.product(("digits", "emoji"), ("flow", "ddpm"))
    lines = zip((of for of in every if of in drawn), tables("nag")[1:-3], strict=True)
    return [(n, nag_way(*of, n)) for of, table in lines for n, *_ in table]


def test_nag_ways() -> None:
    lines = [line for table in tables("nag")[1:-3] for line in table]
    for (name, *cells), (_, way) in zip(lines, nag_ways(), strict=True):
        changes, best = nag_changes(way), nag_best(way)
        expected = [f"{one:+.3f}".replace("-", "−") for one in nag_shift(way)]
        distances = [nag(way, w) if w in {0.0, *changes} else None for w in W]
        expected += ["" if one is None else cell(one) for one in distances]
        expected += [f"{best:g}", nag_percent(changes[best]), nag_verdict(way)]
        assert cells == expected, name
    of = ("data", "path", "solver", "steps", "guidance", "low", "kind")
    drawn = [r for r in rows("nag") if r["what"] == "quality" and not r["m"]]
    every = {tuple(r[field] for field in of) for r in drawn}
    assert every == {tuple(way[field] for field in of) for _, way in nag_ways()}


def test_nag_made_shifts_and_gains() -> None:
    made, gains = tables("nag")[-3:-1]
    for data, m, known, way_shift, last, plain, *cells in made:
        way = nag_way(data, "flow", "Heun, 10 steps") | {"m": float(m)}
        texts = (f"{one:+.3f}" for one in (np.log(float(m)), *nag_shift(way)))
        assert [known, way_shift, last] == [text.replace("-", "−") for text in texts]
        assert plain == cell(nag(way, 0.0), "{:.3f} ± {:.3f}")
        assert cells == [nag_percent(change) for change in nag_changes(way).values()]
    assert len(made) == 12
    for name, m, *cells in gains:
        data, path, *tuned = name.split(", ")
        of = {"what": "gain", "data": data, "path": path}
        of["kind"] = "tuned" if tuned else "scratch"
        found = np.mean([row("nag", seed=s, **of)["gains"] for s in SEEDS], axis=0)
        values = found[:, (0.8, 1.0, 1.2).index(float(m))]
        assert cells == [f"{value:+.2f}".replace("-", "−") for value in values]
    assert len(gains) == 15


def test_nag_variance() -> None:
    variance = tables("nag")[-1]
    for data, name, *cells in variance:
        sampler, *made = name.split(", from m = ")
        of = nag_way(data, "flow", sampler) | {"what": "spread"}
        of |= {"m": float(made[0])} if made else {}
        every = itertools.product(("leading", "rest", "means"), (0.0, 1.0))
        assert cells == [cell(nag(of, w, field)) for field, w in every]
    assert len(variance) == len([r for r in rows("nag") if r["what"] == "spread"]) / 6


def nag_judged(ways: Iterable[Row]) -> list[Judged]:
    found = []
    for way in ways:
        on_the_way, last = nag_shift(way)
        noisy = way["solver"] in {"Euler–Maruyama", "Ancestral"}
        found.append((on_the_way > 0, last > 0, noisy, nag_verdict(way) == "helps"))
    return found


def nag_made() -> list[Row]:
    every = itertools.product(("digits", "emoji"), (0.9, 1.0, 1.05, 1.1, 1.2, 1.4))
    return [nag_way(data, "flow", "Heun, 10 steps") | {"m": m} for data, m in every]


def nag_groups() -> list[list[Judged]]:
    """Of the toys, of the UNet, and of this study."""
    of = lambda data: (way for _, way in nag_ways() if way["data"] == data)
    ours = map(nag_judged, (of("digits"), of("emoji"), nag_made()))
    return [judged_toys(), judged_unet(), *ours]


def test_the_rules_of_nag() -> None:
    lines = tables("nag")[0]
    for i, (_, *cells) in enumerate(lines):
        found = []
        for judged in nag_groups():
            helped = [one[3] for one in judged]
            says = [one[i - 2] if i > 1 else i == 0 for one in judged]
            pairs = list(zip(says, helped, strict=True))
            alarms, missed = pairs.count((True, False)), pairs.count((False, True))
            right = len(pairs) - alarms - missed
            found.append(f"{right} of {len(pairs)} ({alarms}, {missed})")
        assert cells == found
    assert [name for name, *_ in lines[:2]] == ["everywhere", "nowhere"]
    assert [name for name, *_ in lines[2:]] == [name for name, *_ in tables("nag_unet")[0]]


def nag_spread(of: Row, field: str, w: float) -> float:
    return float(nag(of | {"what": "spread"}, w, field).mean())


def test_the_answer_of_nag() -> None:
    answer = " ".join(page("nag").split("!")[0].split())
    ways = [way for _, way in nag_ways()]
    at_best = lambda way: -100 * nag_changes(way)[nag_best(way)].mean()
    falls = sorted(at_best(way) for way in ways if nag_verdict(way) == "helps")
    assert f"gain in {len(falls)} of {len(ways)} ways to sample, by" in answer
    assert f"by {falls[0]:.0f} to {falls[-1]:.0f} %, with a noise shift" in answer
    by_kid = [nag_kid(way) for way in ways]
    assert f"and without, and by KID in {by_kid.count('helps')}." in answer
    assert {nag_verdict(way) for way in nag_made()} == {"helps"}
    digits = {way["m"]: way for way in nag_made() if way["data"] == "digits"}
    right, clean, noisy = (at_best(digits[m]) for m in (1.0, 0.9, 1.4))
    said = f"gain {right:.0f} % from states made by hand with the right noise, shift "
    assert f"{said}{nag_shift(digits[1.0])[0]:+.3f}, {clean:.0f} % from states" in answer
    assert f"and {noisy:.0f} % from those with 1.4 times the noise" in answer
    positive = sum(one[0] for one in judged_unet())
    assert f"too noisy in {positive} of {len(judged_unet())} ways" in answer
    assert not any(one[0] and one[3] for one in judged_unet())
    variance = (nag_spread(digits[1.0], "leading", w) for w in (0.0, 1.0))
    assert "from {:.2f} to {:.2f} of".format(*variance) in answer
    for of in (r for r in rows("nag") if r["what"] == "gain"):  # whatever the state's noise
        inside = [0.2 <= ratio <= 1 for ratio in of["ratio"]]
        assert np.ptp(of["gains"], axis=1)[inside].max() < 0.045


def nag_kid(way: Row, w: float | None = None) -> str:
    """What KID says of a way, as `nag_verdict`, at a weight or at the best by it."""
    of = {w: nag(way, w, "kid") / nag(way, 0.0, "kid") - 1 for w in nag_changes(way)}
    return nag_outcome(of[min(of, key=lambda w: of[w].mean()) if w is None else w])


def test_the_kid_of_nag() -> None:
    text = " ".join(page("nag").split())
    ways = dict(enumerate(nag_ways()))
    own = {i: nag_kid(way) for i, (_, way) in ways.items()}
    of = lambda data: [own[i] for i, (_, way) in ways.items() if way["data"] == data]
    digits, emoji = of("digits"), of("emoji")
    said = f"{digits.count('helps')} of {len(digits)} on digits and "
    said += f"{emoji.count('helps')} of {len(emoji)} on emoji, and rises as surely in "
    hurt = [(way["data"], name) for i, (name, way) in ways.items() if own[i] == "hurts"]
    assert f"{said}{len(hurt)}, Euler–Maruyama on emoji with 100" in text
    em = "Euler–Maruyama, {} steps"
    names = (em.format("100"), em.format("250"), em.format("50") + ", CFG 0.5")
    assert set(hurt) == {("emoji", name) for name in names}
    at = [nag_kid(way, nag_best(way)) for _, way in ways.values()]
    assert f"it falls in {at.count('helps')} ways and rises in {at.count('hurts')}." in text


def nag_way_shift(way: Row, w: float) -> np.ndarray:
    """The shift at 0.2 < sigma / alpha <= 1, a number a seed."""
    ratio = nag(way, 0.0, "ratio")[0]
    return nag(way, w, "shift")[:, (ratio > 0.2) & (ratio <= 1)].mean(1)


def test_what_nag_does_to_the_shift() -> None:
    text = " ".join(page("nag").split())
    sizes = [
        (way["data"], *(abs(nag_way_shift(way, w)) for w in (0.0, 1.0)))
        for _, way in nag_ways()
    ]
    nearer = [data for data, plain, guided in sizes if (guided < plain).all()]
    farther = [data for data, plain, guided in sizes if (guided > plain).all()]
    said = f"nearer 0 in each seed in {len(nearer)} of {len(sizes)} ways, and farther"
    assert f"{said} from it in {len(farther)}, eight of them digits" in text
    assert farther.count("digits") == 8
    for path, name in (("ddpm", "Ancestral, 50 steps"), ("flow", "Euler, 50 steps")):
        way = nag_way("digits", path, name)
        both = (f"{nag_way_shift(way, w).mean():+.3f}" for w in (0.0, 1.0))
        assert " → ".join(both).replace("-", "−") in text


def of_nag() -> set[str]:
    """Perfect draws, the range without guidance, and what the classifier says."""
    floors = {row("nag", what="real", data=d)["floor"] for d in ("digits", "emoji")}
    digits = [way for _, way in nag_ways() if way["data"] == "digits"]
    plain = [nag(way, 0.0).mean() for way in digits]
    ways = ("flow", "Euler–Maruyama, 50 steps"), ("ddpm", "Ancestral, 50 steps")
    said = (nag(nag_way("digits", *of), w, "accuracy") for of in ways for w in (0.0, 2.0))
    accuracy = {f"{100 * one.mean():.1f}" for one in said}
    guided = (
        nag_way_shift(nag_way("digits", *of), 1.0).mean()
        for of in (("ddpm", "Ancestral, 50 steps"), ("flow", "Euler, 50 steps"))
    )
    shown = {f"{one:.2f}" for one in (*floors, min(plain), max(plain))}
    return accuracy | shown | {f"{abs(one):.3f}" for one in guided}
