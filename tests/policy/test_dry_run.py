"""What a dry run counts, where it can be checked by hand."""

from pathlib import Path

import numpy as np
import pytest

from phys4d.reward.wire import rollout_to_proto
from phys4d.runtime import config as configs
from phys4d.types import Camera, Rollout, SceneSpec
from policy.config import AlgorithmConfig, HardwareConfig, RolloutConfig, TrainConfig
from policy.dry_run import dry_run, rollout_bytes, text

ROOT = Path(__file__).parents[2]
SCALE = " ".join((ROOT / "docs/scale.md").read_text(encoding="utf-8").split())
"""The page with the worked example, lines joined."""
GIB = 2**30


def counted(**changes) -> dict:
    settings = {"hardware": HardwareConfig(num_gpus=1, gpu_gib=16)} | changes
    return dry_run(TrainConfig(**settings))


def test_the_payload_is_what_the_wire_carries() -> None:
    """Up to the few hundred bytes of scene, camera and names."""
    size = (5, 24, 32)
    for rgb in (False, True):
        rollout = Rollout(
            sample_id="s",
            scene=SceneSpec(category="rigid", family="drop", seed=0, parameters={}, num_frames=5, fps=12.0),
            camera=Camera(fx=9.0, fy=9.0, cx=16.0, cy=12.0, width=32, height=24, camera_from_world=np.eye(4)),
            depth=np.ones(size, np.float32),
            motion=np.zeros((4, *size[1:], 3), np.float32),
            object_ids=np.ones(size[1:], np.uint8),
            rgb=np.zeros((*size, 3), np.uint8) if rgb else None,
        )
        sent = rollout_to_proto(rollout).ByteSize()
        assert 0 < sent - rollout_bytes(size, rgb=rgb) < 1000


def test_parts_add_up_and_scale_as_they_must() -> None:
    small = counted(rollout=RolloutConfig(num_prompts=2, prompts_per_batch=1, group_size=4))
    large = counted(rollout=RolloutConfig(num_prompts=4, prompts_per_batch=2, group_size=4))
    assert small["total_gib"] == pytest.approx(sum(small["memory_gib"].values()))
    assert small["videos_per_iteration"] == 8 and large["videos_per_iteration"] == 16
    # Latents of 16 x 9 x 8 x 8 floats: the finished video, and x and x' of 2 steps, of 8 videos.
    assert small["memory_gib"]["latents of an iteration"] * GIB == 8 * 5 * 4 * 16 * 9 * 8 * 8
    assert large["tflop"]["sampling"] == pytest.approx(2 * small["tflop"]["sampling"])
    activations = [r["memory_gib"][f"activations of {n} videos"] for r, n in ((small, 4), (large, 8))]
    assert activations[1] == pytest.approx(2 * activations[0])
    assert small["memory_gib"]["transformer"] == large["memory_gib"]["transformer"]
    nft = counted(
        rollout=RolloutConfig(num_prompts=2, prompts_per_batch=1, group_size=4),
        algorithm=AlgorithmConfig(name="diffusion_nft"),
    )
    assert nft["memory_gib"]["latents of an iteration"] * GIB == 8 * 4 * 16 * 9 * 8 * 8


def published(preset: str, *flags: str) -> dict:
    folder = ROOT / "policy/presets/train"
    return dry_run(configs.load_preset(TrainConfig, folder, default=preset, args=list(flags))[0])


def test_the_worked_example_fits_its_gpus_with_the_figures_of_the_page() -> None:
    result = published("wan2.2-5b")
    assert (result["num_gpus"], result["gpu_gib"]) == (8, 80.0)
    assert result["fits"] and 5 < result["total_gib"] < result["available_gib"]
    assert text(result).splitlines()[-1].startswith("fits: ")
    assert all(value > 0 for name, value in result["tflop"].items() if name != "decoding")
    for figure in worked_example(result, published("wan2.2-5b", "--hardware.video", "121", "704", "1280")):
        assert figure in SCALE, f"docs/scale.md lacks {figure!r}"


def worked_example(result: dict, as_published: dict) -> list[str]:
    """The figures of docs/scale.md, as a dry run has them."""
    gib, work = result["memory_gib"], result["tflop"]
    assert gib["text encoder"] == gib["autoencoder"] == 0, "on the host"

    def tflop(name: str) -> str:
        return f"{round(work[name], -1):,.0f}"

    percent = 100 * work["sampling"] / sum(work.values())
    more = (result["available_gib"] - result["total_gib"]) / gib["activations of 1 video"]
    assert 20 <= more + 1 < 22, "room for twenty videos in a forward"
    payload = result["payload_mib"]
    return [
        f"| transformer, bfloat16 | {gib['transformer']:.2f} | | sampling, 16 steps | {tflop('sampling')} |",
        "| text encoder and autoencoder | on the host | | "
        f"reading by the heads | {tflop('reading by the heads')} |",
        f"| adapter of all targets, rank 32, and optimiser | {gib['adapter and optimiser']:.2f} | | "
        f"training, 2 steps, checkpointed | {tflop('training')} |",
        f"| activations of 1 video, checkpointed | {gib['activations of 1 video']:.2f} | | "
        f"reference for the KL | {tflop('reference and old policy')} |",
        f"| latents of an iteration | {gib['latents of an iteration']:.2f} | | "
        f"evaluation, its share of every 20th | {tflop('evaluation, every 20th')} |",
        f"| **total, of {result['available_gib']:.1f}** | **{result['total_gib']:.1f}** | | "
        f"**time at 8 x 400 TFLOP/s** | **{result['gpu_s']:.0f} s** |",
        f"| scoring by 16 scorers at 1 s | {result['scoring_s']:.0f} s |",
        f"{result['videos_per_iteration']} videos of 49 x 480 x 832 an iteration",
        f"Sampling is {percent:.0f} % of the work",
        f"size is {payload['rollout']:.0f} MiB of depth and motion in float16 and an iteration "
        f"{payload['iteration'] / 1024:.1f} GiB",
        f"published with: {as_published['total_gib']:.1f} GiB, {as_published['gpu_s']:.0f} s an iteration "
        f"and {as_published['payload_mib']['rollout']:.0f} MiB a rollout.",
    ]


def test_the_verdict_is_that_of_the_sum_and_says_what_to_do() -> None:
    result = counted()
    assert result["fits"] and text(result).splitlines()[-1].startswith("fits: ")
    tight = counted(hardware=HardwareConfig(num_gpus=1, gpu_gib=result["total_gib"]))
    assert not tight["fits"], "a part of the memory is kept back"
    assert "less memory: --memory.gradient-checkpointing" in text(tight)


def test_what_cannot_be_shared_or_is_unknown_is_refused() -> None:
    with pytest.raises(ValueError, match="16 videos of a batch cannot be shared by 7 GPUs"):
        counted(hardware=HardwareConfig(num_gpus=7))
    with pytest.raises(ValueError, match="unknown preset 'tiny-wam'; did you mean 'tiny-wan'"):
        counted(model="tiny-wam")
