"""One update of a perturbed tiny Wan whose videos are shared by all ranks: `ranks_case.py FILE`.

Siblings lie on different ranks, and the second group has one reward only, so that its rank trains nothing.
"""

import os
import sys

import torch

from phys4d.models.lora import add_lora
from phys4d.models.protocol import Conditioning
from phys4d.models.wan import tiny_wan
from policy.advantages import compute_advantages
from policy.config import AlgorithmConfig
from policy.ranks import Ranks
from policy.rollout import SamplingRule, sample
from policy.schedules import flow_schedule
from policy.update import update_policy

CAPTIONS = ["a red ball falls from rest", "a blue box slides left at 1.25"]


def updated(ranks: Ranks, name: str) -> dict[str, torch.Tensor | float]:
    """Gradient and statistics."""
    torch.manual_seed(0)
    model = tiny_wan(CAPTIONS, width=32, num_layers=1).eval()
    torch.nn.init.normal_(model.transformer.proj_out.weight, std=0.2)
    parameters = add_lora(model.transformer, "policy", rank=2, targets=model.lora_targets)
    generator = torch.Generator().manual_seed(2)
    for parameter in parameters:
        parameter.data.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    with torch.no_grad():
        text = model.encode_text(CAPTIONS)
    first = torch.randn(2, 16, 4, 4, generator=torch.Generator().manual_seed(5))
    mine = ranks.share(8)
    rule = SamplingRule(schedule=flow_schedule(6, shift=3.0), sampler="flow_sde", noise_level=0.7)
    rollouts = sample(
        model,
        Conditioning(text, first).repeat(4).select(mine),
        rule,
        num_latent_frames=3,
        window=(1, 2),
        seeds=list(range(8))[mine],
    )
    rewards = rollouts.latents_BCThw.double().mean((1, 2, 3, 4))
    rewards = ranks.gather(rewards[:, None])[:, 0]
    rewards[5:] = torch.nan
    whole = compute_advantages(rewards, [0, 0, 0, 0, 1, 1, 1, 1])
    part = type(whole)(**{**whole.__dict__, "values": whole.values[mine], "trained": whole.trained[mine]})
    config = AlgorithmConfig(lora_rank=2, name=name, max_grad_norm=1e9, kl_weight=0.1)  # pyright: ignore
    stats = update_policy(
        model,
        rule,
        [(rollouts, part)],
        parameters,
        torch.optim.SGD(parameters, 0.1),
        config,
        on_policy=True,
        max_terms=16,
        ranks=ranks,
    )
    grads = [p.grad.flatten() for p in parameters if p.grad is not None]
    return {
        "gradient": torch.cat(grads),
        "parameters": torch.cat([p.detach().flatten() for p in parameters]),
        "rewards": rewards,
        "loss": stats.policy_loss,
        "kl": stats.kl,
        "grad_norm": stats.grad_norm,
    }


if __name__ == "__main__":
    found = {name: updated(Ranks.launched(), name) for name in ("grpo", "diffusion_nft")}
    if os.environ.get("RANK", "0") == "0":
        torch.save(found, sys.argv[1])
