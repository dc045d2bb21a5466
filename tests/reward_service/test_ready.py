"""Ports that a service takes before it listens on them."""

import socket
from pathlib import Path

import pytest

from reward_service.ready import check_port, held_port


def listener(port: int, *options: int) -> socket.socket:
    made = socket.socket()
    for option in options:
        made.setsockopt(socket.SOL_SOCKET, option, 1)
    made.bind(("127.0.0.1", port))
    made.listen()
    return made


NO_IPV6 = pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="this machine has no IPv6")


@pytest.mark.parametrize("host", ["127.0.0.1", pytest.param("[::]", marks=NO_IPV6)])
def test_a_held_port_is_for_those_who_share_it_and_nobody_else(host: str) -> None:
    """Of two services that start at once one may listen: the kernel would deal out callers to both."""
    with held_port(host, 0) as port:
        for _ in range(2):
            with pytest.raises(OSError, match=f"cannot listen on .*:{port} .*in use"), held_port(host, port):
                pass
            # The ingress, as gRPC binds it, and the one that takes over from it.
            with (
                listener(port, socket.SO_REUSEADDR, socket.SO_REUSEPORT),
                listener(port, socket.SO_REUSEADDR, socket.SO_REUSEPORT),
                pytest.raises(OSError, match="in use"),
            ):
                check_port(host, port)
    check_port(host, port)


def test_a_port_is_free_again_while_its_last_connections_end() -> None:
    """The one who closes first waits in TIME_WAIT, here the server."""
    with listener(0, socket.SO_REUSEADDR) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            server.accept()[0].close()
    with held_port("127.0.0.1", port), pytest.raises(OSError, match="in use"):
        check_port("127.0.0.1", port)
