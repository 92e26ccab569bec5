"""The optimiser against the reference's trajectories, and each link by its own law."""

import functools
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdiff import optim
from jaxdiff.interop.edm2 import from_state_dict
from jaxdiff.networks.unet import UNet
from jaxdiff.posthoc import std_to_exponent
from jaxdiff.types import Condition

# Half the compile time; what is computed stays the same.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

FOLDER = Path(__file__).parent / "golden" / "edm2"
TRAJ, SCHED, EMA = (np.load(FOLDER / f"{name}.npz") for name in ("traj", "sched", "ema"))


def close(actual: Any, expected: Any, rtol: float) -> None:
    """Every tensor equal to `rtol` of its largest entry."""

    def check(a: Any, b: Any) -> None:
        atol = rtol * max(np.abs(b).max(), 1e-30)
        np.testing.assert_allclose(np.asarray(a), b, rtol=0, atol=atol)

    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(check, actual, expected)


# ------------------------------------------------------------ trajectories


def params_of(group: str, dtype: str) -> Any:
    """One group of the trajectory's tensors as a tree of parameters."""
    names = [name for name in TRAJ.files if name.startswith(group + "/")]
    sd = {name.removeprefix(group + "/"): TRAJ[name].astype(dtype) for name in names}
    return jax.tree.map(jnp.asarray, from_state_dict(sd)["params"])


def make_network(dtype: str) -> tuple[UNet, Any]:
    """The trajectories' network, and its constants, which both runs share."""
    config = json.loads(str(TRAJ["config"]))
    kept = {k: config[k] for k in config if k not in ("img_resolution", "img_channels")}
    kept = {k: tuple(v) if isinstance(v, list) else v for k, v in kept.items()}
    kept["dropout"] = float(kept["dropout"])
    prefix = "const_lr/init/"
    sd = {n.removeprefix(prefix): TRAJ[n] for n in TRAJ.files if n.startswith(prefix)}
    constants = from_state_dict({k: v.astype(dtype) for k, v in sd.items()})["constants"]
    return UNet(**kept, dtype=dtype), jax.tree.map(jnp.asarray, constants)


def batch(step: int, dtype: str) -> tuple[Any, ...]:
    """Images and noise as [B, H, W, C], noise levels as [B, 1, 1, 1], labels."""
    images, noise = (TRAJ[name][step].transpose(0, 2, 3, 1) for name in ("images", "noise"))
    drawn = TRAJ["rnd_normal"][step].reshape(-1, 1, 1, 1)
    arrays = (images, noise, drawn, TRAJ["labels"][step])
    return tuple(jnp.asarray(a.astype(dtype)) for a in arrays)


@functools.cache
def make_gradient(dtype: str) -> Any:
    """The gradient of the sum over elements of lambda e^-u (D - y)^2 + u, over B."""
    net, constants = make_network(dtype)

    def loss(params: Any, images: Any, noise: Any, drawn: Any, label: Any) -> Any:
        sigma = jnp.exp(drawn - 0.4)
        x, r = images + sigma * noise, jnp.sqrt(sigma**2 + 0.25)
        variables = {"params": params, "constants": constants}
        out = net.apply(variables, x / r, jnp.log(sigma) / 4, Condition(label=label))
        d = 0.25 / r**2 * x + sigma * 0.5 / r * out.raw
        u = out.uncertainty.reshape(-1, 1, 1, 1)
        weight = (sigma**2 + 0.25) / (sigma * 0.5) ** 2
        return jnp.sum(weight * jnp.exp(-u) * (d - images) ** 2 + u) / len(images)

    return jit(jax.value_and_grad(loss))


def learning_rate(run: str) -> optax.ScalarOrSchedule:
    config = json.loads(str(TRAJ["runs"]))[run]
    if "lr" in config:
        return config["lr"]
    kwargs = config["lr_kwargs"]
    rampup = round(kwargs["rampup_Mimg"] * 1e6)
    return optim.inverse_sqrt_schedule(kwargs["ref_lr"], kwargs["ref_batches"], rampup, 8)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("run", ["const_lr", "zero_init_schedule"])
def test_five_steps_are_the_reference_s(run: str, dtype: str) -> None:
    with jax.enable_x64(dtype == "float64"):
        check_run(run, dtype)


