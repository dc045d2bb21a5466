"""The reward service on Ray Serve.

    python -m reward_service.serve --preset tiny --port 9000 --num-replicas 2

Starts a Ray cluster of its own on this machine: no dashboard, no reports home, little shared memory. SIGTERM
and SIGINT stop it with all its processes, once calls under way have ended. SIGHUP reads the preset and the
rewards' code again and replaces all replicas, one after the other, while calls go on.
"""

import atexit
import itertools
import logging
import math
import os
import queue
import secrets
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import cast

from phys4d.reward.client import RewardClient
from phys4d.reward.plugin import find_reward_class
from phys4d.runtime.config import load_preset
from phys4d.runtime.errors import run_main
from phys4d.runtime.malloc import keep_large_blocks
from phys4d.runtime.threads import limit_threads
from reward_service.config import ServiceConfig, read_token
from reward_service.packages import scorer_groups
from reward_service.ready import EVERY_INTERFACE, PRESETS, announce, held_port, reachable

START_TIMEOUT_S = 60.0
START_ATTEMPTS = 3
APP = "phys4d"
RUNS = itertools.count()
"""Each has an ingress of its own name, so that one listens before the other ends."""
logger = logging.getLogger(__name__)


def serve(config: ServiceConfig, reread: Callable[[], ServiceConfig]) -> None:
    """Serve until SIGTERM or SIGINT; calls under way then get `drain_s` to end, and new ones UNAVAILABLE.

    Args:
        reread: the configuration after SIGHUP.
    """
    if config.tls.cert_file is not None:
        raise ValueError(
            "this service has no TLS: put a gateway in front of it, or use python -m reward_service.plain"
        )
    room = needed(config)
    for group, requirements in scorer_groups(config):
        if requirements is None:
            for target in group.rewards:
                find_reward_class(target)
    # The ingress listens many seconds later.
    with held_port(config.host, config.port) as port:
        _serve(config, port, reread, room)


def _serve(
    config: ServiceConfig, port: int, reread: Callable[[], ServiceConfig], room: dict[str, float]
) -> None:
    # Ray's processes find rewards of the working folder and keep their thread counts.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.getcwd(), os.environ.get("PYTHONPATH", "")]))
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Beside a trainer on the same cores answers take longer than Ray expects: it would pass over scorers that
    # do not tell their queue within 0.1 s, and give up a proxy that is not ready within 3 x 5 s.
    os.environ.setdefault("RAY_SERVE_QUEUE_LENGTH_RESPONSE_DEADLINE_S", "1.0")
    os.environ.setdefault("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "30")
    os.environ.setdefault("RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S", "30")
    # Ray would run scorers at niceness 15: beside a trainer on the same cores they would starve.
    os.environ.setdefault("RAY_worker_niceness", "0")
    # Ray's own ports run code for whoever holds this token; nobody outside this process tree does.
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    # The ingress listens itself, and gRPC serves one loop of a process best.
    os.environ.setdefault("RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD", "0")
    # Ray, once it is there, has a handler for SIGTERM that exits too.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _quit)
    import ray
    import ray.serve

    # Sockets lie in this folder, and their paths must stay below 108 characters.
    temp_dir = Path(tempfile.mkdtemp(prefix="phys4d-ray-", dir="/tmp"))
    # A cluster that was still starting ends at Python's exit, and writes until then; this comes after it.
    atexit.register(shutil.rmtree, temp_dir, ignore_errors=True)
    signals: queue.SimpleQueue[int] = queue.SimpleQueue()
    try:
        _start_ray(config, int(room["CPU"]), temp_dir)
        _require_gpus(room["GPU"], config)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda number, _: signals.put(number))
        # No proxies of Ray: see `reward_service.door`.
        ray.serve.start(
            proxy_location="Disabled",
            logging_config={"log_level": "WARNING", "enable_access_log": False},
        )
        try:
            _run(config, 0, port)
        except RuntimeError as error:
            raise ValueError(f"scorers did not start: {_reason_of_failure()}") from error
        with RewardClient(reachable(config, port), token=read_token(config.token_file)) as client:
            client.wait_ready(START_TIMEOUT_S)
        announce(config, port)
        if config.token_file is None and config.host in EVERY_INTERFACE:
            print(
                f"warning: port {port} is open on every interface and asks for no token: whoever reaches it "
                "is served. Give --token-file, and see docs/reward_service.md for a gateway with TLS",
                file=sys.stderr,
                flush=True,
            )
        if config.exit_with_stdin:
            threading.Thread(target=_end_with_stdin, args=(signals,), daemon=True).start()
        # Beside this thread, which must hear SIGTERM also while replicas are replaced.
        with ThreadPoolExecutor(1) as redeploying:
            served = Served(config, port, reread, room)
            while signals.get() == signal.SIGHUP:
                redeploying.submit(served.renew).add_done_callback(_tell)
            _drain(config.drain_s)
            ray.shutdown()
            redeploying.shutdown(cancel_futures=True)
    finally:
        # The whole cluster ends with us. Ending the application first takes up to 30 s on busy cores.
        ray.shutdown()
        shutil.rmtree(temp_dir, ignore_errors=True)


