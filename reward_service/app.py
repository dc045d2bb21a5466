"""The Ray Serve application: one ingress without heavy work in front of scorer processes."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from zlib import crc32

import grpc
from grpc_health.v1 import health_pb2
from ray import serve
from ray.exceptions import RayError
from ray.serve import Application
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.grpc_util import RayServegRPCContext, gRPCInputStream
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import ReplicaState

from phys4d.reward.v1 import reward_pb2 as pb
from phys4d.types import Failure, Outcome, Rollout
from reward_service.config import ServiceConfig, read_token
from reward_service.door import LateHealth, LateServicer, open_door
from reward_service.packages import install, scorer_groups
from reward_service.rewards import Offer, merge
from reward_service.security import OnChange
from reward_service.servicer import RewardServicer
from reward_service.telemetry import ServiceMetrics, configure_logging
from reward_service.workers import ScorerProcess

GRPC_SERVICER_FUNCTIONS = [
    "phys4d.reward.v1.reward_pb2_grpc.add_RewardServiceServicer_to_server",
    "grpc_health.v1.health_pb2_grpc.add_HealthServicer_to_server",
]
RETRIES_WHEN_RENEWED = 3
HEALTH_PERIOD_S = 1.0
HEALTH_TIMEOUT_S = 5.0
ASK_PERIOD_S = 1.0
INGRESS = "Ingress"
SUCCESSOR_PERIOD_S = 0.2
SUCCESSOR_TIMEOUT_S = 180.0
"""What a replica may take to start on busy cores."""
Result = TypeVar("Result")
logger = logging.getLogger(__name__)


class StreamRefused(Exception):
    """Ends a stream whose status is set."""


class Scorer:
    """Keeps a process that holds the rewards and scores rollouts, one after the other."""

    def __init__(self, config: ServiceConfig, requirements: Path | None, edition: str) -> None:
        logging.getLogger().setLevel(logging.WARNING)
        packages = () if requirements is None else (install(requirements),)
        self._process = ScorerProcess(config, packages)
        self._answer = edition, self._process.start()
        self._lock = asyncio.Lock()

    async def describe(self) -> tuple[str, Offer]:
        """Its edition, and what it offers."""
        return self._answer

    async def score(self, name: str, rollout: Rollout) -> Outcome:
        """Score one rollout; one that is cancelled while it waits is not scored."""
        return await self._alone(self._process.score, name, rollout)

    async def check_health(self) -> None:
        """Start the process again if it ended; Ray replaces a scorer whose process does not start.

        Raises:
            ValueError: it does not start.
        """
        if not self._lock.locked() and not self._process.is_ready:
            await self._alone(self._process.revive)

    async def _alone(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Run a function in a thread; the next one begins when it has ended, also if nobody waits for it."""
        await self._lock.acquire()
        running = asyncio.ensure_future(asyncio.to_thread(function, *arguments))
        running.add_done_callback(lambda _: self._lock.release())
        return await asyncio.shield(running)


