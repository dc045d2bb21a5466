"""In a log file, progress is a few lines with count, rate and time left."""

import re
import subprocess
import sys


def test_without_a_terminal_progress_is_lines() -> None:
    code = (
        "from phys4d.runtime.progress import progress\n"
        "for _ in progress(range(50), desc='rendering', unit='video'): pass"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    lines = done.stderr.splitlines()
    assert "\r" not in done.stderr and 1 <= len(lines) <= 3
    assert re.fullmatch(r"rendering: 50/50 \[\d+:\d+<\d+:\d+, *[\d.]+k? video/s\]", lines[-1]), lines[-1]
