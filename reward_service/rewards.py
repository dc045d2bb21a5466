"""The rewards a service offers, and what happens when one of them fails."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields

from phys4d.reward.plugin import DataError, Reward, load_reward
from phys4d.types import Failure, Outcome, Rollout, Score
from reward_service.config import ServiceConfig

logger = logging.getLogger(__name__)


def make_rewards(config: ServiceConfig) -> dict[str, Reward]:
    """Make the configured rewards by name; the first is the default."""
    rewards: list[Reward] = []
    if config.scene_chamfer:
        from reward_service.scoring import RolloutChamfer, SceneChamfer
        from reward_service.surface import SurfaceChamfer

        rewards.append(SceneChamfer(config.chamfer))
        rewards.append(RolloutChamfer(config.chamfer, num_threads=config.num_threads))
        rewards.append(SurfaceChamfer(config.chamfer, config.surface))
    rewards += [load_reward(target) for target in config.rewards]
    names = [reward.name for reward in rewards]
    if len(set(names)) != len(names):
        raise ValueError(f"two rewards share a name: {sorted(names)}")
    return {reward.name: reward for reward in rewards}


@dataclass(frozen=True, kw_only=True)
class Offer:
    """What scorers offer, as `GetServerInfo` tells it."""

    versions: dict[str, str]
    """Version of each reward by name; the first is the default."""
    descriptions: dict[str, str] = field(default_factory=dict)
    """One sentence on each reward by name: the first line of its docstring."""
    simulator: str = ""
    """Engine and version of rigid bodies; empty if nothing is simulated."""
    engines: dict[str, str] = field(default_factory=dict)
    """Engine and version by category."""
    families: dict[str, list[str]] = field(default_factory=dict)
    """Scene families by category that can be rebuilt."""


def describe(config: ServiceConfig, rewards: Mapping[str, Reward]) -> Offer:
    """What a scorer with these rewards offers."""
    versions = {name: reward.version for name, reward in rewards.items()}
    lines = {name: (type(reward).__doc__ or "").strip().splitlines() for name, reward in rewards.items()}
    descriptions = {name: doc[0] for name, doc in lines.items() if doc}
    if not config.scene_chamfer:
        return Offer(versions=versions, descriptions=descriptions)
    from phys4d.scenes import registry

    engines = {name: category.engine() for name, category in registry.CATEGORIES.items()}
    return Offer(
        versions=versions,
        descriptions=descriptions,
        simulator=engines["rigid"],
        engines=engines,
        families=registry.families(),
    )


def merge(offers: Sequence[Offer]) -> Offer:
    """What scorers offer together; the default is the first one's.

    Raises:
        ValueError: two rewards share a name.
    """
    names = [name for offer in offers for name in offer.versions]
    if len(set(names)) != len(names):
        raise ValueError(f"two rewards share a name: {sorted(names)}")
    return Offer(
        versions={name: version for offer in offers for name, version in offer.versions.items()},
        descriptions={name: line for offer in offers for name, line in offer.descriptions.items()},
        simulator=next((offer.simulator for offer in offers if offer.simulator), ""),
        engines={name: engine for offer in offers for name, engine in offer.engines.items()},
        families={name: families for offer in offers for name, families in offer.families.items()},
    )


def score_one(rewards: Mapping[str, Reward], name: str, rollout: Rollout) -> Outcome:
    """Score one rollout; whatever the reward does, the outcome is a finite score or a failure."""
    start = time.perf_counter()
    try:
        score = rewards[name].score(rollout)
        if not isinstance(score, Score):
            raise TypeError(f"score must return a Score, got {type(score).__name__}")
    except DataError as error:
        return _failed(
            rollout, Failure(error_class="DATA", reason=str(error.reason), message=str(error.message))
        )
    except (
        Exception
    ) as error:  # A reward is foreign code: its bugs are told to the caller, not served as numbers.
        logger.exception("reward %s failed on %s", name, rollout.sample_id)
        message = f"reward {name}: {type(error).__name__}: {error}"
        return _failed(rollout, Failure(error_class="INFRA", reason="REWARD_RAISED", message=message[:1000]))
    seconds = time.perf_counter() - start
    # A Score even of a class derived from it: who reads the answer may not have the reward's module.
    values = {part.name: getattr(score, part.name) for part in fields(Score)}
    values |= {"scoring_s": seconds, "seed": rollout.seed}
    values["scorer_version"] = score.scorer_version or rewards[name].version
    return Outcome(sample_id=rollout.sample_id, result=Score(**values))


def _failed(rollout: Rollout, failure: Failure) -> Outcome:
    return Outcome(sample_id=rollout.sample_id, result=failure)
