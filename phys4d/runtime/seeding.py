"""Seeds that are the same on every machine."""

import hashlib
import random
import sys

import numpy as np


def derive_seed(*parts: int | str) -> int:
    """Hash names and numbers to a seed in [0, 2^63), the same in every process and version of Python.

    `derive_seed(run_seed, "rollout", step)` gives each use its own stream, so that adding one use does not
    shift the others.
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def seed_everything(seed: int) -> None:
    """Seed `random`, NumPy's global generator and torch (CPU and CUDA), if it is loaded."""
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed must be in [0, 2^63), got {seed}")
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - libraries draw from the global generator
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(seed)
