"""What the tiny models cost and learn in a few CPU minutes: `python -m benchmarks.tiny_models`.

Each backbone is trained from scratch as `make base` does, autoencoder and latents included, with as many
steps as fit the budget: the first few are timed on a copy. Times are those of the process on its cores, so a
busy machine does not change them much. Then it generates held-out scenes, and objects are followed by colour.
Training and held-out scenes have the same physics; the base of `make base` sees mixed physics instead.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from phys4d.models.registry import TINY
from phys4d.runtime import config as configs
from phys4d.runtime.errors import run_main
from phys4d.runtime.files import atomic_write_text
from phys4d.runtime.run import provenance
from phys4d.runtime.seeding import derive_seed, seed_everything
from phys4d.runtime.threads import limit_threads
from pretrain.base_config import BaseConfig

if TYPE_CHECKING:
    from torch import Tensor

    from phys4d.data import Dataset
    from phys4d.models.backbone import Backbone

PRESETS = Path(__file__).parents[1] / "pretrain" / "presets" / "base"
WARM_STEPS, TIMED_STEPS = 3, 12
"""Training steps on a copy that are not timed, and that are."""


@dataclass(frozen=True, kw_only=True)
class TinyBenchConfig:
    """Train every tiny model for the same CPU time and measure what it then generates."""

    only: str = ""
    """One preset; empty measures all tiny ones."""
    data: Path = Path("data/rigid")
    """Dataset whose `train` split is learnt and whose `test` split is generated."""
    cpu_minutes: float = 6.0
    """Training time, autoencoder and latents included."""
    num_scenes: int = 64
    """Held-out scenes."""
    num_sampling_steps: int = 8
    out: Path = Path("runs/bench")
    """Folder of tiny-models.json and of the trained models."""
    seed: int = 0
    num_threads: int = 1
    """CPU threads of torch; more cost more CPU time for the same steps."""

    def __post_init__(self) -> None:
        if not self.cpu_minutes > 0:
            raise ValueError(f"cpu_minutes must be positive, got {self.cpu_minutes}")
        if self.only and self.only not in TINY:
            raise ValueError(f"unknown tiny preset {self.only!r}{configs.suggestion(self.only, TINY)}")


@dataclass(frozen=True)
class TinyResult:
    """The figures of one model."""

    preset: str
    transformer_parameters: int
    training_cpu_s: float
    """Autoencoder, latents and denoiser."""
    num_steps: int
    """Of the denoiser."""
    batch_size: int
    step_cpu_ms: float
    """A training step of the denoiser."""
    sample_cpu_ms: float
    """A generated video: all sampling steps and the decoder."""
    error_px: float
    """Mean distance of objects from the simulator's, over frames after the first."""
    last_frame_error_px: float


def affordable_steps(budget_s: float, spent_s: float, step_s: float) -> int:
    """Steps that fit what is left.

    Raises:
        ValueError: none does.
    """
    steps = int((budget_s - spent_s) / step_s)
    if steps < 1:
        raise ValueError(
            f"{budget_s:.0f} CPU seconds are too few: {spent_s:.0f} went to the autoencoder and latents, and "
            f"a step takes {step_s:.2f}; raise cpu_minutes"
        )
    return steps


def train(preset: str, dataset: Dataset, config: TinyBenchConfig) -> tuple[Backbone, dict[str, float]]:
    """A model trained within the budget, and what it took."""
    import torch

    from phys4d.data.mirror import with_mirror_images, with_mirrored_captions
    from phys4d.models.cache import EncodingCache
    from phys4d.models.registry import tiny_model
    from pretrain.base import train_autoencoder, train_denoiser

    base = configs.from_toml(BaseConfig, PRESETS / f"{preset}.toml")
    seed_everything(config.seed)
    rgb, captions = dataset.stack("rgb"), dataset.captions()
    if base.mirror:
        rgb, captions = with_mirror_images("rgb", rgb), with_mirrored_captions(captions)
    rgb_NTHW3 = torch.from_numpy(rgb)
    model = tiny_model(preset, captions, width=base.width, num_layers=base.num_layers)
    start = time.process_time()
    train_autoencoder(model, rgb_NTHW3.flatten(0, 1), base, None)
    latents = EncodingCache(model, None).videos(rgb_NTHW3)
    spent_s = time.process_time() - start

    def steps(model: Backbone, num_steps: int) -> float:
        denoiser = dataclasses.replace(base.denoiser, num_steps=num_steps)
        start = time.process_time()
        train_denoiser(model, latents, captions, dataclasses.replace(base, denoiser=denoiser), None)
        return time.process_time() - start

    scratch = copy.deepcopy(model)
    steps(scratch, WARM_STEPS)
    step_s = steps(scratch, TIMED_STEPS) / TIMED_STEPS
    num_steps = affordable_steps(60 * config.cpu_minutes, spent_s, step_s)
    denoiser_s = steps(model, num_steps)
    model.save(config.out / preset / "model")
    return model.eval().requires_grad_(False), {
        "training_cpu_s": spent_s + denoiser_s,
        "num_steps": num_steps,
        "batch_size": base.denoiser.batch_size,
        "step_cpu_ms": 1e3 * denoiser_s / num_steps,
    }


