"""Published samples of a DiT and a SiT, by our schedules, rows, guidance and solvers.

Their sampler rounds its coefficients to float32. Ours are float64, so that what comes out
differs by 3.4e-8; with the same coefficients rounded, by nothing.
"""

import functools
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.denoisers.parameterizations import TimeLabel
from jaxdiff.interop import dit
from jaxdiff.sampling.guidance import first_channels
from jaxdiff.sampling.solvers.euler_heun_ddim import LeftEndpoint
from jaxdiff.schedules.posterior import LearnedVariance, Posterior
from jaxdiff.types import Condition, NoiseLevel
from tests.model_goldens import FOLDER, cast, close, golden
from tests.toys import follow

DIT, SIT = (np.load(FOLDER / f"{name}_samples.npz") for name in ("dit_a", "sit_a"))
TABLE = jd.Table(jd.LinearBetas())
EPS = jd.Eps(TimeLabel(TABLE, 1000.0, -1.0))


class Entries:
    """Eps of levels that are nearly a table's entries: their own numbers, and r = 1."""

    has_pole_at_pure_noise = True

    def __call__(self, at: NoiseLevel) -> jd.Scaling:
        scaling = EPS(at)
        number = jnp.round(scaling.c_noise)
        return replace(scaling, c_in=jnp.ones_like(number), c_noise=number)


FLOW = jd.Flow(TimeLabel(jd.RectifiedFlow(), -1.0, 1.0))


def nhwc(z: Any, name: str) -> np.ndarray:
    return np.moveaxis(z[name], -3, -1)


@functools.cache
def network(name: str) -> Any:
    """A golden network in float64, compiled once."""
    config = golden(name).config
    net, _, variables = dit.imported(
        golden(name).tensors, config["kind"], config["num_heads"]
    )
    return jax.jit(net.clone(dtype="float64").apply), cast(variables, "float64")


@functools.cache
def denoise(name: str, scale: float, row: Any) -> Any:
    """The denoiser with guidance of three channels, told the labels of the samples."""
    z = {"dit_a": DIT, "sit_a": SIT}[name]
    plain = jd.denoiser(*network(name), row)
    guided = jd.guide(plain, (jd.without(plain, "label"), scale - 1))
    denoiser = plain if scale == 1 else first_channels(guided)
    cond = Condition(jnp.asarray(z["y"], jnp.int32))
    return lambda x, at: denoiser(x, at, cond)


def entries() -> NoiseLevel:
    """The levels of the entries that were kept, from noise to data, and the data."""
    levels = TABLE((DIT["timestep_map"][::-1] + 1) / 1000)
    return NoiseLevel(jnp.append(levels.alpha, 1.0), jnp.append(levels.sigma, 0.0))


def test_the_kept_entries_are_a_section_s_and_told_by_their_numbers(x64: None) -> None:
    kept = jd.section_spacing(1000, (int(DIT["steps"]),))
    assert kept == tuple(DIT["timestep_map"])
    c_noise = EPS(entries()[:-1]).c_noise
    np.testing.assert_allclose(c_noise, kept[::-1], rtol=0, atol=1e-9)


@pytest.mark.parametrize("scale", ["1.0", "2.5"])
@pytest.mark.parametrize("kind", ["ancestral", "ddim"])
def test_published_samples_of_a_dit(kind: str, scale: str, x64: None) -> None:
    solver = {"ancestral": jd.Ancestral(LearnedVariance()), "ddim": jd.DDIM(0.0)}[kind]
    noise = nhwc(DIT, f"ancestral_noise{scale}") if kind == "ancestral" else None
    run = denoise("dit_a", float(scale), EPS)
    out = follow(solver, run, nhwc(DIT, "z"), entries(), noise)[-1]
    close(out, nhwc(DIT, f"{kind}_cfg{scale}"), 5e-8)


def float32(a: Any) -> np.ndarray:
    return np.asarray(a).astype(np.float32).astype(np.float64)


