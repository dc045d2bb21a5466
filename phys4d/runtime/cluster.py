"""Where a training job runs, free of Ray so that `--help` answers at once."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    """Run the job on a Ray cluster; without an address it runs here."""

    ray_address: str = ""
    """`auto`, `host:port` or `ray://host:port`; `local` starts a cluster on this machine. Empty: no Ray."""
    num_workers: int = 1
    """Processes; micro-batches are dealt to them."""
    gpus_per_worker: float = 0.0
    """GPUs of each; 0 trains on CPUs."""

    def __post_init__(self) -> None:
        if self.num_workers < 1:
            raise ValueError(f"num_workers must be at least 1, got {self.num_workers}")
        if self.gpus_per_worker < 0:
            raise ValueError(f"gpus_per_worker must not be negative, got {self.gpus_per_worker}")
