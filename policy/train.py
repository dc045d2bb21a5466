"""Stage 3: reinforcement learning against a reward service: `python -m policy.train --preset tiny-wan`.

One iteration samples a batch of prompt groups after the other, sends each to the rewards as soon as it is
there and goes on sampling, and updates the policy with each batch as its rewards come in. With
`accelerate launch -m policy.train ...` the videos of a batch are shared by several processes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phys4d.runtime import config as configs
from phys4d.runtime.errors import UserError, run_main
from phys4d.runtime.origin import check_same, digests
from phys4d.runtime.threads import limit_threads
from policy.config import HardwareConfig, MonitorConfig, TrainConfig

if TYPE_CHECKING:
    from policy.ranks import Ranks
    from policy.schedules import Schedule
    from policy.trainer import Trainer

ORIGIN_NAME = "origin.json"
MAY_CHANGE = (
    "num_iterations",
    "eval_every",
    "eval_batch_size",
    "checkpoint_every",
    "keep_checkpoints",
    "reward.endpoint",
    "reward.num_replicas",
    "reward.timeout_s",
    "reward.max_attempts",
    "reward.token_file",
    "reward.token_files",
    "reward.ca_file",
    "reward.ca_files",
    "reward.cert_file",
    "reward.key_file",
    "reward.outage_s",
    "skip_preflight",
    "dry_run",
    "model",
    *(f"hardware.{name}" for name in HardwareConfig.__dataclass_fields__),
    *(f"monitor.{name}" for name in MonitorConfig.__dataclass_fields__ if name != "num_videos"),
)
"""Settings that a resumed run may set anew, since they do not change what is learned."""


def train(config: TrainConfig) -> Path:
    """Run stage 3, from the last checkpoint if there is one; returns the stage's folder.

    Raises:
        SystemExit: a signal asked to stop; what was learnt is saved.
    """
    import contextlib

    from phys4d.models.lora import save_lora
    from phys4d.runtime.checkpoint import new_checkpoint
    from phys4d.runtime.progress import progress
    from phys4d.runtime.run import RunFolder
    from phys4d.runtime.signals import stop_requested, stopped_by
    from phys4d.training import check_finished
    from policy.monitors import Monitors
    from policy.ranks import Ranks
    from policy.rewards import Rewards
    from policy.service import reward_service
    from policy.stages import POLICY
    from policy.trainer import Trainer

    limit_threads(config.num_threads)
    ranks = Ranks.launched()
    check_finished(config.run / "stage2", "sft.train")
    ranks.share(config.rollout.prompts_per_batch * config.rollout.group_size)
    stage = config.run / "stage3"
    _resume_point(config, stage)
    parts = load_parts(config, ranks)
    with contextlib.ExitStack() as stack:
        asked = stack.enter_context(stop_requested())
        run = None
        if ranks.is_first:
            run = stack.enter_context(
                RunFolder.open(stage, configs.to_toml(config), resume=True, may_change=MAY_CHANGE)
            )
        # Read again, now that no other run writes here.
        checkpoint, start = ranks.tell(_resume_point(config, stage) if ranks.is_first else None)
        endpoint = ""
        if ranks.is_first:
            endpoint = stack.enter_context(reward_service(config.reward, stage / "service.log"))
        endpoint = ranks.tell(endpoint)
        rewards = stack.enter_context(Rewards(config.reward, endpoint))
        trainer = Trainer(config=config, rewards=rewards, ranks=ranks, **parts)
        versions = rewards.versions()
        if run is not None:
            told = ", ".join(f"{w:g} x {v}" for w, v in zip(rewards.weights, versions.values(), strict=True))
            print(
                f"trained on {told}" + (f" ({config.reward.aggregation})" if len(versions) > 1 else ""),
                flush=True,
            )
        origin = _origin(config) | versions
        if checkpoint is not None:
            check_rewards(checkpoint, versions)
            trainer.restore(checkpoint)
            if run is not None:
                print(f"resuming after iteration {start} from {checkpoint}", flush=True)
        if run is not None:
            run.rewind(start - 1 if start else -1)
        _look_first(trainer, stage)
        monitors = Monitors(config.monitor, stage, has_held_out_reward=trainer.has_held_out_reward)

        def measure(iteration: int) -> dict[str, float]:
            """Held-out rewards and monitors; all ranks stop where the first one raises an alarm."""
            videos = trainer.held_out_videos()
            scalars = trainer.evaluate(videos)
            fault = None
            seen = trainer.watch(videos) if config.monitor.enabled else {}
            if ranks.is_first and config.monitor.enabled:
                scalars |= {f"monitor_{name}": value for name, value in seen.items()}
                now = seen | {"val_failed_fraction": scalars["val_failed_fraction"]}
                if (reward := trainer.trained_reward(scalars)) is not None:
                    now["val_reward"] = reward
                if trainer.kl_joint_nats is not None:
                    now["kl_joint_nats"] = trainer.kl_joint_nats
                try:
                    monitors.check(iteration, now, picture=lambda path: trainer.write_picture(path, videos))
                except UserError as error:
                    fault = error
                    if run is not None:
                        run.log(iteration, **scalars)
            fault = ranks.tell(fault)
            if fault is not None:
                raise fault
            return scalars

        bar = range(start, config.num_iterations)
        if run is not None:
            total = config.num_iterations - start
            bar = progress(bar, total=total, desc="stage 3", unit="iteration")
        for iteration in bar:
            scalars = {}
            if iteration % config.eval_every == 0:
                scalars |= measure(iteration)
            scalars |= trainer.iterate(iteration)
            done = iteration + 1
            stopped = int(ranks.largest(asked()))
            if run is not None:
                run.log(iteration, **scalars)
                shown = scalars.get(f"reward_{rewards.labels[0]}", scalars.get("reward_mean"))
                if shown is not None:
                    bar.set_postfix_str(f"reward {shown:.3f}", refresh=False)
                if done % config.checkpoint_every == 0 or done == config.num_iterations or stopped:
                    with new_checkpoint(stage / "checkpoints", done, keep=config.keep_checkpoints) as folder:
                        trainer.save(folder)
                        (folder / ORIGIN_NAME).write_text(json.dumps(origin))
            if stopped:
                raise stopped_by(stopped, f"after iteration {done} of stage 3")
        scalars = measure(config.num_iterations)
        if run is not None:
            run.log(config.num_iterations, **scalars)
            with trainer.ema.applied():
                save_lora(trainer.model.transformer, POLICY, stage / "lora")
        ranks.wait()
    return stage


def _origin(config: TrainConfig) -> dict[str, str]:
    """What a run goes out from: digests of the models that make and read its videos and of its data."""
    from phys4d.data.format import INDEX_NAME

    sources = {
        "base model": config.run / "base" / "model",
        "adapter": config.run / "stage2" / "lora",
        "heads": config.run / "stage2" / "heads.safetensors",
        "data": config.data / "train" / INDEX_NAME,
        "held-out data": config.data / "val" / INDEX_NAME,
    }
    if (config.run / "estimator").is_dir():
        sources["estimator"] = config.run / "estimator"
    return digests(sources)


def _resume_point(config: TrainConfig, stage: Path) -> tuple[Path | None, int]:
    """The last checkpoint and the number of iterations that it has behind it."""
    from phys4d.runtime.checkpoint import latest, step_of

    checkpoint = latest(stage / "checkpoints")
    start = 0 if checkpoint is None else step_of(checkpoint)
    if start > config.num_iterations:
        raise UserError(
            f"num_iterations is {config.num_iterations}, but {checkpoint} already has {start}; "
            "raise it or name another run"
        )
    if checkpoint is not None:
        check_same(checkpoint, _origin_of(checkpoint), _origin(config), stage)
    return checkpoint, start


def check_rewards(checkpoint: Path, now: dict[str, str]) -> None:
    """Refuse to go on with another reward than before; an endpoint may change, what it offers may not."""
    before = _origin_of(checkpoint)
    changed = [
        f"{name} was {before.get(name, 'not noted')} and is {version}"
        for name, version in now.items()
        if before.get(name) != version
    ]
    if changed:
        raise UserError(
            f"{checkpoint} was trained on other rewards ({', '.join(changed)}), whose scores do not compare; "
            "serve those, or train anew in another run"
        )


def _origin_of(checkpoint: Path) -> dict[str, str]:
    path = checkpoint / ORIGIN_NAME
    return json.loads(path.read_text()) if path.is_file() else {}


def _look_first(trainer: Trainer, stage: Path) -> None:
    """Pre-flight on the first rank; the others hear of it."""
    from policy.preflight import note_skipped, preflight

    fault = None
    if trainer.ranks.is_first:
        if trainer.config.skip_preflight:
            note_skipped(stage)
        else:
            try:
                preflight(trainer, stage)
            except UserError as error:
                fault = error
    fault = trainer.ranks.tell(fault)
    if fault is not None:
        raise fault


def least_trained_level(config: TrainConfig, schedule: Schedule) -> float:
    """The noise level from which the policy's adapter works; 0 is all levels."""
    from policy.windows import last_position

    if config.algorithm.lora_levels == "all":
        return 0.0
    return schedule.model_level(last_position(config.rollout))


