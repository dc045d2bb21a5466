"""What a dry run counts, where it can be checked by hand."""

import numpy as np
import pytest

from phys4d.reward.wire import rollout_to_proto
from phys4d.types import Camera, Rollout, SceneSpec
from policy.config import AlgorithmConfig, HardwareConfig, RolloutConfig, TrainConfig
from policy.dry_run import dry_run, rollout_bytes, text

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
