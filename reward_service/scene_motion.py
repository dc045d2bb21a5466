"""How well what moves in a generated video's pixels agrees with the simulated scene's video.

The scene is rebuilt, simulated and drawn, and both videos are compared as Physics-IQ compares a model's video
with a filmed one: where, when and how long anything moves, and the colours. Points that are followed through
a video (`scene_chamfer`) do not say whether an object grows, fades or is there twice; its pixels do.

    python -m reward_service.serve --rewards reward_service.scene_motion:SceneMotion

It draws with `phys4d.scenes.rgb` and so needs the extras `sim` and `train` (OpenCV) besides `serve`.
"""

import threading

import numpy as np
from jaxtyping import UInt8

from phys4d.metrics.physics_iq.agreement import Agreement, agreement
from phys4d.metrics.physics_iq.clips import Clip, make_clip
from phys4d.reward.plugin import DataError
from phys4d.scenes.registry import CATEGORIES
from phys4d.types import Rollout, SceneSpec, Score
from reward_service.config import ChamferSettings
from reward_service.scene_cache import SceneCache
from reward_service.truth import rebuild, resimulate

CACHED_BYTES = 64 << 20
VERSION = "1"

_CLIPS: SceneCache[Clip] = SceneCache(CACHED_BYTES)
_DRAWING = threading.Lock()
"""Renderers are not safe to use from several threads."""


class SceneMotion:
    """Agreement of what moves in the pixels with the simulated scene's video, as Physics-IQ measures it."""

    name = "scene_motion"
    version = VERSION

    def score(self, rollout: Rollout) -> Score:
        """Score one rollout; a function of its RGB and its scene alone.

        value = (spatial IoU + weighted spatial IoU + mean spatiotemporal IoU) / 3 - mean MSE, in [-1, 1]: the
        formula of Physics-IQ Original without its division by the physical variance, at full resolution.
        Components: `s_iou`, `ws_iou`, `st_iou`, `mse`.

        Raises:
            DataError: there is no RGB, it is of another shape than the scene and the camera say, or the scene
                cannot be simulated.
        """
        camera = rollout.camera
        expected = (rollout.scene.num_frames, camera.height, camera.width, 3)
        if rollout.rgb is None:
            raise DataError("NO_RGB", "scene_motion compares pixels, the rollout has none; send rgb")
        if rollout.rgb.shape != expected or rollout.rgb.dtype != np.uint8:
            raise DataError(
                "WRONG_SHAPE",
                f"rgb must be uint8 {expected} for this scene and camera, got {rollout.rgb.dtype} "
                f"{rollout.rgb.shape}",
            )
        found = compare(rollout.rgb, simulated_clip(rollout.scene, camera.width, camera.height))
        parts = {
            "s_iou": found.s_iou,
            "ws_iou": found.ws_iou,
            "st_iou": found.mean_st_iou,
            "mse": found.mean_mse,
        }
        return Score(
            value=(parts["s_iou"] + parts["ws_iou"] + parts["st_iou"]) / 3 - parts["mse"],
            components=parts,
            scorer_version=VERSION,
            simulator=CATEGORIES[rollout.scene.category].engine(),
        )


def compare(video: UInt8[np.ndarray, "frames height width 3"], truth: Clip) -> Agreement:
    """The four agreements of an RGB video with a clip of its own size."""
    return agreement(_clip(video), truth)


def simulated_clip(spec: SceneSpec, width: int, height: int) -> Clip:
    """The scene's video and its motion masks; recent ones are remembered.

    Raises:
        DataError: the scene cannot be built or simulated here.
    """
    return _CLIPS.get((spec.to_json(), width, height), lambda: _draw(spec, width, height))


def _draw(spec: SceneSpec, width: int, height: int) -> Clip:
    from phys4d.scenes.rgb import shared_renderer

    # As many points as scene_chamfer follows, so that both remember one build.
    scene = rebuild(spec, width, height, ChamferSettings.max_points)[0].scene
    trajectory = resimulate(scene)
    with _DRAWING:
        renderer = shared_renderer(width=width, height=height, num_frames=spec.num_frames)
        return _clip(renderer.render(scene, trajectory))


def _clip(video: UInt8[np.ndarray, "frames height width 3"]) -> Clip:
    """Not shrunk: the benchmark's quarter is for its large videos."""
    return make_clip(video[..., ::-1].copy(), (video.shape[2], video.shape[1]))
