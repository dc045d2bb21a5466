"""How many threads the numerical libraries may take."""

import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

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


def beside(function: Callable[[Any], Any], items: Sequence[Any], device: str = "cpu") -> list[Any]:
    """`map` for torch's work: on a CPU the calls run beside each other, one thread each.

    Small matrices keep two cores busier that way than one operation on both. Elsewhere, within a call, and
    where torch has one thread, they run one after the other. Grad mode and autocast are each thread's own:
    set them in the function.
    """
    import torch

    num_threads = torch.get_num_threads()
    if device != "cpu" or num_threads == 1 or len(items) < 2:
        return [function(item) for item in items]
    return list(_pool(num_threads).map(function, items))


@cache
def _pool(num_threads: int) -> ThreadPoolExecutor:
    import torch

    return ThreadPoolExecutor(num_threads, "beside", initializer=torch.set_num_threads, initargs=(1,))
