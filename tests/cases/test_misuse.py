"""The usual mistakes with the verbs of the library: one line from where the value enters.

The verbs are called without the checks of annotations that run under pytest alone.
"""

import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff import sampling
from jaxdiff.evaluation import likelihood
from jaxdiff.sampling import editing
from jaxdiff.types import Condition, Denoised, NoiseLevel, Output

TOY = jd.gaussian_denoiser(0.0, 0.5)
KEY = jax.random.key(0)
KEYS = jax.random.split(KEY, 2)
LEVELS = jd.grids.Karras()(None, 3)
IMAGES = jnp.zeros((2, 4, 4, 3))
NETWORK = SimpleNamespace(apply=lambda *_: None, init=lambda *_: None)
RUN = SimpleNamespace(denoise=TOY, experiment=None)
MEAN = lambda params, x, c_noise, cond: Output(x)


def plain(verb: Callable, *args: Any, **named: Any) -> Any:
    return inspect.unwrap(verb)(*args, **named)


def sample(**changed: Any) -> Any:
    args = {
        "denoise": TOY,
        "cond": Condition(),
        "keys": KEYS,
        "shape": (4, 4, 3),
        "levels": LEVELS,
        "solver": jd.Euler(),
    }
    return plain(jd.sample, **args | changed)


def trajectory(**changed: Any) -> Any:
    args = {"denoise": TOY, "cond": Condition(), "keys": KEYS, "x": IMAGES}
    return plain(
        sampling.trajectory, **args | {"levels": LEVELS, "solver": jd.Euler()} | changed
    )


def follow(**changed: Any) -> Any:
    args = {"denoise": TOY, "cond": Condition(), "keys": KEYS, "x": IMAGES}
    return plain(
        sampling.follow, **args | {"levels": LEVELS, "solver": jd.Euler()} | changed
    )


def denoise_by(apply: Any) -> Any:
    denoise = plain(jd.denoiser, apply, {}, jd.V())
    return plain(denoise, IMAGES, NoiseLevel(0.6, 0.8))


