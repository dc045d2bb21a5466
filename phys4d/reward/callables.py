"""Reward functions as TRL takes them, as rewards of ours.

    def brightness(prompts, completions, **kwargs) -> list[float | None]: ...

gets lists with one entry per video: `prompts` (texts), `completions` (uint8 RGB, frames x height x width
x 3), and by keyword `sample_ids`, `scenes` (`SceneSpec`), `depths` and `motions` (as in `Rollout`), those
that it names or all if it takes `**kwargs`. It may be a coroutine. None says that it has no opinion of a
video; that video then has no reward, where TRL would let the other rewards speak alone. A service offers one
with

    --rewards "phys4d.reward.callables:CallableReward(function='mine:brightness')"

and `policy.train` calls one in its own process with `--reward.sources mine:brightness 0.5`.

Source: `reward_funcs` of trl.GRPOTrainer, TRL 1.16.
"""

import asyncio
import importlib
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

from phys4d.reward.plugin import DataError
from phys4d.types import Failure, Outcome, Rollout, Score


class CallableReward:
    """A reward function of TRL's kind, as a `phys4d.reward.plugin.Reward`.

    Args:
        function: the function, or where it is, `package.module:function`.
        version: changes whenever scores change.
    """

    def __init__(self, function: Callable[..., Any] | str, version: str = "1") -> None:
        self.function = load_function(function) if isinstance(function, str) else function
        self.name = getattr(self.function, "__name__", type(self.function).__name__)
        self.version = version
        parameters = inspect.signature(self.function).parameters.values()
        takes_all = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
        self._names = None if takes_all else {p.name for p in parameters}

    @property
    def takes_geometry(self) -> bool:
        """Whether depth and motion go to the function, so that it may depend on who read them."""
        return self._names is None or not self._names.isdisjoint(("depths", "motions"))

    def score(self, rollout: Rollout) -> Score:
        """Score one rollout."""
        return self._checked(rollout, self._call([rollout])[0])

    def score_all(self, rollouts: Sequence[Rollout]) -> list[Outcome]:
        """Score rollouts in one call of the function; a fault of it is a failure of all of them."""
        try:
            values = self._call(rollouts)
        except DataError as error:
            return [_failed(r, "DATA", error.reason, error.message) for r in rollouts]
        except Exception as error:  # Foreign code: its bugs are failures with a reason, never numbers.
            message = f"reward {self.name}: {type(error).__name__}: {error}"
            return [_failed(r, "INFRA", "REWARD_RAISED", message) for r in rollouts]
        outcomes = []
        for rollout, value in zip(rollouts, values, strict=True):
            try:
                outcomes.append(Outcome(sample_id=rollout.sample_id, result=self._checked(rollout, value)))
            except DataError as error:
                outcomes.append(_failed(rollout, "DATA", error.reason, error.message))
        return outcomes

    def _call(self, rollouts: Sequence[Rollout]) -> list[float | None]:
        without = [r.sample_id for r in rollouts if r.rgb is None]
        if without:
            raise DataError(
                "NO_RGB", f"reward {self.name} looks at pixels, {without[0]} has none; set reward.send_rgb"
            )
        arguments = {
            "prompts": [r.text for r in rollouts],
            "completions": [r.rgb for r in rollouts],
            "sample_ids": [r.sample_id for r in rollouts],
            "scenes": [r.scene for r in rollouts],
            "depths": [r.depth for r in rollouts],
            "motions": [r.motion for r in rollouts],
        }
        if self._names is not None:
            arguments = {name: value for name, value in arguments.items() if name in self._names}
        values = self.function(**arguments)
        if inspect.isawaitable(values):
            values = asyncio.run(_awaited(values))
        values = list(values)
        if len(values) != len(rollouts):
            raise ValueError(f"must return one value per video, {len(rollouts)}, got {len(values)}")
        return values

    def _checked(self, rollout: Rollout, value: float | None) -> Score:
        if value is None:
            raise DataError("NOT_APPLICABLE", f"reward {self.name} has no opinion of {rollout.sample_id}")
        if not math.isfinite(value):
            raise DataError("NON_FINITE_REWARD", f"reward {self.name} must be finite, got {value}")
        return Score(value=float(value), scorer_version=self.version)


async def _awaited(values: Any) -> Any:
    return await values


def load_function(target: str) -> Callable[..., Any]:
    """The function that `package.module:function` names.

    Raises:
        ValueError: it cannot be imported or is no function.
    """
    module_name, _, name = target.partition(":")
    if not (module_name and name):
        raise ValueError(f"a reward function is named package.module:function, got {target!r}")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ValueError(f"reward {target!r}: {error}; is it installed or in the working folder?") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise ValueError(f"reward {target!r}: module {module_name} has no function {name}")
    return function


def _failed(rollout: Rollout, error_class: Any, reason: str, message: str) -> Outcome:
    failure = Failure(error_class=error_class, reason=reason, message=message[:1000])
    return Outcome(sample_id=rollout.sample_id, result=failure)
