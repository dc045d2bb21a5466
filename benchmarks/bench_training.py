"""Training steps: of each tiny preset in each stage; and of stage 2's kind beside accelerate's loop.

Of stage 3, it is updates of the policy: what `policy.train` takes to differentiate half of an iteration's
videos and step, its waiting for rewards left out.

Steps of presets are those of the programs that users run, each in a process of its own with its two threads:
`pretrain.base`, then on its model `pretrain.train`, then `sft.train`, as `make` runs them but for few steps.
Their `metrics.jsonl` tells what ten steps took, so that nothing but steps is counted.
"""

from __future__ import annotations

import atexit
import importlib.metadata
import itertools
import os
import shutil
import tempfile
from functools import cache, partial
from pathlib import Path

import torch
from torch import Generator, Tensor

from benchmarks.bench_policy import start_service
from benchmarks.children import peak_of
from benchmarks.registry import Measured, Work, compare, rate
from phys4d.models.lora import add_lora
from phys4d.models.protocol import Conditioning
from phys4d.models.registry import TINY, tiny_model
from phys4d.runtime.metrics import read_metrics
from phys4d.runtime.optimiser import OptimiserConfig
from phys4d.runtime.threads import limit_threads
from phys4d.training import fit
from policy.config import TrainConfig

STEPS, BATCH = 4, 16
LOGGED_EVERY, NUM_LOGGED = 10, 3
"""Steps between two rows of metrics.jsonl, and how many such spans are timed."""
NUM_STEPS = LOGGED_EVERY * NUM_LOGGED + 1
STAGES = {
    "base": (
        f"pretrain.base --data DATA --autoencoder.num-steps 2 --denoiser.num-steps {NUM_STEPS}",
        "base_loss",
    ),
    "stage1": (
        "pretrain.train --videos DATA --truth DATA --num-videos 32 --estimator.num-steps 2 "
        f"--heads.num-steps {NUM_STEPS}",
        "loss",
    ),
    "stage2": (f"sft.train --data DATA --optimiser.num-steps {NUM_STEPS}", "loss"),
}
"""In the order in which one needs what the other wrote: its program, and a scalar of each logged step."""
NUM_ITERATIONS = 2
VIDEOS = (
    TrainConfig().rollout.num_prompts
    * TrainConfig().rollout.group_size
    // TrainConfig().algorithm.updates_per_iteration
)
REWARD = "benchmarks.distinct_rewards:change_of_pixels"
PEER = f"accelerate {importlib.metadata.version('accelerate')} loop, torch's own threads"


