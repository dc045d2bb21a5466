"""One iteration of stage 3 beside plain loops, on the tiny Wan and a real service, with the same threads.

A plain loop samples all videos, then sends them and waits, and then trains: nothing overlaps. One trains a
window of as many steps as ours, so that the ratio is what overlap is worth; the other samples with noise at
every step but the last and trains all of those, as Flow-GRPO does. What all agree in is how many videos had a
score and how many groups were trained.
"""

import atexit
import itertools
import random
import shutil
import subprocess
import sys
import tempfile
import time
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.children import memory
from benchmarks.registry import Work, compare
from phys4d.runtime.threads import limit_threads

PROCESS = """
from benchmarks.bench_policy import make_trainer, plain_iteration
from phys4d.runtime.threads import limit_threads
limit_threads(2)
trainer = make_trainer()
"""

if TYPE_CHECKING:
    from policy.trainer import Trainer


def start_service(folder: Path, scoring_s: float = 0.0) -> str:
    """A plain reward service that ends with this process; its endpoint."""
    ready = folder / "ready"
    command = [sys.executable, "-m", "reward_service.plain", "--port", "0", "--ready-file", str(ready)]
    if scoring_s:
        probe = f"benchmarks.probe_reward:Probe(seconds={scoring_s})"
        command += ["--no-scene-chamfer", "--rewards", probe]
    with (folder / "service.log").open("wb") as log:
        child = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    atexit.register(child.kill)
    deadline = time.monotonic() + 120
    while not ready.exists():
        if child.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the reward service did not start: {(folder / 'service.log').read_text()}")
        time.sleep(0.05)
    return ready.read_text().strip()


