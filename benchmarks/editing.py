"""Edits of held-out digits by a run: image to image, inpainting, interpolation.

    python benchmarks/editing.py --runs=runs/editing

Trains the config `digits` in RUNS/digits. Draws editing_strength.png, editing_inpaint.png
and editing_slerp.png to --out, and writes to editing.json how far a round trip through the
latents leads astray, and from which noise each strength starts.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import study
from jaxtyping import Array, Float

from jaxdiff import Ancestral, Heun
from jaxdiff.analysis import image_grid, plots
from jaxdiff.data import Pixels
from jaxdiff.runs import generate, restoring
from jaxdiff.runtime import provenance
from jaxdiff.sampling import editing, follow, sample
from jaxdiff.sampling.grids import Karras
from jaxdiff.types import Condition, Denoiser

STEPS = 36
"""Of sampling."""
STRENGTHS = (0.3, 0.45, 0.6, 0.75, 0.9)


def main() -> None:
    """Restores, edits, draws."""
    book, folder = study.book("editing"), study.digits()
    run = restoring.restore(folder)
    rows = dataclasses.replace(run.experiment.data, split="test").load().source
    label = np.array([rows[i]["label"] for i in range(len(rows))])
    first = np.array([np.flatnonzero(label == digit)[0] for digit in range(10)])
    image = np.stack([rows[int(i)]["image"] for i in first])
    x0 = Pixels().encode(jax.random.key(0), jnp.asarray(image))
    path = run.experiment.schedule
    levels = Karras(path.sigma_min, path.sigma_max)(path, STEPS)
    sheet("editing_strength", strengths(run.denoise, x0, levels))
    sheet("editing_inpaint", inpainted(run.denoise, x0, levels))
    rows, astray = interpolated(run.denoise, x0, levels)
    sheet("editing_slerp", rows)
    if not book.find(what="round trip"):
        made = {"trained": study.commits(folder)}
        made["measured"] = study.short(provenance.commit_of(__file__))
        for strength in STRENGTHS:
            start = {"sigma": first_noise(levels, strength)}
            book.write({"what": "start", "strength": strength}, {**start, **made})
        book.write({"what": "round trip", "steps": STEPS}, {"rms": astray, **made})
    print(f"round trip of {STEPS} steps: rms {astray:.4f} of pixels in [-1, 1]")


def first_noise(levels: editing.NoiseLevel, strength: float) -> float:
    """Sigma of the level from which an edit of this strength starts."""
    return float(levels.sigma[editing.first_step(levels, strength)])


def strengths(
    denoise: Denoiser, x0: Float[Array, "B H W C"], levels: editing.NoiseLevel
) -> dict[str, Array]:
    """Digits 0 ... 9, asked to be the next digit, from more and more noise."""
    keys, cond = generate.image_keys(np.arange(10)), Condition(jnp.roll(jnp.arange(10), -1))
    rows = {"held-out digit": x0}
    for strength in STRENGTHS:
        edit = jax.jit(
            lambda x0, s=strength: editing.image_to_image(
                denoise, cond, keys, x0, levels, s, Heun()
            )
        )
        start = first_noise(levels, strength)
        rows[f"strength {strength}, σ = {start:.2g}"] = edit(x0)
    return rows


def inpainted(
    denoise: Denoiser, x0: Float[Array, "B H W C"], levels: editing.NoiseLevel
) -> dict[str, Array]:
    """The lower half of digits, given the upper half and the class."""
    keys, cond = generate.image_keys(np.arange(10)), Condition(jnp.arange(10))
    known = (jnp.arange(8) < 4)[:, None, None]
    rows = {"held-out digit": x0, "what is known": jnp.where(known, x0, 0.0)}
    for name, solver, grid in (
        ("replacement, Heun", Heun(), levels),
        ("replacement, ancestral", Ancestral(), levels),
        ("RePaint, 5 times jump 4", Ancestral(), editing.resampled(levels, 4, 5)),
    ):
        solver = editing.Inpaint(solver, x0, known)
        draw = jax.jit(lambda g, s=solver: sample(denoise, cond, keys, (8, 8, 1), g, s))
        calls = editing.evaluations(solver, grid)
        rows[f"{name}\n({calls} evaluations)"] = draw(grid)
    return rows


def interpolated(
    denoise: Denoiser, x0: Float[Array, "B H W C"], levels: editing.NoiseLevel
) -> tuple[dict[str, Array], float]:
    """Digits 0, 2, 4, 6, 8 on their way to 1, 3, 5, 7, 9, latent and class together.

    And how far digits end from where they began, up to their latent and down: rms.
    """
    share = jnp.linspace(0.0, 1.0, 10)
    classes = jnp.eye(10)
    encode = jax.jit(
        lambda x: editing.encode(denoise, Condition(classes), x, levels[:-1], Heun())
    )
    latent = encode(x0)
    decode = jax.jit(lambda z, c: follow(denoise, Condition(c), None, z, levels, Heun()))
    astray = jnp.sqrt(jnp.mean((decode(latent, classes) - x0) ** 2))
    rows = {}
    for a in range(0, 10, 2):
        pair = [jnp.repeat(latent[i : i + 1], 10, 0) for i in (a, a + 1)]
        mixed = (1 - share)[:, None] * classes[a] + share[:, None] * classes[a + 1]
        rows[f"from {a} to {a + 1}"] = decode(editing.slerp(*pair, share), mixed)
    return rows, float(astray)


def sheet(name: str, rows: Mapping[str, Array]) -> None:
    """OUT/NAME.png: a labelled row each."""
    images = np.concatenate([Pixels().decode(np.asarray(x)) for x in rows.values()])
    picture = image_grid.grid(images, columns=10)
    height, width = picture.shape[:2]
    figure = plots.figure("", height / 72 + 0.1, width=width / 72 + 2.2, dpi=72)
    axes = figure.subplots()
    axes.imshow(picture[..., 0], cmap="gray", interpolation="nearest")
    size = height / len(rows)
    axes.set_yticks((np.arange(len(rows)) + 0.5) * size, rows, fontsize=10)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    print(study.save(figure, name))


if __name__ == "__main__":
    study.run(main)
