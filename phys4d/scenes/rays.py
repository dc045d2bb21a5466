"""Look at a simulated scene with rays, and follow what they hit: exact geometry, no interpolation."""

from dataclasses import dataclass, replace

import mujoco
import numpy as np
from jaxtyping import Bool, Float, Float64, Int64, UInt8

from phys4d.geometry.camera import transform
from phys4d.scenes.model import BuiltScene
from phys4d.scenes.simulation import state_at
from phys4d.scenes.trajectory import Trajectory
from phys4d.types import Camera


@dataclass(frozen=True, kw_only=True, eq=False)
class Hits:
    """What rays from the camera met first at one frame."""

    frame: int
    distance: Float64[np.ndarray, " rays"]
    """In units of the ray's length (with z = 1 that is z-depth in metres); NaN where there is nothing."""
    point_m: Float64[np.ndarray, "rays 3"]
    """World; NaN where there is nothing."""
    object_ids: UInt8[np.ndarray, " rays"]
    """0 is fixed or nothing, o is the scene's o-th object."""
    geom: Int64[np.ndarray, " rays"]
    """Geom of the model, or -1."""
    face: Int64[np.ndarray, " rays"]
    """Face of the trajectory's meshes, counted through all of them, or -1."""
    weights: Float64[np.ndarray, "rays 3"]
    """Barycentric weights of the face's vertices."""
    particle: Int64[np.ndarray, " rays"]
    """Particle of the trajectory, or -1."""
    normal: Float64[np.ndarray, "rays 3"]
    """Unit normal towards the camera, world; 0 where there is nothing."""

    def take(self, chosen: Bool[np.ndarray, " rays"] | Int64[np.ndarray, " hits"]) -> "Hits":
        """Some of the hits."""
        values = {k: v[chosen] for k, v in self.__dict__.items() if isinstance(v, np.ndarray)}
        return replace(self, **values)


def pixel_rays(camera: Camera) -> Float64[np.ndarray, "height width 3"]:
    """Directions through the pixel centres in the camera frame, scaled to z = 1."""
    u = (np.arange(camera.width) + 0.5 - camera.cx) / camera.fx
    v = (np.arange(camera.height) + 0.5 - camera.cy) / camera.fy
    rays = np.ones((camera.height, camera.width, 3))
    rays[..., 0], rays[..., 1] = u[None, :], v[:, None]
    return rays


def cast(
    scene: BuiltScene,
    trajectory: Trajectory,
    frame: int,
    camera: Camera,
    rays_camera: Float[np.ndarray, "rays 3"],
) -> Hits:
    """Cast rays from the camera centre at a frame.

    Args:
        rays_camera: directions in the camera frame; any length.
    """
    rotation, translation = camera.camera_from_world[:3, :3], camera.camera_from_world[:3, 3]
    origin = -rotation.T @ translation
    directions = np.ascontiguousarray(rays_camera @ rotation)
    num_rays = len(rays_camera)
    geom, distance = np.full(num_rays, -1, np.int32), np.full(num_rays, -1.0)
    normal = np.zeros(3 * num_rays)
    data = state_at(scene, trajectory, frame)
    mujoco.mj_multiRay(
        scene.model,
        data,
        origin,
        directions.reshape(-1),
        None,
        True,
        -1,
        geom,
        distance,
        normal,
        num_rays,
        mujoco.mjMAXVAL,
    )
    normal = normal.reshape(-1, 3)
    normal[geom < 0] = 0.0
    distance = np.where(geom >= 0, distance, np.nan)
    ids = np.where(geom >= 0, scene.instance_of_geom[geom], 0).astype(np.uint8)
    face, particle = np.full(num_rays, -1), np.full(num_rays, -1)
    weights = np.zeros((num_rays, 3))

    if trajectory.meshes or trajectory.particles is not None:
        # Compiled code, half a second to load, and rigid scenes need none of it.
        from phys4d.scenes.intersect import first_hits

        vertices, faces, object_of_face = merged_meshes(trajectory, frame)
        centres, radii, object_of_particle = np.zeros((0, 3)), np.zeros(0), np.zeros(0, np.int64)
        if trajectory.particles is not None:
            centres = trajectory.particles.position_m[frame]
            radii, object_of_particle = trajectory.particles.radius_m, trajectory.particles.object_index
        near, primitive, share = first_hits(
            rays_camera, vertices @ rotation.T + translation, faces, centres @ rotation.T + translation, radii
        )
        first = (primitive >= 0) & ~(near > distance)
        on_face, on_ball = first & (primitive < len(faces)), first & (primitive >= len(faces))
        distance = np.where(first, near, distance)
        geom[first] = -1
        face[on_face], particle[on_ball] = primitive[on_face], primitive[on_ball] - len(faces)
        weights[on_face, 1:] = share[on_face]
        weights[on_face, 0] = 1 - share[on_face].sum(1)
        ids[on_face] = object_of_face[face[on_face]] + 1
        ids[on_ball] = object_of_particle[particle[on_ball]] + 1
        a, b, c = (vertices[faces[face[on_face], k]] for k in range(3))
        normal[on_face] = np.cross(b - a, c - a)
        normal[on_ball] = origin + directions[on_ball] * distance[on_ball, None] - centres[particle[on_ball]]
    length = np.linalg.norm(normal, axis=1, keepdims=True)
    away = np.einsum("ij,ij->i", normal, directions) > 0
    normal = np.where(away[:, None], -normal, normal) / np.where(length > 0, length, 1.0)
    return Hits(
        frame=frame,
        distance=distance,
        point_m=transform(rays_camera * distance[:, None], np.linalg.inv(camera.camera_from_world)),
        object_ids=ids,
        geom=geom.astype(np.int64),
        face=face,
        weights=weights,
        particle=particle,
        normal=normal,
    )


