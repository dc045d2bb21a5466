"""Whether objects are seen where the simulator has them, and nowhere else.

`scoring` follows points of frame 0, so what a video adds, a second ball or one that grows, costs it nothing.
This reward looks at every frame anew:

1. Rebuild the scene, simulate it and look at it through the camera at every frame. What is behind the objects
   at a pixel is seen in the frames in which none covers it.
2. Align generated depth to the simulator once, on static pixels of frame 0.
3. A pixel shows an object where its depth, generated or simulated, is `margin_m` nearer than what is behind.
   Both are lifted to clouds. What lies flatter than that, such as a thin sheet of liquid, is not seen.
4. For each frame after the first, take the truncated Chamfer distance between both clouds; reward
   1 / (1 + e / sigma), averaged over frames. An object where the simulator shows none at all is as bad as a
   missing one.

It does not look at the motion: an addition to `scene_chamfer`, not a substitute.
"""

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64

from phys4d.geometry.camera import unproject
from phys4d.metrics.chamfer import chamfer4d
from phys4d.metrics.chamfer_reward import chamfer_reward
from phys4d.reward.plugin import DataError
from phys4d.scenes.rays import cast, pixel_rays
from phys4d.scenes.registry import CATEGORIES
from phys4d.types import Camera, Rollout, Score
from reward_service.alignment import warp_residual
from reward_service.config import ChamferSettings, SurfaceSettings
from reward_service.scene_cache import SceneCache
from reward_service.scoring import align, version_of
from reward_service.truth import FirstFrame, resimulate

VERSION = "2"
CACHED_BYTES = 256 << 20


@dataclass(frozen=True, kw_only=True, eq=False)
class Surfaces:
    """What the camera sees of a simulated scene's objects."""

    rows: Int64[np.ndarray, " rows"]
    """Of the pixels that are looked at."""
    columns: Int64[np.ndarray, " columns"]
    limit_m: Float64[np.ndarray, "rows columns"]
    """A depth below this is an object's."""
    points_m: Float64[np.ndarray, "points 3"]
    """Of the objects, in the camera frame."""
    frame_id: Int64[np.ndarray, " points"]
    frozen_reward: float
    """Of a video in which every frame is the first."""


@dataclass(frozen=True, kw_only=True)
class FrameErrors:
    """How far what is seen is from what should be, for each frame after the first, metres up to tau."""

    cd_m: Float64[np.ndarray, " frames-1"]
    acc_m: Float64[np.ndarray, " frames-1"]
    """From generated points to true ones."""
    comp_m: Float64[np.ndarray, " frames-1"]
    """From true points to generated ones."""
    num_pred: Int64[np.ndarray, " frames-1"]
    num_gt: Int64[np.ndarray, " frames-1"]


_SEEN: SceneCache[Surfaces] = SceneCache(CACHED_BYTES)


class SurfaceChamfer:
    """Closeness of what is seen of objects in each frame to the simulation: also of what a video adds."""

    name = "surface_chamfer"

    def __init__(self, chamfer: ChamferSettings, surface: SurfaceSettings) -> None:
        self.chamfer = chamfer
        self.surface = surface
        # What aligns depth is all that it takes of the other rewards' settings.
        shared = ChamferSettings(
            max_points=chamfer.max_points, min_iou=chamfer.min_iou, fit_shift=chamfer.fit_shift
        )
        self.version = version_of(shared, surface, code=VERSION)

    def score(self, rollout: Rollout) -> Score:
        """Score one rollout; a function of the rollout, its scene and the settings alone.

        Components: `surface_cd_m`, `acc_m` (from generated points to true ones: high where something is too
        much) and `comp_m` (from true points: high where something is missing), means over frames after the
        first, truncated at tau; `area_ratio` of generated to true pixels; `missing_frames_fraction` of the
        frames with a true point, without any generated one; `frozen_reward` and `gain` over it;
        `alignment_scale`, `alignment_shift_m`, `alignment_residual_m`, `depth_warp_m`.

        Raises:
            DataError: the rollout cannot be scored, or no object is seen after frame 0.
        """
        start = time.perf_counter()
        read = align(rollout, self.chamfer)
        aligned = time.perf_counter()
        camera, spec = read.first.camera, rollout.scene
        seen = _SEEN.get(
            (spec.to_json(), camera.width, camera.height, self.surface),
            lambda: see(read.first, spec.num_frames, self.surface),
        )
        looked = time.perf_counter()
        depth = read.depth[:, seen.rows][:, :, seen.columns]
        points, frame_id = _lift(depth, depth < seen.limit_m, seen.rows, seen.columns, camera)
        lifted = time.perf_counter()
        errors = _compare(points, frame_id, seen.points_m, seen.frame_id, len(depth), self.surface)
        value = _reward(errors, self.surface)
        ended = time.perf_counter()
        shows = errors.num_gt > 0
        return Score(
            value=value,
            components={
                "surface_cd_m": float(errors.cd_m.mean()),
                "acc_m": float(errors.acc_m.mean()),
                "comp_m": float(errors.comp_m.mean()),
                "area_ratio": float(errors.num_pred.sum() / errors.num_gt.sum()),
                "missing_frames_fraction": float((errors.num_pred[shows] == 0).mean()),
                "frozen_reward": seen.frozen_reward,
                "gain": value - seen.frozen_reward,
                "alignment_scale": read.alignment.scale,
                "alignment_shift_m": read.alignment.shift_m,
                "alignment_residual_m": read.alignment.residual_m,
                "depth_warp_m": warp_residual(read.depth, read.motion),
            },
            scorer_version=self.version,
            simulator=CATEGORIES[spec.category].engine(),
            scoring_s=ended - start,
            phases_s={
                "simulate": read.simulate_s + looked - aligned,
                "lift": aligned - start - read.simulate_s + lifted - looked,
                "chamfer": ended - lifted,
            },
        )


