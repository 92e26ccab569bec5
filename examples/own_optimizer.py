"""Train with your own Optax chain.

    python examples/own_optimizer.py

`jaxdiff.train` has EDM2's optimiser, checkpoints and exact resuming. For another chain you
can write the loop yourself from pure functions: draw t, corrupt, denoise, weight the error.
Prints the loss and writes digits.png, ten samples of each class.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxdiff as jd
from jaxdiff.data.pixel_values import to_float


def main(steps: int = 1000, channels: int = 32, out: str = "digits.png") -> None:
    """Trains on handwritten digits, 8 x 8, and draws some."""
    images, labels = jd.data.Digits(split="train").load().take(np.arange(1497)).values()
    data, labels = jnp.asarray(to_float(images)), jnp.asarray(labels)
    net = jd.UNet(10, channels, (1, 2), num_blocks=1, channels_per_head=channels)
    schedule, error = jd.Cosine(), jd.WeightedError(jd.UniformOnNetwork(jd.V()))
    rate = optax.cosine_decay_schedule(3e-3, steps)
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate))
    start = jax.jit(net.init)(jax.random.key(0), data[:1], jnp.zeros(()), jd.Condition())
    model = lambda params: jd.denoiser(net.apply, {**start, "params": params}, jd.V())

    def loss(params: dict, key: jax.Array) -> jax.Array:
        for_rows, for_t, for_noise = jax.random.split(key, 3)
        rows = jax.random.randint(for_rows, (64,), 0, len(data))
        t = jax.random.uniform(for_t, (64, 1, 1, 1))
        noised = jd.corrupt(for_noise, data[rows], t, schedule)
        denoised = model(params)(noised.x, noised.at, jd.Condition(label=labels[rows]))
        return error(denoised, noised).mean()

    @jax.jit
    def step(params: dict, state: tuple, key: jax.Array) -> tuple:
        value, gradient = jax.value_and_grad(loss)(params, key)
        updates, state = tx.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    params, state = start["params"], tx.init(start["params"])
    for n in range(steps):
        params, state, value = step(params, state, jax.random.key(n))
        if n % 50 == 0:
            print(f"step {n}: loss {value:.3f}")
    keys, label = jax.random.split(jax.random.key(0), 100), jnp.arange(100) % 10
    cond, levels = jd.Condition(label=label), jd.grids.Uniform()(schedule, 24)
    x0 = jd.sample(model(params), cond, keys, data.shape[1:], levels, jd.Heun())
    jd.analysis.image_grid.save_grid(out, x0.clip(-1, 1), labels=label)


if __name__ == "__main__":
    main()
