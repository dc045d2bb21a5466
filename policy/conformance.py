"""Recompute every case of a sampler vector file: `python -m policy.conformance VECTORS.json`.

The inputs have a closed form, so a file holds results only: tensor k of a shape is

    T(shape, k)[i] = float32(1.3 sin(0.7 (i + 1) k + 0.3 k))    (row-major, i from 0)

with x = T(., 1.0), prediction = T(., 1.7), noise d = T(., 2.3) and x_next = mean + S d (DDPO: 0.9 x + 0.1 d).
Cases are named FAMILY_I with I the step's position. The vectors have no cap on the std, and their CPS
log-prob is the one of the Flow-CPS code, mean of -(x_next - mean)^2 without the Gaussian's constants; it is
recovered from ours. Steps are recomputed in float64, so that a deviation is the rounding of the file.
"""

import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from policy.samplers import StepOut, step
from policy.schedules import (
    Schedule,
    cogvideox_schedule,
    flow_match_euler_schedule,
    flow_schedule,
    stable_diffusion_schedule,
    unipc_flow_schedule,
)
from policy.step_rules import Sampler

TOLERANCE = 1e-5
"""Largest deviation allowed; relative for log-probs above 1 in size, absolute for all else."""

IMAGE_SHAPE = (2, 4, 8, 8)
VIDEO_SHAPE = (2, 3, 4, 6, 6)


@dataclass(frozen=True, kw_only=True)
class CaseFamily:
    """How the cases of one name are computed."""

    shape: tuple[int, ...]
    schedule: Schedule
    sampler: Sampler
    noise_level: float
    shared_sample: bool = False
    """x_next = 0.9 x + 0.1 d in place of mean + S d."""


def case_families() -> dict[str, CaseFamily]:
    """Every family the vector files use, by the name in front of the step position."""
    return {
        "flow_sd3": CaseFamily(
            shape=IMAGE_SHAPE,
            schedule=flow_match_euler_schedule(10, shift=3.0),
            sampler="flow_sde",
            noise_level=0.7,
        ),
        "dance": CaseFamily(
            shape=IMAGE_SHAPE, schedule=flow_schedule(16, shift=3.0), sampler="dance_sde", noise_level=0.3
        ),
        "cog": CaseFamily(
            shape=VIDEO_SHAPE,
            schedule=cogvideox_schedule(50, snr_shift_scale=1.0),
            sampler="ddim_v",
            noise_level=1.0,
        ),
        "wan": CaseFamily(
            shape=VIDEO_SHAPE,
            schedule=unipc_flow_schedule(20, shift=5.0),
            sampler="flow_grpo_wan",
            noise_level=1.0,
        ),
        "ddpo": CaseFamily(
            shape=IMAGE_SHAPE,
            schedule=stable_diffusion_schedule(50),
            sampler="ddim_eps",
            noise_level=1.0,
            shared_sample=True,
        ),
    }


def closed_form_tensor(shape: Sequence[int], k: float) -> Float[Tensor, "..."]:
    """T(shape, k) of the module's docstring, float32."""
    index = np.arange(math.prod(shape))
    values = 1.3 * np.sin(0.7 * (index + 1) * k + 0.3 * k)
    return torch.from_numpy(values.astype(np.float32)).reshape(tuple(shape))


def _run(family: CaseFamily, i: int, sampler: Sampler, noise_level: float) -> StepOut:
    inputs = [closed_form_tensor(family.shape, k) for k in (1.0, 1.7, 2.3)]
    x, prediction, noise = (tensor.double() for tensor in inputs)
    arguments: dict[str, Any] = {
        "schedule": family.schedule,
        "sampler": sampler,
        "noise_level": noise_level,
        "std_cap": None,
    }
    if family.shared_sample:
        x_next = (0.9 * inputs[0] + 0.1 * inputs[2]).double()
    else:
        unscored = step(x, prediction, i, **arguments, x_next=x)
        x_next = unscored.mean + unscored.std * noise
    return step(x, prediction, i, **arguments, x_next=x_next)


def _results(out: StepOut) -> dict[str, float | list[float]]:
    """What a file may record of a step. A step without noise has no log-prob; files write 0 for it."""
    return {
        "S": out.std,
        "mu0": out.mean.flatten()[0].item(),
        "mu_sum": out.mean.sum().item(),
        "lp": [0.0] * out.mean.shape[0] if out.log_prob is None else out.log_prob.tolist(),
    }


def _cps_results(out: StepOut) -> dict[str, float | list[float]]:
    """As `_results`, with the log-prob times 2 S^2 and without constants: mean of -(x_next - mean)^2."""
    values = _results(out)
    if out.log_prob is not None:
        constants = math.log(out.std) + 0.5 * math.log(2.0 * math.pi)
        values["lp"] = ((out.log_prob + constants) * 2.0 * out.std**2).tolist()
    return {f"cps_{name}": value for name, value in values.items()}


