"""What else of EDM2's reference ours says in its own way: data, levels, whole samples."""

import dataclasses
import functools
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jaxdiff as jd
from jaxdiff.config.edm2_presets import Model
from jaxdiff.data import Pixels, VAELatents
from jaxdiff.data.sources.folder import square
from jaxdiff.interop.edm2_weights import from_state_dict
from jaxdiff.networks import UNet
from jaxdiff.sampling.grids import Karras
from jaxdiff.sampling.solvers import Heun
from jaxdiff.types import Denoised, NoiseLevel
from tests.toys import GOLDEN, follow

EMA, MISC, SAMPLER, SCHED = (
    np.load(GOLDEN / "edm2" / f"{name}.npz") for name in ("ema", "misc", "sampler", "sched")
)


def nhwc(x: np.ndarray) -> np.ndarray:
    return np.moveaxis(x, -3, -1)


def close(actual: Any, expected: np.ndarray, rtol: float) -> None:
    """Within rtol of the largest entry: what float32 sums are good for."""
    np.testing.assert_allclose(actual, expected, rtol=0, atol=rtol * np.abs(expected).max())


def arguments(z: Any, name: str) -> dict[str, Any]:
    return json.loads(str(z[name]))


# -------------------------------------------------------------------- data


def test_published_pixels() -> None:
    encoded = Pixels().encode(jax.random.key(0), jnp.asarray(nhwc(MISC["rgb/encode_in"])))
    # one rounding of a number up to 2
    np.testing.assert_allclose(encoded, nhwc(MISC["rgb/encode_out"]), rtol=0, atol=1.2e-7)
    decoded = Pixels().decode(nhwc(MISC["rgb/decode_in"]))
    np.testing.assert_array_equal(decoded, nhwc(MISC["rgb/decode_out"]))


def test_published_latents(monkeypatch: pytest.MonkeyPatch) -> None:
    """(mean + eps std) scale + bias, with the reference's eps in place of a draw."""
    eps = jnp.asarray(nhwc(MISC["vae/eps"]))
    monkeypatch.setattr(jax.random, "normal", lambda key, shape: eps.reshape(shape))
    stored = jnp.asarray(nhwc(MISC["vae/mean_std"]))
    latents = VAELatents().encode(jax.random.key(0), stored)
    close(latents, nhwc(MISC["vae/latents"]), 5e-7)


def test_published_scale_of_latents() -> None:
    """A unit normal's mean and std, and the way back to what the VAE is given."""
    unit = np.repeat([0.0, 1.0], 4).reshape(1, 1, 1, 8)
    mean, variance = VAELatents().moments(unit)
    np.testing.assert_allclose(mean.ravel(), MISC["vae/bias"], rtol=1e-7)
    np.testing.assert_allclose(np.sqrt(variance).ravel(), MISC["vae/scale"], rtol=1e-7)
    raw = VAELatents().decode(nhwc(MISC["vae/decode_in"]))
    close(raw, nhwc(MISC["vae/decode_raw_latents"]), 2e-7)


@pytest.mark.parametrize("case", range(3))
def test_published_crops(case: int) -> None:
    args = arguments(MISC, f"crop/{case}/args")
    assert args["mode"] == "center-crop-dhariwal"
    image = Image.fromarray(MISC[f"crop/{case}/in"])
    cropped = square(image, args["resolution"])
    np.testing.assert_array_equal(cropped, MISC[f"crop/{case}/out"])


def test_published_names_count_images() -> None:
    for kimg, images in zip(
        EMA["kimg_to_nimg/kimg"], EMA["kimg_to_nimg/nimg"], strict=True
    ):
        assert Model("img512-s", int(kimg), 0.1).step * 2048 == images


# ------------------------------------------------------------------ levels


class Spied:
    """A denoiser that writes down the x and sigma of every evaluation, in order."""

    def __init__(self, denoise: Any) -> None:
        self.denoise = denoise
        self.x: list[np.ndarray] = []
        self.sigma: list[float] = []

    def write(self, x: Any, sigma: Any) -> None:
        self.x.append(np.asarray(x))
        self.sigma.append(float(sigma))

    def __call__(self, x: Any, at: NoiseLevel, cond: Any = jd.UNCONDITIONAL) -> Denoised:
        jax.debug.callback(self.write, x, at.sigma, ordered=True)
        return self.denoise(x, at, cond)


