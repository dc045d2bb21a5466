"""Stage 3: GRPO on a reward service: `python -m policy.train --preset tiny-wan`.

One iteration samples a batch of prompt groups after the other, sends each to the reward service as soon as it
is there and goes on sampling, gathers the outcomes, and updates the policy.
"""

from __future__ import annotations

import dataclasses
import random
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phys4d.runtime import config as configs
from phys4d.runtime.errors import UserError, run_main
from phys4d.runtime.seeding import derive_seed
from phys4d.runtime.threads import limit_threads
from phys4d.types import Failure, Outcome
from policy.config import TrainConfig

if TYPE_CHECKING:
    import torch

    from phys4d.data import Dataset
    from phys4d.models.protocol import VideoModel
    from phys4d.reward.client import RewardClient
    from phys4d.runtime.run import RunFolder
    from phys4d.training import Ema
    from policy.prompts import Prompt
    from policy.reading import Reader
    from policy.rollout import Rollouts, SamplingRule
    from policy.update import UpdateStats

MAY_CHANGE = (
    "num_iterations",
    "eval_every",
    "checkpoint_every",
    "keep_checkpoints",
    "num_threads",
    "reward.endpoint",
    "reward.token_file",
    "reward.ca_file",
    "reward.cert_file",
    "reward.key_file",
)
"""Settings that a resumed run may set anew, since they do not change what is learned."""