class Ingress:
    """Answers gRPC calls: checks them and hands each rollout to a scorer.

    Args:
        config: tokens, limits, metrics.
        scorers: who scores.
        edition: that of the scorers that belong to it.
        port: where it listens itself; None leaves calls to Ray's proxies.
    """

    # Ray calls `__del__` also where `__init__` failed.
    _ending = False
    _server: grpc.aio.Server | None = None

    async def __init__(
        self, config: ServiceConfig, scorers: list[DeploymentHandle], edition: str, port: int | None
    ) -> None:
        self._config = config
        self._scorers = scorers
        self._scorer_of: dict[str, DeploymentHandle] = {}
        self._token = OnChange([config.token_file], partial(read_token, config.token_file))
        self._draining = False
        self._looking: asyncio.Task[health_pb2.HealthCheckResponse.ServingStatus] | None = None
        self._look_again = 0.0
        self._metrics = ServiceMetrics()
        self._servicer = RewardServicer(
            config.limits,
            token=self._token,
            offer=Offer(versions={}),
            score=self._score,
            metrics=self._metrics,
            cache_size=config.cache_size,
        )
        self._offered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._asking = asyncio.create_task(self._ask(edition))
        configure_logging(config.log_format, getattr(logging, config.log_level))
        if config.metrics_port is not None:
            # The replica that this one replaces may still hold the port.
            self._metrics.serve_when_free(config.host, config.metrics_port)
        if port is not None:
            self._server, _ = open_door(
                config,
                port,
                LateServicer(self._ready),
                LateHealth(self.Check, self.Watch),
                token=self._token,
                is_full=self._servicer.is_full,
                shares_port=True,
            )
            await self._server.start()

    async def __del__(self) -> None:
        """Ray calls this when another takes its place: it takes no more calls, and those under way end."""
        server, self._server = self._server, None
        if server is None:
            return
        try:
            async with asyncio.timeout(SUCCESSOR_TIMEOUT_S):
                while await asyncio.to_thread(_successor_starts):
                    await asyncio.sleep(SUCCESSOR_PERIOD_S)
        except (TimeoutError, RayError, RayServeException) as error:
            logger.warning("not waiting for the ingress that takes over: %s", error)
        self._ending = True
        await server.stop(grace_s(self._config))

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
        if grpc_context.code():
            # Ray carries the status of a stream with its messages or an exception; there may be no message.
            raise StreamRefused(grpc_context.details())

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
        while not self._ending:
            status = await self._health()
            if status != last:
                yield health_pb2.HealthCheckResponse(status=status)
                last = status
            await asyncio.sleep(HEALTH_PERIOD_S)

    async def drain(self, seconds: float) -> tuple[str, int]:
        """Take no more calls, and wait so long for those under way; returns this deployment's name and how
        many are left."""
        self._draining = True
        left = await self._servicer.drain(seconds)
        return serve.get_replica_context().deployment, left

    async def _health(self) -> health_pb2.HealthCheckResponse.ServingStatus:
        """Serving if every kind of scorer has one that runs; looked up once a second at most."""
        if self._draining:
            return health_pb2.HealthCheckResponse.NOT_SERVING
        if self._looking is None or (self._looking.done() and time.monotonic() > self._look_again):
            self._looking = asyncio.create_task(self._look())
        return await asyncio.shield(self._looking)

    async def _look(self) -> health_pb2.HealthCheckResponse.ServingStatus:
        try:
            async with asyncio.timeout(HEALTH_TIMEOUT_S):
                # Scorers that are busy would answer late; Ray knows which of them run.
                status = await asyncio.to_thread(serve.status)
                await self._ready()
        except (TimeoutError, RayError, RayServeException) as error:
            logger.warning("health is not known: %s", error)
            well = False
        else:
            running = {
                name: deployment.replica_states.get(ReplicaState.RUNNING, 0)
                for application in status.applications.values()
                for name, deployment in application.deployments.items()
            }
            well = all(running.get(scorer.deployment_name, 0) > 0 for scorer in self._scorers)
        self._look_again = time.monotonic() + HEALTH_PERIOD_S
        serving = health_pb2.HealthCheckResponse.SERVING
        return serving if well else health_pb2.HealthCheckResponse.NOT_SERVING

    async def _ready(self) -> RewardServicer:
        """The servicer, once it is known what scorers offer."""
        await asyncio.wait((self._offered, self._asking), return_when=asyncio.FIRST_COMPLETED)
        if self._asking.done():
            self._asking.result()
        return self._servicer

    async def _ask(self, edition: str) -> None:
        """Ask each kind of scorer what it offers, again while one of another edition answers.

        Ray replaces scorers one by one: until they are all new, what the old ones offer counts.

        Raises:
            ValueError: two kinds have rewards of one name.
        """
        offers: dict[DeploymentHandle, Offer] = {}
        old = self._scorers
        while old:
            try:
                answers = await asyncio.gather(*(scorer.describe.remote() for scorer in old))
                offers |= {scorer: offer for scorer, (_, offer) in zip(old, answers, strict=True)}
                old = [scorer for scorer, (its, _) in zip(old, answers, strict=True) if its != edition]
                self._servicer.offer = merge([offers[scorer] for scorer in self._scorers])
            except (RayError, RayServeException) as error:
                logger.warning("what scorers offer is not known: %s", error)
            except ValueError:
                # A reward may go from one kind to another, and both offer it until the old one is replaced.
                if not old:
                    raise
            else:
                # Calls under way keep the scorer of a reward that is gone, which fails them.
                self._scorer_of |= {name: s for s in self._scorers for name in offers[s].versions}
                if not self._offered.done():
                    self._offered.set_result(None)
            if old:
                await asyncio.sleep(ASK_PERIOD_S)

    async def _score(self, name: str, rollout: Rollout) -> Outcome:
        response = self._scorer_of[name].score.remote(name, rollout)
        try:
            return await response
        except asyncio.CancelledError:
            # Else it would be scored for nobody, and hold up the next one.
            response.cancel()
            raise
        except BackPressureError as error:
            failure = Failure(error_class="INFRA", reason="OVERLOADED", message=str(error))
        except (RayError, RayServeException) as error:
            message = f"{type(error).__name__}: {error}"[:500]
            failure = Failure(error_class="INFRA", reason="SCORER_DIED", message=message)
        return Outcome(sample_id=rollout.sample_id, result=failure)


