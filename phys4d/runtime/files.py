"""Files that appear whole or not at all."""

import contextlib
import hashlib
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

from phys4d.runtime.errors import UserError


def sha256(path: Path | str) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def atomic_write_bytes(path: Path | str, data: bytes) -> None:
    """Write a file so that readers see the old content or the new, also after a crash.

    Parent directories are made. On failure (a full disk, say) the old file stays and nothing is left behind.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def atomic_write_text(path: Path | str, text: str) -> None:
    """`atomic_write_bytes` in UTF-8."""
    atomic_write_bytes(path, text.encode())


@contextlib.contextmanager
def atomic_directory(path: Path | str, *, replace: bool = False) -> Iterator[Path]:
    """Yield an empty directory that becomes `path` when the block ends well.

    The yielded directory lies beside `path` under a hidden name. On success its files are synced and it is
    renamed; on failure it is removed. What a killed process left behind is removed by the next call for
    the same `path` on the same host.

    Args:
        replace: allow `path` to exist; it is moved aside, replaced and then removed. A crash between
            the two renames leaves the old content under a hidden name beside `path`.

    Raises:
        UserError: `path` exists and `replace` is false.
    """
    path = Path(path)
    if path.exists() and not replace:
        raise UserError(f"{path} exists; remove it or choose another folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path)
    partial = path.parent / f".{path.name}.{_owner(os.getpid())}.partial"
    partial.mkdir()
    try:
        yield partial
        for folder, _, names in os.walk(partial):
            for name in names:
                with open(Path(folder, name), "rb") as stream:
                    os.fsync(stream.fileno())
            sync_directory(Path(folder))
        if path.exists() and not replace:
            raise UserError(f"{path} appeared while it was being written; is another run using the folder?")
        aside = partial.with_suffix(".old")
        if path.exists():
            os.rename(path, aside)
        os.rename(partial, path)
        shutil.rmtree(aside, ignore_errors=True)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    sync_directory(path.parent)


def process_is_alive(pid: int) -> bool:
    """Whether a process of this host exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _umask() -> int:
    value = os.umask(0o077)
    os.umask(value)
    return value


def _owner(pid: int) -> str:
    return f"{socket.gethostname()}-{pid}"


def _remove_leftovers(path: Path) -> None:
    """Remove partial directories for `path` whose writer on this host is dead."""
    start = f".{path.name}.{socket.gethostname()}-"
    for entry in path.parent.iterdir():
        pid, _, suffix = entry.name.removeprefix(start).partition(".")
        if not entry.name.startswith(start) or suffix not in ("partial", "old") or not pid.isdigit():
            continue
        if int(pid) == os.getpid() or process_is_alive(int(pid)):
            continue
        if suffix == "old" and not path.exists():
            os.rename(entry, path)
        else:
            shutil.rmtree(entry, ignore_errors=True)
