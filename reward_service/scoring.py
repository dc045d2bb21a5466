"""How well a generated video keeps to the simulated motion of its objects.

1. Rebuild the scene and simulate it; points on the surfaces seen in frame 0 move with their objects.
2. Align generated depth to the simulator with one scale and shift, fitted on the background of frame 0.
3. Carry the same points of frame 0 along the generated motion and lift them with the aligned depth.
4. The reward `rollout_chamfer` simulates again, with the initial velocities that the generated motion of the
   first frames tells (`nearest`); `scene_chamfer` keeps those of the scene.
5. For each object and each frame after the first, take the truncated Chamfer distance between both clouds;
   reward 1 / (1 + e / sigma), averaged with the objects' true path lengths as weights.

What is missing counts as tau, input that makes no sense is a `DataError`, and nothing is fitted per frame.
"""

import hashlib
import time
from dataclasses import dataclass
from typing import Literal
from weakref import WeakKeyDictionary

import numpy as np
from jaxtyping import Float64

from phys4d.geometry.camera import unproject
from phys4d.geometry.motion import carry_points
from phys4d.metrics.chamfer import ChamferTerms, chamfer4d
from phys4d.metrics.chamfer_reward import chamfer_reward, motion_weight
from phys4d.reward.plugin import DataError
from phys4d.scenes.registry import CATEGORIES
from phys4d.types import Rollout, Score
from reward_service.alignment import Alignment, align_depth, warp_residual
from reward_service.config import ChamferSettings, SurfaceSettings
from reward_service.nearest import nearest_trajectory
from reward_service.truth import FirstFrame, SceneTruth, check_camera, check_masks, follow, rebuild

Mode = Literal["scene", "rollout"]

VERSION = "1"
MIN_MASK_PIXELS = 12
STATIC_WEIGHT_M = 0.05


def version_of(*settings: ChamferSettings | SurfaceSettings, code: str = VERSION) -> str:
    """Version of the code and a digest of the settings: scores under other settings do not compare."""
    told = ", ".join(map(repr, settings))
    return f"{code}+{hashlib.sha256(told.encode()).hexdigest()[:8]}"


class SceneChamfer:
    """Closeness to the simulation of the scene as it was drawn."""

    name = "scene_chamfer"

    def __init__(self, settings: ChamferSettings) -> None:
        self.settings = settings
        self.version = version_of(settings)

    def score(self, rollout: Rollout) -> Score:
        """Score one rollout."""
        return score(rollout, self.settings)


class RolloutChamfer:
    """Closeness to the nearest physically valid motion: simulated from the velocities the video starts with.

    It judges physics alone: a ball that rolls the other way than the prompt says, but rolls as balls do, is
    right, and so is a book that stays on its table.
    """

    name = "rollout_chamfer"

    def __init__(self, settings: ChamferSettings, *, num_threads: int = 1) -> None:
        self.settings = settings
        self.version = version_of(settings)
        self.num_threads = num_threads

    def score(self, rollout: Rollout) -> Score:
        """Score one rollout."""
        return score(rollout, self.settings, mode="rollout", num_threads=self.num_threads)


