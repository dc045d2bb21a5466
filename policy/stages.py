"""Load the model of each stage of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from phys4d.models.heads import GeometryHeads
from phys4d.models.lora import load_lora, merge_lora
from phys4d.models.protocol import VideoModel
from phys4d.models.registry import load_model

Stage = Literal["base", "stage1", "stage2", "stage3"]
STAGES: tuple[Stage, ...] = ("base", "stage1", "stage2", "stage3")
POLICY = "policy"
"""Name of stage 3's adapter."""


_LAST_WRITTEN: dict[Stage, str] = {
    "base": "model/model_index.json",
    "stage1": "heads.safetensors",
    "stage2": "heads.safetensors",
    "stage3": "lora/pytorch_lora_weights.safetensors",
}


def is_finished(run: Path, stage: Stage) -> bool:
    """Whether a stage has written all that it writes."""
    return (run / stage / _LAST_WRITTEN[stage]).is_file()


def finished_stages(run: Path) -> list[Stage]:
    """The stages that a run has, in order."""
    return [stage for stage in STAGES if is_finished(run, stage)]


def load_stage(run: Path, stage: Stage) -> tuple[VideoModel, GeometryHeads | None]:
    """The model as it stands after a stage, earlier adapters merged, and the heads that belong to it.

    Raises:
        FileNotFoundError: a stage has not been run; says which target makes it.
    """
    model = load_model(run / "base" / "model")
    if stage in ("stage2", "stage3"):
        load_lora(model.transformer, "sft", run / "stage2" / "lora")
        merge_lora(model.transformer, "sft")
    if stage == "stage3":
        load_lora(model.transformer, POLICY, run / "stage3" / "lora")
    heads = {"base": None, "stage1": "stage1"}.get(stage, "stage2")
    return model, None if heads is None else GeometryHeads.load(run / heads / "heads.safetensors")
