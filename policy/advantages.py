"""Advantages of sibling rollouts: how much better than the others of its group each one scored.

    A = clip((r - mean of the group) / (std + 1e-4), -5, 5)

Rewards that do not exist (NaN) are dropped before any mean; a group that cannot be compared is dropped whole.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

Scale = Literal["group", "batch", "max_group"]
Aggregation = Literal["sum_then_normalize", "normalize_then_sum"]

STD_EPSILON = 1e-4
"""Added to every std an advantage is divided by."""


@dataclass(frozen=True, kw_only=True)
class Advantages:
    """Advantages of one batch of rollouts, and what was left out."""

    values: Float64[Tensor, " samples"]
    """Zero for every sample that is not trained."""
    trained: Bool[Tensor, " samples"]
    """Valid samples of groups that were kept: the only ones a loss may count."""
    num_invalid: int
    """Samples without a reward."""
    num_groups: int
    num_small_groups: int
    """Groups dropped for having fewer than two valid siblings."""
    num_flat_groups: int
    """Groups dropped because their rewards spread less than `min_spread`."""
    num_clipped: int
    """Advantages beyond the clip."""

    @property
    def num_dropped_groups(self) -> int:
        """Groups that train nothing."""
        return self.num_small_groups + self.num_flat_groups


def rewards_or_nan(rewards: Sequence[float | None]) -> Float64[Tensor, " samples"]:
    """A tensor with NaN where there is no reward."""
    return torch.tensor([math.nan if reward is None else reward for reward in rewards], dtype=torch.float64)


def compute_advantages(
    rewards: Tensor,
    group_ids: Sequence[Hashable],
    *,
    weights: Sequence[float] | None = None,
    aggregation: Aggregation = "sum_then_normalize",
    scale: Scale = "group",
    min_spread: float = 1e-6,
    clip: float = 5.0,
) -> Advantages:
    """Compare each rollout with the siblings that share its group id.

    With one id for the whole batch this is the batch advantage of DDPO.

    Args:
        rewards: (samples,) or (samples, rewards); NaN marks a reward that could not be computed, and makes
            the sample invalid.
        group_ids: the prompt of each sample.
        weights: one per reward; all 1 if None. A reward of weight 0 is ignored, so that it may be NaN.
        aggregation: `sum_then_normalize` takes the weighted sum as the reward. `normalize_then_sum`
            normalises every reward within its group first, so that none dominates by its unit, sums, and
            normalises the sums over the batch.
        scale: the std divided by: of the own `group`, of all valid rewards of the `batch`, or of the group
            with the largest (`max_group`).
        min_spread: groups whose std is below are dropped. Raise it to the noise of the reward, so that noise
            is not blown up to advantages of size 1.
        clip: bound on |A|.

    All std are unbiased (divided by n - 1), as in TRL.

    Source: Shao et al. 2024 (DeepSeekMath), section 4.1; Black et al. 2023 (DDPO) for one group;
    Liu et al. 2026 (GDPO, arXiv 2601.05242) for `normalize_then_sum`.
    """
    columns, column_weights = _columns(rewards, weights)
    num_samples = columns.shape[0]
    if len(group_ids) != num_samples:
        raise ValueError(
            f"group_ids must name a group for each of {num_samples} samples, got {len(group_ids)}"
        )
    if not (min_spread > 0.0 and clip > 0.0):
        raise ValueError(f"min_spread and clip must be positive, got {min_spread} and {clip}")
    if scale not in get_args(Scale):
        raise ValueError(f"scale must be one of {get_args(Scale)}, got {scale!r}")
    if aggregation not in get_args(Aggregation):
        raise ValueError(f"aggregation must be one of {get_args(Aggregation)}, got {aggregation!r}")

    valid = ~columns.isnan().any(dim=1)
    groups = _valid_members(group_ids, valid)
    comparable = [group for group in groups if len(group) >= 2]
    if aggregation == "sum_then_normalize":
        columns, column_weights = (columns @ column_weights)[:, None], torch.ones(1, dtype=torch.float64)

    values = torch.zeros(num_samples, dtype=torch.float64)
    trained = torch.zeros(num_samples, dtype=torch.bool)
    for column, weight in zip(columns.T, column_weights, strict=True):
        stds = [column[group].std() for group in comparable]
        for group, group_std in zip(comparable, stds, strict=True):
            if group_std < min_spread:
                continue
            std = {"group": group_std, "batch": column[valid].std(), "max_group": max(stds)}[scale]
            values[group] += weight * (column[group] - column[group].mean()) / (std + STD_EPSILON)
            trained[group] = True
    if aggregation == "normalize_then_sum" and trained.any():
        kept = values[trained]
        values[trained] = (kept - kept.mean()) / (kept.std() + STD_EPSILON)
    return Advantages(
        values=values.clamp(-clip, clip),
        trained=trained,
        num_invalid=int((~valid).sum()),
        num_groups=len(groups),
        num_small_groups=len(groups) - len(comparable),
        num_flat_groups=sum(not bool(trained[group].any()) for group in comparable),
        num_clipped=int((values.abs() > clip).sum()),
    )


def _columns(rewards: Tensor, weights: Sequence[float] | None) -> tuple[Tensor, Tensor]:
    """Rewards of weight not 0 as float64 (samples, rewards), and their weights."""
    columns = rewards.detach().to("cpu", torch.float64)
    if columns.ndim == 1:
        columns = columns[:, None]
    if columns.ndim != 2 or columns.shape[1] == 0:
        raise ValueError(f"rewards must be (samples,) or (samples, rewards), got {tuple(rewards.shape)}")
    if columns.isinf().any():
        raise ValueError("rewards must be finite, or NaN where there is none, got an infinite one")
    if weights is None:
        weights = [1.0] * columns.shape[1]
    if len(weights) != columns.shape[1] or not all(map(math.isfinite, weights)) or not any(weights):
        raise ValueError(f"weights must be {columns.shape[1]} finite numbers, not all 0, got {list(weights)}")
    column_weights = torch.tensor(weights, dtype=torch.float64)
    return columns[:, column_weights != 0.0], column_weights[column_weights != 0.0]


def _valid_members(group_ids: Sequence[Hashable], valid: Tensor) -> list[Tensor]:
    """Positions of the valid samples of every group, in order of first appearance; empty groups stay."""
    members: dict[Hashable, list[int]] = {}
    for position, group_id in enumerate(group_ids):
        group = members.setdefault(group_id, [])
        if valid[position]:
            group.append(position)
    return [torch.tensor(group, dtype=torch.long) for group in members.values()]
