"""What a dry run counts, where it can be checked by hand."""

import functools
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from phys4d.models.lora import add_lora, store_base
from phys4d.models.registry import FULL, TINY, load_model, tiny_model
from phys4d.reward.wire import rollout_to_proto
from phys4d.runtime import config as configs
from phys4d.training import Ema
from phys4d.types import Camera, Rollout, SceneSpec
from policy.config import (
    AlgorithmConfig,
    HardwareConfig,
    MemoryConfig,
    RewardConfig,
    RolloutConfig,
    TrainConfig,
)
from policy.dry_run import dry_run, reward_wait_s, rollout_bytes, scoring_of, text
from policy.rewards import Rewards
from policy.scoring import needs_all

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/scale.md").read_text(encoding="utf-8")
"""The page with the worked example."""
SCALE = " ".join(PAGE.split())
COMMANDS = [
    words[words.index("policy.train") + 1 :]
    for line in PAGE.splitlines()
    if " -m policy.train" in line and "`" not in line
    for words in [shlex.split(line, comments=True)]
]
"""Flags of the page's commands."""
GIB = 2**30
SIZE = (9, 48, 64)
FUNCTION = "statistics:fmean"


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


@functools.cache
def published(*flags: str) -> dict:
    return dry_run(loaded(*flags))


def loaded(*flags: str) -> TrainConfig:
    return configs.load_preset(
        TrainConfig, ROOT / "policy/presets/train", default="tiny-wan", args=list(flags)
    )[0]


def preset(name: str, *flags: str) -> dict:
    return published("--preset", name, "--dry-run", *flags)


@pytest.mark.parametrize(
    "name", [*TINY, "wan2.2-5b", *(pytest.param(n, marks=pytest.mark.slow) for n in FULL if n != "wan2.2-5b")]
)
def test_every_preset_fits_its_gpus_and_says_what_it_takes(name: str) -> None:
    result = preset(name)
    lines = {" ".join(line.split()[:-1]): line.split()[-1] for line in text(result).splitlines() if line}
    activations = next(part for part in result["memory_gib"] if part.startswith("activations of "))
    parts = ("transformer", "heads", "LoRA weights and gradients", "optimiser and averages", activations)
    on_host = ("text encoder", "autoencoder")
    assert all(float(lines[part]) > 0 for part in (*parts, "latents of an iteration", "total"))
    assert all((float(lines[part]) == 0) == (name in FULL) for part in on_host), (
        "where encoders are offloaded"
    )
    in_all = sum(float(lines[part]) for part in (*parts, *on_host, "latents of an iteration"))
    assert float(lines["total"]) == pytest.approx(in_all, rel=1e-3)
    every = 20 if name in FULL else 5
    work = ("sampling", "reading by the heads", "training", "reference and old policy", "first frames")
    for part in (*work, f"evaluation, every {every}th"):
        assert float(lines[part].replace(",", "")) > 0
    assert (float(lines["decoding"]) == 0) == (name in FULL), "of tiny ones a reward looks at pixels"
    printed = text(result)
    assert f"payload: {result['payload_mib']['rollout']:.3g} MiB a rollout, " in printed
    assert result["payload_mib"]["iteration"] == 64 * result["payload_mib"]["rollout"] > 0
    assert f"scoring: {result['scoring_s']:.3g} s an iteration, " in printed and result["scoring_s"] > 0
    assert printed.splitlines()[-1].startswith("fits: ")


def test_the_worked_example_fits_its_gpus_with_the_figures_of_the_page() -> None:
    result = preset("wan2.2-5b")
    assert (result["num_gpus"], result["gpu_gib"]) == (8, 80.0)
    assert result["fits"] and 5 < result["total_gib"] < result["available_gib"]
    assert text(result).splitlines()[-1].startswith("fits: ")
    assert all(value > 0 for name, value in result["tflop"].items() if name != "decoding")
    for figure in worked_example(result, preset("wan2.2-5b", "--hardware.video", "121", "704", "1280")):
        assert figure in SCALE, f"docs/scale.md lacks {figure!r}"
    assert result["reward_wait_s"] == 0
    assert "so that the GPUs wait for none of it" in SCALE
    ddpo = preset("wan2.2-5b", "--algorithm.name", "ddpo")
    assert ddpo["reward_wait_s"] == pytest.approx(1.0)
    assert "waits for the last batch, 1 s." in SCALE
    float8 = preset("wan2.2-5b", "--memory.base-storage", "float8")["memory_gib"]["transformer"]
    assert f"With `--memory.base-storage float8` the base takes {float8:.2f} GiB" in SCALE


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
        f"| LoRA of all targets, rank 32, and its gradient | {gib['LoRA weights and gradients']:.2f} | | "
        f"training, 2 steps, checkpointed | {tflop('training')} |",
        f"| Adam's moments and the average | {gib['optimiser and averages']:.2f} | | "
        f"reference for the KL | {tflop('reference and old policy')} |",
        f"| activations of 1 video, checkpointed | {gib['activations of 1 video']:.2f} | | "
        f"evaluation, its share of every 20th | {tflop('evaluation, every 20th')} |",
        f"| latents of an iteration | {gib['latents of an iteration']:.2f} | | "
        f"**time at 8 x 400 TFLOP/s** | **{result['gpu_s']:.0f} s** |",
        f"| **total, of {result['available_gib']:.1f}** | **{result['total_gib']:.1f}** | | "
        f"scoring, {result['scored_at_once']} rollouts at once at 1 s | {result['scoring_s']:.0f} s |",
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


