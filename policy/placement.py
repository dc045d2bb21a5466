"""Where a model is: on the GPU if there is one, its encoders in the host's memory if asked for."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from phys4d.models.protocol import VideoModel
from policy.config import MemoryConfig

ENCODERS = ("text_encoder", "vae")


def place(
    model: VideoModel, heads: nn.Module | None, memory: MemoryConfig, device: torch.device | None = None
) -> torch.device:
    """Move model and heads; returns where to.

    Args:
        device: None is the GPU if there is one.
    """
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    module: Any = model
    module.to(device)
    if heads is not None:
        heads.to(device)
    if memory.offload:
        keep_encoders_on_host(model)
    return device


def keep_encoders_on_host(model: VideoModel) -> None:
    """Keep text encoder and autoencoder off the transformer's device but while they are called.

    Only what they give is kept, so that a call costs one copy of their weights each way.
    """
    backbone: Any = model
    device = backbone.transformer.device
    for name in ENCODERS:
        getattr(backbone, name).to("cpu")

    def carried(call: Any, name: str) -> Any:
        def called(*args: Any, **kwargs: Any) -> Any:
            encoder = getattr(backbone, name)
            encoder.to(device)
            try:
                return call(*args, **kwargs)
            finally:
                encoder.to("cpu")

        return called

    backbone.encode_text = carried(backbone.encode_text, "text_encoder")
    backbone.encode_video = carried(backbone.encode_video, "vae")
    backbone.decode_video = carried(backbone.decode_video, "vae")
