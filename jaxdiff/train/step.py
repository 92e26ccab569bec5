"""The training step: pure, compiled once, the state donated."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Key, PyTree

from jaxdiff import data
from jaxdiff.config import Experiment
from jaxdiff.denoisers import denoiser
from jaxdiff.runs.programs import kept
from jaxdiff.runs.state import TrainState, labelled, state_shapes
from jaxdiff.runtime import sharding
from jaxdiff.schedules import corrupt
from jaxdiff.train import levels
from jaxdiff.types import Condition, Noised, placement
from jaxdiff.types.ranges import quote

Batch = dict[str, Array]
Metrics = dict[str, Float[Array, "..."]]
METRICS = ("loss", "grad_norm", "learning_rate")
"""Metrics of every step; "skipped" too, where steps may be skipped. "loss_by_logsnr" is an
array, `levels.by_logsnr` of the batch, and the others are numbers."""


def make_step(
    experiment: Experiment, more_images: int = 0
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """The training step: (state, batch) -> (state, metrics), pure, to be jitted.

    The batch is {"image": as stored, "label": [B] int32}. It passes through: encode,
    draw t, corrupt, withhold conditions, denoise, loss, gradients, Optax chain. After n
    steps, n batch_size + more_images images were seen, which the learning rate follows.

    >>> from jaxdiff.networks import DiT
    >>> tiny = Experiment(network=DiT(width=8, depth=1, heads=2), batch_size=16)
    >>> image, label = jnp.zeros((16, 8, 8, 1), jnp.uint8), jnp.zeros(16, jnp.int32)
    >>> state, batch = state_shapes(tiny), {"image": image, "label": label}
    >>> after, metrics = jax.eval_shape(make_step(tiny), state, batch)  # jax.jit to run it
    >>> sorted(metrics), jax.tree.structure(after) == jax.tree.structure(state)
    (['grad_norm', 'learning_rate', 'loss', 'loss_by_logsnr'], True)
    """
    e = experiment
    tx = e.optimizer.transformation(e.batch_size, more_images)
    rate = e.optimizer.schedule(e.batch_size, more_images)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        keys = jax.random.split(jax.random.fold_in(state.key, state.step), 5)
        t_key, noise_key, condition_key, dropout_key, data_key = keys
        three = data_key, t_key, noise_key
        noised, t, importance = noised_batch(e, state.times, three, batch)
        cond = withhold(condition_key, batch["label"], e)

        def objective(
            params: PyTree, part: tuple, key: Key[Array, ""]
        ) -> tuple[Float[Array, ""], Float[Array, " b"]]:
            noised, cond, importance = part
            variables = {"params": params, "constants": state.constants}
            denoise = denoiser(training(e, key), variables, e.parameterization)
            losses = e.loss(denoise(noised.x, noised.at, cond), noised)
            if losses.shape != noised.x.shape[:1]:
                raise ValueError(
                    f"{quote(e.loss)} is of shape {losses.shape} for x of shape "
                    f"{noised.x.shape}: a loss is [B], the mean over each image"
                )
            scale = e.loss_scale * noised.x[0].size
            return scale * jnp.mean(importance.reshape(-1) * losses), losses

        gradient = jax.value_and_grad(objective, has_aux=True)
        whole = (noised, cond, importance)
        (loss, losses), grads = accumulated(
            gradient, state.params, whole, dropout_key, e.accumulation
        )
        with jax.named_scope("optimizer"):
            updates, opt_state = tx.update(grads, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
            grad_norm = optax.tree.norm(grads)
            # Averages and moments follow from these. Sums cost a TPU nothing on the way,
            # where a search through each array for what is not finite takes as long as
            # the optimizer [docs/results/accelerators.md].
            bad = ~jnp.isfinite(loss + grad_norm + optax.tree.norm(params))
        made = {
            "params": params,
            "opt_state": opt_state,
            "times": e.times.update(state.times, t, losses),
        }
        metrics = {
            "loss": jnp.mean(losses),
            "grad_norm": grad_norm,
            "learning_rate": jnp.float32(rate(state.step)),
            "loss_by_logsnr": levels.by_logsnr(losses, noised.at),
        }
        first_bad = jnp.where((state.first_bad < 0) & bad, state.step, state.first_bad)
        if e.on_nonfinite == "skip":  # only the step number advances
            kept = {name: getattr(state, name) for name in made}
            made = jax.tree.map(lambda new, old: jnp.where(bad, old, new), made, kept)
            metrics["skipped"], first_bad = jnp.float32(bad), state.first_bad
        step = state.step + 1
        return dataclasses.replace(state, step=step, first_bad=first_bad, **made), metrics

    return step


def noised_batch(
    experiment: Experiment, times: PyTree, keys: tuple[Key[Array, ""], ...], batch: Batch
) -> tuple[Noised, Array, Array]:
    """Encodes the images of a batch, draws t and corrupts: the states that a step sees.

    `times` is the state of the law of t, and the keys are for encoding, t and noise.
    Returns the states, their t and its importance, both [B, 1, ...].

    Raises:
        ValueError: the images are of another shape or type than the source stores.
    """
    e, (data_key, t_key, noise_key) = experiment, keys
    encoder, images = data.encoder_of(e.data), batch["image"]
    stored = encoder.stored((images.shape[0], *e.data.shape))
    kinds = images.dtype.kind, stored.dtype.kind  # latents may be float16 too
    if images.shape != stored.shape or len({*kinds}) > 1:
        raise ValueError(
            f"{type(e.data).__name__} has images of {images.dtype} {images.shape[1:]}, but "
            f"an image is stored as {stored.dtype} {stored.shape[1:]}: load such, or "
            "another shape or encoder"
        )
    x0 = encoder.encode(data_key, images)
    per_image = (x0.shape[0],) + (1,) * (x0.ndim - 1)
    t, importance = e.times.draw(times, t_key, per_image, e.schedule)
    noised = corrupt(noise_key, x0, t, e.schedule)
    return dataclasses.replace(noised, label=batch["label"]), t, importance


def accumulated(
    gradient: Callable, params: PyTree, whole: PyTree, key: Key[Array, ""], rounds: int
) -> tuple[tuple[Float[Array, ""], Float[Array, " B"]], PyTree]:
    """((loss, losses), gradient) of a batch, taken in so many equal parts in turn.

    Memory holds the activations of one part. The mean over parts is that over the batch;
    image i is in part i mod rounds, so that every device has its share of each. This is
    `optax.microbatch`; `optax.MultiSteps` would keep a sum of gradients in the saved state
    and take a step of the chain, averages included, for each part.
    """
    if rounds == 1:
        return gradient(params, whole, key)
    size = len(jax.tree.leaves(whole)[0])
    part = lambda some, images: gradient(params, some, jax.random.fold_in(key, images[0]))
    kinds = optax.microbatching.AccumulationType
    mean, rows = kinds.MEAN, kinds.CONCAT
    split = optax.microbatch(part, (0, 1), size // rounds, ((mean, rows), mean))
    return split(whole, jnp.arange(size))


def training(experiment: Experiment, dropout_key: Key[Array, ""]) -> Callable:
    """The network applied as in training: with dropout.

    >>> from jaxdiff.networks import DiT
    >>> net, x = DiT(width=8, depth=1, heads=2), jnp.zeros((2, 8, 8, 1))
    >>> key, args = jax.random.key(0), (x, jnp.zeros(()), Condition())
    >>> apply = training(Experiment(network=net), key)
    >>> jax.eval_shape(apply, jax.eval_shape(net.init, key, *args), *args).raw.shape
    (2, 8, 8, 1)
    """

    def apply(variables: PyTree, x: Array, c_noise: Array, cond: Condition) -> PyTree:
        rngs = {"dropout": dropout_key}
        return experiment.network.apply(variables, x, c_noise, cond, train=True, rngs=rngs)

    return apply


def withhold(key: Key[Array, ""], label: Array, experiment: Experiment) -> Condition:
    """The condition of a batch, with parts of it dropped for random images.

    >>> from jaxdiff.networks import UNet
    >>> experiment = Experiment(network=UNet(label_dim=10), label_dropout=1.0)
    >>> withhold(jax.random.key(0), jnp.array([3, 4]), experiment).label.tolist()
    [-1, -1]
    """
    label_key, noise_key = jax.random.split(key)
    hidden = jax.random.bernoulli(label_key, experiment.label_dropout, label.shape)
    cond = labelled(experiment, jnp.where(hidden, -1, label))
    if experiment.noise_dropout:
        kept = 1 - experiment.noise_dropout
        noise = jax.random.bernoulli(noise_key, kept, label.shape)
        cond = dataclasses.replace(cond, noise=noise)
    return cond


@kept(4)
def compiled_step(
    experiment: Experiment, mesh: Mesh, more_images: int = 0
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """`make_step`, compiled.

    The state is donated and keeps its sharding; metrics are on every device.

    >>> from jaxdiff.networks import DiT
    >>> tiny = Experiment(network=DiT(width=8, depth=1, heads=2), batch_size=16)
    >>> longer, mesh = dataclasses.replace(tiny, steps=10), sharding.data_mesh()
    >>> compiled_step(tiny, mesh) is compiled_step(longer, mesh)  # one program for both
    True
    """
    places = sharding.shared(state_shapes(experiment), mesh), sharding.replicated(mesh)
    plain = make_step(experiment, more_images)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        with placement.on(mesh):
            return plain(state, batch)

    return jax.jit(step, donate_argnums=0, out_shardings=places)
