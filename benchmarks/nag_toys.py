"""When does noise awareness guidance help, and when does it hurt? Toys with known answers.

    python benchmarks/nag_toys.py --out=docs/results/nag_toys.png

Data are 8 blobs in 64 dimensions, so every denoiser, and what a network that is not told
the level converges to, is known in closed form. Each row is a sampler with a defect of its
own. `shift` is that of the states at some levels against forward states of the same level,
`rho` the variance within blobs at the end over what it should be, `TV` how far the blobs'
shares are off in total variation, which 2,048 draws cannot tell below some 0.025.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jaxtyping import Array, Float

import jaxdiff as jd
from jaxdiff.analysis import plots
from jaxdiff.commands import command
from jaxdiff.evaluation import noise_shift
from jaxdiff.evaluation.noise_shift import Blobs, LevelPosterior, Unaware
from jaxdiff.runtime.files import write_atomically
from jaxdiff.sampling import trajectory
from jaxdiff.sampling.guidance import Interval
from jaxdiff.sampling.solvers.sde import SigmaW
from jaxdiff.types import UNCONDITIONAL, Condition, Denoised, NoiseLevel, Scaling, Solver

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OUT = flags.DEFINE_string(
    "out", "docs/results/nag_toys.png", "Where the figure goes, a PNG."
)
NUMBER = flags.DEFINE_integer("number", 2048, "Samples of each run.", lower_bound=100)
SEED = flags.DEFINE_integer("seed", 0, "Seed of everything random.", lower_bound=0)

D = 64
FLOW = jd.RectifiedFlow()
EM = jd.EulerMaruyama(SigmaW(), FLOW, tangent=True, limit=math.inf)
REVERSE = jd.EulerMaruyama()
CHURN = jd.Heun(churn=24 * 0.2, churn_noise=1.02)


@dataclass(frozen=True, eq=False)
class Problem:
    """Data, the levels that blind networks know with their prior, and the level's name."""

    data: Blobs
    coordinate: Float[Array, " n"]
    levels: NoiseLevel
    log_prior: Float[Array, " n"]


@dataclass(frozen=True, eq=False)
class Run:
    """One sampler: strong and weak denoiser, and where guidance ends in sigma / alpha."""

    name: str
    strong: Any
    weak: Any
    solver: Solver
    grid: NoiseLevel
    weights: tuple[float, ...]
    high: float = 1.5
    extra: float = 0.0
    """Start at the grid's first level, from forward states with this error on top; 0 where
    a run starts from noise, a negative one for forward states as they are."""


@dataclass(frozen=True, eq=False)
class Tilted:
    """D = x - sigma v on the straight path, with v = scale eps - D + size error(x, t)."""

    data: Blobs
    scale: float = 1.0
    size: float = 0.0
    rate: float = 0.0
    """How fast the error turns with t."""

    def __call__(
        self, x: Float[Array, "B d"], at: NoiseLevel, cond: Condition = UNCONDITIONAL
    ) -> Denoised:
        x0 = self.data(x, at).x0
        v = self.scale * (x - at.alpha * x0) / at.sigma - x0
        s, c, out = _features(x)
        turned = s * jnp.cos(self.rate * at.sigma) + c * jnp.sin(self.rate * at.sigma)
        return Denoised(x - at.sigma * (v + self.size * turned @ out))


@dataclass(frozen=True, eq=False)
class TiltedBlind:
    """The same network where it is not told t: E[v(x, t') | x]."""

    of: Tilted
    problem: Problem

    def __call__(
        self, x: Float[Array, "B d"], at: NoiseLevel, cond: Condition = UNCONDITIONAL
    ) -> Denoised:
        t, of = self.problem.coordinate, self.of
        posterior = LevelPosterior(of.data, self.problem.levels, self.problem.log_prior)
        v = posterior.expected(x, of.scale / t, -of.scale * (1 - t) / t - 1)
        (s, c, out), p = _features(x), posterior.weights(x)
        turned = (
            s * (jnp.cos(of.rate * t) @ p)[:, None]
            + c * (jnp.sin(of.rate * t) @ p)[:, None]
        )
        return Denoised(x - at.sigma * (v + of.size * turned @ out))


def _features(x: Float[Array, "B d"]) -> tuple[Array, Array, Array]:
    """sin and cos of 64 random projections, and weights to a field of unit variance."""
    keys = jax.random.split(jax.random.key(7), 3)
    angle = x @ jax.random.normal(keys[0], (D, 64)) / math.sqrt(D)
    angle = angle + jax.random.uniform(keys[1], (64,), maxval=2 * math.pi)
    out = jax.random.normal(keys[2], (64, D)) * math.sqrt(2 / 64)
    return jnp.sin(angle), jnp.cos(angle), out


