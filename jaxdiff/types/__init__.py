"""The nouns of jaxdiff: what passes between its modules. Read this first.

Everything rests on one equation, the forward process,

    x = alpha * x0 + sigma * eps,        x0 = data,  eps ~ N(0, I),

with t in [0, 1], t = 0 data and t = 1 noise. What a module has to know of the noise is
one value, `NoiseLevel(alpha, sigma)`; what a network knows of the data is one function,
the denoiser `D(x; alpha, sigma) = E[x0 | x]`. The rest follows from

* one law: along any path the probability-flow ODE is dx = D d(alpha) + eps_hat d(sigma),
  with eps_hat = (x - alpha D) / sigma, so no derivative of a schedule is needed;
* one symmetry: D(k x; k alpha, k sigma) = D(x; alpha, sigma), so a network trained on one
  path samples on another;
* one canonical output: D has no pole at alpha = 0, where sampling starts, and sampling
  never evaluates it at sigma = 0, where it ends.

Glossary
    x0, eps, x        clean data, unit normal noise, their mixture; images: NHWC in [-1, 1]
    alpha, sigma      the level's coefficients; snr = (alpha / sigma)^2, logsnr = ln(snr)
    t                 position on a schedule, 0 = data, 1 = noise
    at, to            the noise level where a solver's step starts and where it ends
    cond              a network's inputs besides x and the level: `Condition`
    v                 alpha eps - sigma x0 (Salimans and Ho);  flow: eps - x0
    sigma_data        standard deviation of the data, in units of the data
    std               relative width of a power-function EMA, sigma_rel in [EDM2]

References (the keys that docstrings use)
    [DDPM]     Ho, Jain, Abbeel: Denoising Diffusion Probabilistic Models. 2006.11239
    [DDIM]     Song, Meng, Ermon: Denoising Diffusion Implicit Models. 2010.02502
    [IDDPM]    Nichol, Dhariwal: Improved DDPM. 2102.09672
    [ADM]      Dhariwal, Nichol: Diffusion Models Beat GANs. 2105.05233
    [DiT]      Peebles, Xie: Scalable Diffusion Models with Transformers. 2212.09748
    [DPM++]    Lu et al.: DPM-Solver++, Fast Solver for Guided Sampling. 2211.01095
    [DEIS]     Zhang, Chen: Fast Sampling with Exponential Integrators. 2204.13902
    [UniPC]    Zhao et al.: UniPC, a Unified Predictor-Corrector Framework. 2302.04867
    [AYS]      Sabour et al.: Align Your Steps. 2404.14507
    [PD]       Salimans, Ho: Progressive Distillation for Fast Sampling. 2202.00512
    [EDM]      Karras et al.: Elucidating the Design Space of Diffusion Models. 2206.00364
    [CFG]      Ho, Salimans: Classifier-Free Diffusion Guidance. 2207.12598
    [MinSNR]   Hang et al.: Efficient Diffusion Training via Min-SNR Weighting. 2303.09556
    [ZTSNR]    Lin et al.: Common Diffusion Noise Schedules ... are Flawed. 2305.08891
    [P2]       Choi et al.: Perception Prioritized Training. 2204.00227
    [VDM]      Kingma et al.: Variational Diffusion Models. 2107.00630
    [KG]       Kingma, Gao: Understanding Diffusion Objectives as the ELBO. 2303.00848
    [Chen]     Chen: On the Importance of Noise Scheduling. 2301.10972
    [SimpleDiffusion]  Hoogeboom et al.: Simple diffusion. 2301.11093
    [HDiT]     Crowson et al.: Hourglass Diffusion Transformers. 2401.11605
    [LDM]      Rombach et al.: Latent Diffusion Models. 2112.10752
    [DiffusionLM]  Li et al.: Diffusion-LM. 2205.14217
    [GeoDiff]  Xu et al.: GeoDiff. 2203.02923
    [Laplace]  Hang et al.: Improved Noise Schedule for Diffusion Training. 2407.03297
    [sCM]      Lu, Song: Continuous-time Consistency Models. 2410.11081
    [SiT]      Ma et al.: Scalable Interpolant Transformers. 2401.08740
    [RF]       Liu, Gong, Liu: Flow Straight and Fast (rectified flow). 2209.03003
    [Debias]   Yu et al.: Unmasking Bias in Diffusion Model Training. 2310.08442
    [EDM2]     Karras et al.: Analyzing and Improving the Training Dynamics. 2312.02696
    [SD3]      Esser et al.: Scaling Rectified Flow Transformers. 2403.03206
    [APG]      Sadat et al.: Eliminating Oversaturation ... (APG). 2410.02416
    [CFG++]    Chung et al.: CFG++, Manifold-constrained CFG. 2406.08070
    [CFG-Zero] Fan et al.: CFG-Zero*, Improved CFG for Flow Matching. 2503.18886
    [Imagen]   Saharia et al.: Photorealistic Text-to-Image Diffusion. 2205.11487
    [AG]       Karras et al.: Guiding ... with a Bad Version of Itself. 2406.02507
    [GI]       Kynkäänniemi et al.: Applying Guidance in a Limited Interval. 2404.07724
    [NAG]      Zhong et al.: Mitigating the Noise Shift ... (NAG). 2510.12497
    [FID]      Heusel et al.: GANs Trained by a Two Time-Scale Update Rule. 1706.08500
    [IS]       Salimans et al.: Improved Techniques for Training GANs. 1606.03498
    [KID]      Binkowski et al.: Demystifying MMD GANs. 1801.01401
    [CMMD]     Jayasumana et al.: Rethinking FID. 2401.09603
    [IPR]      Kynkäänniemi et al.: Improved Precision and Recall Metric. 1904.06991
    [PRDC]     Naeem et al.: Reliable Fidelity and Diversity Metrics. 2002.09797
    [CleanFID] Parmar, Zhang, Zhu: On Aliased Resizing. 2104.11222
    [DINOv2]   Oquab et al.: Learning Robust Visual Features. 2304.07193
    [EfficientNet]  Tan, Le: EfficientNet. 1905.11946
    [Keys]     Keys: Cubic Convolution Interpolation. IEEE TASSP 29, 1981
    [Chan et al.]   Chan, Golub, LeVeque: Updating Formulae for Variances. 1979
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol, TypeVar, dataclass_transform, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from jaxdiff.types import reprs
from jaxdiff.types.protocols import Network as Network
from jaxdiff.types.protocols import Optimizer as Optimizer
from jaxdiff.types.protocols import Source as Source
from jaxdiff.types.protocols import implements as implements

T = TypeVar("T")

Leaf = Any
"""An array of the shape its comment states. The fields of pytrees carry no checked type,
since jax puts tracers, shape specs, shardings and axis numbers in their place."""

Real = float | Float[Array, "..."] | Float[np.ndarray, "..."]
"""Real numbers of any shape, from anywhere."""

Time = Real
"""Positions on a schedule, 0 = data, 1 = noise; any shape, [B, 1, 1, 1] in training."""


@dataclass_transform(frozen_default=True)
def pytree(cls: type[T]) -> type[T]:
    """Makes a class a frozen dataclass whose fields are the children of a jax pytree."""
    if "__repr__" not in vars(cls):
        cls.__repr__ = reprs.fields
    return jax.tree_util.register_dataclass(dataclasses.dataclass(frozen=True)(cls))


@pytree
class NoiseLevel:
    """How much data and how much noise: x = alpha x0 + sigma eps.

    Both fields have one shape, which broadcasts against x: () in sampling, [B, 1, 1, 1]
    in training, [N + 1] for a grid. They are not negative and not both zero.

    >>> float(NoiseLevel(alpha=0.5, sigma=0.25).snr)
    4.0
    """

    alpha: Leaf
    sigma: Leaf

    @property
    def snr(self) -> Leaf:
        """Signal-to-noise ratio (alpha / sigma)^2, a ratio of powers; inf on clean data."""
        return jnp.square(jnp.divide(self.alpha, self.sigma))

    @property
    def logsnr(self) -> Leaf:
        """ln(snr), in nats: +inf on clean data, -inf on pure noise."""
        return 2 * (jnp.log(self.alpha) - jnp.log(self.sigma))

    def __getitem__(self, index: Any) -> "NoiseLevel":
        """The same indexing of both fields: `levels[0]` is a grid's first level."""
        return NoiseLevel(self.alpha[index], self.sigma[index])


