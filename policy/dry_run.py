"""What an iteration takes, counted without weights: `python -m policy.train --preset NAME --dry-run`."""

from __future__ import annotations

import inspect
import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

from phys4d.models.backbone import Backbone
from phys4d.models.cost import BYTES_BF16, base_bytes, forward_flops, num_parameters, training_step
from phys4d.models.describe import TINY_VIDEO
from phys4d.models.heads import GeometryHeads
from phys4d.models.lora import add_lora
from phys4d.models.registry import FULL, meta_model, published
from phys4d.reward.client import RewardClient
from policy.algorithms import ALGORITHMS, has_old_policy
from policy.compute import calls_per_video
from policy.config import TrainConfig
from policy.rewards import needs_rgb, parse_sources
from policy.scoring import needs_all

GIB = 2**30
BYTES = {"float32": 4, "bfloat16": BYTES_BF16, "float16": 2}
SETTLED = 8
"""Iterations after which the wait of a run that is one step off-policy no longer changes."""
RESERVE = 0.08
"""Part of a GPU's memory that the CUDA context, the kernels' buffers and fragmentation take."""


def dry_run(config: TrainConfig) -> dict[str, Any]:
    """Memory of one GPU by part in GiB, FLOPs, payload and times of one iteration, and whether it fits.

    Activations are those that autograd keeps of the videos in one forward with a fused attention kernel;
    those of sampling, which keeps none, and short-lived buffers are left to the reserve.

    Raises:
        ValueError: the videos of a batch cannot be shared by the GPUs, or the model is unknown.
    """
    rollout, gpus = config.rollout, config.hardware
    together = rollout.prompts_per_batch * rollout.group_size
    if together % gpus.num_gpus:
        raise ValueError(
            f"{together} videos of a batch cannot be shared by {gpus.num_gpus} GPUs; make "
            "rollout.prompts_per_batch x rollout.group_size a multiple of hardware.num_gpus"
        )
    video = published(config.model)["video"] if config.model in FULL else TINY_VIDEO
    frames, height, width = gpus.video or (video["num_frames"], video["height"], video["width"])
    size = (frames, height, width)
    model = meta_model(config.model)
    step = training_step(
        config.model,
        size,
        rank=config.algorithm.lora_rank,
        checkpointing=config.memory.gradient_checkpointing,
    )
    parts = _memory(config, model, size, step["activation_bytes"])
    total = sum(parts.values())
    available = int(gpus.gpu_gib * GIB * (1 - RESERVE))
    work = _work(config, size, step["flops"])
    of_all = gpus.tflops * 1e12 * gpus.num_gpus
    scoring = scoring_of(config, size)
    training = work["training"] + work["reference and old policy"]
    sampling = sum(work[name] for name in ("sampling", "reading by the heads", "decoding", "first frames"))
    videos = rollout.num_prompts * rollout.group_size
    return {
        "model": config.model,
        "algorithm": config.algorithm.name,
        "video": list(size),
        "videos_per_iteration": videos,
        "memory_gib": {name: value / GIB for name, value in parts.items()},
        "total_gib": total / GIB,
        "gpu_gib": gpus.gpu_gib,
        "available_gib": available / GIB,
        "fits": total <= available,
        "tflop": {name: value / 1e12 for name, value in work.items()},
        "gpu_s": sum(work.values()) / of_all,
        "num_gpus": gpus.num_gpus,
        "payload_mib": {
            "rollout": scoring.payload / 2**20,
            "iteration": videos * scoring.num_sent * scoring.payload / 2**20,
        },
        "num_sent": scoring.num_sent,
        "num_functions": scoring.num_functions,
        "scored_at_once": scoring.at_once,
        "scoring_s": rollout.num_batches * scoring.batch_s,
        "reward_wait_s": reward_wait_s(
            config,
            sampling_s=sampling / of_all / rollout.num_batches,
            scoring_s=scoring.batch_s,
            training_s=training / of_all / rollout.num_batches / config.algorithm.inner_epochs,
        ),
    }


