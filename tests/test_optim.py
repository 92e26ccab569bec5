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
from jaxdiff.interop.edm2_weights import from_state_dict
from jaxdiff.networks.edm2_unet import UNet
from jaxdiff.optim.ema_profiles import std_to_exponent
from jaxdiff.types import Condition

FOLDER = Path(__file__).parent / "golden" / "edm2"
TRAJ, SCHED, EMA = (np.load(FOLDER / f"{name}.npz") for name in ("traj", "sched", "ema"))
RUNS, META = (json.loads(str(TRAJ[name])) for name in ("runs", "meta"))


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
        sigma = jnp.exp(drawn * META["P_std"] + META["P_mean"])
        x, r = images + sigma * noise, jnp.sqrt(sigma**2 + 0.25)
        variables = {"params": params, "constants": constants}
        out = net.apply(variables, x / r, jnp.log(sigma) / 4, Condition(label=label))
        d = 0.25 / r**2 * x + sigma * 0.5 / r * out.raw
        u = out.uncertainty.reshape(-1, 1, 1, 1)
        weight = (sigma**2 + 0.25) / (sigma * 0.5) ** 2
        return jnp.sum(weight * jnp.exp(-u) * (d - images) ** 2 + u) / len(images)

    return jax.jit(jax.value_and_grad(loss))


def learning_rate(run: str) -> optax.ScalarOrSchedule:
    if "lr" in RUNS[run]:
        return RUNS[run]["lr"]
    kwargs = RUNS[run]["lr_kwargs"]
    ref_lr, ref_batches = kwargs["ref_lr"], kwargs["ref_batches"]
    rampup = round(kwargs["rampup_Mimg"] * 1e6)
    return optim.inverse_sqrt_schedule(ref_lr, ref_batches, rampup, META["batch"])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("run", RUNS)
def test_five_steps_are_the_reference_s(run: str, dtype: str) -> None:
    with jax.enable_x64(dtype == "float64"):
        check_run(run, dtype)


def check_run(run: str, dtype: str) -> None:
    """Losses, parameters raw and normalised, averages and moments after every step.

    Stored are the raw parameters of every step; the averages of each step follow from them
    by definition, the moments from the gradients, and both are stored for the last step.
    """
    # the reference's own float32 and float64 runs are 1e-5 apart at the end
    rtol = {"float32": 3e-5, "float64": 1e-11}[dtype]
    losses = TRAJ[f"{run}/losses{dtype.removeprefix('float').replace('32', '')}"]
    stds, (b1, b2) = tuple(RUNS[run]["ema_stds"]), META["betas"]
    adam = {"stds": stds, "b1": b1, "b2": b2, "eps": META["eps"]}
    tx = optim.edm2_adam(learning_rate(run), **adam)
    raw_tx = optim.edm2_adam(learning_rate(run), **adam, forced_norm=False)
    value_and_grad, norm = make_gradient(dtype), jax.jit(optim.normalized)

    @jax.jit
    def update(grads: Any, opt_state: Any, params: Any) -> Any:
        updates, after = tx.update(grads, opt_state, params)
        raw_updates, _ = raw_tx.update(grads, opt_state[:-1], params)
        return [optax.apply_updates(params, u) for u in (updates, raw_updates)], after

    params = norm(params_of(f"{run}/init", dtype))
    opt_state = jax.jit(tx.init)(params)
    expected_averages: Any = [None for _ in stds]
    mu = nu = jax.tree.map(np.zeros_like, params)
    gradients = []
    for step in range(META["steps"]):
        loss, grads = value_and_grad(params, *batch(step, dtype))
        gradients.append(grads)
        np.testing.assert_allclose(loss, losses[step], rtol=rtol / 10)
        (params, raw), opt_state = update(grads, opt_state, params)
        stored = params_of(f"{run}/step{step + 1}", dtype)
        close(raw, stored, 3e-5)  # stored in float32 by the float32 run
        close(params, norm(stored), 3e-5)
        for i, std in enumerate(stds):
            beta = (step / (step + 1)) ** (std_to_exponent(std) + 1)
            previous = stored if step == 0 else expected_averages[i]
            expected_averages[i] = mixed(beta, previous, stored)
        close(optim.averages(opt_state), tuple(expected_averages), 3e-5)
        mu = mixed(b1, mu, grads)
        nu = mixed(b2, nu, jax.tree.map(np.square, grads))
        close((opt_state[1].mu, opt_state[1].nu), (mu, nu), rtol / 10)
        assert opt_state[3].count * META["batch"] == TRAJ[f"{run}/cur_nimg"][step]
    for std, average in zip(stds, optim.averages(opt_state), strict=True):
        close(average, params_of(f"{run}/ema-{std:.3f}", dtype), 3e-5)
    if RUNS[run].get("store_adam"):
        close(opt_state[1].mu, params_of(f"{run}/adam_m", dtype), 5e-5)
        close(opt_state[1].nu, params_of(f"{run}/adam_v", dtype), 5e-5)
    final = params_of(f"{run}/final64", dtype)
    if dtype == "float64":
        return close(raw, final, rtol)
    # As near to float64 as the reference's own float32 run is. Adam makes a whole step of a
    # gradient that is the rounding of a sum that cancels, which each order of the sum has
    # at other elements.
    bound = TRAJ[f"{run}/final_f32_vs_f64_maxabs"]
    apart = flat(jax.tree.map(lambda a, b: np.abs(a - b), raw, final))
    cancels = np.any([flat(jax.tree.map(tiny, grads)) for grads in gradients], axis=0)
    assert apart[~cancels].max() < 2 * bound
    assert apart[cancels].max(initial=0) < 5 * bound
    assert cancels.mean() < 0.01


