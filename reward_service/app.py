"""The Ray Serve application: one ingress without heavy work in front of scorer processes."""

import asyncio
import logging
from collections.abc import AsyncIterator

from grpc_health.v1 import health_pb2
from ray import serve
from ray.exceptions import RayError
from ray.serve import Application
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.grpc_util import RayServegRPCContext, gRPCInputStream
from ray.serve.handle import DeploymentHandle

from phys4d.reward.v1 import reward_pb2 as pb
from phys4d.runtime.threads import limit_threads
from phys4d.types import Failure, Outcome, Rollout
from reward_service.config import ServiceConfig, read_token
from reward_service.rewards import Offer, describe, make_rewards, score_one
from reward_service.servicer import RewardServicer
from reward_service.telemetry import ServiceMetrics, configure_logging

GRPC_SERVICER_FUNCTIONS = [
    "phys4d.reward.v1.reward_pb2_grpc.add_RewardServiceServicer_to_server",
    "grpc_health.v1.health_pb2_grpc.add_HealthServicer_to_server",
]
HEALTH_PERIOD_S = 1.0
logger = logging.getLogger(__name__)


class Scorer:
    """Holds the rewards and scores rollouts."""

    def __init__(self, config: ServiceConfig) -> None:
        limit_threads(config.num_threads)
        self._rewards = make_rewards(config)
        self._offer = describe(config, self._rewards)

    def describe(self) -> Offer:
        """What this scorer offers."""
        return self._offer

    def score(self, name: str, rollout: Rollout) -> Outcome:
        """Score one rollout."""
        return score_one(self._rewards, name, rollout)


class Ingress:
    """Answers gRPC calls: checks them and hands each rollout to a scorer."""

    def __init__(self, config: ServiceConfig, scorers: DeploymentHandle) -> None:
        self._config = config
        self._scorers = scorers
        self._token = read_token(config.token_file)
        self._servicer: RewardServicer | None = None
        self._metrics = ServiceMetrics()
        configure_logging(config.log_format, getattr(logging, config.log_level))
        if config.metrics_port is not None:
            port = self._metrics.serve(config.host, config.metrics_port)
            logger.info("metrics on http://%s:%d/metrics", config.host, port)

    async def GetServerInfo(
        self, request: pb.GetServerInfoRequest, grpc_context: RayServegRPCContext
    ) -> pb.GetServerInfoResponse:
        """What this server can score."""
        return await (await self._ready()).GetServerInfo(request, grpc_context)

    async def ScoreBatch(
        self, request: pb.ScoreBatchRequest, grpc_context: RayServegRPCContext
    ) -> pb.ScoreBatchResponse:
        """Score the rollouts of a request."""
        return await (await self._ready()).ScoreBatch(request, grpc_context)

    async def ScoreStream(
        self, request_iterator: gRPCInputStream[pb.ScoreStreamRequest], grpc_context: RayServegRPCContext
    ) -> AsyncIterator[pb.ScoreStreamResponse]:
        """Score the rollouts of a stream."""
        servicer = await self._ready()
        async for response in servicer.ScoreStream(request_iterator, grpc_context):
            yield response

    # grpc.health.v1.Health: serving once the scorers answer.
    async def Check(
        self, request: health_pb2.HealthCheckRequest, grpc_context: RayServegRPCContext
    ) -> health_pb2.HealthCheckResponse:
        """Whether scorers answer."""
        return health_pb2.HealthCheckResponse(status=await self._health())

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, grpc_context: RayServegRPCContext
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """Whether scorers answer, whenever that changes."""
        last = None
        while True:
            status = await self._health()
            if status != last:
                yield health_pb2.HealthCheckResponse(status=status)
                last = status
            await asyncio.sleep(HEALTH_PERIOD_S)

    async def _health(self) -> health_pb2.HealthCheckResponse.ServingStatus:
        try:
            await self._ready()
        except (RayError, RayServeException):
            return health_pb2.HealthCheckResponse.NOT_SERVING
        return health_pb2.HealthCheckResponse.SERVING

    async def _ready(self) -> RewardServicer:
        if self._servicer is None:
            offer = await self._scorers.describe.remote()
            self._servicer = RewardServicer(
                self._config.limits,
                token=self._token,
                offer=offer,
                score=self._score,
                metrics=self._metrics,
                cache_size=self._config.cache_size,
            )
        return self._servicer

    async def _score(self, name: str, rollout: Rollout) -> Outcome:
        response = self._scorers.score.remote(name, rollout)
        try:
            return await response
        except BackPressureError as error:
            failure = Failure(error_class="INFRA", reason="OVERLOADED", message=str(error))
        except (RayError, RayServeException) as error:
            message = f"{type(error).__name__}: {error}"[:500]
            failure = Failure(error_class="INFRA", reason="SCORER_DIED", message=message)
        return Outcome(sample_id=rollout.sample_id, result=failure)


def build(config: ServiceConfig) -> Application:
    """Bind the application for a configuration."""
    # Cores are Ray's bookkeeping only: the cluster is started with one for each actor.
    shared = {
        "ray_actor_options": {"num_cpus": 1},
        "health_check_period_s": 2,
        "graceful_shutdown_timeout_s": config.drain_s,
        "logging_config": {"log_level": "WARNING", "enable_access_log": False},
    }
    scorer = serve.deployment(
        num_replicas=config.num_replicas,
        # One is scored while the next is on its way.
        max_ongoing_requests=2,
        max_queued_requests=config.max_queued,
        max_constructor_retry_count=1,
        **shared,
    )(Scorer)
    ingress = serve.deployment(num_replicas=1, max_ongoing_requests=64, max_queued_requests=256, **shared)(
        Ingress
    )
    return ingress.bind(config, scorer.bind(config))
