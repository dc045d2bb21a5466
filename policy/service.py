"""The reward service a run talks to: a given endpoint, or one started as a child process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from phys4d.reward.client import RewardClient
from phys4d.reward.endpoints import ClientTls
from policy.config import RewardConfig

START_TIMEOUT_S = 180.0


@contextmanager
def reward_client(config: RewardConfig) -> Iterator[RewardClient]:
    """A client of a service that answers. A service started here ends with the block.

    Raises:
        ConnectionError: nothing answers at the endpoint, or the child died while starting; says what to do.
    """
    if config.endpoint:
        yield _connect(config.endpoint, config, timeout_s=10.0)
        return
    with tempfile.TemporaryDirectory(prefix="phys4d-reward-") as folder:
        ready_file, log_file = Path(folder) / "endpoint", Path(folder) / "service.log"
        command = [sys.executable, "-m", "reward_service.serve", "--preset", config.preset]
        command += [
            "--num-replicas",
            str(config.num_replicas),
            "--port",
            "0",
            "--ready-file",
            str(ready_file),
        ]
        print(f"starting the reward service: {' '.join(command[1:])}", flush=True)
        with log_file.open("wb") as log:
            child = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            deadline = time.monotonic() + START_TIMEOUT_S
            while not ready_file.exists():
                if child.poll() is not None or time.monotonic() > deadline:
                    tail = log_file.read_text(errors="replace").strip().splitlines()[-5:]
                    raise ConnectionError(
                        f"the reward service did not start (exit code {child.poll()}): {' | '.join(tail)}; "
                        "run `make serve` to see why, or give --reward.endpoint of a running one"
                    )
                time.sleep(0.1)
            yield _connect(ready_file.read_text().strip(), config, timeout_s=30.0)
        finally:
            _stop(child)


def security(config: RewardConfig) -> dict[str, Any]:
    """What a client shows and asks for: token and TLS.

    Raises:
        OSError: a file cannot be read.
        ValueError: the token file is empty.
    """
    options: dict[str, Any] = {}
    if config.token_file is not None:
        options["token"] = config.token_file.read_text(encoding="utf-8").strip()
        if not options["token"]:
            raise ValueError(f"token file {config.token_file} is empty")
    if config.ca_file is not None:
        options["tls"] = ClientTls(
            ca_file=config.ca_file, cert_file=config.cert_file, key_file=config.key_file
        )
    return options


def _connect(endpoint: str, config: RewardConfig, timeout_s: float) -> RewardClient:
    client = RewardClient(
        endpoint,
        timeout_s=config.timeout_s,
        max_attempts=config.max_attempts,
        reward=config.name,
        **security(config),
    )
    info = client.wait_ready(timeout_s)
    rewards = ", ".join(f"{reward.name} {reward.version}" for reward in info.rewards)
    print(f"reward service at {endpoint}: {rewards}", flush=True)
    return client


def _stop(child: subprocess.Popen[bytes], grace_s: float = 20.0) -> None:
    """Ask the child's process group to end, then end it."""
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(grace_s)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
