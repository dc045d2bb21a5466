"""Scalars of a run to Weights & Biases too, for who asks for it."""

from __future__ import annotations

import importlib.util
import secrets
from pathlib import Path
from typing import Any

from phys4d.runtime.errors import UserError

ID_NAME = "wandb-id"


class WandbLog:
    """One run of a project; a resumed run goes on in the same one."""

    def __init__(self, project: str, folder: Path, config: dict[str, Any], *, new: bool) -> None:
        """
        Args:
            folder: the stage's folder, runs/NAME/STAGE; local files go to its `wandb/`.
            new: begin a run instead of going on with the folder's.

        Raises:
            UserError: wandb is not installed, or refuses.
        """
        spec = importlib.util.find_spec("wandb")
        # A folder of that name, as wandb leaves it, is found too.
        if spec is None or spec.origin is None:
            raise UserError(
                f"wandb-project is {project!r}, but wandb is not installed; pip install it or set no project"
            )
        import wandb

        path = folder / ID_NAME
        if new or not path.is_file():
            path.write_text(secrets.token_hex(4))
        try:
            self._run: Any = wandb.init(
                project=project,
                dir=folder,
                id=path.read_text(),
                name=f"{folder.parent.name}/{folder.name}",
                config=config,
                resume="allow",
            )
        except wandb.Error as error:
            raise UserError(
                f"wandb does not start ({error}); run `wandb login`, or set WANDB_MODE=offline"
            ) from error
        # A stage holds several trainings that each count from 0; wandb's own step only rises.
        self._run.define_metric("*", step_metric="step")

    def log(self, step: int, scalars: dict[str, float]) -> None:
        """Scalars of one step."""
        self._run.log({"step": step, **scalars})

    def close(self) -> None:
        """Send what is left."""
        self._run.finish()
