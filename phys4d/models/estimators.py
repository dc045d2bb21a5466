"""Off-the-shelf estimators of depth and flow from RGB: pseudo-labels, and a reading that no head can fool."""

from __future__ import annotations

import itertools
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, UInt8
from torch import Tensor
from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config

MAX_DEPTH_M = 10


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


def load_depth_estimator(directory: Path) -> DepthAnythingForDepthEstimation:
    """Read a depth estimator saved by `save_pretrained`."""
    if not (directory / "config.json").is_file():
        raise FileNotFoundError(f"no depth estimator in {directory}; train it with `make pretrain`")
    return DepthAnythingForDepthEstimation.from_pretrained(directory).eval()


@torch.no_grad()
def estimate_depth(
    estimator: DepthAnythingForDepthEstimation,
    rgb_NHW3: UInt8[Tensor, "images height width 3"],
    batch_size: int = 64,
) -> Float[Tensor, "images height width"]:
    """z-depth in metres, image by image."""
    parts = [
        estimator(part.movedim(-1, 1).float() / 127.5 - 1.0).predicted_depth
        for part in rgb_NHW3.split(batch_size)
    ]
    return torch.cat(parts)


class DisFlow:
    """OpenCV's DIS optical flow with a forward-backward check. Source: Kroeger et al. 2016."""

    name = f"dis-medium opencv {cv2.__version__}"

    def __init__(self) -> None:
        self._dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self._dis.setFinestScale(0)

    def __call__(
        self, rgb_THW3: UInt8[np.ndarray, "frames height width 3"]
    ) -> tuple[Float32[np.ndarray, "frames-1 height width 2"], Bool[np.ndarray, "frames-1 height width"]]:
        """Flow (du, dv) in pixels from each frame to the next, and where going there and back returns
        to within 1 pixel plus 5 % of the way."""
        forward, _, trusted = self.there_and_back(rgb_THW3)
        return forward, trusted

    def there_and_back(
        self, rgb_THW3: UInt8[np.ndarray, "frames height width 3"]
    ) -> tuple[
        Float32[np.ndarray, "frames-1 height width 2"],
        Float32[np.ndarray, "frames-1 height width 2"],
        Bool[np.ndarray, "frames-1 height width"],
    ]:
        """Flow from each frame to the next, from the next one back, and where the first is trusted."""
        gray = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in rgb_THW3]
        pairs = list(itertools.pairwise(gray))
        forward = np.stack([self._dis.calc(a, b, None) for a, b in pairs])
        backward = np.stack([self._dis.calc(b, a, None) for a, b in pairs])
        height, width = gray[0].shape
        columns, rows = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
        returned = np.stack(
            [
                cv2.remap(
                    back,
                    columns + there[..., 0],
                    rows + there[..., 1],
                    cv2.INTER_LINEAR,
                    None,
                    cv2.BORDER_REPLICATE,
                )
                for there, back in zip(forward, backward, strict=True)
            ]
        )
        gap = np.linalg.norm(forward + returned, axis=-1)
        length = np.linalg.norm(forward, axis=-1)
        target = np.stack([columns, rows], -1) + forward
        inside = ((target >= 0) & (target <= np.array([width - 1, height - 1]))).all(-1)
        return forward, backward, (gap < 1.0 + 0.05 * length) & inside