@pytest.mark.slow
@pytest.mark.parametrize("flags", COMMANDS, ids=" ".join)
def test_the_commands_of_the_page_are_answered(flags: list[str]) -> None:
    if "--dry-run" in flags:
        assert text(published(*flags)).splitlines()[-1].startswith("fits: ")
    else:
        loaded(*flags)


def test_the_page_has_commands() -> None:
    assert sum("--dry-run" in flags for flags in COMMANDS) >= 3


@pytest.mark.parametrize("name", FULL)
def test_fast_mode_saves_no_full_preset_anything_as_the_page_says(name: str) -> None:
    """No GPU holds two siblings."""
    config = loaded("--preset", name)
    rollout = config.rollout
    assert rollout.shared_prefix
    assert rollout.prompts_per_batch * rollout.group_size == config.hardware.num_gpus == 8
    assert "With one video per GPU, as in all these presets, it saves nothing" in SCALE


@pytest.mark.parametrize("model_name", TINY)
@pytest.mark.parametrize("storage", ["same", "float8"])
def test_weights_take_what_a_loaded_model_takes(model_name: str, storage: Any, tmp_path: Path) -> None:
    """Some layers are kept in float32, and float8 is of layers with an adapter only."""
    tiny_model(model_name, ["meta"]).save(tmp_path)
    model = load_model(tmp_path, dtype="bfloat16")
    trained = add_lora(model.transformer, "policy", rank=16, targets=model.lora_targets)
    store_base(model.transformer, storage)
    frozen = sum(p.nbytes for p in model.transformer.parameters() if not p.requires_grad)
    memory = MemoryConfig(dtype="bfloat16", base_storage=storage)
    gib = counted(model=model_name, memory=memory)["memory_gib"]
    assert gib["transformer"] * GIB == frozen

    ema, optimiser = Ema(trained, 0.9), torch.optim.AdamW(trained)
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    moments = [s[name].nbytes for s in optimiser.state.values() for name in ("exp_avg", "exp_avg_sq")]
    averages = [average.nbytes for average in ema.average]
    assert gib["optimiser and averages"] * GIB == sum(moments) + sum(averages)
    assert gib["LoRA weights and gradients"] * GIB == 2 * sum(p.nbytes for p in trained)


def test_an_old_policy_is_one_more_average() -> None:
    plain, old = (
        counted(algorithm=AlgorithmConfig(name=name))["memory_gib"] for name in ("grpo", "diffusion_nft")
    )
    assert old["optimiser and averages"] == pytest.approx(4 / 3 * plain["optimiser and averages"])
    assert old["LoRA weights and gradients"] == plain["LoRA weights and gradients"]


def test_half_precision_of_either_kind_is_counted() -> None:
    whole, half = (counted(memory=MemoryConfig(dtype=d))["memory_gib"] for d in ("float32", "float16"))
    assert half["text encoder"] == whole["text encoder"] / 2


def test_functions_decode_every_video_as_in_a_run() -> None:
    functions, sent = RewardConfig(sources={FUNCTION: 1.0}), RewardConfig(send_rgb=True)
    with Rewards(functions, "") as rewards:
        assert rewards.needs_rgb
    without, with_function, with_rgb = (counted(reward=r) for r in (RewardConfig(), functions, sent))
    decoded = with_function["tflop"]["decoding"]
    assert without["tflop"]["decoding"] == 0 < decoded == with_rgb["tflop"]["decoding"]
    evaluation = "evaluation, every 5th"
    # 32 held-out videos are decoded, and 8 watched ones once more.
    more = with_function["tflop"][evaluation] - without["tflop"][evaluation]
    assert more == pytest.approx(decoded / 64 * (32 + 8) / 5)
    assert with_function["payload_mib"]["iteration"] == with_function["scoring_s"] == 0
    assert with_function["reward_wait_s"] == 0
    assert "functions of reward.sources run beside it" in text(with_function)
    assert "functions" not in text(without)


def scored(sources: dict[str, float], **hardware: Any):
    hardware = {"num_gpus": 1, "num_scorers": 16} | hardware
    return scoring_of(
        TrainConfig(reward=RewardConfig(sources=sources), hardware=HardwareConfig(**hardware)), SIZE
    )


