"""A training of two kinds of parameters, as a program: `small_job.py FOLDER NUM_STEPS [SECONDS_PER_STEP]`."""

import sys
import time
from pathlib import Path

import torch

from phys4d.runtime.optimiser import OptimiserConfig
from phys4d.training import StageRun, fit
from phys4d.training.ranks import Ranks


def train(folder: Path, num_steps: int = 40, pause_s: float = 0.0) -> list[torch.Tensor]:
    """Two trainings, the second with AdamW and Muon; returns the weights of both."""
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(24, 6, generator=generator), torch.randn(24, 4, generator=generator)
    first = torch.nn.Parameter(torch.zeros(4))
    layers = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 4))
    with torch.no_grad():
        for parameter in layers.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    ranks = Ranks.current("cpu")
    config = OptimiserConfig(
        num_steps=num_steps,
        batch_size=8,
        learning_rate=0.05,
        muon_learning_rate=0.02,
        ema_decay=0.9,
        warmup_steps=3,
        validate_every=7,
        checkpoint_every_s=0.0,
    )

    def first_loss(indices: torch.Tensor, draws: torch.Generator) -> dict[str, torch.Tensor]:
        return {"shift": (y[indices] - first).square().mean()}

    def second_loss(indices: torch.Tensor, draws: torch.Generator) -> dict[str, torch.Tensor]:
        time.sleep(pause_s)
        noise = 0.1 * torch.randn(x[indices].shape, generator=draws)
        return {"mse": (layers(x[indices] + noise) - y[indices] + first.detach()).square().mean()}

    with StageRun.open(folder, "kind = 'small'\n", ranks=ranks) as run:
        shared = {"num_items": 24, "seed": 3, "run": run}
        fit(first_loss, [first], config, desc="first", log_prefix="first_", **shared)
        print("second begins", flush=True)
        fit(
            second_loss,
            list(layers.parameters()),
            config,
            desc="second",
            matrices=[layers[0].weight, layers[2].weight],
            validate=lambda step: {"norm": layers[0].weight.norm().item()},
            **shared,
        )
        weights = [p.detach().clone() for p in [first, *layers.parameters()]]
        if ranks.is_main:
            torch.save(weights, folder / "weights.pt")
        ranks.wait()
    return weights


if __name__ == "__main__":
    torch.set_num_threads(2)
    train(Path(sys.argv[1]), *(int(sys.argv[2]), *map(float, sys.argv[3:])))
