"""The whole loop of stage 3 in one process, on an untrained tiny Wan, with functions as rewards."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from phys4d.models.heads import GeometryHeads
from phys4d.models.lora import add_lora
from phys4d.models.lora_scope import limit_to_levels
from phys4d.models.wan import tiny_wan
from phys4d.training import Ema
from phys4d.types import Camera, SceneSpec
from policy.algorithms import has_old_policy
from policy.config import AlgorithmConfig, RewardConfig, RolloutConfig, TrainConfig
from policy.prompts import load_prompts
from policy.ranks import Ranks
from policy.reading import Reader
from policy.rewards import Rewards
from policy.rollout import sampling_rule
from policy.train import least_trained_level
from policy.trainer import OldPolicy, Trainer

T, H, W = 5, 32, 32
CAPTIONS = ["a red ball falls from rest", "a blue box slides left at 1.25", "a ball", "a box"]
CONFIG = TrainConfig(
    rollout=RolloutConfig(num_prompts=2, prompts_per_batch=1, group_size=3, num_steps=4, window_end=3),
    algorithm=AlgorithmConfig(lora_rank=2, learning_rate=0.01),
)


def brightness(completions: list[np.ndarray], **_: object) -> list[float]:
    return [float(c[1:].mean()) / 255 for c in completions]


def silent(completions: list[np.ndarray], **_: object) -> list[None]:
    return [None] * len(completions)


calls = [0]


def fickle(completions: list[np.ndarray], **_: object) -> list[float]:
    calls[0] += 1
    return [float(calls[0])] * len(completions)


def dataset() -> Any:
    """Four scenes; what a dataset's samples have that prompts need."""
    rng = np.random.default_rng(0)
    camera = Camera(fx=9.0, fy=9.0, cx=16.0, cy=16.0, width=W, height=H, camera_from_world=np.eye(4))
    scene = SceneSpec(category="rigid", family="drop", seed=0, parameters={}, num_frames=T, fps=12.0)
    ids = np.zeros((T, H, W), np.uint8)
    ids[:, 8:16, 8:16] = 1
    return [
        SimpleNamespace(
            key=f"{i:06d}",
            caption=caption,
            spec=scene,
            camera=camera,
            object_ids=ids,
            rgb=rng.integers(0, 255, (T, H, W, 3), np.uint8),
        )
        for i, caption in enumerate(CAPTIONS)
    ]


def make_trainer(config: TrainConfig = CONFIG, *rewards: str) -> Trainer:
    torch.manual_seed(0)
    model = tiny_wan(CAPTIONS, width=32, num_layers=3).eval()
    torch.nn.init.normal_(model.transformer.proj_out.weight, std=0.2)
    heads = GeometryHeads(**(model.head_sizes | {"channels": 16})).eval()
    parameters = add_lora(model.transformer, "policy", rank=2, targets=model.lora_targets)
    rollout = config.rollout
    sources = {
        reward if ":" in reward else f"{__name__}:{reward}": 1.0 for reward in rewards or ("brightness",)
    }
    rule = sampling_rule(
        model,
        rollout.num_steps,
        shift=rollout.shift,
        sampler=rollout.sampler,
        noise_level=rollout.noise_level,
    )
    limit_to_levels(model.transformer, "policy", least_trained_level(config, rule.schedule))
    return Trainer(
        config=config,
        model=model,
        reader=Reader(model, heads, None),
        rewards=Rewards(RewardConfig(sources=sources), ""),
        dataset=dataset(),
        held_out=load_prompts(dataset(), range(2)),
        rule=rule,
        parameters=parameters,
        optimiser=torch.optim.AdamW(parameters, config.algorithm.learning_rate),
        ema=Ema(parameters, 0.9),
        ranks=Ranks.alone(),
        watcher=Reader(model, heads, None),
        old=OldPolicy(parameters, 0.0) if has_old_policy(config) else None,
    )


def nearness(completions: list[np.ndarray], depths: list[np.ndarray]) -> list[float]:
    return [-float(np.asarray(depth, np.float32).mean()) for depth in depths]


def dimness(completions: list[np.ndarray]) -> list[float]:
    return [1000.0 - value for value in brightness(completions)]
