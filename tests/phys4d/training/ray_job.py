"""`small_job` on a Ray cluster of this machine, as a program: `ray_job.py FOLDER NUM_STEPS`."""

import sys
from dataclasses import dataclass
from pathlib import Path

from phys4d.runtime.cluster import ClusterConfig
from phys4d.training.on_ray import train_on_ray


@dataclass(frozen=True)
class JobConfig:
    """What the workers get."""

    run: Path
    num_steps: int


def train(config: JobConfig) -> None:
    """On each worker."""
    sys.path.insert(0, str(Path(__file__).parent))
    from small_job import train as train_small

    train_small(config.run / "run", config.num_steps)


if __name__ == "__main__":
    folder, num_steps = Path(sys.argv[1]), int(sys.argv[2])
    cluster = ClusterConfig(ray_address="local", num_workers=2)
    train_on_ray(train, JobConfig(folder, num_steps), cluster)