def check_run(run: str, dtype: str) -> None:
    """Parameters, losses, averages and moments, at every step that is stored."""
    # the reference's own float32 and float64 runs are 1e-5 apart at the end
    rtol = {"float32": 3e-5, "float64": 1e-11}[dtype]
    losses = TRAJ[f"{run}/losses{dtype.removeprefix('float').replace('32', '')}"]
    tx = optim.edm2_adam(learning_rate(run), stds=(0.05, 0.1))
    value_and_grad, norm = make_gradient(dtype), jit(optim.normalized)

    @jit
    def update(grads: Any, opt_state: Any, params: Any) -> Any:
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    params = norm(params_of(f"{run}/init", dtype))
    opt_state = jit(tx.init)(params)
    for step in range(5):
        loss, grads = value_and_grad(params, *batch(step, dtype))
        np.testing.assert_allclose(loss, losses[step], rtol=rtol / 10)
        params, opt_state = update(grads, opt_state, params)
        raw = params_of(f"{run}/step{step + 1}", dtype)
        close(params, norm(raw), 3e-5)  # stored in float32 by the float32 run
    for std, average in zip(("0.050", "0.100"), optim.averages(opt_state), strict=True):
        close(average, params_of(f"{run}/ema-{std}", dtype), 3e-5)
    if run == "const_lr":
        adam = opt_state[1]
        close(adam.mu, params_of(f"{run}/adam_m", dtype), 5e-5)
        close(adam.nu, params_of(f"{run}/adam_v", dtype), 5e-5)
    if dtype == "float64":
        close(params, norm(params_of(f"{run}/final64", dtype)), rtol)


# ------------------------------------------------------------------- rates


