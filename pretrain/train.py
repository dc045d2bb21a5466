"""Stage 1: teach heads on the frozen transformer from pseudo-labels: `python -m pretrain.train`.

Videos come from a rendered dataset or a folder of mp4, webm or frames. Many processes:
`accelerate launch -m pretrain.train ...`, or `--cluster.ray-address ADDRESS --cluster.num-workers N`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from phys4d.runtime import config as configs
from phys4d.runtime.errors import run_main
from phys4d.runtime.threads import limit_threads
from pretrain.config import StageOneConfig

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from phys4d.data import Dataset
    from phys4d.metrics.held_out import HeldOut
    from phys4d.models.backbone import Backbone
    from phys4d.models.heads import Geometry, GeometryHeads
    from phys4d.models.protocol import VideoModel
    from phys4d.models.pseudo_labels import PseudoLabels
    from phys4d.training import StageRun

NOISY_SIGMA = 0.6
"""At low noise a random transformer passes on enough of the latents; here features have to be learnt."""


@dataclass(frozen=True, eq=False)
class Lesson:
    """What heads learn from and are measured on; labels, RGB and captions of each source, one shape each."""

    config: StageOneConfig
    labels: list[PseudoLabels]
    rgb: list[Tensor]
    captions: list[list[str]]
    held_out: HeldOut
    run: StageRun


def read_training_videos(
    source: Path, config: StageOneConfig, truth: Dataset, model: VideoModel
) -> tuple[Tensor, list[str]]:
    """RGB (N, T, H, W, 3) and captions, from a rendered dataset or a folder of videos of any origin.

    Those of a folder are brought to the shape and frame rate of `truth`. One whose caption is longer than
    the model reads is skipped like one that cannot be read.

    Raises:
        ValueError: there are fewer than `num_videos`, or fewer than a batch among the readable ones.
    """
    import torch

    from phys4d.data import open_dataset
    from phys4d.data.videos import is_dataset, read_videos

    if is_dataset(source) or not source.is_dir():
        videos = open_dataset(source, "train")
        if len(videos) < config.num_videos:
            raise ValueError(
                f"num_videos is {config.num_videos}, but {source} has {len(videos)}; render more"
            )
        rgb = torch.from_numpy(videos.stack("rgb")[: config.num_videos])
        return rgb, videos.captions()[: config.num_videos]
    num_frames, height, width = truth[0].rgb.shape[:3]
    found = read_videos(
        source,
        num_frames=num_frames,
        height=height,
        width=width,
        fps=truth[0].spec.fps,
        limit=config.num_videos,
        check_caption=lambda caption: model.tokenize([caption]),
    )
    if len(found.names) < config.heads.batch_size:
        raise ValueError(
            f"{len(found.names)} readable videos in {source} do not fill a batch of "
            f"{config.heads.batch_size}; add some or lower --heads.batch-size"
        )
    return torch.from_numpy(found.rgb), found.captions


def random_twin(model: Backbone, seed: int) -> Backbone:
    """The same model with an untrained transformer as `tiny_model` makes it, for the baseline column."""
    import copy

    import torch

    from phys4d.runtime.seeding import derive_seed

    twin = copy.deepcopy(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "random transformer"))
        transformer = type(model.transformer).from_config(model.transformer.config)
        model.open_gates(transformer)
    dtype = model.transformer.dtype
    twin.transformer = (transformer if dtype == torch.float32 else transformer.to(dtype)).to(
        model.transformer.device
    )
    return twin.eval().requires_grad_(False)


def train_heads(model: VideoModel, heads: GeometryHeads, lesson: Lesson, *, desc: str, prefix: str) -> None:
    """Fit heads on features of a frozen model at random noise levels."""
    import torch

    from phys4d.models.cache import EncodingCache
    from phys4d.models.geometry_losses import (
        charbonnier,
        masked_mean,
        off_depth_edges,
        relative_depth_losses,
    )
    from phys4d.models.heads import MOTION_UNIT
    from phys4d.models.protocol import Conditioning
    from phys4d.models.reading import held_out_warp_l1, read_with_heads, to_numpy
    from phys4d.report.event_file import write_event_file
    from phys4d.training import fit
    from phys4d.training.buckets import Buckets

    config, held_out, device = lesson.config, lesson.held_out, lesson.run.ranks.device
    cache = EncodingCache(model, config.memory.cache)
    latents = Buckets([cache.videos(rgb) for rgb in lesson.rgb])
    text = Buckets([cache.texts(captions) for captions in lesson.captions])
    depths = Buckets([labels.depth_NTHW for labels in lesson.labels])
    motions = Buckets([labels.motion_NTHW3 for labels in lesson.labels])
    trusted = Buckets([labels.trusted_NTHW for labels in lesson.labels])
    kind = lesson.labels[0].kind
    unit = torch.tensor(MOTION_UNIT, device=device)
    has_dz = heads.config["motion_channels"] == 3 and kind == "metric"

    def loss_parts(indices: Tensor, generator: Generator) -> dict[str, Tensor]:
        x0 = latents[indices].to(device)
        sigma = (torch.rand(len(indices), generator=generator) ** config.low_noise_bias).to(device)
        noise = torch.randn(x0.shape, generator=generator).to(device)
        with torch.no_grad():
            conditioning = Conditioning(text[indices].to(device), x0[:, :, 0])
            noisy = model.noising.noised(x0, noise, sigma)
            features = model.predict(noisy, sigma, conditioning, features=True).features
        read = heads(features, sigma)
        depth = depths[indices].to(device)
        motion = motions[indices].to(device)
        mask = trusted[indices].to(device)
        # Most pixels are static background, so moving ones count as much as all the others together.
        moving = mask & (motion[..., :2].norm(dim=-1) > 1.0)
        error = charbonnier((read.motion_BTHW3 - motion) / unit)
        motion_loss = masked_mean(error[..., :2].sum(-1), mask) + masked_mean(error[..., :2].sum(-1), moving)
        if has_dz:
            motion_loss = motion_loss + masked_mean(error[..., 2], mask & off_depth_edges(depth[:, :-1]))
        depth_loss, gradient_loss = relative_depth_losses(read.depth_BTHW, depth, kind)
        return {
            "depth": depth_loss,
            "depth_gradient": config.gradient_weight * gradient_loss,
            "motion": config.motion_weight * motion_loss,
        }

    held_latents = cache.videos(torch.from_numpy(held_out.rgb)).to(device)
    held = Conditioning(cache.texts(held_out.captions).to(device), held_latents[:, :, 0])

    def measure(read: Geometry) -> dict[str, float]:
        warp = held_out_warp_l1(read, held_out.depth, held_out.visible)
        return {**held_out.errors(*to_numpy(read)), "warp_l1_m": warp}

    def validate(step: int) -> dict[str, float]:
        read = read_with_heads(model, heads, held_latents, held)
        if lesson.run.ranks.is_main:
            scenes = held_out.shown(desc, *to_numpy(read))
            write_event_file(lesson.run.path / "tb", [], scenes, held_out.fps, step)
        errors = measure(read)
        if config.baseline:
            noise = torch.randn(held_latents.shape, generator=torch.Generator().manual_seed(0)).to(device)
            level = torch.full((len(held_latents),), NOISY_SIGMA, device=device)
            noisy = model.noising.noised(held_latents, noise, level)
            read = read_with_heads(model, heads, noisy, held, sigma=NOISY_SIGMA)
            errors |= {f"noisy_{name}": value for name, value in measure(read).items()}
        return errors

    fit(
        loss_parts,
        list(heads.parameters()),
        config.heads,
        num_items=len(latents),
        shapes=depths.shapes,
        seed=config.seed,
        desc=desc,
        run=lesson.run,
        log_prefix=prefix,
        validate=validate,
    )


def train(config: StageOneConfig) -> Path:
    """Train and save the heads; returns their file."""
    import copy

    import torch

    from phys4d.data import open_dataset
    from phys4d.data.format import INDEX_NAME
    from phys4d.metrics.held_out import HeldOut
    from phys4d.models.flow_estimators import load_flow_estimator
    from phys4d.models.heads import GeometryHeads
    from phys4d.models.pseudo_labels import label_videos
    from phys4d.models.reading import read_with_estimators, to_numpy
    from phys4d.models.registry import load_model
    from phys4d.runtime.files import atomic_directory
    from phys4d.runtime.seeding import seed_everything
    from phys4d.training import StageRun, check_finished
    from phys4d.training.ranks import Ranks
    from pretrain.estimator import depth_estimator

    limit_threads(config.num_threads)
    check_finished(config.run / "base", "pretrain.base")
    ranks = Ranks.current(config.device)
    seed_everything(config.seed)
    truth = open_dataset(config.truth, "train")
    measured = open_dataset(config.held_out or config.truth, config.held_out_split)
    model = load_model(
        config.run / "base" / "model",
        dtype=config.memory.dtype,
        gradient_checkpointing=config.memory.gradient_checkpointing,
    ).to(ranks.device)
    held_out = HeldOut.of(measured)
    model.check_size(held_out.rgb.shape, config.held_out or config.truth)
    rgb, captions = [], []
    for source in (config.videos, *config.more_videos):
        videos, texts = read_training_videos(source, config, truth, model)
        model.check_size(videos.shape, source)
        rgb.append(videos)
        captions.append(texts)
    flow = load_flow_estimator(config.flow, config.flow_weights, str(ranks.device))
    twin = random_twin(model, config.seed) if config.baseline else None
    for frozen in (model, twin):
        if frozen is not None:
            ranks.shard_frozen(frozen.transformer, frozen.blocks)
    stage = config.run / "stage1"
    path = stage / "heads.safetensors"
    indices = {
        f"index of {data}": index
        for data in (config.truth, config.videos, *config.more_videos)
        if (index := data / "train" / INDEX_NAME).is_file()
    }
    with StageRun.open(
        stage,
        configs.to_toml(config),
        sources={"base model": config.run / "base" / "model", **indices},
        ranks=ranks,
        wandb_project=config.wandb_project,
    ) as run:
        estimator = depth_estimator(config, truth, run)
        if ranks.is_main:
            with atomic_directory(config.run / "estimator", replace=True) as folder:
                estimator.save(folder)
        # The other processes find what the first one has labelled.
        if not ranks.is_main:
            ranks.wait()
        folder = config.labels or config.run / "labels"
        labels = [label_videos(estimator, flow, videos, folder) for videos in rgb]
        if ranks.is_main:
            ranks.wait()
        lesson = Lesson(config, labels, rgb, captions, held_out, run)
        heads = GeometryHeads(
            **model.head_sizes, channels=config.head_channels, motion_channels=config.motion_channels
        ).to(ranks.device)
        initial = copy.deepcopy(heads)
        train_heads(model, heads, lesson, desc="stage 1", prefix="")
        if twin is not None:
            train_heads(twin, initial, lesson, desc="stage 1 baseline", prefix="baseline_")
        if labels[0].kind == "metric":
            estimated, _ = read_with_estimators(estimator, torch.from_numpy(held_out.rgb), flow)
            errors = held_out.errors(*to_numpy(estimated))
            run.write_json("estimators.json", {"depth": estimator.id, "flow": flow.id, "held_out": errors})
            if ranks.is_main:
                print(f"the estimators themselves: {errors}")
        if ranks.is_main:
            heads.save(path)
    return path


def main() -> None:
    """Command line."""
    config, _ = configs.load_preset(
        StageOneConfig, Path(__file__).parent / "presets" / "stage1", default="tiny-wan"
    )
    if config.cluster.ray_address:
        from phys4d.training.on_ray import train_on_ray

        train_on_ray(train, config, config.cluster)
    else:
        train(config)


if __name__ == "__main__":
    run_main(main)
