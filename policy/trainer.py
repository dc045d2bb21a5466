"""The loop of stage 3, one for all algorithms: sample, score, compare, update; and measure."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from phys4d.data import Dataset
from phys4d.models.backbone import Backbone
from phys4d.models.cache import EncodingCache
from phys4d.models.protocol import Conditioning
from phys4d.models.reading import to_numpy
from phys4d.report.videos import Video
from phys4d.runtime.errors import UserError
from phys4d.runtime.seeding import derive_seed
from phys4d.training import Ema
from phys4d.types import Failure
from policy.algorithms import ALGORITHMS
from policy.config import TrainConfig
from policy.film import panels, write_sheet
from policy.monitors import cloud_statistics, pixel_statistics
from policy.prompts import Prompt, encode_prompts, load_prompts, num_latent_frames
from policy.ranks import Ranks
from policy.reading import Reader
from policy.rewards import Rewards, failure_reasons, values
from policy.rollout import SamplingRule, sample, sample_all
from policy.scalars import mean_components, reward_scalars, update_scalars
from policy.scoring import Sampled, Scoring
from policy.update import UpdateStats, update_policy
from policy.windows import window

MAX_NON_FINITE = 10
"""Updates in a row whose gradient is not finite; they end a run."""


class OldPolicy(Ema):
    """Weights that follow the trained ones; where there are such, videos are sampled by them."""

    @torch.no_grad()
    def follow(self, decay: float) -> None:
        """Keep `decay` of what it was."""
        self.num_updates += 1
        torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1 - decay)


@dataclass
class Trainer:
    """What one run of stage 3 holds."""

    config: TrainConfig
    model: Backbone
    reader: Reader
    rewards: Rewards
    dataset: Dataset
    held_out: Sequence[Prompt]
    rule: SamplingRule
    parameters: list[nn.Parameter]
    optimiser: torch.optim.Optimizer
    ema: Ema
    ranks: Ranks
    old: OldPolicy | None = None
    """What samples videos, of algorithms that follow and of runs that are one step off-policy."""
    watcher: Reader | None = None
    """Reads depth and motion the way that training does not."""
    kl_joint_nats: float | None = None
    """KL of the trained steps of a video together, as of the last iteration."""
    cache: EncodingCache = field(init=False)

    non_finite_in_a_row: int = 0
    """Updates whose gradient was not finite, since the last one that was."""
    _ahead: Sampled | None = None
    """The next iteration's rollouts, already sampled; a resumed run samples them again, to the same bits."""

    def __post_init__(self) -> None:
        self.cache = EncodingCache(self.model, self.config.memory.cache)

    def iterate(self, iteration: int) -> dict[str, float]:
        """Sample, score and update once; returns what is logged."""
        start = time.monotonic()
        sampled, self._ahead = self._ahead or self._sample(iteration), None
        if self.config.rollout.one_step_off_policy:
            self._sample_ahead(iteration + 1)
        sampled_at = time.monotonic()
        scoring = Scoring(sampled, self.config, self.rewards, self.ranks)
        algorithm, rollout = self.config.algorithm, self.config.rollout
        num_updates, num_batches = algorithm.updates_per_iteration, len(sampled.rollouts)
        kind = ALGORITHMS[algorithm.name]
        terms = kind.terms_per_video(algorithm, rollout.window_size)
        is_older = rollout.one_step_off_policy and iteration > 0
        updates = []
        for epoch in range(algorithm.inner_epochs):
            for u in range(num_updates):
                chosen = range(u, num_batches, num_updates)
                num_videos = len(chosen) * rollout.prompts_per_batch * rollout.group_size
                updates.append(
                    update_policy(
                        self.model,
                        self.rule,
                        scoring.batches(chosen),
                        self.parameters,
                        self.optimiser,
                        algorithm,
                        on_policy=epoch == 0 and u == 0 and not is_older,
                        max_terms=num_videos * terms,
                        ranks=self.ranks,
                        old_policy=self.old_policy,
                        epoch=epoch,
                    )
                )
                if not updates[-1].skipped:
                    self.ema.update()
                self._count_non_finite(updates[-1], iteration)
        if self.old is not None and kind.follows:
            self.old.follow(min(algorithm.nft_old_rate * iteration, algorithm.nft_old_limit))
        advantages = scoring.all_advantages()
        end = time.monotonic()
        rewards = torch.cat([scoring.values(b) for b in range(num_batches)])
        first = sampled.rollouts[0].latents_BCThw
        num_dims = int(self.model.generated_mask(first).expand(first[:1].shape).sum())
        scalars = update_scalars(updates)
        if any(update.num_terms for update in updates):
            self.kl_joint_nats = scalars["kl"] * num_dims * terms
        return {
            **reward_scalars(rewards, self.rewards, rollout.group_size),
            **self._component_scalars(scoring),
            **scalars,
            **({} if self.kl_joint_nats is None else {"kl_joint_nats": self.kl_joint_nats}),
            "dropped_groups": float(sum(a.num_dropped_groups for a in advantages)),
            "sample_s": sampled_at - start,
            "wait_s": scoring.wait_s,
            "wait_share": scoring.wait_s / (end - start),
            "update_s": end - sampled_at - scoring.wait_s,
            "iteration_s": end - start,
        }

    def _count_non_finite(self, update: UpdateStats, iteration: int) -> None:
        self.non_finite_in_a_row = self.non_finite_in_a_row + 1 if update.non_finite else 0
        if self.non_finite_in_a_row == MAX_NON_FINITE:
            raise UserError(
                f"the gradients of {MAX_NON_FINITE} updates in a row are not finite, the last of iteration "
                f"{iteration}; train anew in another run with a lower algorithm.learning_rate or "
                "--memory.dtype float32"
            )

    @property
    def has_held_out_reward(self) -> bool:
        """Whether a reward depends on who reads depth and motion."""
        return any(self.rewards.takes_geometry)

    def old_policy(self) -> AbstractContextManager[None]:
        """Within this context the weights are those that sample."""
        return nullcontext() if self.old is None else self.old.applied()

    def _sample_ahead(self, iteration: int) -> None:
        """Sample an iteration by the weights as they now are, which are kept for a run that is resumed."""
        assert self.old is not None, "a run that is one step off-policy has an old policy"
        self.old.follow(0.0)
        if iteration < self.config.num_iterations:
            self._ahead = self._sample(iteration)

    def _sample(self, iteration: int) -> Sampled:
        """Sample all prompt batches, each sent for scoring while the next is sampled."""
        config = self.config.rollout
        algorithm = ALGORITHMS[self.config.algorithm.name]
        rng = random.Random(derive_seed(self.config.seed, "prompts", iteration))
        chosen = self.prompts_of(iteration, rng)
        sampled = Sampled()
        for b in range(0, config.num_prompts, config.prompts_per_batch):
            prompts = load_prompts(self.dataset, chosen[b : b + config.prompts_per_batch])
            siblings = [prompt for prompt in prompts for _ in range(config.group_size)]
            mine = self.ranks.share(len(siblings))
            videos = [b * config.group_size + k for k in range(len(siblings))]
            groups = [video // config.group_size for video in videos]
            of_group = {group: window(config, iteration, rng) for group in dict.fromkeys(groups)}
            conditioning = self.condition(prompts, config.group_size).select(mine)
            seeds = [derive_seed(self.config.seed, "noise", iteration, video) for video in videos[mine]]
            shared = None
            if config.shared_prefix:
                shared = [derive_seed(self.config.seed, "group", iteration, g) for g in groups[mine]]
            with self.old_policy():
                rollouts = sample(
                    self.model,
                    conditioning,
                    self.rule,
                    num_latent_frames=num_latent_frames(self.model, siblings),
                    windows=[of_group[g] for g in groups[mine]] if algorithm.records_steps else None,
                    seeds=seeds,
                    groups=shared if algorithm.records_steps else None,
                    keep_means=algorithm.keeps_means,
                )
            ids = [
                f"iteration-{iteration}/prompt-{v // config.group_size}/sibling-{v % config.group_size}"
                for v in videos[mine]
            ]
            sent = self.reader.rollouts(
                rollouts.latents_BCThw, conditioning, siblings[mine], ids, rgb=self.rewards.needs_rgb
            )
            sampled.pending.append(self.rewards.submit(sent))
            sampled.rollouts.append(rollouts)
            sampled.group_ids.append(groups)
        return sampled

    def condition(self, prompts: Sequence[Prompt], group_size: int) -> Conditioning:
        """What the siblings of all prompts are sampled from, those of a prompt next to one another."""
        return encode_prompts(self.cache, prompts).repeat(group_size)

    def prompts_of(self, iteration: int, rng: random.Random) -> list[int]:
        """Indices of an iteration's prompts; a function of seed and iteration, so that it can be resumed."""
        config, total = self.config.rollout, len(self.dataset)
        if config.prompt_order == "random":
            return rng.sample(range(total), config.num_prompts)
        from trl.trainer.utils import RepeatSampler

        epoch, position = divmod(iteration, total // config.num_prompts)
        order = RepeatSampler(
            range(total),
            mini_repeat_count=1,
            batch_size=config.num_prompts,
            seed=derive_seed(self.config.seed, "epoch", epoch),
        )
        return list(order)[position * config.num_prompts : (position + 1) * config.num_prompts]

    def _component_scalars(self, scoring: Scoring) -> dict[str, float]:
        """Means of what the first source says besides its value."""
        scores = [o.score for batch in scoring.outcomes if batch for o in batch[0] if o.score is not None]
        scores = self.ranks.gather_lists([dict(s.components) for s in scores])
        return {f"reward_component_{k}": v for k, v in mean_components(scores).items()} if scores else {}

    def held_out_videos(self) -> tuple[Tensor, Any, Sequence[Prompt]]:
        """Latents of this rank's held-out prompts by the averaged policy: ODE, the same noise every time."""
        mine = range(self.ranks.index, len(self.held_out), self.ranks.num)
        prompts = [self.held_out[i] for i in mine]
        conditioning = encode_prompts(self.cache, prompts)
        with self.ema.applied():
            latents = sample_all(
                self.model,
                conditioning,
                self.rule,
                num_latent_frames=num_latent_frames(self.model, prompts),
                seeds=[derive_seed("eval", i) for i in mine],
                batch_size=self.config.eval_batch_size,
            )
        return latents, conditioning, prompts

    def evaluate(self, videos: tuple[Tensor, Any, Sequence[Prompt]] | None = None) -> dict[str, float]:
        """Mean reward on held-out prompts; of several, each one's mean too."""
        latents, conditioning, prompts = videos or self.held_out_videos()
        ids = [f"eval/{prompt.key}" for prompt in prompts]
        outcomes = self.rewards.score(
            self.reader.rollouts(latents, conditioning, prompts, ids, rgb=self.rewards.needs_rgb)
        )
        rows = self.ranks.gather_lists(values(outcomes).tolist())
        components = self.ranks.gather_lists(
            [dict(o.score.components) for o in outcomes[0] if o.score is not None]
        )
        table = torch.tensor(rows, dtype=torch.float64)
        whole = table[~table.isnan().any(dim=1)]
        mine = [o.result for column in outcomes for o in column]
        failures = self.ranks.gather_lists([f for f in mine if isinstance(f, Failure)])
        if failures and self.ranks.is_first:
            num_failed, why = len(table) - len(whole), failure_reasons(failures)
            print(f"{num_failed} of {len(table)} held-out videos have no score ({why})", flush=True)
        if not len(whole):
            return {"val_failed_fraction": 1.0}
        means = whole.mean(0).tolist()
        each = dict(zip((f"val_reward_{label}" for label in self.rewards.labels), means, strict=True))
        return {
            "val_reward": float((whole @ torch.tensor(self.rewards.weights, dtype=torch.float64)).mean()),
            **(each if len(means) > 1 else {}),
            "val_failed_fraction": 1 - len(whole) / len(table),
            **{f"val_component_{k}": v for k, v in mean_components(components).items()},
        }

    def trained_reward(self, scalars: dict[str, float]) -> float | None:
        """Of what `evaluate` found, the weighted sum that the held-out reward is beside: without what takes
        pixels alone, unless all do."""
        if len(self.rewards.sources) == 1 or not self.has_held_out_reward:
            return scalars.get("val_reward")
        names = [f"val_reward_{label}" for label in self.rewards.labels]
        if not set(names) <= scalars.keys():
            return None
        rows = zip(self.rewards.weights, self.rewards.takes_geometry, names, strict=True)
        return sum(weight * scalars[name] for weight, takes_geometry, name in rows if takes_geometry)

    def watch(self, videos: tuple[Tensor, Any, Sequence[Prompt]]) -> dict[str, float]:
        """What monitors look at: means over the first held-out videos, whichever ranks have them."""
        number = min(self.config.monitor.num_videos, len(self.held_out))
        mine = len(range(self.ranks.index, number, self.ranks.num))
        rows = self.ranks.gather_lists(self._watched(videos, slice(0, mine)) if mine else [])
        names = list(dict.fromkeys(name for row in rows for name in row))
        means = {name: np.nanmean([row.get(name, math.nan) for row in rows]) for name in names}
        return {name: float(mean) for name, mean in means.items()}

    def _watched(self, videos: tuple[Tensor, Any, Sequence[Prompt]], chosen: slice) -> list[dict[str, float]]:
        """Statistics of each video, as far as it has them."""
        latents, conditioning, prompts = videos[0][chosen], videos[1].select(chosen), videos[2][chosen]
        ids = [f"watch/{prompt.key}" for prompt in prompts]
        rows = [pixel_statistics(video[None]) for video in self.reader.decode(latents).numpy()]
        if self.watcher is not None and self.has_held_out_reward:
            read = self.watcher.rollouts(latents, conditioning, prompts, ids, rgb=self.rewards.needs_rgb)
            # What takes pixels alone is the trained reward itself, whoever reads the geometry.
            held_out = torch.tensor(self.rewards.takes_geometry)
            weights = torch.tensor(self.rewards.weights, dtype=torch.float64)[held_out]
            earned = values(self.rewards.score(read))[:, held_out] @ weights
            for row, reward in zip(rows, earned.tolist(), strict=True):
                row["held_out_failed_fraction"] = float(not math.isfinite(reward))
                if math.isfinite(reward):
                    row["held_out_reward"] = reward
        rollouts = self.reader.rollouts(latents, conditioning, prompts, ids)
        return [row | cloud_statistics([rollout]) for row, rollout in zip(rows, rollouts, strict=True)]

    def write_picture(self, path: Path, videos: tuple[Tensor, Any, Sequence[Prompt]]) -> Path:
        """Frames of the first held-out video, with depth and motion, above what the reference makes of it."""
        one = videos[1].select(slice(0, 1))

        def shown(latents: Tensor) -> Video:
            depth, motion = to_numpy(self.reader.geometry(latents, one))
            return Video(rgb=self.reader.decode(latents)[0].numpy(), depth=depth[0], motion=motion[0])

        with self.model.reference():
            before = sample(
                self.model,
                one,
                self.rule,
                num_latent_frames=videos[0].shape[2],
                seeds=[derive_seed("eval", self.ranks.index)],
            ).latents_BCThw
        rows = panels(shown(videos[0][:1]), shown(before), names=("now", "iteration 0"))
        return write_sheet(path, rows, title=videos[2][0].text)

    def save(self, folder: Path) -> None:
        """Write all that the next iteration depends on."""
        torch.save(
            {
                "parameters": [p.detach() for p in self.parameters],
                "average": self.ema.average,
                "num_ema_updates": self.ema.num_updates,
                "old": None if self.old is None else self.old.average,
                "optimiser": self.optimiser.state_dict(),
                "kl_joint_nats": self.kl_joint_nats,
                "non_finite_in_a_row": self.non_finite_in_a_row,
                "outages": self.rewards.outages(),
            },
            folder / "trainer.pt",
        )

    def restore(self, folder: Path) -> None:
        """Read what `save` wrote."""
        state = torch.load(folder / "trainer.pt", weights_only=True, map_location=self.ranks.device)
        targets = [(self.parameters, state["parameters"]), (self.ema.average, state["average"])]
        if self.old is not None:
            targets.append((self.old.average, state["old"]))
        with torch.no_grad():
            for target, kept in targets:
                for tensor, value in zip(target, kept, strict=True):
                    tensor.copy_(value)
        self.ema.num_updates = state["num_ema_updates"]
        self.optimiser.load_state_dict(state["optimiser"])
        self.kl_joint_nats = state["kl_joint_nats"]
        self.non_finite_in_a_row = state["non_finite_in_a_row"]
        self.rewards.count_on(state["outages"])