CASES = {
    "solver class": (
        lambda: sample(solver=jd.Euler),
        r"solver is the class Euler: .*Euler\(\)",
    ),
    "solver name": (lambda: sample(solver="Heun"), "solver must be Solver, got 'Heun'"),
    "class to follow": (lambda: follow(solver=jd.Heun), "solver is the class Heun"),
    "class to watch": (lambda: trajectory(solver=jd.Heun), "solver is the class Heun"),
    "solver to count": (
        lambda: plain(sampling.evaluations, jd.Heun, LEVELS),
        "the class Heun",
    ),
    "sigmas": (
        lambda: sample(levels=LEVELS.sigma),
        r"levels is an array of shape \(4,\) .*give jd.NoiseLevel\(alpha, sigma\)",
    ),
    "grid": (
        lambda: sample(levels=jd.grids.Karras()),
        r"levels is the grid Karras.* itself: call it, levels = grid\(schedule, steps\)",
    ),
    "shapes of levels": (
        lambda: sample(levels=NoiseLevel(1.0, LEVELS.sigma)),
        r"alpha of shape \(\) and sigma of shape \(4,\); both must be \[N \+ 1\]",
    ),
    "one key": (
        lambda: sample(keys=KEY),
        r"keys has shape \(\); give one key per image: jax.random.split\(key, B\)",
    ),
    "one key to follow": (
        lambda: follow(keys=KEY),
        r"keys has shape \(\) for 2 images; give one key .*split\(key, 2\)",
    ),
    "too many keys": (
        lambda: follow(keys=jax.random.split(KEY, 5)),
        r"keys has shape \(5,\) for 2 images",
    ),
    "a seed for keys": (lambda: sample(keys=0), "keys is a int; give typed keys"),
    "old keys": (
        lambda: sample(keys=jax.random.PRNGKey(0)),
        r"keys is an array of shape \(2,\) and uint32; give typed keys",
    ),
    "batch in shape": (
        lambda: sample(shape=(2, 4, 4, 3)),
        r"shape is that of one image.*give \(4, 4, 3\) instead of \(2, 4, 4, 3\)",
    ),
    "shape of an array": (
        lambda: sample(shape=32),
        r"shape must be that of one image, such as",
    ),
    "network": (
        lambda: sample(denoise=NETWORK),
        r"denoise is the network .*not a denoiser: give jd.denoiser\(network.apply, ",
    ),
    "run": (
        lambda: sample(denoise=RUN),
        "denoise is a run, not a denoiser: give run.denoise",
    ),
    "label for cond": (lambda: sample(cond=3), "cond must be Condition, got 3"),
    "output of a denoiser": (
        lambda: sample(denoise=lambda x, at, cond: Output(x)),
        "denoise returned a Output, not a jd.Denoised: wrap the network in jd.denoiser",
    ),
    "array of a denoiser": (
        lambda: sample(denoise=lambda x, at, cond: x),
        r"denoise returned an array of shape .*not a jd.Denoised: return jd.Denoised\(x0\)",
    ),
    "other shape of a denoiser": (
        lambda: sample(denoise=lambda x, at, cond: Denoised(x[..., :1])),
        r"denoise returned x0 of shape \(2, 4, 4, 1\) for x of shape \(2, 4, 4, 3\)",
    ),
    "bytes to follow": (
        lambda: follow(x=jnp.zeros((2, 4, 4, 3), jnp.uint8)),
        r"x has dtype uint8, but networks take floats: convert .* by x / 127.5 - 1",
    ),
    "bare array": (
        lambda: denoise_by(lambda params, x, c_noise, cond: x),
        r"the network returned an array of shape .*not a jd.Output: end it with `return ",
    ),
    "tuple": (
        lambda: denoise_by(lambda *args: (args[1], {})),
        "the network returned a tuple",
    ),
    "channels first": (
        lambda: denoise_by(lambda p, x, c, cond: Output(jnp.moveaxis(x, -1, 1))),
        r"returned raw of shape \(2, 3, 4, 4\) for x of shape \(2, 4, 4, 3\)",
    ),
    "module": (
        lambda: plain(jd.denoiser, NETWORK, {}, jd.V()),
        "itself: give its function, jd.denoiser",
    ),
    "parameterization class": (
        lambda: plain(jd.denoiser, MEAN, {}, jd.V),
        r"parameterization is the class V: make a value of it, V\(\)",
    ),
    "denoiser for a pair": (
        lambda: plain(jd.guide, TOY, TOY),
        r"guide takes pairs \(weaker denoiser, weight\), got a function",
    ),
    "pair in two": (lambda: plain(jd.guide, TOY, TOY, 0.5), "guide takes pairs"),
    "network in a pair": (
        lambda: plain(jd.guide, TOY, (NETWORK, 0.5)),
        "a pair's denoiser is the network",
    ),
    "class in a pair": (
        lambda: plain(jd.guide, TOY, (TOY, jd.guidance.Interval)),
        "a pair's weight must be a number or a function of the level, got",
    ),
    "network without labels": (
        lambda: plain(jd.without, NETWORK, "label"),
        "is the network",
    ),
    "thresholded network": (lambda: plain(jd.thresholded, NETWORK), "is the network"),
    "noise-aware network": (
        lambda: plain(jd.noise_aware, NETWORK, TOY, 1.0),
        "is the network",
    ),
    "bytes": (
        lambda: plain(
            jd.corrupt, KEY, jnp.zeros((2, 4, 4, 3), jnp.uint8), 0.5, jd.Cosine()
        ),
        r"x0 has dtype uint8, .* 255 by x0 / 127.5 - 1",
    ),
    "bytes as floats": (
        lambda: plain(jd.corrupt, KEY, IMAGES + 255, 0.5, jd.Cosine()),
        r"x0 runs from 255 to 255, like pixels of 0 \.\.\. 255, but data lie in \[-1, 1\]",
    ),
    "schedule class": (
        lambda: plain(jd.corrupt, KEY, IMAGES, 0.5, jd.Cosine),
        r"schedule is the class Cosine: make a value of it, Cosine\(\)",
    ),
    "class for a grid": (lambda: jd.grids.Uniform()(jd.Cosine, 4), "the class Cosine"),
    "class for a table's grid": (lambda: jd.grids.Leading()(jd.Cosine, 4), "class Cosine"),
    "class for logSNR": (lambda: jd.grids.UniformLogSNR()(jd.Cosine, 4), "class Cosine"),
    "weighting class": (
        lambda: jd.WeightedError(jd.MinSNR),
        "weighting is the class MinSNR",
    ),
    "prediction class": (
        lambda: jd.UniformOnNetwork(jd.V),
        "parameterization is the class V",
    ),
    "schedule of a bound": (lambda: jd.ELBO(jd.Cosine), "schedule is the class Cosine"),
    "shifted class": (lambda: jd.Shifted(jd.Cosine, 2.0), "of is the class Cosine"),
    "betas class": (lambda: jd.Table(jd.LinearBetas), "betas is the class LinearBetas"),
    "class in a bound": (
        lambda: plain(likelihood.process, jd.Cosine, 8),
        "schedule is the class Cosine",
    ),
    "class for rising": (
        lambda: plain(likelihood.rising, jd.Cosine, 8),
        "the class Cosine",
    ),
    "key of a likelihood": (
        lambda: plain(
            likelihood.terms,
            TOY,
            Condition(),
            IMAGES,
            KEY,
            likelihood.process(jd.Cosine(), 4),
        ),
        r"keys has shape \(\) for 2 images",
    ),
    "network of a density": (
        lambda: plain(
            likelihood.log_density,
            NETWORK,
            Condition(),
            IMAGES,
            KEYS,
            likelihood.rising(jd.Cosine(), 4),
        ),
        "denoise is the network",
    ),
    "bytes to edit": (
        lambda: plain(
            editing.image_to_image,
            TOY,
            Condition(),
            KEYS,
            IMAGES + 200,
            LEVELS,
            0.5,
            jd.Euler(),
        ),
        "image runs from 200 to 200",
    ),
    "sigmas to encode": (
        lambda: plain(editing.encode, TOY, Condition(), IMAGES, LEVELS.sigma),
        "levels is an array",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_one_line_says_what_is_wrong_and_what_to_write(case: str) -> None:
    call, message = CASES[case]
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_right_arguments_pass_inside_jit_and_outside() -> None:
    assert np.isfinite(sample()).all()
    guided = jd.guide(TOY, (TOY, 0.5))
    assert np.isfinite(jax.jit(lambda keys: sample(keys=keys, denoise=guided))(KEYS)).all()
    assert np.isfinite(denoise_by(MEAN).x0).all()
    one = sample(keys=KEYS[:1], shape=(1, 4, 3), cond=Condition())
    assert one.shape == (1, 1, 4, 3)
    latents = 5 * jnp.ones((2, 4, 4, 4))
    assert np.isfinite(jd.corrupt(KEY, latents, 0.5, jd.Cosine()).x).all()
