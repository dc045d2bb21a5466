"""Encoders that wait in the host's memory and come to the GPU for a call."""

from __future__ import annotations

from typing import Any

from phys4d.models.protocol import VideoModel

ENCODERS = ("text_encoder", "vae")


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
