"""Load the model of each stage of a run."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Literal

from phys4d.models.backbone import Backbone
from phys4d.models.heads import GeometryHeads
from phys4d.models.load_config import LoadConfig
from phys4d.models.lora import load_lora, merge_lora
from phys4d.models.registry import load_model
from phys4d.runtime.checkpoint import latest, step_of

Stage = Literal["base", "stage1", "stage2", "stage3", "best_of_n"]
STAGES: tuple[Stage, ...] = ("base", "stage1", "stage2", "stage3")
POLICY = "policy"
"""Name of stage 3's adapter."""


_LAST_WRITTEN: dict[Stage, str] = {
    "base": "model/model_index.json",
    "stage1": "heads.safetensors",
    "stage2": "heads.safetensors",
    "stage3": "lora/pytorch_lora_weights.safetensors",
    "best_of_n": "latents.safetensors",
}


def is_finished(run: Path, stage: Stage) -> bool:
    """Whether a stage has written all that it writes; a stage 3 that goes on to more iterations has not."""
    return (run / stage / _LAST_WRITTEN[stage]).is_file() and not (stage == "stage3" and _goes_on(run))


def tell_unfinished(run: Path) -> None:
    """Say why stage 3 is left out, if it was begun again for more iterations and has not made them."""
    if counts := _goes_on(run):
        print(
            f"stage 3 of {run} has {counts[0]} of {counts[1]} iterations, so it is left out; finish it with "
            "`make rl-train`",
            flush=True,
        )


def _goes_on(run: Path) -> tuple[int, int] | None:
    """Iterations that stage 3 has made and was asked for, if it was begun again for more than it has made."""
    checkpoint, settings = latest(run / "stage3" / "checkpoints"), run / "stage3" / "config.toml"
    if checkpoint is None or not settings.is_file():
        return None
    done = step_of(checkpoint)
    asked = tomllib.loads(settings.read_text(encoding="utf-8")).get("num_iterations", 0)
    return (done, asked) if asked > done else None


def results_name(kind: Literal["evaluation", "external"], split: str) -> str:
    """The folder of a run with the results of a split."""
    return kind if split == "test" else f"{kind}-{split}"


def finished_stages(run: Path) -> list[Stage]:
    """The stages that a run has, in order."""
    return [stage for stage in STAGES if is_finished(run, stage)]


def measured_stages(run: Path) -> list[Stage]:
    """The stages that a run has, and the best of N videos of stage 2 if they were picked."""
    picked: list[Stage] = ["best_of_n"] if is_finished(run, "best_of_n") else []
    return finished_stages(run) + picked


def load_stage(
    run: Path, stage: Stage, memory: LoadConfig | None = None
) -> tuple[Backbone, GeometryHeads | None]:
    """The model as it stands after a stage, earlier adapters merged, and the heads that belong to it.

    That of `best_of_n` is stage 2.

    Raises:
        FileNotFoundError: a stage has not been run; says which target makes it.
    """
    memory = memory or LoadConfig()
    model = load_model(
        run / "base" / "model",
        dtype=memory.dtype,
        gradient_checkpointing=memory.gradient_checkpointing,
    )
    if stage in ("stage2", "stage3", "best_of_n"):
        load_lora(model.transformer, "sft", run / "stage2" / "lora")
        merge_lora(model.transformer, "sft")
    if stage == "stage3":
        load_lora(model.transformer, POLICY, run / "stage3" / "lora")
    heads = {"base": None, "stage1": "stage1"}.get(stage, "stage2")
    return model, None if heads is None else GeometryHeads.load(
        run / heads / "heads.safetensors", model.head_sizes
    )
