"""Compiled loops work where nothing can be written."""

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("loop", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
print(module.double(21.0))
"""


def test_without_a_place_for_the_cache_loops_compile_all_the_same(tmp_path: Path) -> None:
    """A file stands where the folder beside the source and the user's cache folder would be."""
    (tmp_path / "loop.py").write_text(
        "from phys4d.scenes.solvers.jit import compiled\n\n\n@compiled\ndef double(x):\n    return 2 * x\n"
    )
    (tmp_path / "__pycache__").write_text("")
    (tmp_path / "home").write_text("")
    environment = {k: v for k, v in os.environ.items() if k not in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME")}
    environment |= {"HOME": str(tmp_path / "home"), "PYTHONPATH": str(Path(__file__).parents[4])}
    environment["XDG_CACHE_HOME"] = str(tmp_path / "home")
    done = subprocess.run(
        [sys.executable, "-B", "-c", PROGRAM, str(tmp_path / "loop.py")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout.strip() == "42.0", done.stderr
    assert (tmp_path / "__pycache__").is_file()
