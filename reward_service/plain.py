"""The reward service as a plain grpc.aio server with scorers as child processes, on one machine.

    python -m reward_service.plain --preset tiny --port 9000

It speaks TLS; token and certificates are read again when their files change. The same service over many
machines, with scorers added under load: `reward_service.serve`.
"""

import asyncio
import logging
import signal
from functools import partial
from typing import TYPE_CHECKING, Any

from phys4d.runtime.config import load_preset
from phys4d.runtime.errors import run_main
from phys4d.runtime.malloc import keep_large_blocks
from phys4d.runtime.threads import limit_threads
from reward_service.config import ServiceConfig, read_token
from reward_service.ready import PRESETS, announce, check_port
from reward_service.telemetry import configure_logging

if TYPE_CHECKING:
    from reward_service.security import OnChange
    from reward_service.workers import ScorerPool


async def serve(config: ServiceConfig) -> None:
    """Serve until SIGTERM or SIGINT."""
    from reward_service.packages import scorer_groups
    from reward_service.security import OnChange, server_credentials
    from reward_service.workers import ScorerPool

    # A server that was made and never started crashes at exit; so what can fail comes first.
    check_port(config.host, config.port)
    token = OnChange([config.token_file], partial(read_token, config.token_file))
    credentials = server_credentials(config.tls)
    pools = [ScorerPool(group, requirements) for group, requirements in scorer_groups(config)]
    try:
        await _serve(config, token, credentials, pools)
    finally:
        for pool in pools:
            pool.stop()


async def _serve(
    config: ServiceConfig, token: "OnChange[str | None]", credentials: Any, pools: "list[ScorerPool]"
) -> None:
    from grpc_health.v1 import health

    from phys4d.types import Outcome, Rollout
    from reward_service.door import SERVICE, open_door
    from reward_service.rewards import merge
    from reward_service.servicer import RewardServicer
    from reward_service.telemetry import ServiceMetrics

    offers = await asyncio.gather(*(pool.start() for pool in pools))
    pool_of = {name: pool for pool, offer in zip(pools, offers, strict=True) for name in offer.versions}

    async def score(name: str, rollout: Rollout) -> Outcome:
        return await pool_of[name].score(name, rollout)

    metrics = ServiceMetrics()
    servicer = RewardServicer(
        config.limits,
        token=token,
        offer=merge(offers),
        score=score,
        metrics=metrics,
        cache_size=config.cache_size,
    )
    healths = health.aio.HealthServicer()
    server, port = open_door(
        config,
        config.port,
        servicer,
        healths,
        token=token,
        is_full=servicer.is_full,
        credentials=credentials,
    )
    if config.metrics_port is not None:
        metrics_port = metrics.serve(config.host, config.metrics_port)
        print(f"metrics on http://{config.host}:{metrics_port}/metrics", flush=True)
    await server.start()
    watching = await _watch(pools, healths, ("", SERVICE))
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    announce(config, port)
    await stopped.wait()
    for task in watching:
        task.cancel()
    await healths.enter_graceful_shutdown()
    await server.stop(grace=config.drain_s)


async def _watch(
    pools: "list[ScorerPool]", healths: Any, services: tuple[str, ...]
) -> list[asyncio.Task[None]]:
    """Keep the health of the services true: serving while every pool has a scorer that is ready."""
    from grpc_health.v1 import health_pb2

    well = dict.fromkeys(range(len(pools)), True)

    async def tell(index: int, is_well: bool) -> None:
        well[index] = is_well
        status = health_pb2.HealthCheckResponse
        for service in services:
            await healths.set(service, status.SERVING if all(well.values()) else status.NOT_SERVING)

    await tell(0, True)
    return [asyncio.create_task(pool.watch(partial(tell, index))) for index, pool in enumerate(pools)]


def main() -> None:
    """Read the configuration and serve."""
    config, _ = load_preset(ServiceConfig, PRESETS, default="tiny")
    limit_threads(config.num_threads)
    keep_large_blocks()
    configure_logging(config.log_format, getattr(logging, config.log_level))
    asyncio.run(serve(config))


if __name__ == "__main__":
    run_main(main)
