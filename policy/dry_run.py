"""What an iteration takes, counted without weights: `python -m policy.train --preset NAME --dry-run`."""

from __future__ import annotations

from typing import Any

from phys4d.models.cost import BYTES_BF16, forward_flops, num_parameters, training_step
from phys4d.models.describe import TINY_VIDEO
from phys4d.models.heads import GeometryHeads
from phys4d.models.lora import add_lora
from phys4d.models.registry import FULL, meta_model, published
from policy.algorithms import ALGORITHMS
from policy.compute import calls_per_video
from policy.config import TrainConfig

GIB = 2**30
BYTES = {"float32": 4, "bfloat16": BYTES_BF16}
RESERVE = 0.08
"""Part of a GPU's memory that the CUDA context, the kernels' buffers and fragmentation take."""


def dry_run(config: TrainConfig) -> dict[str, Any]:
    """Memory of one GPU by part in GiB, FLOPs, payload and times of one iteration, and whether it fits.

    Activations are those that autograd keeps of the videos in one forward with a fused attention kernel;
    those of sampling, which keeps none, and short-lived buffers are left to the reserve.

    Raises:
        ValueError: the videos of a batch cannot be shared by the GPUs, or the model is unknown.
    """
    rollout, algorithm, memory, gpus = config.rollout, config.algorithm, config.memory, config.hardware
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
    channels, frames, h, w = model.latent_shape(*size)
    weight_bytes = BYTES[memory.dtype]
    encoders = 0 if memory.offload else num_parameters(model.text_encoder) * weight_bytes
    vae = 0 if memory.offload else num_parameters(model.vae) * 4
    heads = num_parameters(GeometryHeads(**model.head_sizes)) * 4
    transformer = num_parameters(model.transformer) * weight_bytes
    trained = sum(
        p.numel()
        for p in add_lora(model.transformer, "policy", rank=algorithm.lora_rank, targets=model.lora_targets)
    )
    kind = ALGORITHMS[algorithm.name]
    step = training_step(
        config.model, size, rank=algorithm.lora_rank, checkpointing=memory.gradient_checkpointing
    )
    in_forward = together // gpus.num_gpus
    # Activations are counted in bfloat16.
    activations = step["activation_bytes"] * in_forward * weight_bytes // BYTES_BF16
    videos = rollout.num_prompts * rollout.group_size
    recorded = 2 * rollout.window_size * BYTES[rollout.storage] if kind.records_steps else 0
    recorded += 4 * rollout.window_size if kind.keeps_means else 0
    latents = channels * frames * h * w * (4 + recorded) * videos // gpus.num_gpus
    parts = {
        "transformer": transformer,
        "text encoder": encoders,
        "autoencoder": vae,
        "heads": heads,
        # Weight, gradient, Adam's two moments and the average; the old policy too where there is one.
        "adapter and optimiser": trained * 4 * (6 if kind.follows else 5),
        f"activations of {in_forward} video{'s' if in_forward > 1 else ''}": activations,
        "latents of an iteration": latents,
    }
    total = sum(parts.values())
    available = int(gpus.gpu_gib * GIB * (1 - RESERVE))

    flops = forward_flops(config.model, size)
    call = flops["denoiser_call"]
    calls = calls_per_video(config)
    decode = flops["decode_video"]
    # Reading by estimators and rewards that look at pixels decode each for themselves.
    num_decoded = (config.reward.reader == "estimator") + config.reward.send_rgb
    watched = min(config.monitor.num_videos, config.num_eval_prompts) if config.monitor.enabled else 0
    evaluation = config.num_eval_prompts * (calls.sampling + calls.reading) * call
    # Pixels are looked at, and depth and motion are read in both ways.
    evaluation += watched * (2 * decode + call)
    work = {
        "sampling": videos * calls.sampling * call,
        "reading by the heads": videos * calls.reading * call,
        "decoding": videos * num_decoded * decode,
        "training": videos * calls.trained * step["flops"],
        "reference and old policy": videos * calls.compared * call,
        "first frames": rollout.num_prompts * flops["encode_video"] // size[0],
        f"evaluation, every {config.eval_every}th": evaluation / config.eval_every,
    }
    gpu_s = sum(work.values()) / (gpus.tflops * 1e12 * gpus.num_gpus)
    payload = rollout_bytes(size, rgb=config.reward.send_rgb)
    scoring_s = videos * gpus.scoring_s / gpus.num_scorers
    return {
        "model": config.model,
        "algorithm": algorithm.name,
        "video": list(size),
        "videos_per_iteration": videos,
        "memory_gib": {name: value / GIB for name, value in parts.items()},
        "total_gib": total / GIB,
        "gpu_gib": gpus.gpu_gib,
        "available_gib": available / GIB,
        "fits": total <= available,
        "tflop": {name: value / 1e12 for name, value in work.items()},
        "gpu_s": gpu_s,
        "num_gpus": gpus.num_gpus,
        "payload_mib": {"rollout": payload / 2**20, "iteration": videos * payload / 2**20},
        "scoring_s": scoring_s,
        # The last batch is scored while those before it are differentiated.
        "reward_wait_s": max(0.0, scoring_s - gpu_s),
    }


def rollout_bytes(size: tuple[int, int, int], *, rgb: bool) -> int:
    """Bytes of a rollout's arrays on the wire: depth and motion in float16, masks, and RGB if sent."""
    frames, height, width = size
    pixels = height * width
    return pixels * (2 * frames + 2 * 3 * (frames - 1) + 1 + (3 * frames if rgb else 0))


def text(result: dict[str, Any]) -> str:
    """The verdict and what it stands on, for people."""
    frames, height, width = result["video"]
    lines = [
        f"{result['model']}, {result['algorithm']}: {result['videos_per_iteration']} videos of {frames} x "
        f"{height} x {width} an iteration on {result['num_gpus']} GPUs",
        "",
        "memory of one GPU, GiB",
        *(f"  {name:28s} {value:9.3f}" for name, value in result["memory_gib"].items()),
        f"  {'total':28s} {result['total_gib']:9.3f}",
        "",
        "work of an iteration, TFLOP",
        *(f"  {name:28s} {value:12,.4g}" for name, value in result["tflop"].items()),
        f"  {'time, s':28s} {result['gpu_s']:12,.4g}   at the assumed hardware.tflops",
        "",
        f"payload: {result['payload_mib']['rollout']:.3g} MiB a rollout, "
        f"{result['payload_mib']['iteration']:.4g} MiB an iteration",
        f"scoring: {result['scoring_s']:.3g} s an iteration at the assumed hardware.scoring_s; of it "
        f"{result['reward_wait_s']:.3g} s beyond the GPU's work",
        "",
    ]
    verdict = "fits" if result["fits"] else "does not fit"
    lines.append(
        f"{verdict}: {result['total_gib']:.2f} GiB of {result['available_gib']:.1f} "
        f"({result['gpu_gib']:g} less {100 * RESERVE:.0f} % for what is not counted)"
    )
    if not result["fits"]:
        lines.append(
            "less memory: --memory.gradient-checkpointing, --memory.offload, --memory.dtype bfloat16, "
            "fewer videos in one forward (--rollout.prompts-per-batch, more GPUs), or fewer frames"
        )
    return "\n".join(lines)
