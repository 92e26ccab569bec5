"""What would take minutes or gigabytes is refused before any work; so is an empty flag."""

import jax.numpy as jnp
import pytest

import jaxdiff as jd
from jaxdiff.evaluation.likelihood import AdaptiveRule
from jaxdiff.sampling import editing
from jaxdiff.types import NoiseLevel
from tests.cases.commands import run


def test_a_grid_that_goes_up_too_often_is_refused() -> None:
    levels = NoiseLevel(jnp.ones(33), jnp.arange(33.0)[::-1])
    with pytest.raises(ValueError, match="100,000 times 32 steps are more than 100,000"):
        editing.resampled(levels, 1, 100_000)
    assert editing.resampled(levels, 10, 10).sigma.size > 33


@pytest.mark.parametrize("kind", [jd.Adaptive, AdaptiveRule])
def test_tolerances_and_steps_are_bounded(kind: type) -> None:
    with pytest.raises(
        ValueError, match="rtol must be a number from 1e-12 to 1, got 1e-300"
    ):
        kind(rtol=1e-300)
    with pytest.raises(
        ValueError, match=r"max_steps must be .* from 1 to 1,000,000, got 0"
    ):
        kind(max_steps=0)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (["sweep", "--workdir=x"], "--over is missing; see --help"),
        (["likelihood", "--workdir=x", "--by=flow", "--adaptive=1e-300"], "got 1e-300"),
        (["reference", "--config=configs/digits.py", "--out=x.npz", "--extractors="],
         "--extractors=: name one at least, as lite0"),
        (["reference", "--config=configs/digits.py", "--out=x.npz", "--extractors=,"],
         "--extractors=,: name one at least, as lite0"),
        (["evaluate", "--workdir=x", "--extractors="], "--extractors=: name one at least"),
    ],
)  # fmt: skip
def test_flags_that_cannot_be_meant_are_one_line(line: list[str], complaint: str) -> None:
    done = run(*line)
    assert done.status in (1, 2)
    assert complaint in done.err
    assert done.err.count("\n") == 1
