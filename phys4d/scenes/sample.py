"""One sample of a data set: a scene drawn, simulated, annotated and filmed."""

import json
from collections import Counter
from typing import Any

import numpy as np

from phys4d.scenes.annotations import annotate, contacts, track_points
from phys4d.scenes.model import BuiltScene
from phys4d.scenes.rays import merged_meshes
from phys4d.scenes.registry import sample_scene, second_take
from phys4d.scenes.render_config import RenderConfig, split_name
from phys4d.scenes.rgb import RgbRenderer
from phys4d.scenes.trajectory import Trajectory
from phys4d.types import Camera

_RENDERERS: dict[tuple[int, int, int, int], RgbRenderer] = {}


def render_sample(
    config: RenderConfig, names: list[str], number: int, rejected: Counter[str]
) -> dict[str, Any]:
    """Draw, simulate, annotate and render sample `number`; returns its arrays and metadata."""
    category, family = split_name(config, names[number % len(names)])
    scene, trajectory = sample_scene(
        category,
        family,
        config.seed_start + number,
        num_frames=config.num_frames,
        fps=config.fps,
        physics=config.physics,
        look=config.look,
        rejected=rejected,
    )
    arrays, metadata = film(config, scene, trajectory)
    if config.second_take:
        scene, trajectory = second_take(scene)
        camera = scene.camera(config.width, config.height)
        arrays["rgb_take2"] = _renderer(config).render(scene, trajectory)
        arrays["object_ids_take2"] = annotate(scene, trajectory, camera).object_ids
    return {"arrays": arrays, "metadata": metadata}


def film(
    config: RenderConfig, scene: BuiltScene, trajectory: Trajectory
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Annotate and render a simulated scene; returns the sample's arrays and metadata."""
    camera = scene.camera(config.width, config.height)
    truth = annotate(scene, trajectory, camera)
    arrays = {
        "rgb": _renderer(config).render(scene, trajectory),
        "depth": truth.depth.astype(np.float32),
        "motion": truth.motion.astype(np.float32),
        "object_ids": truth.object_ids,
        "visible": truth.visible,
        "position": trajectory.position_m,
        "rotation": trajectory.rotation,
    }
    metadata = {
        "caption": scene.caption,
        "spec": json.loads(scene.spec.to_json()),
        "camera": camera.to_dict(),
        "objects": [
            {
                "name": item.name,
                "shape": item.shape,
                "size_m": item.size_m,
                "color_rgb": item.color_rgb,
                "material": item.material,
                "mass_kg": item.mass_kg,
            }
            for item in scene.objects
        ],
        "engine": scene.spec.engine,
    }
    if config.annotations == "full":
        arrays["normal"] = truth.normal.astype(np.float16)
        more, fields = _full_annotations(scene, trajectory, camera, config.points_per_object)
        arrays.update(more)
        metadata["fields"] = fields
    return arrays, metadata


def _renderer(config: RenderConfig) -> RgbRenderer:
    """The process's renderer for videos of this size."""
    size = (config.width, config.height, config.num_frames, config.supersampling)
    if size not in _RENDERERS:
        _RENDERERS[size] = RgbRenderer(
            width=size[0], height=size[1], num_frames=size[2], supersampling=size[3]
        )
    return _RENDERERS[size]


def _full_annotations(
    scene: BuiltScene, trajectory: Trajectory, camera: Camera, points_per_object: int
) -> tuple[dict[str, np.ndarray], dict[str, dict[str, Any]]]:
    """Arrays of `format.MORE_ARRAYS` without normals, and what the fields' arrays mean."""
    tracks = track_points(scene, trajectory, camera, points_per_object)
    arrays = {
        "velocity": trajectory.velocity,
        "tracks": tracks.position.astype(np.float32),
        "tracks_visible": tracks.visible,
        "tracks_object": tracks.object_index.astype(np.uint8),
        "contacts": contacts(scene, trajectory),
    }
    if trajectory.particles is not None:
        arrays["particles"] = trajectory.particles.position_m.astype(np.float32)
        arrays["particles_radius"] = trajectory.particles.radius_m.astype(np.float32)
        arrays["particles_object"] = trajectory.particles.object_index.astype(np.uint8)
    if trajectory.meshes:
        merged = [merged_meshes(trajectory, frame) for frame in range(len(trajectory.times_s))]
        arrays["vertices"] = np.stack([vertices for vertices, _, _ in merged]).astype(np.float32)
        arrays["faces"] = merged[0][1].astype(np.int32)
        arrays["faces_object"] = merged[0][2].astype(np.uint8)
    fields = {}
    for field in trajectory.fields:
        arrays[field.name] = field.values.astype(np.float32)
        fields[field.name] = {
            "unit": field.unit,
            "origin_m": list(field.origin_m),
            "spacing_m": field.spacing_m,
        }
    return arrays, fields
