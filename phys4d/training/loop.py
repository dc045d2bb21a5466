"""The optimisation loop: micro-batches beside each other, checkpoints, validation, several processes."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any, Literal, cast

import torch
from jaxtyping import Int
from torch import Generator, Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from phys4d.runtime.optimiser import OptimiserConfig
from phys4d.runtime.progress import progress
from phys4d.runtime.seeding import derive_seed
from phys4d.runtime.signals import stop_requested, stopped_by
from phys4d.runtime.threads import beside
from phys4d.training.ema import Ema
from phys4d.training.ranks import Ranks
from phys4d.training.stage_run import StageRun
from phys4d.training.state import TrainingState


def learning_rate_factor(
    step: int, num_steps: int, warmup_steps: int, schedule: Literal["cosine", "constant"] = "cosine"
) -> float:
    """Linear warm-up to 1, then a cosine to 0, or 1."""
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    if schedule == "constant":
        return 1.0
    part = (step - warmup_steps) / max(1, num_steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, part)))


def batches(
    num_items: int, batch_size: int, num_steps: int, seed: int, shapes: Sequence[Hashable] = ()
) -> Iterator[Int[Tensor, " batch"]]:
    """Indices of `num_steps` batches: epoch after epoch, each in a new order.

    Args:
        shapes: of every item; a batch holds items of one shape. What does not fill a batch waits for the next
            epoch's order.
    """
    if len(set(shapes)) > 1:
        yield from _batches_by_shape(shapes, batch_size, num_steps, seed)
        return
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


def _batches_by_shape(
    shapes: Sequence[Hashable], batch_size: int, num_steps: int, seed: int
) -> Iterator[Int[Tensor, " batch"]]:
    members: dict[Hashable, list[int]] = {}
    for number, shape in enumerate(shapes):
        members.setdefault(shape, []).append(number)
    for shape, numbers in members.items():
        if len(numbers) < batch_size:
            raise ValueError(
                f"{len(numbers)} samples of shape {shape} do not fill a batch of {batch_size}; render more "
                "of them or lower batch_size"
            )
    generator = torch.Generator().manual_seed(seed)
    step = 0
    while True:
        epoch: list[Tensor] = []
        for numbers in members.values():
            order = torch.tensor(numbers)[torch.randperm(len(numbers), generator=generator)]
            epoch += [part for part in order.split(batch_size) if len(part) == batch_size]
        for position in torch.randperm(len(epoch), generator=generator).tolist():
            if step == num_steps:
                return
            yield epoch[position]
            step += 1


def fit(
    loss_parts: Callable[[Tensor, Generator], dict[str, Tensor]],
    parameters: Sequence[nn.Parameter] | Sequence[dict[str, Any]],
    config: OptimiserConfig,
    *,
    num_items: int,
    seed: int,
    desc: str,
    run: StageRun | None = None,
    log_prefix: str = "",
    matrices: Sequence[nn.Parameter] = (),
    validate: Callable[[int], dict[str, float]] | None = None,
    shapes: Sequence[Hashable] = (),
) -> None:
    """Minimise the sum of `loss_parts(indices, generator)` and leave the averaged weights in `parameters`.

    A batch is cut into `config.micro_batches` parts whose gradients are averaged. Every part draws from a
    generator of its own, seeded by run, step and part, and on a CPU the parts run beside each other, each on
    one thread: small matrices keep two cores busier that way than one operation on both. Among several
    processes the parts are dealt out and the gradients added up. What is learnt does not depend on the number
    of threads, and on that of processes only by the order of a sum.

    With a `run`, state is saved at intervals, at SIGTERM and at Ctrl-C; the next `fit` of the same name in
    the same folder goes on from there and ends with the same bits.

    Args:
        loss_parts: called from several threads at once.
        parameters: or groups of them as `torch.optim` takes them, to give some another learning rate.
        matrices: those of `parameters` that Muon takes if `muon_learning_rate` is not 0.
        validate: measures the averaged weights after a step; logged as `val_<name>` before, after and at
            intervals.
        shapes: of every item; a batch holds items of one shape only. None given: all are alike.

    A step whose gradient is not finite is skipped and counted; ten in a row raise.

    Raises:
        SystemExit: a signal asked to stop; what was learnt is saved.
    """
    ranks = run.ranks if run is not None else Ranks()
    if config.micro_batches % ranks.count:
        raise ValueError(
            f"{config.micro_batches} micro_batches cannot be dealt evenly to {ranks.count} processes; "
            "set micro_batches to a multiple of their number"
        )
    groups: list[dict[str, Any]] = [
        dict(group) if isinstance(group, dict) else {"params": [group]} for group in parameters
    ]
    trained: list[nn.Parameter] = [p for group in groups for p in group["params"] if p.requires_grad]
    ranks.copy_from_main(trained)
    optimisers = _optimisers(groups, matrices if config.muon_learning_rate else (), config)
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(
            optimiser,
            lambda step: learning_rate_factor(step, config.num_steps, config.warmup_steps, config.schedule),
        )
        for optimiser in optimisers
    ]
    state = TrainingState(trained, Ema(trained, config.ema_decay), optimisers, schedules, num_items)
    saved = run.restore(desc) if run is not None else None
    if saved is not None:
        state.load(saved, desc)
        if ranks.is_main:
            print(f"{desc}: going on after step {state.step} of {config.num_steps}", flush=True)
    device = trained[0].device.type

    def differentiate(part: tuple[int, int, Tensor]) -> tuple[dict[str, float], list[Tensor | None]]:
        step, number, indices = part
        generator = Generator().manual_seed(derive_seed(seed, desc, step, number))
        with torch.autocast(device, torch.bfloat16, enabled=config.bf16):
            parts = loss_parts(indices, generator)
            loss = torch.stack(list(parts.values())).sum() / config.micro_batches
        gradients = torch.autograd.grad(loss, trained, allow_unused=True)
        return {name: value.item() for name, value in parts.items()}, list(gradients)

    def measure() -> None:
        if validate is None:
            return
        with state.ema.applied():
            scalars = validate(state.step)
        if run is not None:
            run.log(state.step, **{f"{log_prefix}val_{name}": value for name, value in scalars.items()})
        if ranks.is_main:
            listed = ", ".join(f"{name} {value:.4f}" for name, value in scalars.items())
            print(f"{desc}: held-out after {state.step} steps: {listed}", flush=True)

    if state.finished:
        state.ema.copy_to_parameters()
        return
    if saved is None:
        measure()
    remaining = itertools.islice(
        batches(num_items, config.batch_size, config.num_steps, seed, shapes), state.step, None
    )
    bar = progress(remaining, total=config.num_steps - state.step, desc=desc, unit="step")
    # A block that is gathered for one call cannot serve another beside it.
    kind = "shards" if ranks.shards else device
    # On a CPU the backward pass of fused attention in bfloat16 takes half of a step; plain products do not.
    # The choice is the process's: made by each thread, one would undo another's and bits would differ.
    attention = sdpa_kernel(SDPBackend.MATH) if config.bf16 and device == "cpu" else nullcontext()
    with stop_requested() as stop, attention, warnings.catch_warnings():
        # Norms keep float32 weights under autocast.
        warnings.filterwarnings("ignore", "Mismatch dtype between input and weight")
        for indices in bar if ranks.is_main else remaining:
            step = state.step
            pieces = [
                (step, number, piece) for number, piece in enumerate(indices.chunk(config.micro_batches))
            ]
            mine = ranks.deal(pieces)
            for parameter in trained:
                parameter.grad = None
            # Where parts run one after the other, no part's gradients wait for the others'.
            results = beside(differentiate, mine, kind) if kind == "cpu" else map(differentiate, mine)
            scalars: dict[str, float] = {}
            for parts, gradients in results:
                scalars = {name: scalars.get(name, 0.0) + value for name, value in parts.items()}
                for parameter, gradient in zip(trained, gradients, strict=True):
                    if parameter.grad is None or gradient is None:
                        parameter.grad = parameter.grad if gradient is None else gradient
                    else:
                        parameter.grad.add_(gradient)
            stopped = _add_up(ranks, trained, scalars, stop())
            grad_norm = torch.nn.utils.clip_grad_norm_(trained, config.max_grad_norm)
            if torch.isfinite(grad_norm):
                beside(lambda optimiser: optimiser.step(), optimisers, kind)
                for schedule in schedules:
                    schedule.step()
                state.ema.update()
                state.skipped_in_a_row = 0
            else:
                state.skipped_in_a_row += 1
                if state.skipped_in_a_row == 10:
                    raise FloatingPointError(
                        f"{desc}: the gradient was not finite ten steps in a row, last at step {step}"
                    )
            state.step += 1
            is_last = state.step == config.num_steps
            if run is not None:
                if step % 10 == 0 or is_last:
                    scalars = {name: value / len(pieces) for name, value in scalars.items()}
                    scalars |= {"loss": sum(scalars.values()), "grad_norm": grad_norm.item()}
                    run.log(step, **{f"{log_prefix}{name}": value for name, value in scalars.items()})
                if config.validate_every and state.step % config.validate_every == 0 and not is_last:
                    measure()
                if stopped or (run.is_time_to_save(config.checkpoint_every_s) and not is_last):
                    run.save(desc, state.step, state.dump())
            if stopped:
                bar.close()
                raise stopped_by(stopped, f"after step {state.step} of {desc}")
    state.ema.copy_to_parameters()
    measure()
    if run is not None:
        run.save(desc, state.step, state.dump(finished=True))


def _add_up(ranks: Ranks, trained: Sequence[nn.Parameter], scalars: dict[str, float], stop: int) -> int:
    """Sum gradients and scalars over all processes, in place; returns the signal that any of them got."""
    if ranks.count == 1:
        return stop
    used = [float(parameter.grad is not None) for parameter in trained]
    numbers = torch.tensor([*used, *scalars.values()], dtype=torch.float64, device=trained[0].device)
    for parameter in trained:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    ranks.add_up([numbers, *(cast(Tensor, parameter.grad) for parameter in trained)])
    for parameter, count in zip(trained, numbers[: len(trained)].tolist(), strict=True):
        if not count:
            parameter.grad = None
    scalars |= dict(zip(scalars, numbers[len(trained) :].tolist(), strict=True))
    return ranks.highest(stop)


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
