"""Linear layers that keep frozen weights in one byte each and compute in the type of their input."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

STORED = torch.float8_e4m3fn
"""Four bits of exponent, three of mantissa, up to 448."""


class _Product(torch.autograd.Function):
    """x W^T + b; what is kept for the backward pass is the weight as it is stored."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.input_dtype = x.dtype
        return F.linear(x, weight.to(x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        (weight,) = ctx.saved_tensors
        return (gradient @ weight.to(gradient.dtype)).to(ctx.input_dtype), None, None


class Float8Linear(nn.Module):
    """A frozen linear layer whose weight is rounded to e4m3; its bias stays as it was."""

    def __init__(self, layer: nn.Linear) -> None:
        """Takes the weights of `layer`, which is left without them.

        Raises:
            ValueError: weights beyond the range of e4m3, which it would turn into NaN.
        """
        super().__init__()
        largest = layer.weight.detach().abs().max().item()
        if not largest <= torch.finfo(STORED).max:
            raise ValueError(
                f"float8 holds weights up to {torch.finfo(STORED).max:g}, the largest is {largest:g}; "
                "use base_storage same"
            )
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.weight = nn.Parameter(layer.weight.detach().to(STORED), requires_grad=False)
        self.bias = layer.bias

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return _Product.apply(x, self.weight, bias)  # pyright: ignore[reportReturnType]
