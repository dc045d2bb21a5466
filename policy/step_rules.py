"""The sampler table: mean and std of one reverse step as three float64 scalars.

Flow convention: x_s = (1 - s) x_0 + s eps, velocity v = eps - x_0, so

    x0_hat = x - s v,    eps_hat = x + (1 - s) v,    dt = s' - s < 0.

Every rule is linear, mean = on_x x + on_prediction prediction, and gives the full standard deviation S of
x' ~ Normal(mean, S^2).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from policy.schedules import Family, Schedule

Sampler = Literal["flow_sde", "dance_sde", "cps", "flow_grpo_wan", "ddim_v", "ddim_eps", "ode"]
Mode = Literal["ode", "sde"]

STD_CAP = 0.45
"""Default bound on the std of one SDE step; the coefficient of the first step diverges at sigma = 1."""

SIGMA_CLAMP = (1e-4, 1.0 - 1e-3)
"""Range of sigma inside the Flow-SDE noise coefficient; the drift and the grid keep the true sigma."""


@dataclass(frozen=True)
class StepCoefficients:
    """mean = on_x * x + on_prediction * prediction, and the full std of the step."""

    on_x: float
    on_prediction: float
    std: float


def _sde(s: float, s_next: float, a: float) -> StepCoefficients:
    """Euler-Maruyama step of the flow SDE with noise coefficient a.

    mean = x (1 + a^2 dt / 2s) + v (1 + a^2 (1 - s) / 2s) dt,    S = a sqrt(-dt)
    """
    dt = s_next - s
    pull = a * a / (2.0 * s)
    return StepCoefficients(1.0 + pull * dt, (1.0 + pull * (1.0 - s)) * dt, a * math.sqrt(-dt))


def _capped(a: float, dt: float, std_cap: float | None) -> float:
    """a_eff = min(a, cap / sqrt(-dt)).

    Drift and noise shrink together and the marginals stay; capping the noise alone would break them.
    """
    return a if std_cap is None else min(a, std_cap / math.sqrt(-dt))


def _flow_sde(schedule: Schedule, i: int, noise_level: float, std_cap: float | None) -> StepCoefficients:
    """a = noise_level sqrt(s / (1 - s)); at s = 1 the next sigma stands in 1 - s.

    Source: Liu et al. 2025 (Flow-GRPO), section 4.2.
    """
    s, s_next = schedule.step_levels(i)
    if s == 1.0:
        a = noise_level / math.sqrt(1.0 - s_next)
    else:
        clamped = min(max(s, SIGMA_CLAMP[0]), SIGMA_CLAMP[1])
        a = noise_level * math.sqrt(clamped / (1.0 - clamped))
    return _sde(s, s_next, _capped(a, s_next - s, std_cap))


def _dance_sde(schedule: Schedule, i: int, noise_level: float, std_cap: float | None) -> StepCoefficients:
    """a = noise_level, called eta there. Source: Xue et al. 2025 (DanceGRPO), section 3.2."""
    s, s_next = schedule.step_levels(i)
    return _sde(s, s_next, _capped(noise_level, s_next - s, std_cap))


def _flow_grpo_wan(schedule: Schedule, i: int, noise_level: float, std_cap: float | None) -> StepCoefficients:
    """a = noise_level (s_min + (s_max - s_min) s) with s_min the last and s_max the second level.

    Source: the Wan2.1 script of the Flow-GRPO repository, which has noise_level = 1.
    """
    s, s_next = schedule.step_levels(i)
    s_min, s_max = schedule.levels[-1], schedule.levels[1]
    a = noise_level * (s_min + (s_max - s_min) * s)
    return _sde(s, s_next, _capped(a, s_next - s, std_cap))


def _cps(schedule: Schedule, i: int, noise_level: float, std_cap: float | None) -> StepCoefficients:
    """mean = (1 - s') x0_hat + sqrt(s'^2 - S^2) eps_hat,    S = s' sin(noise_level pi / 2).

    The total noise in x' is s' whatever the noise level, so no cap is needed. noise_level is in [0, 1].

    Source: Wang and Yu 2025, Coefficients-Preserving Sampling.
    """
    del std_cap
    if noise_level > 1.0:
        raise ValueError(f"noise_level of cps must be in [0, 1], got {noise_level}")
    s, s_next = schedule.step_levels(i)
    std = s_next * math.sin(noise_level * math.pi / 2.0)
    on_eps = s_next * math.cos(noise_level * math.pi / 2.0)
    return StepCoefficients(1.0 - s_next + on_eps, (1.0 - s) * on_eps - s * (1.0 - s_next), std)


def _ddim(schedule: Schedule, i: int, eta: float) -> tuple[float, float, float, float, float]:
    """(A, A', weight of x0_hat, weight of eps_hat, S) of the DDIM step with noise eta.

    mean = sqrt(A') x0_hat + sqrt(1 - A' - S^2) eps_hat,    S = eta sqrt((1 - A') / (1 - A) (1 - A / A'))
    """
    if eta > 1.0:
        raise ValueError(f"noise_level of ddim (eta) must be in [0, 1], got {eta}")
    alpha_bar, next_alpha_bar = schedule.step_levels(i)
    noise, next_noise = 1.0 - alpha_bar, 1.0 - next_alpha_bar
    std = eta * math.sqrt(next_noise / noise * (1.0 - alpha_bar / next_alpha_bar))
    on_eps = math.sqrt(max(next_noise - std * std, 0.0))
    return alpha_bar, noise, math.sqrt(next_alpha_bar), on_eps, std


def _ddim_v(schedule: Schedule, i: int, noise_level: float, std_cap: float | None) -> StepCoefficients:
    """x0_hat = sqrt(A) x - sqrt(1 - A) v,    eps_hat = sqrt(A) v + sqrt(1 - A) x; finite at A = 0.

    Source: Song et al. 2021 (DDIM), equations 12 and 16; Salimans and Ho 2022, appendix D, for v.
    """
    del std_cap
    alpha_bar, noise, on_x0, on_eps, std = _ddim(schedule, i, noise_level)
    signal_root, noise_root = math.sqrt(alpha_bar), math.sqrt(noise)
    return StepCoefficients(
        on_x0 * signal_root + on_eps * noise_root, on_eps * signal_root - on_x0 * noise_root, std
    )


def _ddim_eps(schedule: Schedule, i: int, noise_level: float, std_cap: float | None) -> StepCoefficients:
    """x0_hat = (x - sqrt(1 - A) eps) / sqrt(A),    eps_hat = eps; undefined at A = 0.

    Source: Song et al. 2021 (DDIM), equations 12 and 16; Black et al. 2023 (DDPO) trains it with eta = 1.
    """
    del std_cap
    alpha_bar, noise, on_x0, on_eps, std = _ddim(schedule, i, noise_level)
    if alpha_bar == 0.0:
        raise ValueError(
            f"step {i} of {schedule.name} has alpha_bar = 0, where eps-prediction has no x_0; use ddim_v"
        )
    on_x = on_x0 / math.sqrt(alpha_bar)
    return StepCoefficients(on_x, on_eps - on_x * math.sqrt(noise), std)


def _ode(schedule: Schedule, i: int, noise_level: float, std_cap: float | None) -> StepCoefficients:
    """mean = x + v dt, S = 0: the Euler step of the flow, whatever the noise level."""
    del noise_level, std_cap
    s, s_next = schedule.step_levels(i)
    return StepCoefficients(1.0, s_next - s, 0.0)


Rule = Callable[[Schedule, int, float, float | None], StepCoefficients]
_RULES: dict[str, tuple[Family, Rule]] = {
    "flow_sde": ("flow", _flow_sde),
    "dance_sde": ("flow", _dance_sde),
    "cps": ("flow", _cps),
    "flow_grpo_wan": ("flow", _flow_grpo_wan),
    "ode": ("flow", _ode),
    "ddim_v": ("diffusion", _ddim_v),
    "ddim_eps": ("diffusion", _ddim_eps),
}


def step_coefficients(
    i: int,
    *,
    schedule: Schedule,
    sampler: Sampler,
    mode: Mode = "sde",
    noise_level: float | None = None,
    std_cap: float | None = STD_CAP,
) -> StepCoefficients:
    """The linear mean and the std of step `i`, before any tensor is touched. Arguments as in `step`."""
    if sampler not in _RULES:
        raise ValueError(f"unknown sampler {sampler!r}; known: {', '.join(_RULES)}")
    if mode not in ("ode", "sde"):
        raise ValueError(f"mode must be 'ode' or 'sde', got {mode!r}")
    family, rule = _RULES[sampler]
    if family != schedule.family:
        raise ValueError(
            f"sampler {sampler} needs a {family} schedule, got the {schedule.family} one {schedule.name}"
        )
    if mode == "ode" or sampler == "ode":
        noise_level = 0.0
    elif noise_level is None:
        raise ValueError(f"sampler {sampler} needs a noise_level in sde mode, got None")
    if not (noise_level >= 0.0 and math.isfinite(noise_level)):
        raise ValueError(f"noise_level must be finite and not negative, got {noise_level}")
    if std_cap is not None and not std_cap > 0.0:
        raise ValueError(f"std_cap must be positive, got {std_cap}; None means no cap")
    return rule(schedule, i, noise_level, std_cap)


def longcat_weight(step: StepCoefficients) -> float:
    """S / |on_prediction|: undoes the factor by which a step hides the prediction.

    The gradient of the step's log-prob by the prediction is noise times the inverse, which vanishes at high
    noise. Of a Flow-SDE step that is not capped it is sqrt(s / (1 - s)) / sqrt|dt| up to a constant; taken
    from the coefficients it holds of capped steps and of the other samplers too.

    Source: Meituan LongCat Team 2025 (LongCat-Video), on GRPO for flow models.
    """
    return step.std / abs(step.on_prediction)