@pytree
class Condition:
    """A network's inputs besides x and the noise level; None = not given.

    Every field can be withheld from single images, as guidance needs.

    >>> Condition(label=jnp.array([3, -1])).label.tolist()  # class 3, and none
    [3, -1]
    """

    label: Leaf | None = None
    """[B] int32, the class, -1 = withheld; or [B, classes] weights, 0 = withheld. None on
    networks without classes."""
    noise: Leaf | None = None
    """[B] bool, whether the network sees the noise level; None = always."""


UNCONDITIONAL = Condition()
"""No condition."""


@pytree
class Output:
    """What a network returns; its only input about the noise level is c_noise.

    >>> Output(jnp.zeros((2, 8, 8, 1))).raw.shape
    (2, 8, 8, 1)
    """

    raw: Leaf
    """[B, H, W, C] float32, the prediction in the parameterization's own units."""
    variance: Leaf | None = None
    """[B, H, W, C], v, unbounded: ln variance = f ln large + (1 - f) ln small with
    f = (v + 1) / 2, between the posterior's bounds [IDDPM eq. 15]."""
    uncertainty: Leaf | None = None
    """[B], learned log-variance u of the error at this level [EDM2 sec. 2.1]."""
    level: Leaf | None = None
    """[B, 2], mean and log-variance of ln(sigma / alpha), estimated from x."""
    logits: Leaf | None = None
    """[B, classes], unnormalised log-probabilities of the classes of x."""
    features: Leaf | None = None
    """[B, H, W, F], what the last layer read, for heads on top."""


