"""Where a service listens, and how it tells that it answers."""

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

from phys4d.runtime.files import atomic_write_text
from reward_service.config import ServiceConfig

PRESETS = Path(__file__).parent / "presets"
EVERY_INTERFACE = ("0.0.0.0", "[::]")
"""Hosts that mean all addresses of this machine."""


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def check_port(host: str, port: int) -> None:
    """Refuse an address that cannot be listened on, before anything is started; port 0 is any."""
    with _socket(host) as listener:
        try:
            listener.bind((host.strip("[]"), port))
            # A held port is bound without a listener.
            listener.listen()
        except OSError as error:
            message = f"cannot listen on {host}:{port} ({error.strerror}); --port 0 finds a free port"
            raise OSError(message) from error


@contextlib.contextmanager
def held_port(host: str, port: int) -> Iterator[int]:
    """Keep a port, 0 any, for servers that share it (`SO_REUSEPORT`): `check_port` refuses it to all others.

    Raises:
        OSError: the address cannot be listened on.
    """
    check_port(host, port)
    with _socket(host) as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind((host.strip("[]"), port))
        # It let this bind where last connections of another server still end; now it would let others bind.
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        yield holder.getsockname()[1]


def _socket(host: str) -> socket.socket:
    """As servers make them: an address in brackets is one of IPv6."""
    made = socket.socket(socket.AF_INET6 if host.startswith("[") else socket.AF_INET)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return made


def reachable(config: ServiceConfig, port: int) -> str:
    """`host:port` for callers on this machine."""
    return f"{'127.0.0.1' if config.host in EVERY_INTERFACE else config.host}:{port}"


def announce(config: ServiceConfig, port: int) -> None:
    """Print `ready on HOST:PORT`, and write it to the ready file if one is named."""
    endpoint = reachable(config, port)
    if config.ready_file is not None:
        atomic_write_text(config.ready_file, f"{endpoint}\n")
    print(f"ready on {endpoint}", flush=True)
