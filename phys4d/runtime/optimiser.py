"""Optimiser settings, free of torch so that `--help` answers at once."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class OptimiserConfig:
    """Linear warm-up and cosine decay; AdamW, and Muon for the matrices a stage names."""

    num_steps: int
    """Optimiser steps."""
    batch_size: int
    """Videos (or frames) per step."""
    learning_rate: float
    """Peak learning rate."""
    muon_learning_rate: float = 0.0
    """Peak learning rate of Muon (Jordan et al. 2024) for the hidden matrices of a transformer trained from
    scratch; 0 leaves them to AdamW. The two have not been compared here."""
    warmup_steps: int = 20
    """Steps of linear warm-up."""
    weight_decay: float = 1e-4
    max_grad_norm: float = 1.0
    """Gradient norm above which gradients are scaled down."""
    ema_decay: float = 0.995
    """Decay of the averaged weights that are saved; 0 saves the last ones."""
    bf16: bool = False
    """Autocast to bfloat16."""
    micro_batches: int = 2
    """Parts that a batch is cut into: beside each other on a CPU, a thread each; else one after the other."""

    def __post_init__(self) -> None:
        for name in ("num_steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 1 <= self.micro_batches <= self.batch_size or self.batch_size % self.micro_batches:
            raise ValueError(
                f"micro_batches must divide batch_size {self.batch_size}, got {self.micro_batches}"
            )
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must be in [0, 1), got {self.ema_decay}")
