"""Rewards made of other rewards, for services whose rewards are listed in a file."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from phys4d.reward.plugin import Reward, load_reward
from phys4d.types import Rollout, Score


class NamedReward:
    """Another reward under a name of one's choice.

    Args:
        name: the name.
        target: the reward, `package.module:Class` or `package.module:Class(option=literal)`.
    """

    def __init__(self, name: str, target: str) -> None:
        self.name = name
        self._reward = load_reward(target)
        self.version = self._reward.version

    def score(self, rollout: Rollout) -> Score:
        """Score one rollout."""
        return self._reward.score(rollout)


class WeightedSum:
    """The weighted sum of several rewards; where one of them fails, the sum fails as that one did.

    Components: the value of each part under its name, and the parts' own ones as `name.component`.

    Args:
        parts: (name, target, weight) of each; the target is as in `NamedReward`, or `scene_chamfer` or
            `surface_chamfer`.
        chamfer: settings by name, see `reward_service.config.ChamferSettings`.
        surface: likewise, see `reward_service.config.SurfaceSettings`.
    """

    name = "weighted_sum"

    def __init__(
        self,
        parts: Sequence[tuple[str, str, float]],
        chamfer: dict[str, Any] | None = None,
        surface: dict[str, Any] | None = None,
    ) -> None:
        names = [name for name, _, _ in parts]
        if not parts or len(set(names)) != len(names):
            raise ValueError(f"parts need one name each and at least one of them, got {names}")
        for name, _, weight in parts:
            if not math.isfinite(weight):
                raise ValueError(f"the weight of {name} must be finite, got {weight}")
        self._parts = [
            (name, _load(target, chamfer or {}, surface or {}), weight) for name, target, weight in parts
        ]
        # Scores are comparable only between the same versions and weights.
        self.version = "+".join(f"{weight:g}*{name}@{reward.version}" for name, reward, weight in self._parts)

    def score(self, rollout: Rollout) -> Score:
        """Score one rollout."""
        total, components, phases_s, first = 0.0, {}, {}, None
        for name, reward, weight in self._parts:
            score = reward.score(rollout)
            first = first or score
            total += weight * score.value
            components[name] = score.value
            components |= {f"{name}.{key}": value for key, value in score.components.items()}
            for phase, seconds in score.phases_s.items():
                phases_s[phase] = phases_s.get(phase, 0.0) + seconds
        assert first is not None
        return replace(
            first, value=total, components=components, phases_s=phases_s, scorer_version=self.version
        )


def _load(target: str, chamfer: dict[str, Any], surface: dict[str, Any]) -> Reward:
    if target not in ("scene_chamfer", "surface_chamfer"):
        return load_reward(target)
    from reward_service.config import ChamferSettings, SurfaceSettings
    from reward_service.scoring import SceneChamfer
    from reward_service.surface import SurfaceChamfer

    if target == "scene_chamfer":
        return SceneChamfer(ChamferSettings(**chamfer))
    return SurfaceChamfer(ChamferSettings(**chamfer), SurfaceSettings(**surface))
