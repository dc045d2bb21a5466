"""What the simulator says of a scene: its frame 0 as the camera sees it, and how its objects move."""

from dataclasses import dataclass

import mujoco
import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt8

from phys4d import scenes
from phys4d.geometry.camera import project, transform
from phys4d.reward.plugin import DataError
from phys4d.scenes import registry
from phys4d.scenes.model import BuiltScene
from phys4d.scenes.rays import Hits, carry, cast, pixel_rays
from phys4d.scenes.trajectory import Trajectory, UnstableSimulation
from phys4d.types import Camera, SceneSpec
from reward_service.scene_cache import SceneCache

MAX_STEPS = 20_000
MAX_PIXELS = 1 << 20
CACHED_BYTES = 256 << 20
MIN_CORE_PIXELS = 12
MIN_SEEN_FRACTION = 0.25
BAD_SCENE = (ValueError, TypeError, ArithmeticError, LookupError, AttributeError, mujoco.FatalError)
"""What building or simulating a scene of hostile parameters raises."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SceneTruth:
    """A simulated scene, and points on its objects that are followed through the video.

    Points of a rigid object move with its pose, points of a cloth or another mesh keep their place in their
    triangle, and points on a particle move with it.

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
    """The points moved with their objects, in the camera frame."""
    compared: Bool[np.ndarray, "frames points"]
    """Points to compare with: not hidden at that frame; where under a quarter of an object's points is seen,
    all of them that are inside the image."""
    travel_m: Float64[np.ndarray, " objects"]
    """Length of each object's path; of what is not rigid, the mean over its points."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FirstFrame:
    """A compiled scene and what its camera sees at time 0, which no velocity changes."""

    scene: BuiltScene
    camera: Camera
    """The scene's own camera at the rollout's image size."""
    position_m: Float64[np.ndarray, "objects 3"]
    """Of the objects, world."""
    rotation: Float64[np.ndarray, "objects 3 3"]
    """World from body."""
    depth_m: Float64[np.ndarray, "height width"]
    object_ids: UInt8[np.ndarray, "height width"]
    points: Hits
    """The points that are followed."""
    pixels: Float64[np.ndarray, "points 2"]

    @property
    def object_index(self) -> Int64[np.ndarray, " points"]:
        """Object of each point, from 0."""
        return self.points.object_ids.astype(np.int64) - 1


_SCENES: SceneCache[tuple[FirstFrame, SceneTruth]] = SceneCache(CACHED_BYTES)


def rebuild(spec: SceneSpec, width: int, height: int, max_points: int) -> tuple[FirstFrame, SceneTruth]:
    """Compile a scene, look at its frame 0 and simulate it; recent scenes are remembered with their models.

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
    engine = registry.CATEGORIES[spec.category].engine()
    if spec.engine and spec.engine != engine:
        raise DataError(
            "ENGINE_MISMATCH", f"the scene was made with {spec.engine}, this service has {engine}"
        )
    num_steps = (spec.num_frames - 1) / spec.fps / spec.timestep_s
    if num_steps > MAX_STEPS:
        raise DataError(
            "SCENE_TOO_LONG", f"the scene takes {num_steps:.0f} steps, at most {MAX_STEPS} are simulated"
        )
    if width * height > MAX_PIXELS:
        raise DataError("IMAGE_TOO_LARGE", f"{width}x{height} is above {MAX_PIXELS} pixels")
    key = (spec.to_json(), width, height, max_points)
    return _SCENES.get(key, lambda: build_truth(spec, width, height, max_points))


def build_truth(spec: SceneSpec, width: int, height: int, max_points: int) -> tuple[FirstFrame, SceneTruth]:
    """Build and simulate a scene of this engine, and follow points on it; nothing is remembered.

    Raises:
        DataError: the scene cannot be built, or is unstable.
    """
    try:
        scene = scenes.build(spec)
        camera = scene.camera(width, height)
    except BAD_SCENE as error:
        raise _bad_scene(spec, error) from error
    trajectory = resimulate(scene)
    first = cast(scene, trajectory, 0, camera, pixel_rays(camera).reshape(-1, 3))
    depth_m, object_ids = (array.reshape(height, width) for array in (first.distance, first.object_ids))
    chosen = np.concatenate(
        [_surface_pixels(object_ids == index + 1, max_points) for index in range(len(scene.objects))]
    )
    rows, columns = np.divmod(chosen, width)
    frame_0 = FirstFrame(
        scene=scene,
        camera=camera,
        position_m=trajectory.position_m[0],
        rotation=trajectory.rotation[0],
        depth_m=depth_m,
        object_ids=object_ids,
        points=first.take(chosen),
        pixels=np.stack([columns + 0.5, rows + 0.5], -1),
    )
    return frame_0, follow(frame_0, trajectory)


