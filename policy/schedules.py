"""Noise schedules as immutable grids of float64 numbers, indexed by position.

A schedule with N steps has N + 1 levels; step i goes from level i to level i + 1, and position 0 is noise.

* flow: the level is sigma, x_sigma = (1 - sigma) x_0 + sigma eps, falling to 0;
* diffusion: the level is alpha_bar A, x = sqrt(A) x_0 + sqrt(1 - A) eps, rising to the data.

Nothing here does arithmetic on timesteps to find a neighbour: with N = 30 trailing steps CogVideoX visits 932
after 966, while `t - 1000 // N` says 933. Steps are found by position only.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float64

from phys4d.models.noising import Family, Noising, VPrediction, scaled_linear_alpha_bar

Spacing = Literal["leading", "trailing"]


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The levels a sampler visits and the timesteps the model is told at each of them."""

    name: str
    """What made the grid, with its parameters; for logs."""
    family: Family
    """Meaning of `levels`: sigma for `flow`, alpha_bar for `diffusion`."""
    levels: tuple[float, ...]
    """N + 1 levels from noise to data."""
    timesteps: tuple[float, ...]
    """N timesteps in the model's unit (0 to 1000), one for the start of each step."""

    def __post_init__(self) -> None:
        if len(self.levels) < 2 or len(self.timesteps) != len(self.levels) - 1:
            raise ValueError(
                f"a schedule of N >= 1 steps needs N timesteps and N + 1 levels, "
                f"got {len(self.timesteps)} and {len(self.levels)}"
            )
        if not all(math.isfinite(level) and 0.0 <= level <= 1.0 for level in self.levels):
            raise ValueError(f"levels of {self.name} must lie in [0, 1], got {self.levels}")
        falling = self.family == "flow"
        steps = zip(self.levels[:-1], self.levels[1:], strict=True)
        if not all((start > end) if falling else (start < end) for start, end in steps):
            order = "fall" if falling else "rise"
            raise ValueError(f"{self.family} levels of {self.name} must strictly {order}, got {self.levels}")

    @property
    def num_steps(self) -> int:
        """Number of steps N."""
        return len(self.timesteps)

    def step_levels(self, i: int) -> tuple[float, float]:
        """The levels step `i` starts from and goes to.

        Raises:
            ValueError: `i` is no position of this schedule (negative positions are refused too).
        """
        self._check_position(i)
        return self.levels[i], self.levels[i + 1]

    def timestep(self, i: int) -> float:
        """The timestep the model is conditioned on at position `i`; sigma * 1000 for flow."""
        self._check_position(i)
        return self.timesteps[i]

    def model_level(self, i: int) -> float:
        """The level in [0, 1] of `phys4d.models.noising` at position `i`; 1 is pure noise."""
        timestep = self.timestep(i)
        return timestep / 1000.0 if self.family == "flow" else (timestep + 1.0) / 1000.0

    def data_from_velocity(self, i: int) -> tuple[float, float]:
        """(a, b) of x0_hat = a x + b v at position `i`."""
        level, _ = self.step_levels(i)
        if self.family == "flow":
            return 1.0, -level
        return math.sqrt(level), -math.sqrt(1.0 - level)

    def describe(self) -> str:
        """One line with every level, for the run log."""
        symbol = "sigma" if self.family == "flow" else "alpha_bar"
        return f"{self.name}: {symbol} = {', '.join(f'{level:.6g}' for level in self.levels)}"

    def _check_position(self, i: int) -> None:
        if not 0 <= i < self.num_steps:
            raise ValueError(f"step position must be in [0, {self.num_steps}) for {self.name}, got {i}")


def _shifted(sigmas: Float64[np.ndarray, "levels"], shift: float) -> Float64[np.ndarray, "levels"]:
    """sigma' = shift sigma / (1 + (shift - 1) sigma): spend more steps at high noise."""
    if not (shift > 0 and math.isfinite(shift)):
        raise ValueError(f"shift must be positive and finite, got {shift}")
    return shift * sigmas / (1.0 + (shift - 1.0) * sigmas)


def _check_num_steps(num_steps: int) -> None:
    if not 1 <= num_steps <= 1000:
        raise ValueError(f"num_steps must be in [1, 1000], got {num_steps}")


def flow_schedule(num_steps: int, *, shift: float) -> Schedule:
    """Rectified-flow sigmas: `num_steps` even steps from 1 to 0, shifted once.

    Source: Esser et al. 2024 (Stable Diffusion 3), section 5.3.2, for the shift.
    """
    _check_num_steps(num_steps)
    sigmas = _shifted(np.linspace(1.0, 0.0, num_steps + 1), shift)
    return Schedule(
        name=f"flow(num_steps={num_steps}, shift={shift:g})",
        family="flow",
        levels=tuple(sigmas.tolist()),
        timesteps=tuple((sigmas[:-1] * 1000.0).tolist()),
    )


