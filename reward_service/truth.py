"""What the simulator says of a scene: its frame 0 as the camera sees it, and how its objects move."""

from dataclasses import dataclass
from functools import lru_cache

import mujoco
import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt8

from phys4d import scenes
from phys4d.geometry.camera import unproject
from phys4d.reward.plugin import DataError
from phys4d.scenes import registry
from phys4d.scenes.model import BuiltScene
from phys4d.scenes.simulation import Trajectory, UnstableSimulation, cast_rays, state_at
from phys4d.types import Camera, SceneSpec

SIMULATOR = registry.engine()
MAX_STEPS = 20_000
MAX_PIXELS = 1 << 20
CACHED_SCENES = 256
MIN_CORE_PIXELS = 12
MIN_SEEN_FRACTION = 0.25


@dataclass(frozen=True, kw_only=True, eq=False)
class SceneTruth:
    """A simulated scene, and points on its objects that are followed through the video.

    The points are the surface seen at pixel centres of frame 0, inside the objects' outlines; they depend on
    the scene only, so every rollout of a scene is measured on the same ones.
    """

    camera: Camera
    """The scene's own camera at the rollout's image size."""
    depth_m: Float64[np.ndarray, "height width"]
    """z-depth of frame 0 in metres; NaN is no surface."""
    object_ids: UInt8[np.ndarray, "height width"]
    """Instances in frame 0."""
    num_objects: int
    pixels: Float64[np.ndarray, "points 2"]
    """(u, v) of the points in frame 0."""
    object_index: Int64[np.ndarray, " points"]
    """Object of each point, from 0."""
    points_m: Float64[np.ndarray, "frames points 3"]
    """The points moved rigidly with their objects, in the camera frame."""
    compared: Bool[np.ndarray, "frames points"]
    """Points to compare with: not hidden at that frame; where under a quarter of an object's points is seen,
    all of them that are inside the image."""
    travel_m: Float64[np.ndarray, " objects"]
    """Length of each object's path."""


def scene_truth(spec: SceneSpec, width: int, height: int, max_points: int) -> SceneTruth:
    """Rebuild and simulate a scene; recent scenes are remembered.

    Raises:
        DataError: unknown category or family, another engine, or a scene that cannot be built.
    """
    known = registry.families()
    if spec.category not in known:
        raise DataError("UNKNOWN_CATEGORY", f"unknown category {spec.category!r}; known: {sorted(known)}")
    if spec.family not in known[spec.category]:
        raise DataError(
            "UNKNOWN_FAMILY",
            f"unknown {spec.category} family {spec.family!r}; known: {', '.join(known[spec.category])}",
        )
    if spec.engine and spec.engine != SIMULATOR:
        raise DataError(
            "ENGINE_MISMATCH", f"the scene was made with {spec.engine}, this service has {SIMULATOR}"
        )
    num_steps = (spec.num_frames - 1) / spec.fps / spec.timestep_s
    if num_steps > MAX_STEPS:
        raise DataError(
            "SCENE_TOO_LONG", f"the scene takes {num_steps:.0f} steps, at most {MAX_STEPS} are simulated"
        )
    if width * height > MAX_PIXELS:
        raise DataError("IMAGE_TOO_LARGE", f"{width}x{height} is above {MAX_PIXELS} pixels")
    return _simulate(spec.to_json(), width, height, max_points)


@lru_cache(maxsize=CACHED_SCENES)
def _simulate(spec_json: str, width: int, height: int, max_points: int) -> SceneTruth:
    spec = SceneSpec.from_json(spec_json)
    try:
        scene = scenes.build(spec)
        camera = scene.camera(width, height)
        trajectory = scenes.simulate(scene)
    except UnstableSimulation as error:
        raise DataError("UNSTABLE_SCENE", str(error)) from error
    except (ValueError, mujoco.FatalError) as error:
        raise DataError("BAD_SCENE", str(error)) from error
    depth_m, object_ids = scenes.raycast(scene, trajectory, 0, camera)
    rotation, translation = camera.camera_from_world[:3, :3], camera.camera_from_world[:3, 3]
    position_m = trajectory.position_m @ rotation.T + translation
    body_rotation = rotation @ trajectory.rotation
    pixels, object_index, points = [], [], []
    for index in range(len(scene.objects)):
        uv, point = _surface_points(depth_m, object_ids == index + 1, camera, max_points)
        in_body = (point - position_m[0, index]) @ body_rotation[0, index]
        pixels.append(uv)
        object_index.append(np.full(len(uv), index))
        moved = np.einsum("tij,nj->tni", body_rotation[:, index], in_body)
        points.append(moved + position_m[:, index, None])
    index_of_point, points_m = np.concatenate(object_index), np.concatenate(points, axis=1)
    seen, inside = _visibility(scene, trajectory, camera, points_m, index_of_point)
    return SceneTruth(
        camera=camera,
        depth_m=depth_m,
        object_ids=object_ids,
        num_objects=len(scene.objects),
        pixels=np.concatenate(pixels),
        object_index=index_of_point,
        points_m=points_m,
        compared=_compared(seen, inside, index_of_point),
        travel_m=np.linalg.norm(np.diff(position_m, axis=0), axis=-1).sum(0),
    )


