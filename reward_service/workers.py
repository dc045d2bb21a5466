"""Scorers as child processes: native code that crashes and scenes that take forever end the child alone.

They talk as `pipes` says. `python -m reward_service.workers FD` is the child.
"""

import asyncio
import faulthandler
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from phys4d.types import Failure, Outcome, Rollout
from reward_service.config import ServiceConfig
from reward_service.packages import install
from reward_service.pipes import receive, send
from reward_service.rewards import Offer

START_TIMEOUT_S = 240.0
WATCH_PERIOD_S = 1.0
ORPHAN_GRACE_S = 5.0
logger = logging.getLogger(__name__)


class ScorerPool:
    """Some scorer processes behind one bounded queue.

    Args:
        config: which rewards, how many processes, and how many rollouts may wait.
        requirements: file of packages that these rewards need; None needs none.
    """

    def __init__(self, config: ServiceConfig, requirements: Path | None = None) -> None:
        self._config = config
        self._requirements = requirements
        self._scorers: list[ScorerProcess] = []
        self._idle: asyncio.LifoQueue[ScorerProcess] = asyncio.LifoQueue()
        self._num_waiting = 0
        self._threads = ThreadPoolExecutor(config.num_replicas, thread_name_prefix="scorer")

    async def start(self) -> Offer:
        """Start all processes; tells what each of them offers.

        Raises:
            ValueError: a reward cannot be made, or its packages cannot be installed.
        """
        packages: tuple[str, ...] = ()
        if self._requirements is not None:
            packages = (await asyncio.to_thread(install, self._requirements),)
        self._scorers = [ScorerProcess(self._config, packages) for _ in range(self._config.num_replicas)]
        loop = asyncio.get_running_loop()
        starts = [loop.run_in_executor(self._threads, scorer.start) for scorer in self._scorers]
        offers = await asyncio.gather(*starts)
        for scorer in self._scorers:
            self._idle.put_nowait(scorer)
        return offers[0]

    async def score(self, name: str, rollout: Rollout) -> Outcome:
        """Score one rollout when a process is free."""
        if self._num_waiting >= self._config.max_queued:
            told = f"{self._num_waiting} rollouts are waiting; try again later"
            return _failed(rollout, "INFRA", "OVERLOADED", told)
        self._num_waiting += 1
        try:
            scorer = await self._idle.get()
        finally:
            self._num_waiting -= 1
        # A scorer is free when it has ended, whether or not somebody still waits for it.
        loop = asyncio.get_running_loop()
        scoring = loop.run_in_executor(self._threads, scorer.score, name, rollout)
        scoring.add_done_callback(lambda _: self._idle.put_nowait(scorer))
        return await asyncio.shield(scoring)

    async def watch(self, tell: Callable[[bool], Awaitable[None]]) -> None:
        """Start again what ends while it is idle, and tell every second whether any process is ready."""
        loop = asyncio.get_running_loop()
        while True:
            await tell(any(scorer.is_ready for scorer in self._scorers))
            idle = [self._idle.get_nowait() for _ in range(self._idle.qsize())]
            for scorer in idle[::-1]:
                if scorer.is_ready:
                    self._idle.put_nowait(scorer)
                else:
                    reviving = loop.run_in_executor(self._threads, scorer.revive)
                    reviving.add_done_callback(lambda done, scorer=scorer: self._revived(scorer, done))
            await asyncio.sleep(WATCH_PERIOD_S)

    def _revived(self, scorer: "ScorerProcess", done: asyncio.Future[None]) -> None:
        if not done.cancelled() and done.exception() is not None:
            logger.warning("a scorer does not start: %s", done.exception())
        self._idle.put_nowait(scorer)

    def stop(self) -> None:
        """End all processes, also under way."""
        for scorer in self._scorers:
            scorer.stop()
        self._threads.shutdown(wait=False, cancel_futures=True)


