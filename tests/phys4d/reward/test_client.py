"""The client and servers that refuse, restart, or take little: the example server, in this process."""

import concurrent.futures
import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import grpc
import numpy as np
import pytest

from examples import python_server
from phys4d.reward.client import RewardClient
from phys4d.reward.conformance import made_up_rollouts
from phys4d.reward.v1 import reward_pb2 as pb
from phys4d.reward.v1 import reward_pb2_grpc
from phys4d.types import Camera, Failure, Rollout


class Example(python_server.SmoothnessServicer):
    """Counts what it is asked."""

    def __init__(self, token: str = "", version: str = "1") -> None:
        super().__init__()
        self._reward.version = version
        self.token = token
        self.num_asked = 0
        self.num_busy = 0

    def GetServerInfo(self, request: pb.GetServerInfoRequest, context: Any) -> pb.GetServerInfoResponse:
        self.num_asked += 1
        if ("authorization", f"Bearer {self.token}") not in context.invocation_metadata() and self.token:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "wrong token")
        return super().GetServerInfo(request, context)

    def ScoreBatch(self, request: pb.ScoreBatchRequest, context: Any) -> pb.ScoreBatchResponse:
        self.num_asked += 1
        if self.num_busy > 0:
            self.num_busy -= 1
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "busy")
        return super().ScoreBatch(request, context)


@contextlib.contextmanager
def serving(example: Example, port: int = 0) -> Iterator[str]:
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
    reward_pb2_grpc.add_RewardServiceServicer_to_server(example, server)
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def large(rollout: Rollout, side: int) -> Rollout:
    camera = Camera(
        fx=side, fy=side, cx=side / 2, cy=side / 2, width=side, height=side, camera_from_world=np.eye(4)
    )
    return replace(
        rollout,
        camera=camera,
        depth=np.ones((3, side, side), np.float16),
        motion=np.zeros((2, side, side, 3), np.float16),
        object_ids=np.ones((side, side), np.uint8),
    )


def reasons(outcomes: list) -> set[str]:
    return {o.result.reason if isinstance(o.result, Failure) else "SCORE" for o in outcomes}


def test_a_list_is_split_as_the_server_asks_for() -> None:
    """It takes 256 rollouts at once, says that it does not stream, and 64 MiB."""
    example = Example()
    with serving(example) as endpoint, RewardClient(endpoint, max_attempts=1) as client:
        assert reasons(client.score(made_up_rollouts(300))) == {"SCORE"}
        assert (client.num_retried, example.num_asked) == (0, 3)
        big = large(made_up_rollouts(1)[0], 256)
        assert reasons(client.score([big])) == {"SCORE"}
        huge = large(made_up_rollouts(1)[0], 2100)
        (outcome,) = client.score([huge])
    assert isinstance(outcome.result, Failure)
    assert (outcome.result.error_class, outcome.result.reason) == ("DATA", "TOO_LARGE")


def test_a_wrong_token_stops_at_the_first_call() -> None:
    example = Example(token="right")
    with (
        serving(example) as endpoint,
        RewardClient(endpoint, token="wrong", max_request_bytes=1500) as client,
        pytest.raises(PermissionError, match="wrong token"),
    ):
        client.score(made_up_rollouts(60))
    assert example.num_asked <= 2


def test_a_server_that_is_away_or_busy_is_waited_for_and_that_is_no_attempt() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    example = Example()
    example.num_busy = 3
    with RewardClient(f"127.0.0.1:{port}", timeout_s=60, max_attempts=1) as client:
        future = client.submit(made_up_rollouts(4))
        time.sleep(2.0)
        with serving(example, port):
            assert reasons(future.result(60)) == {"SCORE"}


def test_scores_of_two_versions_are_not_mixed() -> None:
    with (
        serving(Example(version="1")) as one,
        serving(Example(version="2")) as other,
        RewardClient([one, other], max_request_bytes=1500, max_concurrent_calls=4) as client,
        pytest.raises(ValueError, match="comparable only within one version"),
    ):
        client.score(made_up_rollouts(40))


def test_a_closed_client_gives_failures() -> None:
    client = RewardClient("127.0.0.1:1")
    client.close()
    assert reasons(client.score(made_up_rollouts(2))) == {"CLIENT_CLOSED"}
    assert reasons(client.submit(made_up_rollouts(2)).result(5)) == {"CLIENT_CLOSED"}


def test_a_client_closed_under_way_answers_every_rollout() -> None:
    client = RewardClient("127.0.0.1:1", timeout_s=60, max_request_bytes=1500)
    future, waiting = client.submit(made_up_rollouts(20)), client.submit(made_up_rollouts(3))
    threading.Timer(0.3, client.close).start()
    assert len(future.result(10)) == 20 and reasons(waiting.result(10)) == {"CLIENT_CLOSED"}