def _memory(
    config: TrainConfig, model: Backbone, size: tuple[int, int, int], activation_bytes: int
) -> dict[str, int]:
    """Bytes of one GPU by part; `activation_bytes` are of one video in bfloat16."""
    rollout, algorithm, memory = config.rollout, config.algorithm, config.memory
    kind, num_gpus = ALGORITHMS[algorithm.name], config.hardware.num_gpus
    channels, frames, h, w = model.latent_shape(*size)
    weight_bytes = BYTES[memory.dtype]
    adapter = add_lora(model.transformer, "policy", rank=algorithm.lora_rank, targets=model.lora_targets)
    trained = sum(p.numel() for p in adapter)
    in_forward = rollout.prompts_per_batch * rollout.group_size // num_gpus
    recorded = 2 * rollout.window_size * BYTES[rollout.storage] if kind.records_steps else 0
    recorded += 4 * rollout.window_size if kind.keeps_means else 0
    videos = rollout.num_prompts * rollout.group_size
    iterations = 2 if rollout.one_step_off_policy else 1
    return {
        "transformer": base_bytes(model.transformer, weight_bytes, memory.base_storage),
        "text encoder": 0 if memory.offload else num_parameters(model.text_encoder) * weight_bytes,
        "autoencoder": 0 if memory.offload else num_parameters(model.vae) * 4,
        "heads": num_parameters(GeometryHeads(**model.head_sizes)) * 4,
        "LoRA weights and gradients": trained * 4 * 2,
        # Adam's two moments and the average of the weights; the old policy too where there is one.
        "optimiser and averages": trained * 4 * (4 if has_old_policy(config) else 3),
        f"activations of {in_forward} video{'s' if in_forward > 1 else ''}": (
            activation_bytes * in_forward * weight_bytes // BYTES_BF16
        ),
        f"latents of {'two iterations' if iterations > 1 else 'an iteration'}": (
            iterations * channels * frames * h * w * (4 + recorded) * videos // num_gpus
        ),
    }


def _work(config: TrainConfig, size: tuple[int, int, int], training_flops: int) -> dict[str, float]:
    """FLOPs of an iteration on all GPUs by part; `training_flops` are of one trained step of one video."""
    flops = forward_flops(config.model, size)
    call, decode = flops["denoiser_call"], flops["decode_video"]
    calls = calls_per_video(config)
    videos = config.rollout.num_prompts * config.rollout.group_size
    rgb = needs_rgb(config.reward)
    # Reading by estimators and rewards that look at pixels decode each for themselves.
    num_decoded = (config.reward.reader == "estimator") + rgb
    watched = min(config.monitor.num_videos, config.num_eval_prompts) if config.monitor.enabled else 0
    evaluation = config.num_eval_prompts * ((calls.sampling + calls.reading) * call + num_decoded * decode)
    # Pixels are looked at, and depth and motion are read in both ways.
    evaluation += watched * ((2 + rgb) * decode + call)
    return {
        "sampling": videos * calls.sampling * call,
        "reading by the heads": videos * calls.reading * call,
        "decoding": videos * num_decoded * decode,
        "training": videos * calls.trained * training_flops,
        "reference and old policy": videos * calls.compared * call,
        "first frames": config.rollout.num_prompts * flops["encode_video"] // size[0],
        f"evaluation, every {config.eval_every}th": evaluation / config.eval_every,
    }


def rollout_bytes(size: tuple[int, int, int], *, rgb: bool) -> int:
    """Bytes of a rollout's arrays on the wire: depth and motion in float16, masks, and RGB if sent."""
    frames, height, width = size
    pixels = height * width
    return pixels * (2 * frames + 2 * 3 * (frames - 1) + 1 + (3 * frames if rgb else 0))


@dataclass(frozen=True, kw_only=True)
class ScoringLoad:
    """What scoring takes; functions run in the trainer's processes and are not counted."""

    payload: int
    """Bytes of a rollout sent once."""
    num_sent: int
    """Times that each rollout is sent, once for each source on a service."""
    num_functions: int
    at_once: int
    """Rollouts that the busiest service scores at the same time."""
    batch_s: float
    """Seconds from the last rollout of a batch to its rewards."""


