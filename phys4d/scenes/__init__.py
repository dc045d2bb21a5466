"""Physical scenes: specs, simulation, annotations, rendering and the dataset's programs."""

from phys4d.scenes.model import BuiltScene, SceneObject
from phys4d.scenes.rays import raycast
from phys4d.scenes.registry import build, families, sample_spec, simulate
from phys4d.scenes.trajectory import Trajectory

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