def _surface_points(
    depth_m: np.ndarray, mask: np.ndarray, camera: Camera, max_points: int
) -> tuple[Float64[np.ndarray, "points 2"], Float64[np.ndarray, "points 3"]]:
    """Pixels of a mask, without its rim if 12 or more remain, evenly thinned, and the surface they show."""
    padded = np.pad(mask, 1)
    core = mask & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    rows, columns = np.nonzero(core if np.count_nonzero(core) >= MIN_CORE_PIXELS else mask)
    if len(rows) > max_points:
        keep = np.linspace(0, len(rows) - 1, max_points).round().astype(int)
        rows, columns = rows[keep], columns[keep]
    uv = np.stack([columns + 0.5, rows + 0.5], -1)
    return uv, unproject(uv, depth_m[rows, columns], camera)


def _visibility(
    scene: BuiltScene, trajectory: Trajectory, camera: Camera, points_m: np.ndarray, object_index: np.ndarray
) -> tuple[Bool[np.ndarray, "frames points"], Bool[np.ndarray, "frames points"]]:
    """Which points the camera sees at each frame, and which are inside the image."""
    z = points_m[..., 2]
    uv = points_m[..., :2] / np.where(z > 0, z, np.nan)[..., None] * (camera.fx, camera.fy)
    uv = uv + np.array((camera.cx, camera.cy))
    inside = (uv >= 0).all(-1) & (uv[..., 0] <= camera.width) & (uv[..., 1] <= camera.height)
    seen = np.zeros(inside.shape, bool)
    for frame in range(len(points_m)):
        data = state_at(scene, trajectory, frame)
        distance, geom = cast_rays(scene, data, camera, points_m[frame])
        same = (geom >= 0) & (scene.instance_of_geom[geom] == object_index + 1)
        # Distance is in units of the ray to the point itself; 2 % of it is a few centimetres.
        seen[frame] = inside[frame] & same & (np.abs(distance - 1) < 0.02)
    return seen, inside


def _compared(
    seen: np.ndarray, inside: np.ndarray, object_index: np.ndarray
) -> Bool[np.ndarray, "frames points"]:
    compared = seen.copy()
    for index in np.unique(object_index):
        mine = object_index == index
        few = seen[:, mine].mean(1) < MIN_SEEN_FRACTION
        compared[np.ix_(few, mine)] = inside[np.ix_(few, mine)]
    return compared


def check_camera(given: Camera, truth: Camera) -> None:
    """Refuse a camera that is not the scene's.

    Raises:
        DataError: focal length or principal point differ by over 0.1 %, or the pose by over 1 mm or 1 mrad.
    """
    names = ("fx", "fy", "cx", "cy")
    for name in names:
        ours, theirs = getattr(truth, name), getattr(given, name)
        if abs(ours - theirs) > 1e-3 * max(ours, 1.0):
            raise DataError("CAMERA_MISMATCH", f"camera.{name} is {theirs:g}, the scene's is {ours:g}")
    off = np.abs(given.camera_from_world - truth.camera_from_world).max()
    if off > 1e-3:
        raise DataError("CAMERA_MISMATCH", f"camera_from_world differs from the scene's by up to {off:.3g}")


def check_masks(
    object_ids: UInt8[np.ndarray, "height width"], truth: SceneTruth, min_iou: float, min_pixels: int
) -> None:
    """Refuse instance masks that are not the scene's.

    Raises:
        DataError: an id beyond the scene's objects, or an object that shows on `min_pixels` or more and
            overlaps the simulator's mask by less than `min_iou`.
    """
    num_objects = truth.num_objects
    if object_ids.max() > num_objects:
        raise DataError(
            "OBJECT_MASK_MISMATCH",
            f"object_ids has object {object_ids.max()}, the scene has {num_objects} objects",
        )
    for index in range(1, num_objects + 1):
        ours: Bool[np.ndarray, "height width"] = truth.object_ids == index
        theirs = object_ids == index
        union = np.count_nonzero(ours | theirs)
        if max(np.count_nonzero(ours), np.count_nonzero(theirs)) < min_pixels:
            continue
        iou = np.count_nonzero(ours & theirs) / union
        if iou < min_iou:
            raise DataError(
                "OBJECT_MASK_MISMATCH",
                f"the mask of object {index} overlaps the simulator's by {iou:.2f}, below {min_iou:g}; "
                "are mask, scene and camera of one sample?",
            )
