"""The reward service as a plain grpc.aio server in one process.

    python -m reward_service.plain --preset tiny --port 9000

Scorers are threads: one that hangs keeps its thread, and a crash of native code ends the service. The same
service with scorers as processes that are replaced when they die: `reward_service.serve`.
"""

import asyncio
import functools
import logging
import signal
from concurrent.futures import ThreadPoolExecutor

from phys4d.runtime.config import load_preset
from phys4d.runtime.errors import run_main
from phys4d.runtime.threads import limit_threads
from reward_service.config import ServiceConfig, read_token
from reward_service.ready import PRESETS, announce, check_port


async def serve(config: ServiceConfig) -> None:
    """Serve until SIGTERM or SIGINT."""
    import grpc

    from phys4d.reward.v1 import reward_pb2_grpc
    from phys4d.types import Failure, Outcome, Rollout
    from reward_service.rewards import describe, make_rewards, score_one
    from reward_service.servicer import RewardServicer

    # A server that was made and never started crashes at exit; so what can fail comes first.
    check_port(config.host, config.port)
    token = read_token(config.token_file)
    rewards = make_rewards(config)
    threads = ThreadPoolExecutor(config.num_replicas, thread_name_prefix="scorer")
    loop = asyncio.get_running_loop()
    num_waiting = 0

    async def score(name: str, rollout: Rollout) -> Outcome:
        nonlocal num_waiting
        if num_waiting >= config.max_queued:
            message = f"{num_waiting} rollouts are waiting; try again later"
            failure = Failure(error_class="INFRA", reason="OVERLOADED", message=message)
            return Outcome(sample_id=rollout.sample_id, result=failure)
        num_waiting += 1
        try:
            return await loop.run_in_executor(threads, functools.partial(score_one, rewards, name, rollout))
        finally:
            num_waiting -= 1

    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", config.limits.max_request_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),
        ]
    )
    servicer = RewardServicer(config.limits, token=token, offer=describe(config, rewards), score=score)
    reward_pb2_grpc.add_RewardServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port(f"{config.host}:{config.port}")
    await server.start()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    announce(config, port)
    await stopped.wait()
    await server.stop(grace=5.0)
    threads.shutdown(wait=False, cancel_futures=True)


def main() -> None:
    """Read the configuration and serve."""
    config, _ = load_preset(ServiceConfig, PRESETS, default="tiny")
    limit_threads(config.num_threads)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    asyncio.run(serve(config))


if __name__ == "__main__":
    run_main(main)
