"""Steps of stage 2's kind: our loop beside accelerate's, on the tiny Wan; and what they need of memory."""

from __future__ import annotations

import importlib.metadata
import os

import torch
from torch import Generator, Tensor

from benchmarks.registry import Work, compare
from phys4d.models.lora import add_lora
from phys4d.models.protocol import Conditioning
from phys4d.models.registry import tiny_model
from phys4d.runtime.optimiser import OptimiserConfig
from phys4d.runtime.threads import limit_threads
from phys4d.training import fit

STEPS, BATCH = 4, 16


PEER = f"accelerate {importlib.metadata.version('accelerate')} loop, torch's own threads"


@compare(f"{STEPS} LoRA steps of tiny Wan, {BATCH} videos", peer=PEER, rtol=1e-3)
def lora_steps() -> tuple[Work, Work]:
    """float32, two micro-batches a step; both begin with the same adapter and return the last loss."""
    from accelerate import Accelerator

    limit_threads(min(2, len(os.sched_getaffinity(0))))
    torch.manual_seed(0)
    model = tiny_model("tiny-wan", ["a ball falls"]).eval()
    torch.nn.init.normal_(model.transformer.proj_out.weight, std=0.02)
    adapter = add_lora(model.transformer, "bench", rank=32, targets=model.lora_targets)
    start = [p.detach().clone() for p in adapter]
    latents = torch.randn(BATCH, *model.latent_shape(9, 48, 64))
    text = model.encode_text(["a ball falls"]).detach().expand(BATCH, -1, -1)
    config = OptimiserConfig(
        num_steps=STEPS,
        batch_size=BATCH,
        learning_rate=1e-3,
        warmup_steps=0,
        ema_decay=0.0,
        schedule="constant",
    )
    seen: list[float] = []

    def loss(x0: Tensor, indices: Tensor) -> Tensor:
        sigma = torch.full((len(indices),), 0.5)
        prediction = model.predict(0.5 * x0, sigma, Conditioning(text[indices], x0[:, :, 0]), features=True)
        return (prediction.velocity_BCThw + x0).square().mean() + prediction.features[-1].square().mean()

    def reset() -> None:
        with torch.no_grad():
            for parameter, value in zip(adapter, start, strict=True):
                parameter.copy_(value)

    def ours() -> float:
        reset()
        seen.clear()

        def parts(indices: Tensor, generator: Generator) -> dict[str, Tensor]:
            value = loss(latents[indices], indices)
            seen.append(value.item())
            return {"loss": value}

        fit(parts, adapter, config, num_items=BATCH, seed=0, desc="bench")
        return sum(seen[-2:]) / 2

    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)

    def theirs() -> float:
        reset()
        optimiser = torch.optim.AdamW(adapter, 1e-3, betas=(0.9, 0.99), weight_decay=config.weight_decay)
        last = []
        for _ in range(STEPS):
            last.clear()
            optimiser.zero_grad()
            for indices in torch.arange(BATCH).chunk(2):
                value = loss(latents[indices], indices)
                accelerator.backward(value / 2)
                last.append(value.item())
            accelerator.clip_grad_norm_(adapter, config.max_grad_norm)
            optimiser.step()
        return sum(last) / 2

    return ours, theirs