def rounded_rows() -> tuple[NoiseLevel, NoiseLevel, Posterior]:
    """Each step's levels, and what lies between them, from coefficients in float32.

    What is rounded is 1 / alpha and sigma / alpha where a step starts, alpha and sigma
    where it ends, and the posterior's coefficients and log-variances.
    """
    of = np.cumprod(1 - TABLE.betas())[DIT["timestep_map"]]
    to = np.r_[1.0, of[:-1]]
    beta = 1 - of / to
    alpha = 1 / float32(np.sqrt(1 / of))
    at = NoiseLevel(alpha, float32(np.sqrt(1 / of - 1)) * alpha)
    end = NoiseLevel(float32(np.sqrt(to)), float32(np.sqrt(float32(1 - float32(to)))))
    small = beta * (1 - to) / (1 - of)
    small[0] = small[1]
    between = Posterior(
        c_x0=float32(beta * np.sqrt(to) / (1 - of)),
        c_x=float32((1 - to) * np.sqrt(1 - beta) / (1 - of)),
        small=np.exp(float32(np.log(small))),
        large=np.exp(float32(np.log(beta))),
        lands=to == 1,
    )
    return jax.tree.map(lambda a: a[::-1], (at, end, between))


@pytest.mark.parametrize("scale", ["1.0", "2.5"])
@pytest.mark.parametrize("kind", ["ancestral", "ddim"])
def test_published_samples_with_their_rounded_coefficients(
    kind: str, scale: str, x64: None
) -> None:
    at, end, between = rounded_rows()
    ratio = end.sigma / at.sigma
    rule = LeftEndpoint(at, end, ratio, end.alpha - at.alpha * ratio)
    solver, rows = {
        "ancestral": (jd.Ancestral(LearnedVariance()), (at, between)),
        "ddim": (jd.DDIM(0.0), (rule, np.zeros(len(at.alpha)))),
    }[kind]
    run = denoise("dit_a", float(scale), Entries())
    noise = nhwc(DIT, f"ancestral_noise{scale}")
    step = jax.jit(lambda x, row, noise: solver.step(run, x, (), row, lambda _: noise)[0])
    x = jnp.asarray(nhwc(DIT, "z"))
    for i in range(len(at.alpha)):
        x = step(x, jax.tree.map(lambda a, i=i: jnp.asarray(a[i]), rows), noise[i])
    close(x, nhwc(DIT, f"{kind}_cfg{scale}"), 1e-10)


@pytest.mark.parametrize("scale", ["1.0", "1.5"])
def test_published_samples_of_a_sit(scale: str, x64: None) -> None:
    """Heun's last evaluation is at the data itself, which ours leaves out: added here."""
    path, n, run = (
        jd.RectifiedFlow(),
        int(SIT["steps"]),
        denoise("sit_a", float(scale), FLOW),
    )
    levels, start = jd.grids.Uniform()(path, n), nhwc(SIT, "z")
    np.testing.assert_allclose(FLOW(levels).c_noise, np.arange(n + 1) / n, atol=1e-12)
    euler = follow(jd.Euler(), run, start, levels)[-1]
    close(euler, nhwc(SIT, f"euler_cfg{scale}"), 1e-8)
    *_, before, last = follow(jd.Heun(), run, start, levels)
    y = jnp.asarray(SIT["y"], jnp.int32)
    velocity = lambda x, t: guided_velocity(x, jnp.asarray(t), y, float(scale))
    first = velocity(before, 1 - 1 / n)
    np.testing.assert_allclose(last, before - first / n, rtol=0, atol=1e-12)
    heun = before - (first + velocity(last, 1.0)) / (2 * n)
    close(heun, nhwc(SIT, f"heun_cfg{scale}"), 1e-8)


def guided_velocity(x: Any, t: Any, y: Any, scale: float) -> Any:
    """eps - x0 at SiT's time, with guidance of three channels."""
    apply, variables = network("sit_a")
    labelled, unlabelled = (
        apply(variables, x, t, Condition(label)).raw for label in (y, 0 * y - 1)
    )
    guided = unlabelled + scale * (labelled - unlabelled)
    return jnp.where(jnp.arange(4) < 3, guided, labelled)


def test_first_channels_of_another_rule_and_of_all(x64: None) -> None:
    plain = jd.gaussian_denoiser(1.0, 0.5)
    guided = jd.guide(plain, (jd.gaussian_denoiser(0.0, 0.5), 0.5))
    x, at = jnp.ones((1, 2, 2, 4)), NoiseLevel(1.0, 0.5)
    three, four = first_channels(guided)(x, at).x0, first_channels(guided, 4)(x, at).x0
    np.testing.assert_array_equal(four, guided(x, at).x0)
    np.testing.assert_array_equal(three[..., :3], four[..., :3])
    np.testing.assert_array_equal(three[..., 3:], plain(x, at).x0[..., 3:])
    with pytest.raises(
        ValueError, match="count must be a whole number from 1 to 8,192, got 0"
    ):
        first_channels(guided, 0)
    with pytest.raises(TypeError, match=r"first_channels\(\) needs what guide\(\) returns"):
        first_channels(plain)
