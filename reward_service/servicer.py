"""The gRPC methods, the same on Ray Serve and on a plain server."""

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc

from phys4d.reward import wire
from phys4d.reward.tensors import DTYPES, Buffer, refusal, supported_codecs
from phys4d.reward.v1 import reward_pb2 as pb
from phys4d.types import Failure, Outcome, Rollout, Score
from reward_service.cache import ResultCache
from reward_service.config import LimitSettings
from reward_service.rewards import Offer
from reward_service.security import MALFORMED, shows_token
from reward_service.streams import ByteBudget, StreamReader
from reward_service.telemetry import ServiceMetrics

ScoreFunction = Callable[[str, Rollout], Awaitable[Outcome]]
SERVER = "phys4d 0.1.0"
MAX_REQUEST_ID = 128
THREAD_FROM_BYTES = 1 << 20
"""Rollouts from this size on are unpacked beside the event loop."""
LATE = Failure(
    error_class="INFRA", reason="BUDGET_EXCEEDED", message="not scored within the budget of the call"
)
logger = logging.getLogger(__name__)


class CallError(Exception):
    """A fault of a call as a whole."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass(eq=False)
class Call:
    """One call under way."""

    method: str
    request_id: str = ""
    reward: str = ""
    code: str = "OK"
    started: float = field(default_factory=time.monotonic)
    deadline: float | None = None
    num_rollouts: int = 0
    num_scored: int = 0

    def open(self, request_id: str, reward: str, budget_ms: int) -> None:
        """What the first message says."""
        self.request_id = request_id or uuid.uuid4().hex
        self.reward = reward
        self.deadline = self.started + budget_ms / 1000 if budget_ms else None


class RewardServicer:
    """Checks calls, hands each rollout to a scorer and gathers the outcomes.

    Args:
        limits: how much a call may carry.
        token: tells what callers must show, or None.
        offer: what the scorers offer; may be replaced while calls go on.
        score: sends a rollout to a scorer; must turn every failure into an outcome.
        metrics: where to count.
        cache_size: outcomes remembered.
    """

    def __init__(
        self,
        limits: LimitSettings,
        *,
        token: Callable[[], str | None],
        offer: Offer,
        score: ScoreFunction,
        metrics: ServiceMetrics,
        cache_size: int = 4096,
    ) -> None:
        self._limits = limits
        self._token = token
        self.offer = offer
        self._score = score
        self._metrics = metrics
        self._cache = ResultCache(cache_size)
        self._bytes = ByteBudget(limits.max_buffered_bytes, metrics.buffered_bytes.set)
        self._num_calls = 0
        self._draining = False

    async def drain(self, seconds: float) -> int:
        """Refuse new score calls, and wait so long for those under way; returns how many are left."""
        self._draining = True
        deadline = time.monotonic() + seconds
        while self._num_calls and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        return self._num_calls

    def is_full(self) -> bool:
        """Whether no more score calls are taken now."""
        return self._num_calls >= self._limits.max_calls

    # A handler sets the status and returns: Ray Serve loses the status of one that raises.
    async def GetServerInfo(self, request: pb.GetServerInfoRequest, context: Any) -> pb.GetServerInfoResponse:
        """What this server can score."""
        call = Call("GetServerInfo")
        try:
            self._authorise(context)
            _check_read(request)
            return self._info()
        except CallError as error:
            _set_status(context, call, error)
            return pb.GetServerInfoResponse()
        finally:
            self._metrics.count_call(call.method, call.code, time.monotonic() - call.started)

    async def ScoreBatch(self, request: pb.ScoreBatchRequest, context: Any) -> pb.ScoreBatchResponse:
        """Score the rollouts of a request."""
        call, num_bytes = Call("ScoreBatch"), 0
        try:
            self._begin(context)
            _check_read(request)
            self._open(call, request.request_id, request.reward, request.budget_ms)
            num_bytes = self._check_size(request)
            if not self._bytes.take_now(num_bytes):
                num_bytes = 0
                raise CallError(
                    grpc.StatusCode.RESOURCE_EXHAUSTED, "too many bytes under way; try again later"
                )
            call.num_rollouts = len(request.rollouts)
            return await self._score_batch(call, request)
        except CallError as error:
            _set_status(context, call, error)
            return pb.ScoreBatchResponse()
        except asyncio.CancelledError:
            call.code = "CANCELLED"
            raise
        finally:
            self._bytes.give_back(num_bytes)
            self._end(call)

    async def ScoreStream(
        self, request_iterator: AsyncIterator[pb.ScoreStreamRequest], context: Any
    ) -> AsyncIterator[pb.ScoreStreamResponse]:
        """Score the rollouts of a stream; outcomes leave as they are ready."""
        call = Call("ScoreStream")
        try:
            self._begin(context)
            opening = await self._first(request_iterator)
            self._open(call, opening.request_id, opening.reward, opening.budget_ms)
            async for response in self._score_stream(call, request_iterator):
                yield response
        except CallError as error:
            _set_status(context, call, error)
        except (asyncio.CancelledError, GeneratorExit):
            call.code = "CANCELLED"
            raise
        finally:
            self._end(call)

    def _begin(self, context: Any) -> None:
        """Count a score call in, or refuse it; `_end` counts it out again either way."""
        self._num_calls += 1
        self._authorise(context)
        if self._draining:
            raise CallError(grpc.StatusCode.UNAVAILABLE, "the service is stopping")
        if self._num_calls > self._limits.max_calls:
            raise CallError(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many calls under way; try again later")

    def _end(self, call: Call) -> None:
        self._num_calls -= 1
        seconds = time.monotonic() - call.started
        self._metrics.count_call(call.method, call.code, seconds)
        fields = {
            "method": call.method,
            "code": call.code,
            "request_id": call.request_id,
            "reward": call.reward,
            "num_rollouts": call.num_rollouts,
            "num_scored": call.num_scored,
            "seconds": round(seconds, 4),
        }
        logger.info("call", extra={"fields": fields})

    def _authorise(self, context: Any) -> None:
        if not shows_token(context.invocation_metadata(), self._token()):
            raise CallError(grpc.StatusCode.UNAUTHENTICATED, "missing or wrong bearer token")

    def _info(self) -> pb.GetServerInfoResponse:
        inputs = [
            pb.InputSpec(
                name=name,
                dtypes=[code for code, dtype in DTYPES.items() if dtype.kind == kind],
                required=name in wire.REQUIRED_TENSORS,
            )
            for name, kind in (wire.REQUIRED_TENSORS | wire.OPTIONAL_TENSORS).items()
        ]
        offer, limits = self.offer, self._limits
        return pb.GetServerInfoResponse(
            rewards=[
                pb.RewardInfo(
                    name=name, version=version, description=offer.descriptions.get(name, ""), inputs=inputs
                )
                for name, version in offer.versions.items()
            ],
            simulator=offer.simulator,
            categories=[
                pb.CategoryInfo(name=name, families=sorted(families), engine=offer.engines[name])
                for name, families in sorted(offer.families.items())
            ],
            limits=pb.Limits(**{name: getattr(limits, name) for name in pb.Limits.DESCRIPTOR.fields_by_name}),
            codecs=supported_codecs(),
            streams=True,
            server=SERVER,
        )

    def _open(self, call: Call, request_id: str, reward: str, budget_ms: int) -> None:
        """Check what a call says of itself."""
        reward = reward or next(iter(self.offer.versions))
        if len(request_id) > MAX_REQUEST_ID:
            raise _invalid(f"request_id must have at most {MAX_REQUEST_ID} characters, got {len(request_id)}")
        if reward not in self.offer.versions:
            raise _invalid(f"unknown reward {reward[:64]!r}; on offer: {', '.join(self.offer.versions)}")
        if budget_ms < 0:
            raise _invalid(f"budget_ms must not be negative, got {budget_ms}")
        call.open(request_id, reward, budget_ms)

    def _check_size(self, request: pb.ScoreBatchRequest) -> int:
        """Bytes of a request, each tensor counted as what it claims to unpack to."""
        limits, num_rollouts = self._limits, len(request.rollouts)
        if num_rollouts > limits.max_rollouts:
            raise _invalid(
                f"the request has {num_rollouts} rollouts, at most {limits.max_rollouts} are taken"
            )
        ids = [message.sample_id for message in request.rollouts]
        if len(set(ids)) != len(ids):
            raise _invalid("sample ids must be unique within a request")
        claims = (max(0, t.byte_size) - len(t.data) for m in request.rollouts for t in m.tensors)
        num_bytes = request.ByteSize() + sum(max(0, claim) for claim in claims)
        if num_bytes > limits.max_request_bytes:
            raise _invalid(
                f"the request has {num_bytes} bytes, unpacked; at most {limits.max_request_bytes} are taken"
            )
        return num_bytes

    async def _score_batch(self, call: Call, request: pb.ScoreBatchRequest) -> pb.ScoreBatchResponse:
        """Score each rollout by itself; those unfinished at the deadline become failures."""
        messages = request.rollouts
        tasks = [asyncio.ensure_future(self._score_message(call, message)) for message in messages]
        outcomes: list[Outcome] = []
        if tasks:
            timeout_s = None if call.deadline is None else max(0.0, call.deadline - time.monotonic())
            try:
                _, late = await asyncio.wait(tasks, timeout=timeout_s)
            finally:
                for task in tasks:
                    task.cancel()
            outcomes = [
                Outcome(sample_id=message.sample_id, result=LATE) if task in late else task.result()
                for message, task in zip(messages, tasks, strict=True)
            ]
        for outcome in outcomes:
            self._count(call, outcome)
        return pb.ScoreBatchResponse(
            outcomes=[
                wire.outcome_to_proto(outcome, attempt=message.attempt)
                for message, outcome in zip(messages, outcomes, strict=True)
            ]
        )

    async def _score_message(self, call: Call, message: pb.Rollout) -> Outcome:
        try:
            sizes = wire.check_rollout(message, max_tensor_bytes=self._limits.max_tensor_bytes)
            if sizes != [len(tensor.data) for tensor in message.tensors]:
                raise refusal("WRONG_SIZE", "a tensor came without its bytes")
        except wire.WireError as error:
            return Outcome(sample_id=message.sample_id, result=error.failure)
        return await self._score_packed(call, message, [tensor.data for tensor in message.tensors])

    async def _score_packed(self, call: Call, message: pb.Rollout, packed: list[Buffer]) -> Outcome:
        """Unpack and score a checked rollout, or answer from memory."""

        async def score() -> Outcome:
            start = time.monotonic()
            try:
                if sum(map(len, packed)) < THREAD_FROM_BYTES:
                    rollout = wire.unpack_rollout(message, packed)
                else:
                    rollout = await asyncio.to_thread(wire.unpack_rollout, message, packed)
            except wire.WireError as error:
                return Outcome(sample_id=message.sample_id, result=error.failure)
            decoded = time.monotonic()
            self._metrics.in_flight.inc()
            try:
                outcome = await self._score(call.reward, rollout)
            finally:
                self._metrics.in_flight.dec()
            phases_s = {"decode": decoded - start}
            if isinstance(outcome.result, Score):
                scoring_s = outcome.result.scoring_s
                phases_s["queue"] = time.monotonic() - decoded - scoring_s
                phases_s |= {"score": scoring_s, **outcome.result.phases_s}
            self._metrics.observe_phases(phases_s)
            return outcome

        key = self._key(call, message)
        outcome = await score() if key is None else await self._cache.get(key, score)
        if key is not None and outcome.score is not None and outcome.score.scorer_version != key[1]:
            # By a scorer of before or after a renewal: a repeat may meet the one that is announced.
            self._cache.forget(key)
        return Outcome(sample_id=message.sample_id, result=outcome.result)

    def _key(self, call: Call, message: pb.Rollout) -> tuple[str, ...] | None:
        if not message.idempotency_key:
            return None
        version = self.offer.versions.get(call.reward, "")
        return call.reward, version, message.idempotency_key, wire.content_digest(message)

    async def _first(self, parts: AsyncIterator[pb.ScoreStreamRequest]) -> pb.StreamOpen:
        try:
            async with asyncio.timeout(self._limits.stream_idle_s):
                part = await anext(parts, None)
        except TimeoutError:
            raise _idle(self._limits.stream_idle_s) from None
        _check_read(part)
        if part is None or part.WhichOneof("part") != "open":
            raise _invalid("a stream begins with `open`")
        return part.open

    async def _score_stream(
        self, call: Call, parts: AsyncIterator[pb.ScoreStreamRequest]
    ) -> AsyncIterator[pb.ScoreStreamResponse]:
        async def score(message: pb.Rollout, packed: list[Buffer]) -> Outcome:
            return await self._score_packed(call, message, packed)

        def remembered(message: pb.Rollout) -> Outcome | None:
            key = self._key(call, message)
            return None if key is None else self._cache.find(key)

        reader = StreamReader(self._limits, self._bytes, score=score, remembered=remembered)
        reading = asyncio.create_task(reader.read(parts, call.deadline))
        try:
            async for index, attempt, outcome in reader.outcomes():
                call.num_rollouts += 1
                self._count(call, outcome)
                yield pb.ScoreStreamResponse(
                    outcome=wire.outcome_to_proto(outcome, attempt=attempt), rollout=index
                )
            await reading
        finally:
            reading.cancel()
        if reader.fault is not None:
            raise _idle(self._limits.stream_idle_s) if reader.is_idle else _invalid(reader.fault)

    def _count(self, call: Call, outcome: Outcome) -> None:
        call.num_scored += outcome.score is not None
        self._metrics.count_outcome(call.reward, outcome)


def _check_read(request: object) -> None:
    if request is MALFORMED:
        raise _invalid("the bytes are no message of phys4d.reward.v1")


def _invalid(message: str) -> CallError:
    return CallError(grpc.StatusCode.INVALID_ARGUMENT, message)


def _idle(seconds: float) -> CallError:
    return CallError(grpc.StatusCode.ABORTED, f"nothing came for {seconds:g} s")


def _set_status(context: Any, call: Call, error: CallError) -> None:
    call.code = error.code.name
    context.set_code(error.code)
    context.set_details(error.message)