@cache
def make_trainer(*, scoring_s: float = 0.0, one_step_off_policy: bool = False) -> "Trainer":
    """The loop with an untrained tiny Wan of the usual size, 2 groups of 4 videos.

    Args:
        scoring_s: what a rollout's reward takes, of one that costs nothing but time; 0 is `scene_chamfer`.
    """
    import torch

    from benchmarks.distinct_rewards import DistinctRewards
    from phys4d.data import open_dataset
    from phys4d.models.heads import GeometryHeads
    from phys4d.models.lora import add_lora
    from phys4d.models.wan import tiny_wan
    from phys4d.training import Ema
    from policy.config import RolloutConfig, TrainConfig
    from policy.prompts import load_prompts
    from policy.ranks import Ranks
    from policy.reading import Reader
    from policy.rollout import sampling_rule
    from policy.trainer import OldPolicy, Trainer

    folder = Path(tempfile.mkdtemp(prefix="phys4d-bench-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    flags = "--split train --num-samples 4 --workers 1 --look plain --width 64 --height 48 --families drop"
    command = [sys.executable, "-m", "phys4d.scenes.render", "--out", str(folder / "data"), *flags.split()]
    subprocess.run(command, check=True, capture_output=True)
    dataset = open_dataset(folder / "data", "train")
    rollout = RolloutConfig(
        num_prompts=2, prompts_per_batch=1, group_size=4, one_step_off_policy=one_step_off_policy
    )
    config = TrainConfig(rollout=rollout, num_iterations=10**9)
    torch.manual_seed(0)
    model = tiny_wan([dataset[i].caption for i in range(len(dataset))]).eval()
    torch.nn.init.normal_(model.transformer.proj_out.weight, std=0.02)
    heads = GeometryHeads(**model.head_sizes).eval()
    parameters = add_lora(model.transformer, "policy", rank=16, targets=model.lora_targets)
    return Trainer(
        config=config,
        model=model,
        reader=Reader(model, heads, None),
        rewards=DistinctRewards(config.reward, start_service(folder, scoring_s)),
        dataset=dataset,
        held_out=load_prompts(dataset, [0]),
        rule=sampling_rule(
            model, rollout.num_steps, shift=rollout.shift, sampler="flow_sde", noise_level=0.7
        ),
        parameters=parameters,
        optimiser=torch.optim.AdamW(parameters, 1e-4),
        ema=Ema(parameters, 0.9),
        ranks=Ranks.alone(),
        old=OldPolicy(parameters, 0.0) if one_step_off_policy else None,
    )


def plain_iteration(trainer: "Trainer", iteration: int, *, all_steps: bool) -> tuple[int, int]:
    """Sample, wait, score, update; the numbers of videos with a score and of trained groups."""
    from policy.advantages import compute_advantages
    from policy.prompts import encode_prompts, load_prompts, num_latent_frames
    from policy.rewards import values
    from policy.rollout import sample
    from policy.update import update_policy
    from policy.windows import window

    config = trainer.config.rollout
    rng = random.Random(iteration)
    batches, sent = [], []
    for b in range(config.num_prompts):
        prompts = load_prompts(trainer.dataset, [b]) * config.group_size
        conditioning = encode_prompts(trainer.cache, prompts)
        seeds = [1000 * iteration + 100 * b + k for k in range(config.group_size)]
        rollouts = sample(
            trainer.model,
            conditioning,
            trainer.rule,
            num_latent_frames=num_latent_frames(trainer.model, prompts),
            window=range(config.num_steps - 1) if all_steps else window(config, iteration, rng),
            seeds=seeds,
        )
        ids = [f"plain-{seed}" for seed in seeds]
        sent += trainer.reader.rollouts(rollouts.latents_BCThw, conditioning, prompts, ids)
        batches.append(rollouts)
    rewards = values(trainer.rewards.score(sent))
    num_trained = 0
    for b, rollouts in enumerate(batches):
        mine = rewards[b * config.group_size : (b + 1) * config.group_size]
        advantages = compute_advantages(mine, [0] * config.group_size)
        num_trained += advantages.num_groups - advantages.num_dropped_groups
        update_policy(
            trainer.model,
            trainer.rule,
            [(rollouts, advantages)],
            trainer.parameters,
            trainer.optimiser,
            trainer.config.algorithm,
            on_policy=b == 0,
        )
    return int(rewards.isfinite().all(1).sum()), num_trained


def against_plain_loop(*, all_steps: bool) -> tuple[Work, Work]:
    """Both with the threads of `policy.train`."""
    from policy.config import TrainConfig

    limit_threads(TrainConfig().num_threads)
    trainer = make_trainer()
    rollout = trainer.config.rollout
    num_videos = rollout.num_prompts * rollout.group_size
    iterations = itertools.count(1)

    def ours() -> object:
        scalars = trainer.iterate(next(iterations))
        num_scored = round(num_videos * (1 - scalars["failed_fraction"]))
        return num_scored, rollout.num_prompts - scalars["dropped_groups"]

    def theirs() -> object:
        return plain_iteration(trainer, next(iterations), all_steps=all_steps)

    return ours, theirs


@compare("RL iteration, 2 groups of 4 videos", peer="the same, one after the other: sample, score, train")
def against_the_same_window() -> tuple[Work, Work]:
    """What it is worth that scoring goes on beside sampling and training."""
    return against_plain_loop(all_steps=False)


@compare(
    "RL iteration, 2 groups of 4 videos, window of 2",
    peer="plain loop of the Flow-GRPO kind, which trains all 7 noisy steps; same models and service",
)
def against_all_steps() -> tuple[Work, Work]:
    """Overlap and the smaller window together."""
    return against_plain_loop(all_steps=True)


@compare(
    "RL iteration one step off-policy, rewards that take .2 s a video",
    peer="the same on-policy, which waits for them",
)
def one_step_off_policy() -> tuple[Work, Work]:
    """What it is worth that an iteration's rewards are computed during the update before it."""
    from policy.config import TrainConfig

    limit_threads(TrainConfig().num_threads)

    def loop(*, ahead: bool) -> Work:
        trainer = make_trainer(scoring_s=0.2, one_step_off_policy=ahead)
        rollout, iterations = trainer.config.rollout, itertools.count()

        def work() -> object:
            scalars = trainer.iterate(next(iterations))
            num_videos = rollout.num_prompts * rollout.group_size
            return round(num_videos * (1 - scalars["failed_fraction"])), scalars["dropped_groups"]

        return work

    return loop(ahead=True), loop(ahead=False)


@compare(
    "RL iteration, 2 groups of 4 videos, memory",
    peer="plain loop of the Flow-GRPO kind, which keeps all 7 noisy steps; same models and service",
    unit="bytes",
)
def memory_against_all_steps() -> tuple[Work, Work]:
    """By how much the peak of a process grows in an iteration, above models and data; the first warms up."""
    return (
        partial(memory, PROCESS, "trainer.iterate(1)"),
        partial(memory, PROCESS, "plain_iteration(trainer, 1, all_steps=True)"),
    )
