"""The dataset on disk: tar shards of annotated videos, written whole or not at all, read lazily."""

from phys4d.data.read import Dataset, Sample, open_dataset
from phys4d.data.write import ShardWriter

__all__ = ["Dataset", "Sample", "ShardWriter", "open_dataset"]
