"""JSON and expressions that were edited or damaged give their value, or one line."""

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff import evaluation
from jaxdiff.analysis import save_curves
from jaxdiff.config import TYPES, Experiment, allowed, expressions, from_dict, to_dict
from jaxdiff.config.registry import KINDS
from jaxdiff.evaluation.distances import Moments
from jaxdiff.evaluation.extractors.extractor import NETWORKS, Extractor
from jaxdiff.evaluation.reference import Observed, Seen
from jaxdiff.runtime import jsontext
from jaxdiff.train import writers
from jaxdiff.types import Grid, Solver, Times

NESTED: Any = 1
for _ in range(600):
    NESTED = [NESTED]

OTHERS = (
    *([], {}, "", "x", None, True, -1, 0, 1.5, 1e30, -1e30, 10**40, 10**290),
    *(float("nan"), float("inf"), [[]], [1, 2, 3], {"type": []}, {"type": {}}),
    *({"type": "x"}, {"type": None}, to_dict(jd.Heun()), to_dict(jd.Cosine())),
    *(to_dict(Experiment()), NESTED, "x" * 5000, list(range(1000))),
)
"""What parts of a document are replaced by, in turn."""


def places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """All (container, key) of a tree of lists and objects."""
    inside = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in list(inside):
        yield tree, key
        if isinstance(value, dict | list):
            yield from places(value)


def one_line(read: Callable[[], Any]) -> Any:
    """What `read` gives, or the one short line that it refuses with."""
    try:
        return read()
    except (ValueError, OSError) as error:
        line = str(error)
        assert line
        assert "\n" not in line
        assert len(line) < 3000
        return line


@pytest.fixture(scope="module")
def whole() -> str:
    return json.dumps(to_dict(Experiment(schedule=jd.Table(jd.ListedBetas((0.1, 0.2))))))


def test_each_part_of_an_experiment_may_be_anything(whole: str) -> None:
    refused = 0
    for n in range(len(list(places(json.loads(whole))))):
        for other in random.Random(n).sample(OTHERS, 2):
            tree = json.loads(whole)
            container, key = list(places(tree))[n]
            container[key] = other
            result = one_line(lambda tree=tree: from_dict(tree, "config", Experiment))
            refused += isinstance(result, str)
            assert isinstance(result, str | Experiment)
    assert refused > 100


@pytest.mark.parametrize("other", OTHERS, ids=lambda value: str(value)[:20])
def test_something_else_is_no_experiment(other: Any) -> None:
    if other == to_dict(Experiment()):
        assert from_dict(other, "config", Experiment) == Experiment()
        return
    line = one_line(lambda: from_dict(other, "experiment", Experiment))
    assert line.startswith("experiment")


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"schedule": []}, r"^config.schedule must be one of schedules.*; got \(\)$"),
        ({"schedule": "Cosine"}, "^config.schedule must be one of schedules"),
        ({"schedule": None}, r"^config.schedule must be one of schedules.*; got None$"),
        ({"schedule": {"type": ["x"]}}, r"^config.schedule.type is \['x'\]; known: "),
        ({"schedule": {"type": {"a": 1}}}, r"^config.schedule.type is \{'a': 1\}; known: "),
        ({"schedule": to_dict(jd.LinearBetas())}, "^config.schedule must be one of"),
        (
            {"loss_scale": 10**400},
            "^config.loss_scale must be a number above 0, .* digits$",
        ),
        ({"data": {"type": "data.Folder", "path": 3}}, "^config.data.path must be"),
    ],
)
def test_the_field_is_named(change: dict, line: str) -> None:
    with pytest.raises(ValueError, match=line):
        from_dict({**to_dict(Experiment()), **change}, kind=Experiment)


def test_betas_and_schedules_are_not_taken_for_each_other() -> None:
    with pytest.raises(ValueError, match=r"betas must be one of schedules.CosineBetas"):
        from_dict({"type": "schedules.Table", "betas": to_dict(jd.Cosine())})
    with pytest.raises(ValueError, match=r"label must be one of parameterizations.Angle"):
        from_dict({"type": "parameterizations.V", "label": to_dict(jd.EDM())})