@dataclass(frozen=True)
class Raw:
    """A prediction whose network sees x as it is."""

    c: Callable[[NoiseLevel], tuple[Any, Any]]
    has_pole_at_pure_noise = True

    def __call__(self, at: NoiseLevel) -> Scaling:
        one = jnp.ones_like(at.sigma)
        skip, out = self.c(at)
        return Scaling(skip * one, out * one, one, one)


OPTIONS = {
    "A": jd.EDM(0.5),
    "B": Raw(lambda at: (0.0, 1.0)),
    "C": Raw(lambda at: (1.0, at.sigma**2)),
    "E": Raw(lambda at: (1.0, -at.sigma)),
}
"""What a blind network of EDM's path predicts: F from c_in x; D, score or eps from x."""


def flow_runs(problem: Problem) -> list[Run]:
    """The straight path: exact denoisers, then ones with a defect."""
    data = problem.data
    exact = (data, Unaware(data, jd.Flow(), problem.levels, problem.log_prior))
    pair = lambda tilted: (tilted, TiltedBlind(tilted, problem))
    down = lambda n, start=1.0: NoiseLevel(
        1 - jnp.linspace(start, 0.04, n + 1), jnp.linspace(start, 0.04, n + 1)
    )
    shared, fast = Tilted(data, 1.0, 0.3, 2.0), Tilted(data, 1.0, 0.3, 20.0)
    late = {"grid": down(60, 0.4), "solver": jd.Heun(), "weights": (0, 1)}
    heun, all_levels = (jd.Heun(), down(25)), math.inf
    return [
        Run("EM 25", *exact, EM, down(25), (0, 4)),
        Run("EM 50", *exact, EM, down(50), (0, 1, 2)),
        Run("EM 50, all levels", *exact, EM, down(50), (4,), all_levels),
        Run("EM 100", *exact, EM, down(100), (0, 1, 4)),
        Run("Euler 25", *exact, jd.Euler(), down(25), (0, 1, 4)),
        Run("Heun 60 from 0.4, error 0.1", *exact, **late, extra=0.1),
        Run("Heun 60 from 0.4", *exact, **late, extra=-1.0),
        Run("eps x 0.97, Heun 25", *pair(Tilted(data, 0.97)), *heun, (0, 1, 2, 4)),
        Run(
            "blobs 2 x as wide, Heun 25",
            *pair(Tilted(Blobs(data.means, 0.2))),
            *heun,
            (0, 4),
        ),
        Run("v + 0.3 r(x, t), Heun 25", *pair(shared), *heun, (0, 1, 2, 4)),
        Run(
            "r fast in t, blind exact, EM 100",
            fast,
            exact[1],
            EM,
            down(100),
            (0, 1, 2),
        ),
    ]


def edm_runs(problem: Problem) -> list[Run]:
    """EDM's path, 80 to 0.03, and the four ways to withhold the level."""
    data, runs = problem.data, []
    weights = {"A": (0, 1, 2), "B": (1,), "C": (0.5, 1), "E": (1, 2)}
    samplers = {
        "EM 64": (REVERSE, 64),
        "Heun 24": (jd.Heun(), 24),
        "churn 24": (CHURN, 24),
        "Euler 24": (jd.Euler(), 24),
    }
    for name, (solver, steps) in samplers.items():
        grid = jd.grids.Karras(0.03, 80.0)(None, steps + 1)[:-1]
        for option, row in OPTIONS.items():
            blind = Unaware(data, row, problem.levels, problem.log_prior)
            runs += [
                Run(f"{name}, {option}", data, blind, solver, grid, weights[option], 5.0)
            ]
    return runs


