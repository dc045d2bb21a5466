"""What an iteration of stage 3 logs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from policy.rewards import Rewards
from policy.update import UpdateStats


def mean_components(components: Sequence[dict[str, float]]) -> dict[str, float]:
    """Mean of each component that all have."""
    if not components:
        return {}
    names = sorted(set.intersection(*(set(c) for c in components)))
    return {name: sum(c[name] for c in components) / len(components) for name in names}


def reward_scalars(rewards: Tensor, sources: Rewards, group_size: int) -> dict[str, float]:
    """Means and spread of the rewards of an iteration, (videos, sources), siblings next to one another."""
    total = rewards @ torch.tensor(sources.weights, dtype=torch.float64)
    valid = total[~total.isnan()]
    scalars = {
        "failed_fraction": 1 - len(valid) / len(total),
        "reward_outages": float(sources.num_outages),
        "rollouts_resent": float(sources.num_resent),
    }
    if len(valid):
        spread = total.view(-1, group_size).std(dim=1)
        spread = spread[spread.isfinite()]
        scalars["reward_mean"] = float(valid.mean())
        scalars["reward_group_std"] = float(spread.mean()) if len(spread) else 0.0
    if len(sources.sources) > 1:
        for label, column in zip(sources.labels, rewards.T, strict=True):
            mean = float(column.nanmean())
            if math.isfinite(mean):
                scalars[f"reward_{label}"] = mean
    return scalars


def update_scalars(updates: Sequence[UpdateStats]) -> dict[str, float]:
    """Means over the updates that had anything to train on."""
    trained = [update for update in updates if update.num_terms] or updates
    mean = {
        item.name: sum(float(getattr(u, item.name)) for u in trained) / len(trained)
        for item in dataclasses.fields(updates[0])
    }
    return {
        **mean,
        "num_terms": sum(u.num_terms for u in updates),
        "skipped": sum(u.skipped for u in updates) / len(updates),
        "ratio_max": max(u.ratio_max for u in updates),
        "skipped_updates": sum(u.skipped for u in updates),
        "non_finite": sum(u.non_finite for u in updates),
    }
