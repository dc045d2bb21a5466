"""Train a tiny base model on rendered RGB: `python -m pretrain.base --preset tiny-wan`.

It sees videos whose gravity, restitution and friction vary from clip to clip without being told, so it
learns how things look and not how they fall: what post-training has to correct.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

from phys4d.runtime import config as configs
from phys4d.runtime.errors import UserError, run_main
from phys4d.runtime.threads import limit_threads
from pretrain.base_config import BaseConfig

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from phys4d.models.backbone import Backbone
    from phys4d.training import StageRun


def train_autoencoder(model: Backbone, frames_NHW3: Tensor, config: BaseConfig, run: StageRun | None) -> None:
    """Fit the frame-wise autoencoder, then set the latents' mean and spread from 4,096 frames."""
    import torch

    from phys4d.models.protocol import to_model_range
    from phys4d.training import fit

    def images(indices: Tensor) -> Tensor:
        return to_model_range(frames_NHW3[indices].unsqueeze(1)).squeeze(2)

    order = torch.randperm(len(frames_NHW3), generator=torch.Generator().manual_seed(config.seed))
    chosen = order[:4096].split(256)
    model.vae.fit_principal_components((images(part) for part in chosen), config.whitening)

    def loss_parts(indices: Tensor, generator: Generator) -> dict[str, Tensor]:
        x = images(indices)
        latents = model.vae.encode(x)
        noise = torch.randn(latents.shape, generator=generator) * config.latent_noise
        error = model.vae.decode(latents + noise) - x
        # Latents start at unit variance; without a price on their size the noise would be outgrown.
        size = (latents.square().mean() - 1.0).clamp(min=0)
        return {"l1": error.abs().mean(), "mse": error.square().mean(), "latent_size": 0.1 * size}

    fit(
        loss_parts,
        list(model.vae.parameters()),
        config.autoencoder,
        num_items=len(frames_NHW3),
        seed=config.seed,
        desc="autoencoder",
        run=run,
        log_prefix="autoencoder_",
    )
    with torch.no_grad():
        latents = torch.cat([model.vae.encode(images(part)) for part in chosen])
    model.latents_mean.copy_(latents.mean((0, 2, 3)).view_as(model.latents_mean))
    # One spread for all: the differences between channels are meant.
    model.latents_std.fill_(latents.std((0, 2, 3)).square().mean().sqrt().item())


def train_denoiser(
    model: Backbone, latents_NCThw: Tensor, captions: list[str], config: BaseConfig, run: StageRun | None
) -> None:
    """Fit the transformer and the text encoder by the diffusion loss of their own noising."""
    import torch

    from phys4d.models.diffusion_loss import diffusion_loss
    from phys4d.models.protocol import Conditioning
    from phys4d.training import fit

    def loss_parts(indices: Tensor, generator: Generator) -> dict[str, Tensor]:
        latents = latents_NCThw[indices]
        conditioning = Conditioning(model.encode_text([captions[i] for i in indices]), latents[:, :, 0])
        level = model.noising.training_levels(len(indices), config.shift, generator)
        noise = torch.randn(latents.shape, generator=generator)
        return {"velocity": diffusion_loss(model, latents, conditioning, level, noise, config.change_weight)}

    linear = [module for module in model.blocks.modules() if isinstance(module, torch.nn.Linear)]
    parameters = [*model.transformer.parameters(), *model.text_encoder.parameters()]
    fit(
        loss_parts,
        parameters,
        config.denoiser,
        num_items=len(latents_NCThw),
        seed=config.seed,
        desc="base",
        run=run,
        log_prefix="base_",
        matrices=[cast(torch.nn.Parameter, module.weight) for module in linear],
    )


def train(config: BaseConfig) -> Path:
    """Train and save the base, or find and check a published one; returns its folder."""
    import torch

    from phys4d.data import open_dataset
    from phys4d.data.format import INDEX_NAME
    from phys4d.data.mirror import with_mirror_images, with_mirrored_captions
    from phys4d.models.cache import EncodingCache
    from phys4d.models.registry import FULL, tiny_model
    from phys4d.runtime.seeding import seed_everything
    from phys4d.training import StageRun
    from phys4d.training.ranks import Ranks

    limit_threads(config.num_threads)
    if config.model in FULL:
        from phys4d.models.link import link_published

        return link_published(config.model, config.run / "base" / "model", config.weights)
    if config.weights:
        raise UserError(
            f"{config.model} is trained from scratch, so weights must be empty, got {config.weights}"
        )
    ranks = Ranks.current("cpu")
    seed_everything(config.seed)
    dataset = open_dataset(config.data, "train")
    rgb, captions = dataset.stack("rgb"), dataset.captions()
    if config.mirror:
        rgb, captions = with_mirror_images("rgb", rgb), with_mirrored_captions(captions)
    rgb_NTHW3 = torch.from_numpy(rgb)
    model = tiny_model(config.model, captions, width=config.width, num_layers=config.num_layers)
    model.check_size(rgb.shape, config.data)
    with StageRun.open(
        config.run / "base",
        configs.to_toml(config),
        sources={"data": config.data / "train" / INDEX_NAME},
        ranks=ranks,
        wandb_project=config.wandb_project,
    ) as run:
        train_autoencoder(model, rgb_NTHW3.flatten(0, 1), config, run)
        train_denoiser(model, EncodingCache(model, None).videos(rgb_NTHW3), captions, config, run)
        if ranks.is_main:
            model.save(config.run / "base" / "model")
    return config.run / "base" / "model"


def main() -> None:
    """Command line."""
    config, _ = configs.load_preset(
        BaseConfig, Path(__file__).parent / "presets" / "base", default="tiny-wan"
    )
    train(config)


if __name__ == "__main__":
    run_main(main)