def generate(
    model: Backbone, dataset: Dataset, shift: float, config: TinyBenchConfig
) -> tuple[Tensor, float]:
    """Videos of the held-out scenes as uint8, and the CPU milliseconds of each."""
    import torch

    from phys4d.models.cache import EncodingCache
    from phys4d.models.protocol import to_uint8
    from policy.prompts import encode_prompts, load_prompts, num_latent_frames
    from policy.rollout import sample, sampling_rule

    prompts = load_prompts(dataset, range(config.num_scenes))
    conditioning = encode_prompts(EncodingCache(model, None), prompts)
    rule = sampling_rule(model, config.num_sampling_steps, shift=shift)
    videos: list[Tensor] = []
    start = time.process_time()
    for part in torch.arange(config.num_scenes).split(16):
        latents = sample(
            model,
            conditioning.select(part),
            rule,
            num_latent_frames=num_latent_frames(model, prompts),
            seeds=[derive_seed(config.seed, prompts[i].key) for i in part.tolist()],
        ).latents_BCThw
        with torch.no_grad():
            videos.append(to_uint8(model.decode_video(latents)))
    return torch.cat(videos), 1e3 * (time.process_time() - start) / config.num_scenes


def measure(preset: str, config: TinyBenchConfig) -> TinyResult:
    """Train, generate, compare with the simulator."""
    from phys4d.data import open_dataset
    from phys4d.metrics.tracking import track_colours
    from policy.measurements import track_metrics

    truth = open_dataset(config.data, "test")
    if len(truth) < config.num_scenes:
        raise ValueError(
            f"num_scenes is {config.num_scenes}, but {config.data} test has {len(truth)}; render more"
        )
    model, cost = train(preset, open_dataset(config.data, "train"), config)
    samples = [truth[i] for i in range(config.num_scenes)]
    size = samples[0].rgb.shape[:3]
    shift = model.published_shift(*size)
    videos, sample_cpu_ms = generate(model, truth, shift, config)
    tracks = [track_colours(s.rgb, s.object_ids[0]) for s in samples]
    means, finals = track_metrics(list(videos.numpy()), samples, tracks)
    return TinyResult(
        preset=preset,
        transformer_parameters=sum(p.numel() for p in model.transformer.parameters()),
        training_cpu_s=cost["training_cpu_s"],
        num_steps=int(cost["num_steps"]),
        batch_size=int(cost["batch_size"]),
        step_cpu_ms=cost["step_cpu_ms"],
        sample_cpu_ms=sample_cpu_ms,
        error_px=float(np.nanmean(means)),
        last_frame_error_px=float(np.nanmean(finals)),
    )


def baseline(config: TinyBenchConfig) -> tuple[float, float]:
    """The errors of a video that stands still."""
    from phys4d.data import open_dataset
    from phys4d.metrics.tracking import track_colours
    from policy.measurements import track_metrics

    truth = open_dataset(config.data, "test")
    samples = [truth[i] for i in range(config.num_scenes)]
    tracks = [track_colours(s.rgb, s.object_ids[0]) for s in samples]
    still = [s.rgb[:1].repeat(len(s.rgb), 0) for s in samples]
    means, finals = track_metrics(still, samples, tracks)
    return float(np.nanmean(means)), float(np.nanmean(finals))


def main() -> None:
    """Command line."""
    config = configs.load(TinyBenchConfig)
    limit_threads(config.num_threads)
    results = []
    for preset in [config.only] if config.only else TINY:
        results.append(measure(preset, config))
        r = results[-1]
        print(
            f"{r.preset}: {r.transformer_parameters:,} parameters, {r.training_cpu_s / 60:.1f} CPU min, "
            f"{r.num_steps} steps of {r.step_cpu_ms:.0f} CPU-ms (batch {r.batch_size}), "
            f"{r.sample_cpu_ms:.1f} CPU-ms per video of {config.num_sampling_steps} steps, "
            f"error {r.error_px:.2f} px, last frame {r.last_frame_error_px:.2f} px",
            flush=True,
        )
    still = baseline(config)
    print(f"a video that stands still: error {still[0]:.2f} px, last frame {still[1]:.2f} px")
    name = f"tiny-models{'-' + config.only if config.only else ''}.json"
    content = {
        "machine": provenance(),
        "config": {key: str(value) for key, value in asdict(config).items()},
        "still_px": still,
        "results": [asdict(r) for r in results],
    }
    atomic_write_text(config.out / name, json.dumps(content, indent=2) + "\n")
    print(f"written: {config.out / name}")


if __name__ == "__main__":
    run_main(main)
