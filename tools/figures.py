"""Draws the figures of docs/idea.md, the three facts that jaxdiff rests on.

    python tools/figures.py

The data are two blobs on a line, whose denoiser is known in closed form, so that nothing is
trained: a few seconds on a CPU.
"""

import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import jaxdiff as jd  # noqa: E402
from jaxdiff.analysis import plots  # noqa: E402

OUT = ROOT / "docs" / "figures"
HEIGHT = 4.0
BLOBS = jd.noise_shift.Blobs(jnp.array([[-1.0], [0.7]]), 0.15)
PATHS = {"cosine": jd.Cosine(), "flow": jd.RectifiedFlow(), "EDM": jd.LogSigma(0.02, 20.0)}
STARTS = jnp.linspace(-1.8, 1.8, 6)[:, None]


def one_law() -> Figure:
    """Paths in the plane of (alpha, sigma), and Euler's error on each of them."""
    title = "One law: a path is a curve of levels, a step an increment of it"
    figure, (plane, error) = plots.panels(title, HEIGHT, columns=2, ratios=(1.0, 1.25))
    counts = np.array([4, 8, 16, 32, 64, 128])
    for (name, path), look in zip(PATHS.items(), plots.looks(PATHS), strict=True):
        t = np.linspace(0, 1, 200)
        dense, few = path(t), jd.grids.Uniform()(path, 8)
        plane.plot(dense.alpha, dense.sigma, label=name, **look)
        plane.plot(few.alpha, few.sigma, "o", ms=4.5, mec=plots.PAPER, color=look["color"])
        start = STARTS * float(few.sigma[0])
        draw = lambda solver, n, p=path, s=start: jd.sampling.follow(
            BLOBS, jd.UNCONDITIONAL, None, s, jd.grids.Uniform()(p, int(n)), solver
        )
        exact = draw(jd.Heun(), 4096)
        errors = [float(jnp.abs(draw(jd.Euler(), n) - exact).mean()) for n in counts]
        error.plot(counts, errors, marker="o", ms=4, label=name, **look)
    plane.set(title="Paths, and eight steps of each", xlim=(-0.05, 1.1), ylim=(-0.05, 1.6))
    plane.set(xlabel="signal α   [1]", ylabel="noise σ   [units of the data]")
    error.set(title="One solver, jd.Euler(), on every path", xscale="log", yscale="log")
    error.set(xlabel="steps   [evaluations of D]", ylabel="mean error of x0   [data units]")
    error.set_xticks(counts, [str(n) for n in counts])
    error.minorticks_off()
    plots.legend(error)
    return figure


def one_symmetry() -> Figure:
    """The same images on three paths: x differs, x over its ray's length does not."""
    title = "One symmetry: D(k x; k α, k σ) = D(x; α, σ)"
    figure, (left, right) = plots.panels(title, HEIGHT, columns=2)
    widths = (5.0, 2.8, 1.2)  # so that a curve below another one is still seen
    for (name, path), look, lw in zip(
        PATHS.items(), plots.looks(PATHS), widths, strict=True
    ):
        levels = jd.grids.UniformLogSNR(-5.9, 7.8)(path, 400)
        scale = np.hypot(levels.alpha, levels.sigma)
        way = jd.sampling.trajectory(
            BLOBS, jd.UNCONDITIONAL, None, STARTS * scale[0], levels, jd.Heun()
        )
        x = np.asarray(way.x[:-1, :, 0])
        draw = {**look, "lw": lw}
        for axes, y in ((left, x), (right, x / scale[:-1, None])):
            lines = axes.plot(levels.logsnr[:-1], y, **draw)
        lines[0].set_label(name)
    left.set(title="The state on three paths", ylabel="x   [data units]", ylim=(-6, 6))
    right.set(title="The same states, on their rays", ylabel="x / √(α² + σ²)   [1]")
    for axes in (left, right):
        plots.logsnr_axis(axes, -5.9, 7.8)
        axes.set_xlabel("← noise    log SNR   [nats]    data →")
    plots.legend(right, loc="upper right")
    return figure


def one_output() -> Figure:
    """How an error of the network's output grows on the way to x0, and to eps."""
    title = "One canonical output: x0 has no pole where a sampler goes"
    figure, (to_x0, to_eps) = plots.panels(title, HEIGHT, columns=2)
    predictions = {"eps": jd.Eps(), "x0": jd.X0(), "v": jd.V(), "flow": jd.Flow()}
    logsnr = np.linspace(-16, 16, 400)
    at = jd.NoiseLevel(*(np.sqrt(1 / (1 + np.exp(s * logsnr))) for s in (-1, 1)))
    for (name, prediction), look in zip(
        predictions.items(), plots.looks(predictions), strict=True
    ):
        c_out = np.abs(np.asarray(prediction(at).c_out))
        for axes, factor in ((to_x0, c_out), (to_eps, c_out * at.alpha / at.sigma)):
            axes.plot(logsnr, factor, label=name, **look)
    to_x0.set(title="Error of x0, from a network that is 1 off", ylabel="error of x0   [1]")
    to_eps.set(title="Error of ε, from the same network", ylabel="error of ε   [1]")
    for axes in (to_x0, to_eps):
        axes.set(yscale="log", ylim=(1e-3, 1e3))
        plots.logsnr_axis(axes, -16, 16)
        axes.set_xlabel("← noise    log SNR   [nats]    data →")
    plots.legend(to_x0, title="it predicts")
    return figure


if __name__ == "__main__":
    OUT.mkdir(exist_ok=True)
    for draw in (one_law, one_symmetry, one_output):
        draw().savefig(OUT / f"{draw.__name__}.png", dpi=110)
        print(OUT / f"{draw.__name__}.png")
