"""RGB pictures of scenes with mujoco-warp's ray tracer on the CPU: no OpenGL, no display, no compiler.

Making a render context takes far longer than drawing with it. So there is one generic model, the rig, with a
slot for every possible geom, and one world per frame of the video: a scene is drawn by writing its types,
sizes, poses and colours into the rig's arrays, and a whole video is one launch.
"""

import contextlib
import math
import os
import sys
import tempfile
from collections.abc import Iterator

import mujoco
import numpy as np
from jaxtyping import Float32, UInt8

from phys4d.scenes.model import GEOM_TYPE, MAX_FIXTURES, MAX_OBJECTS, BuiltScene
from phys4d.scenes.simulation import Trajectory

NUM_SLOTS = MAX_OBJECTS + MAX_FIXTURES
TEXTURE_SIZE = 128
SHADOW_LIGHT_FRACTION = 0.35
"""Share of the key light that reaches a shadowed point."""
PARKED_M = -100.0
"""Height at which unused slots wait."""


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
        self._texture_index = {name: index for index, name in enumerate(textures())}
        rig = _rig()
        state = mujoco.MjData(rig)
        mujoco.mj_forward(rig, state)
        with warp.ScopedDevice("cpu"):
            self._model = mujoco_warp.put_model(rig)
            self._data = mujoco_warp.put_data(rig, state, nworld=num_frames)
            self._context = mujoco_warp.create_render_context(
                rig,
                nworld=num_frames,
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
        self._set_geoms(scene, trajectory)
        self._set_camera_and_light(scene)
        with self._warp.ScopedDevice("cpu"):
            self._mjw.refit_bvh(self._model, self._data, self._context)
            self._mjw.render(self._model, self._data, self._context)
        n = self.supersampling
        packed = self._context.rgb_data.numpy().reshape(self.num_frames, self.height, n, self.width, n)
        channels = [((packed >> shift) & 255).sum(axis=(2, 4), dtype=np.uint32) for shift in (16, 8, 0)]
        return ((np.stack(channels, axis=-1) + n * n // 2) // (n * n)).astype(np.uint8)

    def depth(self) -> Float32[np.ndarray, "frames rows columns"]:
        """z-depth at the rays of the last video drawn, in metres; 0 where a ray met nothing."""
        n = self.supersampling
        return (
            self._context.depth_data.numpy().reshape(self.num_frames, self.height * n, self.width * n).copy()
        )

    def _set_geoms(self, scene: BuiltScene, trajectory: Trajectory) -> None:
        """Objects take the first slots, fixtures the slots after them; the others are parked out of sight."""
        # On the CPU device `numpy()` is a view: assigning to it writes the rig.
        position, rotation = self._data.geom_xpos.numpy(), self._data.geom_xmat.numpy()
        kind, size = self._model.geom_type.numpy(), self._model.geom_size.numpy()[0]
        rgba, material = self._model.geom_rgba.numpy()[0], self._model.geom_matid.numpy()[0]
        repeat = self._model.mat_texrepeat.numpy()[0]
        texture, shine = self._model.mat_texid.numpy()[0], self._model.mat_specular.numpy()[0]
        kind[:], size[:], position[:] = GEOM_TYPE["sphere"], 1e-3, (0.0, 0.0, PARKED_M)
        rotation[:] = np.eye(3)

        objects, fixtures = scene.spec.parameters["objects"], scene.spec.parameters["fixtures"]
        num_objects = len(objects)
        position[:, :num_objects] = trajectory.position_m
        rotation[:, :num_objects] = trajectory.rotation
        state = mujoco.MjData(scene.model)
        mujoco.mj_kinematics(scene.model, state)
        for slot, values in enumerate([*objects, *fixtures]):
            kind[slot] = GEOM_TYPE[values["shape"]]
            size[slot] = scene.model.geom_size[self._geom(scene, slot)]
            rgba[slot] = [*values["rgb"], 1.0]
            material[slot] = slot
            name = values["pattern"] if slot < num_objects else values["texture"]
            texture[slot, 1] = self._texture_index[name]
            repeat[slot] = values.get("texture_repeat", (1.0, 1.0))
            shine[slot] = 0.5 if slot < num_objects else 0.0
            if slot >= num_objects:
                geom = self._geom(scene, slot)
                position[:, slot] = state.geom_xpos[geom]
                rotation[:, slot] = state.geom_xmat[geom].reshape(3, 3)

    @staticmethod
    def _geom(scene: BuiltScene, slot: int) -> int:
        num_objects = len(scene.objects)
        name = f"object{slot}" if slot < num_objects else f"fixture{slot - num_objects}"
        return mujoco.mj_name2id(scene.model, mujoco.mjtObj.mjOBJ_GEOM, name)

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


def _rig() -> mujoco.MjModel:
    """A model with a slot for every geom, each with its own material, a camera and two distant lights."""
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
    kinds = [kind for shape, kind in GEOM_TYPE.items() if shape != "plane"]
    for slot in range(NUM_SLOTS):
        material = rig.add_material(name=f"slot{slot}")
        material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = "plain"
        material.shininess = 0.4
        # The renderer compiles code for the types that the rig holds: hold them all.
        kind = GEOM_TYPE["plane"] if slot == 0 else kinds[slot % len(kinds)]
        rig.worldbody.add_geom(
            type=kind,
            size=[0.1, 0.1, 0.1],
            pos=[slot, 0, 0],
            material=f"slot{slot}",
            contype=0,
            conaffinity=0,
        )
    rig.worldbody.add_camera(name="camera")
    for name, shadow in (("key", True), ("fill", False)):
        rig.worldbody.add_light(name=name, type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL, castshadow=shadow)
    return rig.compile()