def _quit(number: int, _: object) -> None:
    """End at once, and clean up."""
    sys.exit(128 + number)


def _end_with_stdin(signals: "queue.SimpleQueue[int]") -> None:
    """Ask to end when whoever holds the other end of standard input is gone."""
    sys.stdin.buffer.read()
    signals.put(signal.SIGTERM)


def needed(config: ServiceConfig) -> dict[str, float]:
    """What Ray sets aside for a configuration; without it replicas would wait forever.

    Raises:
        ValueError: a requirements file does not exist.
    """
    num_scorers = (config.max_replicas or config.num_replicas) * len(scorer_groups(config))
    share = config.num_gpus
    # A scorer has its share from one GPU.
    gpus = math.ceil(num_scorers / int(1 / share + 1e-9)) if 0 < share < 1 else num_scorers * share
    # Two more for the ingress and the one that takes over from it.
    return {"CPU": num_scorers + 2, "GPU": gpus}


def _start_ray(config: ServiceConfig, num_cpus: int, temp_dir: Path) -> None:
    """Start a cluster, three times at most: on busy cores it may miss the 30 s that Ray gives it."""
    import ray

    for attempt in range(1, START_ATTEMPTS + 1):
        try:
            ray.init(
                address="local",
                num_cpus=num_cpus,
                num_gpus=None if config.num_gpus else 0,
                include_dashboard=False,
                object_store_memory=config.object_store_mb << 20,
                logging_level=logging.WARNING,
                log_to_driver=True,
                _temp_dir=str(temp_dir),
            )
            return
        # Ray raises nothing more specific.
        except Exception as error:
            if "timed out during startup" not in str(error) or attempt == START_ATTEMPTS:
                raise
            logger.warning("Ray did not start in time; trying again")
            ray.shutdown()


def _require_gpus(asked: float, config: ServiceConfig) -> None:
    """Refuse what this machine's GPUs cannot hold: its scorers would wait without end for theirs."""
    import ray

    found = ray.cluster_resources().get("GPU", 0.0)
    if asked > found:
        raise ValueError(
            f"scorers with num_gpus={config.num_gpus:g} need {asked:g} GPUs, Ray found {found:g} here; "
            "lower num_gpus, num_replicas or max_replicas"
        )


