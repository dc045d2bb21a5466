"""The denoiser on parts of a batch beside each other: on a CPU, small models leave cores idle otherwise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from phys4d.models.protocol import Conditioning, VideoModel
from phys4d.runtime.threads import beside


def velocity_beside(
    model: VideoModel,
    latents_BCThw: Float[Tensor, "batch channels frames h w"],
    sigma: float | Float[Tensor, " batch"],
    conditioning: Conditioning,
) -> Float[Tensor, "batch channels frames h w"]:
    """`predict(...).velocity_BCThw`, on a CPU computed by as many threads as torch has, each with its videos.

    Gradients reach the parameters of the transformer and nothing else. The parts depend on the number of
    videos and threads alone, so a batch that is computed again gives the same bits.
    """
    num_videos, num_threads = len(latents_BCThw), torch.get_num_threads()
    if latents_BCThw.device.type != "cpu" or min(num_videos, num_threads) == 1:
        return model.predict(latents_BCThw, sigma, conditioning).velocity_BCThw

    def compute(videos: Tensor) -> Tensor:
        levels = sigma[videos] if isinstance(sigma, Tensor) and sigma.ndim else sigma
        return model.predict(latents_BCThw[videos], levels, conditioning.select(videos)).velocity_BCThw

    parts = torch.arange(num_videos).tensor_split(min(num_videos, num_threads))
    trained = [p for p in cast(nn.Module, model.transformer).parameters() if p.requires_grad]
    if torch.is_grad_enabled() and trained:
        return cast(Tensor, _Beside.apply(compute, parts, *trained))

    def without_grad(videos: Tensor) -> Tensor:
        with torch.no_grad():
            return compute(videos)

    return torch.cat(beside(without_grad, parts))


class _Beside(torch.autograd.Function):
    """Forward and backward of each part in a thread of its own; gradients are summed in the parts' order."""

    @staticmethod
    def forward(
        ctx: Any, compute: Callable[[Tensor], Tensor], parts: Sequence[Tensor], *parameters: Tensor
    ) -> Tensor:
        def with_grad(videos: Tensor) -> Tensor:
            with torch.enable_grad():
                return compute(videos)

        ctx.parameters = parameters
        ctx.outputs = beside(with_grad, parts)
        return torch.cat([output.detach() for output in ctx.outputs])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        def differentiate(part: tuple[Tensor, Tensor]) -> tuple[Tensor | None, ...]:
            output, gradient = part
            return torch.autograd.grad(output, ctx.parameters, gradient, allow_unused=True)

        pieces = gradients[0].split([len(output) for output in ctx.outputs])
        found = beside(differentiate, list(zip(ctx.outputs, pieces, strict=True)))
        ctx.outputs = None
        sums = []
        for of_parameter in zip(*found, strict=True):
            known = [gradient for gradient in of_parameter if gradient is not None]
            sums.append(torch.stack(known).sum(0) if known else None)
        return None, None, *sums
