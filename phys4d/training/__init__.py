"""The training engine that the tiny base and stages 1 and 2 share."""

from phys4d.training.ema import Ema
from phys4d.training.loop import fit
from phys4d.training.stage_run import StageRun, check_finished

__all__ = ["Ema", "StageRun", "check_finished", "fit"]
