"""Client of a reward service: `phys4d` without extras is enough.

    with RewardClient("127.0.0.1:9000", timeout_s=60) as client:
        client.wait_ready(30)
        for outcome in client.score(rollouts):
            ...

What befalls one rollout comes back as its failure; only faults of the whole call that no repeat can mend
(wrong token, unknown reward, no Phys4D service) raise. Calls are not hedged: a rollout is under way once.
"""

import queue
import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import grpc

from phys4d.reward import wire
from phys4d.reward.calls import (
    SERVER_FAULTS,
    CallPlan,
    Cancellation,
    details,
    failed,
    score_batch,
    score_stream,
    status_code,
)
from phys4d.reward.endpoints import ClientTls, Endpoint, Endpoints
from phys4d.reward.tensors import CodecName
from phys4d.reward.v1 import reward_pb2 as pb
from phys4d.types import Failure, Outcome, Rollout

FIRST_BACKOFF_S = 0.25
LONGEST_BACKOFF_S = 5.0
STREAM_FROM_BYTES = 1 << 20
LIBRARY_TYPES = (ValueError, TypeError)


@dataclass(frozen=True, kw_only=True)
class ClientMetrics:
    """What a client did so far."""

    num_calls: int
    num_sent: int
    """Rollouts sent, repeats included."""
    num_retried: int
    """Rollouts sent again."""
    num_bytes: int
    """Bytes of rollouts sent."""
    num_scored: int
    num_failed: dict[str, int]
    """Rollouts without a score at the end, by `CLASS/REASON`."""
    call_s: float
    """Seconds of all calls."""


