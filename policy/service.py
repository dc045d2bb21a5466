"""The reward service a run talks to: a given endpoint, or one started as a child process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from phys4d.reward.client import RewardClient
from phys4d.reward.endpoints import ClientTls
from policy.config import RewardConfig

START_TIMEOUT_S = 180.0
WATCH_EVERY_S = 1.0


class LocalService:
    """A reward service as a child process, which may be started again on its port and ends with this one.

    Args:
        log: file that gets what it prints; None keeps that only until it has started.
    """

    def __init__(self, config: RewardConfig, log: Path | None = None) -> None:
        self.config = config
        self.log = log
        self.endpoint = ""
        self._child: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._stopping = threading.Event()

    def start(self) -> None:
        """Start it and wait until it has a port; after the first time on that same port.

        Raises:
            ConnectionError: it did not start; says why and what to do.
        """
        port = self.endpoint.rpartition(":")[2] or "0"
        with tempfile.TemporaryDirectory(prefix="phys4d-reward-") as folder:
            ready_file, log_file = Path(folder) / "endpoint", self.log or Path(folder) / "service.log"
            command = [sys.executable, "-m", "reward_service.serve", "--preset", self.config.preset]
            command += ["--num-replicas", str(self.config.num_replicas), "--port", port]
            command += ["--ready-file", str(ready_file), "--exit-with-stdin"]
            print(f"starting the reward service: {' '.join(command[1:])}", flush=True)
            with log_file.open("ab") as log:
                # Its standard input ends when this process does, also by SIGKILL.
                child = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            self._child = child
            deadline = time.monotonic() + START_TIMEOUT_S
            while not ready_file.exists():
                if child.poll() is not None or time.monotonic() > deadline or self._stopping.is_set():
                    tail = log_file.read_text(errors="replace").strip().splitlines()[-5:]
                    raise ConnectionError(
                        f"the reward service did not start (exit code {child.poll()}): {' | '.join(tail)}; "
                        "run `make serve` to see why, or give --reward.endpoint of a running one"
                    )
                time.sleep(0.1)
            self.endpoint = ready_file.read_text().strip()

    def keep_alive(self) -> None:
        """Until `stop`, start it again whenever its process has ended, whoever waits for its rewards.

        That it does not start, for instance because its port is not free yet, is told and no error: it is
        tried again until those who wait for it give up.
        """
        while not self._stopping.wait(WATCH_EVERY_S):
            self.restart_if_dead()

    def restart_if_dead(self) -> None:
        """Start it again if its process has ended; of several threads that see it, one does."""
        with self._lock:
            if self._stopping.is_set() or self._child is None or self._child.poll() is None:
                return
            seen = "" if self.log is None else f"; see {self.log}"
            print(f"the reward service ended (exit code {self._child.poll()}){seen}", flush=True)
            try:
                self.start()
            except ConnectionError as error:
                if not self._stopping.is_set():
                    print(error, flush=True)

    def stop(self, grace_s: float = 20.0) -> None:
        """Ask the child to end, then end its process group; one that is just being started again, too."""
        self._stopping.set()
        with self._lock:
            self._stop(grace_s)

    def _stop(self, grace_s: float) -> None:
        if self._child is not None and self._child.poll() is None:
            self._child.terminate()
            try:
                self._child.wait(grace_s)
            except subprocess.TimeoutExpired:
                os.killpg(self._child.pid, signal.SIGKILL)
                self._child.wait()


def security(config: RewardConfig, endpoint: str) -> dict[str, Any]:
    """What a client shows to and asks of an endpoint: its token and TLS; ours are not for other services.

    Raises:
        OSError: a file cannot be read.
        ValueError: the token file is empty.
    """
    ours = endpoint == config.endpoint
    token_file = config.token_file if ours else config.token_files.get(endpoint)
    ca_file = config.ca_file if ours else config.ca_files.get(endpoint)
    options: dict[str, Any] = {}
    if token_file is not None:
        options["token"] = token_file.read_text(encoding="utf-8").strip()
        if not options["token"]:
            raise ValueError(f"token file {token_file} is empty")
    if ca_file is not None:
        options["tls"] = ClientTls(
            ca_file=ca_file,
            cert_file=config.cert_file if ours else None,
            key_file=config.key_file if ours else None,
        )
    return options


@contextmanager
def reward_service(config: RewardConfig, log: Path | None = None) -> Iterator[str]:
    """An endpoint; of a service that is started here, which is kept alive and ends with the block."""
    if config.endpoint:
        yield config.endpoint
        return
    service = LocalService(config, log)
    try:
        service.start()
        threading.Thread(target=service.keep_alive, name="reward-service", daemon=True).start()
        yield service.endpoint
    finally:
        service.stop()


@contextmanager
def reward_client(config: RewardConfig) -> Iterator[RewardClient]:
    """A client of a service that answers. A service started here ends with the block.

    Raises:
        ConnectionError: nothing answers at the endpoint, or the child died while starting; says what to do.
    """
    with reward_service(config) as endpoint:
        yield connect(endpoint, config, reward=config.name, timeout_s=10.0 if config.endpoint else 30.0)


def connect(
    endpoint: str, config: RewardConfig, *, reward: str, timeout_s: float, patience_s: float | None = None
) -> RewardClient:
    """A client of one reward of a service that answers.

    Args:
        timeout_s: how long it may take to answer now.
        patience_s: as in `RewardClient`.
    """
    client = RewardClient(
        endpoint,
        timeout_s=config.timeout_s,
        max_attempts=config.max_attempts,
        reward=reward,
        patience_s=patience_s,
        **security(config, endpoint),
    )
    info = client.wait_ready(timeout_s)
    rewards = ", ".join(f"{reward.name} {reward.version}" for reward in info.rewards)
    print(f"reward service at {endpoint}: {rewards}", flush=True)
    return client