def test_each_reward_on_a_service_is_sent_every_rollout_and_services_score_beside_each_other() -> None:
    one = scored({"a": 1.0})
    apart = scored({"a": 1.0, "b@other:9000": 1.0, FUNCTION: 1.0})
    assert (one.num_sent, one.num_functions, apart.num_sent, apart.num_functions) == (1, 0, 2, 1)
    assert apart.batch_s == one.batch_s == 1.0
    together = scored({"a": 1.0, "b": 1.0, "c@other:9000": 1.0})
    assert together.num_sent == 3
    assert together.batch_s == 2.0, "16 rollouts for either of two rewards on 16 scorers"
    sources = {"a": 1.0, "b@other:9000": 1.0}
    single, double = (counted(reward=RewardConfig(sources=s)) for s in ({"a": 1.0}, sources))
    payload = double["payload_mib"]
    assert payload["rollout"] == single["payload_mib"]["rollout"]
    assert payload["iteration"] == 2 * single["payload_mib"]["iteration"]
    assert "a rollout x 2 rewards on services, " in text(double)


def test_no_more_rollouts_are_scored_at_once_than_are_sent() -> None:
    """One batch at a time, 16 rollouts here, whatever scorers there are."""
    for num_scorers, at_once, batch_s in ((4, 4, 4.0), (12, 12, 2.0), (16, 16, 1.0), (1000, 16, 1.0)):
        load = scored({"a": 1.0}, num_scorers=num_scorers)
        assert (load.at_once, load.batch_s) == (at_once, batch_s)
    # Rollouts above 8 MiB go one in a call, and each GPU's client has two calls under way.
    for num_gpus, at_once in ((1, 2), (2, 4), (8, 16), (16, 16)):
        config = TrainConfig(hardware=HardwareConfig(num_gpus=num_gpus))
        assert scoring_of(config, (49, 480, 832)).at_once == at_once
    result = counted(hardware=HardwareConfig(num_gpus=1, num_scorers=1000, scoring_s=0.25))
    assert result["scoring_s"] == 4 * 0.25, "four batches"


def test_rewards_that_are_compared_beyond_a_group_are_all_waited_for() -> None:
    ddpo = AlgorithmConfig(name="ddpo", updates_per_iteration=1)
    whole, groups = (TrainConfig(algorithm=a) for a in (ddpo, AlgorithmConfig(updates_per_iteration=1)))
    # Four batches are sampled by 4 s; the last is scored at 4.5 s, while the first three are differentiated.
    times = {"sampling_s": 1.0, "scoring_s": 0.5, "training_s": 1.0}
    assert reward_wait_s(groups, **times) == 0
    assert reward_wait_s(whole, **times) == 0.5
    # Rewards come at 4, 7, 10 and 13 s; each batch is differentiated in 1 s.
    times = {"sampling_s": 1.0, "scoring_s": 3.0, "training_s": 1.0}
    assert reward_wait_s(groups, **times) == 2 + 2 + 2
    assert reward_wait_s(whole, **times) == 9
    one, two = (
        RewardConfig(sources=s, aggregation="normalize_then_sum") for s in ({"a": 1.0}, {"a": 1.0, "b": 1.0})
    )
    assert not needs_all(TrainConfig(reward=one)), "one reward is its own sum"
    assert needs_all(TrainConfig(reward=two))
    # The first of two updates is of batches 0 and 2, the second of 1 and 3.
    assert reward_wait_s(TrainConfig(), **times) == 5 + 1


def test_one_step_off_policy_rewards_have_an_update_and_a_sampling_to_come_in() -> None:
    config = TrainConfig(
        algorithm=AlgorithmConfig(name="ddpo", updates_per_iteration=1),
        rollout=RolloutConfig(one_step_off_policy=True),
    )
    on_policy = replace(config, rollout=RolloutConfig())
    # An iteration is 4 s of sampling and 4 s of training: 8 s of scoring just fit.
    for scoring_s, before, after in ((0.5, 0.5, 0), (2.0, 5.0, 0), (3.0, 9.0, 4.0)):
        times = {"sampling_s": 1.0, "scoring_s": scoring_s, "training_s": 1.0}
        assert reward_wait_s(on_policy, **times) == before
        assert reward_wait_s(config, **times) == after
    memory, older = (counted(rollout=c.rollout, algorithm=c.algorithm) for c in (on_policy, config))
    memory, older = memory["memory_gib"], older["memory_gib"]
    assert older["latents of two iterations"] == 2 * memory["latents of an iteration"]
    assert older["optimiser and averages"] == 4 / 3 * memory["optimiser and averages"]


def test_the_wait_of_a_dry_run_is_that_of_its_own_times() -> None:
    hardware = HardwareConfig(num_gpus=1, num_scorers=16, tflops=1e9)
    result = counted(hardware=hardware)
    assert result["scoring_s"] == 4.0
    assert result["reward_wait_s"] == pytest.approx(4.0, rel=1e-3), (
        "GPUs that take no time wait for all of it"
    )
    assert "the GPUs wait for 4 s of it" in text(result)
    slow = {"hardware": HardwareConfig(num_gpus=1, num_scorers=16, tflops=0.01)}
    assert counted(**slow)["reward_wait_s"] == 0
    assert counted(**slow, algorithm=AlgorithmConfig(name="ddpo"))["reward_wait_s"] == pytest.approx(1.0)
