"""One sample of a data set: a scene drawn, simulated, annotated and filmed."""

import json
from collections import Counter
from typing import Any

import numpy as np

from phys4d.scenes.annotations import annotate, contacts, track_points
from phys4d.scenes.model import BuiltScene
from phys4d.scenes.rays import merged_meshes, raycast
from phys4d.scenes.registry import NoAcceptableDraw, sample_scene, second_take
from phys4d.scenes.render_config import RenderConfig, split_name
from phys4d.scenes.rgb import RgbRenderer
from phys4d.scenes.trajectory import Trajectory, UnstableSimulation
from phys4d.types import Camera

SEED_STRIDE = 2**32
MAX_SEEDS = 8
"""A sample whose seed yields no scene takes seed + 2^32, seed + 2 x 2^32 and so on, up to here."""
Take = tuple[BuiltScene, Trajectory]

_RENDERERS: dict[tuple[int, int, int, int], RgbRenderer] = {}


def render_sample(
    config: RenderConfig, names: list[str], number: int, rejected: Counter[str]
) -> dict[str, Any]:
    """Draw, simulate, annotate and render sample `number`; returns its arrays and metadata."""
    (scene, trajectory), take = draw(config, names, number, rejected)
    arrays, metadata = film(config, scene, trajectory)
    if take is not None:
        scene, trajectory = take
        camera = scene.camera(config.width, config.height)
        arrays["rgb_take2"] = _renderer(config).render(scene, trajectory)
        arrays["object_ids_take2"] = np.stack(
            [raycast(scene, trajectory, frame, camera)[1] for frame in range(config.num_frames)]
        )
        arrays["position_take2"] = trajectory.position_m
        metadata["spec_take2"] = json.loads(scene.spec.to_json())
    return {"arrays": arrays, "metadata": metadata}


def draw(
    config: RenderConfig, names: list[str], number: int, rejected: Counter[str]
) -> tuple[Take, Take | None]:
    """The scene of sample `number` and its second take, if asked for.

    Raises:
        ValueError: none of `MAX_SEEDS` seeds yields a scene.
    """
    category, family = split_name(config, names[number % len(names)])
    problem = ""
    for turn in range(MAX_SEEDS):
        try:
            first = sample_scene(
                category,
                family,
                config.seed_start + number + turn * SEED_STRIDE,
                num_frames=config.num_frames,
                fps=config.fps,
                physics=config.physics,
                look=config.look,
                rejected=rejected,
            )
            return first, second_take(first[0]) if config.second_take else None
        except (NoAcceptableDraw, UnstableSimulation) as error:
            rejected["whole seed"] += 1
            problem = str(error)
    raise ValueError(f"sample {number}: none of {MAX_SEEDS} seeds yields a scene; the last: {problem}")


def film(
    config: RenderConfig, scene: BuiltScene, trajectory: Trajectory
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Annotate and render a simulated scene; returns the sample's arrays and metadata."""
    camera = scene.camera(config.width, config.height)
    truth = annotate(scene, trajectory, camera)
    arrays = {
        "rgb": _renderer(config).render(scene, trajectory),
        "depth": truth.depth,
        "motion": truth.motion,
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
        arrays["normal"] = truth.normal
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
        arrays["particles_velocity"] = trajectory.particles.velocity_m_s.astype(np.float32)
        for name, values in trajectory.particles.scalars.items():
            arrays[f"particles_{name}"] = values.astype(np.float32)
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
