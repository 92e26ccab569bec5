"""Noise awareness guidance of a UNet and of toys: the pages are what their JSON says."""

import re

import numpy as np

from tests.results.pages import Row, page, row, rows, tables

W = (0.0, 0.5, 1.0, 2.0)


def unet(name: str) -> dict[str, object]:
    """The fields of nag_unet.json for a way to sample, as the page names it."""
    solver, steps, *more = name.split(", ")
    of = {"solver": solver.replace("–", ""), "steps": int(steps.split()[0])}
    of |= {"guidance": 0.0, "low": 0.0, "high": 5.0, "run": "nag"}
    options = {"CFG 0.5": {"guidance": 0.5}, "fine-tuned": {"run": "finetune"}}
    options |= {"σ ≤ 1": {"high": 1.0}, "0.2 < σ": {"low": 0.2}}
    for one in more:
        of |= options[one]
    return of


def blocks(name: str, w: float) -> list[Row]:
    """A way's rows, a block each; without guidance the guided levels do not matter."""
    of = unet(name) | {"w": w} | ({} if w else {"low": 0.0, "high": 5.0})
    has = lambda row: all(row.get(field) == value for field, value in of.items())
    return sorted(filter(has, rows("nag_unet")), key=lambda row: row["block"])


def karras(steps: int) -> np.ndarray:
    """ln sigma of the inner levels between 40 and 0.02 [EDM eq. 5]."""
    at = np.linspace(40 ** (1 / 7), 0.02 ** (1 / 7), steps)
    return 7 * np.log(at[1:])


def shifts(name: str, w: float) -> list[str]:
    """At sigma = 1, at 0.3 and at the last level, in the mean over blocks."""
    shift = np.mean([row["shift"] for row in blocks(name, w)], axis=0)
    u = karras(blocks(name, w)[0]["steps"])
    at = [*np.interp(np.log([1.0, 0.3]), u[::-1], shift[::-1]), shift[-1]]
    return [f"{value:+.3f}".replace("-", "−") for value in at]


def test_nag_unet() -> None:
    _, ways, guided, gains = tables("nag_unet")
    for name, *cells in ways:
        used = max(len(blocks(name, w)) for w in W[1:])
        frechet = [[row["frechet"] for row in blocks(name, w)][:used] for w in W]
        shown = [" / ".join(f"{value:.3f}" for value in one) for one in frechet]
        assert cells == [*shifts(name, 0.0), *shown], name
    for i, (name, _, *cells) in enumerate(guided):
        found = [shifts(name, w)[i % 3] if blocks(name, w) else "" for w in W]
        assert cells == found
    for name, *cells in gains:
        run, sigma = name.split(", σ = ")
        values = row("nag_unet", gain_of=run, sigma=float(sigma))["gains"]
        assert cells == [f"{value:+.2f}".replace("-", "−") for value in values]


Judged = tuple[bool, bool, bool, bool]
"""What three rules say, on the way, last, noise, and whether the guidance helped."""


def judged_unet() -> list[Judged]:
    found = []
    for name, *_ in tables("nag_unet")[1]:
        plain = blocks(name, 0.0)
        shift, error = (np.array(plain[0][field]) for field in ("shift", "error"))
        sigma = np.exp(karras(plain[0]["steps"]))
        useful = (sigma > 0.2) & (sigma <= 1)
        on_the_way = shift[useful].mean() > 3 * error[useful].mean()
        falls = [
            min(1 - b["frechet"] / plain[b["block"]]["frechet"] for b in blocks(name, w))
            for w in W[1:]
            if blocks(name, w)
        ]
        last = shift[-1] > 3 * error[-1]
        found.append((on_the_way, last, "Maruyama" in name, max(falls) > 0.02))
    return found


def judged_toys() -> list[Judged]:
    """Of the toys whose guide is no other than the network without the level."""
    lines = [line for table in tables("nag_toys") for line in table]
    number = lambda text: float(text.replace("−", "-"))
    plain = {name: cells for name, w, *cells in lines if w == "0"}
    gained: dict[str, float] = {}
    for name, w, *_, rho, _ in lines:
        if w != "0" and not name.endswith((", B", ", C")):
            before = number(_plain(plain, name)[-2])
            gain = abs(before - 1) - abs(number(rho) - 1)
            gained[name] = max(gained.get(name, 0.0), gain)
    found = []
    for name, gain in gained.items():
        way, last, *_ = _plain(plain, name)
        noisy = name.startswith(("EM", "churn", "r fast"))
        on_the_way = np.mean([number(one) for one in way.split(" / ")]) > 0
        found.append((on_the_way, number(last) > 0, noisy, gain > 0.01))
    return found


def _plain(plain: dict[str, list[str]], name: str) -> list[str]:
    sampler = name.split(",")[0]
    return next(plain[n] for n in (name, sampler, f"{sampler}, A") if n in plain)


def test_the_rules_of_nag_unet() -> None:
    for i, (_, *cells) in enumerate(tables("nag_unet")[0]):
        found = []
        for judged in (judged_toys(), judged_unet()):
            says, helped = [one[i] for one in judged], [one[3] for one in judged]
            pairs = list(zip(says, helped, strict=True))
            right = sum(a == b for a, b in pairs)
            alarms, missed = pairs.count((True, False)), pairs.count((False, True))
            found += [f"{right} of {len(pairs)}", str(alarms), str(missed)]
        assert cells == found
    answer = " ".join(page("nag_unet").split("!")[0].split())
    positive = sum(one[0] for one in judged_unet())
    assert f"of {len(judged_unet())} ways" in answer
    assert f"says of {positive} that states are too noisy" in answer
    assert not any(one[0] and one[3] for one in judged_unet())


def of_nag_unet() -> set[str]:
    """Shifts and distances of the tables, rounded, standard errors, what w = 0.5 costs."""
    cells = (
        cell for table in tables("nag_unet")[1:3] for _, *line in table for cell in line
    )
    numbers = (n for cell in cells for n in re.findall(r"\d+\.\d{3}", cell))
    near = {f"{float(n) + nudge:.2f}" for n in numbers for nudge in (-1e-9, 1e-9)}
    fine = [one for line in tables("nag_unet")[1] for one in blocks(line[0], 0.0)]
    errors = {f"{value:.3f}" for one in fine for value in one["error"]}
    names = [line[0] for line in tables("nag_unet")[1] if "10 steps" not in line[0]]
    pairs = [(n, b) for n in names for b in blocks(n, 0.5)]
    worse = (b["frechet"] - blocks(n, 0.0)[b["block"]]["frechet"] for n, b in pairs)
    return near | errors | {f"{max(worse):.3f}"}