class RewardClient:
    """Scores rollouts on one reward service, or on several alike. Threads may share it.

    Args:
        endpoint: `host:port`, or several of servers that offer the same rewards in the same versions.
        timeout_s: time for one `score`, retries included.
        max_attempts: sends of one rollout at most; only failures of class INFRA are sent again. While every
            server's circuit is open the client waits, which is no attempt.
        token: bearer token, if the service asks for one.
        reward: name of the reward; empty is the service's first.
        max_request_bytes: rollouts are sent in calls of at most this size.
        max_concurrent_calls: calls under way at the same time.
        tls: encrypts the connection; None does not.
        stream: `auto` streams rollouts of 1 MiB or more to servers that stream, and sends smaller ones in
            unary calls; `always` and `never` do as they say.
        codec: `blosc2` compresses, which pays on networks below about 1 GB/s and needs `phys4d[blosc2]`.
    """

    def __init__(
        self,
        endpoint: str | Sequence[str],
        *,
        timeout_s: float = 120.0,
        max_attempts: int = 4,
        token: str | None = None,
        reward: str = "",
        max_request_bytes: int = 16 << 20,
        max_concurrent_calls: int = 2,
        tls: ClientTls | None = None,
        stream: Literal["auto", "always", "never"] = "auto",
        codec: CodecName = "none",
    ) -> None:
        for name, value in (
            ("timeout_s", timeout_s),
            ("max_attempts", max_attempts),
            ("max_request_bytes", max_request_bytes),
            ("max_concurrent_calls", max_concurrent_calls),
        ):
            if not value > 0:
                raise ValueError(f"{name} must be above 0, got {value}")
        if token is not None and not (token.isascii() and token.isprintable() and token):
            raise ValueError("token must be printable ASCII")
        if stream not in ("auto", "always", "never"):
            raise ValueError(f"stream must be auto, always or never, got {stream!r}")
        addresses = [endpoint] if isinstance(endpoint, str) else list(endpoint)
        self._endpoints = Endpoints(addresses, tls)
        self.endpoint = ",".join(addresses)
        self.timeout_s = timeout_s
        self.max_attempts = max_attempts
        self.reward = reward
        self.max_request_bytes = max_request_bytes
        self._stream = stream
        self._codec: CodecName = codec
        self._reserve_s = min(1.0, 0.1 * timeout_s)
        self._count_lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._failures: Counter[str] = Counter()
        self._call_s = 0.0
        self._closed = threading.Event()
        self._cancellations: set[Cancellation] = set()
        self._metadata = [("authorization", f"Bearer {token}")] if token is not None else []
        self._calls = ThreadPoolExecutor(max_concurrent_calls, thread_name_prefix="reward-call")
        self._submits = ThreadPoolExecutor(1, thread_name_prefix="reward-submit")

    def __enter__(self) -> "RewardClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; calls under way end with failures."""
        self._closed.set()
        for cancellation in list(self._cancellations):
            cancellation.cancel()
        self._endpoints.close()
        self._submits.shutdown(wait=True, cancel_futures=True)
        self._calls.shutdown(wait=True, cancel_futures=True)

    @property
    def num_retried(self) -> int:
        """Rollouts sent again so far, for logs."""
        return self._counts["retried"]

    def metrics(self) -> ClientMetrics:
        """What this client did so far."""
        with self._count_lock:
            counts = self._counts
            return ClientMetrics(
                num_calls=counts["calls"],
                num_sent=counts["sent"],
                num_retried=counts["retried"],
                num_bytes=counts["bytes"],
                num_scored=counts["scored"],
                num_failed=dict(self._failures),
                call_s=self._call_s,
            )

    def server_info(self, timeout_s: float = 10.0) -> pb.GetServerInfoResponse:
        """Ask what the service offers; of several servers, the first that answers.

        Raises:
            ConnectionError: no service answers.
            PermissionError: the token is wrong.
        """
        last: grpc.RpcError | None = None
        for endpoint in self._endpoints.all:
            try:
                return endpoint.stub.GetServerInfo(
                    pb.GetServerInfoRequest(), timeout=timeout_s, metadata=self._metadata
                )
            except grpc.RpcError as error:
                self._raise_lasting_fault(endpoint, error)
                last = error
        assert last is not None
        raise ConnectionError(
            f"no reward service at {self.endpoint}: {details(last)}; start one with make serve, "
            "or check host and port"
        ) from last

    def wait_ready(self, timeout_s: float) -> pb.GetServerInfoResponse:
        """Wait until the service answers, for instance while it starts.

        Raises:
            ConnectionError: it did not within `timeout_s`, or what answers is no Phys4D reward service.
            PermissionError: the token is wrong.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                return self.server_info(timeout_s=max(0.1, min(2.0, deadline - time.monotonic())))
            except ConnectionError as error:
                status = error.__cause__
                if isinstance(status, grpc.RpcError) and status_code(status) == grpc.StatusCode.UNIMPLEMENTED:
                    raise
                if time.monotonic() >= deadline:
                    raise ConnectionError(f"{error} (waited {timeout_s:g} s)") from error
            time.sleep(0.1)

    def score(
        self, rollouts: Sequence[Rollout], *, cancellation: Cancellation | None = None
    ) -> list[Outcome]:
        """Score rollouts; outcomes are in the same order.

        Never raises for what befalls single rollouts, a dead service included: those outcomes hold failures.
        After `cancellation.cancel()` what is not answered yet fails with reason CANCELLED.

        Raises:
            ValueError: two rollouts share a sample id, or the service knows no such reward.
            PermissionError: the token is wrong.
        """
        outcomes: dict[str, Outcome] = {}

        def report(outcome: Outcome) -> None:
            outcomes[outcome.sample_id] = outcome

        self._score(rollouts, report, cancellation or Cancellation())
        return [outcomes[rollout.sample_id] for rollout in rollouts]

    def score_as_ready(
        self, rollouts: Sequence[Rollout], *, cancellation: Cancellation | None = None
    ) -> Iterator[Outcome]:
        """`score`, but outcomes come as each is final, in any order; leaving the loop cancels the rest."""
        cancellation = cancellation or Cancellation()
        ready: queue.SimpleQueue[Outcome | None] = queue.SimpleQueue()
        scoring = ThreadPoolExecutor(1, thread_name_prefix="reward-ready")

        def run() -> None:
            try:
                self._score(rollouts, ready.put, cancellation)
            finally:
                ready.put(None)

        try:
            done = scoring.submit(run)
            while (outcome := ready.get()) is not None:
                yield outcome
            done.result()
        finally:
            cancellation.cancel()
            scoring.shutdown(wait=True)

    def submit(self, rollouts: Sequence[Rollout]) -> "Future[list[Outcome]]":
        """`score` in the background, so that sampling goes on; one `score` runs at a time."""
        return self._submits.submit(self.score, list(rollouts))

    def _score(
        self,
        rollouts: Sequence[Rollout],
        report: Callable[[Outcome], None],
        cancellation: Cancellation,
    ) -> None:
        ids = [rollout.sample_id for rollout in rollouts]
        if len(set(ids)) != len(ids):
            raise ValueError("sample ids must be unique within one call of score")
        plan = CallPlan(
            reward=self.reward,
            metadata=self._metadata,
            request_id=uuid.uuid4().hex,
            deadline=time.monotonic() + self.timeout_s,
            reserve_s=self._reserve_s,
            cancellation=cancellation,
        )

        def count_and_report(outcome: Outcome) -> None:
            with self._count_lock:
                if isinstance(outcome.result, Failure):
                    self._failures[f"{outcome.result.error_class}/{outcome.result.reason}"] += 1
                else:
                    self._counts["scored"] += 1
                report(outcome)

        self._cancellations.add(cancellation)
        try:
            # Packed when a call is free to take them: a long list is never in memory twice.
            slots = threading.Semaphore(2 * self._calls._max_workers)
            calls: list[Future[None]] = []
            for chunk in self._chunks(rollouts, count_and_report):
                slots.acquire()
                call = self._calls.submit(self._score_chunk, chunk, plan, count_and_report)
                call.add_done_callback(lambda _: slots.release())
                calls.append(call)
            for call in calls:
                call.result()
        finally:
            self._cancellations.discard(cancellation)

    def _chunks(
        self, rollouts: Sequence[Rollout], report: Callable[[Outcome], None]
    ) -> Iterator[list[pb.Rollout]]:
        """Pack rollouts into lists below the size limit; those that cannot be sent get their outcome here."""
        chunk: list[pb.Rollout] = []
        num_bytes = 0
        for rollout in rollouts:
            try:
                message = wire.rollout_to_proto(rollout, self._codec)
            except LIBRARY_TYPES as error:
                report(failed(rollout.sample_id, "NOT_SENDABLE", str(error), is_data=True))
                continue
            size = message.ByteSize() + 16
            if size > self.max_request_bytes and not self._streams(size):
                told = (
                    f"the rollout takes {size} bytes, max_request_bytes is {self.max_request_bytes}; "
                    "raise it here and in the service, or send no rgb"
                )
                report(failed(rollout.sample_id, "TOO_LARGE", told, is_data=True))
                continue
            if chunk and num_bytes + size > self.max_request_bytes:
                yield chunk
                chunk, num_bytes = [], 0
            chunk.append(message)
            num_bytes += size
        if chunk:
            yield chunk

    def _streams(self, largest: int) -> bool:
        """Whether rollouts up to that many bytes are streamed, to servers that can."""
        return self._stream == "always" or (self._stream == "auto" and largest >= STREAM_FROM_BYTES)

    def _score_chunk(
        self, chunk: list[pb.Rollout], plan: CallPlan, report: Callable[[Outcome], None]
    ) -> None:
        """Send a chunk, and again what failed for reasons that may pass, until attempts or time run out."""
        last: dict[str, Outcome] = {}
        pending = {message.sample_id: message for message in chunk}

        def keep(outcome: Outcome) -> None:
            if outcome.sample_id not in pending:
                return
            last[outcome.sample_id] = outcome
            if not _may_pass(outcome):
                del pending[outcome.sample_id]
                report(outcome)

        backoff_s = FIRST_BACKOFF_S
        for attempt in range(1, self.max_attempts + 1):
            for message in pending.values():
                message.attempt = attempt
            self._call(list(pending.values()), plan, keep)
            wait_s = backoff_s * random.uniform(0.5, 1.5)
            too_late = time.monotonic() + wait_s >= plan.deadline - plan.reserve_s
            if not pending or attempt == self.max_attempts or too_late or plan.cancellation.wait(wait_s):
                break
            backoff_s = min(2 * backoff_s, LONGEST_BACKOFF_S)
            with self._count_lock:
                self._counts["retried"] += len(pending)
        for sample_id in pending:
            report(last[sample_id])

    def _call(self, messages: list[pb.Rollout], plan: CallPlan, keep: Callable[[Outcome], None]) -> None:
        """Send rollouts once; every one of them gets an outcome."""
        answered: set[str] = set()

        def note(outcome: Outcome) -> None:
            answered.add(outcome.sample_id)
            keep(outcome)

        def fail_rest(reason: str, told: str) -> None:
            for message in messages:
                if message.sample_id not in answered:
                    note(failed(message.sample_id, reason, told))

        endpoint = self._take_endpoint(plan)
        if isinstance(endpoint, str):
            fail_rest(endpoint, _WITHOUT_CALL[endpoint])
            return
        sizes = [message.ByteSize() for message in messages]
        with self._count_lock:
            self._counts.update(calls=1, sent=len(messages), bytes=sum(sizes))
        start, has_failed = time.monotonic(), None
        call = score_stream if endpoint.streams and self._streams(max(sizes)) else score_batch
        try:
            call(endpoint, messages, plan, note)
            has_failed = None if plan.cancellation.is_set else False
        except grpc.RpcError as error:
            code = status_code(error)
            if plan.cancellation.is_set:
                fail_rest("CANCELLED", _WITHOUT_CALL["CANCELLED"])
                return
            if code == grpc.StatusCode.UNIMPLEMENTED and call is score_stream:
                endpoint.streams = False
                has_failed = False
                fail_rest("NO_STREAMS", f"{endpoint.address} has no ScoreStream; trying ScoreBatch")
                return
            has_failed = code in SERVER_FAULTS
            self._raise_lasting_fault(endpoint, error)
            fail_rest(code.name, f"{endpoint.address}: {details(error)}")
        finally:
            self._endpoints.give_back(endpoint, has_failed)
            with self._count_lock:
                self._call_s += time.monotonic() - start
        if plan.cancellation.is_set:
            fail_rest("CANCELLED", _WITHOUT_CALL["CANCELLED"])
        fail_rest("NO_OUTCOME", f"{endpoint.address} answered without this rollout")

    def _take_endpoint(self, plan: CallPlan) -> Endpoint | str:
        """A server whose circuit is closed, or the reason why there is none."""
        while True:
            if self._closed.is_set():
                return "CLIENT_CLOSED"
            if plan.cancellation.is_set:
                return "CANCELLED"
            endpoint, wait_s = self._endpoints.take()
            remaining_s = plan.deadline - time.monotonic()
            if remaining_s <= 0:
                if endpoint is not None:
                    self._endpoints.give_back(endpoint, None)
                return "DEADLINE_EXCEEDED"
            if endpoint is not None:
                return endpoint
            if remaining_s <= wait_s + plan.reserve_s:
                return "CIRCUIT_OPEN"
            plan.cancellation.wait(wait_s)

    def _raise_lasting_fault(self, endpoint: Endpoint, error: grpc.RpcError) -> None:
        """Raise for a status that no repeat can change."""
        code, told, where = status_code(error), details(error), endpoint.address
        if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
            raise PermissionError(f"{where} refuses the token: {told}") from error
        if code == grpc.StatusCode.UNIMPLEMENTED:
            raise ConnectionError(
                f"{where} answers but is no Phys4D reward service: {told}; check the port"
            ) from error
        if code == grpc.StatusCode.INVALID_ARGUMENT:
            raise ValueError(f"{where} refuses the call: {told}") from error


_WITHOUT_CALL = {
    "CANCELLED": "the caller cancelled",
    "CIRCUIT_OPEN": "every server failed several times in a row, and the time ended before the next try",
    "CLIENT_CLOSED": "the client was closed",
    "DEADLINE_EXCEEDED": "no time left to send it",
}


def _may_pass(outcome: Outcome) -> bool:
    return isinstance(outcome.result, Failure) and outcome.result.error_class == "INFRA"
