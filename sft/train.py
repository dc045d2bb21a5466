"""Stage 2: LoRA and heads on simulator ground truth: `python -m sft.train --preset tiny-wan`.

One denoiser call per step serves all four losses: its velocity the diffusion loss, its features the heads.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from phys4d.runtime import config as configs
from phys4d.runtime.errors import run_main
from phys4d.runtime.threads import limit_threads
from sft.config import StageTwoConfig


def train(config: StageTwoConfig) -> Path:
    """Train and save adapter and heads; returns the stage's folder."""
    import torch
    from torch import Generator, Tensor

    from phys4d.data import open_dataset
    from phys4d.data.mirror import with_mirror_images, with_mirrored_captions
    from phys4d.metrics.depth_motion import depth_motion_errors
    from phys4d.models.diffusion_loss import diffusion_loss, velocity_error
    from phys4d.models.geometry_losses import charbonnier, masked_mean, off_depth_edges, warp_consistency_loss
    from phys4d.models.heads import MOTION_UNIT, GeometryHeads
    from phys4d.models.latents import encode_videos
    from phys4d.models.lora import add_lora, save_lora
    from phys4d.models.protocol import Conditioning
    from phys4d.models.reading import read_with_heads, to_numpy
    from phys4d.models.registry import load_model
    from phys4d.runtime.run import RunFolder
    from phys4d.runtime.seeding import seed_everything
    from phys4d.training import fit

    limit_threads(config.num_threads)
    seed_everything(config.seed)
    dataset, held_out = open_dataset(config.data, "train"), open_dataset(config.data, "val")
    model = load_model(config.run / "base" / "model")
    heads = GeometryHeads.load(config.run / "stage1" / "heads.safetensors")
    adapter = add_lora(model.transformer, "sft", rank=config.lora_rank, targets=model.lora_targets)
    stage = config.run / "stage2"
    with RunFolder.open(stage, configs.to_toml(config), restart=True) as run:

        def field(name: str) -> Tensor:
            videos = dataset.stack(name)
            return torch.from_numpy(with_mirror_images(name, videos) if config.mirror else videos)

        latents = encode_videos(model, field("rgb"))
        captions = dataset.captions()
        with torch.no_grad():
            text = model.encode_text(with_mirrored_captions(captions) if config.mirror else captions)
        true_depth, true_motion = field("depth"), field("motion")
        visible, object_ids = field("visible"), field("object_ids")
        unit = torch.tensor(MOTION_UNIT)

        def loss_parts(indices: Tensor, generator: Generator) -> dict[str, Tensor]:
            # The first part is noised for the diffusion loss, the rest for the heads: they read at low noise.
            x0, num_noisy = latents[indices], round(config.diffusion_share * len(indices))
            sigma = torch.cat(
                [
                    model.noising.training_levels(num_noisy, config.shift, generator),
                    torch.rand(len(indices) - num_noisy, generator=generator) ** config.low_noise_bias,
                ]
            )
            noise = torch.randn(x0.shape, generator=generator)
            conditioning = Conditioning(text[indices], x0[:, :, 0])
            noised = model.noising.noised(x0, noise, sigma)
            prediction = model.predict(noised, sigma, conditioning, features=True)
            target = model.noising.velocity(x0, noise, sigma)
            mask = model.generated_mask(x0)
            noisy, clear = slice(0, num_noisy), slice(num_noisy, None)
            diffusion = velocity_error(
                prediction.velocity_BCThw[noisy], target[noisy], x0[noisy], mask, config.change_weight
            )
            read = heads([feature[clear] for feature in prediction.features], sigma[clear])
            indices = indices[clear]
            depth, motion, ids = true_depth[indices], true_motion[indices].float(), object_ids[indices]
            on_object, moving = ids > 0, ids[:, :-1] > 0
            depth_error = (read.depth_BTHW.log() - depth.log()).abs()
            motion_error = charbonnier((read.motion_BTHW3 - motion) / unit).sum(-1)
            warp_mask = visible[indices] & off_depth_edges(depth[:, :-1])
            return {
                "diffusion": diffusion,
                "depth": config.depth_weight * (depth_error.mean() + masked_mean(depth_error, on_object)),
                "motion": config.motion_weight * (motion_error.mean() + masked_mean(motion_error, moving)),
                "warp": config.warp_weight
                * warp_consistency_loss(read.depth_BTHW, read.motion_BTHW3, warp_mask),
            }

        held_latents = encode_videos(model, torch.from_numpy(held_out.stack("rgb")))
        with torch.no_grad():
            held = Conditioning(model.encode_text(held_out.captions()), held_latents[:, :, 0])
        held_truth = (held_out.stack("depth"), held_out.stack("motion"), held_out.stack("object_ids"))
        held_warp_mask = torch.from_numpy(held_out.stack("visible")) & off_depth_edges(
            torch.from_numpy(held_truth[0])[:, :-1]
        )

        @torch.no_grad()
        def validate(step: int) -> None:
            read = read_with_heads(model, heads, held_latents, held)
            errors = depth_motion_errors(*to_numpy(read), *held_truth)
            warp = warp_consistency_loss(read.depth_BTHW, read.motion_BTHW3, held_warp_mask).item()
            fixed = torch.Generator().manual_seed(0)
            sigma = model.noising.training_levels(len(held_latents), config.shift, fixed)
            noise = torch.randn(held_latents.shape, generator=fixed)
            diffusion = diffusion_loss(model, held_latents, held, sigma, noise).item()
            scalars = {**asdict(errors), "warp_l1_m": warp, "diffusion": diffusion}
            run.log(step, **{f"val_{name}": value for name, value in scalars.items()})
            print(f"held-out after {step} steps: {', '.join(f'{k} {v:.4f}' for k, v in scalars.items())}")

        validate(0)
        fit(
            loss_parts,
            [
                {"params": adapter, "lr": config.adapter_learning_rate},
                {"params": list(heads.parameters())},
            ],
            config.optimiser,
            num_items=len(latents),
            seed=config.seed,
            desc="stage 2",
            run=run,
        )
        validate(config.optimiser.num_steps)
        save_lora(model.transformer, "sft", stage / "lora")
        heads.save(stage / "heads.safetensors")
    return stage


def main() -> None:
    """Command line."""
    config, _ = configs.load_preset(StageTwoConfig, Path(__file__).parent / "presets", default="tiny-wan")
    train(config)


if __name__ == "__main__":
    run_main(main)