def scoring_of(config: TrainConfig, size: tuple[int, int, int]) -> ScoringLoad:
    """Payload and scoring time.

    A source is sent a batch when the one before is answered, by every GPU its share of it, as far as the
    calls of a `RewardClient` hold it. Services have `hardware.num_scorers` each and score beside each other,
    so that the one with the most sources decides; its sources share its scorers.
    """
    rollout, gpus = config.rollout, config.hardware
    payload = rollout_bytes(size, rgb=config.reward.send_rgb)
    sources = parse_sources(config.reward)
    on = Counter(source.endpoint or config.reward.endpoint for source in sources if not source.function)
    most = max(on.values(), default=0)
    client = inspect.signature(RewardClient).parameters
    in_call = max(1, client["max_request_bytes"].default // payload)
    together = rollout.prompts_per_batch * rollout.group_size
    of_rank = min(together // gpus.num_gpus, client["max_concurrent_calls"].default * in_call)
    at_once = min(gpus.num_scorers, most * of_rank * gpus.num_gpus)
    return ScoringLoad(
        payload=payload,
        num_sent=on.total(),
        num_functions=len(sources) - on.total(),
        at_once=at_once,
        batch_s=math.ceil(most * together / at_once) * gpus.scoring_s if at_once else 0.0,
    )


def reward_wait_s(config: TrainConfig, *, sampling_s: float, scoring_s: float, training_s: float) -> float:
    """Seconds of an iteration in which the GPUs wait for rewards.

    Batches are scored one after the other, beside sampling, and differentiated as their rewards come in; all
    of them are waited for first where `needs_all`. One step off-policy, an iteration's batches are sampled
    before the update of the one before; the wait told is that of an iteration in which this has settled.

    Args:
        sampling_s: of one batch, until it is sent.
        scoring_s: of one batch.
        training_s: of one batch and one pass over it.
    """
    num_batches, num_updates = config.rollout.num_batches, config.algorithm.updates_per_iteration
    is_ahead = config.rollout.one_step_off_policy
    scored: dict[int, list[float]] = {}
    now = idle_from = waited = 0.0

    def sample(iteration: int) -> None:
        nonlocal now, idle_from
        scored[iteration] = []
        for _ in range(num_batches):
            now += sampling_s
            idle_from = max(now, idle_from) + scoring_s
            scored[iteration].append(idle_from)

    for iteration in range(SETTLED if is_ahead else 1):
        if iteration not in scored:
            sample(iteration)
        if is_ahead:
            sample(iteration + 1)
        waited = 0.0
        for u in range(num_updates):
            for b in range(u, num_batches, num_updates):
                wait = max(0.0, scored[iteration][-1 if needs_all(config) else b] - now)
                waited += wait
                now += wait + training_s
        now += (config.algorithm.inner_epochs - 1) * num_batches * training_s
    return waited


def text(result: dict[str, Any]) -> str:
    """The verdict and what it stands on, for people."""
    frames, height, width = result["video"]
    times = f" x {result['num_sent']} rewards on services" if result["num_sent"] != 1 else ""
    lines = [
        f"{result['model']}, {result['algorithm']}: {result['videos_per_iteration']} videos of {frames} x "
        f"{height} x {width} an iteration on {result['num_gpus']} GPUs",
        "",
        "memory of one GPU, GiB",
        *(f"  {name:28s} {value:10.4g}" for name, value in result["memory_gib"].items()),
        f"  {'total':28s} {result['total_gib']:10.4g}",
        "",
        "work of an iteration, TFLOP",
        *(f"  {name:28s} {value:12,.4g}" for name, value in result["tflop"].items()),
        f"  {'time, s':28s} {result['gpu_s']:12,.4g}   at the assumed hardware.tflops",
        "",
        f"payload: {result['payload_mib']['rollout']:.3g} MiB a rollout{times}, "
        f"{result['payload_mib']['iteration']:.4g} MiB an iteration",
        f"scoring: {result['scoring_s']:.3g} s an iteration, {result['scored_at_once']} rollouts at once at "
        f"the assumed hardware.scoring_s; the GPUs wait for {result['reward_wait_s']:.3g} s of it",
    ]
    if result["num_functions"]:
        lines.append("         functions of reward.sources run beside it, for a time that is not counted")
    lines.append("")
    verdict = "fits" if result["fits"] else "does not fit"
    lines.append(
        f"{verdict}: {result['total_gib']:.2f} GiB of {result['available_gib']:.1f} "
        f"({result['gpu_gib']:g} less {100 * RESERVE:.0f} % for what is not counted)"
    )
    if not result["fits"]:
        lines.append(
            "less memory: --memory.gradient-checkpointing, --memory.offload, --memory.dtype bfloat16, "
            "--memory.base-storage float8, fewer videos in one forward (--rollout.prompts-per-batch, more "
            "GPUs), or fewer frames"
        )
    return "\n".join(lines)