@pytest.mark.parametrize("case", range(11))
def test_rates_are_the_reference_s(case: int) -> None:
    kwargs = json.loads(str(SCHED[f"lr/{case}/kwargs"]))
    size = kwargs["batch_size"]
    rampup = round(kwargs.get("rampup_Mimg", 10) * 1e6)
    lr = optim.inverse_sqrt_schedule(
        kwargs.get("ref_lr", 0.01), kwargs.get("ref_batches", 70000), rampup, size
    )
    whole = SCHED["lr/cur_nimg"] % size == 0
    steps = jnp.asarray(SCHED["lr/cur_nimg"][whole] // size, jnp.int32)
    expected = SCHED[f"lr/{case}/value"][whole]
    assert len(expected) >= 8
    np.testing.assert_allclose(jax.vmap(lr)(steps), expected, rtol=3e-7)


def test_rates_of_the_scheduled_run() -> None:
    lr = learning_rate("zero_init_schedule")
    rates = [lr(jnp.int32(step)) for step in range(5)]
    assert rates[0] == 0
    np.testing.assert_allclose(rates, TRAJ["zero_init_schedule/lr"], rtol=3e-7)


# ---------------------------------------------------------------- averages


def follow(stds: tuple[float, ...], trace: np.ndarray) -> Any:
    """The state of `power_ema` after each row of trace, the first being the start."""
    tx = optim.power_ema(stds)
    start = {"w": jnp.asarray(trace[0])}

    def step(carry: Any, row: Any) -> Any:
        params, state = carry
        _, state = tx.update({"w": row - params["w"]}, state, params)
        return ({"w": row}, state), tuple(tree["w"] for tree in state.averages)

    rows = jnp.asarray(trace[1:])
    return jit(lambda: jax.lax.scan(step, (start, tx.init(start)), rows))()[1]


def test_averages_are_the_reference_s() -> None:
    stds = tuple(EMA["trace/stds"].tolist())
    with jax.enable_x64(True):
        averages = follow(stds, EMA["trace/params"])
    expected = EMA["trace/ema"]
    np.testing.assert_allclose(np.stack(averages, 1), expected, rtol=0, atol=1e-12)
    single = follow(stds, EMA["trace/params"].astype(np.float32))
    np.testing.assert_allclose(np.stack(single, 1), expected, rtol=0, atol=2e-6)


def test_the_start_leaves_no_trace() -> None:
    tx, params = optim.power_ema((0.1,)), {"w": jnp.zeros(3)}
    state = tx.init(params)._replace(averages=({"w": jnp.full(3, 1e8)},))
    updates = {"w": jnp.full(3, 0.1)}
    passed, state = tx.update(updates, state, params)
    np.testing.assert_array_equal(state.averages[0]["w"], updates["w"])
    np.testing.assert_array_equal(passed["w"], updates["w"])


def test_late_steps_move_a_float32_average_by_the_right_share() -> None:
    tx, t = optim.power_ema((0.05,)), 10**6
    params = {"w": jnp.zeros(3)}
    state = tx.init(params)._replace(count=jnp.int32(t - 1))
    _, state = tx.update({"w": jnp.ones(3)}, state, params)
    share = -np.expm1((std_to_exponent(0.05) + 1) * np.log1p(-1 / t))  # 1.8e-5
    assert state.count == t
    np.testing.assert_allclose(state.averages[0]["w"], share, rtol=1e-6)
    # and a run that has stopped moving keeps its average, at any t
    params = {"w": jnp.full(3, 0.7)}
    state = tx.init(params)._replace(count=jnp.int32(t))
    for _ in range(3):
        _, state = tx.update({"w": jnp.zeros(3)}, state, params)
    np.testing.assert_array_equal(state.averages[0]["w"], params["w"])


def test_averages_are_found_in_any_chain_and_start_as_copies() -> None:
    params = {"w": jnp.ones((2, 2), jnp.bfloat16)}
    inner = optax.chain(optax.scale(1.0), optim.power_ema((0.1, 0.05)))
    tx = optax.chain(optax.masked(inner, {"w": True}), optim.power_ema((0.2,)))
    found = optim.averages(tx.init(params))
    assert len(found) == 3
    assert {tree["w"].dtype for tree in found} == {jnp.dtype("float32")}
    pointers = {tree["w"].unsafe_buffer_pointer() for tree in found}
    assert len(pointers) == 3  # none shares memory, so that a step may reuse it
    assert optim.averages(optax.adam(1e-3).init(params)) == ()


@pytest.mark.parametrize("std", [0.0, 0.3])
def test_widths_that_no_average_has_are_refused(std: float) -> None:
    with pytest.raises(ValueError, match="not in"):
        optim.power_ema((0.1, std))


# ------------------------------------------------------ cleaning, weight norm


def test_bad_entries_become_zero_and_good_ones_stay() -> None:
    tx = optim.nan_to_zero()
    grads = {"w": jnp.array([1.0, jnp.nan, jnp.inf, -jnp.inf, -2e38])}
    cleaned, _ = tx.update(grads, tx.init(grads))
    np.testing.assert_array_equal(cleaned["w"], np.float32([1, 0, 0, 0, -2e38]))


def test_weights_land_on_magnitude_one_and_the_rest_moves_freely() -> None:
    key = jax.random.key(0)
    shapes = {"conv": (3, 3, 4, 6), "linear": (5, 7), "bias": (4,), "gain": ()}
    params = {k: 3 * jax.random.normal(key, s) for k, s in shapes.items()}
    updates = {k: jax.random.normal(jax.random.key(1), s) for k, s in shapes.items()}
    tx = optim.forced_weight_norm()
    landed = optax.apply_updates(params, tx.update(updates, tx.init(params), params)[0])
    for name in ("bias", "gain"):
        np.testing.assert_array_equal(landed[name], params[name] + updates[name])
    for name in ("conv", "linear"):
        raw = np.asarray(params[name] + updates[name], np.float64)
        rms = np.sqrt(np.mean(raw**2, axis=tuple(range(raw.ndim - 1))))
        np.testing.assert_allclose(landed[name], raw / (1e-4 + rms), atol=1e-6)
    start = optim.normalized(params)
    np.testing.assert_array_equal(start["gain"], params["gain"])
    rms = np.sqrt(np.mean(np.square(optim.normalized(start)["conv"]), axis=(0, 1, 2)))
    np.testing.assert_allclose(rms, 0.9999, atol=1e-6)


@pytest.mark.parametrize("link", [optim.power_ema((0.1,)), optim.forced_weight_norm()])
def test_links_that_need_the_parameters_say_so(link: Any) -> None:
    grads = {"w": jnp.ones((2, 2))}
    with pytest.raises(ValueError, match=r"needs the parameters: tx.update\(grads"):
        link.update(grads, link.init(grads))
