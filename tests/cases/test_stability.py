"""Steps too long for the noise that a solver adds: samples blow up, and it says so."""

import math
import warnings
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.sampling.grids import Karras, Polyexponential, Uniform
from jaxdiff.sampling.solvers import EulerMaruyama, StochasticHeun
from jaxdiff.sampling.solvers.rows import made_in_float64
from jaxdiff.sampling.solvers.sde import Proportional, SigmaW, _table, excess, stable_ratio
from jaxdiff.types import NoiseLevel

X = jnp.zeros((1, 1))


def warned(solver: Any, levels: NoiseLevel) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        solver.init(X, levels)
    return [str(w.message) for w in caught]


def geometric(ratio: float, steps: int) -> NoiseLevel:
    """Levels far above the data, each `ratio` of the one before."""
    sigma = 1e150 * ratio ** np.arange(steps + 1)
    return NoiseLevel(np.ones_like(sigma), sigma)


def std_of(solver: Any, levels: NoiseLevel) -> float:
    """What 4,000 samples of N(0, 0.5^2) have."""
    keys, toy = jax.random.split(jax.random.key(0), 1000), jd.gaussian_denoiser(0.0, 0.5)
    run = jax.jit(lambda keys: jd.sample(toy, jd.Condition(), keys, (4,), levels, solver))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(run(keys).std())


@pytest.mark.parametrize(
    ("solver", "steps", "enough"),
    [
        (StochasticHeun(), 6, 16),
        (StochasticHeun(Proportional(0.5)), 6, 13),
        (EulerMaruyama(), 6, 10),
        (EulerMaruyama(Proportional(3.0)), 6, 16),
    ],
)
def test_few_steps_are_warned_of_with_how_many_would_do(
    solver: Any, steps: int, enough: int
) -> None:
    [message] = warned(solver, Karras()(None, steps))
    name = type(solver).__name__
    assert message.startswith(
        f"{name} is unstable on this grid of {steps} steps: its noise"
    )
    assert f"take about {enough} steps" in message
    assert not warned(solver, Karras()(None, enough + 4))


def test_the_warning_is_of_what_samples_have() -> None:
    """Six Karras steps: std 94, and 0.5 is right."""
    solver, few, many = StochasticHeun(), Karras()(None, 6), Karras()(None, 32)
    blown = std_of(solver, few)
    assert blown == pytest.approx(94, rel=0.1)
    assert std_of(solver, many) == pytest.approx(0.5, rel=0.05)
    [message] = warned(solver, few)
    # the std that is said is that before the last step, onto the data, which keeps D
    assert f"{blown / 0.5:.3g}"[:2] == message.split("ends ")[1][:2]
    assert not warned(solver, many)


@pytest.mark.parametrize("kind", [EulerMaruyama, StochasticHeun])
@pytest.mark.parametrize("eta", [0.5, 1.0, 2.0])
def test_stability_bound(kind: Any, eta: float) -> None:
    """Errors on long even grids grow below the bound, and are bounded above it."""
    solver = kind(Proportional(eta))
    bound = stable_ratio(solver)
    size = {}
    for ratio in (bound - 0.04, bound + 0.04):
        for steps in (30, 60):
            levels = geometric(ratio, steps)
            rows = made_in_float64(partial(_table, solver), levels)
            size[ratio > bound, steps] = excess(solver, levels, rows)
    assert size[True, 60] < 1.3 * size[True, 30]
    assert size[False, 60] > 1.5 * size[False, 30]


def test_bounds_of_the_reverse_sde() -> None:
    """|2 r - 1| < r, and |3 r - 3 + 1 / r| < r."""
    assert stable_ratio(EulerMaruyama()) == pytest.approx(1 / 3, abs=2e-3)
    assert stable_ratio(StochasticHeun()) == pytest.approx(1 / 2, abs=2e-3)


@pytest.mark.parametrize(
    ("solver", "levels"),
    [
        (StochasticHeun(), Karras()(None, 32)),
        (StochasticHeun(), Uniform()(jd.RectifiedFlow(), 6)),
        (StochasticHeun(SigmaW(), jd.RectifiedFlow()), Karras()(None, 6)),
        (StochasticHeun(Proportional(0.0)), Karras()(None, 6)),
        (EulerMaruyama(), Uniform()(jd.RectifiedFlow(), 4)),
        (EulerMaruyama(), Polyexponential()(None, 24)),
    ],
)
def test_grids_that_are_fine_enough_are_not_warned_of(
    solver: Any, levels: NoiseLevel
) -> None:
    assert not warned(solver, levels)


def test_a_pole_is_named() -> None:
    levels = Uniform()(jd.Cosine(), 6)
    [message] = warned(StochasticHeun(limit=math.inf), levels)
    assert "give it a finite limit, such as limit=1.0" in message


def test_an_infinite_limit_alone_is_advised_against() -> None:
    """Where the noise overflows for another reason, a limit would not help."""
    levels = geometric(0.1, 30)
    messages = warned(StochasticHeun(Proportional(2.0)), levels)  # and of casts to float32
    [message] = [m for m in messages if "unstable" in m]
    assert "limit" not in message


def test_traced_levels_pass() -> None:
    run = jax.jit(lambda levels: StochasticHeun().init(X, levels)[1][0].x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(Karras()(None, 6))


def test_tables_are_made_on_the_cpu_whatever_the_default_device() -> None:
    devices = jax.local_devices(backend="cpu")
    assert len(devices) > 1
    used = []

    def table(levels: NoiseLevel) -> Any:
        used.append((levels.sigma + 1).device)
        return levels.sigma > 1, levels.sigma

    with jax.default_device(devices[1]):
        for levels in (Karras()(None, 3), jax.tree.map(jnp.asarray, Karras()(None, 3))):
            flags, sigma = made_in_float64(table, levels)
            assert (flags.dtype, sigma.dtype) == (bool, np.float64)
    assert used == [devices[0]] * 2
