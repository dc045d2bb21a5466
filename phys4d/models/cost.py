"""Memory and arithmetic of one step of a model, counted on shapes alone, without weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, Literal

import torch
from diffusers import ModelMixin
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from phys4d.models.backbone import Backbone
from phys4d.models.lora import add_lora
from phys4d.models.protocol import Conditioning
from phys4d.models.registry import meta_model

BYTES_BF16 = 2


def num_parameters(module: nn.Module) -> int:
    """Parameters, trained or not."""
    return sum(p.numel() for p in module.parameters())


def base_bytes(transformer: ModelMixin, weight_bytes: int, storage: Literal["same", "float8"]) -> int:
    """Bytes of the frozen weights under an adapter, as they are loaded and `store_base` then stores them.

    What its class keeps in float32 takes 4 bytes a weight. With `float8` a weight with an adapter takes one.

    Args:
        transformer: with an adapter attached.
        weight_bytes: of one weight as it is loaded.
    """
    in_float32 = set(transformer._keep_in_fp32_modules or ())
    adapted = {
        id(module.get_base_layer().weight)
        for module in transformer.modules()
        if storage == "float8" and isinstance(module, BaseTunerLayer)
    }
    total = 0
    for name, parameter in transformer.named_parameters():
        if parameter.requires_grad:
            continue
        each = 4 if in_float32 & set(name.split(".")) else weight_bytes
        total += parameter.numel() * (1 if id(parameter) in adapted else each)
    return total


def inputs(model: Backbone, shape: tuple[int, ...], device: str) -> tuple[Tensor, Conditioning]:
    """Empty latents of one video and its conditioning."""
    text = torch.empty(1, model.text_length, model.text_encoder.config.d_model, device=device)
    first = torch.empty(1, shape[0], *shape[2:], device=device)
    return torch.empty(1, *shape, device=device), Conditioning(text, first)


@cache
def forward_flops(preset: str, size: tuple[int, int, int]) -> dict[str, int]:
    """FLOPs (2 per multiply-add, matrix products and convolutions) of one call for one video.

    Args:
        size: video frames, height and width.
    """
    model = meta_model(preset)
    latents, conditioning = inputs(model, model.latent_shape(*size), "meta")
    return {
        "denoiser_call": _counted(lambda: model.predict(latents, 0.5, conditioning)),
        "encode_video": _counted(lambda: model.encode_video(torch.empty(1, 3, *size, device="meta"))),
        "decode_video": _counted(lambda: model.decode_video(latents)),
    }


@cache
def training_step(
    preset: str, size: tuple[int, int, int], *, rank: int, checkpointing: bool
) -> dict[str, int]:
    """FLOPs and saved activations (bytes) of one LoRA step on one video, the transformer in bfloat16.

    Activations are what autograd keeps for the backward pass with a fused attention kernel; the short-lived
    buffers of single kernels come on top. With checkpointing, one block's activations live at a time besides
    the inputs of all; they are counted once.
    """
    model = _adapted(meta_model(preset), rank, checkpointing)
    latents, conditioning = inputs(model, model.latent_shape(*size), "meta")
    flops = _counted(
        lambda: model.predict(latents, 0.5, conditioning).velocity_BCThw.sum().backward(), grad=True
    )
    saved = _saved_bytes(preset, size, rank, checkpointing)
    if checkpointing:
        saved += _saved_bytes(preset, size, rank, False) // len(model.blocks)
    return {"flops": flops, "activation_bytes": saved}


def _adapted(model: Backbone, rank: int, checkpointing: bool) -> Backbone:
    """The model as a LoRA step sees it."""
    # Past ModelMixin, which warns of layers that are kept in float32 when weights are loaded.
    nn.Module.to(model.transformer, torch.bfloat16)
    if checkpointing:
        model.transformer.enable_gradient_checkpointing()
    add_lora(model.transformer, "policy", rank=rank, targets=model.lora_targets)
    model.transformer.train()
    return model


def _saved_bytes(preset: str, size: tuple[int, int, int], rank: int, checkpointing: bool) -> int:
    """Bytes that autograd keeps of one forward call, weights not counted."""
    model = _adapted(meta_model(preset), rank, checkpointing)
    latents, conditioning = inputs(model, model.latent_shape(*size), "meta")
    weights = {p.untyped_storage()._cdata for p in model.transformer.parameters()}
    saved: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage()._cdata not in weights:
            saved[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), _WithFusedAttention():
        model.predict(latents, 0.5, conditioning)
    return sum(tensor.untyped_storage().nbytes() for tensor in saved.values())


class _FusedAttention(torch.autograd.Function):
    """What a fused kernel keeps: inputs, output and one number per row; the meta device keeps the matrix."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        output = torch.empty_like(query)
        ctx.save_for_backward(
            query, key, value, output, query.new_empty(query.shape[:-1], dtype=torch.float32)
        )
        return output


class _WithFusedAttention(TorchFunctionMode):
    """Attention saves what a fused kernel saves."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is F.scaled_dot_product_attention:
            tensors = {**dict(zip(("query", "key", "value"), args, strict=False)), **(kwargs or {})}
            return _FusedAttention.apply(tensors["query"], tensors["key"], tensors["value"])
        return func(*args, **(kwargs or {}))


def _counted(call: Callable[[], object], *, grad: bool = False) -> int:
    with torch.set_grad_enabled(grad), FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()