def see(first: FirstFrame, num_frames: int, settings: SurfaceSettings) -> Surfaces:
    """Simulate a scene and look at it, on a lattice of pixels.

    Raises:
        DataError: it does not stay physical, or no object is seen after frame 0.
    """
    camera = first.camera
    rows, columns = lattice(camera.height, camera.width, settings.max_rays)
    rays = pixel_rays(camera)[rows][:, columns].reshape(-1, 3)
    trajectory = resimulate(first.scene)
    hits = [cast(first.scene, trajectory, frame, camera, rays) for frame in range(num_frames)]
    shape = (num_frames, len(rows), len(columns))
    depth = np.concatenate([hit.distance for hit in hits]).reshape(shape)
    depth = np.where(np.isfinite(depth), depth, np.inf)
    on_object = np.concatenate([hit.object_ids for hit in hits]).reshape(shape) > 0
    behind = np.where(on_object, -np.inf, depth).max(0)
    # What is always covered is told from its cover by the margin too.
    limit = np.where(on_object.all(0), depth.max(0) + settings.margin_m, behind - settings.margin_m)
    points, frame_id = _lift(depth, on_object & (depth < limit), rows, columns, camera)
    if not on_object[1:].any():
        raise DataError("NOTHING_TO_COMPARE", "no object is in the image after frame 0")
    if not (frame_id > 0).any():
        raise DataError(
            "NOTHING_TO_COMPARE",
            f"no object is {settings.margin_m} m before what is behind it, surface.margin_m, after frame 0; "
            "lower it",
        )
    still = points[frame_id == 0]
    frozen = np.concatenate([still] * num_frames), np.repeat(np.arange(num_frames), len(still))
    errors = _compare(*frozen, points, frame_id, num_frames, settings)
    return Surfaces(
        rows=rows,
        columns=columns,
        limit_m=limit,
        points_m=points,
        frame_id=frame_id,
        frozen_reward=_reward(errors, settings),
    )


def lattice(
    height: int, width: int, max_rays: int
) -> tuple[Int64[np.ndarray, " rows"], Int64[np.ndarray, " columns"]]:
    """Rows and columns of every n-th pixel, n as small as gives at most `max_rays` pixels."""
    stride = 1
    while math.ceil(height / stride) * math.ceil(width / stride) > max_rays:
        stride += 1
    rows, columns = (np.arange(min(stride, size) // 2, size, stride) for size in (height, width))
    return rows, columns


def _lift(
    depth: Float64[np.ndarray, "frames rows columns"],
    shown: Bool[np.ndarray, "frames rows columns"],
    rows: Int64[np.ndarray, " rows"],
    columns: Int64[np.ndarray, " columns"],
    camera: Camera,
) -> tuple[Float64[np.ndarray, "points 3"], Int64[np.ndarray, " points"]]:
    """The shown pixels as points in the camera frame, and their frames."""
    frame_id, row, column = np.nonzero(shown)
    uv = np.stack([columns[column] + 0.5, rows[row] + 0.5], -1)
    return unproject(uv, depth[shown], camera), frame_id


def _compare(
    points: np.ndarray,
    frame_id: np.ndarray,
    true_m: np.ndarray,
    true_frame_id: np.ndarray,
    num_frames: int,
    settings: SurfaceSettings,
) -> FrameErrors:
    """All that is seen in a frame is one object; frame 0 is left out: there nothing has moved yet."""
    ids: dict[str, Any] = {
        "pred_frame_id": frame_id,
        "gt_frame_id": true_frame_id,
        "pred_object_id": np.zeros_like(frame_id),
        "gt_object_id": np.zeros_like(true_frame_id),
    }
    terms = chamfer4d(points, true_m, **ids, shape=(1, num_frames, 1), tau_m=settings.tau_m)
    num_pred, num_gt = terms.num_pred[0, 1:, 0], terms.num_gt[0, 1:, 0]
    # Without true points, all that a video shows is too much, and showing nothing is right.
    added = np.where(num_pred > 0, settings.tau_m, 0.0)
    cd_m, acc_m, comp_m = (
        np.where(num_gt > 0, values[0, 1:, 0], instead)
        for values, instead in ((terms.cd1_m, added), (terms.acc_m, added), (terms.comp_m, 0.0))
    )
    return FrameErrors(cd_m=cd_m, acc_m=acc_m, comp_m=comp_m, num_pred=num_pred, num_gt=num_gt)


def _reward(errors: FrameErrors, settings: SurfaceSettings) -> float:
    """Every frame weighs the same."""
    cd_m = errors.cd_m[:, None]
    return float(chamfer_reward(cd_m, np.ones_like(cd_m), sigma_m=settings.sigma_m, floor_m=settings.floor_m))
