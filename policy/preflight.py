"""What must hold before a long run: looked at on a video of each of two held-out prompts, in seconds."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from phys4d.models.cache import EncodingCache
from phys4d.runtime.errors import UserError
from phys4d.runtime.files import atomic_write_text
from policy.losses import LossStats, clipped_policy_loss
from policy.prompts import Prompt, encode_prompts, num_latent_frames
from policy.reading import Reader
from policy.rollout import Rollouts, replay, sample
from policy.trainer import Trainer
from policy.update import ON_POLICY_TOLERANCE, largest_gap
from policy.windows import window

NUM_VIDEOS = 2
CACHE_TOLERANCE = 0.02
"""Largest difference of a kept encoding, over the largest value: what bfloat16 rounds away."""
PERTURBATION = 0.02
"""Standard deviation of the adapter's second factors while the gradient is looked at; they start at 0."""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    passed: bool
    found: str


def preflight(trainer: Trainer, folder: Path) -> list[Check]:
    """Look, print, and write `preflight.json`; the policy and all random numbers stay as they are.

    Raises:
        UserError: a check failed; names them all.
    """
    rollouts = _sample(trainer)
    checks = [_hashes(trainer, rollouts), *_replay(trainer, rollouts), *_gradient(trainer, rollouts)]
    checks += [_rewards(trainer, rollouts), _monitors(trainer, rollouts)]
    for check in checks:
        print(f"pre-flight {'ok' if check.passed else 'FAILED'}: {check.name}: {check.found}", flush=True)
    atomic_write_text(
        folder / "preflight.json",
        json.dumps({"skipped": False, "checks": [asdict(c) for c in checks]}, indent=1),
    )
    failed = [f"{c.name}: {c.found}" for c in checks if not c.passed]
    if failed:
        raise UserError(
            f"pre-flight failed ({'; '.join(failed)}); mend it, or train all the same with --skip-preflight"
        )
    return checks


def note_skipped(folder: Path) -> None:
    """Say and record that nothing was looked at."""
    print("pre-flight skipped, as asked for by --skip-preflight", flush=True)
    atomic_write_text(folder / "preflight.json", json.dumps({"skipped": True, "checks": []}, indent=1))


def _prompts(trainer: Trainer) -> list[Prompt]:
    return [trainer.held_out[k % len(trainer.held_out)] for k in range(NUM_VIDEOS)]


def _sample(trainer: Trainer) -> Rollouts:
    prompts = _prompts(trainer)
    return sample(
        trainer.model,
        encode_prompts(trainer.cache, prompts),
        trainer.rule,
        num_latent_frames=num_latent_frames(trainer.model, prompts),
        window=window(trainer.config.rollout, 0, random.Random(0)),
        seeds=range(NUM_VIDEOS),
    )


def _hashes(trainer: Trainer, rollouts: Rollouts) -> Check:
    """Encoding a prompt twice gives the very same conditioning, and what sampling saw is that.

    Cached embeddings may have been encoded in a batch of another size, which changes their rounding.
    """
    fresh = EncodingCache(trainer.model, None)
    prompts = _prompts(trainer)
    first, second = encode_prompts(fresh, prompts), encode_prompts(fresh, prompts)
    if first.digests() != second.digests():
        return Check("conditioning", False, "another hash when encoded again")
    one_each = encode_prompts(trainer.cache, prompts).digests()
    siblings = [digest for digest in one_each for _ in range(NUM_VIDEOS)]
    if trainer.condition(prompts, NUM_VIDEOS).digests() != siblings:
        return Check("conditioning", False, "siblings are not sampled from their own prompt")
    seen = rollouts.conditioning
    pairs = [(seen.text_BLD, first.text_BLD), (seen.first_frame_BChw, first.first_frame_BChw)]
    gap = max(float((a - b).abs().max() / b.abs().max().clamp(min=1e-9)) for a, b in pairs)
    if not gap <= CACHE_TOLERANCE:
        return Check("conditioning", False, f"sampling saw one that differs by {gap:.1e} from a new encoding")
    return Check("conditioning", True, "same hash twice")