@pytree
class Denoised:
    """What a denoiser returns: the expected data, and its network's other heads.

    >>> Denoised(jnp.zeros((2, 8, 8, 1))).uncertainty is None
    True
    """

    x0: Leaf
    """[B, H, W, C] float32, D(x; alpha, sigma), an estimate of E[x0 | x]."""
    variance: Leaf | None = None
    uncertainty: Leaf | None = None
    level: Leaf | None = None
    logits: Leaf | None = None
    memory: PyTree = ()
    """Guidance's memory for the next step, such as a momentum [B, H, W, C]."""


@pytree
class Noised:
    """One draw of the forward process, with all that went into it.

    >>> from jaxdiff.schedules import Cosine, corrupt
    >>> noised: Noised = corrupt(jax.random.key(0), jnp.zeros((2, 4)), 0.5, Cosine())
    >>> noised.x.shape
    (2, 4)
    """

    x0: Leaf
    eps: Leaf
    x: Leaf
    t: Leaf
    """[B, 1, 1, 1], the times drawn."""
    at: NoiseLevel
    label: Leaf | None = None
    """[B] int32, the classes of x0, as a classifier learns them; None: not known."""


@pytree
class Scaling:
    """D(x) = c_skip x + c_out F(c_in x; c_noise), all shaped as the level [EDM eq. 7].

    >>> from jaxdiff.denoisers.parameterizations import V
    >>> scaling: Scaling = V()(NoiseLevel(0.6, 0.8))
    >>> round(float(scaling.c_skip), 4)
    0.6
    """

    c_skip: Leaf
    c_out: Leaf
    c_in: Leaf
    c_noise: Leaf


@runtime_checkable
class Schedule(Protocol):
    """A path from data to noise: t -> NoiseLevel. A frozen, hashable value."""

    @property
    def reaches_pure_noise(self) -> bool:
        """Whether alpha = 0 at t = 1, where eps and score do not determine x0."""
        ...

    def __call__(self, t: Time) -> NoiseLevel:
        """(alpha, sigma) at t, each of the shape of t; t in [0, 1]."""
        ...

    def time(self, logsnr: Real) -> Time:
        """The t at which the path has this logsnr (nats).

        Beyond the path's ends it is 0 or 1, unless the path goes on there (`LogSigma`).
        """
        ...


