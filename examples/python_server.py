"""A reward server in plain Python: no Ray, no simulator; the light install is enough.

    python -m examples.python_server --port 9000

Trainers send their rollouts there with `--reward.endpoint 127.0.0.1:9000`. `phys4d.reward.wire` checks and
unpacks messages; everything else is here.
"""

import argparse
import logging
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import grpc

from examples.motion_smoothness import MotionSmoothness
from phys4d.reward import wire
from phys4d.reward.plugin import DataError
from phys4d.reward.v1 import reward_pb2 as pb
from phys4d.reward.v1 import reward_pb2_grpc
from phys4d.types import Failure, Outcome, Score

MAX_REQUEST_BYTES = 64 << 20
MAX_TENSOR_BYTES = 32 << 20
MAX_ROLLOUTS = 256
MAX_REQUEST_ID = 128
LATE = Failure(
    error_class="INFRA", reason="BUDGET_EXCEEDED", message="not scored within the budget of the call"
)


class SmoothnessServicer(reward_pb2_grpc.RewardServiceServicer):
    """Serves one reward; ScoreStream is left to servers that need it."""

    def __init__(self) -> None:
        self._reward = MotionSmoothness()

    def GetServerInfo(self, request: pb.GetServerInfoRequest, context: Any) -> pb.GetServerInfoResponse:
        """What this server can score."""
        limits = pb.Limits(
            max_request_bytes=MAX_REQUEST_BYTES,
            max_rollouts=MAX_ROLLOUTS,
            max_tensor_bytes=MAX_TENSOR_BYTES,
        )
        reward = pb.RewardInfo(name=self._reward.name, version=self._reward.version)
        return pb.GetServerInfoResponse(rewards=[reward], limits=limits, codecs=[pb.CODEC_NONE])

    def ScoreBatch(self, request: pb.ScoreBatchRequest, context: Any) -> pb.ScoreBatchResponse:
        """Score the rollouts of a request."""
        start = time.monotonic()
        ids = [message.sample_id for message in request.rollouts]
        if request.reward not in ("", self._reward.name):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"unknown reward {request.reward[:64]!r}")
        if len(set(ids)) != len(ids):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "sample ids must be unique within a request")
        if len(request.request_id) > MAX_REQUEST_ID:
            context.abort(
                grpc.StatusCode.INVALID_ARGUMENT, f"request_id must have at most {MAX_REQUEST_ID} characters"
            )
        if len(ids) > MAX_ROLLOUTS:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"at most {MAX_ROLLOUTS} rollouts are taken")
        outcomes = []
        for message in request.rollouts:
            is_late = 0 < request.budget_ms < 1000 * (time.monotonic() - start)
            result = LATE if is_late else self._score(message)
            outcome = Outcome(sample_id=message.sample_id, result=result)
            outcomes.append(wire.outcome_to_proto(outcome, attempt=message.attempt))
        return pb.ScoreBatchResponse(outcomes=outcomes)

    def _score(self, message: pb.Rollout) -> Score | Failure:
        try:
            rollout = wire.rollout_from_proto(message, max_tensor_bytes=MAX_TENSOR_BYTES)
            return replace(self._reward.score(rollout), seed=message.seed)
        except wire.WireError as error:
            return error.failure
        except DataError as error:
            return Failure(error_class="DATA", reason=error.reason, message=error.message)
        except Exception as error:  # A bug of the reward fails its rollout, not the call, and is no number.
            logging.exception("the reward failed on %s", message.sample_id)
            told = f"{type(error).__name__}: {error}"
            return Failure(error_class="INFRA", reason="REWARD_RAISED", message=told[:1000])


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=9000, help="0 takes a free one")
    port = parser.parse_args().port
    options = [("grpc.max_receive_message_length", MAX_REQUEST_BYTES), ("grpc.so_reuseport", 0)]
    server = grpc.server(ThreadPoolExecutor(4), options=options)
    reward_pb2_grpc.add_RewardServiceServicer_to_server(SmoothnessServicer(), server)
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    print(f"ready on 127.0.0.1:{port}", flush=True)
    stopped.wait()
    server.stop(grace=5).wait()


if __name__ == "__main__":
    main()
