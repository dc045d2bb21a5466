"""Scenes whose outcome can be computed by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from phys4d.scenes import BuiltScene

MakeScene = Callable[..., "BuiltScene"]


def _ball(**values: Any) -> dict[str, Any]:
    return {
        "shape": "sphere",
        "size_m": [0.2],
        "position_m": [0.0, 0.0, 1.0],
        "quaternion_wxyz": [1.0, 0.0, 0.0, 0.0],
        "linear_velocity_m_s": [0.0, 0.0, 0.0],
        "angular_velocity_rad_s": [0.0, 0.0, 0.0],
        "density_kg_m3": 1000.0,
        "restitution": 0.8,
        "rgb": [1.0, 0.0, 0.0],
        "pattern": "plain",
        **values,
    }


@pytest.fixture(scope="session")
def make_scene() -> MakeScene:
    """Build balls (or what their overrides say) over a floor, seen from y = -3."""
    from phys4d.scenes import build
    from phys4d.types import SceneSpec

    def make(
        *objects: dict[str, Any],
        num_frames: int = 9,
        fps: float = 12.0,
        floor_m: float = 0.0,
        **parameters: Any,
    ) -> BuiltScene:
        floor = {
            "shape": "plane",
            "size_m": [0.0, 0.0, 1.0],
            "position_m": [0.0, 0.0, floor_m],
            "quaternion_wxyz": [1.0, 0.0, 0.0, 0.0],
            "friction": 0.5,
            "rgb": [0.5, 0.5, 0.5],
            "texture": "noise",
            "texture_repeat": [1.0, 1.0],
        }
        values = {
            "caption": "test",
            "gravity_m_s2": 9.81,
            "object_friction": 0.4,
            "objects": [_ball(**entry) for entry in objects],
            "fixtures": [floor],
            "camera": {"position_m": [0.0, -3.0, 0.5], "target_m": [0.0, 0.0, 0.5], "fov_deg": 45.0},
            "light": {"direction": [0.0, 0.6, -0.8], "diffuse": 0.6, "ambient": 0.4, "fill": 0.1},
            **parameters,
        }
        return build(
            SceneSpec(
                category="rigid", family="drop", seed=0, parameters=values, num_frames=num_frames, fps=fps
            )
        )

    return make