def measured(problem: Problem, run: Run) -> dict[float, tuple[Any, Any, float, float]]:
    """For each weight the levels' numbers, the shift there, rho and TV."""
    data, n = problem.data, NUMBER.value
    start, blob, within, error, late, keys = jax.random.split(jax.random.key(SEED.value), 6)
    x0 = data.means[jax.random.randint(blob, (n,), 0, len(data.means))]
    x0 = x0 + data.std * jax.random.normal(within, x0.shape)
    x = run.grid.sigma[0] * jax.random.normal(start, x0.shape)
    if run.extra:
        x = x + run.grid.alpha[0] * x0
        x = x + max(run.extra, 0) * jax.random.normal(error, x0.shape)
    count = len(run.grid.sigma)
    kept = sorted({round(i) for i in np.linspace(1, count - 1, 13)})
    ahead = noise_shift.forward(
        jax.random.split(late, len(kept)), x0, run.grid[np.asarray(kept)]
    )
    posterior = LevelPosterior(data, problem.levels, problem.log_prior)
    mean = lambda x: posterior.mean(x, problem.coordinate)[0]

    @jax.jit
    def go(w: Array) -> tuple[Array, noise_shift.Shift]:
        guided = jd.guide(run.strong, (run.weak, Interval(w, high=run.high)))
        each = jax.random.split(keys, n)
        path = trajectory(guided, UNCONDITIONAL, each, x, run.grid, run.solver).x
        estimates = noise_shift.estimates(mean, path[np.asarray(kept)], ahead)
        return path[-1], noise_shift.measure(estimates)

    results = {}
    for w in run.weights:
        end, shift = go(jnp.float32(w))
        rho, tv = _spread(data, end, run.grid[-1])
        results[w] = (np.asarray(run.grid.sigma)[kept], shift, rho, tv)
    return results


def _spread(data: Blobs, x: Array, at: NoiseLevel) -> tuple[float, float]:
    r = data.weights(x, at)
    rest = x - at.alpha * data.means[r.argmax(1)]
    exact = at.alpha**2 * data.std**2 + at.sigma**2
    tv = jnp.abs(r.mean(0) - 1 / len(data.means)).sum() / 2
    return float((rest**2).mean() / exact), float(tv)


def main() -> None:
    """Measures, prints tables, draws."""
    t, u = jnp.geomspace(0.012, 1.0, 96), jnp.linspace(math.log(0.02), math.log(80.0), 160)
    means = jnp.asarray(np.random.default_rng(0).normal(size=(8, D)), jnp.float32)
    flow = Problem(Blobs(means, 0.1), t, NoiseLevel(1 - t, t), jnp.log(t))
    edm = Problem(
        Blobs(0.5 * means, 0.05),
        u,
        NoiseLevel(jnp.ones_like(u), jnp.exp(u)),
        jnp.zeros_like(u),
    )
    results = {}
    for problem, runs in ((flow, flow_runs(flow)), (edm, edm_runs(edm))):
        print("\n| sampler | w | shift on the way | at the end | rho | TV |")
        print("|---|---:|---|---:|---:|---:|")
        for run in runs:
            for w, (sigma, shift, rho, tv) in measured(problem, run).items():
                results[run.name, w] = sigma, np.asarray(shift.shift)
                print(_row(run.name, w, sigma, shift, rho, tv), flush=True)
    figure, path = _drawn(results), Path(OUT.value)
    write_atomically(path, lambda file: figure.savefig(file, format="png"))
    print(f"wrote {path}")


def _row(name: str, w: float, sigma: Any, shift: Any, rho: float, tv: float) -> str:
    chosen = [int(np.argmin(np.abs(np.log(sigma / s)))) for s in (0.47, 0.3, 0.1)]
    way = " / ".join(f"{float(shift.shift[i]):+.4f}" for i in chosen)
    end = f"{float(shift.shift[-1]):+.4f}"
    return f"| {name} | {w:g} | {way} | {end} | {rho:.3f} | {tv:.3f} |"


def _drawn(results: dict[tuple[str, float], tuple[Any, Any]]) -> "Figure":
    """The shift along the path: where guidance helps, and where it hurts."""
    title = "Where noise awareness guidance helps, and two cases where it hurts"
    figure, panels = plots.panels(title, 3.2, columns=3)
    names = ("EM 50", "Euler 25", "r fast in t, blind exact, EM 100")
    labels = "EM 50: helps", "Euler 25: hurts", "errors not shared, EM 100: hurts"
    for axes, name, label in zip(panels, names, labels, strict=True):
        chosen = {w: curves for (n, w), curves in results.items() if n == name}
        for colour, (w, (t, shift)) in zip(plots.COLOURS, chosen.items(), strict=False):
            axes.plot(t, shift, color=colour, lw=1.8, label=f"w = {w:g}")
        axes.axhline(0, color=plots.INK, lw=0.6, alpha=0.5)
        axes.invert_xaxis()
        axes.set(title=label, xlabel="t   [fraction of the path]")
        plots.legend(axes)
    panels[0].set_ylabel("shift of t   [fraction of the path]")
    return figure


if __name__ == "__main__":
    command.run(main)
