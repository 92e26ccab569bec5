"""What is wrong with a part of one's own is one line when training starts, never silent."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import jaxdiff as jd
from jaxdiff.config import resolve
from jaxdiff.networks import initial
from jaxdiff.objectives import timesteps
from jaxdiff.objectives.weightings import require_finite_mean, warn_of_vanishing_weight
from jaxdiff.runs.state import init_state
from jaxdiff.train.setup import require_path
from jaxdiff.train.step import make_step, noised_batch
from tests.toys import SCHEDULES

B, SHAPE = 8, (4, 4, 1)


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, c_noise, cond, train=False):  # noqa: ANN001, ANN204
        return jd.Output(nn.Dense(x.shape[-1])(x))


@dataclass(frozen=True, eq=False)
class Loaded:
    label: np.ndarray
    shape: tuple[int, int, int] = SHAPE

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": np.zeros(SHAPE, np.uint8), "label": self.label[index]}


@dataclass(frozen=True)
class Images:
    label: tuple[float, ...] = (0, 1)
    shape: tuple[int, int, int] = SHAPE

    def load(self) -> Any:
        return jd.data.Dataset(Loaded(np.array(self.label)), ("a", "b"))


def own(**methods: Any) -> Any:
    return dataclass(frozen=True)(type("Own", (), methods))()


def trained(dtype: Any = jnp.uint8, **parts: Any) -> Any:
    """The shapes of a step's metrics; nothing is compiled."""
    parts = {"network": jd.types.implements(jd.types.Network)(Net)()} | parts
    source = jd.types.implements(jd.types.Source)(Images)()
    e = jd.Experiment(data=source, batch_size=B, **parts)
    state = jax.eval_shape(lambda: init_state(e))
    batch = {
        "image": jax.ShapeDtypeStruct((B, *SHAPE), dtype),
        "label": jax.ShapeDtypeStruct((B,), jnp.int32),
    }
    return jax.eval_shape(make_step(e), state, batch)[1]["loss"].shape


def weighted(weighting: Callable) -> Any:
    return jd.WeightedError(own(__call__=lambda self, at: weighting(at.snr)))


def loss(mean: Callable) -> Any:
    return own(__call__=lambda self, denoised, noised: mean(denoised.x0 - noised.x0))


def finite_mean(weighting: Any, *path: Any) -> None:
    require_finite_mean(weighting, *path, timesteps.Uniform())


def no_vanishing(weighting: Any, *path: Any) -> None:
    warn_of_vanishing_weight([(1.0, weighting)], *path)


def test_what_is_right_is_trained() -> None:
    assert trained() == ()
    assert trained(loss=weighted(lambda snr: 1.0)) == ()
    assert trained(loss=weighted(lambda snr: snr)) == ()
    assert trained(loss=loss(lambda d: (d**2).mean((1, 2, 3)))) == ()


@pytest.mark.parametrize(
    ("parts", "line"),
    [
        # [B] broadcasts along the channels of [B, H, W, 1]: each image gets all weights
        ({"loss": weighted(jnp.ravel)}, r"is of shape \(8,\) for levels of shape .8, 1, 1"),
        ({"loss": loss(lambda d: (d**2).mean())}, r"Own.* is of shape \(\) for x of"),
        ({"loss": loss(lambda d: d**2)}, r"is of shape \(8, 4, 4, 1\) for x of .*\[B\]"),
        ({"dtype": jnp.float32}, r"Images has images of float32 \(4, 4, 1\), but an ima"),
    ],
)  # fmt: skip
def test_what_would_train_on_something_else_is_refused(parts: Any, line: str) -> None:
    with pytest.raises(ValueError, match=line):
        trained(**parts)


@pytest.mark.parametrize("check", [finite_mean, no_vanishing])
def test_a_weight_of_another_shape_is_refused_before_training(check: Callable) -> None:
    columns = own(__call__=lambda self, at: at.snr[..., None])
    with pytest.raises(ValueError, match=r"Own.* is of shape \(\d+, 1\) for levels of"):
        check(columns, jd.EDM(), jd.RectifiedFlow())


def test_a_network_has_something_to_train() -> None:
    class Nothing(Net):
        def __call__(self, x, c_noise, cond, train=False):  # noqa: ANN001, ANN204
            return jd.Output(x)

    network = jd.types.implements(jd.types.Network)(Nothing)()
    with pytest.raises(ValueError, match="Nothing has nothing to be trained"):
        initial(network, SHAPE, jax.random.key(0))


