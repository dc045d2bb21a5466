"""How many threads the numerical libraries may take."""

import os
import sys

VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)


def limit_threads(num_threads: int) -> None:
    """Let this process's numerical libraries use `num_threads` threads.

    Libraries read the environment when they are first imported, so call this before importing them; an
    already imported torch is told directly. Child processes inherit the limit.
    """
    if num_threads < 1:
        raise ValueError(f"num_threads must be at least 1, got {num_threads}")
    for name in VARIABLES:
        os.environ[name] = str(num_threads)
    # Threads that spin while they wait made a training step 2 to 4 times slower on two busy cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(num_threads)
