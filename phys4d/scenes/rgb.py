"""RGB pictures of scenes with mujoco-warp's ray tracer on the CPU: no OpenGL, no display, no compiler.

Making a render context takes far longer than drawing with it. So there is one generic model, the rig, with
one world per frame of the video: a scene is drawn by putting arrays of its geoms, particles and meshes in the
place of the rig's, and a whole video is one launch, or a few where it is large.
"""

import contextlib
import math
import os
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import mujoco
import numpy as np
from jaxtyping import Float32, Float64, Int64, UInt8

from phys4d.scenes.model import GEOM_TYPE, MAX_FIXTURES, MAX_OBJECTS, BuiltScene, Look
from phys4d.scenes.simulation import state_at
from phys4d.scenes.trajectory import Trajectory

NUM_LOOKS = MAX_OBJECTS + MAX_FIXTURES
TEXTURE_SIZE = 128
RAYS_PER_LAUNCH = 1 << 24
"""At most, from two frames on: about 300 MB of pictures."""
LAYER_M = 1e-4
"""Half the distance between the two sides of a mesh."""
SHADOW_LIGHT_FRACTION = 0.35
"""Share of the key light that reaches a shadowed point."""


def textures() -> dict[str, UInt8[np.ndarray, "size size 3"]]:
    """Grey pictures that multiply a surface's colour, by name; always the same."""
    n = TEXTURE_SIZE
    rng = np.random.default_rng(0)
    row, column = np.mgrid[0:n, 0:n] / n
    noise = np.sum([_smooth_noise(rng, n, cells) / cells**0.5 for cells in (4, 8, 16, 32)], axis=0)
    noise = (noise - noise.min()) / np.ptp(noise)
    checker = (np.floor(4 * row) + np.floor(4 * column)) % 2
    joints = np.maximum(4 * row % 1 < 0.1, 4 * column % 1 < 0.1)
    planks = rng.uniform(size=8)[(8 * row).astype(int)]
    dots = ((8 * column % 1 - 0.5) ** 2 + (4 * row % 1 - 0.5) ** 2) < 0.09
    grey = {
        "checker": 0.62 + 0.3 * checker + 0.08 * noise,
        "noise": 0.5 + 0.5 * noise,
        "tiles": 0.8 + 0.2 * noise - 0.3 * joints,
        "planks": 0.6 + 0.25 * planks + 0.15 * noise,
        "plain": np.ones((n, n)),
        "bands": 1.0 - 0.3 * (np.floor(8 * column) % 2),
        "dots": 1.0 - 0.35 * dots,
    }
    return {
        name: np.repeat(np.round(255 * g)[..., None], 3, axis=-1).astype(np.uint8) for name, g in grey.items()
    }


def _smooth_noise(rng: np.random.Generator, n: int, cells: int) -> np.ndarray:
    """Periodic noise of n x n values that varies over n / cells of them."""
    values = rng.uniform(-1, 1, (cells, cells))
    position = np.arange(n) * cells / n
    low, part = position.astype(int), position % 1
    part = part * part * (3 - 2 * part)
    high = (low + 1) % cells
    rows = values[low] * (1 - part)[:, None] + values[high] * part[:, None]
    return rows[:, low] * (1 - part) + rows[:, high] * part


