"""Files and directories appear whole or not at all, whatever happens on the way."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from phys4d.runtime import files
from phys4d.runtime.errors import UserError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def in_child(code: str, *args: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", code, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_sha256_of_abc_is_that_of_the_standard(tmp_path: Path) -> None:
    """Source: FIPS 180-2, appendix B.1."""
    (tmp_path / "abc").write_bytes(b"abc")
    assert (
        files.sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


def test_a_written_file_is_readable_by_others_as_the_umask_says(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        files.atomic_write_bytes(tmp_path / "deep" / "file", b"1")
    finally:
        os.umask(old)
    assert (tmp_path / "deep" / "file").stat().st_mode & 0o777 == 0o640


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from phys4d.runtime import files
from phys4d.runtime.errors import run_main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
def main():
    if sys.argv[1] == "file":
        files.atomic_write_bytes(sys.argv[2], b"x" * 100_000)
    else:
        with files.atomic_directory(sys.argv[2], replace=True) as folder:
            (folder / "small").write_bytes(b"x")
            (folder / "large").write_bytes(b"x" * 100_000)
run_main(main)
"""


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_a_full_disk_leaves_the_old_content_and_no_litter(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "target"
    if kind == "file":
        target.write_text("old")
    else:
        target.mkdir()
        (target / "small").write_text("old")
    child = in_child(FULL_DISK, kind, str(target))
    _, stderr = child.communicate(timeout=60)
    assert child.returncode == 2
    assert stderr.startswith("error: File too large") and stderr.count("\n") == 1
    assert names(tmp_path) == ["target"]
    assert (target if kind == "file" else target / "small").read_text() == "old"


HANG_INSIDE = """
import sys, time
from phys4d.runtime import files
with files.atomic_directory(sys.argv[1]) as folder:
    (folder / "half").write_text("half")
    print("inside", flush=True)
    time.sleep(600)
"""


def test_a_process_killed_while_writing_leaves_nothing_visible_and_the_next_one_tidies_up(
    tmp_path: Path,
) -> None:
    child = in_child(HANG_INSIDE, str(tmp_path / "stage"))
    assert child.stdout is not None and child.stdout.readline() == "inside\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not (tmp_path / "stage").exists()
    assert all(name.startswith(".stage.") for name in names(tmp_path))
    with files.atomic_directory(tmp_path / "stage") as folder:
        (folder / "whole").write_text("whole")
    assert names(tmp_path) == ["stage"]
    assert names(tmp_path / "stage") == ["whole"]


def test_the_half_written_directory_of_a_live_process_is_left_alone(tmp_path: Path) -> None:
    child = in_child(HANG_INSIDE, str(tmp_path / "stage"))
    assert child.stdout is not None and child.stdout.readline() == "inside\n"
    try:
        with files.atomic_directory(tmp_path / "stage"):
            pass
        assert len(names(tmp_path)) == 2
    finally:
        child.kill()
        child.wait()


def test_the_old_directory_comes_back_after_a_crash_between_the_two_renames(tmp_path: Path) -> None:
    child = in_child("pass")
    child.wait()
    aside = tmp_path / f".stage.{files._owner(child.pid)}.old"
    aside.mkdir()
    (aside / "kept").write_text("kept")
    with pytest.raises(RuntimeError, match="stop"), files.atomic_directory(tmp_path / "stage"):
        raise RuntimeError("stop")
    assert names(tmp_path) == ["stage"] and names(tmp_path / "stage") == ["kept"]


def test_an_exception_inside_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), files.atomic_directory(tmp_path / "stage") as folder:
        (folder / "half").write_text("half")
        _ = 1 / 0
    assert names(tmp_path) == []


def test_an_existing_directory_is_replaced_only_on_request(tmp_path: Path) -> None:
    for text in ("1", "2"):
        with files.atomic_directory(tmp_path / "stage", replace=True) as folder:
            (folder / text).write_text(text)
    with pytest.raises(UserError, match="exists"), files.atomic_directory(tmp_path / "stage"):
        pass
    assert names(tmp_path) == ["stage"] and names(tmp_path / "stage") == ["2"]
