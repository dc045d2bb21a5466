"""The depth estimator of stage 1: a published one, or the tiny one trained on simulator frames."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pretrain.config import StageOneConfig

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from phys4d.data import Dataset
    from phys4d.models.estimators import DepthEstimator, TinyDepth
    from phys4d.training import StageRun


def depth_estimator(config: StageOneConfig, truth: Dataset, run: StageRun) -> DepthEstimator:
    """The estimator that `config.depth` names.

    Raises:
        FileNotFoundError: a published estimator's weights are not to be had.
    """
    from phys4d.models.estimators import published_depth

    if config.depth == "tiny":
        return train_tiny_depth(truth, config, run)
    estimator = published_depth(config.depth)
    estimator.model.to(run.ranks.device)
    return estimator


def train_tiny_depth(dataset: Dataset, config: StageOneConfig, run: StageRun) -> TinyDepth:
    """Fit the tiny depth estimator to simulator frames, by log-depth error and its gradients."""
    import torch

    from phys4d.models.estimators import TinyDepth, tiny_depth_anything
    from phys4d.models.geometry_losses import depth_gradient_loss, masked_mean
    from phys4d.training import fit

    device = run.ranks.device
    frames = torch.from_numpy(dataset.stack("rgb")[:, ::3]).flatten(0, 1)
    depths = torch.from_numpy(dataset.stack("depth")[:, ::3]).flatten(0, 1)
    objects = torch.from_numpy(dataset.stack("object_ids")[:, ::3] > 0).flatten(0, 1)
    estimator: Any = tiny_depth_anything(frames.shape[1])
    estimator.to(device)

    def loss_parts(indices: Tensor, generator: Generator) -> dict[str, Tensor]:
        truth = depths[indices].to(device)
        valid = torch.isfinite(truth)
        truth = torch.where(valid, truth, 1.0).log()
        predicted = (
            estimator(frames[indices].to(device).movedim(-1, 1).float() / 127.5 - 1.0)
            .predicted_depth.clamp(min=1e-2)
            .log()
        )
        predicted = torch.where(valid, predicted, truth)
        error = (predicted - truth).abs()
        return {
            "log_depth": error.mean(),
            # Objects cover few pixels and are what later stages ask about.
            "log_depth_objects": masked_mean(error, objects[indices].to(device) & valid),
            "gradient": depth_gradient_loss(predicted.unsqueeze(1), truth.unsqueeze(1)),
        }

    fit(
        loss_parts,
        list(estimator.parameters()),
        config.estimator,
        num_items=len(frames),
        seed=config.seed,
        desc="depth estimator",
        run=run,
        log_prefix="estimator_",
    )
    return TinyDepth(estimator)
