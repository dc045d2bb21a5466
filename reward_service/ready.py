"""How a service tells that it answers."""

from pathlib import Path

from phys4d.runtime.files import atomic_write_text
from reward_service.config import ServiceConfig

PRESETS = Path(__file__).parent / "presets"


def announce(config: ServiceConfig, port: int) -> None:
    """Print `ready on HOST:PORT`, and write it to the ready file if one is named.

    A service on every interface is announced as 127.0.0.1.
    """
    host = "127.0.0.1" if config.host in ("0.0.0.0", "[::]") else config.host
    if config.ready_file is not None:
        atomic_write_text(config.ready_file, f"{host}:{port}\n")
    print(f"ready on {host}:{port}", flush=True)
