"""Who may call: bearer tokens and TLS."""

import hmac
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import grpc
from google.protobuf.message import DecodeError

from reward_service.config import TlsSettings

Value = TypeVar("Value")
logger = logging.getLogger(__name__)
SERVICE_PREFIX = "/phys4d.reward.v1."
MALFORMED = object()
"""Stands for a request whose bytes are no message of its kind."""


def shows_token(metadata: Sequence[tuple[str, str | bytes]] | None, token: str | None) -> bool:
    """Whether a call's metadata hold the bearer token; takes as long for a wrong one as for the right one."""
    if token is None:
        return True
    shown = dict(metadata or ()).get("authorization", "")
    shown = shown.encode() if isinstance(shown, str) else shown
    return hmac.compare_digest(shown, f"Bearer {token}".encode())


class OnChange(Generic[Value]):
    """What some files say, read again whenever one of them changes; if that fails, what they said before.

    Args:
        paths: the files; None among them is none.
        read: reads them.
    """

    def __init__(self, paths: Sequence[Path | None], read: Callable[[], Value]) -> None:
        self._paths = [path for path in paths if path is not None]
        self._read = read
        self._seen = self._look()
        self._value = read()

    def __call__(self) -> Value:
        """The value now."""
        try:
            now = self._look()
            if now != self._seen:
                self._value, self._seen = self._read(), now
                logger.info("read %s again", ", ".join(map(str, self._paths)))
        except (OSError, ValueError) as error:
            logger.warning("keeping the former token or certificate: %s", error)
        return self._value

    def _look(self) -> list[tuple[int, int]]:
        found = [path.stat() for path in self._paths]
        return [(status.st_mtime_ns, status.st_ino) for status in found]


class Gate(grpc.aio.ServerInterceptor):
    """Ends calls without the token, and calls beyond what the server takes, before it reads their messages.

    Health checks pass. A message that cannot be read reaches the servicer as `MALFORMED`.

    Args:
        token: tells what callers must show, or None.
        is_full: whether the server takes no more calls now.
    """

    def __init__(self, token: Callable[[], str | None], is_full: Callable[[], bool]) -> None:
        self._token = token
        self._is_full = is_full
        self._no_token = _refuse(grpc.StatusCode.UNAUTHENTICATED, "missing or wrong bearer token")
        self._full = _refuse(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many calls under way; try again later")

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Let the call through, or answer with a status at once."""
        method, metadata = handler_call_details.method, handler_call_details.invocation_metadata
        if method.startswith(SERVICE_PREFIX) and not shows_token(metadata, self._token()):
            return self._no_token
        if method.startswith(f"{SERVICE_PREFIX}RewardService/Score") and self._is_full():
            return self._full
        handler = await continuation(handler_call_details)
        if handler is None or not method.startswith(SERVICE_PREFIX):
            return handler
        return handler._replace(request_deserializer=_tolerant(handler.request_deserializer))


def _tolerant(deserialize: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """gRPC would log a traceback for every message it cannot read, and answer INTERNAL."""

    def read(data: bytes) -> Any:
        try:
            return deserialize(data)
        except DecodeError:
            return MALFORMED

    return read


def _refuse(code: grpc.StatusCode, message: str) -> grpc.RpcMethodHandler:
    """Answers any kind of call; as a stream, so that no message is awaited."""

    async def end(_: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        await context.abort(code, message)
        yield b""

    return grpc.stream_stream_rpc_method_handler(end)


def server_credentials(tls: TlsSettings) -> grpc.ServerCredentials | None:
    """Credentials of a server, or None without TLS. Later connections get what the files then hold.

    Raises:
        OSError: a file cannot be read.
    """
    if tls.cert_file is None or tls.key_file is None:
        return None
    current = OnChange([tls.cert_file, tls.key_file, tls.client_ca_file], lambda: _certificates(tls))
    require_client = tls.client_ca_file is not None
    return grpc.dynamic_ssl_server_credentials(current(), current, require_client)


def _certificates(tls: TlsSettings) -> grpc.ServerCertificateConfiguration:
    assert tls.cert_file is not None and tls.key_file is not None
    pair = (tls.key_file.read_bytes(), tls.cert_file.read_bytes())
    ca = tls.client_ca_file.read_bytes() if tls.client_ca_file else None
    return grpc.ssl_server_certificate_configuration([pair], root_certificates=ca)
