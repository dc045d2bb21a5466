"""Client of a reward service: `phys4d` without extras is enough.

    with RewardClient("127.0.0.1:9000", timeout_s=60) as client:
        client.wait_ready(30)
        for outcome in client.score(rollouts):
            ...

What befalls one rollout comes back as its failure; only faults of the whole call that no repeat can mend
(wrong token, unknown reward, no Phys4D service) raise.
"""

import random
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Literal

import grpc

from phys4d.reward import wire
from phys4d.reward.v1 import reward_pb2 as pb
from phys4d.reward.v1 import reward_pb2_grpc
from phys4d.types import Failure, Outcome, Rollout

FIRST_BACKOFF_S = 0.25
LONGEST_BACKOFF_S = 5.0
LIBRARY_TYPES = (ValueError, TypeError)


class RewardClient:
    """Scores rollouts on one reward service. Threads may share it.

    Args:
        endpoint: `host:port`.
        timeout_s: time for one `score`, retries included.
        max_attempts: sends of one rollout at most; only failures of class INFRA are sent again.
        token: bearer token, if the service asks for one.
        reward: name of the reward; empty is the service's first.
        max_request_bytes: rollouts are sent in calls of at most this size.
        max_concurrent_calls: calls under way at the same time.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        timeout_s: float = 120.0,
        max_attempts: int = 4,
        token: str | None = None,
        reward: str = "",
        max_request_bytes: int = 16 << 20,
        max_concurrent_calls: int = 2,
    ) -> None:
        for name, value in (
            ("timeout_s", timeout_s),
            ("max_attempts", max_attempts),
            ("max_request_bytes", max_request_bytes),
            ("max_concurrent_calls", max_concurrent_calls),
        ):
            if not value > 0:
                raise ValueError(f"{name} must be above 0, got {value}")
        if ":" not in endpoint:
            raise ValueError(f"endpoint must be host:port, got {endpoint!r}")
        if token is not None and not (token.isascii() and token.isprintable() and token):
            raise ValueError("token must be printable ASCII")
        self.endpoint = endpoint
        self.timeout_s = timeout_s
        self.max_attempts = max_attempts
        self.reward = reward
        self.max_request_bytes = max_request_bytes
        self.num_retried = 0
        """Rollouts sent again so far, for logs."""
        # The server's budget ends this much earlier, so that its answer is back before the call is given up.
        self._reserve_s = min(1.0, 0.1 * timeout_s)
        self._count_lock = threading.Lock()
        self._closed = threading.Event()
        self._metadata = [("authorization", f"Bearer {token}")] if token is not None else []
        self._channel = grpc.insecure_channel(
            endpoint,
            options=[
                ("grpc.max_send_message_length", -1),
                ("grpc.max_receive_message_length", -1),
                ("grpc.initial_reconnect_backoff_ms", 100),
                ("grpc.max_reconnect_backoff_ms", 2000),
            ],
        )
        self._stub = reward_pb2_grpc.RewardServiceStub(self._channel)
        self._calls = ThreadPoolExecutor(max_concurrent_calls, thread_name_prefix="reward-call")
        self._submits = ThreadPoolExecutor(1, thread_name_prefix="reward-submit")

    def __enter__(self) -> "RewardClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; calls under way end with failures."""
        self._closed.set()
        self._channel.close()
        self._submits.shutdown(wait=True, cancel_futures=True)
        self._calls.shutdown(wait=True, cancel_futures=True)

    def server_info(self, timeout_s: float = 10.0) -> pb.GetServerInfoResponse:
        """Ask what the service offers.

        Raises:
            ConnectionError: no service answers.
            PermissionError: the token is wrong.
        """
        try:
            return self._stub.GetServerInfo(
                pb.GetServerInfoRequest(), timeout=timeout_s, metadata=self._metadata
            )
        except grpc.RpcError as error:
            self._raise_lasting_fault(error)
            raise ConnectionError(
                f"no reward service at {self.endpoint}: {_details(error)}; start one with make serve, "
                "or check host and port"
            ) from error

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
                if isinstance(status, grpc.RpcError) and _code(status) == grpc.StatusCode.UNIMPLEMENTED:
                    raise
                if time.monotonic() >= deadline:
                    raise ConnectionError(f"{error} (waited {timeout_s:g} s)") from error
            time.sleep(0.1)

    def score(self, rollouts: Sequence[Rollout]) -> list[Outcome]:
        """Score rollouts; outcomes are in the same order.

        Never raises for what befalls single rollouts, a dead service included: those outcomes hold failures.

        Raises:
            ValueError: two rollouts share a sample id, or the service knows no such reward.
            PermissionError: the token is wrong.
        """
        ids = [r.sample_id for r in rollouts]
        if len(set(ids)) != len(ids):
            raise ValueError("sample ids must be unique within one call of score")
        deadline = time.monotonic() + self.timeout_s
        outcomes: dict[str, Outcome] = {}
        calls = [
            self._calls.submit(self._score_chunk, chunk, deadline)
            for chunk in self._chunks(rollouts, outcomes)
        ]
        for call in calls:
            outcomes.update(call.result())
        return [outcomes[sample_id] for sample_id in ids]

    def submit(self, rollouts: Sequence[Rollout]) -> "Future[list[Outcome]]":
        """`score` in the background, so that sampling goes on; one `score` runs at a time."""
        return self._submits.submit(self.score, list(rollouts))

    def _chunks(
        self, rollouts: Sequence[Rollout], outcomes: dict[str, Outcome]
    ) -> Iterator[list[pb.Rollout]]:
        """Pack rollouts into lists below the size limit; those that cannot be sent get their outcome here."""
        chunk: list[pb.Rollout] = []
        num_bytes = 0
        for rollout in rollouts:
            try:
                message = wire.rollout_to_proto(rollout)
            except LIBRARY_TYPES as error:
                outcomes[rollout.sample_id] = _failed(rollout.sample_id, "DATA", "NOT_SENDABLE", str(error))
                continue
            size = message.ByteSize() + 16
            if size > self.max_request_bytes:
                outcomes[rollout.sample_id] = _failed(
                    rollout.sample_id,
                    "DATA",
                    "TOO_LARGE",
                    f"the rollout takes {size} bytes, max_request_bytes is {self.max_request_bytes}; "
                    "raise it here and in the service, or send no rgb",
                )
                continue
            if num_bytes + size > self.max_request_bytes:
                yield chunk
                chunk, num_bytes = [], 0
            chunk.append(message)
            num_bytes += size
        if chunk:
            yield chunk

    def _score_chunk(self, chunk: list[pb.Rollout], deadline: float) -> dict[str, Outcome]:
        """Send a chunk, and again what failed for reasons that may pass, until attempts or time run out."""
        outcomes: dict[str, Outcome] = {}
        pending = chunk
        backoff_s = FIRST_BACKOFF_S
        for attempt in range(1, self.max_attempts + 1):
            for message in pending:
                message.attempt = attempt
            outcomes.update(self._call(pending, deadline))
            pending = [m for m in pending if _may_pass(outcomes[m.sample_id])]
            wait_s = backoff_s * random.uniform(0.5, 1.5)
            too_late = time.monotonic() + wait_s >= deadline - self._reserve_s
            if not pending or attempt == self.max_attempts or too_late:
                break
            if self._closed.wait(wait_s):
                break
            backoff_s = min(2 * backoff_s, LONGEST_BACKOFF_S)
            with self._count_lock:
                self.num_retried += len(pending)
        return outcomes

    def _call(self, messages: list[pb.Rollout], deadline: float) -> dict[str, Outcome]:
        remaining_s = deadline - time.monotonic()
        ids = [m.sample_id for m in messages]
        if self._closed.is_set():
            return {i: _failed(i, "INFRA", "CLIENT_CLOSED", "the client was closed") for i in ids}
        if remaining_s <= 0:
            return {i: _failed(i, "INFRA", "DEADLINE_EXCEEDED", "no time left to send it") for i in ids}
        budget_ms = max(1, int(1000 * (remaining_s - self._reserve_s)))
        request = pb.ScoreBatchRequest(rollouts=messages, reward=self.reward, budget_ms=budget_ms)
        try:
            response = self._stub.ScoreBatch(request, timeout=remaining_s, metadata=self._metadata)
        except grpc.RpcError as error:
            self._raise_lasting_fault(error)
            reason, details = _code(error).name, f"{self.endpoint}: {_details(error)}"
            return {i: _failed(i, "INFRA", reason, details) for i in ids}
        outcomes = {o.sample_id: wire.outcome_from_proto(o) for o in response.outcomes}
        lost = _failed("", "INFRA", "NO_OUTCOME", f"{self.endpoint} answered without this rollout").result
        return {i: outcomes.get(i, Outcome(sample_id=i, result=lost)) for i in ids}

    def _raise_lasting_fault(self, error: grpc.RpcError) -> None:
        """Raise for a status that no repeat can change."""
        code, details = _code(error), _details(error)
        if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
            raise PermissionError(f"{self.endpoint} refuses the token: {details}") from error
        if code == grpc.StatusCode.UNIMPLEMENTED:
            raise ConnectionError(
                f"{self.endpoint} answers but is no Phys4D reward service: {details}; check the port"
            ) from error
        if code == grpc.StatusCode.INVALID_ARGUMENT:
            raise ValueError(f"{self.endpoint} refuses the call: {details}") from error


def _may_pass(outcome: Outcome) -> bool:
    return isinstance(outcome.result, Failure) and outcome.result.error_class == "INFRA"


def _failed(sample_id: str, error_class: Literal["INFRA", "DATA"], reason: str, message: str) -> Outcome:
    failure = Failure(error_class=error_class, reason=reason, message=message)
    return Outcome(sample_id=sample_id, result=failure)


def _code(error: grpc.RpcError) -> grpc.StatusCode:
    return error.code() if isinstance(error, grpc.Call) else grpc.StatusCode.UNKNOWN


def _details(error: grpc.RpcError) -> str:
    text = (error.details() if isinstance(error, grpc.Call) else None) or str(error)
    return f"{_code(error).name}: {text}"