class ScorerProcess:
    """One child process that holds the rewards; one thread uses it at a time.

    Args:
        config: which rewards, and how long one rollout may take.
        packages: folders of packages that come first in the child's search path.
    """

    def __init__(self, config: ServiceConfig, packages: tuple[str, ...] = ()) -> None:
        self._config = config
        self._packages = packages
        self._child: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._stopped = False
        self._offer: Offer | None = None
        """What the child that is ready offers."""

    @property
    def is_ready(self) -> bool:
        """Whether the child has started and not ended."""
        return self._offer is not None and self._child is not None and self._child.poll() is None

    def revive(self) -> None:
        """Start the child again if it has ended.

        Raises:
            ValueError: it does not start.
        """
        if not self.is_ready and not self._stopped:
            self._end()
            self.start()

    def start(self) -> Offer:
        """Start the child, which makes the rewards; tells what it offers.

        Raises:
            ValueError: a reward cannot be made, or the child ended.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            theirs.set_inheritable(True)
            paths = [*self._packages, os.environ.get("PYTHONPATH", "")]
            self._child = subprocess.Popen(
                [sys.executable, "-m", "reward_service.workers", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
            )
        self._connection = Connection(ours.detach())
        try:
            if self._stopped:
                raise EOFError
            send(self._connection, (self._config, logging.getLogger().level))
            if not self._connection.poll(START_TIMEOUT_S):
                raise ValueError(f"a scorer did not start within {START_TIMEOUT_S:g} s")
            answer = receive(self._connection)
        except (EOFError, OSError):
            self._end()
            raise ValueError("a scorer ended while it started; see the log above") from None
        except BaseException:
            self._end()
            raise
        if not isinstance(answer, Offer):
            self._end()
            raise ValueError(answer)
        self._offer = answer
        return answer

    def score(self, name: str, rollout: Rollout) -> Outcome:
        """Score one rollout. Afterwards the child is ready again, if need be a new one."""
        limit_s = self._config.limits.max_scoring_s
        try:
            if self._stopped:
                raise ValueError("the service is stopping")
            self.revive()
            assert self._connection is not None
            send(self._connection, (name, rollout))
            if self._connection.poll(limit_s):
                return receive(self._connection)
        except ValueError as error:
            return _failed(rollout, "INFRA", "SCORER_DIED", str(error))
        except (EOFError, OSError):
            code = self._end()
            return _failed(rollout, "INFRA", "SCORER_DIED", f"the scorer ended with exit code {code}")
        logger.warning("ending a scorer that took over %g s for %s", limit_s, rollout.sample_id[:64])
        self._end()
        told = f"not scored within {limit_s:g} s, the longest this service spends on one rollout"
        return _failed(rollout, "DATA", "SCORING_TOO_LONG", told)

    def stop(self) -> None:
        """End the child, also under way; it does not come back."""
        self._stopped = True
        if self._child is not None:
            self._child.kill()
            self._child.wait()

    def _end(self) -> int | None:
        self._offer = None
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._child is None:
            return None
        child, self._child = self._child, None
        # One that crashed ends by itself; its exit code is worth knowing.
        deadline = time.monotonic() + 0.2
        while child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        child.kill()
        return child.wait()


def _failed(rollout: Rollout, error_class: Any, reason: str, message: str) -> Outcome:
    failure = Failure(error_class=error_class, reason=reason, message=message)
    return Outcome(sample_id=rollout.sample_id, result=failure)


def main() -> None:
    """The child: make the rewards, then score until the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection = Connection(int(sys.argv[1]))
    config, level = receive(connection)
    from phys4d.runtime.threads import limit_threads
    from reward_service.telemetry import configure_logging

    limit_threads(config.num_threads)
    configure_logging(config.log_format, level)
    from reward_service.rewards import describe, make_rewards, score_one

    try:
        rewards = make_rewards(config)
        offer = describe(config, rewards)
    except (ValueError, OSError, ImportError) as error:
        send(connection, f"{error}" if isinstance(error, ValueError) else f"{type(error).__name__}: {error}")
        return
    send(connection, offer)
    while True:
        try:
            name, rollout = receive(connection)
            # The parent ends a child that takes too long. One whose parent is gone ends itself and says
            # where it hung, whatever native code holds the interpreter.
            faulthandler.dump_traceback_later(config.limits.max_scoring_s + ORPHAN_GRACE_S, exit=True)
            outcome = score_one(rewards, name, rollout)
            faulthandler.cancel_dump_traceback_later()
            send(connection, outcome)
        except (EOFError, OSError):
            return


if __name__ == "__main__":
    main()
