"""The gRPC server that callers reach: the plain server's, and the one in the ingress of a service on Ray.

Ray's own proxies stand aside on one machine: they hand each chunk of a stream on by a call of its own, which
takes a 50 MB rollout several times as long, and they know neither interceptors nor TLS.
"""

from collections.abc import Callable
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2_grpc

from phys4d.reward.v1 import reward_pb2, reward_pb2_grpc
from reward_service.config import ServiceConfig
from reward_service.security import Gate

SERVICE = reward_pb2.DESCRIPTOR.services_by_name["RewardService"].full_name


def open_door(
    config: ServiceConfig,
    port: int,
    servicer: Any,
    healths: Any,
    *,
    token: Callable[[], str | None],
    is_full: Callable[[], bool],
    credentials: grpc.ServerCredentials | None = None,
    shares_port: bool = False,
) -> tuple[grpc.aio.Server, int]:
    """A server that listens, and its port; it has yet to be started.

    Args:
        servicer, healths: answer the calls of RewardService and of grpc.health.v1.
        token: tells what callers must show, or None.
        is_full: whether no more score calls are taken now.
        credentials: None does not encrypt.
        shares_port: a server that replaces another listens beside it until that one has ended.
    """
    server = grpc.aio.server(
        interceptors=[Gate(token, is_full)],
        # Above the calls that are scored, so that health checks always get through.
        maximum_concurrent_rpcs=config.limits.max_ongoing,
        options=[
            ("grpc.max_receive_message_length", config.limits.max_request_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", int(shares_port)),
        ],
    )
    reward_pb2_grpc.add_RewardServiceServicer_to_server(servicer, server)
    health_pb2_grpc.add_HealthServicer_to_server(healths, server)
    if config.reflection:
        from grpc_reflection.v1alpha import reflection

        names = [SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME]
        reflection.enable_server_reflection(names, server)
    address = f"{config.host}:{port}"
    if credentials is None:
        return server, server.add_insecure_port(address)
    return server, server.add_secure_port(address, credentials)
