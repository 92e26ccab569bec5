"""Forecasts for accelerators: the tables are what the JSON says."""

import json

import pytest

from tests.results.pages import RESULTS, Row, page, tables


def compiled(case: str) -> Row:
    """A case of benchmarks/accelerators.py."""
    return json.loads((RESULTS / "accelerators.json").read_text())[case]


def state(case: Row) -> int:
    return sum(case["memory"][part] for part in ("parameters", "averages", "moments"))


def sent(case: Row) -> float:
    return sum(size for _, size in map(_number_and_bytes, case["collectives"].values()))


def _number_and_bytes(collective: list | Row) -> tuple[int, float]:
    return tuple(collective.values() if isinstance(collective, dict) else collective)


PLANNED = (
    "xs-v5e",
    "s-v5e-64",
    "s-v6e",
    "s-v5p",
    "s64-v5e",
    "s-v5e-fsdp",
    "m-v5e",
    "xl-v5p",
)

LEFT = {"v5e": "15.75", "v6e": "31.25", "v5p": "95.74"}
"""GiB for a program."""

COLLECTIVES = {
    "all-gather": "all-gathers",
    "all-reduce": "all-reduces",
    "reduce-scatter": "reduce-scatters",
    "collective-permute": "permutes",
}


def test_planned_networks() -> None:
    lines = tables("accelerators")[8]
    for (name, *cells), case in zip(lines, PLANNED, strict=True):
        plan = compiled(f"plan-{case}")
        size, letters = plan["network"].removeprefix("img").split("-")
        assert name.split(", ")[:2] == [letters.upper(), size]
        named = ((many, plan["collectives"].get(one)) for one, many in COLLECTIVES.items())
        assert cells == [
            plan["topology"],
            str(plan["images"]),
            str(plan["fsdp"]),
            f"{state(plan) / 2**30:.2f}",
            f"{plan['memory']['total'] / 2**30:.2f}",
            LEFT[plan["topology"].split(":")[0]],
            f"{plan['flops'] / 1e12:.2f}",
            ", ".join(f"{found[0]} {many}" for many, found in named if found),
            f"{sent(plan) / 2**20:,.0f}",
            f"{sent(plan) / plan['minimum_sent']:.2f}",
        ]
        assert plan["products"]["float32"] == 112
        assert plan["commit"][:7] in page("accelerators")


def of_one_chip(case: Row) -> list[str]:
    """What the tables of EDM2's S say of it: memory but its parts, then numbers."""
    return [
        f"{case['memory']['total'] / 2**30:.2f}",
        f"{case['flops'] / 1e9:,.0f} G",
        f"{1e3 * case['seconds']:.1f}",
        f"{case['images_per_second']:,.0f}",
        f"{case['share_of_peak']:.1%}".replace("%", " %"),
        f"{sent(case) / 1e6:,.0f}, {sent(case) / case['minimum_sent']:.2f}",
    ]


@pytest.mark.parametrize(
    ("number", "cases"),
    [
        (5, ("s-v5e-before", "s-v5e", "s-v5e-fsdp-before", "s-v5e-fsdp")),
        (7, ("s-h100-before", "s-h100", "s-h100-fsdp-before", "s-h100-fsdp")),
    ],
)
def test_networks_compiled_for_one_chip(number: int, cases: tuple[str, ...]) -> None:
    lines = {name.split(",")[0].split(":")[0]: cells for name, *cells in
             tables("accelerators")[number]}  # fmt: skip
    names = (
        "memory",
        "operations a step",
        "time by the",
        "images a second",
        "share of",
        "sent",
    )
    for column, case in enumerate(cases):
        cells = [
            next(v for k, v in lines.items() if k.startswith(n))[column] for n in names
        ]
        cells[0] = cells[0].split(" = ")[1]
        assert cells == of_one_chip(compiled(case))
        assert compiled(case)["commit"][:7] in page("accelerators")


def test_the_time_of_s_by_kind() -> None:
    of_v5e = [compiled(f"s-v5e{case}")["kinds"] for case in ("", "-fsdp-before", "-fsdp")]
    of_h100 = [
        compiled(f"s-h100{case}")["kinds"]
        for case in ("-before", "", "-fsdp-before", "-fsdp")
    ]
    kinds = {name: cells for name, *cells in tables("accelerators")[6]}
    assert {*kinds} == {*of_v5e[0]} == {*of_h100[0]}
    gpu = {name.removeprefix("of it "): cells for name, *cells in tables("accelerators")[7]}
    gpu["convolution and matmul"] = gpu.pop("convolutions and products")
    for name, (_, *cells) in kinds.items():
        assert cells[:3] == [f"{1e3 * kind[name]['seconds']:.1f}" for kind in of_v5e], name
        assert gpu[name] == [f"{1e3 * kind[name]['seconds']:.1f}" for kind in of_h100], name
