"""A reward server in plain Python: no Ray, no simulator; the light install is enough.

    python -m examples.python_server --port 9000

Trainers send their rollouts there with `--reward.endpoint 127.0.0.1:9000`. `phys4d.reward.wire` checks and
unpacks messages; everything else is here.
"""

import argparse
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from examples.motion_smoothness import MotionSmoothness
from phys4d.reward import wire
from phys4d.reward.plugin import DataError
from phys4d.reward.v1 import reward_pb2 as pb
from phys4d.reward.v1 import reward_pb2_grpc
from phys4d.types import Failure, Outcome

MAX_REQUEST_BYTES = 64 << 20
MAX_TENSOR_BYTES = 32 << 20
MAX_ROLLOUTS = 256


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
        ids = [message.sample_id for message in request.rollouts]
        if request.reward not in ("", self._reward.name):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"unknown reward {request.reward[:64]!r}")
        if len(set(ids)) != len(ids):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "sample ids must be unique within a request")
        if len(ids) > MAX_ROLLOUTS:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"at most {MAX_ROLLOUTS} rollouts are taken")
        return pb.ScoreBatchResponse(
            outcomes=[
                wire.outcome_to_proto(self._score(message), attempt=message.attempt)
                for message in request.rollouts
            ]
        )

    def _score(self, message: pb.Rollout) -> Outcome:
        try:
            rollout = wire.rollout_from_proto(message, max_tensor_bytes=MAX_TENSOR_BYTES)
            return Outcome(sample_id=message.sample_id, result=self._reward.score(rollout))
        except wire.WireError as error:
            return Outcome(sample_id=message.sample_id, result=error.failure)
        except DataError as error:
            failure = Failure(error_class="DATA", reason=error.reason, message=error.message)
            return Outcome(sample_id=message.sample_id, result=failure)


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
