"""Off-the-shelf estimators of optical flow, and the check that going there and back returns."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol
from urllib.error import URLError

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float32, UInt8
from torch.nn import functional as F

from phys4d.models.estimators import weights_digest
from phys4d.runtime.threads import beside

FlowName = Literal["dis", "raft-small", "raft-large"]
RAFT_LEAST_SIDE = 128
"""RAFT looks up an eighth of the resolution in a pyramid of four levels; smaller frames are enlarged."""


class FlowEstimator(Protocol):
    """Optical flow of pairs of images; called from several threads at once."""

    device: str
    """Where it runs, as torch names it."""

    @property
    def id(self) -> str:
        """Name and version."""
        ...

    def __call__(
        self,
        first_PHW3: UInt8[np.ndarray, "pairs height width 3"],
        second_PHW3: UInt8[np.ndarray, "pairs height width 3"],
    ) -> Float32[np.ndarray, "pairs height width 2"]:
        """(du, dv) in pixels that carries each pixel of the first image to the second."""
        ...


class DisFlow:
    """OpenCV's DIS optical flow; it has no weights. Source: Kroeger et al. 2016."""

    id = f"dis-medium opencv {cv2.__version__}"
    device = "cpu"

    def __call__(self, first_PHW3: np.ndarray, second_PHW3: np.ndarray) -> np.ndarray:
        # It has buffers, so each call has its own.
        dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        dis.setFinestScale(0)
        gray = [
            [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in images]
            for images in (first_PHW3, second_PHW3)
        ]
        return np.stack([dis.calc(a, b, None) for a, b in zip(*gray, strict=True)])


class RaftFlow:
    """torchvision's RAFT. Source: Teed and Deng 2020."""

    def __init__(self, model: Any, name: str, device: str = "cpu") -> None:
        self.model = model.eval().to(device)
        self.name = name
        self.device = device

    @property
    def id(self) -> str:
        return f"{self.name} sha256:{weights_digest(self.model)}"

    @torch.no_grad()
    def __call__(self, first_PHW3: np.ndarray, second_PHW3: np.ndarray, batch_size: int = 8) -> np.ndarray:
        height, width = first_PHW3.shape[1:3]
        factor = max(1.0, RAFT_LEAST_SIDE / min(height, width))
        rows, columns = (8 * max(16, round(side * factor / 8)) for side in (height, width))
        parts = []
        for start in range(0, len(first_PHW3), batch_size):
            pair = [
                F.interpolate(
                    torch.from_numpy(images[start : start + batch_size])
                    .to(self.device)
                    .movedim(-1, 1)
                    .float()
                    / 127.5
                    - 1.0,
                    (rows, columns),
                    mode="bilinear",
                    align_corners=False,
                )
                for images in (first_PHW3, second_PHW3)
            ]
            flow = F.interpolate(self.model(*pair)[-1], (height, width), mode="bilinear", align_corners=False)
            parts.append(
                flow.movedim(1, -1) * torch.tensor([width / columns, height / rows], device=self.device)
            )
        return torch.cat(parts).cpu().numpy()


def load_flow_estimator(name: FlowName, weights: Path | None = None, device: str = "cpu") -> FlowEstimator:
    """A flow estimator by name.

    Args:
        weights: file of torchvision's RAFT weights; None takes them from torch's cache or the network.

    Raises:
        FileNotFoundError: RAFT's weights are not to be had.
        ValueError: the file holds other weights.
    """
    if name == "dis":
        return DisFlow()
    from torchvision.models import optical_flow

    make, published = {
        "raft-small": (optical_flow.raft_small, optical_flow.Raft_Small_Weights.DEFAULT),
        "raft-large": (optical_flow.raft_large, optical_flow.Raft_Large_Weights.DEFAULT),
    }[name]
    model: Any = make(weights=None)
    if weights is not None:
        if not weights.is_file():
            raise FileNotFoundError(
                f"no weights of {name} at {weights}; they are published at {published.url}"
            )
        try:
            model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        except (RuntimeError, EOFError, TypeError, pickle.UnpicklingError) as error:
            raise ValueError(
                f"{weights} is no whole weights file of {name} ({type(error).__name__}); download "
                f"{published.url} again"
            ) from error
    else:
        try:
            model.load_state_dict(published.get_state_dict(check_hash=True))
        except (URLError, OSError) as error:
            raise FileNotFoundError(
                f"the weights of {name} are not on this machine and {published.url} did not give them "
                f"({type(error).__name__}); download that file and give --flow-weights FILE, or --flow dis"
            ) from error
    return RaftFlow(model, name, device)


CheckedFlow = tuple[
    Float32[np.ndarray, "frames-1 height width 2"],
    Float32[np.ndarray, "frames-1 height width 2"],
    Bool[np.ndarray, "frames-1 height width"],
]
"""Of a video: flow there, flow back, and where the first is trusted."""


def checked_flows(
    flow: FlowEstimator, rgb_NTHW3: Sequence[UInt8[np.ndarray, "frames height width 3"]]
) -> list[CheckedFlow]:
    """`checked_flow` of each video."""
    return beside(lambda video: checked_flow(flow, video), rgb_NTHW3, flow.device)


def checked_flow(flow: FlowEstimator, rgb_THW3: UInt8[np.ndarray, "frames height width 3"]) -> CheckedFlow:
    """Flow from each frame to the next and from the next one back, and where going there and back returns to
    within 1 pixel plus 5 % of the way, without leaving the image.

    Source: Sundaram et al., Dense Point Trajectories by GPU-accelerated Optical Flow, ECCV 2010.
    """
    forward, backward = flow(rgb_THW3[:-1], rgb_THW3[1:]), flow(rgb_THW3[1:], rgb_THW3[:-1])
    height, width = forward.shape[1:3]
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
