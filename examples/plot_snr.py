"""Plot the signal-to-noise ratio of schedules, and where a law of t puts its samples.

    python examples/plot_snr.py

Writes snr.png and where.png, and prints how much signal each schedule leaves at t = 1. A
schedule is a function of t, so you can add your own to the plot. In a notebook the figures
are shown.
"""

import jaxdiff as jd


def main(out: str = "snr.png", where: str = "where.png") -> dict[str, float]:
    """Draws both figures; returns the amplitude of the signal at t = 1."""
    schedules = {
        "DDPM linear": jd.Table(jd.LinearBetas()),
        "DDPM, zero terminal SNR": jd.zero_terminal_snr(jd.Table(jd.LinearBetas())),
        "cosine": jd.Cosine(),
        "flow": jd.RectifiedFlow(),
        "flow, shifted by 3": jd.Shifted(jd.RectifiedFlow(), 3.0),
        "EDM": jd.LogSigma(),
    }
    paths = {
        name: jd.analysis.curves.path(schedule) for name, schedule in schedules.items()
    }
    jd.analysis.plots.schedules(paths).savefig(out)
    law = jd.timesteps.LogitNormal()
    densities = {
        f"{name}, logit-normal t": jd.analysis.curves.density(schedules[name], law)
        for name in ("cosine", "flow", "flow, shifted by 3")
    }
    jd.analysis.plots.densities(densities).savefig(where)
    left = {name: jd.analysis.curves.terminal(s).amplitude for name, s in schedules.items()}
    for name, amplitude in left.items():
        print(f"{name:24} {100 * amplitude:8.4f} % of the signal is left at t = 1")
    return left


if __name__ == "__main__":
    main()
