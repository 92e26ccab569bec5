"""jaxdiff: train, study and sample diffusion and flow models in JAX.

    import jaxdiff as jd

Every public name is `jd.name` or `jd.package.name`, and is imported when it is first asked
for: `import jaxdiff` takes no time, and what needs only the mathematics loads jax alone.
"""

from etils import epy

from jaxdiff.version import __version__

with epy.lazy_api_imports(globals()):
    from jaxdiff import (
        analysis,
        config,
        data,
        denoisers,
        evaluation,
        interop,
        networks,
        objectives,
        optim,
        runs,
        runtime,
        sampling,
        schedules,
        train,
        types,
    )
    from jaxdiff.analysis.image_grid import show
    from jaxdiff.config import Experiment, Sampling, from_config, register, to_config
    from jaxdiff.denoisers import (
        EDM,
        X0,
        Eps,
        Flow,
        Score,
        V,
        denoiser,
        gaussian_denoiser,
        parameterizations,
    )
    from jaxdiff.evaluation import likelihood, noise_shift
    from jaxdiff.networks import ADM, AutoencoderKL, DiT, UNet
    from jaxdiff.objectives import losses, timesteps, weightings
    from jaxdiff.objectives.losses import Total, Uncertain, VariationalBound, WeightedError
    from jaxdiff.objectives.weightings import (
        ELBO,
        P2,
        Debias,
        DiscreteELBO,
        MinSNR,
        Sigmoid,
        SoftMinSNR,
        TruncatedSNR,
        UniformOnNetwork,
        UniformOnX0,
    )
    from jaxdiff.optim import AdamW, EDM2Optimizer
    from jaxdiff.runs.restoring import restore
    from jaxdiff.sampling import editing, grids, guidance, sample, solvers
    from jaxdiff.sampling.guidance import (
        class_log_prob,
        guide,
        less_likely,
        noise_aware,
        projected,
        rescaled,
        thresholded,
        without,
        zero_star,
    )
    from jaxdiff.sampling.solvers import (
        DDIM,
        DEIS,
        LMS,
        Adaptive,
        Ancestral,
        DPMSolverPP,
        DPMSolverPP2S,
        Euler,
        EulerMaruyama,
        Heun,
        Midpoint,
        RungeKutta,
        StochasticHeun,
        UniPC,
    )
    from jaxdiff.schedules import (
        BoundedCosine,
        ChenCosine,
        ChenSigmoid,
        Cosine,
        CosineBetas,
        DiffusionLMBetas,
        ExpBetas,
        LaplaceBetas,
        LDMSqrtBetas,
        LinearBetas,
        ListedBetas,
        LogSigma,
        OffsetCosine,
        RectifiedFlow,
        RespacedBetas,
        ScaledLinearBetas,
        Shifted,
        SigmoidBetas,
        Table,
        TrigFlow,
        VPLinear,
        corrupt,
        ddim_spacing,
        section_spacing,
        zero_terminal_snr,
    )
    from jaxdiff.types import (
        UNCONDITIONAL,
        Condition,
        Denoised,
        Noised,
        NoiseLevel,
        Output,
        Scaling,
    )

__all__ = [n for n in globals()["__dir__"]() if n[0] != "_" and n != "epy"]