@dataclass
class _Trainer:
    """What one run of stage 3 holds."""

    config: TrainConfig
    model: VideoModel
    reader: Reader
    client: RewardClient
    dataset: Dataset
    held_out: Sequence[Prompt]
    rule: SamplingRule
    parameters: list[torch.nn.Parameter]
    optimiser: torch.optim.Optimizer
    ema: Ema
    run: RunFolder

    def iterate(self, iteration: int) -> dict[str, float]:
        """Sample, score and update once; returns what is logged."""
        from policy.update import update_policy

        start = time.monotonic()
        batches, futures = self._sample(iteration)
        sampled = time.monotonic()
        outcomes = [outcome for future in futures for outcome in future.result()]
        waited = time.monotonic()
        self._refuse_failures(outcomes, iteration)
        scored = self._with_advantages(batches, outcomes)
        num_updates = self.config.algorithm.updates_per_iteration
        updates = []
        for u in range(num_updates):
            updates.append(
                update_policy(
                    self.model,
                    self.rule,
                    [scored[i] for i in range(u, len(scored), num_updates)],
                    self.parameters,
                    self.optimiser,
                    self.config.algorithm,
                    on_policy=u == 0,
                )
            )
            if not updates[-1].skipped:
                self.ema.update()
        end = time.monotonic()
        return {
            **_reward_scalars(outcomes, self.config.rollout.group_size),
            **_update_scalars(updates),
            "dropped_groups": float(sum(a.num_dropped_groups for _, a in scored)),
            "sample_s": sampled - start,
            "wait_s": waited - sampled,
            "update_s": end - waited,
            "iteration_s": end - start,
        }

    def _sample(self, iteration: int) -> tuple[list[Rollouts], list[Future[list[Outcome]]]]:
        """Sample all prompt batches, each sent for scoring while the next is sampled."""
        from policy.prompts import encode_prompts, load_prompts, num_latent_frames
        from policy.rollout import sample

        config = self.config.rollout
        rng = random.Random(derive_seed(self.config.seed, "prompts", iteration))
        chosen = rng.sample(range(len(self.dataset)), config.num_prompts)
        batches, futures = [], []
        for b in range(0, config.num_prompts, config.prompts_per_batch):
            prompts = load_prompts(self.dataset, chosen[b : b + config.prompts_per_batch])
            siblings = [prompt for prompt in prompts for _ in range(config.group_size)]
            first = rng.randint(0, config.window_end - config.window_size)
            videos = range(b * config.group_size, b * config.group_size + len(siblings))
            rollouts = sample(
                self.model,
                encode_prompts(self.model, prompts).repeat(config.group_size),
                self.rule,
                num_frames=num_latent_frames(self.model, siblings),
                window=range(first, first + config.window_size),
                seeds=[derive_seed(self.config.seed, "noise", iteration, video) for video in videos],
            )
            ids = [
                f"iteration-{iteration}/prompt-{v // config.group_size}/sibling-{v % config.group_size}"
                for v in videos
            ]
            sent = self.reader.rollouts(rollouts.latents_BCThw, rollouts.conditioning, siblings, ids)
            futures.append(self.client.submit(sent))
            batches.append(rollouts)
        return batches, futures

    def _with_advantages(
        self, batches: list[Rollouts], outcomes: list[Outcome]
    ) -> list[tuple[Rollouts, Any]]:
        """Advantages within each group, batch by batch."""
        from policy.advantages import compute_advantages, rewards_or_nan

        config, algorithm = self.config.rollout, self.config.algorithm
        size = config.prompts_per_batch * config.group_size
        scored = []
        for b, rollouts in enumerate(batches):
            values = [o.score.value if o.score else None for o in outcomes[b * size : (b + 1) * size]]
            groups = [video // config.group_size for video in range(size)]
            advantages = compute_advantages(
                rewards_or_nan(values), groups, scale=algorithm.std_scope, clip=algorithm.advantage_clip
            )
            scored.append((rollouts, advantages))
        return scored

    def _refuse_failures(self, outcomes: list[Outcome], iteration: int) -> None:
        failures = [o.result for o in outcomes if isinstance(o.result, Failure)]
        if len(failures) > self.config.reward.max_failed_fraction * len(outcomes):
            reasons = Counter(f"{f.error_class} {f.reason}" for f in failures).most_common(3)
            listed = ", ".join(f"{count}x {reason}" for reason, count in reasons)
            raise UserError(
                f"iteration {iteration}: {len(failures)} of {len(outcomes)} rollouts have no score "
                f"({listed}; first: {failures[0].message}); mend the reward service, then run again to resume"
            )

    def evaluate(self) -> dict[str, float]:
        """Mean reward of the averaged policy on held-out prompts, deterministic sampler, fixed noise."""
        from policy.prompts import encode_prompts, num_latent_frames
        from policy.rollout import sample

        conditioning = encode_prompts(self.model, self.held_out)
        seeds = [derive_seed("eval", i) for i in range(len(self.held_out))]
        with self.ema.applied():
            videos = sample(
                self.model,
                conditioning,
                self.rule,
                num_frames=num_latent_frames(self.model, self.held_out),
                seeds=seeds,
            )
        ids = [f"eval/{prompt.key}" for prompt in self.held_out]
        outcomes = self.client.score(
            self.reader.rollouts(videos.latents_BCThw, conditioning, self.held_out, ids)
        )
        scores = [o.score for o in outcomes if o.score is not None]
        if not scores:
            return {"val_failed_fraction": 1.0}
        return {
            "val_reward": sum(s.value for s in scores) / len(scores),
            "val_failed_fraction": 1 - len(scores) / len(outcomes),
            **{f"val_component_{k}": v for k, v in _mean_components([s.components for s in scores]).items()},
        }


def _mean_components(components: Sequence[Any]) -> dict[str, float]:
    names = sorted(set.intersection(*(set(c) for c in components)))
    return {name: sum(c[name] for c in components) / len(components) for name in names}


def _reward_scalars(outcomes: list[Outcome], group_size: int) -> dict[str, float]:
    import torch

    scores = [o.score for o in outcomes if o.score is not None]
    scalars = {"failed_fraction": 1 - len(scores) / len(outcomes)}
    if scores:
        values = torch.tensor([o.score.value if o.score else torch.nan for o in outcomes]).view(
            -1, group_size
        )
        spread = values.std(dim=1)
        scalars["reward_mean"] = sum(s.value for s in scores) / len(scores)
        scalars["reward_group_std"] = (
            float(spread[spread.isfinite()].mean()) if spread.isfinite().any() else 0.0
        )
        scalars |= {
            f"reward_component_{k}": v for k, v in _mean_components([s.components for s in scores]).items()
        }
    return scalars


def _update_scalars(updates: Sequence[UpdateStats]) -> dict[str, float]:
    mean = {
        field.name: sum(float(getattr(u, field.name)) for u in updates) / len(updates)
        for field in dataclasses.fields(updates[0])
    }
    return {
        **mean,
        "ratio_max": max(u.ratio_max for u in updates),
        "skipped_updates": sum(u.skipped for u in updates),
    }


def train(config: TrainConfig) -> Path:
    """Run stage 3, from the last checkpoint if there is one; returns the stage's folder."""
    import torch

    from phys4d.data import open_dataset
    from phys4d.models.estimators import load_depth_estimator
    from phys4d.models.lora import add_lora, save_lora
    from phys4d.runtime.checkpoint import latest, new_checkpoint, step_of
    from phys4d.runtime.progress import progress
    from phys4d.runtime.run import RunFolder
    from phys4d.runtime.seeding import seed_everything
    from phys4d.training import Ema
    from policy.prompts import load_prompts
    from policy.reading import Reader
    from policy.rollout import sampling_rule
    from policy.service import reward_client
    from policy.stages import POLICY, load_stage

    limit_threads(config.num_threads)
    seed_everything(config.seed)
    dataset, held_out = open_dataset(config.data, "train"), open_dataset(config.data, "val")
    model, heads = load_stage(config.run, "stage2")
    parameters = add_lora(
        model.transformer, POLICY, rank=config.algorithm.lora_rank, targets=model.lora_targets
    )
    estimator = (
        load_depth_estimator(config.run / "estimator") if config.reward.reader == "estimator" else None
    )
    rollout = config.rollout
    rule = sampling_rule(
        model,
        rollout.num_steps,
        shift=rollout.shift,
        sampler=rollout.sampler,
        noise_level=rollout.noise_level,
    )
    print(rule.schedule.describe(), flush=True)
    stage = config.run / "stage3"
    with (
        RunFolder.open(stage, configs.to_toml(config), resume=True, may_change=MAY_CHANGE) as run,
        reward_client(config.reward) as client,
    ):
        trainer = _Trainer(
            config=config,
            model=model,
            reader=Reader(model, heads if estimator is None else None, estimator),
            client=client,
            dataset=dataset,
            held_out=load_prompts(held_out, range(min(config.num_eval_prompts, len(held_out)))),
            rule=rule,
            parameters=parameters,
            optimiser=torch.optim.AdamW(
                parameters, config.algorithm.learning_rate, betas=(0.9, 0.999), weight_decay=1e-4
            ),
            ema=Ema(parameters, config.algorithm.ema_decay),
            run=run,
        )
        checkpoint = latest(stage / "checkpoints")
        start = 0
        if checkpoint is not None:
            start = step_of(checkpoint)
            _restore(trainer, checkpoint)
            print(f"resuming after iteration {start} from {checkpoint}", flush=True)
        run.rewind(start - 1 if start else -1)
        bar = progress(
            range(start, config.num_iterations),
            total=config.num_iterations - start,
            desc="stage 3",
            unit="iteration",
        )
        for iteration in bar:
            scalars = trainer.evaluate() if iteration % config.eval_every == 0 else {}
            scalars |= trainer.iterate(iteration)
            run.log(iteration, **scalars)
            if "reward_mean" in scalars:
                bar.set_postfix_str(f"reward {scalars['reward_mean']:.3f}", refresh=False)
            done = iteration + 1
            if done % config.checkpoint_every == 0 or done == config.num_iterations:
                with new_checkpoint(stage / "checkpoints", done, keep=config.keep_checkpoints) as folder:
                    _save(trainer, folder)
        run.log(config.num_iterations, **trainer.evaluate())
        with trainer.ema.applied():
            save_lora(model.transformer, POLICY, stage / "lora")
    return stage


def _save(trainer: _Trainer, folder: Path) -> None:
    import torch

    torch.save(
        {
            "parameters": [p.detach() for p in trainer.parameters],
            "average": trainer.ema.average,
            "num_ema_updates": trainer.ema.num_updates,
            "optimiser": trainer.optimiser.state_dict(),
        },
        folder / "trainer.pt",
    )


def _restore(trainer: _Trainer, folder: Path) -> None:
    import torch

    state = torch.load(folder / "trainer.pt", weights_only=True)
    with torch.no_grad():
        for parameter, value in zip(trainer.parameters, state["parameters"], strict=True):
            parameter.copy_(value)
        for average, value in zip(trainer.ema.average, state["average"], strict=True):
            average.copy_(value)
    trainer.ema.num_updates = state["num_ema_updates"]
    trainer.optimiser.load_state_dict(state["optimiser"])


def main() -> None:
    """Command line."""
    config, _ = configs.load_preset(
        TrainConfig, Path(__file__).parent / "presets" / "train", default="tiny-wan"
    )
    train(config)


if __name__ == "__main__":
    run_main(main)
