"""Stage 1: teach heads on the frozen transformer from pseudo-labels: `python -m pretrain.train`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from phys4d.runtime import config as configs
from phys4d.runtime.errors import run_main
from phys4d.runtime.threads import limit_threads
from pretrain.config import StageOneConfig

if TYPE_CHECKING:
    from torch import Generator, Tensor
    from transformers import DepthAnythingForDepthEstimation

    from phys4d.data import Dataset
    from phys4d.runtime.run import RunFolder


def train_depth_estimator(
    dataset: Dataset, config: StageOneConfig, run: RunFolder
) -> DepthAnythingForDepthEstimation:
    """Fit the tiny depth estimator to simulator frames, by log-depth error and its gradients."""
    import torch

    from phys4d.models.estimators import tiny_depth_anything
    from phys4d.models.geometry_losses import depth_gradient_loss, masked_mean
    from phys4d.training import fit

    frames = torch.from_numpy(dataset.stack("rgb")[:, ::3]).flatten(0, 1)
    depths = torch.from_numpy(dataset.stack("depth")[:, ::3]).flatten(0, 1)
    objects = torch.from_numpy(dataset.stack("object_ids")[:, ::3] > 0).flatten(0, 1)
    estimator = tiny_depth_anything(frames.shape[1])

    def loss_parts(indices: Tensor, generator: Generator) -> dict[str, Tensor]:
        truth = depths[indices]
        valid = torch.isfinite(truth)
        truth = torch.where(valid, truth, 1.0).log()
        predicted = (
            estimator(frames[indices].movedim(-1, 1).float() / 127.5 - 1.0)
            .predicted_depth.clamp(min=1e-2)
            .log()
        )
        predicted = torch.where(valid, predicted, truth)
        error = (predicted - truth).abs()
        return {
            "log_depth": error.mean(),
            # Objects cover few pixels and are what later stages ask about.
            "log_depth_objects": masked_mean(error, objects[indices] & valid),
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
    return estimator.eval()


def train(config: StageOneConfig) -> Path:
    """Train and save the heads; returns their file."""
    import torch

    from phys4d.data import open_dataset
    from phys4d.metrics.depth_motion import depth_motion_errors
    from phys4d.models.geometry_losses import (
        charbonnier,
        depth_gradient_loss,
        masked_mean,
        off_depth_edges,
        scale_shift_invariant_depth_loss,
    )
    from phys4d.models.heads import MOTION_UNIT, GeometryHeads
    from phys4d.models.latents import encode_videos
    from phys4d.models.protocol import Conditioning
    from phys4d.models.reading import read_with_estimators, read_with_heads, to_numpy
    from phys4d.models.registry import load_model
    from phys4d.runtime.files import atomic_directory
    from phys4d.runtime.progress import progress
    from phys4d.runtime.run import RunFolder
    from phys4d.runtime.seeding import seed_everything
    from phys4d.training import fit

    limit_threads(config.num_threads)
    seed_everything(config.seed)
    videos, truth, held_out = (
        open_dataset(config.videos, "train"),
        open_dataset(config.truth, "train"),
        open_dataset(config.truth, "val"),
    )
    if len(videos) < config.num_videos:
        raise ValueError(
            f"num_videos is {config.num_videos}, but {config.videos} has {len(videos)}; render more"
        )
    model = load_model(config.run / "base" / "model")
    with RunFolder.open(config.run / "stage1", configs.to_toml(config), restart=True) as run:
        estimator = train_depth_estimator(truth, config, run)
        with atomic_directory(config.run / "estimator", replace=True) as folder:
            estimator.save_pretrained(folder)

        rgb = torch.from_numpy(videos.stack("rgb")[: config.num_videos])
        labels, trusted = [], []
        for part in progress(rgb.split(32), desc="pseudo-labels", unit="batch"):
            geometry, mask = read_with_estimators(estimator, part)
            labels.append(geometry)
            trusted.append(mask)
        label_depth = torch.cat([g.depth_BTHW for g in labels])
        label_motion = torch.cat([g.motion_BTHW3 for g in labels])
        label_trusted = torch.cat(trusted)
        latents = encode_videos(model, rgb)
        with torch.no_grad():
            text = model.encode_text(videos.captions()[: config.num_videos])

        heads = GeometryHeads(**model.head_sizes, channels=config.head_channels)
        unit = torch.tensor(MOTION_UNIT)

        def loss_parts(indices: Tensor, generator: Generator) -> dict[str, Tensor]:
            x0 = latents[indices]
            sigma = torch.rand(len(indices), generator=generator) ** config.low_noise_bias
            noise = torch.randn(x0.shape, generator=generator)
            with torch.no_grad():
                conditioning = Conditioning(text[indices], x0[:, :, 0])
                noisy = model.noising.noised(x0, noise, sigma)
                features = model.predict(noisy, sigma, conditioning, features=True).features
            read = heads(features, sigma)
            depth, motion, mask = label_depth[indices], label_motion[indices], label_trusted[indices]
            weight = mask & off_depth_edges(depth[:, :-1])
            # Most pixels are static background, so moving ones count as much as all the others together.
            moving = mask & (motion[..., :2].norm(dim=-1) > 1.0)
            error = charbonnier((read.motion_BTHW3 - motion) / unit)
            return {
                "depth": scale_shift_invariant_depth_loss(
                    read.depth_BTHW, depth, torch.ones_like(depth, dtype=torch.bool)
                ),
                "depth_gradient": config.gradient_weight
                * depth_gradient_loss(read.depth_BTHW.log(), depth.log()),
                "motion": config.motion_weight
                * (
                    masked_mean(error[..., :2].sum(-1), mask)
                    + masked_mean(error[..., :2].sum(-1), moving)
                    + masked_mean(error[..., 2], weight)
                ),
            }

        held_rgb = torch.from_numpy(held_out.stack("rgb"))
        held_latents = encode_videos(model, held_rgb)
        with torch.no_grad():
            held = Conditioning(model.encode_text(held_out.captions()), held_latents[:, :, 0])
        held_truth = (held_out.stack("depth"), held_out.stack("motion"), held_out.stack("object_ids"))

        def validate(step: int) -> None:
            errors = depth_motion_errors(
                *to_numpy(read_with_heads(model, heads, held_latents, held)), *held_truth
            )
            run.log(step, **{f"val_{name}": value for name, value in asdict(errors).items()})
            print(f"held-out after {step} steps: {errors}")

        validate(0)
        fit(
            loss_parts,
            list(heads.parameters()),
            config.heads,
            num_items=len(latents),
            seed=config.seed,
            desc="stage 1",
            run=run,
        )
        validate(config.heads.num_steps)
        estimated, _ = read_with_estimators(estimator, held_rgb)
        print(f"the estimators themselves: {depth_motion_errors(*to_numpy(estimated), *held_truth)}")
    path = config.run / "stage1" / "heads.safetensors"
    heads.save(path)
    return path


def main() -> None:
    """Command line."""
    config, _ = configs.load_preset(
        StageOneConfig, Path(__file__).parent / "presets" / "stage1", default="tiny-wan"
    )
    train(config)


if __name__ == "__main__":
    run_main(main)
