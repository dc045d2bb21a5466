"""Off-the-shelf estimators of depth from RGB: pseudo-labels, and a reading that no head can fool.

Flow is in `phys4d.models.flow_estimators`. An estimator's `id` names it and its version: labels are kept
under it and never mistaken for another's.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config

from phys4d.models.loading import check_safetensors, load_whole
from phys4d.runtime.threads import beside

MAX_DEPTH_M = 10


class DepthEstimator(Protocol):
    """Depth of single images."""

    @property
    def id(self) -> str:
        """Name and version: the weights' digest is in it."""
        ...

    @property
    def kind(self) -> Literal["metric", "inverse"]:
        """z-depth in metres, or inverse depth up to one scale and shift per image."""
        ...

    def __call__(
        self, rgb_NHW3: UInt8[Tensor, "images height width 3"]
    ) -> Float[Tensor, "images height width"]:
        """Estimate, image by image."""
        ...

    def save(self, directory: Path) -> None:
        """Write what `load_depth_estimator` reads."""
        ...


class TinyDepth:
    """Our small monocular network for machines without weights: a metric Depth Anything."""

    kind: Literal["metric"] = "metric"

    def __init__(self, model: DepthAnythingForDepthEstimation) -> None:
        self.model = model.eval()

    @property
    def id(self) -> str:
        return f"tiny-depth-anything sha256:{weights_digest(self.model)}"

    def __call__(self, rgb_NHW3: Tensor, batch_size: int = 16) -> Tensor:
        device = self.model.device

        @torch.no_grad()
        def estimate(part: Tensor) -> Tensor:
            return self.model(part.to(device).movedim(-1, 1).float() / 127.5 - 1.0).predicted_depth

        return torch.cat(beside(estimate, rgb_NHW3.split(batch_size), device.type)).to(rgb_NHW3.device)

    def save(self, directory: Path) -> None:
        self.model.save_pretrained(directory)


class PublishedDepth:
    """A depth model of `transformers` with its image processor: Depth Anything V2, Depth Pro, DPT, ZoeDepth.

    Video Depth Anything is not among them; `phys4d.models.pseudo_labels` aligns the frames of relative depth.
    """

    def __init__(self, source: str, model: Any, processor: Any) -> None:
        self.source = source
        self.model = model.eval()
        self.processor = processor
        relative = getattr(model.config, "depth_estimation_type", "") == "relative"
        self.kind: Literal["metric", "inverse"] = (
            "inverse" if relative or model.config.model_type == "dpt" else "metric"
        )

    @property
    def id(self) -> str:
        settings = [_lasting(self.model.config.to_dict()), _lasting(self.processor.to_dict())]
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:16]
        return (
            f"{type(self.model).__name__} of {self.source} sha256:{weights_digest(self.model)} "
            f"settings sha256:{digest}"
        )

    @torch.no_grad()
    def __call__(self, rgb_NHW3: Tensor, batch_size: int = 8) -> Tensor:
        size = tuple(rgb_NHW3.shape[1:3])
        post_process = self.processor.post_process_depth_estimation
        parts: list[Tensor] = []
        for part in rgb_NHW3.split(batch_size):
            inputs = self.processor(images=list(part.movedim(-1, 1)), return_tensors="pt").to(
                self.model.device
            )
            sizes = {"target_sizes": [size] * len(part)}
            if "source_sizes" in inspect.signature(post_process).parameters:
                sizes["source_sizes"] = [size] * len(part)
            parts += [found["predicted_depth"] for found in post_process(self.model(**inputs), **sizes)]
        return torch.stack(parts).to(rgb_NHW3.device, torch.float32)

    def save(self, directory: Path) -> None:
        self.model.save_pretrained(directory)
        self.processor.save_pretrained(directory)


def _lasting(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings without what only says where, by what and in which type they were read; parts likewise."""
    passing = ("transformers_version", "dtype", "torch_dtype")
    return {
        str(name): _lasting(value) if isinstance(value, dict) else value
        for name, value in settings.items()
        if not str(name).startswith("_") and name not in passing
    }


def weights_digest(model: nn.Module) -> str:
    """First 16 hexadecimal digits of the SHA-256 of every weight's name, type, shape and bytes."""
    digest = hashlib.sha256()
    for name, weight in model.state_dict().items():
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def tiny_depth_anything(size: int = 64) -> DepthAnythingForDepthEstimation:
    """An untrained metric Depth Anything of .6 M parameters, to be trained on simulator frames.

    No package on the registries ships depth weights, so machines without hub access train this one; it is a
    monocular estimator with an estimator's errors. Source: Yang et al., Depth Anything V2, 2024.
    """
    backbone = Dinov2Config(
        hidden_size=96,
        num_hidden_layers=4,
        num_attention_heads=4,
        mlp_ratio=2,
        image_size=size,
        patch_size=8,
        out_features=["stage1", "stage2", "stage3", "stage4"],  # pyright: ignore[reportCallIssue]
        reshape_hidden_states=False,
    )
    return DepthAnythingForDepthEstimation(
        DepthAnythingConfig(
            backbone_config=backbone,
            patch_size=8,
            reassemble_hidden_size=96,
            neck_hidden_sizes=[24, 32, 48, 64],
            fusion_hidden_size=32,
            head_hidden_size=16,
            depth_estimation_type="metric",
            max_depth=MAX_DEPTH_M,
        )
    )


def load_depth_estimator(directory: Path) -> DepthEstimator:
    """Read a depth estimator that stage 1 saved."""
    if not (directory / "config.json").is_file():
        raise FileNotFoundError(f"no depth estimator in {directory}; train it with `make pretrain`")
    if (directory / "preprocessor_config.json").is_file():
        return published_depth(str(directory))
    _check_files(directory)
    return TinyDepth(load_whole(DepthAnythingForDepthEstimation, directory))


def _check_files(directory: Path) -> None:
    """Refuse a folder without weights, and files that are cut short."""
    files = sorted(directory.glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(f"no depth weights (*.safetensors) in {directory}; download them all again")
    for path in files:
        check_safetensors(path)


def published_depth(source: str) -> PublishedDepth:
    """A depth model from a folder or the hub, e.g. `depth-anything/Depth-Anything-V2-Small-hf`.

    Raises:
        FileNotFoundError: its weights are not to be had.
        ValueError: the model is none for depth, or a file of it is damaged.
    """
    from transformers import AutoImageProcessor, AutoModelForDepthEstimation

    if Path(source).is_dir():
        _check_files(Path(source))
    try:
        model = load_whole(cast(Any, AutoModelForDepthEstimation), source)
        processor = AutoImageProcessor.from_pretrained(source)
    except OSError as error:
        if Path(source).is_dir():
            raise ValueError(
                f"{source} is no folder of a depth model: {str(error).splitlines()[0]}; download it again"
            ) from error
        raise FileNotFoundError(
            f"the weights of depth estimator {source} are not on this machine and the hub did not give them "
            f"({type(error).__name__}); where there is a network run `hf download {source} --local-dir "
            "FOLDER` and give --depth FOLDER, or train ours with --depth tiny"
        ) from error
    return PublishedDepth(source, model, processor)
