"""The optimisation loop that stages 1 and 2 and the tiny base share."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from jaxtyping import Int
from torch import Generator, Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from phys4d.runtime.optimiser import OptimiserConfig
from phys4d.runtime.progress import progress
from phys4d.runtime.run import RunFolder
from phys4d.runtime.seeding import derive_seed
from phys4d.runtime.threads import workers


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
    loss_parts: Callable[[Tensor, Generator], dict[str, Tensor]],
    parameters: Sequence[nn.Parameter] | Sequence[dict[str, Any]],
    config: OptimiserConfig,
    *,
    num_items: int,
    seed: int,
    desc: str,
    run: RunFolder | None = None,
    log_prefix: str = "",
    matrices: Sequence[nn.Parameter] = (),
) -> None:
    """Minimise the sum of `loss_parts(indices, generator)` and leave the averaged weights in `parameters`.

    A batch is cut into `config.micro_batches` parts whose gradients are averaged. Every part draws from a
    generator of its own, seeded by run, step and part, and on a CPU the parts run beside each other, each on
    one thread: small matrices keep two cores busier that way than one operation on both. What is learnt does
    not depend on the number of threads.

    Args:
        loss_parts: called from several threads at once.
        parameters: or groups of them as `torch.optim` takes them, to give some another learning rate.
        matrices: those of `parameters` that Muon takes if `muon_learning_rate` is not 0.

    A step whose gradient is not finite is skipped and counted; ten in a row raise.
    """
    groups: list[dict[str, Any]] = [
        dict(group) if isinstance(group, dict) else {"params": [group]} for group in parameters
    ]
    trained: list[nn.Parameter] = [p for group in groups for p in group["params"] if p.requires_grad]
    optimisers = _optimisers(groups, matrices if config.muon_learning_rate else (), config)
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(
            optimiser, lambda step: learning_rate_factor(step, config.num_steps, config.warmup_steps)
        )
        for optimiser in optimisers
    ]
    ema = Ema(trained, config.ema_decay)
    device = trained[0].device.type
    skipped_in_a_row = 0

    def differentiate(part: tuple[int, int, Tensor]) -> tuple[dict[str, float], list[Tensor | None]]:
        step, number, indices = part
        generator = Generator().manual_seed(derive_seed(seed, desc, step, number))
        with _precision(config.bf16, device):
            parts = loss_parts(indices, generator)
            loss = torch.stack(list(parts.values())).sum() / config.micro_batches
        gradients = torch.autograd.grad(loss, trained, allow_unused=True)
        return {name: value.item() for name, value in parts.items()}, list(gradients)

    bar = progress(
        batches(num_items, config.batch_size, config.num_steps, seed),
        total=config.num_steps,
        desc=desc,
        unit="step",
    )
    with workers(config.micro_batches, device) as in_order, warnings.catch_warnings():
        # Norms keep float32 weights under autocast.
        warnings.filterwarnings("ignore", "Mismatch dtype between input and weight")
        for step, indices in enumerate(bar):
            pieces = [
                (step, number, piece) for number, piece in enumerate(indices.chunk(config.micro_batches))
            ]
            results = in_order(differentiate, pieces)
            for position, parameter in enumerate(trained):
                found = [gradients[position] for _, gradients in results]
                parameter.grad = _sum([gradient for gradient in found if gradient is not None])
            grad_norm = torch.nn.utils.clip_grad_norm_(trained, config.max_grad_norm)
            if torch.isfinite(grad_norm):
                in_order(lambda optimiser: optimiser.step(), optimisers)
                for schedule in schedules:
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
                scalars = {
                    name: sum(parts[name] for parts, _ in results) / len(results) for name in results[0][0]
                }
                scalars |= {"loss": sum(scalars.values()), "grad_norm": grad_norm.item()}
                run.log(step, **{f"{log_prefix}{name}": value for name, value in scalars.items()})
    ema.copy_to_parameters()


def _sum(gradients: list[Tensor]) -> Tensor | None:
    """Their sum, in the first one's place; None for a parameter that no part used."""
    total = gradients[0] if gradients else None
    for gradient in gradients[1:]:
        total = gradient if total is None else total.add_(gradient)
    return total


@contextmanager
def _precision(bf16: bool, device: str) -> Iterator[None]:
    """Autocast to bfloat16 if asked for.

    On a CPU the backward pass of fused attention in bfloat16 takes half of a step; plain products do not.
    """
    attention = sdpa_kernel(SDPBackend.MATH) if bf16 and device == "cpu" else nullcontext()
    with torch.autocast(device, torch.bfloat16, enabled=bf16), attention:
        yield


def _optimisers(
    groups: list[dict[str, Any]], matrices: Sequence[nn.Parameter], config: OptimiserConfig
) -> list[torch.optim.Optimizer]:
    """AdamW for all parameters but `matrices`, which go to Muon, one for each worker."""
    taken = {id(p) for p in matrices}
    rest = [{**group, "params": [p for p in group["params"] if id(p) not in taken]} for group in groups]
    adam = torch.optim.AdamW(
        [group for group in rest if group["params"]],
        config.learning_rate,
        betas=(0.9, 0.99),
        weight_decay=config.weight_decay,
    )
    shares = [matrices[first :: config.micro_batches] for first in range(config.micro_batches)]
    muons = [
        torch.optim.Muon(share, config.muon_learning_rate, weight_decay=0.0, adjust_lr_fn="original")
        for share in shares
        if share
    ]
    return [adam, *muons]