def grid_of(kwargs: dict[str, Any]) -> NoiseLevel:
    named = {k: float(kwargs[k]) for k in ("sigma_min", "sigma_max", "rho") if k in kwargs}
    return Karras(**named)(None, kwargs.get("num_steps", 32))


@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize("case", range(3))
def test_published_levels_of_every_evaluation(case: int, dtype: str) -> None:
    with jax.enable_x64(dtype == "f64"):
        levels = grid_of(arguments(SCHED, f"sigma/{case}/kwargs"))
        denoise = Spied(jd.gaussian_denoiser(0.0, 0.5))
        follow(Heun(), denoise, jnp.ones((1, 1)), levels)
        jax.effects_barrier()
    expected = SCHED[f"sigma/{case}/eval_sigmas_{dtype}"]
    # theirs of float32 is computed in it: a power of 7 of a rounded number
    rtol = {"f32": 5e-6, "f64": 1e-13}[dtype]
    np.testing.assert_allclose(denoise.sigma, expected, rtol=rtol)


# ----------------------------------------------------------------- samples


@functools.cache
def network(config: str, group: str) -> Any:
    """The denoiser of one of the two networks, compiled once for all cases."""
    net = unet(arguments(SAMPLER, config))
    names = [name for name in SAMPLER.files if name.startswith(f"{group}/")]
    sd = {n.removeprefix(f"{group}/"): SAMPLER[n].astype(np.float32) for n in names}
    variables = jax.tree.map(jnp.asarray, from_state_dict(sd))
    return jax.jit(jd.denoiser(net.apply, variables, jd.EDM(0.5)))


def unet(config: dict[str, Any]) -> UNet:
    known = {field.name for field in dataclasses.fields(UNet)}
    tuples = {k: tuple(v) if isinstance(v, list) else v for k, v in config.items()}
    return UNet(**{k: v for k, v in tuples.items() if k in known} | {"dropout": 0.0})


CASES = arguments(SAMPLER, "cases")


@pytest.mark.parametrize("case", CASES)
def test_published_samples_of_networks(case: str) -> None:
    """Every x and sigma that the networks are asked about, and what comes out."""
    kwargs, z = CASES[case], lambda name: SAMPLER[f"{case}/{name}"]
    main, guide = Spied(network("config", "net")), Spied(network("gconfig", "gnet"))
    w = kwargs.get("guidance", 1.0)
    denoise = main if w == 1 else jd.guide(main, (guide, w - 1))
    cond = jd.Condition(label=jnp.asarray(SAMPLER["labels"]))
    levels, start = grid_of(kwargs), nhwc(SAMPLER["noise"])
    solver, noise = Heun(), None
    if "S_churn" in kwargs:
        low, high = (float(kwargs.get(k, d)) for k, d in (("S_min", 0), ("S_max", np.inf)))
        solver = Heun(float(kwargs["S_churn"]), low, high, kwargs.get("S_noise", 1.0))
        sigma = np.asarray(levels.sigma[:-1])  # noise is drawn where churn acts alone
        noise = np.zeros((len(sigma), *start.shape), np.float32)
        noise[(sigma >= low) & (sigma <= high)] = nhwc(z("churn_noise"))
    x = start * np.float32(levels.sigma[0])
    out = follow(solver, lambda x, at: denoise(x, at, cond), x, levels, noise)[-1]
    jax.effects_barrier()
    assert (len(main.sigma), len(guide.sigma)) == (z("n_net"), z("n_gnet"))
    np.testing.assert_allclose(main.sigma, z("eval_sigma"), rtol=5e-6)
    if guide.sigma:
        assert guide.sigma == main.sigma
    # float32 states through up to 63 evaluations; ours are within 4.2e-6
    if kwargs.get("store", True):
        close(np.stack(main.x), nhwc(z("eval_x")), 1e-5)
    close(out, nhwc(z("out")), 1e-5)
