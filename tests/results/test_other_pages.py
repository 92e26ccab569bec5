"""Pages of a table or two are what their JSON says."""

import numpy as np
import pytest

from tests.results.pages import over_seeds, row, rows, tables


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