@cache
def _folder() -> Path:
    """A small dataset in `data/`, and space for runs."""
    folder = Path(tempfile.mkdtemp(prefix="phys4d-bench-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    flags = "--workers 1 --look plain --width 64 --height 48 --families drop,collision"
    for split, count in (("train", 32), ("val", 4)):
        render = f"phys4d.scenes.render --out {folder}/data --split {split} --num-samples {count} {flags}"
        peak_of(*render.split())
    return folder


@cache
def _trained(preset: str, stage: str) -> tuple[list[float], float]:
    """Run a stage after those before it; seconds of each ten steps, and its peak of memory in bytes."""
    folder, stages = _folder(), list(STAGES)
    if before := stages[: stages.index(stage)]:
        _trained(preset, before[-1])
    program, scalar = STAGES[stage]
    flags = f"{program} --preset {preset} --run {folder}/{preset} --num-threads 2"
    peak_bytes = peak_of(*flags.replace("DATA", f"{folder}/data").split())
    rows = read_metrics(folder / preset / stage / "metrics.jsonl")
    at_s = [row["elapsed_s"] for row in rows if scalar in row]
    return [end - start for start, end in itertools.pairwise(at_s)], peak_bytes


def steps_of(preset: str, stage: str) -> tuple[Work, int]:
    """Ten steps; a call tells of the next ten."""
    spans_s, peak_bytes = _trained(preset, stage)
    spans = itertools.cycle(spans_s)
    return lambda: Measured(next(spans), None, peak_bytes), LOGGED_EVERY


for _preset, _stage in itertools.product(TINY, STAGES):
    rate(f"training, {_preset}, {_stage}, 2 threads", unit="steps")(partial(steps_of, _preset, _stage))


@cache
def _endpoint() -> str:
    """Of a plain reward service, which ends with this process."""
    return start_service(_folder())


@cache
def _updated(preset: str) -> tuple[list[float], float]:
    """Run stage 3 after stage 2; seconds of the updates of each iteration, and its peak of memory in bytes.

    Its reward is one in which no two videos are equal: groups without spread train nothing.

    Raises:
        ValueError: a group was not trained.
    """
    _trained(preset, "stage2")
    folder = _folder()
    flags = (
        f"policy.train --preset {preset} --run {folder}/{preset} --data {folder}/data --num-threads 2 "
        f"--num-iterations {NUM_ITERATIONS} --eval-every {NUM_ITERATIONS} --num-eval-prompts 2 "
        f"--reward.endpoint {_endpoint()} --reward.sources {REWARD} 1"
    )
    peak_bytes = peak_of(*flags.split())
    rows = [row for row in read_metrics(folder / preset / "stage3" / "metrics.jsonl") if "update_s" in row]
    if any(row["dropped_groups"] or row["skipped_updates"] for row in rows):
        raise ValueError(f"{preset}: not all groups were trained, so an update is not a whole one")
    return [row["update_s"] for row in rows], peak_bytes


def updates_of(preset: str) -> tuple[Work, int]:
    """The updates of an iteration; a call tells of those of the next."""
    spans_s, peak_bytes = _updated(preset)
    spans = itertools.cycle(spans_s)
    return lambda: Measured(next(spans), None, peak_bytes), TrainConfig().algorithm.updates_per_iteration


for _preset in TINY:
    rate(f"training, {_preset}, stage3, 2 threads", unit=f"updates on {VIDEOS} videos")(
        partial(updates_of, _preset)
    )


@compare(f"{STEPS} LoRA steps of tiny Wan, {BATCH} videos", peer=PEER, rtol=1e-3)
def lora_steps() -> tuple[Work, Work]:
    """float32, two micro-batches a step; both begin with the same adapter and return the last loss."""
    from accelerate import Accelerator

    limit_threads(min(2, len(os.sched_getaffinity(0))))
    torch.manual_seed(0)
    model = tiny_model("tiny-wan", ["a ball falls"]).eval()
    torch.nn.init.normal_(model.transformer.proj_out.weight, std=0.02)
    adapter = add_lora(model.transformer, "bench", rank=32, targets=model.lora_targets)
    start = [p.detach().clone() for p in adapter]
    latents = torch.randn(BATCH, *model.latent_shape(9, 48, 64))
    text = model.encode_text(["a ball falls"]).detach().expand(BATCH, -1, -1)
    config = OptimiserConfig(
        num_steps=STEPS,
        batch_size=BATCH,
        learning_rate=1e-3,
        warmup_steps=0,
        ema_decay=0.0,
        schedule="constant",
    )
    seen: list[float] = []

    def loss(x0: Tensor, indices: Tensor) -> Tensor:
        sigma = torch.full((len(indices),), 0.5)
        prediction = model.predict(0.5 * x0, sigma, Conditioning(text[indices], x0[:, :, 0]), features=True)
        return (prediction.velocity_BCThw + x0).square().mean() + prediction.features[-1].square().mean()

    def reset() -> None:
        with torch.no_grad():
            for parameter, value in zip(adapter, start, strict=True):
                parameter.copy_(value)

    def ours() -> float:
        reset()
        seen.clear()

        def parts(indices: Tensor, generator: Generator) -> dict[str, Tensor]:
            value = loss(latents[indices], indices)
            seen.append(value.item())
            return {"loss": value}

        fit(parts, adapter, config, num_items=BATCH, seed=0, desc="bench")
        return sum(seen[-2:]) / 2

    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)

    def theirs() -> float:
        reset()
        optimiser = torch.optim.AdamW(adapter, 1e-3, betas=(0.9, 0.99), weight_decay=config.weight_decay)
        last = []
        for _ in range(STEPS):
            last.clear()
            optimiser.zero_grad()
            for indices in torch.arange(BATCH).chunk(2):
                value = loss(latents[indices], indices)
                accelerator.backward(value / 2)
                last.append(value.item())
            accelerator.clip_grad_norm_(adapter, config.max_grad_norm)
            optimiser.step()
        return sum(last) / 2

    return ours, theirs
