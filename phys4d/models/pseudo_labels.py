"""Pseudo-labels: depth and motion of videos by estimators, computed once and kept on disk.

    CACHE/<digest of both estimators' ids>/estimators.json          the ids and `LABELS_VERSION`
                                           <SHA-256 of a video>.safetensors   depth, flow, trusted

A label is found by the video's content and the estimators' ids and versions, so another version's labels are
never used. The entries of a folder that holds other ids than its name says are refused.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Bool, Float, UInt8
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from phys4d.models.estimators import DepthEstimator
from phys4d.models.flow_estimators import FlowEstimator, checked_flows
from phys4d.models.geometry_losses import arrived_depth
from phys4d.runtime.files import atomic_write_text
from phys4d.runtime.progress import progress

LABELS_VERSION = 1
"""Of what is made of the estimators' results here and in `checked_flow`; raise it when that changes."""


@dataclass(frozen=True, eq=False)
class PseudoLabels:
    """What estimators say of N videos."""

    depth_NTHW: Float[Tensor, "videos frames height width"]
    """z-depth in metres, or inverse depth up to one scale and shift per video."""
    motion_NTHW3: Float[Tensor, "videos frames-1 height width 3"]
    """(du px, dv px, dz m); dz is depth where it arrives minus depth at the start, 0 for inverse depth."""
    trusted_NTHW: Bool[Tensor, "videos frames-1 height width"]
    """Where the flow passed its forward-backward check."""
    kind: Literal["metric", "inverse"]


def label_videos(
    depth: DepthEstimator,
    flow: FlowEstimator,
    rgb_NTHW3: UInt8[Tensor, "videos frames height width 3"],
    cache: Path | None = None,
    batch_size: int = 32,
) -> PseudoLabels:
    """Label videos of one shape, taking from `cache` what is there and adding what is not."""
    folder = None if cache is None else _folder(cache, depth.id, flow.id)
    paths = [None if folder is None else folder / f"{_digest(video)}.safetensors" for video in rgb_NTHW3]
    entries = [_read(path) for path in paths]
    missing = torch.tensor([i for i, entry in enumerate(entries) if entry is None], dtype=torch.long)
    if folder is not None:
        print(f"pseudo-labels: {len(paths) - len(missing)} of {len(paths)} found in {folder}", flush=True)
    parts = missing.split(batch_size) if len(missing) else ()
    for part in progress(parts, total=len(parts), desc="pseudo-labels", unit="batch"):
        for number, entry in zip(part.tolist(), _estimate(depth, flow, rgb_NTHW3[part]), strict=True):
            entries[number] = entry
            _write(paths[number], entry)
    whole = [entry for entry in entries if entry is not None]
    depth_NTHW, uv, trusted = (torch.stack([e[name] for e in whole]) for name in ("depth", "flow", "trusted"))
    return PseudoLabels(depth_NTHW, with_depth_change(depth_NTHW, uv, depth.kind), trusted, depth.kind)


def with_depth_change(
    depth_NTHW: Tensor, uv_NTHW2: Tensor, kind: Literal["metric", "inverse"] = "metric"
) -> Float[Tensor, "videos frames-1 height width 3"]:
    """Flow with a third channel: depth at the arrival pixel minus depth at the start, 0 for inverse depth."""
    change = arrived_depth(depth_NTHW, uv_NTHW2) - depth_NTHW[:, :-1]
    return torch.cat([uv_NTHW2, (change if kind == "metric" else 0.0 * change).unsqueeze(-1)], -1)


def align_frames(
    inverse_THW: Float[Tensor, "frames height width"],
    uv_THW2: Float[Tensor, "frames-1 height width 2"],
    trusted_THW: Bool[Tensor, "frames-1 height width"],
) -> Float[Tensor, "frames height width"]:
    """Give every frame of relative inverse depth the scale and shift of the first.

    Each frame is fitted by least squares to the one before it, at the pixels that trusted flow connects; a
    frame without any keeps its own. Depth of single images has a scale and shift per image; the losses allow
    one per video.
    """
    aligned = [inverse_THW[0]]
    for t, uv in enumerate(uv_THW2):
        arrived = arrived_depth(inverse_THW[None, t : t + 2], uv[None, None])[0, 0]
        x, y = arrived[trusted_THW[t]].double(), aligned[-1][trusted_THW[t]].double()
        spread = x.var(correction=0) if len(x) else torch.tensor(0.0)
        scale = ((x - x.mean()) * (y - y.mean())).mean() / spread if spread > 1e-12 else torch.tensor(0.0)
        if scale > 0:
            aligned.append((scale * inverse_THW[t + 1] + y.mean() - scale * x.mean()).to(inverse_THW.dtype))
        else:
            aligned.append(inverse_THW[t + 1])
    return torch.stack(aligned)


def _estimate(depth: DepthEstimator, flow: FlowEstimator, rgb_BTHW3: Tensor) -> list[dict[str, Tensor]]:
    """Depth, flow and trust of each of some videos."""
    depth_BTHW = depth(rgb_BTHW3.flatten(0, 1)).unflatten(0, rgb_BTHW3.shape[:2])
    entries = []
    flows = checked_flows(flow, list(rgb_BTHW3.numpy()))
    for (forward, _, checked), found in zip(flows, depth_BTHW, strict=True):
        uv, trusted = torch.from_numpy(forward), torch.from_numpy(checked)
        if depth.kind == "inverse":
            found = align_frames(found, uv, trusted)
        entries.append({"depth": found.contiguous(), "flow": uv, "trusted": trusted})
    return entries


def _folder(cache: Path, depth_id: str, flow_id: str) -> Path:
    ids = {"depth": depth_id, "flow": flow_id, "labels": LABELS_VERSION}
    folder = cache / hashlib.sha256(json.dumps(ids).encode()).hexdigest()[:16]
    path = folder / "estimators.json"
    if path.is_file():
        found = json.loads(path.read_text())
        if found != ids:
            raise ValueError(
                f"{folder} holds labels of {found}, not of {ids}; remove it to have them made anew"
            )
    else:
        atomic_write_text(path, json.dumps(ids, indent=1) + "\n")
    others = [other for other in cache.glob("*/estimators.json") if other != path]
    if others:
        print(f"pseudo-labels: those of {len(others)} other estimators or versions in {cache} are not used")
    return folder


def _digest(video: Tensor) -> str:
    return hashlib.sha256(
        f"{tuple(video.shape)} ".encode() + video.contiguous().numpy().tobytes()
    ).hexdigest()


def _write(path: Path | None, entry: dict[str, Tensor]) -> None:
    """Whole or not at all; an entry lost with the machine is made again, so none waits for the disk."""
    if path is None:
        return
    partial = path.with_suffix(f".{os.getpid()}.partial")
    save_file(entry, partial)
    os.replace(partial, path)


def _read(path: Path | None) -> dict[str, Tensor] | None:
    if path is None or not path.is_file():
        return None
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"damaged pseudo-label {path} ({error}); remove it to have it made anew") from error