def test_every_type_is_what_its_part_of_the_table_says() -> None:
    for kind, group in KINDS.items():
        assert allowed(kind), kind
        assert all(name.startswith(f"{group}.") for name in allowed(kind))
    stands_somewhere = {name for kind in KINDS for name in allowed(kind)}
    alone = ("config.",)
    assert {n for n in TYPES if not n.startswith(alone)} == stands_somewhere


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "it is not valid JSON: "),
        ("[1]", r"it must hold a JSON object, got \[1\]"),
        ("[" * 100_000, "it is nested more than 100 deep"),
        ("[" * 150 + "]" * 150, "it is nested more than 100 deep"),
        ('{"a": ' + "9" * 5000 + "}", "a number of 5,000 digits"),
        ('{"a": 1, "a": 2}', "it has 'a' twice"),
        (b"\xff\xfe\x00", "it is not valid JSON: "),
        (b" " * (2**26 + 1), "bytes of JSON, over"),
        ("[" + "[]," * 2**21 + "[]]", "lists and elements, over 4,194,304"),
        (b"{}," * 2**20, "lists and elements, over 4,194,304"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_texts_that_are_no_document(text: str | bytes, line: str) -> None:
    with pytest.raises(ValueError, match=line) as error:
        jsontext.loads(text, "it")
    assert len(str(error.value)) < 200


def test_lines_that_a_kill_has_cut_are_passed_over() -> None:
    lines = ['{"step": 1}\n', "[]\n", "3\n", "[" * 9999 + "\n", "\n", '{"step": 2}', '{"st']
    assert [row["step"] for row in jsontext.objects(lines)] == [1, 2]


def test_curves_are_drawn_of_damaged_metrics(tmp_path: Path) -> None:
    rows = [{"step": n, "loss": 1 / n, "learning_rate": 0.1} for n in (1, 2, 3)]
    lines = [json.dumps(row) for row in rows]
    wrong = ['{"step": 4, "loss": "x"}', '{"loss": 1}', '{"step": [], "loss": null}', "[1]"]
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text("\n".join([*lines, *wrong, '{"step": ']))
    save_curves(tmp_path / "curves.png", metrics)
    assert (tmp_path / "curves.png").stat().st_size > 1000


@pytest.mark.parametrize(
    "text", ["[]", '{"id": 3, "step": 1}', '{"id": "x"}', '{"id": "x", "step": Infinity}']
)
def test_what_a_run_is_called_elsewhere_may_be_damaged(text: str, tmp_path: Path) -> None:
    path = tmp_path / "wandb.json"
    path.write_text(text)
    assert str(path) in one_line(lambda: writers._known(path, "run"))


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    name, network = "pixels8", NETWORKS["pixels8"]
    extractor = Extractor(name, network.preprocessing, 4, "", {})
    seen = Seen(extractor, Moments(9, np.zeros(4), np.eye(4)), None)
    path = tmp_path_factory.mktemp("reference") / "ref.npz"
    evaluation.save(path, Observed("data", (8, 8, 3), {name: seen}))
    with np.load(path) as arrays:
        return dict(arrays)


def test_each_part_of_a_reference_may_be_anything(
    reference: dict[str, np.ndarray], tmp_path: Path
) -> None:
    whole = str(reference["meta"])
    for n in range(len(list(places(json.loads(whole))))):
        for other in OTHERS:
            meta = json.loads(whole)
            container, key = list(places(meta))[n]
            container[key] = other
            path = tmp_path / "ref.npz"
            np.savez(path, **{**reference, "meta": np.array(json.dumps(meta))})
            one_line(lambda path=path: evaluation.load(path))
    for count in (np.inf, np.nan, 2.7, 9.0, -1, 0, 1, 10**18, np.zeros(3, int), True):
        np.savez(path, **{**reference, "pixels8/count": np.array(count)})
        with pytest.raises(ValueError, match="count must be a whole number from 2"):
            evaluation.load(path)


WRITTEN = (
    "Heun(churn=4.0, churn_max=inf)",
    "DPMSolverPP(order=3, eta=1.0, variant='midpoint')",
    "EulerMaruyama(SigmaW(norm=2.0), clock=Shifted(of=Cosine(), factor=2.0), limit=inf)",
    "Ancestral(variance=LargeVariance())",
    "Karras(sigma_min=0.01, rho=3)",
    "Listed((2.0, 1.0, 0.0))",
    "Stratified(of=Uniform(low=0.5))",
)
PIECES = (
    *(
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        ",",
        "=",
        "'",
        '"',
        "-",
        "*",
        "**",
        ".",
        ":",
        "\n",
        "\\",
    ),
    *("inf", "nan", "None", "True", "1e999", "10**400", "lambda: 0", "9" * 5000, "\0", "é"),
    *("Heun()", "Cosine", "__import__('os')", "(" * 300, "-" * 300, "for x in y", "f'{x}'"),
)


def test_expressions_with_anything_in_them() -> None:
    seeded = random.Random(5)
    read = 0
    for n in range(1500):
        text = WRITTEN[n % len(WRITTEN)]
        for _ in range(seeded.randint(1, 3)):
            start = seeded.randrange(len(text) + 1)
            end = min(start + seeded.randrange(4), len(text))
            text = text[:start] + seeded.choice(PIECES) + text[end:]
        for kind in (Solver, Grid, Times):
            result = one_line(lambda text=text, kind=kind: expressions.parse(text, kind))
            assert not isinstance(result, str) or len(result) < 600
            read += not isinstance(result, str)
    assert read


@pytest.mark.parametrize(
    "text",
    [
        "Heun(churn=[1, 2])",
        "Heun(churn={})",
        "Heun(churn=10**400)",
        "Heun(churn=" + "9" * 4000 + ")",
        "Heun(churn='" + "x" * 9000 + "')",
        "EulerMaruyama(clock=" + "Shifted(" * 300 + "Cosine" + ", 2)" * 300 + ")",
        "Heun" + "()" * 4000,
        "x" * 10**7,
    ],
    ids=lambda text: text[:24],
)
def test_hostile_expressions_are_one_short_line(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w") as error:
        expressions.parse(text, Solver)
    assert len(str(error.value)) < 400
    assert "\n" not in str(error.value)
