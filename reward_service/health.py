"""Whether a reward service is well: `python -m reward_service.health --endpoint 127.0.0.1:9000`.

Asks grpc.health.v1, which needs no token. Exit code 0 if it serves, else 2, for container health checks.
"""

from dataclasses import dataclass
from pathlib import Path

from phys4d.runtime.config import load
from phys4d.runtime.errors import run_main


@dataclass(frozen=True, kw_only=True)
class HealthConfig:
    """Whom to ask."""

    endpoint: str = "127.0.0.1:9000"
    """host:port of the service."""
    ca_file: Path | None = None
    """PEM file of the authority of its certificate; none does not encrypt."""
    cert_file: Path | None = None
    """PEM file of a certificate to show (mTLS), with its private key in `key_file`."""
    key_file: Path | None = None
    timeout_s: float = 5.0
    """How long it may take to answer."""


def check(config: HealthConfig) -> None:
    """Return if the service serves.

    Raises:
        ConnectionError: it does not, or does not answer.
    """
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    from phys4d.reward.endpoints import ClientTls

    tls = ClientTls.of_files(config.ca_file, config.cert_file, config.key_file)
    if tls is None:
        channel = grpc.insecure_channel(config.endpoint)
    else:
        channel = grpc.secure_channel(config.endpoint, tls.credentials())
    with channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=config.timeout_s
            )
        except grpc.RpcError as error:
            code = getattr(error, "code", lambda: "no answer")()
            raise ConnectionError(f"{config.endpoint} is not well: {code}; is it started?") from error
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
        raise ConnectionError(f"{config.endpoint} is not well: {status}; its scorers do not answer")


if __name__ == "__main__":
    run_main(lambda: check(load(HealthConfig)))