def _replay(trainer: Trainer, rollouts: Rollouts) -> list[Check]:
    """An unchanged policy gives the log-probabilities that it sampled with; with autograd and through the
    loss, as an update takes them, the ratio is 1."""
    gaps: list[Tensor] = []
    stats: list[LossStats] = []
    for recorded in rollouts.steps:
        with torch.no_grad():
            out = replay(trainer.model, trainer.rule, rollouts, recorded)
        assert out.log_prob is not None
        gaps.append((out.log_prob - recorded.log_prob_B).abs().max())
        out = replay(trainer.model, trainer.rule, rollouts, recorded)
        assert out.log_prob is not None
        advantages = torch.ones_like(recorded.log_prob_B)
        clip_range = trainer.config.algorithm.clip_range
        loss = clipped_policy_loss(out.log_prob, recorded.log_prob_B, advantages, clip_range=clip_range)
        stats.append(loss.stats)
    gap, ratio = float(torch.stack(gaps).max()), largest_gap(stats)
    return [
        Check("replay", gap <= ON_POLICY_TOLERANCE, f"log-probabilities differ by {gap:.1e}"),
        Check("ratio", ratio <= ON_POLICY_TOLERANCE, f"1 to within {ratio:.1e}"),
    ]


def _gradient(trainer: Trainer, rollouts: Rollouts) -> list[Check]:
    """The log-probability's gradient reaches every matrix of the adapter; and what autograd keeps for it."""
    kept = [p.detach().clone() for p in trainer.parameters]
    generator = torch.Generator().manual_seed(0)
    saved: dict[int, Tensor] = {}
    weights = {p.untyped_storage().data_ptr() for p in trainer.model.transformer.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    try:
        with torch.no_grad():
            for parameter in trainer.parameters:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(PERTURBATION * noise.to(parameter))
        step = rollouts.steps[0]
        level = trainer.rule.schedule.model_level(step.i)
        # One call in this thread: hooks see no other, and replay may use several.
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            kept_alive = trainer.model.predict(
                step.x_BCThw.to(rollouts.latents_BCThw), level, rollouts.conditioning
            )
        activations = sum(t.untyped_storage().nbytes() for t in saved.values()) // NUM_VIDEOS
        saved.clear()
        del kept_alive
        out = replay(trainer.model, trainer.rule, rollouts, step)
        assert out.log_prob is not None
        out.log_prob.sum().backward()
        named = [(n, p) for n, p in trainer.model.transformer.named_parameters() if p.requires_grad]
        missed = [n for n, p in named if p.grad is None or not bool(p.grad.abs().sum() > 0)]
    finally:
        with torch.no_grad():
            for parameter, value in zip(trainer.parameters, kept, strict=True):
                parameter.copy_(value)
                parameter.grad = None
    found = f"reaches {len(named) - len(missed)} of {len(named)} adapter matrices"
    if missed:
        found += f", not {missed[0]}"
    return [Check("gradient", not missed, found), _memory(trainer, rollouts, activations)]


def _memory(trainer: Trainer, rollouts: Rollouts, activation_bytes: int) -> Check:
    """Weights, adapter states, a batch's activations and an iteration's latents, against what is free."""
    config, ranks = trainer.config.rollout, trainer.ranks.num
    videos = config.prompts_per_batch * config.group_size // ranks
    latent = rollouts.latents_BCThw[0].nbytes
    kept = (2 * config.window_size + 1) * latent * config.num_prompts * config.group_size // ranks
    kept *= 2 if config.one_step_off_policy else 1
    module: Any = trainer.model
    weights = sum(p.nbytes for p in module.parameters())
    # Gradient, two moments and the average, beside the weights that are counted above; an old policy too.
    states = (4 if trainer.old is None else 5) * sum(p.nbytes for p in trainer.parameters)
    needed = states + videos * activation_bytes + kept
    device = trainer.ranks.device
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    else:
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES") + _reclaimable_bytes()
    mib = 2**20
    return Check(
        "memory",
        needed <= free,
        f"{needed / mib:.0f} MiB beside weights of {weights / mib:.0f} MiB ({videos} videos x "
        f"{activation_bytes / mib:.1f} MiB of activations), {free / mib:.0f} MiB free",
    )


def _reclaimable_bytes() -> int:
    """File cache that the kernel gives up when asked for memory; 0 where it does not say."""
    path = Path("/proc/meminfo")
    if not path.is_file():
        return 0
    lines = (line.split(":") for line in path.read_text().splitlines())
    kib = {name: int(value.split()[0]) for name, value in lines}
    return 1024 * max(0, kib.get("MemAvailable", 0) - kib.get("MemFree", 0))


def _rewards(trainer: Trainer, rollouts: Rollouts) -> Check:
    """Each reward gives a score, and the same rollout earns the same twice."""
    first, second = (_scored(trainer, trainer.reader, rollouts, name) for name in ("a", "b"))
    earned = []
    for label, once, again in zip(trainer.rewards.labels, first, second, strict=True):
        of = "" if len(first) == 1 else f" of {label}"
        differ = [(x, y) for x, y in zip(once, again, strict=True) if x != y]
        if differ:
            return Check(
                "reward", False, f"the same rollout earns {differ[0][0]} and then {differ[0][1]}{of}"
            )
        numbers = [x for x in once if isinstance(x, float)]
        if len(numbers) < len(once) / 2:
            return Check("reward", False, f"no score{of}: {next(x for x in once if isinstance(x, str))}")
        earned.append(f"{numbers[0]:.4g}{of}")
    return Check("reward", True, f"the same twice, {', '.join(earned)}")


def _monitors(trainer: Trainer, rollouts: Rollouts) -> Check:
    """A reward that is never trained on needs a second reader of depth and motion, and must depend on it."""
    if not trainer.config.monitor.enabled:
        return Check("monitors", True, "off, as asked for by monitor.enabled")
    if not trainer.has_held_out_reward:
        return Check("monitors", True, "all rewards take pixels alone, so none is held out")
    if trainer.watcher is None:
        found = (
            f"no depth estimator in {trainer.config.run / 'estimator'} to read a held-out reward with; train "
            "it with `make pretrain`, or set --monitor.no-enabled"
        )
        return Check("monitors", False, found)
    readers = trainer.reader, trainer.watcher
    trained, watched = (_scored(trainer, r, rollouts, name) for r, name in zip(readers, "ac", strict=True))
    rows = zip(trainer.rewards.labels, trainer.rewards.takes_geometry, trained, watched, strict=True)
    held_out = [label for label, takes_geometry, a, b in rows if takes_geometry and a != b]
    if not held_out:
        return Check(
            "monitors",
            True,
            "the reward of these videos is the same by either reader, so none may be held out",
        )
    of = "" if len(trained) == 1 else f", of {' and '.join(held_out)}"
    return Check("monitors", True, f"a held-out reward watches{of}")


def _scored(
    trainer: Trainer, reader: Reader, rollouts: Rollouts, name: str
) -> Sequence[Sequence[float | str]]:
    """By source, of each video its score or why it has none."""
    prompts = _prompts(trainer)
    ids = [f"preflight-{name}/{k}" for k in range(NUM_VIDEOS)]
    sent = reader.rollouts(
        rollouts.latents_BCThw, rollouts.conditioning, prompts, ids, rgb=trainer.rewards.needs_rgb
    )
    return [
        [
            o.score.value
            if o.score is not None
            else f"{getattr(o.result, 'error_class', '')} {getattr(o.result, 'reason', '')}"
            for o in column
        ]
        for column in trainer.rewards.score(sent)
    ]
