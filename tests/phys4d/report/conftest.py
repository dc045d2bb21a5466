"""A run to report on."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def write_run() -> Callable[..., Path]:
    """`write_run` of the neighbouring file, which is a program of its own too."""
    spec = importlib.util.spec_from_file_location("run_folder", Path(__file__).with_name("run_folder.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.write_run


@pytest.fixture
def run_folder(tmp_path: Path, write_run: Callable[..., Path]) -> Path:
    """A whole run with two scenes."""
    return write_run(tmp_path / "tiny-wan", num_scenes=2)
