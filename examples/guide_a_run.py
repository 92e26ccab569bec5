"""Guide a trained run away from its own unconditional samples.

    python examples/guide_a_run.py runs/digits

Any denoiser can guide any other: here the run guides itself, which needs `label_dropout` in
training. Writes guided.png, one row per weight.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np

import jaxdiff as jd


def main(workdir: str = "runs/digits", out: str = "guided.png") -> np.ndarray:
    """Draws each class with three weights from the same noise, and returns all images."""
    run = jd.restore(workdir)
    print(run)
    classes = min(run.experiment.network.label_dim, 10)
    cond = jd.Condition(label=jnp.arange(classes))
    keys = jax.random.split(jax.random.key(0), classes)
    without_label, weights, rows = jd.without(run.denoise, "label"), (0.0, 1.0, 3.0), []
    for w in weights:
        guided = jd.guide(run.denoise, (without_label, w))
        x0 = jd.sample(guided, cond, keys, run.shape, run.levels, jd.Heun())
        rows.append(np.clip(x0, -1, 1))
    images, names = np.concatenate(rows), [f"w = {w:g}" for w in weights]
    heads = [str(k) for k in range(classes)]
    jd.analysis.image_grid.save_grid(out, images, classes, rows=names, heads=heads)
    return images


if __name__ == "__main__":
    main(*sys.argv[1:])