class RgbRenderer:
    """Draws videos of one size; make one per process and reuse it."""

    def __init__(self, *, width: int, height: int, num_frames: int, supersampling: int = 2) -> None:
        """
        Args:
            supersampling: rays per pixel along each axis; their mean is the pixel.
        """
        import warp

        warp.config.log_level = warp.LOG_WARNING
        with _without_lines("CUDA driver"):
            warp.init()
        import mujoco_warp

        self._warp, self._mjw = warp, mujoco_warp
        self.width, self.height, self.num_frames = width, height, num_frames
        self.supersampling = supersampling
        most = max(1, RAYS_PER_LAUNCH // (width * height * supersampling**2))
        # Launches of equal size.
        self._num_worlds = -(-num_frames // -(-num_frames // most))
        self._texture_index = {name: index for index, name in enumerate(textures())}
        rig = _rig()
        state = mujoco.MjData(rig)
        mujoco.mj_forward(rig, state)
        with warp.ScopedDevice("cpu"):
            self._model = mujoco_warp.put_model(rig)
            self._data = mujoco_warp.put_data(rig, state, nworld=self._num_worlds)
            self._context = mujoco_warp.create_render_context(
                rig,
                nworld=self._num_worlds,
                cam_res=(width * supersampling, height * supersampling),
                render_rgb=True,
                render_depth=True,
                render_seg=False,
                use_shadows=True,
                use_precomputed_rays=False,
                shadow_light_fraction=SHADOW_LIGHT_FRACTION,
                enable_emission=False,
            )

    def render(self, scene: BuiltScene, trajectory: Trajectory) -> UInt8[np.ndarray, "frames height width 3"]:
        """Draw a scene's video."""
        if len(trajectory.times_s) != self.num_frames:
            raise ValueError(
                f"this renderer draws {self.num_frames} frames, got a trajectory of {len(trajectory.times_s)}"
            )
        if self._num_worlds == self.num_frames:
            return self._launch(scene, trajectory)
        video = np.empty((self.num_frames, self.height, self.width, 3), np.uint8)
        for start in range(0, self.num_frames, self._num_worlds):
            # The last launch may have fewer frames than worlds: it draws the last frame again.
            frames = np.minimum(np.arange(start, start + self._num_worlds), self.num_frames - 1)
            video[frames] = self._launch(scene, trajectory.at(frames))
        return video

    def _launch(
        self, scene: BuiltScene, trajectory: Trajectory
    ) -> UInt8[np.ndarray, "frames height width 3"]:
        """Draw as many frames as there are worlds."""
        self._set_shapes(scene, trajectory)
        self._set_camera_and_light(scene)
        with self._warp.ScopedDevice("cpu"):
            self._rebuild_bvh()
            self._mjw.render(self._model, self._data, self._context)
        n = self.supersampling
        packed = self._context.rgb_data.numpy().reshape(self._num_worlds, self.height, n, self.width, n)
        channels = [((packed >> shift) & 255).sum(axis=(2, 4), dtype=np.uint32) for shift in (16, 8, 0)]
        return ((np.stack(channels, axis=-1) + n * n // 2) // (n * n)).astype(np.uint8)

    def depth(self) -> Float32[np.ndarray, "frames rows columns"]:
        """z-depth at the rays of the last launch, in metres; 0 where a ray met nothing."""
        n = self.supersampling
        return (
            self._context.depth_data.numpy().reshape(self._num_worlds, self.height * n, self.width * n).copy()
        )

    def _set_shapes(self, scene: BuiltScene, trajectory: Trajectory) -> None:
        """Put the scene's geoms, then its particles, then its meshes into the rig's arrays."""
        model, particles = scene.model, trajectory.particles
        geoms = [g for g in range(model.ngeom) if model.geom_rgba[g, 3] > 0]
        num_particles = 0 if particles is None else len(particles.radius_m)
        num_meshes = len(trajectory.meshes)
        num = len(geoms) + num_particles + num_meshes
        balls = slice(len(geoms), len(geoms) + num_particles)
        skins = slice(len(geoms) + num_particles, num)
        frames = self._num_worlds
        kind, size = np.full(num, int(GEOM_TYPE["sphere"])), np.zeros((num, 3))
        position, rotation = (
            np.zeros((frames, num, 3)),
            np.broadcast_to(np.eye(3), (frames, num, 3, 3)).copy(),
        )
        rgba, mesh_of_geom = np.ones((frames, num, 4)), np.full((frames, num), -1)
        looks: list[Look] = []
        number_of_look = np.zeros(num, int)

        def use(where: Any, look: Look) -> None:
            if look not in looks:
                looks.append(look)
            number_of_look[where] = looks.index(look)
            rgba[:, where, :3] = look.rgb

        kind[: len(geoms)], size[: len(geoms)] = model.geom_type[geoms], model.geom_size[geoms]
        for frame in range(frames):
            state = state_at(scene, trajectory, frame)
            position[frame, : len(geoms)] = state.geom_xpos[geoms]
            rotation[frame, : len(geoms)] = state.geom_xmat[geoms].reshape(-1, 3, 3)
        for slot, geom in enumerate(geoms):
            use(slot, scene.look_of_geom[geom])
            if trajectory.geom_rgb is not None:
                rgba[:, slot, :3] = trajectory.geom_rgb[:, geom]
        if particles is not None:
            size[balls, 0], position[:, balls] = particles.radius_m, particles.position_m
            for index, item in enumerate(scene.objects):
                use(balls.start + np.flatnonzero(particles.object_index == index), plain(item.look))
            if particles.rgb is not None:
                rgba[:, balls, :3] = particles.rgb
        kind[skins] = int(mujoco.mjtGeom.mjGEOM_MESH)
        mesh_of_geom[:, skins] = np.arange(frames * num_meshes).reshape(frames, num_meshes)
        for slot, mesh in enumerate(trajectory.meshes, skins.start):
            use(slot, plain(scene.objects[mesh.object_index].look))
        self._set_looks(looks)
        self._set_meshes(trajectory)

        wp, m, d, context = self._warp, self._model, self._data, self._context
        m.geom_type = wp.array(kind, dtype=int, device="cpu")
        m.geom_size = wp.array(size[None], dtype=wp.vec3, device="cpu")
        m.geom_rgba = wp.array(rgba, dtype=wp.vec4, device="cpu")
        m.geom_matid = wp.array(number_of_look[None], dtype=int, device="cpu")
        m.geom_dataid = wp.array(mesh_of_geom, dtype=int, device="cpu")
        d.geom_xpos = wp.array(position, dtype=wp.vec3, device="cpu")
        d.geom_xmat = wp.array(rotation, dtype=wp.mat33, device="cpu")
        context.bvh_ngeom = num
        context.enabled_geom_ids = wp.array(np.arange(num), dtype=int, device="cpu")
        context.lower = wp.zeros(frames * num, dtype=wp.vec3, device="cpu")
        context.upper = wp.zeros(frames * num, dtype=wp.vec3, device="cpu")
        context.group = wp.zeros(frames * num, dtype=int, device="cpu")

    def _set_looks(self, looks: list[Look]) -> None:
        """Write the scene's looks into the rig's materials."""
        # On the CPU device `numpy()` is a view: assigning to it writes the rig.
        repeat, shine = self._model.mat_texrepeat.numpy()[0], self._model.mat_specular.numpy()[0]
        texture = self._model.mat_texid.numpy()[0]
        for number, look in enumerate(looks):
            repeat[number], shine[number] = look.repeat, look.shine
            texture[number, 1] = self._texture_index[look.texture]

    def _set_meshes(self, trajectory: Trajectory) -> None:
        """Make a mesh of each frame and object, with the mean normals at its vertices, for smooth shading.

        The ray tracer sees the front of a triangle only, so there are two layers, back to back.
        """
        wp, model, context = self._warp, self._model, self._context
        meshes, reach, normals, face_start, normal_start = [], [], [np.zeros((0, 3))], [], []
        # Of each object the vertex indices of both layers' triangles; the same at every frame.
        layers = [
            np.concatenate([mesh.faces, mesh.faces[:, ::-1] + mesh.vertices_m.shape[1]])
            for mesh in trajectory.meshes
        ]
        starts = np.cumsum([0, *(len(faces) for faces in layers)])
        num_normals = 0
        for frame in range(self._num_worlds):
            for mesh, faces, start in zip(trajectory.meshes, layers, starts, strict=False):
                points = mesh.vertices_m[frame]
                outward = vertex_normals(points, mesh.faces)
                both = np.concatenate([points + LAYER_M * outward, points - LAYER_M * outward])
                meshes.append(
                    wp.Mesh(
                        points=wp.array(both, dtype=wp.vec3, device="cpu"),
                        indices=wp.array(faces.ravel(), dtype=int, device="cpu"),
                    )
                )
                reach.append(np.abs(both).max(axis=0))
                normals += [outward, -outward]
                face_start.append(start)
                normal_start.append(num_normals)
                num_normals += len(both)
        num = max(len(meshes), 1)
        context.mesh_registry = {mesh.id: mesh for mesh in meshes}
        context.mesh_bvh_id = wp.array([mesh.id for mesh in meshes] or [0], dtype=wp.uint64, device="cpu")
        context.mesh_bounds_size = wp.array(reach or [np.zeros(3)], dtype=wp.vec3, device="cpu")
        context.mesh_texcoord_offsets = wp.array([-1] * num, dtype=int, device="cpu")
        corners = np.concatenate(layers) if layers else np.zeros((1, 3), int)
        context.mesh_facenormal = wp.array(corners, dtype=wp.vec3i, device="cpu")
        model.mesh_faceadr = wp.array(face_start or [0], dtype=int, device="cpu")
        model.mesh_normaladr = wp.array(normal_start or [0], dtype=int, device="cpu")
        model.mesh_normal = wp.array(np.concatenate(normals), dtype=wp.vec3, device="cpu")

    def _rebuild_bvh(self) -> None:
        """Sort the scene's shapes; the first refit computes their bounds in the arrays just made."""
        from mujoco_warp._src.bvh import compute_bvh_group_roots

        wp, context = self._warp, self._context
        self._mjw.refit_bvh(self._model, self._data, context)
        context.bvh = wp.Bvh(context.lower, context.upper, groups=context.group, constructor="sah")
        context.bvh_id = context.bvh.id
        wp.launch(
            compute_bvh_group_roots,
            dim=self._num_worlds,
            inputs=[context.bvh_id],
            outputs=[context.group_root],
        )

    def _set_camera_and_light(self, scene: BuiltScene) -> None:
        camera = scene.camera(self.width, self.height)
        pose = camera.camera_from_world
        self._data.cam_xpos.numpy()[:] = -pose[:3, :3].T @ pose[:3, 3]
        # MuJoCo's cameras look along -z with y up.
        self._data.cam_xmat.numpy()[:] = pose[:3, :3].T @ np.diag([1.0, -1.0, -1.0])
        self._model.cam_fovy.numpy()[:] = math.degrees(2 * math.atan(0.5 * self.height / camera.fy))
        light = scene.spec.parameters["light"]
        self._data.light_xdir.numpy()[:] = np.stack([light["direction"], pose[2, :3]])
        self._model.light_diffuse.numpy()[0] = np.array([light["diffuse"], light["fill"]])[:, None]
        self._model.light_ambient.numpy()[0] = np.array([light["ambient"], 0.0])[:, None]
        self._model.light_specular.numpy()[0] = np.array([0.4, 0.0])[:, None]


@contextlib.contextmanager
def _without_lines(text: str) -> Iterator[None]:
    """Hold back what native code writes to stderr and pass it on without the lines that contain `text`."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            held.seek(0)
            for line in held.read().decode(errors="replace").splitlines():
                if text not in line:
                    print(line, file=sys.stderr)


def vertex_normals(
    points: Float64[np.ndarray, "vertices 3"], faces: Int64[np.ndarray, "faces 3"]
) -> Float64[np.ndarray, "vertices 3"]:
    """Unit normals at the vertices: the mean of the triangles around, weighted by area."""
    a, b, c = (points[faces[:, k]] for k in range(3))
    twice_area = np.cross(b - a, c - a)
    total = np.zeros_like(points)
    for corner in range(3):
        np.add.at(total, faces[:, corner], twice_area)
    length = np.linalg.norm(total, axis=1, keepdims=True)
    return total / np.where(length > 0, length, 1.0)


def plain(look: Look) -> Look:
    """The look without its texture."""
    return Look(rgb=look.rgb, shine=look.shine)


def _rig() -> mujoco.MjModel:
    """A model with materials and textures for any scene, a geom of each kind, a camera and two lights."""
    rig = mujoco.MjSpec()
    rig.stat.extent = 4.0
    rig.visual.headlight.active = False
    for name, picture in textures().items():
        rig.add_texture(
            name=name,
            type=mujoco.mjtTexture.mjTEXTURE_2D,
            width=TEXTURE_SIZE,
            height=TEXTURE_SIZE,
            nchannel=3,
            data=picture.ravel().tolist(),
        )
    for number in range(NUM_LOOKS):
        material = rig.add_material(name=f"look{number}")
        material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = "plain"
        material.shininess = 0.4
    tetrahedron = [0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    rig.add_mesh(name="mesh", uservert=tetrahedron)
    # The renderer compiles code for the types that the rig holds: hold them all.
    for place, kind in enumerate(GEOM_TYPE.values()):
        rig.worldbody.add_geom(
            type=kind, size=[0.1] * 3, pos=[place, 0, 0], material="look0", contype=0, conaffinity=0
        )
    rig.worldbody.add_geom(type=mujoco.mjtGeom.mjGEOM_MESH, meshname="mesh", contype=0, conaffinity=0)
    rig.worldbody.add_camera(name="camera")
    for name, shadow in (("key", True), ("fill", False)):
        rig.worldbody.add_light(name=name, type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL, castshadow=shadow)
    return rig.compile()
