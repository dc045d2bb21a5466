"""pytorch3d's nearest neighbours on a CPU: of an installed pytorch3d, or its own kernel compiled here.

pytorch3d has no wheel for Linux, but `pipablepytorch3d` carries its sources. One file of them, which needs
nothing but torch, is fetched by pip and compiled by torch with g++ and ninja; both are kept under runs/.
"""

import importlib.metadata
import importlib.util
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.children import ROOT
from benchmarks.registry import Unavailable

VERSION = "0.7.6"
KERNEL = "pytorch3d/csrc/knn/knn_cpu.cpp"
FOLDER = ROOT / "runs" / "bench" / f"pytorch3d-{VERSION}"
IS_INSTALLED = importlib.util.find_spec("pytorch3d") is not None
NAME = (
    f"pytorch3d {importlib.metadata.version('pytorch3d')} knn_points"
    if IS_INSTALLED
    else f"pytorch3d {VERSION}'s knn_cpu.cpp, compiled here"
)


def nearest() -> Callable[[Any, Any], Any]:
    """A function of two float32 clouds (P, 3) and (Q, 3): squared distances to the nearest, (P,).

    One loop in one thread, as pytorch3d has it.

    Raises:
        Unavailable: it is not installed and cannot be compiled here.
    """
    if IS_INSTALLED:
        from pytorch3d.ops import knn_points  # pyright: ignore[reportMissingImports]

        return lambda x, y: knn_points(x[None], y[None], K=1).dists[0, :, 0]

    import torch
    from torch.utils.cpp_extension import load_inline

    if lacking := [tool for tool in ("g++", "ninja") if shutil.which(tool) is None]:
        raise Unavailable(f"pytorch3d is not installed and {' and '.join(lacking)} are needed to compile it")
    kernel = load_inline(
        "pytorch3d_knn_cpu",
        cpp_sources=[_source()],
        functions=["KNearestNeighborIdxCpu"],
        extra_cflags=["-O3"],
        build_directory=str(FOLDER),
    )

    def by_kernel(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        counts = [torch.tensor([len(points)]) for points in (x, y)]
        return kernel.KNearestNeighborIdxCpu(x[None], y[None], *counts, 2, 1)[1][0, :, 0]

    return by_kernel


def _source() -> str:
    """The kernel's text, fetched once."""
    kept = FOLDER / Path(KERNEL).name
    if not kept.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            fetch = ["download", "--quiet", "--no-deps", "--dest", folder, f"pipablepytorch3d=={VERSION}"]
            done = subprocess.run([sys.executable, "-m", "pip", *fetch], capture_output=True, text=True)
            if done.returncode:
                last = done.stderr.strip().splitlines()[-1:]
                raise Unavailable(f"pytorch3d is not installed and its sources cannot be fetched: {last}")
            with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as wheel:
                kept.write_bytes(wheel.read(KERNEL))
    return kept.read_text(encoding="utf-8")