def _successor_starts() -> bool:
    """Whether the application has another ingress that does not listen yet."""
    mine = serve.get_replica_context()
    application = serve.status().applications.get(mine.app_name)
    others = {
        name: deployment.replica_states.get(ReplicaState.RUNNING, 0)
        for name, deployment in (application.deployments if application else {}).items()
        if name.startswith(INGRESS) and name != mine.deployment
    }
    return bool(others) and not any(others.values())


def grace_s(config: ServiceConfig) -> float:
    """Seconds that calls have to end in a replica that is replaced; they may wait for scorers that start."""
    return max(config.drain_s, config.limits.max_scoring_s)


def build(
    config: ServiceConfig, generation: int = 0, *, port: int | None = None, ingress: str = INGRESS
) -> Application:
    """Bind the application for a configuration.

    Args:
        generation: another number replaces all replicas, one after the other, also under the same
            configuration: they read token, rewards and code anew.
        port: where the ingress listens itself, on `config.host`; None leaves calls to Ray's proxies.
        ingress: name of its deployment, which begins with `Ingress`. Ray ends a replica before it starts the
            one that replaces it; under another name both listen for a while.
    """
    # A cluster replaces configurations too, and each is generation 0 there.
    edition = f"{generation}-{crc32(repr(config).encode()):08x}"
    shared: dict[str, Any] = {
        "health_check_period_s": 2,
        # A replica that is replaced ends as soon as its calls have.
        "graceful_shutdown_timeout_s": grace_s(config),
        "logging_config": {"log_level": "WARNING", "enable_access_log": False},
    }
    size: dict[str, Any] = {"num_replicas": config.num_replicas}
    if config.max_replicas is not None:
        size = {
            "num_replicas": "auto",
            "autoscaling_config": {
                "min_replicas": config.num_replicas,
                "max_replicas": config.max_replicas,
                "target_ongoing_requests": 2,
            },
        }
    scorers = [
        serve.deployment(
            name="Scorer" if index == 0 else f"Scorer{index}",
            # Cores are Ray's bookkeeping only: a cluster of our own is started with one for each actor.
            ray_actor_options={"num_cpus": 1, "num_gpus": config.num_gpus},
            # One is scored while the next is on its way.
            max_ongoing_requests=2,
            max_queued_requests=config.max_queued,
            # A service that begins must not hide why its rewards cannot be made; one that renews itself must
            # outlast a scorer that dies as it starts.
            max_constructor_retry_count=1 if generation == 0 else RETRIES_WHEN_RENEWED,
            **size,
            **shared,
        )(Scorer).bind(group, requirements, edition)
        for index, (group, requirements) in enumerate(scorer_groups(config))
    ]
    takeover_s = 0.0 if port is None else SUCCESSOR_TIMEOUT_S
    at_door: dict[str, Any] = {**shared, "graceful_shutdown_timeout_s": grace_s(config) + takeover_s}
    door = serve.deployment(
        name=ingress,
        num_replicas=1,
        ray_actor_options={"num_cpus": 1},
        # Above the calls that are scored, so that too many are refused and health checks get through.
        max_ongoing_requests=config.limits.max_ongoing,
        max_queued_requests=256,
        **at_door,
    )(Ingress)
    return door.bind(config, scorers, edition, port)