def tiny(grad: Any) -> Any:
    """Where a gradient is not 0, but nothing beside the others of its tensor."""
    size = np.abs(np.asarray(grad))
    return (size > 0) & (size < 1e-3 * np.sqrt(np.mean(size**2)))


def flat(tree: Any) -> Any:
    """All numbers of a tree."""
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def mixed(share: float, a: Any, b: Any) -> Any:
    """share a + (1 - share) b, tensor by tensor, in float64."""
    mix = lambda a, b: share * np.float64(a) + (1 - share) * np.float64(b)
    return jax.tree.map(mix, a, b)


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


@pytest.mark.parametrize("run", RUNS)
def test_rates_of_the_trajectories(run: str) -> None:
    lr = learning_rate(run)
    rates = [lr(jnp.int32(step)) if callable(lr) else lr for step in range(META["steps"])]
    np.testing.assert_allclose(rates, TRAJ[f"{run}/lr"], rtol=3e-7)
    assert (rates[0] == 0) == callable(lr)


# ---------------------------------------------------------------- averages


def follow(tx: optax.GradientTransformation, trace: np.ndarray) -> Any:
    """The averages after each row of trace, [steps, averages, ...]; row 0 is the start."""
    start = {"w": jnp.asarray(trace[0])}

    def step(carry: Any, row: Any) -> Any:
        params, state = carry
        _, state = tx.update({"w": row - params["w"]}, state, params)
        return ({"w": row}, state), tuple(tree["w"] for tree in optim.averages(state))

    rows = jnp.asarray(trace[1:])
    averages = jax.jit(lambda: jax.lax.scan(step, (start, tx.init(start)), rows))()[1]
    return np.stack(averages, 1)


TRACE_STDS = tuple(EMA["trace/stds"].tolist())


def test_averages_are_the_reference_s() -> None:
    tx, expected = optim.power_ema(TRACE_STDS), EMA["trace/ema"]
    with jax.enable_x64(True):
        averages = follow(tx, EMA["trace/params"])
    np.testing.assert_allclose(averages, expected, rtol=0, atol=1e-12)
    single = follow(tx, EMA["trace/params"].astype(np.float32))
    np.testing.assert_allclose(single, expected, rtol=0, atol=2e-6)


def test_averages_of_every_target_are_the_reference_s() -> None:
    tx = optim.power_ema(tuple(EMA["trace/posthoc_targets"].tolist()))
    with jax.enable_x64(True):
        last = follow(tx, EMA["trace/params"])[-1]
    np.testing.assert_allclose(last, EMA["trace/exact_target_params"], rtol=0, atol=1e-12)


def test_traditional_averages_are_the_reference_s() -> None:
    halflife = float(EMA["trace/traditional_halflife_Mimg"]) * 1e6 / int(EMA["trace/batch"])
    with jax.enable_x64(True):
        (averages,) = follow(optim.halflife_ema((halflife,)), EMA["trace/params"]).swapaxes(
            0, 1
        )
    expected = EMA["trace/traditional_ema"]
    np.testing.assert_allclose(averages, expected, rtol=0, atol=1e-12)


def test_every_step_of_the_trace_keeps_the_reference_s_share() -> None:
    """A trace of 0, ..., 0, 1 shows 1 - beta of its last step."""
    tx, betas = optim.power_ema(TRACE_STDS), EMA["trace/betas"]
    with jax.enable_x64(True):
        for t in (1, 2, 3, 17, len(betas)):
            share = follow(tx, np.eye(1, t + 1, t).T)[-1].ravel()
            np.testing.assert_allclose(1 - share, betas[t - 1], rtol=0, atol=1e-14)


@pytest.mark.parametrize("row", range(18))
def test_shares_are_the_reference_s_at_any_count(row: int) -> None:
    """Where a step's images do not divide those seen, the count of steps is a fraction."""
    std, images, size = EMA["beta/std_tnext_tdelta"][row]
    tx, params = optim.power_ema((float(std),)), {"w": np.zeros(1)}
    with jax.enable_x64(True):
        state = tx.init(params)._replace(count=jnp.asarray(images / size - 1))
        _, state = tx.update({"w": np.ones(1)}, state, params)
    share, beta = np.asarray(state.averages[0]["w"]), EMA["beta/beta"][row]
    np.testing.assert_allclose(1 - share, beta, rtol=0, atol=1e-14)


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
    averages = optim.averages(tx.init(params))
    assert len(averages) == 3
    assert {tree["w"].dtype for tree in averages} == {jnp.dtype("float32")}
    pointers = {tree["w"].unsafe_buffer_pointer() for tree in averages}
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
