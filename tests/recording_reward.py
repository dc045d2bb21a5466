"""A reward that writes down what it is sent."""

import hashlib
from pathlib import Path

import numpy as np

from phys4d.types import Rollout, Score
from reward_service.config import ChamferSettings
from reward_service.scoring import SceneChamfer


class Recording(SceneChamfer):
    """`scene_chamfer`; adds a line to `file` for each rollout: its id and what it was."""

    name = "recording"

    def __init__(self, file: str) -> None:
        super().__init__(ChamferSettings())
        self.file = Path(file)

    def score(self, rollout: Rollout) -> Score:
        content = (
            np.ascontiguousarray(rollout.depth).tobytes() + np.ascontiguousarray(rollout.motion).tobytes()
        )
        with self.file.open("a") as file:
            file.write(f"{rollout.sample_id} {hashlib.sha256(content).hexdigest()}\n")
        return super().score(rollout)