def _drain(seconds: float) -> None:
    """Take no more calls, and let those under way end, also in an ingress that is being replaced."""
    import ray.serve
    from ray.exceptions import RayError
    from ray.serve.exceptions import RayServeException

    ends = time.monotonic() + seconds
    try:
        drained, left = ray.serve.get_app_handle(APP).drain.remote(seconds).result(timeout_s=seconds + 5)
        while others := _other_ingresses(drained):
            if time.monotonic() > ends:
                logger.warning("calls of %s are not waited for any longer", ", ".join(others))
                break
            time.sleep(0.1)
    except (TimeoutError, RayError, RayServeException) as error:
        logger.warning("calls under way are not waited for: %s", error)
    else:
        if left:
            logger.warning("%d calls did not end within %g s", left, seconds)


def _other_ingresses(name: str) -> list[str]:
    """Ingresses that live beside the deployment of this name: they start, or end their last calls."""
    import ray.util

    from reward_service.app import INGRESS

    actors = cast(list[dict[str, str]], ray.util.list_named_actors(all_namespaces=True))
    names = [actor["name"] for actor in actors]
    return [each for each in names if f"::{APP}#{INGRESS}" in each and f"::{APP}#{name}#" not in each]


class Served:
    """The configuration that is served, and how it is replaced.

    Args:
        config: what is served now.
        port: where; it stays.
        reread: the configuration as files and environment have it by then.
        room: what the cluster was started with, as `needed` tells it.
    """

    def __init__(
        self, config: ServiceConfig, port: int, reread: Callable[[], ServiceConfig], room: dict[str, float]
    ) -> None:
        self._config, self._generation = config, 0
        self._port = port
        self._reread = reread
        self._room = room
        self._numbers = itertools.count(1)

    def renew(self) -> None:
        """Replace all replicas; what cannot be read or started is told, and what serves goes on."""
        number = next(self._numbers)
        try:
            config = self._reread()
            lacking = [name for name, number in needed(config).items() if number > self._room[name]]
            if lacking:
                raise ValueError(
                    f"it needs more {' and '.join(lacking)} than the service was started with; "
                    "restart the service for more scorers"
                )
        except (ValueError, OSError, SystemExit) as error:
            logger.error("configuration %d is not served: %s", number, error)
            return
        try:
            _run(config, number, self._port)
        except (ValueError, OSError, RuntimeError) as error:
            reason = _reason_of_failure() if isinstance(error, RuntimeError) else error
            logger.error("configuration %d is not served: %s", number, reason)
            # Ray would replace no scorer any more, not even one that dies.
            _run(self._config, self._generation, self._port)
        else:
            self._config, self._generation = config, number
            print(f"serving configuration {number}", flush=True)


def _run(config: ServiceConfig, generation: int, port: int) -> None:
    import ray.serve

    from reward_service.app import INGRESS, build

    number = next(RUNS)
    ingress = f"{INGRESS}{number or ''}"
    ray.serve.run(build(config, generation, port=port, ingress=ingress), name=APP, route_prefix=None)


def _tell(redeployed: "Future[None]") -> None:
    """Log what a redeployment did not expect."""
    error = None if redeployed.cancelled() else redeployed.exception()
    if error is not None:
        logger.error("redeployment ended: %s: %s", type(error).__name__, error)


def _reason_of_failure() -> str:
    """The last line of what a failed deployment says of itself."""
    import ray.serve

    for deployment in ray.serve.status().applications[APP].deployments.values():
        lines = [line.strip() for line in deployment.message.splitlines() if "Error" in line]
        if lines:
            return lines[-1]
    return "see the log above"


def read_config() -> ServiceConfig:
    """Preset and flags; paths are absolute, because Ray's processes run in another folder."""
    config, _ = load_preset(ServiceConfig, PRESETS, default="tiny")
    if config.token_file is not None:
        read_token(config.token_file)
        config = replace(config, token_file=config.token_file.resolve())
    return config


def main() -> None:
    """Read the configuration and serve."""
    config = read_config()
    limit_threads(config.num_threads)
    keep_large_blocks()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    sys.path.insert(0, os.getcwd())
    serve(config, read_config)


if __name__ == "__main__":
    run_main(main)