@pytest.mark.parametrize(
    ("chain", "rate"), [(None, optax.constant_schedule(0.1)), (optax.sgd(0.1), 0.1)]
)
def test_an_optimiser_makes_a_chain_and_a_schedule(chain: Any, rate: Any) -> None:
    optimizer = jd.types.implements(jd.types.Optimizer)(
        dataclass(frozen=True)(
            type(
                "Own",
                (),
                {
                    "lengths": (0.1,),
                    "schedule": lambda *_: rate,
                    "transformation": lambda *_: chain,
                },
            )
        )
    )()
    with pytest.raises(ValueError, match=r"Own makes .* and the rate .*: transformation"):
        trained(optimizer=optimizer)


@pytest.mark.parametrize(
    ("label", "line"),
    [
        ((0, 2), "Images.load.. has the label 2, but 2 classes: labels are 0 to 1, and -1"),
        ((-2, 1), "has the label -2, but 2 classes"),
        ((0.0, 1.5), r"has labels of float64 \(2,\) for 2 images"),
        ((0,), r"has labels of int64 \(1,\) for 2 images"),
    ],
)
def test_labels_are_of_classes(label: tuple[float, ...], line: str) -> None:
    source = jd.types.implements(jd.types.Source)(Images)
    experiment = jd.Experiment(data=source())
    resolve(experiment, source((-1, 1)).load())
    with pytest.raises(ValueError, match=line):
        resolve(experiment, source(label).load())


def path(level: Callable, pure: bool = True, time: Any = jd.Cosine().time) -> Any:
    methods = {
        "__call__": lambda self, t: level(jnp.asarray(t)),
        "reaches_pure_noise": pure,
    }
    return own(time=lambda self, logsnr: time(logsnr), **methods)


QUARTER = jnp.pi / 2


@pytest.mark.parametrize(
    ("schedule", "line"),
    [
        (
            path(lambda t: jd.NoiseLevel(jnp.cos(QUARTER * t), jnp.sin(QUARTER * t))),
            r"alpha goes from 1 to -4.37e-08, .* must be 0 or more and finite, as sin",
        ),
        (path(lambda t: jd.NoiseLevel(t, 1 - t)), r"alpha goes from 0 to 1.* must grow wi"),
        (path(lambda t: (1 - t, t)), "Own.. returned .*: return jaxdiff.NoiseLevel"),
        (path(lambda t: jd.NoiseLevel(1.0, t)), r"alpha of shape \(\) and sigma of \(5,\)"),
        (path(jd.Cosine(), pure=False), "but reaches_pure_noise is False: it is whether"),
        (path(jd.RectifiedFlow()), r"time\(logsnr\) is .0.205 0.5 +0.795. where t = "),
    ],
)
def test_a_schedule_is_a_path(schedule: Any, line: str) -> None:
    with pytest.raises(ValueError, match=line) as caught:
        require_path(schedule)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("schedule", [*SCHEDULES.values(), jd.schedules.Table(
    jd.schedules.LDMSqrtBetas())], ids=str)  # fmt: skip
def test_the_schedules_of_jaxdiff_are_paths(schedule: Any) -> None:
    require_path(schedule)


def test_latents_may_be_of_half_precision() -> None:
    e = jd.Experiment(data=jd.data.Latents("none.npz", size=8), batch_size=B)
    batch = {
        "image": jax.ShapeDtypeStruct(
            (B, *e.data.shape[:2], 2 * e.data.shape[2]), jnp.float16
        ),
        "label": jax.ShapeDtypeStruct((B,), jnp.int32),
    }
    keys = (jax.eval_shape(lambda: jax.random.key(0)),) * 3
    draw = lambda keys, batch: noised_batch(e, (), keys, batch)[0].x
    assert jax.eval_shape(draw, keys, batch).shape == (B, *e.data.shape)


@pytest.mark.parametrize("returned", ["two", "x"])
def test_a_solvers_step_returns_three_things(returned: str) -> None:
    class Short(jd.Euler):
        def step(self, *given: Any) -> Any:
            x, memory, _ = super().step(*given)
            return (x, memory) if returned == "two" else x

    denoise, levels = jd.gaussian_denoiser(0.3, 0.5), jd.grids.Uniform()(jd.Cosine(), 2)
    keys = jax.random.split(jax.random.key(0), 2)
    line = (
        r"^Short.step returns (a tuple of 2|\w*Tracer): return x, the memory and its first"
    )
    with pytest.raises(ValueError, match=line):
        jd.sample(denoise, jd.UNCONDITIONAL, keys, (4,), levels, Short())
