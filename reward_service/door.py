"""The gRPC server that callers reach: the plain server's, and the one in the ingress of a service on Ray.

Ray's own proxies stand aside on one machine: they hand each chunk of a stream on by a call of its own, which
takes a 50 MB rollout several times as long, and they know neither interceptors nor TLS.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from phys4d.reward.v1 import reward_pb2 as pb
from phys4d.reward.v1 import reward_pb2_grpc
from reward_service.config import ServiceConfig
from reward_service.security import Gate
from reward_service.servicer import RewardServicer

SERVICE = pb.DESCRIPTOR.services_by_name["RewardService"].full_name


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


class LateServicer(reward_pb2_grpc.RewardServiceServicer):
    """Calls of a servicer that is made when the first of them comes.

    Args:
        ready: the servicer, once the scorers have told what they offer.
    """

    def __init__(self, ready: Callable[[], Awaitable[RewardServicer]]) -> None:
        self._ready = ready

    async def GetServerInfo(self, request: pb.GetServerInfoRequest, context: Any) -> pb.GetServerInfoResponse:
        """What this server can score."""
        return await (await self._ready()).GetServerInfo(request, context)

    async def ScoreBatch(self, request: pb.ScoreBatchRequest, context: Any) -> pb.ScoreBatchResponse:
        """Score the rollouts of a request."""
        return await (await self._ready()).ScoreBatch(request, context)

    async def ScoreStream(
        self, request_iterator: AsyncIterator[pb.ScoreStreamRequest], context: Any
    ) -> AsyncIterator[pb.ScoreStreamResponse]:
        """Score the rollouts of a stream."""
        async for response in (await self._ready()).ScoreStream(request_iterator, context):
            yield response


class LateHealth(health_pb2_grpc.HealthServicer):
    """grpc.health.v1 by two functions, whatever service is asked for."""

    def __init__(
        self,
        check: Callable[[Any, Any], Awaitable[health_pb2.HealthCheckResponse]],
        watch: Callable[[Any, Any], AsyncIterator[health_pb2.HealthCheckResponse]],
    ) -> None:
        self._check = check
        self._watch = watch

    async def Check(self, request: Any, context: Any) -> health_pb2.HealthCheckResponse:
        """Whether it serves."""
        return await self._check(request, context)

    async def Watch(self, request: Any, context: Any) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """Whether it serves, whenever that changes."""
        async for response in self._watch(request, context):
            yield response
