"""Best-of-N at the compute of stage 3: `python -m policy.best_of_n --preset tiny-wan`.

Stage 2 makes N videos for every held-out prompt and the reward that stage 3 is trained on picks one. Training
has to beat this to be worth its while: `python -m policy.evaluate` measures the picked videos as `best_of_n`
beside the stages.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phys4d.runtime import config as configs
from phys4d.runtime.errors import UserError, run_main
from phys4d.runtime.seeding import derive_seed
from phys4d.runtime.threads import limit_threads
from policy.config import TrainConfig
from policy.inference_config import BestOfNConfig, EvaluateConfig

if TYPE_CHECKING:
    from torch import Tensor

    from policy.advantages import Aggregation
    from policy.prompts import Prompt

FOLDER = "best_of_n"
LATENTS = "latents.safetensors"
STAGE3 = Path("stage3") / "config.toml"


def best_of_n(config: BestOfNConfig) -> Path:
    """Sample candidates, score them, keep the best of each prompt and seed; returns the folder."""
    import torch
    from safetensors.torch import save_file

    from phys4d.data import open_dataset
    from phys4d.models.cache import EncodingCache
    from phys4d.models.estimators import load_depth_estimator
    from phys4d.runtime.files import atomic_directory
    from phys4d.runtime.progress import progress
    from policy.placement import place
    from policy.prompts import encode_prompts, load_prompts, num_latent_frames
    from policy.reading import Reader
    from policy.rewards import Pending, Rewards, values
    from policy.rollout import sample, sampling_rule
    from policy.service import reward_service
    from policy.stages import load_stage

    limit_threads(config.num_threads)
    dataset = open_dataset(config.data, config.split)
    if len(dataset) < config.num_scenes:
        raise UserError(
            f"num_scenes is {config.num_scenes}, but {config.data} {config.split} has {len(dataset)}; "
            "lower it or render more"
        )
    trained = _trained(config.run)
    reward = config.reward if trained is None else trained.reward.through(config.reward)
    prompts = load_prompts(dataset, range(config.num_scenes))
    num_candidates, calls = config.num_candidates, None
    if num_candidates == 0:
        if trained is None:
            raise UserError(
                f"no {config.run / STAGE3} to read stage 3's compute from; run `make rl-train` or give "
                "--num-candidates"
            )
        num_candidates, calls = _equal_compute(config, trained, prompts)
    print(
        f"best of {num_candidates} candidates for {config.num_scenes} scenes x {config.num_seeds} seeds"
        + ("" if calls is None else f": stage 3 spent {calls:,.0f} denoiser calls"),
        flush=True,
    )
    model, heads = load_stage(config.run, "stage2", config.memory)
    place(model, heads, config.memory)
    conditioning = encode_prompts(EncodingCache(model, config.memory.cache), prompts)
    rule = sampling_rule(model, config.num_steps, shift=config.shift)
    by_heads = reward.reader == "heads"
    estimator = None if by_heads else load_depth_estimator(config.run / "estimator")
    reader = Reader(model, heads if by_heads else None, estimator, config.batch_size)
    jobs = [
        (s, i, k) for s in range(config.num_seeds) for i in range(len(prompts)) for k in range(num_candidates)
    ]
    best: dict[tuple[int, int], tuple[float, Tensor]] = {}
    scored: list[tuple[tuple[int, int], Tensor, Tensor]] = []
    num_failed = 0
    with reward_service(reward) as endpoint, Rewards(reward, endpoint) as rewards:
        weights = torch.tensor(rewards.weights, dtype=torch.float64)
        bar = progress(total=len(jobs), desc=f"best of {num_candidates}", unit="video")
        waiting: list[tuple[Pending, Tensor, list[tuple[int, int, int]]]] = []

        def keep_best() -> None:
            """Take in the oldest batch; candidates of a prompt follow each other, so whole prompts go."""
            nonlocal num_failed
            pending, latents, batch = waiting.pop(0)
            rows = values(pending.result())
            num_failed += int(rows.isnan().any(dim=1).sum())
            scored.extend(((s, i), r, v) for (s, i, _), r, v in zip(batch, rows, latents, strict=True))
            while len(scored) >= num_candidates:
                group = [scored.pop(0) for _ in range(num_candidates)]
                table = torch.stack([row for _, row, _ in group])
                chosen = pick(table, weights, reward.aggregation)
                if chosen is not None:
                    best[group[0][0]] = float(table[chosen] @ weights), group[chosen][2].clone()
            bar.update(len(batch))

        for start in range(0, len(jobs), config.batch_size):
            batch = jobs[start : start + config.batch_size]
            chosen = conditioning.select(torch.tensor([i for _, i, _ in batch]))
            latents = sample(
                model,
                chosen,
                rule,
                num_latent_frames=num_latent_frames(model, prompts),
                seeds=[candidate_seed(config, s, prompts[i], k) for s, i, k in batch],
            ).latents_BCThw
            ids = [f"best-of-n/{s}/{prompts[i].key}/{k}" for s, i, k in batch]
            of = [prompts[i] for _, i, _ in batch]
            sent = reader.rollouts(latents, chosen, of, ids, rgb=rewards.needs_rgb)
            waiting.append((rewards.submit(sent), latents.cpu(), batch))
            # Scoring of one batch overlaps with sampling of the next.
            if len(waiting) > 1:
                keep_best()
        while waiting:
            keep_best()
        bar.close()
    lost = [f"{prompts[i].key} seed {s}" for s, i, _ in jobs if (s, i) not in best]
    if lost:
        raise UserError(f"no candidate of {lost[0]} has a score; mend the reward service and run again")
    with atomic_directory(config.run / FOLDER, replace=True) as folder:
        stacked = {
            f"seed-{s}": torch.stack([best[s, i][1] for i in range(len(prompts))])
            for s in range(config.num_seeds)
        }
        save_file(stacked, folder / LATENTS)
        facts = {
            **_made_for(config),
            "num_candidates": num_candidates,
            "training_calls": calls,
            "num_failed": num_failed,
            "mean_reward": sum(value for value, _ in best.values()) / len(best),
        }
        (folder / "facts.json").write_text(json.dumps(facts, indent=1))
    print(f"mean reward of the chosen: {facts['mean_reward']:.4f}; {num_failed} candidates had no score")
    return config.run / FOLDER


def _trained(run: Path) -> TrainConfig | None:
    """What stage 3 was trained with, if it was."""
    path = run / STAGE3
    return configs.from_toml(TrainConfig, path) if path.is_file() else None


def _equal_compute(
    config: BestOfNConfig, trained: TrainConfig, prompts: Sequence[Prompt]
) -> tuple[int, float]:
    """N at the compute of stage 3, and that compute in denoiser calls.

    Raises:
        UserError: stage 3 has not ended, so nobody knows what it will have spent.
    """
    from phys4d.models.cache import EncodingCache
    from phys4d.models.lora import add_lora
    from policy.compute import calls_per_video, equal_candidates, step_cost, training_calls
    from policy.placement import place
    from policy.prompts import encode_prompts, num_latent_frames
    from policy.rollout import sample, sampling_rule
    from policy.stages import is_finished, load_stage

    if not is_finished(config.run, "stage3"):
        raise UserError(
            f"stage 3 of {config.run} has not ended, so its compute is not known; finish it with "
            "`make rl-train` or give --num-candidates"
        )
    model, _ = load_stage(config.run, "stage2", config.memory)
    place(model, None, config.memory)
    one = encode_prompts(EncodingCache(model, config.memory.cache), prompts[:1])
    rule = sampling_rule(model, 1, shift=config.shift)
    latents = sample(model, one, rule, num_latent_frames=num_latent_frames(model, prompts), seeds=[0])
    # A fresh adapter leaves the model as it is; only its arithmetic is counted.
    add_lora(model.transformer, "count", rank=trained.algorithm.lora_rank, targets=model.lora_targets)
    calls = training_calls(trained, step_cost=step_cost(model, latents.latents_BCThw, one))
    number = equal_candidates(
        calls,
        num_videos=config.num_scenes * config.num_seeds,
        calls_per_candidate=config.num_steps + calls_per_video(trained).reading,
    )
    return number, calls


def pick(rewards: Tensor, weights: Tensor, aggregation: Aggregation) -> int | None:
    """The best of a prompt's candidates, (candidates, rewards), as training compares siblings; None if none
    has all its rewards."""
    import torch

    from policy.advantages import compute_advantages

    valid = ~rewards.isnan().any(dim=1)
    if not valid.any():
        return None
    compared = rewards @ weights
    if aggregation == "normalize_then_sum":
        compared = compute_advantages(
            rewards, [0] * len(rewards), weights=weights.tolist(), aggregation=aggregation, clip=math.inf
        ).values
    return int(torch.where(valid, compared, -math.inf).argmax())


def candidate_seed(config: BestOfNConfig | EvaluateConfig, seed: int, prompt: Prompt, k: int) -> int:
    """Seed of candidate `k`; candidate 0 is the very video that evaluation samples."""
    parts = (config.seed, seed, prompt.key)
    return derive_seed(*parts) if k == 0 else derive_seed(*parts, "candidate", k)


def _made_for(config: BestOfNConfig | EvaluateConfig) -> dict[str, Any]:
    """What the candidates were made for; evaluation must ask for the same."""
    names = ("split", "num_scenes", "num_seeds", "num_steps", "shift", "seed")
    weights = (config.run / "stage2" / "lora" / "pytorch_lora_weights.safetensors").read_bytes()
    return {
        "data": str(config.data),
        **{name: getattr(config, name) for name in names},
        "stage2": hashlib.sha256(weights).hexdigest()[:16],
        "stage3": _compute_and_reward(config.run),
    }


def _compute_and_reward(run: Path) -> str:
    """Digest of what the number of candidates and their order depend on in stage 3; empty without one."""
    trained = _trained(run)
    if trained is None:
        return ""
    reward = {name: getattr(trained.reward, name) for name in ("name", "reader", "sources", "aggregation")}
    known = [trained.num_iterations, asdict(trained.rollout), asdict(trained.algorithm), reward]
    return hashlib.sha256(json.dumps(known, sort_keys=True, default=str).encode()).hexdigest()[:16]


def picked_split(run: Path) -> str:
    """The split whose videos were picked."""
    return json.loads((run / FOLDER / "facts.json").read_text())["split"]


def chosen_latents(config: EvaluateConfig, seed: int, prompts: Sequence[Prompt]) -> Tensor:
    """The picked videos of one seed, one per prompt.

    Raises:
        UserError: they were picked for other scenes, seeds or sampling steps, of another stage 2, or at the
            compute or by the reward of another stage 3.
    """
    from safetensors.torch import load_file

    folder = config.run / FOLDER
    facts = json.loads((folder / "facts.json").read_text())
    asked = _made_for(config)
    differ = [f"{k} {facts.get(k)} -> {v}" for k, v in asked.items() if facts.get(k) != v]
    if differ:
        raise UserError(
            f"{folder} was made with other settings ({', '.join(differ)}); run policy.best_of_n with those "
            "of the evaluation, or remove the folder"
        )
    latents = load_file(folder / LATENTS)[f"seed-{seed}"]
    assert len(latents) == len(prompts), "as many scenes as settings say"
    return latents


def main() -> None:
    """Command line."""
    config, _ = configs.load_preset(
        BestOfNConfig, Path(__file__).parent / "presets" / "best_of_n", default="tiny-wan"
    )
    best_of_n(config)


if __name__ == "__main__":
    run_main(main)
