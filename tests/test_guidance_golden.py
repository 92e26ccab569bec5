"""Guidance of every kind against published numbers, single evaluations and whole runs."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.sampling import guidance
from jaxdiff.types import UNCONDITIONAL, Condition, Denoised, NoiseLevel
from tests.toys import GOLDEN, edm

GIVEN = np.load(GOLDEN / "samplers" / "guidance.npz")
CLOSE = {"rtol": 0, "atol": 1e-9}
W = float(GIVEN["w"]) - 1  # the reference's is the whole scale
PARAM = {name: float(GIVEN[f"param/{name}"]) for name in ("phi", "dt_p", "apg_r")}
VP = "pointwise/rescale_v_vp"


@dataclass(frozen=True, eq=False)
class Classes:
    """E[x0 | x] of a mixture with diagonal covariances, images [B, 4, 4, 1].

    A label that is not withheld leaves the components of one class.
    """

    prefix: str = ""

    def __call__(self, x: Any, at: NoiseLevel, cond: Condition = UNCONDITIONAL) -> Denoised:
        w, mu, c = (GIVEN[f"gmm16/{self.prefix}{name}"] for name in ("w", "mu", "C"))
        c = np.diagonal(c, axis1=1, axis2=2)
        within = np.isin(np.arange(len(w)), GIVEN["gmm16/class_components"])
        y = x.reshape(len(x), 1, -1)
        label = jnp.full(len(x), -1) if cond.label is None else cond.label
        ln_w = jnp.where((label[:, None] < 0) | within, np.log(w), -jnp.inf)
        v = at.alpha**2 * c + at.sigma**2
        score = ln_w - (jnp.log(v) + (y - at.alpha * mu) ** 2 / v).sum(-1) / 2
        parts = mu + at.alpha * c / v * (y - at.alpha * mu)
        x0 = (jax.nn.softmax(score)[..., None] * parts).sum(1)
        return Denoised(x0.reshape(x.shape))


D, BAD = Classes(), Classes("bad_")
UNLABELLED = jd.without(D, "label")
CFG = jd.guide(D, (UNLABELLED, W))


def points(name: str) -> tuple[np.ndarray, list[NoiseLevel]]:
    return GIVEN[f"pointwise/{name}"], [NoiseLevel(1.0, s) for s in GIVEN["sigma"]]


def labelled(x: Any) -> Condition:
    return Condition(label=jnp.zeros(len(x), jnp.int32))


def apg(guided: Any) -> Any:
    return guidance.projected(guided, PARAM["apg_r"], momentum=-0.5, parallel=0.0)


@dataclass(frozen=True)
class Times:
    """k D, to test thresholds on what lies far outside."""

    denoise: Any
    k: float

    def __call__(self, x: Any, at: NoiseLevel, cond: Condition = UNCONDITIONAL) -> Denoised:
        out = self.denoise(x, at, cond)
        return replace(out, x0=self.k * out.x0)


TREBLE = Times(CFG, float(GIVEN["param/dt_input_factor"]))


@pytest.mark.parametrize(
    ("name", "denoise"),
    {
        "D_uncond": UNLABELLED,
        "D_cond": D,
        "cfg": CFG,
        "rescale_D": guidance.rescaled(CFG, PARAM["phi"]),
        "rescale_eps": guidance.rescaled(CFG, PARAM["phi"], on=jd.Eps()),
        "rescale_v_vp": guidance.rescaled(CFG, PARAM["phi"], on=jd.V()),
        "apg": apg(CFG),
        "dynthresh": guidance.thresholded(TREBLE, PARAM["dt_p"]),
    }.items(),
)
def test_guided_x0_at_one_level(name: str, denoise: Any, x64: None) -> None:
    expected, levels = points(name)
    for y, at, golden in zip(GIVEN["y"], levels, expected, strict=True):
        x0 = denoise(jnp.asarray(y), at, labelled(y)).x0
        np.testing.assert_allclose(x0, golden, **CLOSE, err_msg=f"{at}")


def test_autoguidance_at_one_level(x64: None) -> None:
    bad, levels = points("D_bad")
    expected, _ = points("autoguidance")
    guided = jd.guide(D, (BAD, W))
    for y, at, one, golden in zip(GIVEN["y"], levels, bad, expected, strict=True):
        np.testing.assert_allclose(BAD(jnp.asarray(y), at).x0, one, **CLOSE)
        np.testing.assert_allclose(guided(jnp.asarray(y), at).x0, golden, **CLOSE)


def test_the_other_way_to_start_projected_guidance_from(x64: None) -> None:
    """diffusers adds w times the update to D_1, where the paper adds w - 1 to D."""
    expected, levels = points("apg_diffusers")
    rule, memory = guidance.Projected(PARAM["apg_r"]), (jnp.zeros((8, 4, 4, 1)),)
    for y, at, golden in zip(GIVEN["y"], levels, expected, strict=True):
        d, u = (f(jnp.asarray(y), at, labelled(y)).x0 for f in (D, UNLABELLED))
        update = rule(jnp.asarray(y), at, d, [(u, 1.0)], memory)[0] - d
        np.testing.assert_allclose(u + (W + 1) * update, golden, **CLOSE)


def test_cfg_zero_star_on_the_flow(x64: None) -> None:
    """The reference is the velocity, at the point of the straight path on the same ray."""
    expected, levels = points("cfg_zero_star_vflow")
    guided = guidance.zero_star(CFG)
    for y, at, golden in zip(GIVEN["y"], levels, expected, strict=True):
        t = at.sigma / (1 + at.sigma)
        x = jnp.asarray(y) * (1 - t)
        x0 = guided(x, NoiseLevel(1 - t, t), labelled(y)).x0
        # 1e-8: the reference adds that much to |F_i|^2
        np.testing.assert_allclose((x - x0) / t, golden, rtol=0, atol=1e-8)


def test_the_momentum_of_five_steps(x64: None) -> None:
    cond, uncond, out = (GIVEN[f"apg_seq/{name}"] for name in ("cond", "uncond", "out"))
    x, memory, at = jnp.asarray(cond[0]), None, NoiseLevel(1.0, 1.0)
    for strong, weak, golden in zip(cond, uncond, out, strict=True):
        say = lambda x0: lambda x, at, cond: Denoised(jnp.asarray(x0))
        guided = apg(jd.guide(say(strong), (say(weak), W)))
        denoised = guidance.during(guided, at, at, memory)(x, at)
        np.testing.assert_allclose(denoised.x0, golden, **CLOSE)
        memory = denoised.memory


SOLVERS = {
    "euler": jd.Euler(),
    "heun": jd.Heun(),
    "dpmpp_2m": jd.DPMSolverPP(2),
    "unipc2_bh2": jd.UniPC(2),
}
# The reference decides its interval at each evaluation, as a plain function of the level.
INTERVAL = guidance.Interval(
    W, float(GIVEN["run/interval_lo"]), float(GIVEN["run/interval_hi"])
)
RUNS: dict[str, Callable[[], Any]] = {
    "cfg": lambda: CFG,
    "interval": lambda: jd.guide(D, (UNLABELLED, lambda at: INTERVAL(at))),
    "autoguidance": lambda: jd.guide(UNLABELLED, (jd.without(BAD, "label"), W)),
    "rescale_D": lambda: guidance.rescaled(CFG, PARAM["phi"]),
    "apg": lambda: apg(CFG),
    "cfgpp": lambda: jd.guide(
        D, (UNLABELLED, guidance.PlusPlus(float(GIVEN["run/cfgpp_lambda"])))
    ),
    "dynthresh": lambda: guidance.thresholded(CFG, PARAM["dt_p"], floor=0.8),
}
CASES = [
    (run, solver) for run in RUNS for solver in SOLVERS if f"run/{run}/{solver}" in GIVEN
]


@pytest.mark.parametrize("solver", ["euler", "dpmpp_2m"])
def test_one_evaluation_a_step_is_guided_where_the_step_starts(
    solver: str, x64: None
) -> None:
    """There deciding at evaluations and at steps is one: interval ends are grid levels."""
    images = _run(jd.guide(D, (UNLABELLED, INTERVAL)), solver)
    np.testing.assert_allclose(images, GIVEN[f"run/interval/{solver}"], **CLOSE)


@pytest.mark.parametrize(("run", "solver"), CASES)
def test_whole_guided_runs(run: str, solver: str, x64: None) -> None:
    expected = GIVEN[f"run/{run}/{solver}"]
    np.testing.assert_allclose(_run(RUNS[run](), solver), expected, **CLOSE)


def _run(denoise: Any, solver: str) -> Any:
    x, levels = jnp.asarray(GIVEN["run/x_T"]), edm(GIVEN["run/sigmas"])
    levels, follow = jax.tree.map(jnp.asarray, levels), jd.sampling.follow
    run = lambda x: follow(denoise, labelled(x), None, x, levels, SOLVERS[solver])
    return jax.jit(run)(x)


STEPS = np.load(GOLDEN / "iddpm" / "ddim_steps.npz")


@pytest.mark.parametrize("on", [jd.X0(), jd.Eps(), jd.V()])
@pytest.mark.parametrize(("scale", "phi"), [(7.5, 0.7), (7.5, 1.0), (3.0, 0.5)])
def test_published_rescaling(on: Any, scale: float, phi: float, x64: None) -> None:
    """Whatever a network predicts, it is that prediction which is rescaled."""
    say = lambda key: jd.denoiser(lambda *_: jd.Output(jnp.asarray(STEPS[key])), None, on)
    guided = jd.guide(say("cfg_pos"), (say("cfg_neg"), scale - 1))
    x, at = jnp.asarray(STEPS["sample"]), NoiseLevel(jnp.asarray(0.8), jnp.asarray(0.6))
    x0 = guidance.rescaled(guided, phi, on=on)(x, at).x0
    expected = say(f"cfg_w{scale}_phi{phi}")(x, at).x0
    np.testing.assert_allclose(x0, expected, **CLOSE)


def test_every_run_of_these_solvers_is_compared() -> None:
    runs = {key for key in GIVEN.files if key.startswith("run/") and key.count("/") == 2}
    assert {f"run/{run}/{solver}" for run, solver in CASES} == runs