@runtime_checkable
class Times(Protocol):
    """How training draws t. Its memory is part of the train state."""

    def init(self) -> PyTree:
        """The memory before the first draw; () for a law without one."""
        ...

    def draw(
        self,
        memory: PyTree,
        key: PRNGKeyArray,
        shape: tuple[int, ...],
        schedule: Schedule,
    ) -> tuple[Time, Float[Array, "..."]]:
        """Times of the given shape, and the importance weight 1 / (p(t)) of each."""
        ...

    def update(self, memory: PyTree, t: Time, loss: Float[Array, " B"]) -> PyTree:
        """The memory after these losses [B] were seen at these times."""
        ...


@runtime_checkable
class Parameterization(Protocol):
    """What the network's output means: NoiseLevel -> Scaling. A frozen, hashable value."""

    @property
    def has_pole_at_pure_noise(self) -> bool:
        """Whether c_out is infinite at alpha = 0; training there is an error."""
        ...

    def __call__(self, at: NoiseLevel) -> Scaling:
        """c_skip, c_out, c_in and c_noise, each of the shape of the level."""
        ...


@runtime_checkable
class Denoiser(Protocol):
    """(x [B, ...], level that broadcasts against x, condition) -> Denoised."""

    def __call__(
        self, x: Float[Array, "B ..."], at: NoiseLevel, cond: Condition
    ) -> Denoised:
        """E[x0 | x] as `Denoised.x0` [B, ...], for x = alpha x0 + sigma eps."""
        ...


@runtime_checkable
class Weighting(Protocol):
    """A weight on the squared x0 error, as a function of the noise level."""

    def __call__(self, at: NoiseLevel) -> Float[Array, "..."]:
        """The weight at each level, of the shape of the level; finite, not negative."""
        ...


@runtime_checkable
class LossTerm(Protocol):
    """(Denoised, Noised) -> [B], a mean over the elements of each image."""

    def __call__(self, denoised: Denoised, noised: Noised) -> Float[Array, " B"]:
        """The loss of each image [B]."""
        ...


@runtime_checkable
class Grid(Protocol):
    """(schedule, number of steps N) -> N + 1 levels, from most noise to least."""

    def __call__(self, schedule: Schedule, steps: int) -> NoiseLevel:
        """alpha and sigma [N + 1], float64; ends at sigma = 0 to land on the data."""
        ...


@runtime_checkable
class Solver(Protocol):
    """A rule that follows dx = D d(alpha) + eps_hat d(sigma) down a grid of levels.

    `init` is called once for the grid and `step` once for each of its N steps, inside of
    `jax.lax.scan`. Whatever depends on the grid alone belongs into the rows of `init`.
    """

    def evaluations(self, lands: bool) -> int:
        """Calls of the denoiser in one step; `lands`: in a step that ends at sigma = 0."""
        ...

    def init(self, x: Float[Array, "B ..."], levels: NoiseLevel) -> tuple[PyTree, PyTree]:
        """The memory before the first step, and a row of numbers for each step.

        `levels` is the grid [N + 1], x [B, ...] the state at its first level. The memory
        keeps its structure and shapes from step to step; the rows are a pytree of arrays
        with leading axis N.
        """
        ...

    def step(
        self,
        denoise: Any,
        x: Float[Array, "B ..."],
        memory: PyTree,
        row: PyTree,
        noise: Callable[[int], Float[Array, "B ..."]],
    ) -> tuple[Float[Array, "B ..."], PyTree, Denoised]:
        """One step: x [B, ...] at the next level, the memory, and the first evaluation.

        `denoise(x, at)` evaluates the denoiser at any level, `row` is this step's row of
        `init`, and `noise(k)` is the step's k-th unit normal draw [B, ...], each image's
        from its own key. The first evaluation is that at the level the step starts from.
        """
        ...
