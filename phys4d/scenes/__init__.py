"""Physical scenes: specs, simulation, annotations, rendering and the dataset's programs."""

from phys4d.scenes.model import BuiltScene, SceneObject, build
from phys4d.scenes.registry import families, sample_spec
from phys4d.scenes.simulation import Trajectory, raycast, simulate

__all__ = [
    "BuiltScene",
    "SceneObject",
    "Trajectory",
    "build",
    "families",
    "raycast",
    "sample_spec",
    "simulate",
]
