"""The same job on a Ray cluster, through Ray Train. The only module of training that knows Ray."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from phys4d.runtime.cluster import ClusterConfig
from phys4d.runtime.errors import UserError
from phys4d.training.ranks import PATIENCE


def train_on_ray(train: Callable[[Any], object], config: Any, cluster: ClusterConfig) -> None:
    """Run `train(config)` on every worker of a Ray Train job and wait for it.

    Ray sets up the process group that `Ranks.current` joins. Every worker must see the run's and the data's
    folders under the same paths: mount them, or run on one machine. An interrupted job goes on when it is
    started again.

    Raises:
        UserError: no cluster at the address.
        RuntimeError: a worker failed.
    """
    import ray
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    here = os.getcwd()
    paths = os.pathsep.join(dict.fromkeys([here, *(path for path in sys.path if path)]))
    environment = {"PYTHONPATH": paths, "RAY_TRAIN_ENABLE_CONTROLLER_LOGGING": "0"}
    is_local = cluster.ray_address == "local"
    try:
        ray.init(
            address=cluster.ray_address,
            runtime_env={"env_vars": environment},
            include_dashboard=False if is_local else None,
        )
    except ConnectionError as error:
        raise UserError(f"no Ray cluster at {cluster.ray_address}: {error}") from error

    def worker() -> None:
        # Ray Train gives each worker a folder of its own; ours are relative to where the job was started.
        os.chdir(here)
        train(config)

    backend = "nccl" if cluster.gpus_per_worker else "gloo"
    trainer = TorchTrainer(
        worker,
        torch_config=TorchConfig(backend=backend, timeout_s=int(PATIENCE.total_seconds())),
        scaling_config=ScalingConfig(
            num_workers=cluster.num_workers,
            use_gpu=cluster.gpus_per_worker > 0,
            resources_per_worker={"GPU": cluster.gpus_per_worker} if cluster.gpus_per_worker else {"CPU": 1},
        ),
        run_config=RunConfig(name="job", storage_path=str(Path(here, config.run, "ray").resolve())),
    )
    try:
        trainer.fit()
    finally:
        ray.shutdown()
