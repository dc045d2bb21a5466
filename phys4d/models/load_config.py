"""How a stage holds its base model; imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

DType = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True, kw_only=True)
class LoadConfig:
    """Precision and memory of the base model, and where what it encodes is kept."""

    dtype: DType = "float32"
    """Of transformer and text encoder; the autoencoder is float32."""
    gradient_checkpointing: bool = False
    """Recompute blocks in the backward pass: less memory, about half as much arithmetic again."""
    base_storage: Literal["same", "float8"] = "same"
    """How stages 2 and 3 store the frozen weights under their adapters: `float8` (e4m3) is one byte a weight,
    cast to the type of its input layer by layer."""
    cache: Path | None = None
    """Folder that keeps latents and text embeddings by their content; none encodes anew in each run."""
