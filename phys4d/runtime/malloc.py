"""How glibc keeps memory for large messages."""

import ctypes
import os

SETTINGS = {
    "MALLOC_MMAP_THRESHOLD_": (-3, 1 << 30),
    "MALLOC_TRIM_THRESHOLD_": (-1, (1 << 31) - 1),
    "MALLOC_TOP_PAD_": (-2, 64 << 20),
}
"""Environment variable: parameter of mallopt(3), and value in bytes."""


def keep_large_blocks() -> None:
    """Keep large blocks that are freed, here and in child processes, instead of giving them back at once.

    By its defaults glibc maps every large block anew, and the kernel clears its pages each time: for a
    message of 50 MB that took several times as long as the rest. Where a variable `MALLOC_...` is set already
    nothing is changed; other C libraries are left alone. The price: a process stays as large as it once was.
    """
    if any(name.startswith("MALLOC_") for name in os.environ):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    for name, (parameter, num_bytes) in SETTINGS.items():
        os.environ[name] = str(num_bytes)
        if mallopt is not None:
            mallopt(parameter, num_bytes)