def score(
    rollout: Rollout, settings: ChamferSettings, *, mode: Mode = "scene", num_threads: int = 1
) -> Score:
    """Score a rollout; a function of the rollout, its scene, the settings and the mode alone.

    Args:
        mode: `scene` simulates the scene's initial state, `rollout` the initial velocities that the generated
            motion shows.
        num_threads: threads of the simulations of mode `rollout`.

    Components: `cd_frame_m` (mean truncated Chamfer distance over frames and objects), `cd1_m`, `cd2_sum_m2`,
    `acc_m`, `comp_m` (weighted by true path length), `track_l2_m` (distance of each carried point to its own
    true point), `centroid_l2_m` and `final_centroid_l2_m` (of the objects' centroids), all of these truncated
    at tau; `missing_fraction` of the points; `frozen_reward` (of points that stay where they were) and `gain`
    over it; `alignment_scale`, `alignment_shift_m`, `alignment_residual_m`, `depth_warp_m`; `num_objects`.
    Mode `rollout` adds `fit_residual_m`, how far the simulated points are from the carried ones in the first
    frames, and `velocity_change`, the largest difference of a velocity (m/s, rad/s) from the scene's.

    Raises:
        DataError: the rollout cannot be scored; see the reasons in this module, in `truth` and in `nearest`.
    """
    start = time.perf_counter()
    read = align(rollout, settings)
    first, truth, depth, motion, alignment = read.first, read.truth, read.depth, read.motion, read.alignment
    tracks = carry_points(first.pixels, depth, motion)
    z_m = tracks.lifted_m if settings.depth_source == "lifted" else tracks.carried_m
    points = unproject(tracks.uv, z_m, first.camera)

    lifted = time.perf_counter()
    extra = {}
    if mode == "rollout":
        nearest = nearest_trajectory(
            first, points, tracks.present, num_frames=settings.fit_frames, num_threads=num_threads
        )
        truth = follow(first, nearest.trajectory)
        change = float(np.abs(nearest.qvel - first.scene.qvel).max())
        extra = {"fit_residual_m": nearest.residual_m, "velocity_change": change}
    simulated = time.perf_counter()
    weight = _weights(truth)
    terms = _compare(points, tracks.present, truth, settings)
    if not (np.isfinite(terms.cd1_m[0, 1:]) & (weight[1:] > 0)).any():
        raise DataError("NOTHING_TO_COMPARE", "no object is in the image after frame 0")
    value = _reward(terms, weight, settings)
    frozen_value = _frozen_reward(truth, settings)
    components = {
        **_chamfer_components(terms, weight),
        **_track_components(points, tracks.present, truth, settings.tau_m),
        "frozen_reward": frozen_value,
        "gain": value - frozen_value,
        "alignment_scale": alignment.scale,
        "alignment_shift_m": alignment.shift_m,
        "alignment_residual_m": alignment.residual_m,
        "depth_warp_m": warp_residual(depth, motion),
        "num_objects": float(truth.num_objects),
        **extra,
    }
    ended = time.perf_counter()
    return Score(
        value=value,
        components=components,
        scorer_version=version_of(settings),
        simulator=CATEGORIES[rollout.scene.category].engine(),
        scoring_s=ended - start,
        phases_s={
            "simulate": read.simulate_s + simulated - lifted,
            "lift": lifted - start - read.simulate_s,
            "chamfer": ended - simulated,
        },
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Aligned:
    """A rollout that can be scored, its depth in metres, and the scene it is compared with."""

    first: FirstFrame
    truth: SceneTruth
    depth: Float64[np.ndarray, "frames height width"]
    """z-depth in metres."""
    motion: Float64[np.ndarray, "frames-1 height width 3"]
    """(du, dv) in pixels and dz in metres."""
    alignment: Alignment
    simulate_s: float
    """What rebuilding the scene took, in seconds."""


def align(rollout: Rollout, settings: ChamferSettings) -> Aligned:
    """Check a rollout, rebuild its scene, and align its depth to the simulator's on static pixels of frame 0.

    Raises:
        DataError: the rollout cannot be scored, or is not of its scene.
    """
    depth, motion = _checked_arrays(rollout)
    start = time.perf_counter()
    first, truth = rebuild(rollout.scene, rollout.camera.width, rollout.camera.height, settings.max_points)
    simulate_s = time.perf_counter() - start
    check_camera(rollout.camera, first.camera)
    check_masks(rollout.object_ids, first, settings.min_iou, MIN_MASK_PIXELS)
    if len(first.pixels) == 0:
        raise DataError("NO_VISIBLE_OBJECT", "no object shows in frame 0, so there is nothing to follow")
    background = (first.object_ids == 0) & (rollout.object_ids == 0)
    alignment = align_depth(depth[0], first.depth_m, background, fit_shift=settings.fit_shift)
    return Aligned(
        first=first,
        truth=truth,
        depth=alignment.scale * depth + alignment.shift_m,
        # A change of depth is scaled like depth; the shift drops out of it.
        motion=motion * (1.0, 1.0, alignment.scale),
        alignment=alignment,
        simulate_s=simulate_s,
    )


def _checked_arrays(rollout: Rollout) -> tuple[np.ndarray, np.ndarray]:
    """Depth and motion as float64, of the right shape and finite."""
    num_frames, size = rollout.scene.num_frames, (rollout.camera.height, rollout.camera.width)
    expected = {
        "depth": (num_frames, *size),
        "motion": (num_frames - 1, *size, 3),
        "object_ids": size,
    }
    for name, shape in expected.items():
        actual = np.shape(getattr(rollout, name))
        if actual != shape:
            raise DataError("WRONG_SHAPE", f"{name} must be {shape} for this scene and camera, got {actual}")
    depth, motion = np.asarray(rollout.depth, np.float64), np.asarray(rollout.motion, np.float64)
    for name, array in (("depth", depth), ("motion", motion)):
        bad = array.size - np.count_nonzero(np.isfinite(array))
        if bad:
            raise DataError(f"NON_FINITE_{name.upper()}", f"{name} has {bad} values that are not finite")
    if depth.min() <= 0:
        raise DataError("NON_POSITIVE_DEPTH", f"depth must be above 0 m, got {depth.min():g}")
    return depth, motion


def _weights(truth: SceneTruth) -> np.ndarray:
    """Weight of each frame and object: its path length plus 5 cm, so that objects at rest matter a little."""
    weight = motion_weight(truth.travel_m, static_m=STATIC_WEIGHT_M)
    weight[np.bincount(truth.object_index, minlength=truth.num_objects) == 0] = 0.0
    return np.broadcast_to(weight, (len(truth.points_m), truth.num_objects))


def _reward(terms: ChamferTerms, weight: np.ndarray, settings: ChamferSettings) -> float:
    """Frame 0 is left out: there nothing has moved yet."""
    cd1_m = terms.cd1_m[0, 1:]
    return float(chamfer_reward(cd1_m, weight[1:], sigma_m=settings.sigma_m, floor_m=settings.floor_m))


_FROZEN: WeakKeyDictionary[SceneTruth, dict[ChamferSettings, float]] = WeakKeyDictionary()
"""Lives as long as a scene is remembered."""


def _frozen_reward(truth: SceneTruth, settings: ChamferSettings) -> float:
    """Reward of true points that stay where they are in frame 0."""
    known = _FROZEN.setdefault(truth, {})
    if settings not in known:
        known[settings] = _reward_of_frozen(truth, settings)
    return known[settings]


def _reward_of_frozen(truth: SceneTruth, settings: ChamferSettings) -> float:
    frozen = np.broadcast_to(truth.points_m[:1], truth.points_m.shape)
    terms = _compare(frozen, np.ones(truth.compared.shape, bool), truth, settings)
    return _reward(terms, _weights(truth), settings)


def _compare(
    points: np.ndarray, present: np.ndarray, truth: SceneTruth, settings: ChamferSettings
) -> ChamferTerms:
    """Chamfer terms of each frame and object, on the points the camera can see at that frame."""
    frame_id, point_id = np.nonzero(truth.compared)
    ids = {"frame_id": frame_id, "object_id": truth.object_index[point_id]}
    return chamfer4d(
        points[frame_id, point_id],
        truth.points_m[frame_id, point_id],
        **{f"{side}_{name}": value for side in ("pred", "gt") for name, value in ids.items()},
        pred_valid=present[frame_id, point_id],
        shape=(1, len(truth.points_m), truth.num_objects),
        tau_m=settings.tau_m,
    )


def _chamfer_components(terms: ChamferTerms, weight: np.ndarray) -> dict[str, float]:
    """Means over the frames after the first: plain for cd_frame_m, weighted for the others."""
    compared = np.isfinite(terms.cd1_m[0, 1:]) & (weight[1:] > 0)
    share = weight[1:][compared] / weight[1:][compared].sum()
    names = ("cd1_m", "cd2_sum_m2", "acc_m", "comp_m")
    weighted = {name: float(share @ getattr(terms, name)[0, 1:][compared]) for name in names}
    return {"cd_frame_m": float(terms.cd1_m[0, 1:][compared].mean()), **weighted}


def _track_components(
    points: np.ndarray, present: np.ndarray, truth: SceneTruth, tau_m: float
) -> dict[str, float]:
    """Errors of followed points and of centroids, averaged over objects and frames after the first."""
    distance = np.linalg.norm(points - truth.points_m, axis=-1)
    distance = np.where(present, np.minimum(distance, tau_m), tau_m)
    track, centroid, final = [], [], []
    for index in np.unique(truth.object_index):
        mine = truth.object_index == index
        compared = truth.compared[1:, mine]
        if compared.any():
            track.append(distance[1:, mine][compared].mean())
        there = present[:, mine]
        counts = there.sum(1, keepdims=True)
        mean_point = (points[:, mine] * there[..., None]).sum(1) / np.maximum(counts, 1)
        true_point = (truth.points_m[:, mine] * there[..., None]).sum(1) / np.maximum(counts, 1)
        error = np.linalg.norm(mean_point - true_point, axis=-1)
        error = np.where(counts[:, 0] > 0, np.minimum(error, tau_m), tau_m)
        centroid.append(error[1:].mean())
        final.append(error[-1])
    return {
        "track_l2_m": float(np.mean(track)) if track else tau_m,
        "centroid_l2_m": float(np.mean(centroid)),
        "final_centroid_l2_m": float(np.mean(final)),
        "missing_fraction": float(1 - present[1:].mean()),
    }
