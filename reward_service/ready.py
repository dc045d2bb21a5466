"""Where a service listens, and how it tells that it answers."""

import socket
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
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            message = f"cannot listen on {host}:{port} ({error.strerror}); --port 0 finds a free port"
            raise OSError(message) from error


def reachable(config: ServiceConfig, port: int) -> str:
    """`host:port` for callers on this machine."""
    return f"{'127.0.0.1' if config.host in EVERY_INTERFACE else config.host}:{port}"


def announce(config: ServiceConfig, port: int) -> None:
    """Print `ready on HOST:PORT`, and write it to the ready file if one is named."""
    endpoint = reachable(config, port)
    if config.ready_file is not None:
        atomic_write_text(config.ready_file, f"{endpoint}\n")
    print(f"ready on {endpoint}", flush=True)
