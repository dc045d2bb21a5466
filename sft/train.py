"""Stage 2: LoRA and heads on simulator ground truth: `python -m sft.train --preset tiny-wan`.

One denoiser call per step serves all four losses: its velocity the diffusion loss, its features the heads.
Many processes: `accelerate launch -m sft.train ...`, or
`--cluster.ray-address ADDRESS --cluster.num-workers N`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from phys4d.runtime import config as configs
from phys4d.runtime.errors import run_main
from phys4d.runtime.threads import limit_threads
from sft.config import StageTwoConfig

if TYPE_CHECKING:
    from phys4d.data import Dataset
    from phys4d.models.cache import EncodingCache
    from phys4d.training.buckets import Buckets


@dataclass(frozen=True, eq=False)
class _Truth:
    """Latents, text and simulator truth of the training videos."""

    latents: Buckets
    text: Buckets
    depth: Buckets
    motion: Buckets
    visible: Buckets
    object_ids: Buckets
    has_gaps: bool
    """Whether depth is NaN anywhere."""

    @classmethod
    def of(cls, cache: EncodingCache, datasets: list[Dataset], *, mirror: bool) -> _Truth:
        """Read and encode all videos, each dataset of one shape."""
        import torch
        from torch import Tensor

        from phys4d.data.mirror import with_mirror_images, with_mirrored_captions
        from phys4d.training.buckets import Buckets

        def field(dataset: Dataset, name: str) -> Tensor:
            videos = dataset.stack(name)
            return torch.from_numpy(with_mirror_images(name, videos) if mirror else videos)

        def text(dataset: Dataset) -> Tensor:
            captions = dataset.captions()
            return cache.texts(with_mirrored_captions(captions) if mirror else captions)

        depth = [field(dataset, "depth") for dataset in datasets]
        return cls(
            latents=Buckets([cache.videos(field(dataset, "rgb")) for dataset in datasets]),
            text=Buckets([text(dataset) for dataset in datasets]),
            depth=Buckets(depth),
            motion=Buckets([field(dataset, "motion") for dataset in datasets]),
            visible=Buckets([field(dataset, "visible") for dataset in datasets]),
            object_ids=Buckets([field(dataset, "object_ids") for dataset in datasets]),
            has_gaps=not all(bool(torch.isfinite(part).all()) for part in depth),
        )


def train(config: StageTwoConfig) -> Path:
    """Train and save adapter and heads; returns the stage's folder."""
    import torch
    from torch import Generator, Tensor

    from phys4d.data import open_dataset
    from phys4d.data.format import INDEX_NAME
    from phys4d.metrics.held_out import HeldOut
    from phys4d.models.cache import EncodingCache
    from phys4d.models.diffusion_loss import held_out_diffusion_loss, velocity_error
    from phys4d.models.geometry_losses import charbonnier, masked_mean, warp_consistency_loss, warp_mask
    from phys4d.models.heads import MOTION_UNIT, GeometryHeads
    from phys4d.models.lora import add_lora, save_lora, store_base
    from phys4d.models.lora_scope import limit_to_levels, targets_in_blocks
    from phys4d.models.protocol import Conditioning
    from phys4d.models.reading import held_out_warp_l1, read_with_heads, to_numpy
    from phys4d.models.registry import load_model
    from phys4d.report.event_file import write_event_file
    from phys4d.runtime.seeding import seed_everything
    from phys4d.training import StageRun, check_finished, fit
    from phys4d.training.ranks import Ranks

    limit_threads(config.num_threads)
    for stage, program in (("base", "pretrain.base"), ("stage1", "pretrain.train")):
        check_finished(config.run / stage, program)
    ranks = Ranks.current(config.device)
    device = ranks.device
    seed_everything(config.seed)
    datasets = [open_dataset(path, "train") for path in (config.data, *config.more_data)]
    held_out = HeldOut.of(open_dataset(config.held_out or config.data, config.held_out_split))
    model = load_model(
        config.run / "base" / "model",
        dtype=config.memory.dtype,
        gradient_checkpointing=config.memory.gradient_checkpointing,
    ).to(device)
    model.check_size(held_out.rgb.shape, config.held_out or config.data)
    for path, dataset in zip((config.data, *config.more_data), datasets, strict=True):
        model.check_size(dataset[0].rgb.shape, path)
    heads = GeometryHeads.load(config.run / "stage1" / "heads.safetensors", model.head_sizes)
    heads = heads.with_motion_channels(config.motion_channels).to(device)
    targets = targets_in_blocks(model, config.lora_layers)
    adapter = add_lora(model.transformer, "sft", rank=config.lora_rank, targets=targets)
    limit_to_levels(model.transformer, "sft", config.lora_min_level)
    if config.memory.base_storage != "same" and ranks.count > 1:
        raise ValueError(
            f"base_storage {config.memory.base_storage} is for one process, whose weights are not shared "
            f"out, got {ranks.count} processes; use base_storage same"
        )
    store_base(model.transformer, config.memory.base_storage)
    ranks.shard_frozen(model.transformer, model.blocks)
    stage = config.run / "stage2"
    indices = {f"index of {data}": data / "train" / INDEX_NAME for data in (config.data, *config.more_data)}
    with StageRun.open(
        stage,
        configs.to_toml(config),
        sources={
            "base model": config.run / "base" / "model",
            "heads": config.run / "stage1" / "heads.safetensors",
            **indices,
        },
        ranks=ranks,
        wandb_project=config.wandb_project,
    ) as run:
        cache = EncodingCache(model, config.memory.cache)
        truth = _Truth.of(cache, datasets, mirror=config.mirror)
        unit = torch.tensor(MOTION_UNIT, device=device)
        num_channels = config.motion_channels

        def loss_parts(indices: Tensor, generator: Generator) -> dict[str, Tensor]:
            # The first part is noised for the diffusion loss, the rest for the heads: they read at low noise.
            x0, num_noisy = truth.latents[indices].to(device), round(config.diffusion_share * len(indices))
            sigma = torch.cat(
                [
                    model.noising.training_levels(num_noisy, config.shift, generator),
                    torch.rand(len(indices) - num_noisy, generator=generator) ** config.low_noise_bias,
                ]
            ).to(device)
            noise = torch.randn(x0.shape, generator=generator).to(device)
            conditioning = Conditioning(truth.text[indices].to(device), x0[:, :, 0])
            noised = model.noising.noised(x0, noise, sigma)
            prediction = model.predict(noised, sigma, conditioning, features=True)
            target = model.noising.velocity(x0, noise, sigma)
            mask = model.generated_mask(x0)
            noisy, clear = slice(0, num_noisy), slice(num_noisy, None)
            diffusion = velocity_error(
                prediction.velocity_BCThw[noisy], target[noisy], x0[noisy], mask, config.change_weight
            )
            read = heads(tuple(feature[clear] for feature in prediction.features), sigma[clear])
            indices = indices[clear]
            depth = truth.depth[indices].to(device)
            motion, ids = truth.motion[indices].to(device).float(), truth.object_ids[indices].to(device)
            on_object, moving = ids > 0, ids[:, :-1] > 0
            there = torch.isfinite(depth)
            depth = torch.where(there, depth, 1.0)
            depth_error = (read.depth_BTHW.log() - depth.log()).abs()
            mean_depth_error = masked_mean(depth_error, there) if truth.has_gaps else depth_error.mean()
            error = charbonnier((read.motion_BTHW3 - motion) / unit)
            motion_error = error[..., :num_channels].sum(-1)
            seen_again = warp_mask(
                config.warp_masks, depth, motion, truth.visible[indices].to(device), read.motion_BTHW3
            )
            return {
                "diffusion": diffusion,
                "depth": config.depth_weight
                * (mean_depth_error + masked_mean(depth_error, on_object & there)),
                "motion": config.motion_weight * (motion_error.mean() + masked_mean(motion_error, moving)),
                "warp": config.warp_weight
                * warp_consistency_loss(read.depth_BTHW, read.carried_BTHW3, seen_again),
            }

        held_latents = cache.videos(torch.from_numpy(held_out.rgb)).to(device)
        held = Conditioning(cache.texts(held_out.captions).to(device), held_latents[:, :, 0])

        @torch.no_grad()
        def validate(step: int) -> dict[str, float]:
            read = read_with_heads(model, heads, held_latents, held)
            if ranks.is_main:
                write_event_file(
                    stage / "tb", [], held_out.shown("stage 2", *to_numpy(read)), held_out.fps, step
                )
            errors = held_out.errors(*to_numpy(read))
            warp = held_out_warp_l1(read, held_out.depth, held_out.visible)
            fixed = torch.Generator().manual_seed(0)
            sigma = model.noising.training_levels(len(held_latents), config.shift, fixed).to(device)
            noise = torch.randn(held_latents.shape, generator=fixed).to(device)
            diffusion = held_out_diffusion_loss(model, held_latents, held, sigma, noise)
            return {**errors, "warp_l1_m": warp, "diffusion": diffusion}

        fit(
            loss_parts,
            [
                {"params": adapter, "lr": config.adapter_learning_rate},
                {"params": list(heads.parameters())},
            ],
            config.optimiser,
            num_items=len(truth.latents),
            shapes=truth.depth.shapes,
            seed=config.seed,
            desc="stage 2",
            run=run,
            validate=validate,
        )
        if ranks.is_main:
            save_lora(model.transformer, "sft", stage / "lora")
            heads.save(stage / "heads.safetensors")
        ranks.wait()
    return stage


def main() -> None:
    """Command line."""
    config, _ = configs.load_preset(StageTwoConfig, Path(__file__).parent / "presets", default="tiny-wan")
    if config.cluster.ray_address:
        from phys4d.training.on_ray import train_on_ray

        train_on_ray(train, config, config.cluster)
    else:
        train(config)


if __name__ == "__main__":
    run_main(main)
