"""The gRPC methods, the same on Ray Serve and on a plain server."""

import asyncio
import hmac
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from phys4d.reward import wire
from phys4d.reward.v1 import reward_pb2 as pb
from phys4d.types import Failure, Outcome, Rollout
from reward_service.config import LimitSettings
from reward_service.rewards import Offer

ScoreFunction = Callable[[str, Rollout], Awaitable[Outcome]]


class CallError(Exception):
    """A fault of a call as a whole."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class RewardServicer:
    """Checks calls, hands each rollout to a scorer and gathers the outcomes.

    Args:
        limits: how much a call may carry.
        token: what callers must show, or None.
        offer: what the scorers offer.
        score: sends a rollout to a scorer; must turn every failure into an outcome.
    """

    def __init__(
        self,
        limits: LimitSettings,
        *,
        token: str | None,
        offer: Offer,
        score: ScoreFunction,
    ) -> None:
        self._limits = limits
        self._token = None if token is None else f"Bearer {token}".encode()
        self._offer = offer
        self._score = score

    # A handler sets the status and returns a message: Ray Serve loses the status of one that raises.
    async def GetServerInfo(self, request: pb.GetServerInfoRequest, context: Any) -> pb.GetServerInfoResponse:
        """What this server can score."""
        try:
            self._authorise(context)
        except CallError as error:
            _set_status(context, error)
            return pb.GetServerInfoResponse()
        return pb.GetServerInfoResponse(
            rewards=[pb.RewardInfo(name=n, version=v) for n, v in self._offer.versions.items()],
            simulator=self._offer.simulator,
            categories=[
                pb.CategoryInfo(name=name, families=sorted(families), engine=self._offer.engines[name])
                for name, families in sorted(self._offer.families.items())
            ],
            limits=pb.Limits(**self._limits.__dict__),
        )

    async def ScoreBatch(self, request: pb.ScoreBatchRequest, context: Any) -> pb.ScoreBatchResponse:
        """Score the rollouts of a request."""
        start = time.monotonic()
        try:
            self._authorise(context)
            reward = self._check(request)
        except CallError as error:
            _set_status(context, error)
            return pb.ScoreBatchResponse()
        deadline = start + request.budget_ms / 1000 if request.budget_ms else None
        outcomes = await self._score_all(request.rollouts, reward, deadline)
        return pb.ScoreBatchResponse(
            outcomes=[
                wire.outcome_to_proto(outcome, attempt=message.attempt)
                for message, outcome in zip(request.rollouts, outcomes, strict=True)
            ]
        )

    def _authorise(self, context: Any) -> None:
        if self._token is None:
            return
        shown = dict(context.invocation_metadata() or ()).get("authorization", "")
        shown = shown.encode() if isinstance(shown, str) else shown
        if not hmac.compare_digest(shown, self._token):
            raise CallError(grpc.StatusCode.UNAUTHENTICATED, "missing or wrong bearer token")

    def _check(self, request: pb.ScoreBatchRequest) -> str:
        """Check the call as a whole and return the name of the reward."""
        limits = self._limits
        num_bytes, num_rollouts = request.ByteSize(), len(request.rollouts)
        ids = [message.sample_id for message in request.rollouts]
        reward = request.reward or next(iter(self._offer.versions))
        faults = {
            f"the request has {num_bytes} bytes, at most {limits.max_request_bytes} are taken": (
                num_bytes > limits.max_request_bytes
            ),
            f"the request has {num_rollouts} rollouts, at most {limits.max_rollouts} are taken": (
                num_rollouts > limits.max_rollouts
            ),
            "sample ids must be unique within a request": len(set(ids)) != len(ids),
            f"unknown reward {reward[:64]!r}; on offer: {', '.join(self._offer.versions)}": (
                reward not in self._offer.versions
            ),
            f"budget_ms must not be negative, got {request.budget_ms}": request.budget_ms < 0,
        }
        for message, is_fault in faults.items():
            if is_fault:
                raise CallError(grpc.StatusCode.INVALID_ARGUMENT, message)
        return reward

    async def _score_all(self, messages: Any, reward: str, deadline: float | None) -> list[Outcome]:
        """Score each rollout by itself; those unfinished at the deadline become failures."""
        tasks = [asyncio.ensure_future(self._score_message(message, reward)) for message in messages]
        if not tasks:
            return []
        timeout_s = None if deadline is None else max(0.0, deadline - time.monotonic())
        try:
            _, late = await asyncio.wait(tasks, timeout=timeout_s)
        except asyncio.CancelledError:
            for task in tasks:
                task.cancel()
            raise
        for task in late:
            task.cancel()
        over = Failure(
            error_class="INFRA", reason="BUDGET_EXCEEDED", message="not scored within the budget of the call"
        )
        return [
            Outcome(sample_id=message.sample_id, result=over) if task in late else task.result()
            for message, task in zip(messages, tasks, strict=True)
        ]

    async def _score_message(self, message: pb.Rollout, reward: str) -> Outcome:
        try:
            rollout = wire.rollout_from_proto(message, max_tensor_bytes=self._limits.max_tensor_bytes)
        except wire.WireError as error:
            return Outcome(sample_id=message.sample_id, result=error.failure)
        return await self._score(reward, rollout)


def _set_status(context: Any, error: CallError) -> None:
    context.set_code(error.code)
    context.set_details(error.message)
