"""The optimisation loop that stages 1 and 2 and the tiny base share."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from accelerate import Accelerator
from jaxtyping import Int
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from phys4d.runtime.optimiser import OptimiserConfig
from phys4d.runtime.progress import progress
from phys4d.runtime.run import RunFolder


class Ema:
    """Exponential moving average of parameters, with warm-up min(decay, (1 + n) / (10 + n))."""

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float) -> None:
        self.parameters = list(parameters)
        self.decay = decay
        self.num_updates = 0
        self.average = [p.detach().clone() for p in self.parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the parameters."""
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        self.num_updates += 1
        torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within this context the parameters hold the average."""
        kept = [p.detach().clone() for p in self.parameters]
        self.copy_to_parameters()
        try:
            yield
        finally:
            with torch.no_grad():
                for parameter, value in zip(self.parameters, kept, strict=True):
                    parameter.copy_(value)

    @torch.no_grad()
    def copy_to_parameters(self) -> None:
        """Replace the parameters by their average."""
        for parameter, value in zip(self.parameters, self.average, strict=True):
            parameter.copy_(value)


def learning_rate_factor(step: int, num_steps: int, warmup_steps: int) -> float:
    """Linear warm-up to 1, then a cosine to 0."""
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    part = (step - warmup_steps) / max(1, num_steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, part)))


def batches(num_items: int, batch_size: int, num_steps: int, seed: int) -> Iterator[Int[Tensor, " batch"]]:
    """Indices of `num_steps` batches: epoch after epoch, each in a new order."""
    if num_items < batch_size:
        raise ValueError(
            f"{num_items} samples do not fill a batch of {batch_size}; render more or lower batch_size"
        )
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(num_items, generator=generator)
    position = 0
    for _ in range(num_steps):
        if position + batch_size > num_items:
            order, position = torch.randperm(num_items, generator=generator), 0
        yield order[position : position + batch_size]
        position += batch_size


def fit(
    loss_parts: Callable[[Tensor], dict[str, Tensor]],
    parameters: Sequence[nn.Parameter],
    config: OptimiserConfig,
    *,
    num_items: int,
    seed: int,
    desc: str,
    run: RunFolder | None = None,
    log_prefix: str = "",
    matrices: Sequence[nn.Parameter] = (),
) -> None:
    """Minimise the sum of `loss_parts(indices)` and leave the averaged weights in `parameters`.

    Args:
        matrices: those of `parameters` that Muon takes if `muon_learning_rate` is not 0.

    A step whose gradient is not finite is skipped and counted; ten in a row raise.
    """
    # Accelerate keeps one precision per process; the fits of one process differ.
    accelerator = Accelerator()
    optimisers = _optimisers(parameters, matrices if config.muon_learning_rate else (), config)
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(
            optimiser, lambda step: learning_rate_factor(step, config.num_steps, config.warmup_steps)
        )
        for optimiser in optimisers
    ]
    ema = Ema(parameters, config.ema_decay)
    skipped_in_a_row = 0
    bar = progress(
        batches(num_items, config.batch_size, config.num_steps, seed),
        total=config.num_steps,
        desc=desc,
        unit="step",
    )
    for step, indices in enumerate(bar):
        with _precision(config.bf16, parameters[0].device.type):
            parts = loss_parts(indices)
            loss = torch.stack(list(parts.values())).sum()
        for parameter in parameters:
            parameter.grad = None
        accelerator.backward(loss)
        grad_norm = torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
        if torch.isfinite(grad_norm):
            for optimiser, schedule in zip(optimisers, schedules, strict=True):
                optimiser.step()
                schedule.step()
            ema.update()
            skipped_in_a_row = 0
        else:
            skipped_in_a_row += 1
            if skipped_in_a_row == 10:
                raise FloatingPointError(
                    f"{desc}: the gradient was not finite ten steps in a row, last at step {step}"
                )
        if run is not None and (step % 10 == 0 or step == config.num_steps - 1):
            scalars = {f"{log_prefix}{name}": value.item() for name, value in parts.items()}
            run.log(
                step,
                **scalars,
                **{f"{log_prefix}loss": loss.item(), f"{log_prefix}grad_norm": grad_norm.item()},
            )
    ema.copy_to_parameters()


@contextmanager
def _precision(bf16: bool, device: str) -> Iterator[None]:
    """Autocast to bfloat16 if asked for.

    On a CPU the backward pass of fused attention in bfloat16 takes half of a step; plain products do not.
    """
    attention = sdpa_kernel(SDPBackend.MATH) if bf16 and device == "cpu" else nullcontext()
    with torch.autocast(device, torch.bfloat16, enabled=bf16), attention, warnings.catch_warnings():
        # Norms keep float32 weights under autocast.
        warnings.filterwarnings("ignore", "Mismatch dtype between input and weight")
        yield


def _optimisers(
    parameters: Sequence[nn.Parameter], matrices: Sequence[nn.Parameter], config: OptimiserConfig
) -> list[torch.optim.Optimizer]:
    """AdamW for all parameters but `matrices`, which go to Muon."""
    taken = {id(p) for p in matrices}
    rest = [p for p in parameters if id(p) not in taken]
    optimisers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(rest, config.learning_rate, betas=(0.9, 0.99), weight_decay=config.weight_decay)
    ]
    if matrices:
        optimisers.append(
            torch.optim.Muon(matrices, config.muon_learning_rate, weight_decay=0.0, adjust_lr_fn="original")
        )
    return optimisers
