"""Which of several servers gets the next call: the least busy one whose circuit is closed."""

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc

from phys4d.reward.v1 import reward_pb2 as pb
from phys4d.reward.v1 import reward_pb2_grpc

FAILURES_TO_OPEN = 3
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 15.0


@dataclass(frozen=True, kw_only=True)
class ClientTls:
    """Files of an encrypted connection, PEM."""

    ca_file: Path | None = None
    """Authority that signed the server's certificate; none is the system's list."""
    cert_file: Path | None = None
    """Certificate shown to the server (mTLS); none shows none."""
    key_file: Path | None = None
    """Its private key."""
    server_name: str = ""
    """Name the server's certificate must bear; empty is the endpoint's host."""

    def __post_init__(self) -> None:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file belong together; one of them is missing")

    @classmethod
    def of_files(
        cls, ca_file: Path | None, cert_file: Path | None = None, key_file: Path | None = None
    ) -> "ClientTls | None":
        """A connection encrypted as these files say; None if no authority is named, which is plain text.

        Raises:
            ValueError: a certificate is to be shown on a connection that is not encrypted.
        """
        if ca_file is not None:
            return cls(ca_file=ca_file, cert_file=cert_file, key_file=key_file)
        if cert_file or key_file:
            raise ValueError("cert_file and key_file are shown over TLS only; name ca_file too")
        return None

    def credentials(self) -> grpc.ChannelCredentials:
        """Credentials for a channel."""
        ca, cert, key = (
            path.read_bytes() if path is not None else None
            for path in (self.ca_file, self.cert_file, self.key_file)
        )
        return grpc.ssl_channel_credentials(ca, key, cert)


class Circuit:
    """Stops calls to a server that fails: open after 3 failures in a row, then one probe at a time.

    The pause before a probe doubles from 0.5 s to 15 s, give or take a half.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._num_failures = 0
        self._pause_s = FIRST_PAUSE_S
        self._probe_at = 0.0
        self._probing = False

    def wait_s(self) -> float:
        """Seconds until a call may go: 0 is now, infinity while a probe is under way."""
        if self._num_failures < FAILURES_TO_OPEN:
            return 0.0
        if self._probing:
            return float("inf")
        return max(0.0, self._probe_at - self._clock())

    def begin(self) -> None:
        """A call goes."""
        self._probing = self._num_failures >= FAILURES_TO_OPEN

    def end(self, failed: bool | None) -> None:
        """A call ended; None tells nothing of the server, as when it was cancelled."""
        self._probing = False
        if failed is None:
            return
        if not failed:
            self._num_failures, self._pause_s = 0, FIRST_PAUSE_S
            return
        self._num_failures += 1
        if self._num_failures >= FAILURES_TO_OPEN:
            self._probe_at = self._clock() + self._pause_s * random.uniform(0.5, 1.5)
            self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)


class Endpoint:
    """A connection to one server."""

    def __init__(self, address: str, tls: ClientTls | None) -> None:
        self.address = address
        options: list[tuple[str, int | str]] = [
            ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", -1),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 2000),
        ]
        if tls is None:
            self.channel = grpc.insecure_channel(address, options=options)
        else:
            if tls.server_name:
                options.append(("grpc.ssl_target_name_override", tls.server_name))
            self.channel = grpc.secure_channel(address, tls.credentials(), options=options)
        self.stub = reward_pb2_grpc.RewardServiceStub(self.channel)
        self.circuit = Circuit()
        self.num_calls = 0
        """Calls under way."""
        self.info: pb.GetServerInfoResponse | None = None
        """What it offers; None until asked, and after a fault."""

    def ask(self, metadata: Sequence[tuple[str, str]], timeout_s: float) -> pb.GetServerInfoResponse:
        """Ask what the server offers.

        Raises:
            grpc.RpcError: it does not say.
        """
        return self.stub.GetServerInfo(pb.GetServerInfoRequest(), timeout=timeout_s, metadata=metadata)


class Endpoints:
    """Several servers; threads share them."""

    def __init__(self, addresses: Sequence[str], tls: ClientTls | None) -> None:
        if not addresses:
            raise ValueError("a client needs an endpoint, host:port")
        for address in addresses:
            if ":" not in address:
                raise ValueError(f"endpoint must be host:port, got {address!r}")
        self.all = [Endpoint(address, tls) for address in addresses]
        self._lock = threading.Lock()

    def take(self) -> tuple[Endpoint | None, float]:
        """The server for the next call, or None and the seconds to wait for one."""
        with self._lock:
            waits = [endpoint.circuit.wait_s() for endpoint in self.all]
            ready = [e for e, wait_s in zip(self.all, waits, strict=True) if wait_s == 0]
            if not ready:
                # A probe under way ends without notice here; look again soon.
                return None, min([*waits, 0.1])
            fewest = min(endpoint.num_calls for endpoint in ready)
            chosen = random.choice([e for e in ready if e.num_calls == fewest])
            chosen.circuit.begin()
            chosen.num_calls += 1
            return chosen, 0.0

    def give_back(self, endpoint: Endpoint, failed: bool | None) -> None:
        """A call to a server ended."""
        with self._lock:
            endpoint.num_calls -= 1
            endpoint.circuit.end(failed)

    def close(self) -> None:
        """Close all connections."""
        for endpoint in self.all:
            endpoint.channel.close()
