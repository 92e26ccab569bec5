"""Your own network on your own data: points of a spiral, drawn by three solvers.

    python examples/own_network.py

A network is any function (params, x, c_noise, cond) -> jd.Output, such as a Flax module's
`apply`. `jd.denoiser` sets what it predicts, here the flow eps - x0; the result works with
every schedule, solver and grid. Prints the distance of the points to the spiral.
"""

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

import jaxdiff as jd


def spiral(key: jax.Array, count: int) -> jax.Array:
    """Points [count, 2] on one and a half turns of a spiral."""
    angle = 3 * jnp.pi * jnp.sqrt(jax.random.uniform(key, (count, 1)))
    return angle / 10 * jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=1)


class Network(nn.Module):
    """Dense layers on x [B, 2] and sines of the noise level."""

    @nn.compact
    def __call__(self, x: jax.Array, c_noise: jax.Array, cond: jd.Condition) -> jd.Output:
        waves = jnp.broadcast_to(c_noise, (len(x), 1)) * 2.0 ** jnp.arange(-2, 3)
        h = jnp.concatenate([x, jnp.sin(waves), jnp.cos(waves)], axis=1)
        for _ in range(3):
            h = nn.silu(nn.Dense(128)(h))
        return jd.Output(nn.Dense(2)(h))


def main(steps: int = 2000) -> None:
    """Trains, then samples with each solver."""
    net, schedule, tx = Network(), jd.RectifiedFlow(), optax.adam(2e-3)
    model = lambda params: jd.denoiser(net.apply, params, jd.Flow())
    error = jd.WeightedError(jd.UniformOnNetwork(jd.Flow()))
    params = net.init(jax.random.key(0), jnp.zeros((1, 2)), jnp.zeros(()), jd.Condition())

    def loss(params: dict, key: jax.Array) -> jax.Array:
        for_data, for_t, for_noise = jax.random.split(key, 3)
        t = jax.random.uniform(for_t, (512, 1))
        noised = jd.corrupt(for_noise, spiral(for_data, 512), t, schedule)
        return error(model(params)(noised.x, noised.at), noised).mean()

    def step(carry: tuple, key: jax.Array) -> tuple:
        updates, state = tx.update(jax.grad(loss)(carry[0], key), carry[1])
        return (optax.apply_updates(carry[0], updates), state), None

    keys = jax.random.split(jax.random.key(1), steps)
    (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), keys)
    levels = jd.grids.Uniform()(schedule, 20)
    for solver in (jd.Euler(), jd.Heun(), jd.DPMSolverPP(order=2)):
        x0 = jd.sample(model(params), jd.Condition(), keys[:1000], (2,), levels, solver)
        gaps = x0[:, None] - spiral(jax.random.key(2), 4000)
        away = jnp.linalg.norm(gaps, axis=-1).min(axis=1).mean()
        print(f"{type(solver).__name__}: {away:.3f} from the spiral")


if __name__ == "__main__":
    main()