def recompute(key: str, families: Mapping[str, CaseFamily]) -> dict[str, float | list[float]]:
    """All values a case may record, for the case named `key`, e.g. `cog_48`.

    Raises:
        ValueError: unknown family or a position outside its schedule.
    """
    match = re.fullmatch(r"(\w+)_(\d+)", key)
    if match is None or match[1] not in families:
        known = ", ".join(f"{name}_I" for name in families)
        raise ValueError(f"unknown case {key!r}; known: {known} with I a step position")
    family, i = families[match[1]], int(match[2])
    sigma, sigma_next = family.schedule.step_levels(i)
    values = _results(_run(family, i, family.sampler, family.noise_level))
    values |= {"sigma": sigma, "sn": sigma_next, "t": family.schedule.timestep(i)}
    if match[1] == "flow_sd3":
        values |= _cps_results(_run(family, i, "cps", 0.8))
    return values


def deviation(
    got: float | list[float], recorded: float | list[float], *, relative_above_1: bool = False
) -> float:
    """Largest |got - recorded|, divided by |recorded| where that is asked for and above 1.

    NaN counts as infinite.
    """
    got_array, recorded_array = np.atleast_1d(got), np.atleast_1d(recorded)
    if got_array.shape != recorded_array.shape:
        return math.inf
    gaps = np.abs(got_array - recorded_array)
    if relative_above_1:
        gaps = gaps / np.maximum(1.0, np.abs(recorded_array))
    worst = np.max(gaps)
    return float(worst) if math.isfinite(worst) else math.inf


@dataclass(frozen=True, kw_only=True)
class Conformance:
    """Largest deviation of each kind of value over a file."""

    num_cases: int
    std: float
    mean: float
    log_prob: float
    grid: float
    """Of sigma and timestep."""

    @property
    def worst(self) -> float:
        """The largest of all."""
        return max(self.std, self.mean, self.log_prob, self.grid)


_KIND = {
    "S": "std",
    "mu0": "mean",
    "mu_sum": "mean",
    "lp": "log_prob",
    "sigma": "grid",
    "sn": "grid",
    "t": "grid",
}


def check_cases(cases: Mapping[str, Mapping[str, Any]]) -> Conformance:
    """Recompute every case but `about`.

    Raises:
        ValueError: not an object of cases, no case, an unknown case, or a recorded value we do not compute.
    """
    if not isinstance(cases, Mapping) or not all(
        isinstance(case, Mapping) for key, case in cases.items() if key != "about"
    ):
        raise ValueError("the vector file must be an object of objects, one per case")
    families = case_families()
    worst = {"std": 0.0, "mean": 0.0, "log_prob": 0.0, "grid": 0.0}
    names = [key for key in cases if key != "about"]
    if not names:
        raise ValueError("the vector file has no case")
    for key in names:
        values = recompute(key, families)
        if not cases[key]:
            raise ValueError(f"case {key} records nothing; known: {sorted(values)}")
        for field, recorded in cases[key].items():
            if field not in values:
                raise ValueError(
                    f"case {key} records {field!r}, which is not computed; known: {sorted(values)}"
                )
            numbers = recorded if isinstance(recorded, list) else [recorded]
            if not all(type(number) in (int, float) for number in numbers):
                raise ValueError(f"{field} of case {key} must be numbers, got {recorded!r}")
            kind = _KIND[field.removeprefix("cps_")]
            gap = deviation(values[field], recorded, relative_above_1=kind == "log_prob")
            worst[kind] = max(worst[kind], gap)
    return Conformance(num_cases=len(names), **worst)


def main(argv: Sequence[str] | None = None) -> int:
    """Print one line with the largest deviations.

    Returns:
        Exit status: 0 if all are within the tolerance, 1 if not, 2 on bad input.
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    if len(arguments) != 1 or arguments[0] in ("-h", "--help"):
        print("usage: python -m policy.conformance VECTORS.json", file=sys.stderr)
        return 0 if arguments in (["-h"], ["--help"]) else 2
    try:
        result = check_cases(json.loads(Path(arguments[0]).read_text()))
    except (OSError, ValueError) as error:
        print(f"error: {arguments[0]}: {error}", file=sys.stderr)
        return 2
    passed = result.worst <= TOLERANCE
    print(
        f"{'ok' if passed else 'FAILED'}: {result.num_cases} cases, largest deviation S {result.std:.2e}, "
        f"mean {result.mean:.2e}, log-prob {result.log_prob:.2e}, grid {result.grid:.2e} "
        f"(tolerance {TOLERANCE:.0e})"
    )
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
