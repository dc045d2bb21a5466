"""Best-of-N at the compute of stage 3: `python -m policy.best_of_n --preset tiny-wan`.

Stage 2 makes N videos for every held-out prompt and the reward that stage 3 is trained on picks one. Training
has to beat this to be worth its while: `python -m policy.evaluate` measures the picked videos as `best_of_n`
beside the stages.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phys4d.runtime import config as configs
from phys4d.runtime.errors import UserError, run_main
from phys4d.runtime.seeding import derive_seed
from phys4d.runtime.threads import limit_threads
from policy.config import BestOfNConfig, EvaluateConfig, TrainConfig

if TYPE_CHECKING:
    from torch import Tensor

    from policy.prompts import Prompt

FOLDER = "best_of_n"
LATENTS = "latents.safetensors"
BATCH_SIZE = 32


def best_of_n(config: BestOfNConfig) -> Path:
    """Sample candidates, score them, keep the best of each prompt and seed; returns the folder."""
    import torch
    from safetensors.torch import save_file

    from phys4d.data import open_dataset
    from phys4d.models.cache import EncodingCache
    from phys4d.models.lora import add_lora
    from phys4d.runtime.files import atomic_directory
    from phys4d.runtime.progress import progress
    from policy.compute import equal_candidates, step_cost, training_calls
    from policy.prompts import encode_prompts, load_prompts, num_latent_frames
    from policy.reading import Reader
    from policy.rollout import sample, sampling_rule
    from policy.service import reward_client
    from policy.stages import load_stage

    limit_threads(config.num_threads)
    dataset = open_dataset(config.data, config.split)
    if len(dataset) < config.num_scenes:
        raise UserError(
            f"num_scenes is {config.num_scenes}, but {config.data} {config.split} has {len(dataset)}; "
            "lower it or render more"
        )
    prompts = load_prompts(dataset, range(config.num_scenes))
    model, heads = load_stage(config.run, "stage2")
    conditioning = encode_prompts(EncodingCache(model, None), prompts)
    rule = sampling_rule(model, config.num_steps, shift=config.shift)
    num_frames = num_latent_frames(model, prompts)
    num_candidates, calls = config.num_candidates, None
    if num_candidates == 0:
        stage3 = config.run / "stage3" / "config.toml"
        if not stage3.is_file():
            raise UserError(
                f"no {stage3} to read stage 3's compute from; run `make rl-train` or give --num-candidates"
            )
        trained = configs.from_toml(TrainConfig, stage3)
        one = sample(
            model, conditioning.select(slice(0, 1)), rule, num_latent_frames=num_frames, seeds=[0]
        ).latents_BCThw
        # A fresh adapter leaves the model as it is; only its arithmetic is counted.
        add_lora(model.transformer, "count", rank=trained.algorithm.lora_rank, targets=model.lora_targets)
        calls = training_calls(trained, step_cost=step_cost(model, one, conditioning.select(slice(0, 1))))
        num_candidates = equal_candidates(
            calls, num_videos=config.num_scenes * config.num_seeds, num_steps=config.num_steps
        )
        model, heads = load_stage(config.run, "stage2")
    print(
        f"best of {num_candidates} candidates for {config.num_scenes} scenes x {config.num_seeds} seeds"
        + ("" if calls is None else f": stage 3 spent {calls:,.0f} denoiser calls"),
        flush=True,
    )
    reader = Reader(model, heads, None)
    jobs = [
        (s, i, k) for s in range(config.num_seeds) for i in range(len(prompts)) for k in range(num_candidates)
    ]
    best: dict[tuple[int, int], tuple[float, Tensor]] = {}
    num_failed = 0
    with reward_client(config.reward) as client:
        bar = progress(total=len(jobs), desc=f"best of {num_candidates}", unit="video")
        waiting: list[tuple[Any, Any, Any]] = []

        def keep_best() -> None:
            nonlocal num_failed
            future, latents, batch = waiting.pop(0)
            for outcome, video, (s, i, _) in zip(future.result(), latents, batch, strict=True):
                if outcome.score is None:
                    num_failed += 1
                elif (s, i) not in best or outcome.score.value > best[s, i][0]:
                    best[s, i] = outcome.score.value, video.clone()
            bar.update(len(batch))

        for start in range(0, len(jobs), BATCH_SIZE):
            batch = jobs[start : start + BATCH_SIZE]
            members = torch.tensor([i for _, i, _ in batch])
            chosen = conditioning.select(members)
            latents = sample(
                model,
                chosen,
                rule,
                num_latent_frames=num_frames,
                seeds=[candidate_seed(config, s, prompts[i], k) for s, i, k in batch],
            ).latents_BCThw
            ids = [f"best-of-n/{s}/{prompts[i].key}/{k}" for s, i, k in batch]
            sent = reader.rollouts(latents, chosen, [prompts[i] for _, i, _ in batch], ids)
            waiting.append((client.submit(sent), latents, batch))
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


def candidate_seed(config: BestOfNConfig | EvaluateConfig, seed: int, prompt: Prompt, k: int) -> int:
    """Seed of candidate `k`; candidate 0 is the very video that evaluation samples."""
    parts = (config.seed, seed, prompt.key)
    return derive_seed(*parts) if k == 0 else derive_seed(*parts, "candidate", k)


def _made_for(config: BestOfNConfig | EvaluateConfig) -> dict[str, Any]:
    """What the candidates were made for; evaluation must ask for the same."""
    names = ("split", "num_scenes", "num_seeds", "num_steps", "shift", "seed")
    return {"data": str(config.data), **{name: getattr(config, name) for name in names}}


def picked_split(run: Path) -> str:
    """The split whose videos were picked."""
    return json.loads((run / FOLDER / "facts.json").read_text())["split"]


def chosen_latents(config: EvaluateConfig, seed: int, prompts: Sequence[Prompt]) -> Tensor:
    """The picked videos of one seed, one per prompt.

    Raises:
        UserError: they were picked for other scenes, seeds or sampling steps.
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
