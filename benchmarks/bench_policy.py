"""One iteration of stage 3 beside a plain loop of the Flow-GRPO kind, on the tiny Wan and a real service.

The plain loop samples all videos with noise at every step but the last, then sends them and waits, and then
trains every step: no window, nothing overlaps. Both make, score and train the same number of videos of the
same prompts; what they agree in is that number.
"""

import atexit
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.registry import Work, compare

if TYPE_CHECKING:
    from policy.trainer import Trainer

FOLDER = tempfile.TemporaryDirectory(prefix="phys4d-bench-", ignore_cleanup_errors=True)


def start_service(folder: Path) -> str:
    """A plain reward service that ends with this process; its endpoint."""
    ready = folder / "ready"
    command = [sys.executable, "-m", "reward_service.plain", "--port", "0", "--ready-file", str(ready)]
    with (folder / "service.log").open("wb") as log:
        child = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    atexit.register(child.kill)
    deadline = time.monotonic() + 120
    while not ready.exists():
        if child.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the reward service did not start: {(folder / 'service.log').read_text()}")
        time.sleep(0.05)
    return ready.read_text().strip()


def make_trainer(folder: Path) -> "Trainer":
    """The loop with an untrained tiny Wan of the usual size, 2 groups of 4 videos."""
    import torch

    from phys4d.data import open_dataset
    from phys4d.models.heads import GeometryHeads
    from phys4d.models.lora import add_lora
    from phys4d.models.wan import tiny_wan
    from phys4d.training import Ema
    from policy.config import RolloutConfig, TrainConfig
    from policy.prompts import load_prompts
    from policy.ranks import Ranks
    from policy.reading import Reader
    from policy.rewards import Rewards
    from policy.rollout import sampling_rule
    from policy.trainer import Trainer

    flags = "--split train --num-samples 4 --workers 1 --look plain --width 64 --height 48 --families drop"
    command = [sys.executable, "-m", "phys4d.scenes.render", "--out", str(folder / "data"), *flags.split()]
    subprocess.run(command, check=True, capture_output=True)
    dataset = open_dataset(folder / "data", "train")
    config = TrainConfig(rollout=RolloutConfig(num_prompts=2, prompts_per_batch=1, group_size=4))
    torch.manual_seed(0)
    model = tiny_wan([dataset[i].caption for i in range(len(dataset))]).eval()
    torch.nn.init.normal_(model.transformer.proj_out.weight, std=0.02)
    heads = GeometryHeads(**model.head_sizes).eval()
    parameters = add_lora(model.transformer, "policy", rank=16, targets=model.lora_targets)
    rollout = config.rollout
    return Trainer(
        config=config,
        model=model,
        reader=Reader(model, heads, None),
        rewards=Rewards(config.reward, start_service(folder)),
        dataset=dataset,
        held_out=load_prompts(dataset, [0]),
        rule=sampling_rule(
            model, rollout.num_steps, shift=rollout.shift, sampler="flow_sde", noise_level=0.7
        ),
        parameters=parameters,
        optimiser=torch.optim.AdamW(parameters, 1e-4),
        ema=Ema(parameters, 0.9),
        ranks=Ranks.alone(),
    )


def plain_iteration(trainer: "Trainer", iteration: int) -> int:
    """Sample, wait, score, update: every step but the last is stochastic and trained."""
    import torch

    from policy.advantages import compute_advantages
    from policy.prompts import encode_prompts, load_prompts, num_latent_frames
    from policy.rewards import values
    from policy.rollout import sample
    from policy.update import update_policy

    config = trainer.config.rollout
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
            window=range(config.num_steps - 1),
            seeds=seeds,
        )
        ids = [f"plain-{seed}" for seed in seeds]
        sent += trainer.reader.rollouts(rollouts.latents_BCThw, conditioning, prompts, ids)
        batches.append(rollouts)
    rewards = values(trainer.rewards.score(sent))
    for b, rollouts in enumerate(batches):
        mine = rewards[b * config.group_size : (b + 1) * config.group_size]
        # An untrained model earns the same with every video; distinct rewards keep the update's work.
        spread = mine + torch.linspace(0, 1e-3, len(mine), dtype=torch.float64)[:, None]
        advantages = compute_advantages(spread, [0] * config.group_size)
        update_policy(
            trainer.model,
            trainer.rule,
            [(rollouts, advantages)],
            trainer.parameters,
            trainer.optimiser,
            trainer.config.algorithm,
            on_policy=b == 0,
        )
    return len(rewards)


@compare(
    "RL iteration, 2 groups of 4 videos", peer="plain loop of the Flow-GRPO kind, same models and service"
)
def iteration_against_plain_loop() -> tuple[Work, Work]:
    """Window of 2 of 8 steps and overlap, against all steps one after the other."""
    trainer = make_trainer(Path(FOLDER.name))
    count = [0]
    config = trainer.config.rollout
    ours_kept, plain_kept = 2 * config.window_size + 1, 2 * (config.num_steps - 1) + 1
    print(f"latents kept per video until the update: {ours_kept} here, {plain_kept} in the plain loop")

    def ours() -> object:
        count[0] += 1
        trainer.iterate(count[0])
        return config.num_prompts * config.group_size

    def theirs() -> object:
        count[0] += 1
        return plain_iteration(trainer, count[0])

    return ours, theirs