def resimulate(scene: BuiltScene) -> Trajectory:
    """Simulate a built scene.

    Raises:
        DataError: it does not stay physical.
    """
    try:
        return scenes.simulate(scene)
    except UnstableSimulation as error:
        raise DataError("UNSTABLE_SCENE", str(error)) from error
    except BAD_SCENE as error:
        raise _bad_scene(scene.spec, error) from error


def _bad_scene(spec: SceneSpec, error: Exception) -> DataError:
    """What is wrong with a scene; where nothing checked it before, what Python found wrong with it."""
    if isinstance(error, ValueError | mujoco.FatalError):
        return DataError("BAD_SCENE", str(error))
    if isinstance(error, KeyError):
        return DataError(
            "BAD_SCENE", f"a {spec.category} {spec.family} scene needs {error} in its parameters"
        )
    told = f"the parameters are not those of a {spec.category} {spec.family} scene"
    return DataError("BAD_SCENE", f"{told}: {type(error).__name__}: {error}")


def follow(first: FirstFrame, trajectory: Trajectory) -> SceneTruth:
    """How the points move in a trajectory that starts with the first frame."""
    scene, camera, points = first.scene, first.camera, first.points
    points_m = np.stack(
        [
            transform(carry(trajectory, points, frame), camera.camera_from_world)
            for frame in range(scene.spec.num_frames)
        ]
    )
    seen, inside = _visibility(scene, trajectory, camera, points_m, points)
    return SceneTruth(
        camera=camera,
        depth_m=first.depth_m,
        object_ids=first.object_ids,
        num_objects=len(scene.objects),
        pixels=first.pixels,
        object_index=first.object_index,
        points_m=points_m,
        compared=_compared(seen, inside, first.object_index),
        travel_m=np.array(
            [
                np.linalg.norm(np.diff(trajectory.material_points(index), axis=0), axis=-1).sum(0).mean()
                for index in range(len(scene.objects))
            ]
        ),
    )


def _surface_pixels(mask: Bool[np.ndarray, "height width"], max_points: int) -> Int64[np.ndarray, " points"]:
    """Flat indices of a mask's pixels, without its rim if 12 or more remain, evenly thinned."""
    padded = np.pad(mask, 1)
    core = mask & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    pixels = np.flatnonzero(core if np.count_nonzero(core) >= MIN_CORE_PIXELS else mask)
    if len(pixels) > max_points:
        pixels = pixels[np.linspace(0, len(pixels) - 1, max_points).round().astype(int)]
    return pixels


def _visibility(
    scene: BuiltScene, trajectory: Trajectory, camera: Camera, points_m: np.ndarray, points: Hits
) -> tuple[Bool[np.ndarray, "frames points"], Bool[np.ndarray, "frames points"]]:
    """Which points the camera sees at each frame, and which are inside the image."""
    uv = project(points_m, camera)[..., :2]
    inside = (uv >= 0).all(-1) & (uv[..., 0] <= camera.width) & (uv[..., 1] <= camera.height)
    seen = np.zeros(inside.shape, bool)
    for frame in range(len(points_m)):
        hits = cast(scene, trajectory, frame, camera, points_m[frame])
        # Distance is in units of the ray to the point itself; 2 % of it is a few centimetres.
        near = np.abs(hits.distance - 1) < 0.02
        seen[frame] = inside[frame] & (hits.object_ids == points.object_ids) & near
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
    object_ids: UInt8[np.ndarray, "height width"], first: FirstFrame, min_iou: float, min_pixels: int
) -> None:
    """Refuse instance masks that are not the scene's.

    Raises:
        DataError: an id beyond the scene's objects, or an object that shows on `min_pixels` or more and
            overlaps the simulator's mask by less than `min_iou`.
    """
    num_objects = len(first.scene.objects)
    if object_ids.max() > num_objects:
        raise DataError(
            "OBJECT_MASK_MISMATCH",
            f"object_ids has object {object_ids.max()}, the scene has {num_objects} objects",
        )
    for index in range(1, num_objects + 1):
        ours: Bool[np.ndarray, "height width"] = first.object_ids == index
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
