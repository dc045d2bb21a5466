"""`RewardClient` for asyncio.

    async with AsyncRewardClient("127.0.0.1:9000") as client:
        async for outcome in client.score_as_ready(rollouts):
            ...

A cancelled task cancels its calls.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from phys4d.reward.calls import Cancellation
from phys4d.reward.client import ClientMetrics, RewardClient
from phys4d.reward.v1 import reward_pb2 as pb
from phys4d.types import Outcome, Rollout


class AsyncRewardClient:
    """The same client, its waiting done in threads.

    Args:
        endpoint, options: as for `RewardClient`.
    """

    def __init__(self, endpoint: str | Sequence[str], **options: Any) -> None:
        self._client = RewardClient(endpoint, **options)

    async def __aenter__(self) -> "AsyncRewardClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self._client.close)

    def metrics(self) -> ClientMetrics:
        """What this client did so far."""
        return self._client.metrics()

    async def wait_ready(self, timeout_s: float) -> pb.GetServerInfoResponse:
        """As `RewardClient.wait_ready`."""
        return await asyncio.to_thread(self._client.wait_ready, timeout_s)

    async def score(self, rollouts: Sequence[Rollout]) -> list[Outcome]:
        """As `RewardClient.score`."""
        cancellation = Cancellation()
        try:
            return await asyncio.to_thread(self._client.score, rollouts, cancellation=cancellation)
        finally:
            cancellation.cancel()

    async def score_as_ready(self, rollouts: Sequence[Rollout]) -> AsyncIterator[Outcome]:
        """As `RewardClient.score_as_ready`."""
        cancellation = Cancellation()
        outcomes = self._client.score_as_ready(rollouts, cancellation=cancellation)
        try:
            while (outcome := await asyncio.to_thread(next, outcomes, None)) is not None:
                yield outcome
        finally:
            cancellation.cancel()
