"""Pages of a table or two are what their JSON says."""

import re

import numpy as np
import pytest

from tests.results.pages import SEEDS, over_seeds, page, row, rows, tables


def test_classifier_guidance() -> None:
    for way, w, *cells in tables("classifier_guidance")[0][:-2]:
        one = row("classifier_guidance", way=way, w=float(w))
        expected = [f"{one['accuracy']:.1%}", f"{one['to_train']:.3f}"]
        expected += [f"{one['among']:.3f}", f"{one['copies']:.1%}", f"{one['frechet']:.3f}"]
        assert cells == expected


def test_metrics() -> None:
    """Of faults, sizes and traps, all cells."""
    study, (faults, sizes, traps) = rows("metrics"), tables("metrics")
    spread = lambda values: over_seeds(values, "{:.3g} ± {:.2g}")
    judged = [f"{kind}_lite0" for kind in ("fd", "kid", "rbf", "recall", "coverage")]
    judged.append("brightness")
    lines, clean = iter(faults), None
    for name, fault in study["faults"].items():
        if fault["scores"][0] != clean:
            clean = fault["scores"][0]
            head, *cells = next(lines)
            assert head.startswith("clean")
            assert cells == ["", "", *(spread(clean[metric]) for metric in judged)]
        for level, scores in zip(fault["levels"][1:], fault["scores"][1:], strict=True):
            said, *cells = next(lines)
            assert (said, cells[:2]) == (name, [f"{level:g}", fault["unit"]])
            for cell, metric in zip(cells[2:], judged, strict=True):
                mean = np.mean(scores[metric])
                z = (mean - np.mean(clean[metric])) / np.std(clean[metric], ddof=1)
                value, _, of = cell.strip(")").partition(" (")
                assert value == f"{mean:.3g}"
                assert float(of) == pytest.approx(z, abs=0.51 if abs(z) > 9.9 else 0.051)
    assert next(lines, None) is None
    distances = [
        f"{kind}_{by}" for by in ("lite0", "pixels8") for kind in ("fd", "kid", "rbf")
    ]
    for number, *cells in sizes:
        scores = study["sizes"][number.replace(",", "")]
        assert cells == [spread(scores[metric]) for metric in distances]
    for metric, fresh, *cells in traps:
        of = iter(study["traps"].values())
        assert fresh == spread(next(of)[metric])
        assert cells == [f"{np.mean(scores[metric]):.3g}" for scores in of]


WAYS = ("true", "none", "weak", "cfg", "auto", "other")
MEASURES = ("log_density", "off", "far", "coverage")


def test_toy2d() -> None:
    styles = ("{:.2f} ± {:.2f}", *["{:.1%} ± {:.1%}"] * 3)
    for way, (_, *cells) in zip(WAYS, tables("toy2d")[0], strict=True):
        of = [row("toy2d", way=way, seed=seed) for seed in SEEDS]
        for measure, style, cell in zip(MEASURES, styles, cells, strict=True):
            expected = over_seeds((one[measure] for one in of), style)
            assert cell == expected.replace("%", " %").replace("-", "−")


def over_keys(way: str, measure: str) -> np.ndarray:
    return np.array([row("toy2d", way=way, seed=seed)[measure] for seed in SEEDS])


def of_toy2d() -> set[str]:
    """What autoguidance costs in coverage, with the key that it costs most."""
    return {f"{100 * over_keys(way, 'coverage').min():.1f}" for way in ("auto", "other")}


def test_the_answer_of_toy2d() -> None:
    none, cfg = over_keys("none", "far"), over_keys("cfg", "far")
    assert (cfg < none).sum() == 1
    for way in ("auto", "other"):
        for measure in ("off", "far"):
            assert (over_keys(way, measure) < over_keys("none", measure)).all()
        assert (over_keys(way, "coverage") > over_keys("cfg", "coverage")).all()
    assert (over_keys("cfg", "coverage") < 0.27).all()


def test_likelihood() -> None:
    flows, bounds = tables("likelihood")
    for images, divergence, steps, *cells in flows:
        of = {"images": int(images), "divergence": divergence}
        of["steps"] = int(steps) if steps.isdigit() else steps
        one = row("likelihood", what="flow", **of)
        probes = f"{one['probes']:.4f}" if one["probes"] else ""
        expected = [f"{one['mean']:.4f}", f"{one['error']:.4f}", probes]
        assert cells == [*expected, f"{one['evaluations']:.0f}"]
    for images, steps, *cells in bounds:
        one = row("likelihood", what="bound", images=int(images), steps=int(steps))
        assert cells == [f"{one[n]:.2f}" for n in ("mean", "error", "decoder", "others")]
        assert one["mean"] == pytest.approx(one["decoder"] + one["others"], abs=1e-4)


def of_likelihood() -> set[str]:
    """Bits/dim, rounded, what none can go below, and how far apart ways are."""
    few = [one for one in rows("likelihood") if one["images"] == 8]
    exact, coarse, fine, adaptive = (one["mean"] for one in few)
    assert abs(coarse - exact) / few[1]["probes"] == pytest.approx(1 / 5, abs=0.005)
    many = row("likelihood", what="flow", images=96)
    low = -np.log2(2 / 255 / (many["sigma"] * np.sqrt(2 * np.pi)))
    apart = {f"{fine - coarse:.3f}", f"{fine - coarse:.4f}", f"{adaptive - coarse:.4f}"}
    error = many["error"]
    return apart | {f"{low:.2f}", f"{many['mean']:.2f}", f"{error:.2f}", f"{error:.3f}"}


def test_editing() -> None:
    text = page("editing").replace("\n", " ")
    (rms,) = (one["rms"] for one in rows("editing") if one["what"] == "round trip")
    assert text.count(f"ends {rms:.4f}") == 2
    for strength in (0.3, 0.6):
        sigma = row("editing", what="start", strength=strength)["sigma"]
        assert re.search(f"strength {strength}( on)?, σ = {sigma:.2g}", text)