def flow_match_euler_schedule(num_steps: int, *, shift: float) -> Schedule:
    """The grid of diffusers' FlowMatchEulerDiscreteScheduler, which applies the shift twice.

    The ends of its training grid, 1 and 1/1000, are shifted; the even grid between them is shifted again; 0
    is appended. With shift 3 and 10 steps the last step therefore goes from .0089 to 0.
    """
    _check_num_steps(num_steps)
    last = _shifted(np.array([1e-3]), shift)[0]
    sigmas = np.append(_shifted(np.linspace(1.0, last, num_steps), shift), 0.0)
    return Schedule(
        name=f"flow_match_euler(num_steps={num_steps}, shift={shift:g})",
        family="flow",
        levels=tuple(sigmas.tolist()),
        timesteps=tuple((sigmas[:-1] * 1000.0).tolist()),
    )


def unipc_flow_schedule(num_steps: int, *, shift: float) -> Schedule:
    """The grid of diffusers' UniPCMultistepScheduler with `use_flow_sigmas`, the scheduler of Wan.

    sigma starts at 1 - 1e-6, never at 1, and the timesteps are cut to integers (999, not 999.999).
    """
    _check_num_steps(num_steps)
    sigmas = _shifted(np.linspace(1.0, 1e-3, num_steps + 1)[:-1], shift)
    sigmas[0] -= 1e-6
    return Schedule(
        name=f"unipc_flow(num_steps={num_steps}, shift={shift:g})",
        family="flow",
        levels=(*sigmas.tolist(), 0.0),
        timesteps=tuple(np.trunc(sigmas * 1000.0).tolist()),
    )


def ddim_schedule(
    num_steps: int,
    alpha_bar: Float64[np.ndarray, "1000"],
    *,
    spacing: Spacing,
    steps_offset: int = 0,
    final_alpha_bar: float,
) -> Schedule:
    """Visit `num_steps` of the 1000 training timesteps, then `final_alpha_bar`.

    Args:
        alpha_bar: cumulative signal power at every training timestep.
        spacing: `leading` visits the multiples of 1000 // N plus `steps_offset`; `trailing` starts at 999.
        final_alpha_bar: level after the last step; 1 is clean data, SD 1.5 uses alpha_bar[0].

    Source: Lin et al. 2024, table 2, for the spacings.
    """
    _check_num_steps(num_steps)
    if spacing == "leading":
        timesteps = np.arange(num_steps)[::-1] * (1000 // num_steps) + steps_offset
    elif spacing == "trailing":
        if steps_offset:
            raise ValueError(f"steps_offset belongs to leading spacing, got {steps_offset} with trailing")
        timesteps = np.round(np.arange(num_steps, 0, -1) * (1000 / num_steps)).astype(np.int64) - 1
    else:
        raise ValueError(f"spacing must be 'leading' or 'trailing', got {spacing!r}")
    if not 0 <= timesteps[-1] <= timesteps[0] <= 999:
        raise ValueError(f"timesteps must lie in [0, 999], got {timesteps[-1]} to {timesteps[0]}")
    return Schedule(
        name=f"ddim(num_steps={num_steps}, spacing={spacing}, steps_offset={steps_offset})",
        family="diffusion",
        levels=(*alpha_bar[timesteps].tolist(), final_alpha_bar),
        timesteps=tuple(timesteps.astype(np.float64).tolist()),
    )


def cogvideox_schedule(num_steps: int, *, snr_shift_scale: float) -> Schedule:
    """CogVideoX: v-prediction, zero terminal SNR, trailing; `snr_shift_scale` is 3 for 2B and 1 for 5B."""
    alpha_bar = VPrediction(snr_shift_scale).alpha_bar
    return ddim_schedule(num_steps, alpha_bar, spacing="trailing", final_alpha_bar=1.0)


def model_schedule(noising: Noising, num_steps: int, *, shift: float) -> Schedule:
    """The grid that a model's noising asks for: the shifted flow, or trailing steps of its own alpha_bar.

    Raises:
        ValueError: a shift other than 1 for a diffusion, whose grid has none.
    """
    if isinstance(noising, VPrediction):
        if shift != 1.0:
            raise ValueError(f"shift belongs to flow schedules and must be 1 for {noising}, got {shift:g}")
        return cogvideox_schedule(num_steps, snr_shift_scale=noising.snr_shift_scale)
    return flow_schedule(num_steps, shift=shift)


def stable_diffusion_schedule(num_steps: int) -> Schedule:
    """Stable Diffusion 1.5 as in DDPO: eps-prediction, leading with offset 1, ends at alpha_bar[0]."""
    alpha_bar = scaled_linear_alpha_bar(beta_start=0.00085, beta_end=0.012)
    return ddim_schedule(
        num_steps, alpha_bar, spacing="leading", steps_offset=1, final_alpha_bar=float(alpha_bar[0])
    )
