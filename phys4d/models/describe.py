"""What a preset's model is, without its weights: `python -m phys4d.models.describe wan2.2-5b`."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from phys4d.models.registry import FULL, TINY, check_preset, meta_model, published
from phys4d.runtime.errors import run_main

if TYPE_CHECKING:
    from phys4d.models.backbone import Backbone

GIB = 2**30
TINY_VIDEO = {"num_frames": 9, "height": 64, "width": 64}


def describe(
    preset: str, *, frames: int | None, height: int | None, width: int | None, rank: int, cost: bool
) -> dict[str, Any]:
    """Classes, parameter counts, strides, heads, LoRA and memory of a preset; with `cost` FLOPs too.

    Raises:
        UserError: unknown preset; names the nearest.
        ValueError: a video size that does not fit the strides; names the nearest.
    """
    from phys4d.models.cost import BYTES_BF16, forward_flops, num_parameters, training_step
    from phys4d.models.heads import GeometryHeads
    from phys4d.models.lora import add_lora

    check_preset(preset)
    config = published(preset) if preset in FULL else {"video": TINY_VIDEO}
    video = {name: config["video"][name] for name in ("num_frames", "height", "width")}
    for name, value in (("num_frames", frames), ("height", height), ("width", width)):
        if value is not None:
            video[name] = value
    size = (video["num_frames"], video["height"], video["width"])
    model = meta_model(preset)
    latents = model.latent_shape(*size)
    parts = {"transformer": model.transformer, "vae": model.vae, "text_encoder": model.text_encoder}
    counts = {name: num_parameters(part) for name, part in parts.items()}
    adapter = sum(
        p.numel() for p in add_lora(model.transformer, "lora", rank=rank, targets=model.lora_targets)
    )
    heads = GeometryHeads(**model.head_sizes)
    tokens = latents[1] * (latents[2] // model.patch_size) * (latents[3] // model.patch_size)
    result = {
        "preset": preset,
        "backbone": model.name,
        "source": config.get("source", "trained from scratch by `make base`"),
        "classes": {name: type(part).__name__ for name, part in parts.items()},
        "transformer_parameters": counts["transformer"],
        "vae_parameters": counts["vae"],
        "text_encoder_parameters": counts["text_encoder"],
        "noising": repr(model.noising),
        "samplers": "flow_sde dance_sde cps ode" if model.noising.family == "flow" else "ddim_v",
        "shift": _shift(model, size),
        "strides": {
            "temporal": model.latent_format.temporal_stride,
            "spatial": model.latent_format.spatial_stride,
            "pixels_per_token": model.latent_format.spatial_stride * model.patch_size,
        },
        "video": video,
        "latents": list(latents),
        "frames_of_latents": [len(span) for span in model.frames_of_latents(latents[1])],
        "video_tokens": tokens,
        "text_tokens": model.text_length,
        "heads": {
            "taps": list(model.taps),
            **model.head_sizes,
            "parameters": num_parameters(heads),
        },
        "lora": {"targets": list(model.lora_targets), "rank": rank, "parameters": adapter},
        "memory_gib": {
            "transformer_bf16": counts["transformer"] * BYTES_BF16 / GIB,
            "text_encoder_bf16": counts["text_encoder"] * BYTES_BF16 / GIB,
            "vae_float32": counts["vae"] * 4 / GIB,
            # Weights, gradients and Adam's two moments in float32.
            "lora_training_float32": adapter * 16 / GIB,
        },
    }
    if cost:
        plain = training_step(preset, size, rank=rank, checkpointing=False)
        checkpointed = training_step(preset, size, rank=rank, checkpointing=True)
        result["tflop"] = {
            **{name: flops / 1e12 for name, flops in forward_flops(preset, size).items()},
            "lora_step": plain["flops"] / 1e12,
            "lora_step_checkpointed": checkpointed["flops"] / 1e12,
        }
        result["memory_gib"] |= {
            "activations": plain["activation_bytes"] / GIB,
            "activations_checkpointed": checkpointed["activation_bytes"] / GIB,
        }
    return result


def _shift(model: Backbone, size: tuple[int, int, int]) -> float | None:
    """The published shift of the noise levels; None where none is published for this size."""
    try:
        return model.published_shift(*size)
    except ValueError:
        return None


def text(result: dict[str, Any], indent: str = "") -> str:
    """One line per value."""
    lines = []
    for name, value in result.items():
        if isinstance(value, dict):
            lines += [f"{indent}{name}", text(value, indent + "  ")]
        else:
            shown = (
                f"{value:,}"
                if isinstance(value, int)
                else f"{value:.4g}"
                if isinstance(value, float)
                else value
            )
            lines.append(
                f"{indent}{name:26s} {' '.join(map(str, shown)) if isinstance(shown, list) else shown}"
            )
    return "\n".join(lines)


def table(results: list[dict[str, Any]]) -> str:
    """The rows of docs/models.md: memory and FLOPs of each model at its own video size."""
    head = [
        "preset",
        "transformer parameters",
        "video",
        "tokens",
        "denoiser call, TFLOP",
        "decode, TFLOP",
        "LoRA step, TFLOP",
        "with checkpointing",
        "weights bf16, GiB",
        "activations, GiB",
        "with checkpointing",
    ]
    rows = []
    for r in results:
        video, memory, tflop = r["video"], r["memory_gib"], r["tflop"]
        rows.append(
            [
                f"`{r['preset']}`",
                f"{r['transformer_parameters']:,}",
                f"{video['num_frames']} x {video['height']} x {video['width']}",
                f"{r['video_tokens']:,}",
                *(
                    f"{tflop[name]:.3g}"
                    for name in ("denoiser_call", "decode_video", "lora_step", "lora_step_checkpointed")
                ),
                *(
                    f"{memory[name]:.3g}"
                    for name in ("transformer_bf16", "activations", "activations_checkpointed")
                ),
            ]
        )
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m phys4d.models.describe", description=__doc__)
    parser.add_argument("preset", nargs="+", help=f"one of: {', '.join([*TINY, *FULL])}")
    parser.add_argument("--json", action="store_true", help="print JSON, a list for several presets")
    parser.add_argument("--table", action="store_true", help="print a Markdown table of costs")
    parser.add_argument("--cost", action="store_true", help="count FLOPs and activations too (seconds)")
    parser.add_argument("--frames", type=int, help="video frames, else the preset's")
    parser.add_argument("--height", type=int, help="pixels")
    parser.add_argument("--width", type=int, help="pixels")
    parser.add_argument("--rank", type=int, default=32, help="LoRA rank")
    args = parser.parse_args()
    results = [
        describe(
            preset,
            frames=args.frames,
            height=args.height,
            width=args.width,
            rank=args.rank,
            cost=args.cost or args.table,
        )
        for preset in args.preset
    ]
    if args.table:
        print(table(results))
    elif args.json:
        print(json.dumps(results[0] if len(results) == 1 else results, indent=2))
    else:
        print("\n\n".join(text(result) for result in results))


if __name__ == "__main__":
    run_main(main)
