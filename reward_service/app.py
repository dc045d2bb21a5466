"""The Ray Serve application: one ingress without heavy work in front of scorer processes."""

from ray import serve
from ray.exceptions import RayError
from ray.serve import Application
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.grpc_util import RayServegRPCContext
from ray.serve.handle import DeploymentHandle

from phys4d.reward.v1 import reward_pb2 as pb
from phys4d.runtime.threads import limit_threads
from phys4d.types import Failure, Outcome, Rollout
from reward_service.config import ServiceConfig, read_token
from reward_service.rewards import Offer, describe, make_rewards, score_one
from reward_service.servicer import RewardServicer

GRPC_SERVICER_FUNCTION = "phys4d.reward.v1.reward_pb2_grpc.add_RewardServiceServicer_to_server"


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

    async def _ready(self) -> RewardServicer:
        if self._servicer is None:
            offer = await self._scorers.describe.remote()
            limits = self._config.limits
            self._servicer = RewardServicer(limits, token=self._token, offer=offer, score=self._score)
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
        "graceful_shutdown_timeout_s": 5,
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