def merged_meshes(
    trajectory: Trajectory, frame: int
) -> tuple[Float64[np.ndarray, "vertices 3"], Int64[np.ndarray, "faces 3"], Int64[np.ndarray, " faces"]]:
    """Vertices and faces of all meshes as one, and the object of each face."""
    vertices, faces, owner = [np.zeros((0, 3))], [np.zeros((0, 3), np.int64)], [np.zeros(0, np.int64)]
    start = 0
    for mesh in trajectory.meshes:
        vertices.append(mesh.vertices_m[frame])
        faces.append(mesh.faces + start)
        owner.append(np.full(len(mesh.faces), mesh.object_index))
        start += mesh.vertices_m.shape[1]
    return np.concatenate(vertices), np.concatenate(faces), np.concatenate(owner)


def carry(trajectory: Trajectory, hits: Hits, frame: int) -> Float64[np.ndarray, "rays 3"]:
    """Where the material points that rays hit are at another frame, in the world.

    Points of rigid objects move with the pose, points of meshes keep their barycentric weights, points on
    a particle keep their offset from its centre; what is fixed stays.
    """
    world = hits.point_m.copy()
    rigid = np.flatnonzero((hits.object_ids > 0) & (hits.geom >= 0))
    index = hits.object_ids[rigid].astype(int) - 1
    local = world[rigid] - trajectory.position_m[hits.frame, index]
    # Rows of `local` times R is R^T applied to them: world to body; then body to world at the other frame.
    local = np.einsum("pi,pij->pj", local, trajectory.rotation[hits.frame, index])
    world[rigid] = np.einsum("pij,pj->pi", trajectory.rotation[frame, index], local)
    world[rigid] += trajectory.position_m[frame, index]
    on_face = hits.face >= 0
    if on_face.any():
        vertices, faces, _ = merged_meshes(trajectory, frame)
        corners = vertices[faces[hits.face[on_face]]]
        world[on_face] = np.einsum("pk,pki->pi", hits.weights[on_face], corners)
    on_ball = hits.particle >= 0
    if on_ball.any():
        assert trajectory.particles is not None
        centre = trajectory.particles.position_m[:, hits.particle[on_ball]]
        world[on_ball] += centre[frame] - centre[hits.frame]
    return world


def raycast(
    scene: BuiltScene, trajectory: Trajectory, frame: int, camera: Camera
) -> tuple[Float64[np.ndarray, "height width"], UInt8[np.ndarray, "height width"]]:
    """Exact z-depth and instance ids at the pixel centres.

    Returns:
        Depth in metres, NaN where the ray meets nothing; instance ids, 0 for fixtures and nothing.
    """
    rays = pixel_rays(camera)
    hits = cast(scene, trajectory, frame, camera, rays.reshape(-1, 3))
    return hits.distance.reshape(rays.shape[:2]), hits.object_ids.reshape(rays.shape[:2])
