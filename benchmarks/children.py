"""What a fresh Python process takes: seconds to run a program, and memory at its peak."""

import subprocess
import sys
import time
from pathlib import Path

from benchmarks.registry import Measured

ROOT = Path(__file__).parents[1]
PEAK = """

def peak_bytes():
    with open("/proc/self/status") as status:
        return next(1024 * int(line.split()[1]) for line in status if line.startswith("VmHWM"))
"""


def run(*arguments: str) -> str:
    """What `python ARGUMENTS` prints, run in the repository.

    Raises:
        ValueError: it failed.
    """
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"python {' '.join(arguments)[:200]} failed: {done.stderr[-1000:]}")
    return done.stdout


def peak_of(module: str, *flags: str) -> float:
    """Bytes that `python -m MODULE FLAGS` holds at its peak. Linux only.

    Raises:
        ValueError: it failed.
    """
    lines = [
        PEAK,
        "import atexit, runpy, sys",
        "atexit.register(lambda: print(peak_bytes()))",
        f"sys.argv = {[module, *flags]!r}",
        f"runpy.run_module({module!r}, run_name='__main__', alter_sys=True)",
    ]
    return float(run("-c", "\n".join(lines)).split()[-1])


def seconds(*arguments: str) -> Measured:
    """Seconds of `python ARGUMENTS`, start and end included."""
    start = time.perf_counter()
    run(*arguments)
    return Measured(time.perf_counter() - start, 0.0)


def memory(before: str, then: str = "") -> Measured:
    """Bytes by which the peak of a process grows when, after the code `before`, it runs `then`.

    Without `then`: the peak of a process that runs `before`. Linux only.
    """
    lines = [
        PEAK,
        before,
        "start = peak_bytes()" if then else "start = 0",
        then,
        "print(peak_bytes() - start)",
    ]
    return Measured(max(4096.0, float(run("-c", "\n".join(lines)).split()[-1])), 0.0)
