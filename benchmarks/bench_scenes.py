"""How fast scenes of each category are simulated, annotated and rendered, and re-simulated by the scorer.

A scene of each category's first family: "frames" draws nothing anew but builds, simulates, annotates (all of
`--annotations full`) and renders 9 frames at 12 fps (3 frames at 512 x 512); "scored" is what the reward
service does with a spec that it has not met: build, simulate, and follow the points that frame 0 shows.
"""

from functools import partial

from benchmarks.registry import Work, rate
from phys4d.scenes.registry import CATEGORIES, build, sample_spec, simulate
from phys4d.scenes.render_config import RenderConfig

SIZES = {64: 9, 128: 9, 512: 3}
"""Frames of the video at each size."""


def _annotated(category: str, size: int) -> tuple[Work, int]:
    from phys4d.scenes.sample import film

    config = RenderConfig(width=size, height=size, num_frames=SIZES[size], annotations="full")
    spec = sample_spec(category, next(iter(CATEGORIES[category].families)), 0, num_frames=SIZES[size])

    def work() -> object:
        scene = build(spec)
        return film(config, scene, simulate(scene))

    return work, SIZES[size]


def _scored(category: str) -> tuple[Work, int]:
    from reward_service.config import ChamferSettings
    from reward_service.truth import build_truth

    spec = sample_spec(category, next(iter(CATEGORIES[category].families)), 0)
    return lambda: build_truth(spec, 64, 64, ChamferSettings().max_points), 1


for name in CATEGORIES:
    for pixels in SIZES:
        rate(f"frames, {name}, {pixels} x {pixels}", unit="frames with all annotations")(
            partial(_annotated, name, pixels)
        )
    rate(f"scored, {name}", unit="scenes of 9 frames re-simulated")(partial(_scored, name))
