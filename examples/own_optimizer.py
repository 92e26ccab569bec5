"""Train with an Optax chain of your own.

    python examples/own_optimizer.py

`jaxdiff.train` brings EDM2's optimiser, checkpoints and exact resuming. For another chain
write the loop yourself, of pure functions: draw t, corrupt, denoise, weigh the error.
Prints the loss and writes digits.png, ten samples of each class.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxdiff as jd
from jaxdiff.pixels import to_float


def main(steps: int = 1000, channels: int = 32, out: str = "digits.png") -> float:
    """Trains on handwritten digits, 8 x 8, and draws some; returns the last loss."""
    data = jd.data.Digits(split="train").load()
    images, labels = (jnp.asarray(a) for a in data.take(np.arange(len(data))).values())
    x0, batch = jnp.asarray(to_float(images)), 64
    net = jd.UNet(10, channels, (1, 2), num_blocks=1, channels_per_head=channels)
    schedule, predicts = jd.Cosine(), jd.V()
    weighted = jd.WeightedError(jd.UniformOnNetwork(predicts))
    rate = optax.cosine_decay_schedule(3e-3, steps)
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate))
    constants, params = net.init(
        jax.random.key(0), x0[:1], jnp.zeros(()), jd.Condition()
    ).values()
    model = lambda params: jd.denoiser(
        net.apply, {"params": params, "constants": constants}, predicts
    )

    def loss(params: dict, key: jax.Array) -> jax.Array:
        for_rows, for_t, for_noise = jax.random.split(key, 3)
        rows = jax.random.randint(for_rows, (batch,), 0, len(x0))
        t = jax.random.uniform(for_t, (batch, 1, 1, 1))
        noised = jd.corrupt(for_noise, x0[rows], t, schedule)
        denoised = model(params)(noised.x, noised.at, jd.Condition(label=labels[rows]))
        return weighted(denoised, noised).mean()

    @jax.jit
    def step(params: dict, state: optax.OptState, key: jax.Array) -> tuple:
        value, gradient = jax.value_and_grad(loss)(params, key)
        updates, state = tx.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    state = tx.init(params)
    for n in range(steps):
        params, state, value = step(params, state, jax.random.key(n))
        if n % 100 == 0:
            print(f"step {n}: loss {value:.3f}")
    label = jnp.arange(100) % 10
    keys, levels = (
        jax.random.split(jax.random.key(0), 100),
        jd.levels.Uniform()(schedule, 24),
    )
    images = jd.sample(
        model(params), jd.Condition(label=label), keys, (8, 8, 1), levels, jd.Heun()
    )
    jd.pictures.save_grid(out, np.clip(images, -1, 1), labels=label)
    return float(value)


if __name__ == "__main__":
    main()
