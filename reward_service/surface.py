"""Whether objects are seen where the simulator has them, and nowhere else.

`scoring` follows points of frame 0, so what a video adds, a second ball or one that grows, costs it nothing.
This reward looks at every frame anew:

1. Rebuild the scene, simulate it and look at it through the camera at every frame. What is behind the objects
   at a pixel is seen in the frames in which none covers it.
2. Align generated depth to the simulator once, on static pixels of frame 0.
3. A pixel shows an object where its depth, generated or simulated, is `margin_m` nearer than what is behind.
   Both are lifted to clouds.
4. For each frame after the first, take the truncated Chamfer distance between both clouds; reward
   1 / (1 + e / sigma), averaged over frames.

It does not look at the motion: an addition to `scene_chamfer`, not a substitute.
"""

import time
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from jaxtyping import Bool, Float64, Int64

from phys4d.geometry.camera import unproject
from phys4d.metrics.chamfer import ChamferTerms, chamfer4d
from phys4d.metrics.chamfer_reward import chamfer_reward
from phys4d.reward.plugin import DataError
from phys4d.scenes.rays import cast, pixel_rays
from phys4d.scenes.registry import CATEGORIES
from phys4d.types import Camera, Rollout, Score
from reward_service.config import ChamferSettings, SurfaceSettings
from reward_service.scoring import align, version_of
from reward_service.truth import FirstFrame, SceneTruth, resimulate


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


_KNOWN: WeakKeyDictionary[SceneTruth, dict[SurfaceSettings, Surfaces]] = WeakKeyDictionary()
"""Lives as long as a scene is remembered."""


class SurfaceChamfer:
    """Closeness of what is seen of objects in each frame to the simulation: also of what a video adds."""

    name = "surface_chamfer"

    def __init__(self, chamfer: ChamferSettings, surface: SurfaceSettings) -> None:
        self.chamfer = chamfer
        self.surface = surface
        self.version = version_of(chamfer, surface)

    def score(self, rollout: Rollout) -> Score:
        """Score one rollout; a function of the rollout, its scene and the settings alone.

        Components: `cd_frame_m`, `acc_m` (from generated points to true ones: high where something is too
        much) and `comp_m` (from true points: high where something is missing), means over frames after the
        first, truncated at tau; `area_ratio` of generated to true pixels; `missing_fraction` of the frames,
        without any generated point; `frozen_reward` and `gain` over it; `alignment_scale`,
        `alignment_shift_m`, `alignment_residual_m`.

        Raises:
            DataError: the rollout cannot be scored, or no object is in the image after frame 0.
        """
        start = time.perf_counter()
        read = align(rollout, self.chamfer)
        known = _KNOWN.setdefault(read.truth, {})
        aligned = time.perf_counter()
        if self.surface not in known:
            known[self.surface] = see(read.first, rollout.scene.num_frames, self.surface)
        seen = known[self.surface]
        looked = time.perf_counter()
        depth = read.depth[:, seen.rows][:, :, seen.columns]
        points, frame_id = _lift(depth, depth < seen.limit_m, seen.rows, seen.columns, read.first.camera)
        lifted = time.perf_counter()
        terms = _compare(points, frame_id, seen.points_m, seen.frame_id, len(depth), self.surface)
        value = _reward(terms, self.surface)
        ended = time.perf_counter()
        compared = np.isfinite(terms.cd1_m[0, 1:, 0])
        means = {
            f"{name}_m": getattr(terms, f"{name}_m")[0, 1:, 0][compared].mean() for name in ("acc", "comp")
        }
        return Score(
            value=value,
            components={
                "cd_frame_m": float(terms.cd1_m[0, 1:, 0][compared].mean()),
                **{name: float(mean) for name, mean in means.items()},
                "area_ratio": float(terms.num_pred[0, 1:][compared].sum() / terms.num_gt[0, 1:].sum()),
                "missing_fraction": float(terms.missing[0, 1:, 0][compared].mean()),
                "frozen_reward": seen.frozen_reward,
                "gain": value - seen.frozen_reward,
                "alignment_scale": read.alignment.scale,
                "alignment_shift_m": read.alignment.shift_m,
                "alignment_residual_m": read.alignment.residual_m,
            },
            scorer_version=self.version,
            simulator=CATEGORIES[rollout.scene.category].engine(),
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
        DataError: it does not stay physical, or no object is in the image after frame 0.
    """
    camera = first.camera
    stride = int(np.ceil(np.sqrt(camera.height * camera.width / settings.max_rays)))
    rows = np.arange(stride // 2, camera.height, stride)
    columns = np.arange(stride // 2, camera.width, stride)
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
    if not (frame_id > 0).any():
        raise DataError("NOTHING_TO_COMPARE", "no object is in the image after frame 0")
    still = points[frame_id == 0]
    frozen = np.concatenate([still] * num_frames), np.repeat(np.arange(num_frames), len(still))
    terms = _compare(*frozen, points, frame_id, num_frames, settings)
    return Surfaces(
        rows=rows,
        columns=columns,
        limit_m=limit,
        points_m=points,
        frame_id=frame_id,
        frozen_reward=_reward(terms, settings),
    )


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
) -> ChamferTerms:
    """All that is seen in a frame is one object."""
    ids: dict[str, Any] = {
        "pred_frame_id": frame_id,
        "gt_frame_id": true_frame_id,
        "pred_object_id": np.zeros_like(frame_id),
        "gt_object_id": np.zeros_like(true_frame_id),
    }
    return chamfer4d(points, true_m, **ids, shape=(1, num_frames, 1), tau_m=settings.tau_m)


def _reward(terms: ChamferTerms, settings: SurfaceSettings) -> float:
    """Frame 0 is left out: there nothing has moved yet."""
    cd1_m = terms.cd1_m[0, 1:]
    return float(
        chamfer_reward(cd1_m, np.ones_like(cd1_m), sigma_m=settings.sigma_m, floor_m=settings.floor_m)
    )