def load_parts(config: TrainConfig, ranks: Ranks) -> dict[str, Any]:
    """Model, readers, data and optimiser of a run, as `Trainer` takes them."""
    import torch

    from phys4d.data import open_dataset
    from phys4d.models.estimators import load_depth_estimator
    from phys4d.models.lora import add_lora, store_base
    from phys4d.models.lora_scope import limit_to_levels
    from phys4d.runtime.seeding import seed_everything
    from phys4d.training import Ema
    from policy.algorithms import has_old_policy
    from policy.placement import place
    from policy.prompts import load_prompts
    from policy.reading import Reader
    from policy.rollout import sampling_rule
    from policy.stages import POLICY, load_stage
    from policy.trainer import OldPolicy

    seed_everything(config.seed)
    dataset, held_out = open_dataset(config.data, "train"), open_dataset(config.data, "val")
    rollout, algorithm = config.rollout, config.algorithm
    if len(dataset) < rollout.num_prompts:
        raise UserError(
            f"rollout.num_prompts is {rollout.num_prompts}, but {config.data} train has {len(dataset)}; "
            "lower it or render more"
        )
    memory = config.memory
    num_eval_prompts = min(config.num_eval_prompts, len(held_out))
    if num_eval_prompts < ranks.num:
        raise UserError(
            f"{num_eval_prompts} held-out prompts are too few for {ranks.num} processes; raise "
            "num_eval_prompts or render more"
        )
    model, heads = load_stage(config.run, "stage2", memory)
    parameters = add_lora(model.transformer, POLICY, rank=algorithm.lora_rank, targets=model.lora_targets)
    store_base(model.transformer, memory.base_storage)
    assert heads is not None, "stage 2 has heads"
    place(model, heads, memory, ranks.device)
    # The one that training does not read with watches over the other.
    has_estimator = (config.run / "estimator" / "config.json").is_file()
    estimator = load_depth_estimator(config.run / "estimator") if has_estimator else None
    by_heads, by_estimator = (
        Reader(model, *reads, config.eval_batch_size) for reads in ((heads, None), (None, estimator))
    )
    trains_on_heads = config.reward.reader == "heads"
    if not trains_on_heads and estimator is None:
        load_depth_estimator(config.run / "estimator")
    rule = sampling_rule(
        model,
        rollout.num_steps,
        shift=rollout.shift,
        sampler=rollout.sampler,
        noise_level=rollout.noise_level,
        storage_dtype=torch.bfloat16 if rollout.storage == "bfloat16" else None,
    )
    limit_to_levels(model.transformer, POLICY, least_trained_level(config, rule.schedule))
    if ranks.is_first:
        print(rule.schedule.describe(), flush=True)
    return {
        "model": model,
        "reader": by_heads if trains_on_heads else by_estimator,
        "watcher": (by_estimator if estimator else None) if trains_on_heads else by_heads,
        "dataset": dataset,
        "held_out": load_prompts(held_out, range(num_eval_prompts)),
        "rule": rule,
        "parameters": parameters,
        "optimiser": torch.optim.AdamW(
            parameters, algorithm.learning_rate, betas=(0.9, 0.999), weight_decay=1e-4
        ),
        "ema": Ema(parameters, algorithm.ema_decay),
        "old": OldPolicy(parameters, 0.0) if has_old_policy(config) else None,
    }


def main() -> None:
    """Command line."""
    config, _ = configs.load_preset(
        TrainConfig, Path(__file__).parent / "presets" / "train", default="tiny-wan"
    )
    if config.dry_run:
        from policy.dry_run import dry_run, text

        print(text(dry_run(config)))
    else:
        train(config)


if __name__ == "__main__":
    run_main(main)
