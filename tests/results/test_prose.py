"""Prose has the numbers of its page's tables, and the index those of the pages."""

import re

import pytest

from tests.results.pages import DECIMAL, page, rows, tables
from tests.results.test_debias import of_debias
from tests.results.test_edm2 import of_edm2_ladder, of_ema_lengths
from tests.results.test_flow_against_score import of_flow
from tests.results.test_improved_ddpm import of_improved_ddpm
from tests.results.test_nag import of_nag
from tests.results.test_nag_unet import of_nag_unet
from tests.results.test_other_pages import of_likelihood, of_toy2d
from tests.results.test_zero_terminal_snr import (
    of_table_or_prediction,
    of_zero_terminal_snr,
)

MEASURED = (
    *("flow_against_score", "table_or_prediction", "debias_order", "edm2_ladder"),
    *("improved_ddpm", "nag", "likelihood"),
)


@pytest.mark.parametrize("name", MEASURED)
def test_each_row_names_its_commits(name: str) -> None:
    made = [row for row in rows(name) if "measured" in row]
    assert made
    for one in made:
        for commits in (one["trained"], one["measured"]):
            assert re.fullmatch(r"[0-9a-f]{7}( [0-9a-f]{7})*", commits), one
            assert all(commit in page(name) for commit in commits.split())


def test_the_index_has_the_numbers_of_the_pages_that_it_links_to() -> None:
    claims = tables("index")[0]
    assert len(claims) > 10
    for claim, _, ours, verdict in claims:
        links = re.findall(r"\((\w+)\.md\)", verdict)
        said = {n for link in links for n in DECIMAL.findall(page(link))}
        assert set(DECIMAL.findall(ours)) - said == set(), claim
        assert re.match(r"\[(holds|holds in part|does not hold here)\]", verdict), claim


SETTINGS = {
    "classifier_guidance": set(),
    "likelihood": {"0.02"},
    "toy2d": {"0.03"},
    "nag_toys": {"0.6", "0.47", "0.3", "0.1", "0.04", "0.003", "1.5"}
    | {"0.97", "0.4", "0.02", "0.03", "0.05"}
    | {"0.83", "0.78", "0.73", "1.11", "1.36", "1.95"},  # of the tables, rounded
    "zero_terminal_snr": {"4.0"},
    "ema_lengths": {"0.021", "0.013", "0.62", "1.8", "12.7"},  # float16, and sums of shares
    "flow_against_score": {"0.3", "0.75", "0.02", "0.36"},
    "table_or_prediction": {"0.42", "0.33", "4.0"},
    "nag": {"0.2", "0.13", "0.34", "0.11", "0.86", "0.04", "4.0"},
    "nag_unet": {"0.2", "0.47", "0.1", "0.01", "0.0005", "0.02", "0.11", "0.09"},
    "edm2_ladder": {
        *("0.05", "0.10", "0.25"),
        *("8.00", "7.24", "6.96", "3.75", "3.02", "2.71", "2.56"),  # the paper's FIDs
        *("0.0", "1.2", "1.9", "2.15", "2.7", "8.3", "9.4", "14.7"),  # earlier trainings
    },
    "debias_order": {"6.9", "0.01", "0.001", "0.1", "4.0"},
    "improved_ddpm": {
        *("0.3", "0.9", "0.997", "0.999", "0.03"),
        *("0.00005", "1.5", "0.01"),  # test_the_weight_of_the_last_entry
        *("6.08", "5.83"),  # a look before the study
    },
}
"""Decimals of a page's method, and of other pages, which no row of its own measures."""

COMPUTED = {
    "classifier_guidance": set,
    "likelihood": of_likelihood,
    "toy2d": of_toy2d,
    "nag_toys": set,
    "zero_terminal_snr": of_zero_terminal_snr,
    "ema_lengths": of_ema_lengths,
    "flow_against_score": of_flow,
    "table_or_prediction": of_table_or_prediction,
    "nag_unet": of_nag_unet,
    "nag": of_nag,
    "debias_order": of_debias,
    "edm2_ladder": of_edm2_ladder,
    "improved_ddpm": of_improved_ddpm,
}


@pytest.mark.parametrize("name", SETTINGS)
def test_every_decimal_in_prose_is_in_a_table_or_is_computed(name: str) -> None:
    text = re.sub(r"^```.*?^```", "", page(name), flags=re.MULTILINE | re.DOTALL)
    prose = "\n".join(line for line in text.splitlines() if not line.startswith("|"))
    cells = {
        n for t in tables(name) for line in t for c in line for n in DECIMAL.findall(c)
    }
    more = COMPUTED[name]() | SETTINGS[name]
    assert set(DECIMAL.findall(prose)) - cells - more == set()
